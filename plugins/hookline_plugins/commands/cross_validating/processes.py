"""Folds that are trained at the same time, each by a command ``train`` or ``resume`` in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hookline import HooklineError
from hookline.runs import to_toml

if TYPE_CHECKING:
    from types import FrameType

_POLL_S = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

Job = tuple[str, Sequence[str]]
"""What a process does, for messages, and the words of its command."""


def words_of(values: dict[str, Any]) -> list[str]:
    """Return values by dotted key as words of a command.

    >>> words_of({"data.fold": "2/5", "data.fold_seed": 0})
    ['data.fold="2/5"', 'data.fold_seed=0']
    """
    return [f"{key}={to_toml(value)}" for key, value in values.items()]


def run_jobs(jobs: Sequence[Job], num_processes: int) -> int:
    """Run commands of Hookline, so many at the same time; return the signal that ended them, or 0.

    A signal is passed on, so that each run ends after its step and is saved. When a command fails, it has printed its
    error; no further one is started, and those at work go on to their end.

    Raises:
        HooklineError: When a command failed.
    """
    waiting, working, failed = list(jobs), dict[str, subprocess.Popen[bytes]](), list[str]()
    with _passing_on(working) as received:
        while working or (waiting and not failed and not received):
            while waiting and len(working) < num_processes and not failed and not received:
                name, words = waiting.pop(0)
                working[name] = _start(words, num_processes)
            time.sleep(_POLL_S)
            for name in [name for name, process in working.items() if process.poll() is not None]:
                if working.pop(name).returncode and not received:
                    failed.append(name)
    if failed:
        raise HooklineError(f"{' and '.join(failed)} failed: see above", hint="the same command goes on from here")
    return received[0] if received else 0


def _start(words: Sequence[str], num_processes: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-m", "hookline", *words]
    threads = str(max((os.cpu_count() or 1) // num_processes, 1))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    # In a group of its own, so that Ctrl-C in a terminal reaches it only once.
    return subprocess.Popen(  # noqa: S603 - this very program
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0
    )


@contextmanager
def _passing_on(working: dict[str, subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    received: list[int] = []

    def handler(number: int, _: FrameType | None) -> None:
        received.append(number)
        for process in list(working.values()):
            process.send_signal(number)

    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
