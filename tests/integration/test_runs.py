"""`hookline runs` and `hookline resume` in real processes: list, compare, plot, remove and resume runs."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hookline.cli.printing.runs import changed_words
from hookline.runs import Attempt, BestValue, RunFolder
from hookline.runs.changes import Change
from hookline.runs.curves import metric_names, read_curves
from support import HANG_S, run

Hookline = Callable[..., subprocess.CompletedProcess[str]]
Make = Callable[..., Path]

PROGRAM = str(Path(sys.executable).parent / "hookline")
SETTINGS = {
    "train.epochs": 3,
    "model.use": "linear",
    "model.bias": True,
    "optimizer.use": "sgd",
    "optimizer.lr": 0.03,
    "callbacks.progress.use": "progress",
    "callbacks.checkpoint.keep": 2,
}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Maker of run folders with a record like that of ``hookline train``, given settings, and lines of metrics."""

    def made(
        label: str = "csv-mlp", lines: Sequence[Any] = (), settings: dict[str, Any] | None = None, **values: Any
    ) -> Path:
        folder = RunFolder.claim(tmp_path / "runs", label)
        record = folder.record
        began = datetime(2026, 1, 1, 12, tzinfo=UTC)
        record.status, record.epochs, record.num_epochs, record.step, record.time_s = "completed", 3, 3, 300, 0.5
        record.best = BestValue("validation/loss", "min", 0.25, 2, 200)
        record.metrics = {"validation/loss": 0.5}
        record.identity = {
            "settings": SETTINGS | (settings or {}),
            "versions": {"hookline": "0.1.0"},
            "plugins": {"model": {"name": "linear", "distribution": "hookline", "version": "0.1.0"}},
            "code": {"hookline": {"version": "0.1.0", "sha256": "ab" * 32}},
            "data": {"train": {"type": "TensorDataset", "num_examples": 10, "content": "cd" * 32}},
        }
        record.attempts = [Attempt(began, ["hookline", "train"], "far", 7, 0, 300, began + timedelta(seconds=2))]
        for name, value in values.items():
            setattr(record, name, value)
        folder.save()
        folder.close()
        if lines:
            (folder.path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return folder.path

    return made


def assert_clean(done: subprocess.CompletedProcess[str], code: int) -> None:
    """Assert the exit code, no traceback, and no control characters."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    text = (done.stdout + done.stderr).replace("\n", "")
    assert text.isprintable(), text


# ---- hookline runs ---------------------------------------------------------------------------------------------------


def test_runs_lists_how_each_run_ended_and_its_changes(hookline: Hookline, make: Make) -> None:
    make()
    make(settings={"optimizer.lr": 0.1, "callbacks.checkpoint.keep": 5}, status="failed", epochs=1, time_s=200.0)
    make("csv-linear", settings={"optimizer.lr": 0.1}, status="running", best=None)
    at_work = RunFolder.open(make("mine", settings={"optimizer.use": "adam"}, status="running", epochs=0))
    done = hookline("runs")
    at_work.close()
    assert_clean(done, 0)
    assert [re.split(r"  +", line) for line in done.stdout.splitlines()] == [
        ["run", "status", "best", "epochs", "time", "changed"],
        ["0001-csv-mlp", "completed", "validation/loss 0.25", "3/3", "0.5 s"],
        ["0002-csv-mlp", "failed", "validation/loss 0.25", "1/3", "3 min 20 s", "optimizer.lr=0.1"],
        ["0003-csv-linear", "lost", "3/3", "0.5 s"],
        ["0004-mine", "running", "validation/loss 0.25", "0/3", "0.5 s", "optimizer=adam, optimizer.lr=0.03"],
    ]


def test_runs_shows_the_newest_twenty_and_the_number_of_older_ones(
    hookline: Hookline, make: Make, tmp_path: Path
) -> None:
    assert hookline("runs").stdout == "no runs in runs; start one with: hookline train\n"
    assert json.loads(hookline("runs", "--json").stdout) == []
    for _ in range(22):
        make()
    lines = hookline("runs").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:21]] == [f"{n:04d}-csv-mlp" for n in range(3, 23)]
    assert lines[21:] == ["", "and 2 older runs: hookline runs --all"]
    quiet = hookline("runs", "list", "--quiet", "--runs", str(tmp_path / "runs"), cwd=tmp_path.parent).stdout
    assert [line.split() for line in quiet.splitlines()] == [line.split() for line in lines[1:21]]
    assert len(hookline("runs", "--all", "--quiet").stdout.splitlines()) == 22
    rows = json.loads(hookline("runs", "--all", "--json").stdout)
    assert [row["number"] for row in rows] == list(range(1, 23))
    assert rows[0]["status"] == "completed"
    assert rows[0]["attempts"][0]["command"] == ["hookline", "train"]
    assert rows[1]["changes"] == []


def test_a_record_that_cannot_be_read_is_one_row_and_nothing_more(hookline: Hookline, make: Make) -> None:
    make()
    texts = [b'{"run": "x"', b"{}", b'{"run": "x", "attempts": [], "format": 9}', b"\xff\x1b[31m"]
    for text in texts:
        (make() / "run.json").write_bytes(text)
    (make() / "run.json").unlink()
    make(settings={"optimizer.lr": 0.5})
    done = hookline("runs")
    assert_clean(done, 0)
    rows = done.stdout.splitlines()[1:]
    assert len(rows) == 7
    assert all("unreadable" in row and "run.json" in row for row in rows[1:6])
    assert "has format 9" in rows[3]
    # Changes refer to the last readable run.
    assert rows[6].endswith("optimizer.lr=0.5")
    values = json.loads(hookline("runs", "--json").stdout)
    assert [row["problem"] is None for row in values] == [True, *[False] * 5, True]
    done = hookline("runs", "show", "2")
    assert_clean(done, 2)
    assert "run.json cannot be read" in done.stderr


def test_changes_are_described_in_a_few_words() -> None:
    def words(*changes: tuple[str, Any, Any], part: str = "settings") -> str:
        return changed_words([Change(part, *change) for change in changes], ["callbacks.progress"])

    assert (
        words(("model.use", "linear", "mlp"), ("model.bias", True, None), ("model.hidden", None, [64])) == "model=mlp"
    )
    assert words(("callbacks.best.use", "best", None), ("callbacks.best.monitor", "loss", None)) == "no callbacks.best"
    assert words(("callbacks.progress.use", "progress", None)) == ""
    assert words(("model.bias", True, False), ("model.name", "a", None)) == "model.bias=false, model.name=none"
    assert words(("hookline", "a", "b"), part="code") == "other code"
    assert words(("train", "a", "b"), part="data") == "other data"
    many = [(f"model.option_{number}", 0, number) for number in range(20)]
    assert words(*many) == "model.option_0=0, model.option_1=1, model.option_2=2 and 17 more"
    assert len(words(("data.path", "", "x" * 1000))) < 80


# ---- hookline runs show, diff, path ----------------------------------------------------------------------------------


def test_show_prints_all_details_of_a_run(hookline: Hookline, make: Make) -> None:
    path = make(warnings=["the loss is \x1b[31mred"], git="abc-dirty")
    damaged = path / "checkpoints" / "step-000000000100-epochs-1"
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text("{}")
    done = hookline("runs", "show", "csv-mlp")
    assert_clean(done, 0)
    for text in (
        f"folder      {path}",
        "status      completed, 3 of 3 epochs, 300 steps, 0.5 s",
        "best        validation/loss 0.25 (min), in epoch 2, after 200 steps",
        "git         abc-dirty",
        "command     hookline train",
        "validation/loss  0.5",
        "2026-01-01 12:00:00  far   7        0-300  2.0 s  completed",
        "damaged: manifest.sha256: ",
        "model  linear hookline 0.1.0",
        "hookline  0.1.0",
        "warning: the loss is \\x1b[31mred",
    ):
        assert text in done.stdout
    values = json.loads(hookline("runs", "show", "last", "--json").stdout)
    assert (values["status"], values["seed"], values["path"]) == ("completed", 0, str(path))
    assert values["identity"]["settings"]["optimizer.lr"] == 0.03
    assert [(c["bytes"], "damaged" in c["problem"]) for c in values["checkpoints"]] == [(2, True)]


def test_diff_prints_the_differences_side_by_side(hookline: Hookline, make: Make) -> None:
    first = make()
    make(settings={"optimizer.lr": 0.1}, metrics={"validation/loss": 0.125, "odd\x1b[31m": 1.0}, git="abc")
    done = hookline("runs", "diff", "1", "2")
    assert_clean(done, 0)
    assert [re.split(r"  +", line) for line in done.stdout.splitlines()] == [
        ["part", "of", "0001-csv-mlp", "0002-csv-mlp"],
        ["settings", "optimizer.lr", "0.03", "0.1"],
        ["git", "commit", "none", "abc"],
        ["metrics", "validation/loss", "0.5", "0.125"],
        ["metrics", "odd\\x1b[31m", "none", "1"],
    ]
    values = json.loads(hookline("runs", "diff", "1", "2", "--json").stdout)
    assert values["differences"][0] == {"part": "settings", "key": "optimizer.lr", "first": 0.03, "second": 0.1}
    same = hookline("runs", "diff", "1", str(first))
    assert same.stdout == "no known differences between 0001-csv-mlp and 0001-csv-mlp\n"


def test_path_prints_the_absolute_path_and_nothing_else(hookline: Hookline, make: Make, tmp_path: Path) -> None:
    path = make()
    assert hookline("runs", "path", "last").stdout == f"{path}\n"
    assert hookline("runs", "path", "1", "--runs", "runs", cwd=tmp_path).stdout == f"{path}\n"
    assert json.loads(hookline("runs", "path", "runs/0001-csv-mlp/", "--json").stdout) == {"path": str(path)}


def test_a_missing_run_is_an_error_with_the_nearest_name(hookline: Hookline, make: Make) -> None:
    make()
    for words in (("show", "csv-mpl"), ("diff", "1", "csv-mpl"), ("plot", "csv-mpl"), ("rm", "csv-mpl", "--yes")):
        done = hookline("runs", *words)
        assert_clean(done, 2)
        assert "did you mean 'csv-mlp'?" in done.stderr
    done = hookline("resume", "csv\x1b[31m")
    assert_clean(done, 2)


# ---- hookline runs plot ----------------------------------------------------------------------------------------------


def test_plot_draws_the_losses_of_one_run_together(hookline: Hookline, make: Make) -> None:
    lines = [{"epoch": n, "step": 100 * n, "train/running_loss": 8 / n, "accuracy": n / 10} for n in range(1, 5)]
    path = make(lines=[{**line, "validation/loss": 4.0} for line in lines])
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 5, "step": 500, "train/runn')
    done = hookline("runs", "plot", "1")
    assert_clean(done, 0)
    lines_shown = done.stdout.splitlines()
    assert lines_shown[0] == "0001-csv-mlp, by step"
    assert lines_shown[1] == "         8 |                a"
    assert lines_shown[12] == "         2 |                                                               a"
    assert lines_shown[14] == f"{'':12}0{'400':>63}"
    assert lines_shown[15:] == [
        "a  0001-csv-mlp train/running_loss: 4 values, the last 2",
        "b  0001-csv-mlp validation/loss: 4 values, the last 4",
    ]
    assert all(len(line) <= 80 for line in lines_shown)
    accuracy = json.loads(hookline("runs", "plot", "1", "--metric", "accuracy", "--json").stdout)
    assert accuracy == [
        {
            "run": "0001-csv-mlp",
            "metric": "accuracy",
            "num_values": 4,
            "last": 0.4,
            "points": [[100.0, 0.1], [200.0, 0.2], [300.0, 0.3], [400.0, 0.4]],
        }
    ]


def test_plot_of_several_runs_has_a_drawing_for_each_metric(hookline: Hookline, make: Make) -> None:
    for rate in (1, 2):
        make(lines=[{"epoch": n, "step": n, "loss": 10.0 ** -(rate * n), "other/loss": 1} for n in range(3)])
    done = hookline("runs", "plot", "1", "2", "last", "--log", "--quiet")
    assert_clean(done, 0)
    first, second = done.stdout.split("\n\n")
    assert first.splitlines()[0] == f"{'1':>10} |b"
    assert first.splitlines()[11].startswith("    0.0001 |")
    assert first.splitlines()[-2:] == [
        "a  0001-csv-mlp loss: 3 values, the last 0.01",
        "b  0002-csv-mlp loss: 3 values, the last 0.0001",
    ]
    assert "other/loss" in second


def test_show_has_the_tables_that_plugins_reported(hookline: Hookline, make: Make) -> None:
    rows = [{"layer": "a\x1b", "norm": 0.5}, {"layer": "b", "norm": None, "more": True}]
    make(summary={"norms\x07 of layers": rows, "none": []})
    done = hookline("runs", "show", "1")
    assert_clean(done, 0)
    assert "norms\\x07 of layers\nlayer  norm  more\na\\x1b  0.5\nb      none  true\n" in done.stdout
    assert json.loads(hookline("runs", "show", "1", "--json").stdout)["summary"]["norms\x07 of layers"] == rows


@pytest.mark.parametrize("words", [(), ("--log",)])
def test_plot_draws_the_largest_and_the_smallest_numbers(
    hookline: Hookline, make: Make, words: tuple[str, ...]
) -> None:
    path = make()
    values = (1.7976931348623157e308, -1.7976931348623157e308, 5e-324, 0.0, "null")
    lines = [f'{{"epoch":1,"step":{step},"loss":{value}}}\n' for step, value in enumerate(values)]
    (path / "metrics.jsonl").write_text("".join(lines))
    done = hookline("runs", "plot", "1", *words)
    assert_clean(done, 0)
    assert "1.798e+308 |" in done.stdout
    assert ("4.941e-324 |" if words else "-1.798e+308 |") in done.stdout


def test_plot_reports_missing_metrics(hookline: Hookline, make: Make) -> None:
    make(lines=[{"epoch": 1, "step": 1, "loss": 1.0}])
    make()
    done = hookline("runs", "plot", "1", "2", "--metric", "lost")
    assert_clean(done, 2)
    assert "0001-csv-mlp has no values of 'lost'" in done.stderr
    assert "did you mean 'loss'?" in done.stderr
    done = hookline("runs", "plot", "2")
    assert_clean(done, 2)
    assert "0002-csv-mlp has no metrics yet" in done.stderr


def test_lines_without_metrics_of_a_step_are_ignored(make: Make) -> None:
    path = make(lines=[{"step": 1, "loss": 1.0, "epoch": 1}, {"step": 3, "loss": 3.0}])
    with (path / "metrics.jsonl").open("ab") as file:
        file.write(b'\n\xff\xfe\n[]\n{}\n"x"\n{"step": "4", "loss": 1}\n{"step": 4, "loss": "x"}\n{"step": 4}\n')
        file.write(b'{"step": 5, "loss": null}\n{"step": -1, "loss": 7}\n{"step": 1e400, "loss": 7}\n')
        file.write(b'{"step": 6, "loss": 1e400}\n' + b"[" * 10_000 + b"\n")
        file.write(b'{"step": 7, "loss": ' + b"7" * 2**21 + b"}\n")
        file.write(b'{"step": 99999999999999999999999, "loss": 7}\n{"step": 2, "loss": 2}\n{"step": 8, "loss": 8}')
    (curve,) = read_curves(path, ["loss", "missing"])
    assert curve.points == [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]
    assert (curve.num_values, curve.last) == (3, 2.0)
    assert metric_names(path) == ["loss"]


def test_a_million_values_become_a_few_points_in_little_memory(make: Make) -> None:
    path = make()
    with (path / "metrics.jsonl").open("w") as file:
        file.writelines(f'{{"epoch":1,"step":{step},"loss":{step},"other":1}}\n' for step in range(1_000_000))
    program = (
        "import resource, sys; from pathlib import Path; from hookline.runs.curves import read_curves\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "curve, = read_curves(Path(sys.argv[1]), ['loss'])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, resource.getrusage(0).ru_utime)\n"
        "print(curve.num_values, len(curve.points), curve.points[0], curve.last)\n"
    )
    done = run([sys.executable, "-c", program, str(path)])
    kilobytes, seconds = done.stdout.split()[:2]
    assert int(kilobytes) < 16_000
    assert float(seconds) < 20, "it takes one second where nothing else is done"
    num_values, num_points = map(int, done.stdout.splitlines()[1].split()[:2])
    assert num_values == 1_000_000
    assert 64 <= num_points <= 128


# ---- hookline runs rm ------------------------------------------------------------------------------------------------


def test_rm_removes_runs_and_mends_the_link_to_the_newest(hookline: Hookline, make: Make) -> None:
    first, second, third = make(), make(), make()
    for folder in ("checkpoints/step-000000000100-epochs-1", "checkpoints/damaged-step-000000000100-epochs-1-0a1b2c3d"):
        (third / folder).mkdir(parents=True)
        (third / folder / "model.safetensors").write_text("x")
    for name in ("config.toml", "metrics.jsonl", "log.txt", "model.safetensors", ".tmp-run.json-01234567"):
        (third / name).write_text("x")
    (third / "artifacts" / "deep").mkdir(parents=True)
    (third / "artifacts" / "deep" / "anything").write_text("x")
    left = first.parent / ".tmp-0009-csv-mlp-01234567"
    left.mkdir()
    (left / "x").write_text("x")
    done = hookline("runs", "rm", "3", "1", "last", "--yes")
    assert_clean(done, 0)
    assert done.stdout == f"removed {third}\nremoved {first}\n"
    assert {path.name for path in first.parent.iterdir()} == {second.name, "last", ".lock"}
    assert (first.parent / "last").readlink().name == second.name
    done = hookline("runs", "rm", "last", "--yes", "--json")
    assert json.loads(done.stdout) == {"removed": [str(second)]}
    assert [path.name for path in first.parent.iterdir()] == [".lock"]


def test_rm_asks_for_confirmation_in_a_terminal_and_refuses_elsewhere(hookline: Hookline, make: Make) -> None:
    path = make()
    done = hookline("runs", "rm", "1")
    assert_clean(done, 2)
    assert "--yes" in done.stderr
    assert path.exists()
    for answer, is_kept in (("n\n", True), ("y\n", False)):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [PROGRAM, "runs", "rm", "1"], cwd=path.parents[1], stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(ours, 1000)
        os.write(ours, answer.encode())
        assert process.wait(60) == (130 if is_kept else 0)
        os.close(ours)
        assert str(path).encode() in shown
        assert path.exists() == is_kept


def test_rm_refuses_a_run_at_work(hookline: Hookline, make: Make) -> None:
    folder = RunFolder.open(make())
    other = make()
    done = hookline("runs", "rm", "2", "1", "--yes", "--force")
    assert_clean(done, 7)
    assert f"(process {os.getpid()} on {platform.node()}, since" in done.stderr
    folder.close()
    assert folder.path.exists()
    assert other.exists(), "nothing is removed unless all can be"


def test_rm_names_foreign_files_and_removes_them_only_by_force(hookline: Hookline, make: Make, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    path = make()
    (path / "notes\x1b.md").write_text("mine")
    (path / "linked").symlink_to(outside, target_is_directory=True)
    (path / "checkpoints").mkdir()
    (path / "checkpoints" / "step-000000000100-epochs-1").symlink_to(outside, target_is_directory=True)
    (path / "debug").mkdir()
    (path / "debug" / "inner").symlink_to(outside, target_is_directory=True)
    done = hookline("runs", "rm", "1", "--yes")
    assert_clean(done, 2)
    named = "checkpoints/step-000000000100-epochs-1, linked, notes\\x1b.md"
    assert f"contains files that do not belong to a run: {named}" in done.stderr
    assert "--force" in done.stderr
    assert path.exists()
    assert_clean(hookline("runs", "rm", "1", "--yes", "--force"), 0)
    assert not path.exists()
    assert (outside / "precious").read_text() == "x"


def test_rm_never_removes_a_folder_that_is_not_a_run_folder(hookline: Hookline, make: Make, tmp_path: Path) -> None:
    make()
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "run.json").write_text('{"name": "of another tool"}')
    numbered = tmp_path / "runs" / "0002-photos"
    numbered.mkdir()
    (numbered / "photo.jpg").write_text("x")
    for words in (("./precious", "--force"), ("2",), ("2", "--force"), (".", "--force"), ("runs/last/..", "--force")):
        done = hookline("runs", "rm", *words, "--yes")
        assert_clean(done, 2)
    assert (folder / "run.json").exists()
    assert (numbered / "photo.jpg").exists()
    # A folder with a number, and with the names of a run's files, but without a record.
    (numbered / "photo.jpg").rename(numbered / "log.txt")
    (numbered / "artifacts").mkdir()
    assert_clean(hookline("runs", "rm", "2", "--yes"), 2)
    assert_clean(hookline("runs", "rm", "2", "--yes", "--force"), 2)
    assert (numbered / "log.txt").exists()
    # A record that is damaged is one.
    (numbered / "run.json").write_bytes(b"")
    assert_clean(hookline("runs", "rm", "2", "--yes"), 2)
    assert_clean(hookline("runs", "rm", "2", "--yes", "--force"), 0)
    assert not numbered.exists()


# ---- completion ------------------------------------------------------------------------------------------------------


def test_a_shell_is_offered_no_name_that_it_or_a_terminal_would_interpret(
    hookline: Hookline, make: Make, tmp_path: Path
) -> None:
    path = make()
    for number, name in enumerate(("\x1b]0;pwned\x07", "$(touch pwned)", "a b", "`x`", ";x"), 2):
        (path.parent / f"{number:04d}-{name}").mkdir()
    (tmp_path / "run.toml").write_text('[callbacks."$(touch pwned)"]\nuse = "progress"\n')
    env = {**os.environ, "_HOOKLINE_COMPLETE": "bash_complete"}
    for words, count in (("hookline runs show 000", "3"), ("hookline train run.toml callbacks.", "3")):
        words_of_shell = {"COMP_WORDS": words, "COMP_CWORD": count}
        done = subprocess.run(
            [PROGRAM], cwd=tmp_path, env=env | words_of_shell, capture_output=True, text=True, check=False
        )
        assert done.stdout, done.stderr
        assert not {"\x1b", "$", "`", ";x", " "} & set(done.stdout)


def test_a_shell_completes_the_names_of_runs_without_torch(hookline: Hookline, make: Make, tmp_path: Path) -> None:
    make()
    make("mine")

    def completed(words: str) -> list[str]:
        number = str(len(words.split(" ")) - 1)
        done = hookline(_HOOKLINE_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=number)
        assert done.returncode == 0, done.stderr
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert completed("hookline resume ") == ["last", "best", "0001-csv-mlp", "0002-mine"]
    assert completed("hookline runs show 2") == ["0002-mine"]
    assert completed("hookline runs rm 0002-mine 000") == ["0001-csv-mlp"]
    assert completed("hookline runs diff 1 la") == ["last"]
    assert completed("hookline runs path --runs elsewhere ") == ["last", "best"]
    program = "import sys; sys.argv = ['hookline', 'runs']; from hookline.cli import main\ntry: main()\n"
    done = run([sys.executable, "-c", program + "finally: assert 'torch' not in sys.modules"], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


# ---- resume ----------------------------------------------------------------------------------------------------------

PLUGIN = '''\
import os
import signal
import time
from pathlib import Path

import hookline
from hookline import hookimpl


@hookline.plugin("callback", "trouble")
class Trouble:
    """Sends the process the signals in the file ``armed``, once, and waits while the file ``hold`` exists."""

    def __init__(self, at: int = 0):
        self.at = at

    @hookimpl
    def on_run_start(self):
        end = time.monotonic() + 60
        while Path("hold").exists() and time.monotonic() < end:
            time.sleep(0.02)

    @hookimpl
    def on_step_end(self, run):
        if run.step == self.at and Path("armed").exists():
            names = Path("armed").read_text().split()
            Path("armed").unlink()
            for name in names:
                os.kill(os.getpid(), getattr(signal, name))
'''
# In the middle of the second epoch, 10 steps behind a checkpoint.
WORDS = ("model=mlp", "model.dropout=0.2", "callbacks.trouble.at=170", "callbacks.checkpoint.every_steps=40")


class Place:
    """Folder in which the same command trains runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "mine.py").write_text(PLUGIN)

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run([PROGRAM, *words], cwd=self.folder)

    def train(self, signals: str = "") -> subprocess.CompletedProcess[str]:
        if signals:
            (self.folder / "armed").write_text(signals)
        return self.call("train", "--plugin", "mine.py", *WORDS)

    def resume(self, name: str = "last", *words: str) -> subprocess.CompletedProcess[str]:
        return self.call("resume", name, "--plugin", "mine.py", *words)

    def record(self, name: str = "last") -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.folder / "runs" / name / "run.json").read_text())
        return values

    def ends(self, name: str = "last") -> dict[str, bytes]:
        path = self.folder / "runs" / name
        return {file: (path / file).read_bytes() for file in ("model.safetensors", "metrics.jsonl")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Return an uninterrupted run."""
    place = Place(tmp_path_factory.mktemp("whole"))
    done = place.train()
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Return the same run, killed in the middle of its second epoch."""
    place = Place(tmp_path_factory.mktemp("killed"))
    assert place.train("SIGKILL").returncode == -signal.SIGKILL
    return place


def copied(place: Place, folder: Path) -> Place:
    shutil.copytree(place.folder, folder, symlinks=True, dirs_exist_ok=True)
    return Place(folder)


def test_a_killed_run_is_lost_and_resumes_to_the_same_bytes(whole: Place, killed: Place, tmp_path: Path) -> None:
    place = copied(killed, tmp_path)
    assert place.record()["status"] == "running"
    assert " lost " in place.call("runs").stdout
    refused = place.call("resume", "last")
    assert_clean(refused, 2)
    assert "(the run was started with --plugin mine.py, and this command was not)" in refused.stderr
    done = place.resume()
    assert_clean(done, 0)
    assert "from step 160" in done.stdout
    assert "3/3" in done.stdout
    assert place.ends() == whole.ends()
    record = place.record()
    assert (record["status"], [a["from_step"] for a in record["attempts"]]) == ("completed", [0, 160])


@pytest.mark.parametrize(
    ("signals", "code", "status"),
    [
        ("SIGINT", 130, "interrupted"),
        ("SIGINT SIGINT", 130, "interrupted"),
        ("SIGTERM", 143, "interrupted"),
        ("SIGUSR1", 143, "interrupted"),
    ],
)
def test_a_run_ended_by_a_signal_resumes_to_the_same_bytes(
    signals: str, code: int, status: str, whole: Place, tmp_path: Path
) -> None:
    place = Place(tmp_path)
    done = place.train(signals)
    assert_clean(done, code)
    assert "resume with: hookline resume runs/0001-synthetic-linear-mlp --plugin mine.py\n" in done.stderr
    assert place.record()["status"] == status
    steps = [path.name for path in (tmp_path / "runs" / "last" / "checkpoints").iterdir()]
    # The first signal saves the run after its step, the second does not wait for that.
    assert ("step-000000000170-epochs-1" in steps) == (signals.count("SIG") == 1)
    if signals.startswith("SIGINT"):
        assert_clean(place.resume(), 0)
        assert place.ends() == whole.ends()


def test_of_two_programs_that_resume_a_run_one_works_and_the_other_names_it(
    whole: Place, killed: Place, tmp_path: Path
) -> None:
    place = copied(killed, tmp_path)
    (tmp_path / "hold").touch()
    command = [PROGRAM, "resume", "last", "--plugin", "mine.py"]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    end = time.monotonic() + HANG_S
    while all(process.poll() is None for process in both) and time.monotonic() < end:
        time.sleep(0.02)
    (tmp_path / "hold").unlink()
    told = [process.communicate()[1] for process in both]
    loser = 0 if both[0].returncode else 1
    winner = both[1 - loser]
    assert (both[loser].returncode, winner.returncode) == (7, 0), told
    assert f"(process {winner.pid} on {platform.node()}, since " in told[loser]
    assert place.ends() == whole.ends()


def test_resuming_a_finished_run_says_so_and_changes_no_byte(whole: Place) -> None:
    def state() -> dict[str, tuple[str, int]]:
        files = [path for path in sorted(whole.folder.rglob("*")) if path.is_file()]
        return {str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}

    before = state()
    done = whole.call("resume", "1")
    assert_clean(done, 0)
    assert done.stdout == (
        "0001-synthetic-linear-mlp is completed after 300 steps: nothing left to do\n"
        "  = to train longer: hookline resume 1 train.epochs=6\n"
    )
    path = str(whole.folder / "runs" / "0001-synthetic-linear-mlp")
    assert json.loads(whole.call("resume", "best", "--json").stdout) == {
        "event": "finished",
        "path": path,
        "status": "completed",
        "step": 300,
    }
    assert state() == before


def test_resuming_with_more_epochs_reports_the_changes_as_events_alone(whole: Place, tmp_path: Path) -> None:
    place = copied(whole, tmp_path)
    done = place.resume("last", "train.epochs=4", "--json", "--ledger", "--allow-changed-data")
    assert_clean(done, 0)
    assert done.stderr == ""
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert (events[0]["event"], events[0]["step"]) == ("resume", 300)
    (warning,) = [event["message"] for event in events if event["event"] == "warning"]
    assert "settings: train.epochs was 3, and is 4" in warning
    assert "callbacks." not in warning
    assert [event["event"] for event in events[-2:]] == ["run_end", "ledger"]
    record = place.record()
    assert (record["status"], record["epochs"], record["step"]) == ("completed", 4, 400)
    # The output of a run is not part of its fingerprint.
    assert "off" not in (tmp_path / "runs" / "last" / "config.toml").read_text()
    traced = place.resume("last", "train.epochs=5", "--quiet", "--trace-hooks")
    assert_clean(traced, 0)
    assert traced.stdout == ""
    assert "on_run_end" in traced.stderr
    assert "warning: " in traced.stderr


def test_a_saved_config_is_repeated_as_the_command_shows_it_and_tried_without_a_trace(
    hookline: Hookline, tmp_path: Path
) -> None:
    assert_clean(hookline("train", "train.epochs=1", "data.num_examples=20", "--quiet"), 0)
    kept = tmp_path / "runs" / "0001-synthetic-linear-linear" / "config.toml"
    text = kept.read_text().replace(
        "[callbacks.run-folder]", '[callbacks.progress]\nuse = "progress"\n\n[callbacks.run-folder]'
    )
    mine = tmp_path / "mine.toml"
    mine.write_text(text)
    told = hookline("train", str(mine), "--json")
    assert_clean(told, 0)
    events = [json.loads(line) for line in told.stdout.splitlines()]
    started = next(event for event in events if event["event"] == "run_start")
    assert started["folder"].endswith("0002-synthetic-linear-linear")
    assert_clean(hookline("train", str(mine), "--fast"), 0)
    assert sorted(path.name for path in (tmp_path / "runs").glob("0*")) == [
        "0001-synthetic-linear-linear",
        "0002-synthetic-linear-linear",
    ]


def test_a_run_gets_the_name_that_the_command_gives_it_unless_an_override_does(
    hookline: Hookline, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text('[callbacks.run-folder]\nname = "of-the-file"\n')
    words = ("train", "run.toml", "train.epochs=0", "--name", "baseline")
    done = hookline(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert 'name = "baseline" (--name)' in done.stdout
    assert hookline(*words, "callbacks.run-folder.name=other").returncode == 0
    assert sorted(path.name for path in (tmp_path / "runs").glob("0*")) == ["0001-baseline", "0002-other"]
    refused = hookline(*words[:-1], "a/b")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: 'a/b' is not a valid run name\n")
