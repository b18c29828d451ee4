"""Commands to look at runs: tags and notes, sorted and chosen columns, the live view, pictures of curves."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hookline.runs import Attempt, RunFolder
from support import HANG_S, warm_program

Hookline = Callable[..., subprocess.CompletedProcess[str]]


def _folder(parent: Path, label: str = "mine") -> Path:
    folder = RunFolder.claim(parent, label)
    folder.close()
    return folder.path


def test_the_commands_show_what_was_said_with_escapes_made_visible(hookline: Hookline, tmp_path: Path) -> None:
    path = _folder(tmp_path / "runs")
    assert hookline("runs", "tag", "1").stdout == "0001-mine has no tags\n"
    assert hookline("runs", "tag", "1", "b", "a").stdout == "a\nb\n"
    assert hookline("runs", "note", "1", "one\ntwo \x1b[31m").stdout == "one\ntwo \\x1b[31m\n"
    # Another program may have written what the command would refuse.
    (path / "notes.json").write_text(json.dumps({"tags": ["\x1b]0;x\x07"], "note": "one\ntwo \x1b[31m"}))
    listed = hookline("runs", "--quiet").stdout
    assert listed.rstrip().endswith(r"\x1b]0;x\x07  one ...")
    assert json.loads(hookline("runs", "--json").stdout)[0]["note"] == "one\ntwo \x1b[31m"
    shown = hookline("runs", "show", "1").stdout
    assert "tags        \\x1b]0;x\\x07\n" in shown
    assert "note\n  one\n  two \\x1b[31m\n" in shown
    edited = hookline("runs", "note", "1", "--edit", EDITOR="sed -i s/one/1/")
    assert edited.stdout == "1\ntwo \\x1b[31m\n", edited.stderr
    assert hookline("runs", "tag", "1", "--remove").returncode == 2
    assert hookline("runs", "--tag", "none").stdout == "no such runs in runs\n"
    assert hookline("runs", "--quiet", "--search", "TWO").stdout == listed.replace("one ...", "1 ...")


# ---- sorted and chosen -----------------------------------------------------------------------------------------------


def _saved(parent: Path, label: str, lr: Any, loss: float | None, **values: Any) -> None:
    folder = RunFolder.claim(parent, label)
    folder.record.identity = {"settings": {} if lr is None else {"optimizer.lr": lr}}
    folder.record.metrics = {"validation/loss": loss}
    for name, value in values.items():
        setattr(folder.record, name, value)
    folder.save()
    folder.close()


def test_runs_are_sorted_by_any_column_and_those_without_a_value_come_last(hookline: Hookline, tmp_path: Path) -> None:
    parent = tmp_path / "runs"
    _saved(parent, "beta", 0.1, 0.5, time_s=3.0)
    _saved(parent, "alpha", "auto", None, time_s=1.0)
    _saved(parent, "gamma", 0.01, 0.25, time_s=2.0)
    _saved(parent, "delta", None, 10.0, time_s=200.0)
    (parent / "0005-broken").mkdir()

    def order(*words: str) -> list[int]:
        return [row["number"] for row in json.loads(hookline("runs", *words, "--json").stdout)]

    assert order("--sort", "optimizer.lr") == [3, 1, 2, 4, 5]
    assert order("--sort", "optimizer.lr", "--reverse") == [2, 1, 3, 4, 5]
    assert order("--sort", "validation/loss") == [3, 1, 4, 2, 5]
    assert order("--sort", "time", "--reverse") == [4, 1, 3, 2, 5]
    assert order("--sort", "name") == [2, 1, 5, 4, 3]
    assert order("--reverse") == [5, 4, 3, 2, 1]
    shown = hookline("runs", "--show", "optimizer.lr", "--show", "validation/loss", "--sort", "time")
    assert [line.split()[-2:] for line in shown.stdout.splitlines()[:4]] == [
        ["optimizer.lr", "validation/loss"],
        ["s", "auto"],
        ["0.01", "0.25"],
        ["0.1", "0.5"],
    ]
    values = json.loads(hookline("runs", "--show", "optimizer.lr", "--json").stdout)
    assert [row["shown"] for row in values] == [{"optimizer.lr": lr} for lr in (0.1, "auto", 0.01, None, None)]


def test_unknown_columns_are_reported_together_with_the_nearest(hookline: Hookline, tmp_path: Path) -> None:
    assert hookline("runs", "--sort", "loss").stdout.startswith("no runs in runs")
    _saved(tmp_path / "runs", "a", 0.1, 0.5)
    done = hookline("runs", "--sort", "optimzer.lr", "--show", "validaton/loss", "--show", "qqq")
    assert done.returncode == 2
    assert "'optimizer.lr'?" in done.stderr
    assert "'validation/loss'?" in done.stderr
    assert "'qqq'\n  = use run, name, status" in done.stderr


def test_sorting_looks_at_all_runs_and_lists_the_first_twenty(hookline: Hookline, tmp_path: Path) -> None:
    for number in range(22):
        _saved(tmp_path / "runs", "a", 22 - number, 0.5)
    lines = hookline("runs", "--sort", "optimizer.lr").stdout.splitlines()
    assert [line.split("-")[0] for line in lines[1:21]] == [f"{n:04d}" for n in range(22, 2, -1)]
    assert lines[21:] == ["", "and 2 other runs: hookline runs --all"]
    assert len(hookline("runs", "--sort", "optimizer.lr", "--all", "--quiet").stdout.splitlines()) == 22


# ---- watched ---------------------------------------------------------------------------------------------------------


def _write(path: Path, *rows: dict[str, Any]) -> None:
    with (path / "metrics.jsonl").open("a") as stream:
        stream.writelines(f"{json.dumps(row)}\n" for row in rows)


def test_a_run_at_work_is_watched_until_it_ends(hookline: Hookline, tmp_path: Path) -> None:
    assert hookline("runs", "watch").stdout == "no run is at work in runs\n"
    _folder(tmp_path / "runs", "old")
    folder = RunFolder.claim(tmp_path / "runs", "mine")
    began = datetime.now(UTC) - timedelta(seconds=10)
    folder.record.attempts = [Attempt(began, [], "here", 1, 0, 0)]
    folder.record.num_epochs = 4
    folder.save()
    _write(folder.path, {"epoch": 1, "step": 50, "train/running_loss": 2.0, "train/loss": 1.5})

    program = [str(warm_program()), "runs", "watch", "--json"]
    with subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        events = [json.loads(watching.stdout.readline())]
        _write(folder.path, {"epoch": 2, "step": 100, "train/running_loss": 1.0, "train/loss": 0.5})
        folder.record.status = "completed"
        folder.save()
        folder.close()
        events += map(json.loads, watching.communicate(timeout=HANG_S)[0].splitlines())
    assert [event["run"] for event in events] == ["0002-mine"] * len(events)
    first, last = events[0], events[-1]
    assert (first["event"], first["epoch"], first["step"], first["num_steps"]) == ("at_work", 1, 50, 200)
    assert 2.0 < first["steps_per_s"] <= 5.0  # 50 steps in at least 10 seconds
    assert first["seconds_left"] == pytest.approx(150 / first["steps_per_s"])
    assert (last["event"], last["status"], last["step"], last["seconds_left"]) == ("ended", "completed", 100, None)
    assert last["metrics"] == {"train/running_loss": 1.0, "train/loss": 0.5}
    line = hookline("runs", "watch", "2").stdout
    assert re.fullmatch(r"0002-mine completed: epoch 2/4, step 100, train/loss 0\.5, [\d.]+ steps/s\n", line), line


def test_in_a_terminal_the_table_is_cut_to_its_width(tmp_path: Path) -> None:
    path = _folder(tmp_path / "runs", "a-long-name-of-a-run-that-does-not-fit")
    _write(path, {"epoch": 1, "step": 50, "train/running_loss": 2.0, "train/loss": 1.5})
    wide, narrow = (_drawn(tmp_path, columns) for columns in ("80", "40"))
    # The other columns take 40 of the 79, and 12 lie between them: 27 are left for the name.
    assert wide[1].split() == ["0001-a-long-...does-not-fit", "lost", "1/0", "50", "train/loss", "1.5"]
    assert all(len(line) < 80 for line in wide)
    assert narrow[1].startswith("0001-...-fit  lost    1/0    50")
    assert all(len(line) == 39 and line.endswith("...") for line in narrow), narrow


def _drawn(folder: Path, columns: str) -> list[str]:
    leader, follower = pty.openpty()
    program = [str(Path(sys.executable).parent / "hookline"), "runs", "watch", "last"]
    environment = {**os.environ, "COLUMNS": columns, "LINES": "20", "TERM": "xterm"}
    subprocess.run(program, cwd=folder, env=environment, stdout=follower, stderr=follower, check=True, timeout=HANG_S)
    os.close(follower)
    text = os.read(leader, 10_000).decode()
    os.close(leader)
    return [line.removesuffix("\x1b[K") for line in text.removesuffix("\x1b[J").splitlines()]


# ---- drawn -----------------------------------------------------------------------------------------------------------


def test_pictures_are_refused_with_what_to_do(hookline: Hookline, tmp_path: Path) -> None:
    path = _folder(tmp_path / "runs")
    _write(path, {"epoch": 1, "step": 50, "train/loss": 4.0}, {"epoch": 2, "step": 100, "train/loss": 2.0})
    refused = hookline("runs", "plot", "1", "--output", "loss.gif")
    assert refused.returncode == 2
    assert "loss.gif has no suffix of a picture\n  = name a file with .pdf, .svg, .png" in refused.stderr
    # A package that stands in the way of the real one cannot be imported.
    (tmp_path / "matplotlib.py").write_text("raise ImportError('it is not here')")
    words = ["runs", "plot", "1", "-o", "loss.pdf", "--width", "3", "--height", "2", "--force"]
    missing = hookline(*words, PYTHONPATH=str(tmp_path))
    assert missing.returncode == 3
    assert missing.stderr == "error: drawing needs matplotlib: it is not here\n  = pip install 'hookline[plots]'\n"
    assert not (tmp_path / "loss.pdf").exists()
    # By hand: 4, then (4/4 + 2/2) / (3/4).
    points = json.loads(hookline("runs", "plot", "1", "--smooth", "0.5", "--json").stdout)[0]["points"]
    assert points == [[50, 4.0], [100, pytest.approx(8 / 3)]]
