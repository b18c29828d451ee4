"""Read files of bounded size without following links or waiting."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # the opening of a named pipe would wait for whoever writes it
_CHUNK = 2**20


def reason(error: OSError) -> str:
    """Return what the system says of a failed operation, with the name of its number.

    >>> reason(OSError(28, "No space left on device"))
    'No space left on device (ENOSPC)'
    """
    name = errno.errorcode.get(error.errno or 0)
    return f"{error.strerror or error}" + (f" ({name})" if name else "")


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return what a regular file holds.

    Raises:
        OSError: When it cannot be read, is a link or no regular file, or has more than ``max_bytes``.
    """
    descriptor = os.open(path, os.O_RDONLY | _NO_LINKS | _NO_WAITING)
    try:
        status = os.fstat(descriptor)
        _check_regular(status, path)
        if status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"it has {status.st_size} bytes, and may have {max_bytes}", str(path))
        try:
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                # One more than there may be: it could grow while it is read.
                data = stream.read(status.st_size + 1)
        except MemoryError as error:
            raise OSError(errno.ENOMEM, f"memory cannot hold its {status.st_size} bytes", str(path)) from error
        if len(data) != status.st_size:
            raise OSError(errno.EIO, f"it changed while it was read: {status.st_size} bytes", str(path))
        return data
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> Iterator[bytes]:
    """Give the whole lines of a regular file, without their ends; only a piece of it is in memory at a time.

    What stands behind the last end of a line is left out, for it is torn, and so is a line of more than a MiB.

    Raises:
        OSError: When it cannot be read, is a link or no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | _NO_LINKS | _NO_WAITING)
    try:
        _check_regular(os.fstat(descriptor), path)
        rest, is_too_long = b"", False
        while piece := os.read(descriptor, _CHUNK):
            *lines, rest = (rest + piece).split(b"\n")
            if lines and is_too_long:
                del lines[0]
                is_too_long = False
            yield from lines
            if len(rest) > _CHUNK:
                rest, is_too_long = b"", True
    finally:
        os.close(descriptor)


def _check_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
