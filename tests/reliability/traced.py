"""SIGKILL on entry to every system call of a save, by strace, without Python in between."""

from __future__ import annotations

import collections
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from hookline.runs.disk.checkpoint import checkpoints_in
from reliability import job
from reliability.kills import operations_of_a_run
from reliability.layer import Layer, under_files

_EPOCHS = 1
_SAVE = 4  # number of the folder that the attacked save makes: after that of the run and those of two saves
_NO_FILES = (
    *("futex", "munmap", "mmap", "brk", "mprotect", "madvise", "rt_sigaction", "rt_sigprocmask", "exit_group"),
    *("getpid", "kill", "rt_sigreturn", "restart_syscall", "clock_nanosleep", "sched_yield", "getrandom"),
)


def kills_at_each_system_call(folder: Path) -> dict[str, Any]:
    """Kill a run at every system call of its third save, the removal of the first included, and resume it."""
    if not (shutil.which("strace") and _may_trace()):
        return {"skipped": "strace is missing, or may not trace"}
    calls = operations_of_a_run(job.fresh(folder / "whole"), _EPOCHS)
    whole = job.run_folder(folder / "whole")
    assert whole is not None
    wanted = job.digest(whole)
    made = [number for number, name in enumerate(calls, 1) if name == "mkdir"]
    first, last = made[_SAVE - 1], made[_SAVE]
    log = folder / "log"
    _traced(job.fresh(folder / "runs"), first, last, ["-o", str(log)])
    names = re.findall(r"^(?:\d+ +)?(\w+)\(", log.read_text(), re.MULTILINE)
    lost: list[str] = []
    seen: collections.Counter[str] = collections.Counter()
    points = 0
    for name in names:
        if name in _NO_FILES:
            continue
        seen[name] += 1
        points += 1
        parent = job.fresh(folder / "runs")
        inject = f"inject={name}:signal=SIGKILL:when={seen[name]}"
        code = _traced(parent, first, last, ["-o", "/dev/null", "-e", f"trace={name}", "-e", inject])
        where = f"{name} {seen[name]}"
        if code != -signal.SIGKILL:
            lost.append(f"{where}: not killed, but ended with {code}")
            continue
        lost += [f"{where}: {text}" for text in _resumed(parent, wanted)]
    return {"points": points, "system_calls": dict(seen), "lost": lost}


def _resumed(parent: Path, wanted: dict[str, str]) -> list[str]:
    path = job.run_folder(parent)
    assert path is not None
    steps = [int(found.name.split("-")[1]) for found in checkpoints_in(path / "checkpoints")]
    ended = job.in_child(lambda: job.resume_run(path))
    if ended.code:
        return [f"resuming ended with {ended.code}: {ended.error}"]
    faults = [] if steps[0] in (10, 15) else [f"the newest was that of step {steps[0]}"]
    faults += [f"other {name}" for name, value in job.digest(path).items() if value != wanted[name]]
    return faults + [f"left {name}" for name in job.left_over(path)]


def _traced(parent: Path, first: int, last: int, options: list[str]) -> int:
    """Run to an operation, attach strace, and run to another one; return the exit code of the process."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def strike(_name: str) -> None:
            nonlocal count
            count += 1
            if count == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            elif count == last - first + 1:
                os._exit(0)

        try:
            with under_files(Layer(first, strike, lasts=True)):
                job.begin(parent, _EPOCHS)
        finally:
            os._exit(98)
    os.waitpid(pid, os.WUNTRACED)
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-p", str(pid), *options], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 10
    while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text() and time.monotonic() < end:
        time.sleep(0.002)
    os.kill(pid, signal.SIGCONT)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    tracer.wait(timeout=10)
    return code


def _may_trace() -> bool:
    return (
        subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0
    )
