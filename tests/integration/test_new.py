"""``hookline new``: its files are installed, listed, trained with, tested, linted and type-checked unchanged."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from hookline.cli.scaffold.folder import folder_faults
from hookline.config.plugins.catalog import KINDS
from support import MYPY_CACHE, Environment, make_environment, run

Hookline = Callable[..., subprocess.CompletedProcess[str]]
PROGRAM = str(Path(sys.executable).parent / "hookline")
NAMES = {
    "data": "friedman",
    "model": "residual",
    "loss": "log-cosh",
    "optimizer": "signum",
    "parallel": "summed",
    "callback": "gradient-norm",
}


@dataclass(frozen=True)
class Made:
    """One new distribution of each kind, in a folder of its kind's name, and an environment with all of them."""

    folder: Path
    environment: Environment
    reports: dict[str, Future[subprocess.CompletedProcess[str]]]

    def check(self, kind: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a tool of the environment in the folder of a kind."""
        # Warnings about mypy and ruff are not ours.
        return run([str(self.environment.python), "-m", *words], cwd=self.folder / kind, PYTHONWARNINGS="default")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("new")
    environment = make_environment(tmp_path_factory.mktemp("environment"))
    for kind, name in NAMES.items():
        done = environment.hookline("new", kind, name, "--dir", kind, cwd=folder)
        assert (done.returncode, done.stderr) == (0, "")
    environment.install(*folder.iterdir())
    tests = [str(environment.python), "-m", "pytest", "-p", "no:cacheprovider"]
    # In the background of the tests below: a process with torch takes seconds to start.
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield Made(folder, environment, {kind: pool.submit(run, tests, folder / kind) for kind in KINDS})


# ---- files ----------------------------------------------------------------------------------------------------------


def test_the_new_plugin_is_listed(made: Made) -> None:
    listed = json.loads(made.environment.hookline("plugins", "--json").stdout)
    found = {
        entry["kind"]: (entry["name"], entry["version"]) for entry in listed if entry["distribution"] != "hookline"
    }
    assert found == {kind: (name, "0.1.0") for kind, name in NAMES.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_shown_with_a_described_option_and_without_loading_torch(made: Made, kind: str) -> None:
    done = made.environment.hookline("show", kind, NAMES[kind], "--json")
    shown = json.loads(done.stdout)
    assert shown["about"]
    assert [option["name"] for option in shown["options"] if not option["schema"]["description"]] == []
    if kind != "optimizer":  # which is a class of torch itself
        program = f"import sys, hookline_{NAMES[kind].replace('-', '_')}; sys.exit('torch' in sys.modules)"
        assert run([str(made.environment.python), "-c", program]).returncode == 0


def test_a_run_of_all_of_them_trains(made: Made, tmp_path: Path) -> None:
    words = [f"{kind}={name}" for kind, name in NAMES.items() if kind != "callback"]
    done = made.environment.hookline("train", *words, "callbacks.gradient-norm=gradient-norm", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "residual (hookline-residual 0.1.0), command line" in done.stdout
    assert "completed after 240 steps" in done.stdout
    assert "largest norm" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_it_passes_the_type_check_that_it_sets(made: Made, kind: str) -> None:
    done = made.check(kind, "mypy", f"--cache-dir={MYPY_CACHE}")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="ruff is in the extra dev")
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_linted_and_formatted_as_it_sets(made: Made, kind: str) -> None:
    for words in (["check", "--no-cache", "."], ["format", "--no-cache", "--check", "."]):
        done = made.check(kind, "ruff", *words)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_tests_pass_with_warnings_as_errors(made: Made, kind: str) -> None:
    # They include a run that names it alone.
    done = made.reports[kind].result()
    assert done.returncode == 0, done.stdout
    assert "failed" not in done.stdout.splitlines()[-1]


def test_a_name_that_was_made_and_installed_is_taken(made: Made, tmp_path: Path) -> None:
    done = made.environment.hookline("new", "loss", NAMES["model"], cwd=tmp_path)
    assert done.returncode == 2
    assert "hookline-residual 0.1.0 is installed and already uses the distribution name" in done.stderr
    assert list(tmp_path.iterdir()) == []


# ---- output ---------------------------------------------------------------------------------------------------------


def test_it_prints_the_files_written_and_the_next_commands(hookline: Hookline, tmp_path: Path) -> None:
    done = hookline("new", "callback", "diary")
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["hookline-diary"]
    first, *steps = done.stdout.splitlines()
    assert first == "wrote hookline-diary: 7 files; next"
    assert [step.partition("#")[0].strip() for step in steps] == [
        "pip install -e 'hookline-diary[test]'",
        "hookline train callbacks.diary=diary",
        "python -m pytest hookline-diary",
    ]


def test_json_is_one_document_with_every_file(hookline: Hookline, tmp_path: Path) -> None:
    answer = json.loads(hookline("new", "data", "waves", "--json").stdout)
    folder = tmp_path / answer["path"]
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(answer["files"]) == written
    assert (answer["distribution"], answer["module"]) == ("hookline-waves", "hookline_waves")
    assert answer["next"][1] == "hookline train data=waves"


def test_quiet_prints_nothing_and_no_torch_is_loaded(tmp_path: Path) -> None:
    words = ["-X", "importtime", "-m", "hookline", "new", "model", "net", "--quiet"]
    done = run([sys.executable, *words], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "hookline.cli.scaffold.scaffold" in done.stderr
    assert "torch" not in done.stderr


# ---- folders --------------------------------------------------------------------------------------------------------


def test_dir_chooses_the_folder_and_makes_those_above_it(hookline: Hookline, tmp_path: Path) -> None:
    done = hookline("new", "model", "net", "--dir", "my plugins/deep/net")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "my plugins" / "deep" / "net" / "src" / "hookline_net" / "py.typed").is_file()
    assert "pip install -e 'my plugins/deep/net[test]'" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["my plugins"]


def test_dir_can_be_the_current_folder_if_it_is_empty(hookline: Hookline, tmp_path: Path) -> None:
    before = tmp_path.stat().st_ino
    assert hookline("new", "model", "net", "--dir", ".").returncode == 0
    assert (tmp_path / "pyproject.toml").is_file()
    assert tmp_path.stat().st_ino == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".github",
        ".gitignore",
        "README.md",
        "pyproject.toml",
        "src",
        "tests",
    ]


def test_a_folder_with_something_in_it_is_refused_and_left_as_it_is(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "hookline-net").mkdir()
    (tmp_path / "hookline-net" / "notes").write_text("mine")
    done = hookline("new", "model", "net")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no plugin was created\n\nthe folder hookline-net is not empty\n")
    assert "choose another folder with --dir" in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["hookline-net", "notes"]


@pytest.mark.parametrize("target", ["outside", "nowhere"])
def test_a_folder_that_is_a_link_is_refused_and_nothing_is_written_behind_it(target: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    folder = tmp_path / "hookline-net"
    folder.symlink_to(target, target_is_directory=True)
    (fault,) = folder_faults(folder)
    assert fault.message == f"{folder} is a link"


def test_all_faults_are_reported_at_once(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "net").write_text("a file")
    done = hookline("new", "model", "My_Net", "--dir", "net")
    assert done.returncode == 2
    assert "'My_Net' is not a valid plugin name" in done.stderr
    assert "for example 'my-net'" in done.stderr
    assert "net already exists and is not a folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_name_of_a_default_plugin_is_refused_with_the_names_that_runs_would_need(
    hookline: Hookline, tmp_path: Path
) -> None:
    done = hookline("new", "model", "linear")
    assert done.returncode == 2
    for words in ["ambiguous", "'hookline/linear'", "'hookline-linear/linear'"]:
        assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", [".", "net", "a/b/net"])
def test_a_write_that_fails_midway_leaves_nothing_behind(tmp_path: Path, folder: str) -> None:
    # No file may become larger than 1024 bytes, and some are.
    limited = 'ulimit -f 1 && exec "$@"'
    done = run(["bash", "-c", limited, "bash", PROGRAM, "new", "model", "net", "--dir", folder], cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: {folder} cannot be written: File too large\n  = choose another folder with --dir\n"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_below_a_file_cannot_be_written(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = hookline("new", "model", "net", "--dir", "file/net")
    assert done.returncode == 2
    assert "file/net cannot be written: Not a directory" in done.stderr
