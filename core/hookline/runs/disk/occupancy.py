"""The lock of a run folder: one program at a time works in it, and says who it is."""

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
"""How long processes that read data may outlive the one that they read for: torch has them look every 5 seconds."""
_GLANCE_S = 0.5
"""How long a lock is asked for again: who looks whether a run is at work holds it for an instant."""


class _Holder(msgspec.Struct):
    """Who holds the lock of a run, as its file says."""

    host: str
    pid: int
    since: datetime


def sign(lock: FileLock) -> None:
    """Write down, in the file of a lock that is held, who holds it."""
    lock.sign(msgspec.json.encode(_Holder(platform.node(), os.getpid(), datetime.now(UTC))).decode())


def is_at_work(path: Path) -> bool:
    """Whether some program works in a run folder now; False where that cannot be told."""
    return is_locked(path / LOCK)


def hold(path: Path) -> FileLock:
    """Return the lock of a run folder, taken.

    Raises:
        RunBusyError: When another program works in it.
        ConfigError: When there can be no lock.
    """
    try:
        lock = FileLock(path / LOCK)
    except OSError as error:
        raise ConfigError(f"nobody can work in {path}: {LOCK}: {reason(error)}") from error
    begin = time.monotonic()
    while not lock.take():
        holder = _holder(path)
        # Processes that a killed program had started hold it for some seconds more.
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
