"""A layer under the modules that read, write and lock files: it counts their operations, and strikes at one of them.

Everything that a run saves goes through these modules, so a kill on entry to each of their operations is a kill at
every point where a file can be incomplete. It needs no tracing, and works wherever Python does.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from hookline.config import files as reading
from hookline.runs.disk import durable_files as writing
from hookline.runs.disk import occupancy as locking

OPERATIONS = (
    "open", "write", "ftruncate", "fsync", "close", "mkdir", "rename", "replace", "symlink", "unlink", "rmdir",
    "scandir", "lseek", "fstat", "fdopen",
)  # fmt: skip
"""The functions of ``os`` that the modules call."""
WRITING = ("open", "write", "ftruncate", "fsync", "close", "mkdir", "rename", "replace", "symlink", "unlink", "rmdir")
"""Those that a full or broken disk can refuse."""
_MODULES = (reading, writing, locking)

L = TypeVar("L")
Strike = Callable[[str], None]


class Layer:
    """A stand-in for the module ``os`` in these modules.

    Args:
        at: Number of the operation to strike, from 1; None for none.
        strike: Called with the name of the operation on entry to it.
        operations: The operations to count.
        longest_write: Maximum number of bytes that one ``write`` accepts; a real one may also accept fewer than given.
        lasts: Whether to strike every later operation too, like a disk that stays broken.
    """

    def __init__(
        self,
        at: int | None = None,
        strike: Strike | None = None,
        *,
        operations: tuple[str, ...] = OPERATIONS,
        longest_write: int | None = None,
        lasts: bool = False,
    ) -> None:
        self.calls: list[str] = []
        self._at, self._strike, self._operations = at, strike, operations
        self._longest_write, self._lasts = longest_write, lasts

    def __getattr__(self, name: str) -> Any:
        value = getattr(os, name)
        return functools.partial(self._call, name, value) if name in self._operations else value

    def _call(self, name: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        self.calls.append(name)
        number = len(self.calls)
        if self._strike and self._at and (number == self._at or (self._lasts and number > self._at)):
            try:
                self._strike(name)
            except OSError:
                if name == "close":
                    function(*arguments)  # the descriptor is closed even when closing fails: close(2)
                raise
        if name == "write" and self._longest_write:
            descriptor, data = arguments
            return function(descriptor, data[: self._longest_write])
        return function(*arguments, **named)


@contextmanager
def under_files(layer: L) -> Iterator[L]:
    """Put a layer under the modules."""
    there = os
    for module in _MODULES:
        vars(module)["os"] = layer
    try:
        yield layer
    finally:
        for module in _MODULES:
            vars(module)["os"] = there


def killing(_name: str) -> None:
    """Kill the process as the kernel does when memory is short: nothing is closed, nothing is written."""
    os.kill(os.getpid(), signal.SIGKILL)


def failing(number: int) -> Strike:
    """Return a strike that fails with an ``errno``."""

    def strike(_name: str) -> None:
        raise OSError(number, os.strerror(number))

    return strike
