"""Remove run folders, but no active run, no foreign files, and nothing behind a link."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hookline.config.files import reason
from hookline.engine.errors import ConfigError
from hookline.runs.disk import checkpoint
from hookline.runs.disk.checkpoint import CHECKPOINTS
from hookline.runs.disk.durable_files import TEMPORARY, opened_folder, remove_folder, remove_opened_folder
from hookline.runs.disk.formats import NOT_JSON
from hookline.runs.disk.occupancy import LOCK, FileLock, hold, is_at_work
from hookline.runs.folder import ARTIFACTS, CONFIG, DATA, DEBUG, LOG, METRICS, MODEL
from hookline.runs.names import NUMBERED, point_to_newest
from hookline.runs.record import RECORD, stored_record

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
    with _opened(path) as (_, inside):
        _check(path, inside, force=force)


def remove_run(path: Path, *, force: bool = False) -> None:
    """Remove a run folder. It is renamed first, so that a part of it is never taken for a run.

    The folder that is checked is the one that is emptied, even if its name becomes that of something else meanwhile.

    Args:
        path: The folder.
        force: As for ``check_removable``.

    Raises:
        RunBusyError: When a program works in it.
        ConfigError: When it must not or cannot be removed.
    """
    with _opened(path) as (parent, inside):
        _check(path, inside, force=force)
        lock = hold(path, inside)
        try:
            remove_opened_folder(path, parent, inside)
        except FileNotFoundError:
            return  # another removal took it for the remains of a killed one
        finally:
            lock.close()
            _clean_up(path.parent, parent)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int | None, int | None]]:
    """Yield the descriptors of the parent of a run folder, and of the folder itself.

    Raises:
        ConfigError: When an operation on a file fails, there or in the body.
    """
    try:
        with opened_folder(path.parent.resolve()) as parent, opened_folder(path, parent) as inside:
            yield parent, inside
    except OSError as error:
        hint = "what remains of it after a removal does not count as a run"
        raise ConfigError(f"{path} cannot be removed: {error.filename}: {reason(error)}", hint=hint) from error


def _check(path: Path, inside: int | None, *, force: bool) -> None:
    is_readable = True
    try:
        stored_record(path, inside)
    except ConfigError as error:
        # Without any record, it may be a folder of someone else with a number in its name.
        if not (force and NUMBERED.fullmatch(path.name) and isinstance(error.__cause__, NOT_JSON)):
            raise
        is_readable = False
    if is_at_work(path, inside):
        hold(path, inside).close()
    foreign = list(foreign_in(path, inside))
    if foreign and not (force and is_readable):
        named = ", ".join(str(entry.relative_to(path)) for entry in foreign[:_MAX_NAMED])
        more = f" and {len(foreign) - _MAX_NAMED} more" if len(foreign) > _MAX_NAMED else ""
        hint = "move them away, or remove them as well: --force" if is_readable else "it may not be a run folder at all"
        raise ConfigError(f"{path} contains files that do not belong to a run: {named}{more}", hint=hint)


def foreign_in(path: Path, at: int | None = None) -> Iterator[Path]:
    """Yield everything in a run folder that no run put there. Plugins may use any names for their files.

    Args:
        path: The folder.
        at: Its descriptor; None to find it by its path.
    """
    for entry in sorted(os.scandir(path if at is None else at), key=lambda entry: entry.name):
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder and entry.name == CHECKPOINTS:
            with opened_folder(path / entry.name, at) as inside:
                yield from checkpoint.foreign_in(path / entry.name, inside)
        elif is_folder and entry.name in _OPEN_FOLDERS:
            continue
        elif not (entry.is_file(follow_symlinks=False) and _is_own_file(entry.name)):
            yield path / entry.name


def _is_own_file(name: str) -> bool:
    return name in _FILES or _UNFINISHED_FILE.fullmatch(name) is not None


def _clean_up(parent: Path, at: int | None) -> None:
    """Point ``last`` at the newest run again, and remove the remains of killed removals."""
    if not (parent / LOCK).is_file():
        return  # not a folder of runs: the run was moved here
    # A failure is ignored: it is not what the command is for, and the next removal tries again.
    with contextlib.suppress(OSError), contextlib.closing(FileLock(parent / LOCK, at)) as lock:
        lock.take(wait=True)
        point_to_newest(parent)
        for entry in list(os.scandir(parent if at is None else at)):
            if _LEFT.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                remove_folder(parent / entry.name, at)
