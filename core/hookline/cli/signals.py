"""Signals: the first ends the run after the current step, the second ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from hookline.ranks.agreed import INTERRUPTED, TERMINATED

if TYPE_CHECKING:
    from hookline.engine.loop.run import Run

_ENDING = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")


@contextmanager
def ending_by_signals(run: Run) -> Iterator[None]:
    """Let signals interrupt ``run``; restore the previous handlers afterwards.

    The first signal ends the run after the current step: its state is saved and its plugins are closed. The second
    raises ``KeyboardInterrupt`` wherever the program is. Data workers inherit the handlers and ignore both signals. A
    signal that was ignored before, such as SIGHUP under ``nohup``, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled(_Handler(run)):
        yield


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the signals that end a run, unless they are ignored; restore the previous handlers afterwards."""
    numbers = [number for name in _ENDING if (number := getattr(signal, name, None)) is not None]
    before: dict[int, Any] = {}
    try:
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def ended_at_once() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command by an exception, so that it leaves no unfinished file behind."""
    numbers = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
    is_main = threading.current_thread() is threading.main_thread()
    changed = [number for number in numbers if is_main and signal.getsignal(number) == signal.SIG_DFL]
    for number in changed:
        signal.signal(number, _exit)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def leaving_by_signals(tell: Callable[[BaseException], object]) -> Iterator[None]:
    """Let a signal end this rank at once while its run is built, when there is nothing to save.

    Args:
        tell: Tells the other ranks, which wait for this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    process = os.getpid()

    def handler(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != process:
            return  # a data worker
        tell(KeyboardInterrupt(signal.Signals(number).name))
        os._exit(INTERRUPTED if number == signal.SIGINT else TERMINATED)

    with _handled(handler):
        yield


def _exit(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)


def exit_code(run: Run) -> int:
    """Return the exit code of a run that ended without an error."""
    if run.outcome != "interrupted":
        return 0
    return INTERRUPTED if run.interrupt_reason == signal.Signals.SIGINT.name else TERMINATED


class _Handler:
    """Signal handler that interrupts a run without waiting for any lock that the interrupted code may hold."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._process = os.getpid()

    def __call__(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        if self._run.interrupt_reason:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        self._run.interrupt(name)
        if not self._run.ranks.is_zero:
            return
        text = f"{name}: ending the run after this step and saving its state; a second signal ends it at once\n"
        try:
            os.write(2, text.encode())
        except OSError:
            return
