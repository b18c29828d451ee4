"""Kills and signals to `hookline cv` at any time: the same command goes on, and its result has the same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from hookline.runs import read_record

CONFIG = """\
[train]
epochs = 40
batch_size = 5
[data]
use = "csv"
path = "rows.csv"
target = "y"
[model]
use = "mlp"
hidden = [8]
[optimizer]
use = "adam"
lr = 0.01
[callbacks.checkpoint]
every_steps = 50
every_s = 0.0
"""
WORDS = (sys.executable, "-m", "hookline", "cv", "cv.toml", "--folds", "3")


def kills_at_any_time(folder: Path, num_kills: int) -> dict[str, Any]:
    """Kill the command after random times until so many kills are done, then let it end."""
    drawn, expected = random.Random(0), _uninterrupted(folder / "whole")
    place, kills, again, lost = _prepared(folder / "killed"), 0, 0, list[str]()
    while kills < num_kills:
        again += 1
        kills += _ended(place, drawn.uniform(0.5, 12.0), signal.SIGKILL) == -signal.SIGKILL
        if (place / "runs" / "cv-cv" / "out-of-fold.csv").exists():
            lost += _differences(place, expected)
            place = _prepared(folder / f"killed-{again}")
    code = subprocess.run(WORDS, cwd=place, env=_environment(), stdout=subprocess.DEVNULL, check=False).returncode
    lost += [f"the command ends with {code} after the kills"] if code else _differences(place, expected)
    return {"points": kills, "commands": again + 1, "lost": lost}


def signals_to_processes(folder: Path, num_signals: int) -> dict[str, Any]:
    """Send SIGINT or SIGTERM to a command that trains two folds at a time, and start it again until it ends."""
    drawn, expected = random.Random(1), _uninterrupted(folder / "whole")
    place, signals, again, lost = _prepared(folder / "signalled"), 0, 0, list[str]()
    while signals < num_signals:
        again += 1
        number = drawn.choice([signal.SIGINT, signal.SIGTERM])
        code = _ended(place, drawn.uniform(6.0, 20.0), number, "--jobs", "2")
        lost += [] if code in (0, 128 + number, -number) else [f"exit code {code} after signal {number}"]
        signals += code != 0
        statuses = {read_record(run).status for run in (place / "runs" / "cv-cv").glob("0*")}
        lost += [] if statuses <= {"interrupted", "completed"} else [f"runs are left {sorted(statuses)}"]
        if code == 0:
            lost += _differences(place, expected)
            place = _prepared(folder / f"signalled-{again}")
    return {"points": signals, "commands": again, "lost": lost}


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _prepared(folder: Path) -> Path:
    folder.mkdir(parents=True)
    drawn = random.Random(2)
    rows = [(drawn.gauss(0, 1), drawn.gauss(0, 1)) for _ in range(60)]
    lines = [f"{a!r},{b!r},{a * b + drawn.gauss(0, 0.1)!r}" for a, b in rows]
    (folder / "rows.csv").write_text("\n".join(["a,b,y", *lines, ""]))
    (folder / "cv.toml").write_text(CONFIG)
    return folder


def _uninterrupted(folder: Path) -> bytes:
    subprocess.run(WORDS, cwd=_prepared(folder), env=_environment(), stdout=subprocess.DEVNULL, check=True)
    return _predictions(folder)


def _ended(place: Path, seconds: float, number: signal.Signals, *words: str) -> int:
    """Return the exit code of the command, which gets a signal after some seconds if it is still there."""
    process = subprocess.Popen([*WORDS, *words], cwd=place, env=_environment(), stdout=subprocess.DEVNULL)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        return process.wait(120)


def _predictions(place: Path) -> bytes:
    return (place / "runs" / "cv-cv" / "out-of-fold.csv").read_bytes()


def _differences(place: Path, expected: bytes) -> list[str]:
    return (
        [] if _predictions(place) == expected else ["other predictions than those of the command that was left alone"]
    )
