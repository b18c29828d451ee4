"""A layer under the modules that read and write files: it counts the operations, and strikes at one of them.

All that a run keeps goes through ``engine.files`` and ``runs.disk.durable_files``, so a kill on entry to each of their
operations is a kill at every place where a file can be half done. It needs no tracing, and works wherever Python does.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from hookline.engine import files as reading
from hookline.runs.disk import durable_files as writing

OPERATIONS = (
    "open", "write", "ftruncate", "fsync", "close", "mkdir", "rename", "replace", "symlink", "unlink", "rmdir",
    "scandir", "lseek", "fstat", "fdopen",
)  # fmt: skip
"""The functions of ``os`` that the two modules call."""
WRITING = ("open", "write", "ftruncate", "fsync", "close", "mkdir", "rename", "replace", "symlink", "unlink", "rmdir")
"""Those that a full or broken disk can refuse."""

L = TypeVar("L")
Strike = Callable[[str], None]


class Layer:
    """The module ``os`` as the two modules see it.

    Args:
        at: Number of the operation that is struck, from 1; None: none is.
        strike: What happens on entry to it; gets its name.
        operations: Which are counted.
        longest_write: Most bytes that one ``write`` takes; a real one may take less than it is given, too.
        lasts: Whether every later operation is struck, too, as by a disk that stays broken.
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
                    function(*arguments)  # the descriptor is gone also when closing fails: close(2)
                raise
        if name == "write" and self._longest_write:
            descriptor, data = arguments
            return function(descriptor, data[: self._longest_write])
        return function(*arguments, **named)


@contextmanager
def under_files(layer: L) -> Iterator[L]:
    """Put a layer under the modules that read and write files."""
    there = os
    for module in (reading, writing):
        vars(module)["os"] = layer
    try:
        yield layer
    finally:
        for module in (reading, writing):
            vars(module)["os"] = there


def killing(_name: str) -> None:
    """End the process as the kernel does when memory is short: nothing is closed, nothing is written."""
    os.kill(os.getpid(), signal.SIGKILL)


def failing(number: int) -> Strike:
    """Return a strike that fails with a number of ``errno``."""

    def strike(_name: str) -> None:
        raise OSError(number, os.strerror(number))

    return strike
