"""Read files of bounded size without following links or waiting."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import sys
from pathlib import Path

from hookline.config.packed import is_bundle, read_member

NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # opening a named pipe would wait for its writer
CHUNK_BYTES = 2**20


def reason(error: OSError) -> str:
    """Return the system's message for a failed operation, with the symbol of its error number.

    >>> reason(OSError(28, "No space left on device"))
    'No space left on device (ENOSPC)'
    """
    name = errno.errorcode.get(error.errno or 0)
    return f"{error.strerror or error}" + (f" ({name})" if name else "")


def read_file(path: Path, max_bytes: int, at: int | None = None) -> bytes:
    """Return the contents of a regular file, in the folder of the descriptor ``at`` if one is given.

    The folder may be a bundle: ``houses.zip/run.json``.

    Raises:
        OSError: When it cannot be read, is a link or not a regular file, or is larger than ``max_bytes``.
    """
    try:
        descriptor = os.open(path if at is None else path.name, os.O_RDONLY | NO_LINKS | NO_WAITING, dir_fd=at)
    except NotADirectoryError:
        if not is_bundle(path.parent):
            raise
        with path.parent.open("rb") as stream:
            return read_member(stream, path.name, min(max_bytes, memory_bytes()))
    try:
        status = os.fstat(descriptor)
        check_regular(status, path)
        if status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"it has {status.st_size} bytes, the limit is {max_bytes}", str(path))
        too_large = OSError(errno.ENOMEM, f"its {status.st_size} bytes do not fit into memory", str(path))
        if status.st_size > memory_bytes():  # the system would end the program, not the reading
            raise too_large
        try:
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                # One byte more than expected, to notice a file that grows while it is read.
                data = stream.read(status.st_size + 1)
        except MemoryError as error:
            raise too_large from error
        if len(data) != status.st_size:
            raise OSError(errno.EIO, f"it changed while being read: {status.st_size} bytes", str(path))
        return data
    finally:
        os.close(descriptor)


@functools.cache
def memory_bytes() -> int:
    """Return the size of the memory: of the machine, or of the container if that is smaller."""
    sizes = []
    with contextlib.suppress(AttributeError, OSError, ValueError):  # not every system can say
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):  # "max" is no limit
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(sizes, default=sys.maxsize)


def check_regular(status: os.stat_result, path: Path | str) -> None:
    """Check that a file is a regular one.

    Raises:
        OSError: When it is not.
    """
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
