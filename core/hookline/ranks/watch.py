"""A thread beside a rank: it tells the others where this rank stands, and ends it after its launcher is gone."""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_EVERY_S = 1.0
_TELL_EVERY = 5
"""Looks between two messages: a rank that stands still is known long before the others give it up."""
_ROOT = Path(__file__).parents[1]
_SKIPPED = (str(_ROOT / "ranks"), str(_ROOT / "engine" / "ranks.py"))
_LIBRARIES = (sysconfig.get_paths()["stdlib"], "<")


def code_at_work() -> str:
    """Return the place in the code where the main thread of this process is: in a plugin, or else in Hookline."""
    frames = [frame for frame in _frames() if not frame.f_code.co_filename.startswith(_SKIPPED)]
    outside = [frame for frame in frames if not frame.f_code.co_filename.startswith(str(_ROOT))]
    inside = [frame for frame in frames if frame.f_code.co_filename.startswith(str(_ROOT))]
    own = [frame for frame in outside if not _is_of_library(frame.f_code.co_filename)]
    for frame in [*own[:1], *inside[:1]]:
        return f"{frame.f_code.co_qualname} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
    return "unknown code"


def _is_of_library(name: str) -> bool:
    return name.startswith(_LIBRARIES) or "/torch/" in name or "/pluggy/" in name or "/click/" in name


def _frames() -> Iterator[FrameType]:
    """Yield the frames of the main thread, the innermost first, out to the one that started the command."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - documented, in spite of its name
    while frame:
        yield frame
        frame = frame.f_back


@contextmanager
def watching(tell: Callable[[], None], launcher: int | None) -> Iterator[None]:
    """Call ``tell`` every five seconds, and end this process by SIGTERM once ``launcher`` is no longer its parent.

    Args:
        tell: Tells the other ranks where this one stands.
        launcher: ID of the process that started the ranks; None: it may end before them.
    """
    is_over = threading.Event()

    def watch() -> None:
        number, has_lost = 0, False
        while not is_over.wait(_EVERY_S):
            number += 1
            if launcher is not None and os.getppid() != launcher and not has_lost:
                has_lost = True
                os.kill(os.getpid(), signal.SIGTERM)
            if number % _TELL_EVERY == 0:
                try:
                    tell()
                except RuntimeError:
                    return  # the store is gone, and with it whoever could ask

    thread = threading.Thread(target=watch, name="hookline-rank", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
