"""Files that survive: the one place through which everything that a run keeps is written, read and removed.

A file is written whole beside its place, flushed to the disk and renamed, so that under its name there is always the
old one or the new one. Links are not followed, and what is no regular file is not opened for reading.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
from pathlib import Path

from hookline.engine.files import _CHUNK, _NO_LINKS, _NO_WAITING, _check_regular

if sys.platform != "win32":
    import fcntl
TEMPORARY = ".tmp-"
"""How the names of what is not finished begin."""


def write_file(path: Path, data: bytes | memoryview, *, flush: bool = True) -> None:
    """Write a new file, and flush it to the disk.

    Args:
        path: Where it is to be.
        data: What it is to hold.
        flush: Whether it must survive the loss of power, too, and not only the end of the program.

    Raises:
        FileExistsError: When there is something of that name.
        OSError: When it cannot be written; then there is no such file.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o666)
    try:
        try:
            _write(descriptor, data)
            if flush:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def replace_file(path: Path, data: bytes | memoryview, *, flush: bool = True) -> None:
    """Write a file under a name that may be taken: whoever reads it finds the old one or the new one, whole.

    With ``flush`` it is flushed to the disk before it takes the name, and the name after that.

    Raises:
        OSError: When it cannot be written; then the old one is there as before. When only its name cannot be flushed,
            the new one is there, and may not outlive a loss of power.
    """
    new = beside(path)
    write_file(new, data, flush=flush)
    _take_name(new, path)
    if flush:
        sync_folder(path.parent)


def replace_link(path: Path, target: str) -> None:
    """Make ``path`` a symbolic link to ``target``, in the place of the link that is there.

    Raises:
        OSError: When it cannot be made, or there is something else than a link.
    """
    if os.path.lexists(path) and not path.is_symlink():
        raise FileExistsError(errno.EEXIST, "there is something that is no link", str(path))
    new = beside(path)
    os.symlink(target, new)
    _take_name(new, path)


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk.

    Raises:
        OSError: When that fails. Not on systems where a folder cannot be flushed.
    """
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _NO_LINKS)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that have no such thing
            raise
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a new folder.

    Raises:
        FileExistsError: When there is something of that name.
    """
    os.mkdir(path)


def move_folder(source: Path, target: Path) -> None:
    """Rename a folder within its parent, and flush the new name to the disk.

    Raises:
        OSError: When it cannot be renamed, or there is something of that name; then it has its old name.
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)
    try:
        sync_folder(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.rename(target, source)
        raise


def remove_file(path: Path) -> None:
    """Remove a file, or a link.

    Raises:
        OSError: When it cannot be removed.
    """
    os.unlink(path)


def remove_folder(path: Path) -> None:
    """Remove a folder of files. It loses its name first, so that a part of it never counts as the whole.

    Raises:
        OSError: When it cannot be removed.
    """
    doomed = path
    if not path.name.startswith(TEMPORARY):
        doomed = beside(path)
        os.rename(path, doomed)
    for entry in list(os.scandir(doomed)):
        if entry.is_dir(follow_symlinks=False):
            remove_folder(Path(entry.path))
        else:
            os.unlink(entry.path)
    os.rmdir(doomed)


def beside(path: Path) -> Path:
    """Return a path beside ``path`` that nobody else has, for what is not finished."""
    return path.with_name(f"{TEMPORARY}{path.name[:40]}-{secrets.token_hex(4)}")


def _write(descriptor: int, data: bytes | memoryview, offset: int = 0) -> None:
    view = memoryview(data).cast("B")
    os.lseek(descriptor, offset, os.SEEK_SET)
    while view:
        view = view[os.write(descriptor, view[:_CHUNK]) :]


class AppendedFile:
    """A file of lines that grows.

    Lines that could not be written are kept, and written with the next ones: none is lost or torn while the program
    lives. What a killed program tore is cut off when the file is opened.

    Args:
        path: Where it is; made if it is not there.
        size: Number of bytes at the beginning that are kept; default: all whole lines.

    Attributes:
        path: Where it is.
        size: Number of bytes that it has.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self.path = path
        self._waiting: list[bytes] = []
        flags = os.O_RDWR | os.O_CREAT | _NO_LINKS | _NO_WAITING
        self._descriptor: int | None = os.open(path, flags, 0o666)
        there = os.fstat(self._descriptor)
        try:
            _check_regular(there, path)
        except OSError:
            self.close()
            raise
        whole = _end_of_lines(self._descriptor, there.st_size)
        self.size = whole if size is None else min(size, whole)
        if self.size < there.st_size:
            os.ftruncate(self._descriptor, self.size)

    def append(self, line: str) -> None:
        """Add a line.

        Raises:
            OSError: When it cannot be written now; it is kept.
        """
        self._waiting.append(line.encode(errors="backslashreplace") + b"\n")
        self.flush()

    def flush(self) -> None:
        """Write the lines that are kept.

        Raises:
            OSError: When they cannot be written now.
        """
        if not self._waiting or self._descriptor is None:
            return
        data = b"".join(self._waiting)
        try:
            _write(self._descriptor, data, self.size)
        except OSError:
            # A part of a line is no line.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            raise
        self._waiting.clear()
        self.size += len(data)

    def sync(self) -> None:
        """Write the lines that are kept, and flush the file to the disk.

        Raises:
            OSError: When that fails.
        """
        self.flush()
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; what could not be written is lost."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):  # the descriptor is gone nevertheless: close(2)
                os.close(descriptor)


def _take_name(new: Path, path: Path) -> None:
    try:
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def _end_of_lines(descriptor: int, size: int) -> int:
    """Return where the last whole line ends."""
    end = size
    while end > 0:
        start = max(end - _CHUNK, 0)
        os.lseek(descriptor, start, os.SEEK_SET)
        found = os.read(descriptor, end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


class FileLock:
    """A lock that a file stands for, kept by the kernel: it is free when its holder is gone, however that went.

    Where the file system knows no such lock, nobody is kept out.

    Args:
        path: The file; made if it is not there, and left.

    Raises:
        OSError: When the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINKS | _NO_WAITING, 0o666)

    def take(self, *, wait: bool = False) -> bool:
        """Take the lock; return False if another holds it and ``wait`` is off."""
        assert self._descriptor is not None, "the lock was given back"
        if sys.platform == "win32":
            return True
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
        return True

    def sign(self, text: str) -> None:
        """Write into the file who holds the lock; it is only told, so a failure is passed over."""
        assert self._descriptor is not None, "the lock was given back"
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            _write(self._descriptor, text.encode())

    def close(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):
                os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock that a file stands for; False where that cannot be told. Changes nothing.

    Whoever looks holds the lock for an instant, together with all others who look.
    """
    if sys.platform == "win32":
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_LINKS | _NO_WAITING)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(descriptor)
    return False
