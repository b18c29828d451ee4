"""The lock of a run folder: one program at a time works in it, and others see which one."""

from __future__ import annotations

import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from hookline.engine.errors import ConfigError, RunBusyError
from hookline.engine.files import read_file, reason
from hookline.runs.disk.durable_files import FileLock, is_locked

LOCK = ".lock"
_MAX_LOCK_BYTES = 1000
_ORPHANS_S = 10.0
"""How long processes that load data may outlive the one that started them: torch has them check every 5 seconds."""
_GLANCE_S = 0.5
"""How long to retry: a program that checks whether a run is active holds its lock for an instant."""


class _Holder(msgspec.Struct):
    """The program that holds the lock of a run, as written in its file."""

    host: str
    pid: int
    since: datetime


def sign(lock: FileLock) -> None:
    """Write this program into the file of a lock that it holds."""
    lock.sign(msgspec.json.encode(_Holder(platform.node(), os.getpid(), datetime.now(UTC))).decode())


def is_at_work(path: Path) -> bool:
    """Return whether a program works in a run folder now; False where the system cannot say."""
    return is_locked(path / LOCK)


def hold(path: Path) -> FileLock:
    """Lock a run folder, and return the lock.

    Raises:
        RunBusyError: When another program works in it.
        ConfigError: When it cannot be locked.
    """
    try:
        lock = FileLock(path / LOCK)
    except OSError as error:
        raise ConfigError(f"cannot lock run folder {path}: {LOCK}: {reason(error)}") from error
    begin = time.monotonic()
    while not lock.take():
        holder = _holder(path)
        # Processes that a killed program had started hold the lock for some more seconds.
        patience_s = _ORPHANS_S if holder and _is_dead(holder) else _GLANCE_S
        if time.monotonic() - begin >= patience_s:
            lock.close()
            raise _busy(path, holder)
        time.sleep(0.05)
    sign(lock)
    return lock


def _holder(path: Path) -> _Holder | None:
    try:
        return msgspec.json.decode(read_file(path / LOCK, _MAX_LOCK_BYTES), type=_Holder)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
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
