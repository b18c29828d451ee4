"""Durable files: everything that a run saves is written and removed through this module.

A file is written under a temporary name, flushed to the disk and renamed, so that its name always refers to the old
or the new version as a whole. Links are not followed, and only regular files are opened.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from hookline.config.files import CHUNK_BYTES, NO_LINKS, NO_WAITING, check_regular

TEMPORARY = ".tmp-"
"""Prefix of the names of unfinished files and folders."""

_MAX_LINE_BYTES = 2**26
"""How much of a file is searched for its last line end: more than the longest line that a run writes."""

_HAS_DESCRIPTORS = os.open in os.supports_dir_fd


def write_file(path: Path, data: bytes | memoryview, at: int | None = None) -> None:
    """Write a new file, and flush it to the disk.

    Args:
        path: Path of the file.
        data: Its contents.
        at: Descriptor of its folder; None to find it by its path.

    Raises:
        FileExistsError: When the name is taken.
        OSError: When it cannot be written; then there is no such file.
    """
    write_pieces(path, [data], at)


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview], at: int | None = None) -> None:
    """Write a new file of which the contents are in several places, as ``write_file`` does."""
    descriptor = os.open(place(path, at), os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINKS, 0o666, dir_fd=at)
    try:
        try:
            size = 0
            for data in pieces:
                _write(descriptor, data, size)
                size += len(data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(place(path, at), dir_fd=at)
        raise


def replace_file(path: Path, data: bytes | memoryview) -> None:
    """Write a file under a name that may be taken: a reader finds the old or the new version, complete.

    The contents are flushed to the disk before the rename, and the name after it.

    Raises:
        OSError: When it cannot be written; then the old version is unchanged. When only the name cannot be flushed,
            the new version is in place, but may not survive a loss of power.
    """
    new = beside(path)
    with opened_folder(path.parent) as at:
        write_file(new, data, at)
        _take_name(new, path, at)
        flush_folder(path.parent, at)


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
        flush_folder(path, descriptor)
    finally:
        os.close(descriptor)


def flush_folder(path: Path, at: int | None) -> None:
    """Flush the names in the folder of a descriptor to the disk, or without one those in ``path``.

    Raises:
        OSError: When that fails.
    """
    if at is None:
        sync_folder(path)
        return
    try:
        os.fsync(at)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot flush folders
            raise


def file_sum(path: Path) -> tuple[int, str]:
    """Return the size of a regular file, and its SHA-256 in hexadecimal digits; it is not read into memory as a whole.

    Raises:
        OSError: When it cannot be read, or is a link or not a regular file.
    """
    with _opened(path) as stream:
        return os.fstat(stream.fileno()).st_size, hashlib.file_digest(stream, "sha256").hexdigest()


def check_written(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Read a file again, and compare it with what was written to it.

    Raises:
        OSError: When it cannot be read, or has other contents.
    """
    with _opened(path) as stream:
        for data in pieces:
            for start in range(0, len(data), CHUNK_BYTES):
                wanted = bytes(data[start : start + CHUNK_BYTES])
                if stream.read(len(wanted)) != wanted:
                    raise OSError(errno.EIO, "it does not have what was written to it", str(path))
        if stream.read(1):
            raise OSError(errno.EIO, "it has more than was written to it", str(path))


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    descriptor = os.open(path, os.O_RDONLY | NO_LINKS | NO_WAITING)
    try:
        check_regular(os.fstat(descriptor), path)
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(descriptor)


def make_folder(path: Path, at: int | None = None) -> None:
    """Make a new folder, in that of the descriptor ``at`` if one is given, without flushing its name.

    Raises:
        FileExistsError: When the name is taken.
    """
    os.mkdir(place(path, at), dir_fd=at)


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


def move_folder(source: Path, target: Path, at: int | None = None) -> None:
    """Rename a folder within its parent, and flush the new name to the disk.

    Args:
        source: Its path.
        target: Its new path.
        at: Descriptor of its parent; None to find it by its path.

    Raises:
        OSError: When it cannot be renamed, or the new name is taken; then it keeps its old name.
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(place(source, at), place(target, at), src_dir_fd=at, dst_dir_fd=at)
    try:
        flush_folder(target.parent, at)
    except BaseException:
        with contextlib.suppress(OSError):
            os.rename(place(target, at), place(source, at), src_dir_fd=at, dst_dir_fd=at)
        raise


def remove_file(path: Path) -> None:
    """Remove a file or a link.

    Raises:
        OSError: When it cannot be removed.
    """
    os.unlink(path)


@contextmanager
def opened_folder(path: Path, at: int | None = None) -> Iterator[int | None]:
    """Yield a descriptor of a folder: it stays that of this folder, whatever takes the name of the folder meanwhile.

    A link is not followed. On systems without such descriptors it is None, which stands for the path.

    Args:
        path: Path of the folder.
        at: Descriptor of its parent; None to find it by its path.

    Raises:
        OSError: When it cannot be opened, or is not a folder.
    """
    if not _HAS_DESCRIPTORS:
        yield None
        return
    descriptor = os.open(place(path, at), os.O_RDONLY | os.O_DIRECTORY | NO_LINKS, dir_fd=at)
    try:
        yield descriptor
    finally:
        with contextlib.suppress(OSError):  # it was open for names alone, and is closed even so: close(2)
            os.close(descriptor)


def place(path: Path, at: int | None) -> Path | str:
    """Return how to name ``path`` in a call: by its name in the folder of a descriptor, or as it is without one."""
    return path if at is None else path.name


def remove_folder(path: Path, at: int | None = None) -> None:
    """Remove a folder and its contents. It is renamed first, so that a part of it is never taken for the whole.

    Args:
        path: Path of the folder.
        at: Descriptor of its parent; None to find it by its path.

    Raises:
        OSError: When it cannot be removed.
    """
    with opened_folder(path, at) as inside:
        remove_opened_folder(path, at, inside)


def remove_opened_folder(path: Path, at: int | None, inside: int | None) -> None:
    """Remove a folder as ``remove_folder`` does, and the contents of the descriptor ``inside``, whatever its name.

    Raises:
        OSError: When it cannot be removed.
    """
    doomed = path
    if not path.name.startswith(TEMPORARY):
        doomed = beside(path)
        os.rename(place(path, at), place(doomed, at), src_dir_fd=at, dst_dir_fd=at)
    _empty(doomed, inside)
    os.rmdir(place(doomed, at), dir_fd=at)


def _empty(folder: Path, at: int | None) -> None:
    for entry in list(os.scandir(folder if at is None else at)):
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            with opened_folder(path, at) as inside:
                _empty(path, inside)
            os.rmdir(place(path, at), dir_fd=at)
        else:
            os.unlink(place(path, at), dir_fd=at)


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

    def __init__(self, path: str | os.PathLike[str], size: int | None = None) -> None:
        self.path = Path(path)
        self._waiting: list[bytes] = []
        self._process = os.getpid()
        is_new = not os.path.lexists(path)
        flags = os.O_RDWR | os.O_CREAT | NO_LINKS | NO_WAITING
        self._descriptor: int | None = os.open(path, flags, 0o666)
        there = os.fstat(self._descriptor)
        try:
            _check_own(there, self.path)
            if is_new:
                sync_folder(self.path.parent)
        except OSError:
            self.close()
            raise
        whole = _end_of_lines(self._descriptor, there.st_size)
        if whole is None:  # what follows is a line of its own
            self._waiting.append(b"\n")
            whole = there.st_size
        self.size = whole if size is None else min(size, whole)
        if self.size < there.st_size:
            os.ftruncate(self._descriptor, self.size)

    def read(self, max_bytes: int) -> bytes:
        """Return at most so many bytes from the start of the file.

        Raises:
            OSError: When it cannot be read.
        """
        assert self._descriptor is not None, "the file was closed"
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        rest = min(max_bytes, self.size)
        pieces = []
        while rest > 0 and (piece := os.read(self._descriptor, min(rest, CHUNK_BYTES))):
            pieces.append(piece)
            rest -= len(piece)
        return b"".join(pieces)

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
        if os.getpid() != self._process:
            raise OSError(errno.EPERM, "this process is a fork of the one that opened it", str(self.path))
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


def _take_name(new: Path, path: Path, at: int | None = None) -> None:
    try:
        os.replace(place(new, at), place(path, at), src_dir_fd=at, dst_dir_fd=at)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(place(new, at), dir_fd=at)
        raise


def _check_own(status: os.stat_result, path: Path) -> None:
    check_regular(status, path)
    if status.st_nlink > 1:
        raise OSError(errno.EMLINK, "it has a second name, a hard link, and both would change", str(path))


def _end_of_lines(descriptor: int, size: int) -> int | None:
    """Return the offset at which the last complete line ends; None if the incomplete one after it is too long."""
    end, first = size, max(size - _MAX_LINE_BYTES, 0)
    while end > first:
        start = max(end - CHUNK_BYTES, 0)
        os.lseek(descriptor, start, os.SEEK_SET)
        found = os.read(descriptor, end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return None if first else 0
