"""Durable files: everything that a run saves is written and removed through this module.

A file is written under a temporary name, flushed to the disk and renamed, so that its name always refers to the old
or the new version as a whole. Links are not followed, and only regular files are opened.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
from pathlib import Path

from hookline.engine.files import CHUNK_BYTES, NO_LINKS, NO_WAITING, check_regular

TEMPORARY = ".tmp-"
"""Prefix of the names of unfinished files and folders."""


def write_file(path: Path, data: bytes | memoryview) -> None:
    """Write a new file, and flush it to the disk.

    Args:
        path: Path of the file.
        data: Its contents.

    Raises:
        FileExistsError: When the name is taken.
        OSError: When it cannot be written; then there is no such file.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINKS, 0o666)
    try:
        try:
            _write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def replace_file(path: Path, data: bytes | memoryview) -> None:
    """Write a file under a name that may be taken: a reader finds the old or the new version, complete.

    The contents are flushed to the disk before the rename, and the name after it.

    Raises:
        OSError: When it cannot be written; then the old version is unchanged. When only the name cannot be flushed,
            the new version is in place, but may not survive a loss of power.
    """
    new = beside(path)
    write_file(new, data)
    _take_name(new, path)
    sync_folder(path.parent)


def replace_link(path: Path, target: str) -> None:
    """Make ``path`` a symbolic link to ``target``, replacing an existing link.

    Raises:
        OSError: When it cannot be made, or ``path`` is something other than a link.
    """
    if os.path.lexists(path) and not path.is_symlink():
        raise FileExistsError(errno.EEXIST, "it exists and is not a link", str(path))
    new = beside(path)
    os.symlink(target, new)
    _take_name(new, path)


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk, on systems that can.

    Raises:
        OSError: When that fails.
    """
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot flush folders
            raise
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a new folder, without flushing its name.

    Raises:
        FileExistsError: When the name is taken.
    """
    os.mkdir(path)


def ensure_folder(path: Path) -> None:
    """Make a folder and its parents where they are missing, and flush their names to the disk.

    Raises:
        OSError: When that fails, or the name is taken by something else.
    """
    if path.is_dir():
        return
    ensure_folder(path.parent)
    try:
        os.mkdir(path)
    except FileExistsError:  # made by another program meanwhile
        if not path.is_dir():
            raise
    sync_folder(path.parent)


def move_folder(source: Path, target: Path) -> None:
    """Rename a folder within its parent, and flush the new name to the disk.

    Raises:
        OSError: When it cannot be renamed, or the new name is taken; then it keeps its old name.
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
    """Remove a file or a link.

    Raises:
        OSError: When it cannot be removed.
    """
    os.unlink(path)


def remove_folder(path: Path) -> None:
    """Remove a folder and its contents. It is renamed first, so that a part of it is never taken for the whole.

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
    """Return a unique temporary path next to ``path``."""
    return path.with_name(f"{TEMPORARY}{path.name[:40]}-{secrets.token_hex(4)}")


def _write(descriptor: int, data: bytes | memoryview, offset: int = 0) -> None:
    view = memoryview(data).cast("B")
    os.lseek(descriptor, offset, os.SEEK_SET)
    while view:
        view = view[os.write(descriptor, view[:CHUNK_BYTES]) :]


class AppendedFile:
    """A text file to which lines are appended.

    Lines that cannot be written are held back and written with the next ones, so none is lost or torn while the
    program lives. An incomplete last line, left by a killed program, is cut off when the file is opened.

    Args:
        path: Path of the file, which is created if it is missing.
        size: Number of bytes to keep from the start; default: all complete lines.

    Attributes:
        path: Path of the file.
        size: Its size in bytes.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self.path = path
        self._waiting: list[bytes] = []
        is_new = not os.path.lexists(path)
        flags = os.O_RDWR | os.O_CREAT | NO_LINKS | NO_WAITING
        self._descriptor: int | None = os.open(path, flags, 0o666)
        there = os.fstat(self._descriptor)
        try:
            check_regular(there, path)
            if is_new:
                sync_folder(path.parent)
        except OSError:
            self.close()
            raise
        whole = _end_of_lines(self._descriptor, there.st_size)
        self.size = whole if size is None else min(size, whole)
        if self.size < there.st_size:
            os.ftruncate(self._descriptor, self.size)

    def append(self, line: str) -> None:
        """Append a line.

        Raises:
            OSError: When it cannot be written now; it is held back.
        """
        self._waiting.append(line.encode(errors="backslashreplace") + b"\n")
        self.flush()

    def flush(self) -> None:
        """Write the lines held back.

        Raises:
            OSError: When they cannot be written now.
        """
        if not self._waiting or self._descriptor is None:
            return
        data = b"".join(self._waiting)
        try:
            _write(self._descriptor, data, self.size)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            raise
        self._waiting.clear()
        self.size += len(data)

    def sync(self) -> None:
        """Write the lines held back, and flush the file to the disk.

        Raises:
            OSError: When that fails.
        """
        self.flush()
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; lines that could not be written are lost."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):  # the descriptor is closed even so: close(2)
                os.close(descriptor)


def _take_name(new: Path, path: Path) -> None:
    try:
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def _end_of_lines(descriptor: int, size: int) -> int:
    """Return the offset at which the last complete line ends."""
    end = size
    while end > 0:
        start = max(end - CHUNK_BYTES, 0)
        os.lseek(descriptor, start, os.SEEK_SET)
        found = os.read(descriptor, end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
