"""A thread beside a rank: it tells the others where this rank stands, and ends it after its launcher is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_EVERY_S = 1.0
_ROOT = Path(__file__).parents[1]
_SKIPPED = (str(_ROOT / "ranks"), str(_ROOT / "cli" / "ranks.py"), str(_ROOT / "engine" / "plugin"))
_LIBRARIES = (f"{sysconfig.get_paths()['stdlib']}/", "<", "/torch/", "/pluggy/", "/click/")
_CALL_OF_HOOK = "guarded.<locals>."


def code_at_work(error: BaseException | None = None) -> str:
    """Return the place in the code where the main thread of this process is, and the hook in which that is.

    If it handles an error, it is the place where that was raised.
    """
    found, hook, inner = "", "", ""
    for frame, line in _frames(error):
        code = frame.f_code
        if code.co_qualname.startswith(_CALL_OF_HOOK):
            hook = inner
            break
        if not code.co_filename.startswith(_SKIPPED) and not any(part in code.co_filename for part in _LIBRARIES):
            inner = f"{code.co_qualname} ({Path(code.co_filename).name}:{line})"
            found = found or inner
    return found if hook in ("", found) else f"{hook}, {found}"


def _frames(error: BaseException | None) -> Iterator[tuple[FrameType, int]]:
    """Yield the frames of the main thread with their lines, the innermost first, those of an error before."""
    yield from reversed(list(traceback.walk_tb(error.__traceback__ if error else None)))
    main = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - documented, in spite of its name
    yield from traceback.walk_stack(main)


@contextmanager
def watching(tell: Callable[[], None], launcher: int | None) -> Iterator[None]:
    """Call ``tell`` every second, and end this process by SIGTERM once ``launcher`` is no longer its parent.

    Args:
        tell: Tells the other ranks where this one stands.
        launcher: ID of the process that started the ranks; None: it may end before them.
    """
    is_over = threading.Event()

    def watch() -> None:
        has_lost = False
        while not is_over.wait(_EVERY_S):
            if launcher is not None and os.getppid() != launcher and not has_lost:
                has_lost = True
                os.kill(os.getpid(), signal.SIGTERM)
            with contextlib.suppress(RuntimeError):  # the store is gone, and with it whoever could ask
                tell()

    thread = threading.Thread(target=watch, name="hookline-rank", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
