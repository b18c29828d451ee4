"""Many processes at once: kills at any time, readers during saves, fifty simultaneous starts, ten preemptions."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hookline import CheckpointError, HooklineError, Run, RunBusyError, load_config, resume
from hookline.cli.signals import ending_by_signals
from hookline.runs import RunFolder, read_checkpoint
from hookline.runs.disk.checkpoint import checkpoints_in, prune, write_checkpoint
from reliability import job


def kills_at_any_time(folder: Path, num_kills: int, epochs: int = 3) -> dict[str, Any]:
    """Kill runs that save every five steps, each repeatedly until it completes, and compare the results."""
    job.begin(job.fresh(folder / "whole"), epochs)
    whole = job.run_folder(folder / "whole")
    assert whole is not None
    wanted, draw = job.digest(whole), random.Random(0)
    start = time.monotonic()
    job.in_child(lambda: job.begin(job.fresh(folder / "timed"), epochs))
    longest_s = time.monotonic() - start
    kills = runs = at_work = 0
    lost: list[str] = []
    while kills < num_kills or not at_work:
        parent = job.fresh(folder / "runs")
        runs += 1
        for attempt in itertools.count():
            path = job.run_folder(parent)
            saved = [p.name for p in checkpoints_in(path / "checkpoints")] if path else []
            # Later and later, because a machine that became busy would never get to its next save.
            limit_s = longest_s / 2 * 1.05**attempt
            code = _killed_after(draw.uniform(0, limit_s), _next_attempt(parent, path, epochs))
            if code == 0:
                break
            if code != -signal.SIGKILL:
                lost.append(f"run {runs}: ended with {code}")
                break
            kills += 1
            path = job.run_folder(parent)
            now = checkpoints_in(path / "checkpoints") if path else []
            at_work += bool(now)
            if saved and (not now or now[0].name < saved[0]):
                lost.append(f"run {runs}: steps were lost: {saved[0]} was there")
        path = job.run_folder(parent)
        if path is None:
            lost.append(f"run {runs}: no folder")
            continue
        lost += [f"run {runs}: other {name}" for name, value in job.digest(path).items() if value != wanted[name]]
        lost += [f"run {runs}: left {name}" for name in job.left_over(path)]
    return {"points": kills, "runs": runs, "kills_after_a_save": at_work, "lost": lost}


def _next_attempt(parent: Path, path: Path | None, epochs: int) -> Callable[[], Any]:
    return lambda: job.resume_run(path) if path else job.begin(job.fresh(parent), epochs)


def _started(function: Callable[[], Any]) -> int:
    """Call a function in a fork of this process, which exits with the exit code of its error; return its process ID."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        function()
        code = 0
    except HooklineError as error:
        code = error.exit_code
    finally:
        os._exit(code)


def _killed_after(seconds: float, function: Callable[[], Any]) -> int:
    pid = _started(function)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def reading_during_saves(folder: Path, num_saves: int) -> dict[str, Any]:
    """Read the newest checkpoint in a loop while another process saves and removes; none may be incomplete."""
    job.fresh(folder)

    def state(step: int) -> dict[str, Any]:
        return {"step": step, "epoch": 1, "position": 0, "model": {"weight": torch.full((64, 64), float(step))}}

    def write() -> None:
        for step in range(1, num_saves + 1):
            write_checkpoint(folder, state(step), run="r")
            prune(folder, run="r", keep=2, best=lambda _: None, keep_best=0)

    pid = _started(write)
    reads = 0
    lost: list[str] = []
    status = done = 0
    while not done:
        done, status = os.waitpid(pid, os.WNOHANG)
        for path in checkpoints_in(folder)[:1]:
            reads += 1
            lost += _faults_of(path)
    return {"points": num_saves, "reads": reads, "lost": lost + (["the writer failed"] if status else [])}


def _faults_of(path: Path) -> list[str]:
    try:
        kept = read_checkpoint(path)
    except CheckpointError as error:
        return [error.message] if path.exists() else []  # it was removed meanwhile, completely
    is_of_one_step = bool((kept.state["model"]["weight"] == kept.manifest.step).all())
    return [] if is_of_one_step else [f"{path.name} mixes several steps"]


def starts_at_once(folder: Path, num_processes: int = 50) -> dict[str, Any]:
    """Make many processes claim a run folder at once."""
    job.fresh(folder)
    codes = _all_at_once(num_processes, lambda: RunFolder.claim(folder / "runs", "job").path.name)
    names = sorted(path.name for path in (folder / "runs").glob("0*"))
    wanted = [f"{number:04d}-job" for number in range(1, num_processes + 1)]
    lost = [f"ended with {code}" for code in codes if code] + ([] if names == wanted else [f"folders: {names}"])
    return {"points": num_processes, "lost": lost}


def resumes_at_once(folder: Path, num_processes: int = 50) -> dict[str, Any]:
    """Make many processes resume one run at once: one works in it until all others were refused."""
    job.fresh(folder)
    claimed = RunFolder.claim(folder / "runs", "job")
    claimed.close()
    gate_reader, gate_writer = os.pipe()

    def work() -> None:
        RunFolder.open(claimed.path)
        os.read(gate_reader, 1)

    start = time.monotonic()
    codes = _all_at_once(num_processes, work, wait_for=num_processes - 1, then=lambda: os.write(gate_writer, b"x"))
    took_s = time.monotonic() - start
    counts = {code: codes.count(code) for code in sorted(set(codes))}
    lost = [] if counts == {0: 1, RunBusyError.exit_code: num_processes - 1} else [f"exit codes: {counts}"]
    return {"points": num_processes, "exit_codes": counts, "seconds": round(took_s, 2), "lost": lost}


def _all_at_once(
    num: int, function: Callable[[], Any], wait_for: int | None = None, then: Callable[[], Any] = lambda: None
) -> list[int]:
    """Call a function in many processes that start together; call ``then`` when ``wait_for`` of them have ended."""
    reader, writer = os.pipe()

    def waited() -> None:
        os.close(writer)
        os.read(reader, 1)  # until the parent closes it
        function()

    for _ in range(num):
        _started(waited)
    os.close(reader)
    os.close(writer)
    codes: list[int] = []
    while len(codes) < num:
        _, status = os.wait()
        codes.append(os.waitstatus_to_exitcode(status))
        if len(codes) == wait_for:
            then()
    return codes


def preemptions(folder: Path, num_preemptions: int = 10) -> dict[str, Any]:
    """End a run with SIGTERM after every step or two of one epoch, and resume it each time."""
    job.begin(job.fresh(folder / "whole"), 1)
    whole = job.run_folder(folder / "whole")
    assert whole is not None
    parent = job.fresh(folder / "runs")
    steps = sorted(random.Random(1).sample(range(1, 20), num_preemptions))
    lost: list[str] = []
    for step in [*steps, None]:
        path = job.run_folder(parent)

        def attempt(path: Path | None = path, step: int | None = step) -> str:
            run = resume(path) if path else Run(load_config(job.config(parent, 1)))
            with ending_by_signals(run):
                for taken in run.steps():
                    if taken.step == step:
                        os.kill(os.getpid(), signal.SIGTERM)
            return str(run.outcome)

        ended = job.in_child(attempt)
        if ended.value != ("interrupted" if step else "completed"):
            lost.append(f"after step {step}: {ended}")
    path = job.run_folder(parent)
    assert path is not None
    wanted = job.digest(whole)
    lost += [f"other {name}" for name, value in job.digest(path).items() if value != wanted[name]]
    attempts = job.record_of(path).attempts
    if [attempt.step for attempt in attempts[:-1]] != steps:
        lost.append(f"attempts ended at {[attempt.step for attempt in attempts]}")
    return {"points": num_preemptions, "lost": lost}
