"""The lock of a run folder: one program at a time works in it, and others see which one."""

from __future__ import annotations

import contextlib
import os
import platform
import stat
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from hookline.config.files import NO_LINKS, NO_WAITING, read_file, reason
from hookline.engine.errors import ConfigError, RunBusyError
from hookline.runs.disk.durable_files import place
from hookline.runs.disk.formats import NOT_JSON

LOCK = ".lock"
_MAX_LOCK_BYTES = 1000
_ORPHANS_S = 10.0
"""How long processes that load data may outlive the one that started them: torch has them check every 5 seconds."""
_GLANCE_S = 0.5
"""How long to retry: a program that checks whether a run is active holds its lock for an instant."""
_RETRY_S = 0.05
_NUM_LOOKS, _LOOK_S = 5, 0.01


class FileLock:
    """A lock on a file, held by the kernel: it is released when its holder ends, however it ends.

    On a file system without such locks, nobody is locked out.

    Args:
        path: Path of the file, which is created if it is missing and never removed.
        at: Descriptor of its folder; None to find it by its path.

    Raises:
        OSError: When the file cannot be created.
    """

    def __init__(self, path: Path, at: int | None = None) -> None:
        flags = os.O_RDWR | os.O_CREAT | NO_LINKS | NO_WAITING
        self._descriptor: int | None = os.open(place(path, at), flags, 0o666, dir_fd=at)

    def take(self, *, wait: bool = False) -> bool:
        """Take the lock; return False if it is held elsewhere and ``wait`` is off."""
        from filelock import lock_descriptor  # 25 ms, which commands that lock nothing need not pay

        assert self._descriptor is not None, "the lock was released"
        try:
            return lock_descriptor(self._descriptor, blocking=wait)
        except OSError:
            return True

    def sign(self, text: str) -> None:
        """Write the name of the holder into the file; a failure is ignored, because the text only informs."""
        assert self._descriptor is not None, "the lock was released"
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            return  # a file with a second name belongs to someone else too
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.write(self._descriptor, text.encode())

    def close(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):
                os.close(descriptor)


class _Holder(msgspec.Struct):
    """The program that holds the lock of a run, as written in its file."""

    host: str
    pid: int
    since: datetime


def is_at_work(path: Path, at: int | None = None) -> bool:
    """Return whether a program works in a run folder now; False where the system cannot say. Changes nothing.

    Args:
        path: The folder.
        at: Its descriptor; None to find it by its path.
    """
    from filelock import lock_descriptor

    try:
        descriptor = _open_existing(path / LOCK, at)
    except OSError:
        return False
    try:
        # Another check may hold the lock for an instant, so a single refusal proves nothing.
        for _ in range(_NUM_LOOKS):
            if lock_descriptor(descriptor, blocking=False):
                return False
            time.sleep(_LOOK_S)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def hold(path: Path, at: int | None = None) -> FileLock:
    """Lock a run folder, and return the lock.

    Args:
        path: The folder.
        at: Its descriptor; None to find it by its path.

    Raises:
        RunBusyError: When another program works in it.
        ConfigError: When it cannot be locked.
    """
    try:
        lock = FileLock(path / LOCK, at)
    except OSError as error:
        raise ConfigError(f"cannot lock run folder {path}: {LOCK}: {reason(error)}") from error
    begin = time.monotonic()
    while not lock.take():
        holder = _holder(path, at)
        # Processes that a killed program had started hold the lock for some more seconds.
        patience_s = _ORPHANS_S if holder and _is_dead(holder) else _GLANCE_S
        if time.monotonic() - begin >= patience_s:
            lock.close()
            raise _busy(path, holder)
        time.sleep(_RETRY_S)
    lock.sign(msgspec.json.encode(_Holder(platform.node(), os.getpid(), datetime.now(UTC))).decode())
    return lock


def _open_existing(path: Path, at: int | None) -> int:
    flags = NO_LINKS | NO_WAITING
    try:
        # NFS locks no file that is open only for reading.
        return os.open(place(path, at), os.O_RDWR | flags, dir_fd=at)
    except PermissionError:
        return os.open(place(path, at), os.O_RDONLY | flags, dir_fd=at)


def _holder(path: Path, at: int | None) -> _Holder | None:
    try:
        return msgspec.json.decode(read_file(path / LOCK, _MAX_LOCK_BYTES, at), type=_Holder)
    except (OSError, *NOT_JSON):
        return None


def _is_dead(holder: _Holder) -> bool:
    if holder.host != platform.node() or sys.platform == "win32":
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _busy(path: Path, holder: _Holder | None) -> RunBusyError:
    who = f" (process {holder.pid} on {holder.host}, since {holder.since:%Y-%m-%d %H:%M} UTC)" if holder else ""
    return RunBusyError(f"another program works in {path}{who}", hint="wait for it, or stop it first")
