"""The journal of a sweep: Optuna's, with a lock that ends with its holder, and mended after a crash.

Optuna appends each change as a line of JSON, and reads them all; it writes and loads no pickle with this storage. Two
of its weaknesses are mended here. Its lock is a file that a killed process leaves behind, which stops all others for
30 seconds; ours is held by the kernel. And a line that was cut off, by a power failure or a full disk, would be glued
to the next one, which makes the journal unreadable; the lock removes such a line before anything is appended.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from hookline import ConfigError
from hookline_plugins.optional import optional_package

JOURNAL = "journal.log"
_LOCK = ".journal-lock"


def open_journal(folder: Path) -> Any:
    """Return the journal in a folder, a ``JournalStorage`` of Optuna, which is created if it is missing.

    Raises:
        PluginError: When Optuna is not installed.
        ConfigError: When the journal cannot be read.
    """
    optuna = optional_package("optuna", "a sweep needs", "sweep")
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it prints a line for each trial
    path = folder / JOURNAL
    try:
        backend = optuna.storages.journal.JournalFileBackend(str(path), lock_obj=JournalLock(path))
        return optuna.storages.JournalStorage(backend)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        hint = "restore the file, or begin another sweep with --folder"
        raise ConfigError(f"{path} is damaged: {error}", hint=hint) from error


class JournalLock:
    """A lock beside a journal, held by the kernel: it is released when its holder ends, however it ends.

    On a file system without such locks, nobody is locked out.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._descriptor = -1

    def acquire(self) -> bool:
        """Wait for the lock, and remove a line of the journal that was cut off."""
        from filelock import lock_descriptor

        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        self._descriptor = os.open(self._journal.with_name(_LOCK), flags, 0o666)
        with contextlib.suppress(OSError):
            lock_descriptor(self._descriptor, poll_interval=0.005)
        _cut_torn_line(self._journal)
        return True

    def release(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)


def _cut_torn_line(path: Path) -> None:
    """Remove what follows the last line end of a file."""
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if not size or file.seek(size - 1) < 0 or file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
