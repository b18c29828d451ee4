"""Remove run folders, but no active run, no foreign files, and nothing behind a link."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from hookline.engine.errors import ConfigError
from hookline.engine.files import reason
from hookline.runs.disk import checkpoint
from hookline.runs.disk.checkpoint import CHECKPOINTS
from hookline.runs.disk.durable_files import TEMPORARY, remove_folder
from hookline.runs.disk.occupancy import LOCK, FileLock, hold, is_at_work
from hookline.runs.folder import ARTIFACTS, CONFIG, DATA, DEBUG, LOG, METRICS, MODEL
from hookline.runs.names import NUMBERED, point_to_newest
from hookline.runs.record import RECORD, read_record

_FILES = (LOCK, RECORD, CONFIG, METRICS, LOG, DATA, MODEL)
_UNFINISHED_FILE = re.compile(rf"{re.escape(TEMPORARY)}({'|'.join(map(re.escape, _FILES))})-[0-9a-f]{{8}}")
_OPEN_FOLDERS = (DEBUG, ARTIFACTS)
_LEFT = re.compile(rf"{re.escape(TEMPORARY)}[0-9]{{4,9}}-.*-[0-9a-f]{{8}}")
_MAX_NAMED = 10


def check_removable(path: Path, *, force: bool = False) -> None:
    """Check that a folder is a run folder, is not in use, and contains only files of the run.

    Args:
        path: The folder.
        force: Whether it may also contain other files, or have a record that cannot be read; not both.

    Raises:
        RunBusyError: When a program works in it.
        ConfigError: When it must not be removed, with the reason.
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
        hint = "move them away, or remove them as well: --force" if is_readable else "it may not be a run folder at all"
        raise ConfigError(f"{path} contains files that do not belong to a run: {named}{more}", hint=hint)


def remove_run(path: Path, *, force: bool = False) -> None:
    """Remove a run folder. It is renamed first, so that a part of it is never taken for a run.

    Args:
        path: The folder.
        force: As for ``check_removable``.

    Raises:
        RunBusyError: When a program works in it.
        ConfigError: When it must not or cannot be removed.
    """
    check_removable(path, force=force)
    lock = hold(path)
    try:
        remove_folder(path)
    except FileNotFoundError:
        return  # another removal took it for the remains of a killed one
    except OSError as error:
        hint = "its remains do not count as a run"
        raise ConfigError(f"{path} cannot be removed: {error.filename}: {reason(error)}", hint=hint) from error
    finally:
        lock.close()
        _clean_up(path.parent)


def foreign_in(path: Path) -> Iterator[Path]:
    """Yield everything in a run folder that no run put there. Plugins may use any names for their files."""
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder and entry.name == CHECKPOINTS:
            yield from checkpoint.foreign_in(Path(entry.path))
        elif is_folder and entry.name in _OPEN_FOLDERS:
            continue
        elif not (entry.is_file(follow_symlinks=False) and _is_own_file(entry.name)):
            yield Path(entry.path)


def _is_own_file(name: str) -> bool:
    return name in _FILES or _UNFINISHED_FILE.fullmatch(name) is not None


def _clean_up(parent: Path) -> None:
    """Point ``last`` at the newest run again, and remove the remains of killed removals."""
    if not (parent / LOCK).is_file():
        return  # not a folder of runs: the run was moved here
    # A failure is ignored: it is not what the command is for, and the next removal tries again.
    with contextlib.suppress(OSError), contextlib.closing(FileLock(parent / LOCK)) as lock:
        lock.take(wait=True)
        point_to_newest(parent)
        for entry in list(os.scandir(parent)):
            if _LEFT.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                remove_folder(Path(entry.path))
