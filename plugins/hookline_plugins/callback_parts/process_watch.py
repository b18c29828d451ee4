"""``ProcessWatch``: changes of the whole process by the plugins of a run, noticed at the ends of its phases."""

from __future__ import annotations

import locale
import re
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hookline import RunView

_STATUS = Path("/proc/self/status")
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class ProcessWatch:
    """Warns of what changed for the whole process since the last look; other code of the program relies on it."""

    def __init__(self) -> None:
        self._before = _state()

    def look(self) -> None:
        """Take the state of now as that before the next phase."""
        self._before = _state()

    def warn(self, run: RunView, phase: str) -> None:
        """Warn of each change since the last look."""
        before, self._before = self._before, _state()
        for name, value in self._before.items():
            if value != before[name]:
                run.warn(f"{name} was changed for the whole process {phase}: it was {before[name]}, and is {value}")


def _state() -> Mapping[str, Any]:
    import torch

    return {
        "the current folder": _folder(),
        "the umask": _umask(),
        "the locale": locale.setlocale(locale.LC_ALL),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
        **{f"the handler of {number.name}": signal.getsignal(number) for number in _SIGNALS},
    }


def _folder() -> str:
    with suppress(OSError):
        return str(Path.cwd())
    return "removed"


def _umask() -> str:
    """Return the umask; empty where only setting it would show it, which another thread could notice."""
    with suppress(OSError):
        if found := re.search(r"^Umask:\s*(\d+)", _STATUS.read_text(), re.MULTILINE):
            return found[1]
    return ""
