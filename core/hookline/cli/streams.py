"""Standard streams of the command line: open from the start, and replaced by the null device when they fail."""

from __future__ import annotations

import contextlib
import io
import os
import select
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from hookline.config.files import reason
from hookline.engine.errors import ConfigError, HooklineError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STREAMS = {0: "stdin", 1: "stdout", 2: "stderr"}
_SUFFIXES = {b"PAR1": ".parquet", b"PK\x03\x04": ".npz"}
"""Suffixes of files by their first four bytes; all others are text."""


def open_streams() -> None:
    """Open the null device for each standard stream that is closed, and print what an encoding lacks with escapes.

    Otherwise the next file that is opened takes the descriptor, and gets the text that libraries print.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= max(_STREAMS):
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in _STREAMS.items():
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 - like the one it replaces
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def outlasted_output() -> Iterator[None]:
    """Continue without standard output or standard error when one of them fails, after a warning if that is possible.

    For commands whose output only shows the work: a full disk below a log, a closed pipe or a lost terminal must not
    end a run.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_outlasted, before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def standard_input_file() -> Iterator[Path]:
    """Yield a file with the content of standard input, which readers may read from any position; then remove it.

    Errors that are raised meanwhile call the file ``stdin``.

    Raises:
        ConfigError: When standard input is a terminal, or cannot be read.
    """
    if sys.stdin.isatty():
        hint = "pipe a file into the command, or name it"
        raise ConfigError("the input is to be read from standard input, which is a terminal", hint=hint)
    with tempfile.TemporaryDirectory(prefix="hookline-") as folder:
        source = sys.stdin.buffer
        try:
            head = source.read(4)
            path = Path(folder, f"stdin{_SUFFIXES.get(head, '.csv')}")
            with path.open("wb") as file:
                file.write(head)
                shutil.copyfileobj(source, file)
        except OSError as error:
            raise ConfigError(f"standard input cannot be copied to a file: {reason(error)}") from error
        try:
            yield path
        except HooklineError as error:
            error.faults = tuple(
                replace(fault, location=replace(fault.location, source="stdin"))
                if fault.location and fault.location.source == str(path)
                else fault
                for fault in error.faults
            )
            raise


def discard_unwritten() -> None:
    """Discard the output that could not be written: the interpreter would try again at its end, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _discard(stream.fileno())


def _outlasted(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        number = stream.fileno()
    except io.UnsupportedOperation:
        return stream  # in memory, where a program collects it
    return io.TextIOWrapper(
        io.BufferedWriter(_Outlasted(number, "w", closefd=False)),
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering or stream is sys.stderr,
    )


class _Outlasted(io.FileIO):
    """A descriptor to write to, replaced by the null device when it fails."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write data as ``io.FileIO`` does, waiting for a descriptor that does not block."""
        try:
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as error:
            written = memoryview(data).nbytes
            _discard(self.fileno())
            if self.fileno() == 1:
                text = f"warning: standard output cannot be written: {reason(error)}; continuing without it\n"
                with contextlib.suppress(OSError):
                    os.write(2, text.encode())
        return written


def _discard(descriptor: int) -> None:
    """Make a descriptor refer to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
