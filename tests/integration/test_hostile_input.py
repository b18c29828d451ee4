"""Hostile input and unusual environments of real processes: nothing hangs, is executed, or is truncated."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hookline.runs.record import read_record
from support import HANG_S, run

Hookline = Callable[..., subprocess.CompletedProcess[str]]
PROGRAM = str(Path(sys.executable).parent / "hookline")
QUICK = ("train.epochs=1", "data.num_examples=20")
HOSTILE = "\x1b]0;pwned\x07\x9b31m\u202e\r"
HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


def assert_told(done: subprocess.CompletedProcess[str], code: int) -> None:
    """Assert one error of readable length, no traceback, no control characters, and the exit code."""
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
    assert not HIDDEN.search(done.stdout + done.stderr)
    assert len(done.stderr) < 2**17


# ---- paths on the command line ---------------------------------------------------------------------------------------


def test_a_path_that_is_not_a_config_is_reported_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "large.toml").write_bytes(b"# " + b"x" * 10_000_000)
    (tmp_path / "utf-16.toml").write_bytes("[train]\nepochs = 1\n".encode("utf-16"))
    (tmp_path / "bytes.toml").write_bytes(b"[train]\nepochs = 1 # \xff\n")
    (tmp_path / "many.toml").write_text("".join(f"[callbacks.c{number}]\n" for number in range(9_900)))
    (tmp_path / "deep.toml").write_text(f"[train]\nepochs = {'[' * 5000}{']' * 5000}\n")
    (tmp_path / "parts.toml").write_text(f"{'a.' * 20_000}a = 1\n")
    (tmp_path / "digits.toml").write_text(f"[train]\nepochs = {'9' * 5000}\n")
    told = {
        "/dev/zero": "it is a device, not a file",
        "pipe.toml": "it is a named pipe, not a file",
        "large.toml": "it has 10,000,002 bytes; at most 1,048,576 are read",
        "utf-16.toml": "it is UTF-16",
        "bytes.toml": "byte 0xff at offset 21 is not UTF-8",
        "many.toml": "and 9,850 more",
        "deep.toml": "nested more than 32 levels",
        "parts.toml": "nested more than 32 levels",
        "digits.toml": "train.epochs is an integer that does not fit into 64 bits",
        ".": "it is a directory",
    }
    # One process for all cases: each start takes half a second.
    program = (
        "import sys, time\nfrom hookline.cli import main\n"
        "for name in sys.argv[1:]:\n"
        "    sys.argv = ['hookline', 'plugins', '--order', name]\n"
        "    begin = time.perf_counter()\n"
        "    try: main()\n"
        "    except SystemExit as end: print('END', end.code, time.perf_counter() - begin, file=sys.stderr)\n"
    )
    done = run([sys.executable, "-c", program, *told], cwd=tmp_path)
    parts = re.split(r"^END (\d+) ([\d.]+)\n", done.stderr, flags=re.MULTILINE)
    assert len(parts) == 3 * len(told) + 1, done.stderr
    for words, text, code, seconds in zip(told.values(), parts[0::3], parts[1::3], parts[2::3], strict=False):
        assert words in text
        assert (code, text[:7]) == ("2", "error: ")
        assert float(seconds) < HANG_S
        assert not HIDDEN.search(text)
        assert len(text) < 2**17
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("device", ["/dev/zero", "pipe"])
def test_a_lock_that_is_not_a_file_is_reported_at_once(hookline: Hookline, tmp_path: Path, device: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = hookline("train", "--locked", device)
    assert_told(done, 2)
    assert "it is not a regular file" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "pipe"]


def test_names_that_are_not_text_are_reported_as_text_and_as_json(tmp_path: Path) -> None:
    # A name in bytes that are not UTF-8, as from an old archive.
    for words in (
        [b"resume", b"./\xff"],
        [b"check", b"\xff.toml"],
        [b"check", b"train.device=\xff"],
        [b"runs", b"show", b"\xff"],
    ):
        done = subprocess.run([PROGRAM, *words, "--json"], cwd=tmp_path, capture_output=True, check=False)
        assert (done.returncode, b"Traceback" in done.stderr) == (2, False), done.stderr
        event = json.loads(done.stdout.decode())
        assert event["event"] == "error"
        assert not HIDDEN.search(done.stdout.decode() + done.stderr.decode())


def test_a_run_in_a_folder_and_from_a_config_whose_names_are_not_text_is_saved(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b"))
    folder.mkdir()
    (folder / os.fsdecode(b"\xff.toml")).write_text("[train]\nepochs = 1\n")
    done = subprocess.run(
        [PROGRAM, "train", b"\xff.toml", "--json", *QUICK], cwd=folder, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()][-1] == "run_end"
    path = folder / "runs" / "0001-synthetic-linear-linear"
    assert read_record(path).attempts[0].command[2] == "\\udcff.toml"
    for name in ("config.toml", "log.txt"):
        assert not HIDDEN.search((path / name).read_text())
    again = subprocess.run([PROGRAM, "resume", "last", "train.epochs=2"], cwd=folder, capture_output=True, check=False)
    assert again.returncode == 0, again.stderr


def test_a_current_folder_that_was_removed_is_reported(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    program = f"import os, sys; os.rmdir(os.getcwd()); os.execv({PROGRAM!r}, ['hookline', *sys.argv[1:]])"
    for words in (["train"], ["runs"]):
        gone.mkdir(exist_ok=True)
        done = run([sys.executable, "-c", program, *words], cwd=gone)
        assert_told(done, 2)
        assert "the current folder was removed" in done.stderr


def test_a_second_version_of_the_distribution_is_reported(tmp_path: Path) -> None:
    metadata = tmp_path / "hookline-9.9.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: hookline\nVersion: 9.9\n")
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = run([PROGRAM, "version"], cwd=tmp_path, PYTHONPATH=paths)
    assert done.returncode == 0
    assert "several versions of the distribution hookline are installed: " in done.stderr
    assert f"9.9 in {tmp_path}" in done.stderr


# ---- texts of plugins ------------------------------------------------------------------------------------------------

HOSTILE_PLUGIN = '''
import torch
from hookline import hookimpl, plugin

HOSTILE = "\\x1b]0;pwned\\x07\\x9b31m\\u202e\\r"


class Twice:
    def reset(self): ...
    def update(self, prediction, target): ...
    def compute(self): return float("nan")


@plugin("callback", "hostile")
class Hostile:
    """Prints control characters, and fails on request."""

    def __init__(self, fail: bool = False, length: int = 1):
        self.fail, self.length = fail, length

    @hookimpl
    def build_metrics(self):
        return {f"m{HOSTILE}": Twice()}

    @hookimpl
    def on_epoch_end(self, run, metrics):
        run.warn(f"warned {HOSTILE}")
        run.report(f"title {HOSTILE}", [{f"key {HOSTILE}": f"cell {HOSTILE}"}])
        if self.fail:
            raise RuntimeError(f"failed {HOSTILE} " * self.length)
'''


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs of a plugin that prints control characters: one completed, one failed."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "net.py").write_text(HOSTILE_PLUGIN)
    words = [PROGRAM, "train", "--plugin", "net.py", "callbacks.hostile={}", *QUICK]
    done = run(words, cwd=folder)
    assert done.returncode == 0, done.stderr
    failed = run([*words, "callbacks.hostile.fail=true", "callbacks.hostile.length=400000", "--traceback"], cwd=folder)
    assert failed.returncode == 1
    (folder / "done.txt").write_text(done.stdout + done.stderr, newline="")
    (folder / "failed.txt").write_text(failed.stdout + failed.stderr, newline="")
    return folder


def text_of(path: Path) -> str:
    return path.read_bytes().decode()


def test_texts_of_a_plugin_do_nothing_to_a_terminal(hostile: Path) -> None:
    done = text_of(hostile / "done.txt")
    for word in ("\\x9b31m\\u202e\\r  seconds", "warned \\x1b", "title \\x1b", "key \\x1b", "cell \\x1b"):
        assert word in done
    assert not HIDDEN.search(done)


def test_an_error_and_its_traceback_do_nothing_to_a_terminal_and_are_of_bounded_length(hostile: Path) -> None:
    failed = text_of(hostile / "failed.txt")
    assert "RuntimeError: failed \\x1b]0;pwned" in failed
    assert "net.py" in failed
    assert not HIDDEN.search(failed)


def test_the_files_of_a_run_hold_nothing_that_a_terminal_would_obey(hostile: Path) -> None:
    for path in (*hostile.glob("runs/000*/log.txt"), *hostile.glob("runs/000*/config.toml")):
        assert not HIDDEN.search(text_of(path)), path
    completed = hostile / "runs" / "0001-synthetic-linear-linear"
    assert "warned \\x1b]0;pwned" in text_of(completed / "log.txt")


def test_numbers_that_are_not_finite_are_null_in_every_json(hostile: Path) -> None:
    completed = hostile / "runs" / "0001-synthetic-linear-linear"

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    for text in (*text_of(completed / "metrics.jsonl").splitlines(), text_of(completed / "run.json")):
        found = json.loads(text, parse_constant=refuse)
        metrics = found.get("metrics", found)
        assert metrics[f"train/m{HOSTILE}"] is None
        assert metrics["train/loss"] > 0


def test_an_error_of_ten_megabytes_is_cut_where_a_person_reads_it_and_the_run_is_listed(hostile: Path) -> None:
    failed = hostile / "runs" / "0002-synthetic-linear-linear"
    assert len(read_record(failed).attempts[0].error or "") < 10_000
    assert (failed / "run.json").stat().st_size < 2**20
    listed = run([PROGRAM, "runs"], cwd=hostile)
    assert (listed.returncode, HIDDEN.search(listed.stdout + listed.stderr)) == (0, None)
    shown = run([PROGRAM, "runs", "show", "2"], cwd=hostile)
    assert (shown.returncode, HIDDEN.search(shown.stdout + shown.stderr)) == (0, None)


def test_a_metric_of_a_hostile_name_is_drawn(hostile: Path) -> None:
    drawn = run([PROGRAM, "runs", "plot", "1"], cwd=hostile)
    assert (drawn.returncode, HIDDEN.search(drawn.stdout + drawn.stderr)) == (0, None)
    named = run([PROGRAM, "runs", "plot", "1", "--metric", f"train/m{HOSTILE}"], cwd=hostile)
    assert named.returncode in (0, 2)
    assert "Traceback" not in named.stderr


# ---- standard output and standard error ------------------------------------------------------------------------------


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(["bash", "-o", "pipefail", "-c", line], cwd=folder, **environment)


@pytest.mark.parametrize("words", ["train", "train --json"])
def test_a_run_continues_without_a_full_standard_output(words: str, tmp_path: Path) -> None:
    done = shell(f"{PROGRAM} {words} {' '.join(QUICK)} > /dev/full", tmp_path)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1, "one warning and nothing else"
    assert "No space left on device" in done.stderr
    assert read_record(tmp_path / "runs" / "last").status == "completed"


@pytest.mark.parametrize("words", ["train", "train --json"])
def test_a_reader_of_a_run_that_goes_away_causes_no_traceback(words: str, tmp_path: Path) -> None:
    done = shell(f"{PROGRAM} {words} train.epochs=20 | head -1", tmp_path)
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_run_continues_without_standard_error(tmp_path: Path) -> None:
    assert shell(f"{PROGRAM} train {' '.join(QUICK)} 2>&- >/dev/null", tmp_path).returncode == 0
    assert read_record(tmp_path / "runs" / "last").status == "completed"


def test_a_slow_reader_gets_everything(tmp_path: Path) -> None:
    done = shell(f"{PROGRAM} plugins --json | (sleep 1; cat)", tmp_path)
    assert done.returncode == 0
    assert len(json.loads(done.stdout)) > 10


def test_an_ascii_terminal_gets_a_whole_run_with_escapes(hostile: Path, tmp_path: Path) -> None:
    (tmp_path / "größe.toml").write_text("[train]\nepochs = 1\n")
    words = ["train", "größe.toml", "--plugin", str(hostile / "net.py"), "callbacks.hostile={}", *QUICK]
    done = run([PROGRAM, *words], cwd=tmp_path, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, done.stdout.isascii()) == (0, True), done.stderr
    assert "Unicode" not in done.stderr


# ---- secrets ---------------------------------------------------------------------------------------------------------

SECRET_PLUGIN = '''
from hookline import hookimpl, plugin


@plugin("callback", "upload")
class Upload:
    """Has secrets."""

    def __init__(self, token: str = "", url: str = "", fail: bool = False):
        self.token, self.url, self.fail = token, url, fail

    @hookimpl
    def on_epoch_end(self, run):
        if self.fail:
            raise RuntimeError("not uploaded")
'''


def test_no_secret_is_in_any_file_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SECRET_PLUGIN)
    (tmp_path / "run.toml").write_text(
        '[callbacks.upload]\ntoken = "hush-1"\nurl = "https://me:hush-2@host/x"\nfail = true\n'
    )
    words = [PROGRAM, "train", "run.toml", "--plugin", "net.py", "callbacks.upload.token=hush-3", *QUICK]
    done = run([*words, "callbacks.checkpoint.every_epochs=1"], cwd=tmp_path, MY_TOKEN="hush-4")
    assert done.returncode == 1, done.stderr
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {"run.json", "config.toml", "log.txt", "traceback.txt"} <= {path.name for path in files}
    assert [path for path in files if b"hush-" in path.read_bytes()] == []
