"""Removing run folders: nothing that is at work, nothing that no run put there, and nothing behind a link."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from hookline.engine.errors import ConfigError
from hookline.engine.files import reason
from hookline.runs.disk import checkpoint
from hookline.runs.disk.durable_files import TEMPORARY, FileLock, remove_folder
from hookline.runs.disk.occupancy import LOCK, hold, is_at_work
from hookline.runs.folder import CONFIG, DATA, LOG, METRICS, MODEL
from hookline.runs.names import NUMBERED, point_to_newest
from hookline.runs.record import RECORD, read_record

_FILES = (LOCK, RECORD, CONFIG, METRICS, LOG, DATA, MODEL)
_UNFINISHED_FILE = re.compile(rf"{re.escape(TEMPORARY)}({'|'.join(map(re.escape, _FILES))})-[0-9a-f]{{8}}")
_OPEN_FOLDERS = ("debug", "artifacts")
_LEFT = re.compile(rf"{re.escape(TEMPORARY)}[0-9]{{4,9}}-.*-[0-9a-f]{{8}}")
_MAX_NAMED = 10


def check_removable(path: Path, *, force: bool = False) -> None:
    """Check that a folder is that of a run that is over, with nothing in it but what a run puts there.

    Args:
        path: The folder.
        force: Whether it may also hold other files, or have a record that cannot be read; not both.

    Raises:
        RunBusyError: When a program works in it.
        ConfigError: When it may not be removed, with what is in the way.
    """
    is_readable = True
    try:
        read_record(path)
    except ConfigError:
        if not (force and NUMBERED.fullmatch(path.name) and path.is_dir() and not path.is_symlink()):
            raise
        is_readable = False
    if is_at_work(path):
        hold(path).close()
    foreign = list(foreign_in(path))
    if foreign and not (force and is_readable):
        named = ", ".join(str(entry.relative_to(path)) for entry in foreign[:_MAX_NAMED])
        more = f" and {len(foreign) - _MAX_NAMED} more" if len(foreign) > _MAX_NAMED else ""
        hint = "move them away, or remove them, too: --force" if is_readable else "it may be no run folder at all"
        raise ConfigError(f"{path} holds what no run put there: {named}{more}", hint=hint)


def remove_run(path: Path, *, force: bool = False) -> None:
    """Remove a run folder. It loses its name first, so that a part of it never counts as a run.

    Args:
        path: The folder.
        force: As for ``check_removable``.

    Raises:
        RunBusyError: When a program works in it.
        ConfigError: When it may not, or cannot, be removed.
    """
    check_removable(path, force=force)
    lock = hold(path)
    try:
        remove_folder(path)
    except FileNotFoundError:
        return  # another removal took it for what a killed one had left
    except OSError as error:
        hint = "whatever is left of it does not count as a run"
        raise ConfigError(f"{path} cannot be removed: {error.filename}: {reason(error)}", hint=hint) from error
    finally:
        lock.close()
        _mend(path.parent)


def foreign_in(path: Path) -> Iterator[Path]:
    """Give what lies in a run folder that no run put there. What plugins keep in it is theirs to name."""
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder and entry.name == "checkpoints":
            yield from checkpoint.foreign_in(Path(entry.path))
        elif is_folder and entry.name in _OPEN_FOLDERS:
            continue
        elif not (entry.is_file(follow_symlinks=False) and _is_own_file(entry.name)):
            yield Path(entry.path)


def _is_own_file(name: str) -> bool:
    return name in _FILES or _UNFINISHED_FILE.fullmatch(name) is not None


def _mend(parent: Path) -> None:
    """Let ``last`` be the newest again, and remove what killed removals left."""
    if not (parent / LOCK).is_file():
        return  # it is no folder of runs: this one was moved there
    # Nothing of this is why the command was given, and the next removal does it again.
    with contextlib.suppress(OSError), contextlib.closing(FileLock(parent / LOCK)) as lock:
        lock.take(wait=True)
        point_to_newest(parent)
        for entry in list(os.scandir(parent)):
            if _LEFT.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                remove_folder(Path(entry.path))
