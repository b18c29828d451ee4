"""Signals and kills to the ranks of a run and to their launcher, at any time and in each phase."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ranked import Command, Ended, record_of
from reliability import job
from support import FIXTURES

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
PHASES = {
    "build_data": 0,
    "build_model": 0,
    "build_optimizer": 0,
    "on_run_start": 0,
    "step": 8,
    "on_evaluation_start": 8,
    "on_epoch_end": 8,
    "on_save_point": 8,
    "on_run_end": 8,
}
"""The hooks in which a rank is killed, and the first step in which it is."""

_WORDS = (
    "model=mlp", "model.hidden=[8]", "model.dropout=0.2", "optimizer=adamw", "train.epochs=10", "train.batch_size=20",
    "callbacks.lr-schedule.scheduler=cosine-annealing", "callbacks.lr-schedule.interval=step",
    "callbacks.checkpoint.every_steps=20", "--quiet",
)  # fmt: skip
_SMALL = ("train.epochs=2", "train.batch_size=100", "callbacks.checkpoint.every_steps=5", "--quiet")
_STRIKE = ("--plugin", str(FIXTURES / "strike.py"))
_LONGEST_S = 10.0
"""Within which all ranks end after a signal or a kill: 2 s for noticing it, and a margin for a busy machine."""


def signals_at_any_time(folder: Path, num_signals: int) -> dict[str, Any]:
    """Send signals to the launcher or a rank of runs, each repeatedly until it completes, and compare the results."""
    return _struck(folder, num_signals, ENDING)


def kills_of_ranks_at_any_time(folder: Path, num_kills: int) -> dict[str, Any]:
    """Kill the launcher or a rank of runs, each repeatedly until it completes, and compare the results."""
    return _struck(folder, num_kills, (signal.SIGKILL,))


def _struck(folder: Path, num: int, numbers: Sequence[signal.Signals]) -> dict[str, Any]:
    first = job.fresh(folder / "whole")
    begun = time.monotonic()
    ended = Command(first, "train", "--nproc", "2", *_WORDS).end()
    longest_s = time.monotonic() - begun
    wanted, draw = job.digest(next(first.glob("runs/0*"))), random.Random(num)
    lost = [f"uninterrupted: {ended}"] if ended.code else []
    count = runs = 0
    slowest_s = 0.0
    codes: dict[int, int] = {}
    while count < num:
        parent, runs = job.fresh(folder / "runs"), runs + 1
        words, limit_s = ["train", "--nproc", "2", *_WORDS], longest_s / 2
        while True:
            command = Command(parent, *words)
            ended, number = _struck_once(command, draw, numbers, limit_s)
            codes[ended.code] = codes.get(ended.code, 0) + 1
            if number:
                count += 1
                slowest_s = max(slowest_s, ended.took_s)
            lost += [f"run {runs}: {text}" for text in _faults(ended, number)]
            if ended.code == 0:
                break
            limit_s *= 1.05  # a machine that became busy would never get to its next save
            path = next((path for path in parent.glob("runs/0*") if (path / "config.toml").exists()), None)
            words = ["resume", str(path), "--nproc", "2", "--quiet"] if path else words
            if path is None:
                shutil.rmtree(parent / "runs", ignore_errors=True)
        path = next(parent.glob("runs/0*"))
        lost += [f"run {runs}: other {name}" for name, value in job.digest(path).items() if value != wanted[name]]
        lost += [f"run {runs}: left {name}" for name in job.left_over(path)]
    return {"points": count, "runs": runs, "slowest_s": round(slowest_s, 1), "codes": codes, "lost": lost}


def _struck_once(
    command: Command, draw: random.Random, numbers: Sequence[signal.Signals], limit_s: float
) -> tuple[Ended, signal.Signals | None]:
    """Send a signal to the launcher or a rank at a random time; return the end, and the signal if it was in time."""
    number, victim = draw.choice(numbers), draw.choice([None, 0, 1])
    until = time.monotonic() + draw.uniform(0, limit_s)
    while time.monotonic() < until and command.is_running():
        time.sleep(0.005)
    ranks = command.ranks()
    is_launched = len(ranks) == 2
    if not command.is_running() or not is_launched:
        return command.end(), None
    command.send(number, None if victim is None else ranks[victim])
    ended = command.end()
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in ranks) and time.monotonic() < end:
        time.sleep(0.01)  # those of a launcher that was killed
    return ended, number


def _faults(ended: Ended, number: signal.Signals | None) -> list[str]:
    wanted = {None: {0}, signal.SIGINT: {0, 130}, signal.SIGKILL: {0, 8, -9}}.get(number, {0, 143})
    faults = [] if ended.code in wanted else [f"{number} ended it with {ended.code}: {ended.err}"]
    if ended.took_s > _LONGEST_S and number:
        faults.append(f"{number} took {ended.took_s:.1f} s")
    if "Traceback" in ended.err or ended.err.count("\nerror") + ended.err.startswith("error") > 1:
        faults.append(f"{number} made it say {ended.err}")
    if ended.err.count("ending the run after") > 1:
        faults.append(f"{number} was told more than once: {ended.err}")
    return faults


def kills_in_each_phase(folder: Path, phases: Sequence[str] = tuple(PHASES)) -> dict[str, Any]:
    """Kill each rank in each phase: the other ends within seconds and names it, and the run resumes."""
    lost: list[str] = []
    slowest_s = 0.0
    for phase in phases:
        for rank in range(2):
            parent = job.fresh(folder / "runs")
            options = {"hook": phase, "rank": rank, "how": "kill", "step": PHASES[phase]}
            words = [*_SMALL, *_STRIKE, *(f"callbacks.strike.{name}={value}" for name, value in options.items())]
            command = Command(parent, "train", "--nproc", "2", *words)
            pids: list[int] = []
            while len(pids) < 2:
                pids = command.ranks()
            while not _is_dead(pids[rank]):
                time.sleep(0.005)
            since = time.monotonic()
            ended = command.end()
            slowest_s = max(slowest_s, took_s := time.monotonic() - since)
            if ended.code != 8 or f"rank {rank} of 2" not in ended.err or took_s > _LONGEST_S:
                lost.append(f"{phase} of rank {rank}: {ended}")
            if [*parent.glob("runs/0*/config.toml")] and record_of(parent).status != "completed":
                resumed = Command(parent, "resume", "1", "--nproc", "2", *_STRIKE, "callbacks.strike=off").end()
                if resumed.code or record_of(parent).status != "completed":
                    lost.append(f"{phase} of rank {rank}: not resumed: {resumed}")
    return {"points": 2 * len(phases), "slowest_s": round(slowest_s, 1), "lost": lost}


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def hangs(folder: Path, timeout_s: float = 3.0) -> dict[str, Any]:
    """Stop each rank, by SIGSTOP and within a hook: the other gives it up after the timeout, and names it."""
    lost: list[str] = []
    slowest_s = 0.0
    for how in ("stop", "hang"):
        for rank in range(2):
            parent = job.fresh(folder / "runs")
            options = {"hook": "on_step_end", "rank": rank, "how": how, "step": 8}
            words = [*_SMALL, *_STRIKE, *(f"callbacks.strike.{name}={value}" for name, value in options.items())]
            command = Command(parent, "train", "--nproc", "2", *words, f"parallel.timeout_s={timeout_s}")
            command.wait_for_step(5)
            since = time.monotonic()
            ended = command.end()
            slowest_s = max(slowest_s, time.monotonic() - since)
            if ended.code != 8 or f"rank {rank} of 2" not in ended.err:
                lost.append(f"{how} of rank {rank}: {ended}")
    if slowest_s > timeout_s + 5:
        lost.append(f"it took {slowest_s:.1f} s")
    return {"points": 4, "slowest_s": round(slowest_s, 1), "lost": lost}


def second_signals(folder: Path) -> dict[str, Any]:
    """Send a second signal while a rank waits for one that hangs: all end within seconds."""
    command = Command(job.fresh(folder / "runs"), "train", "--nproc", "2", "train.epochs=100000", *_SMALL[2:])
    command.wait_for_step(5)
    os.kill(command.ranks()[1], signal.SIGSTOP)
    command.send(signal.SIGTERM)
    time.sleep(0.5)
    command.send(signal.SIGTERM)
    ended = command.end()
    is_lost = ended.code != 143 or ended.took_s > _LONGEST_S or record_of(command.folder).status == "running"
    return {"points": 1, "slowest_s": round(ended.took_s, 1), "lost": [str(ended)] if is_lost else []}
