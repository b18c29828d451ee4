"""List runs and checkpoints: one row each, with the changes from the previous run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hookline.engine.errors import CheckpointError, ConfigError, HooklineError
from hookline.runs.changes import Change, identity_changes
from hookline.runs.disk.checkpoint import CHECKPOINTS, Manifest, checkpoints_in, read_manifest
from hookline.runs.disk.occupancy import is_at_work
from hookline.runs.names import run_names
from hookline.runs.overview.notes import Notes, read_notes
from hookline.runs.record import RunRecord, read_record


@dataclass(frozen=True)
class RunRow:
    """One run folder.

    Attributes:
        path: Path of the folder.
        status: Status in the record; ``lost`` if that is ``running`` but no program works in the folder; or
            ``unreadable``.
        record: The record; None if it cannot be read.
        problem: The reason why it, or the notes, cannot be read.
        changes: Differences of the fingerprint from that of the previous run in the list.
        tags: The tags that people gave the run.
        note: Their note; empty without one.
    """

    path: Path
    status: str
    record: RunRecord | None = None
    problem: str | None = None
    changes: tuple[Change, ...] = ()
    tags: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class CheckpointRow:
    """One checkpoint of a run.

    Attributes:
        path: Its folder.
        size: Size of its files in bytes.
        manifest: Its manifest; None if that cannot be read.
        problem: The reason why it cannot be read. The files with the state are not verified.
    """

    path: Path
    size: int
    manifest: Manifest | None = None
    problem: str | None = None


def list_runs(
    parent: str | os.PathLike[str], newest: int | None = None, *, tags: Sequence[str] = (), text: str = ""
) -> tuple[list[RunRow], int]:
    """Return a row for each run folder in ``parent``, the newest last, and the number of those left out.

    Only the records of these runs and of the one before them are read.

    Args:
        parent: The folder of the runs.
        newest: Number of the newest runs to list; None for all.
        tags: List only runs with all these tags.
        text: List only runs with this text in their name, their tags or their note, in upper or lower case.

    Raises:
        ConfigError: When ``parent`` is not a folder.
    """
    parent = Path(parent)
    names = run_names(parent)
    if tags or text:
        names = [name for name in names if _notes(parent / name)[0].has(tags, text, name)]
    num_left_out = max(len(names) - newest, 0) if newest is not None else 0
    before = _row(parent / names[num_left_out - 1], None).record if num_left_out else None
    rows: list[RunRow] = []
    for name in names[num_left_out:]:
        rows.append(_row(parent / name, before))
        before = rows[-1].record or before
    return rows, num_left_out


def row_of(path: str | os.PathLike[str]) -> RunRow:
    """Return the row of one run, without its changes."""
    return _row(Path(path), None)


def checkpoint_rows(path: str | os.PathLike[str]) -> list[CheckpointRow]:
    """Return the checkpoints of a run folder, the newest last; a folder of them that cannot be read is one row."""
    folder = Path(path) / CHECKPOINTS
    try:
        return [_checkpoint_row(checkpoint) for checkpoint in reversed(checkpoints_in(folder))]
    except CheckpointError as error:
        return [CheckpointRow(folder, 0, problem=error.message)]


def _row(path: Path, before: RunRecord | None) -> RunRow:
    notes, problem = _notes(path)
    said: Any = {"tags": notes.tags, "note": notes.note}
    try:
        record = read_record(path)
    except ConfigError as error:
        # The row shows the path already.
        problem = error.message.removeprefix(f"{path}: ").removeprefix(f"{path} is ")
        return RunRow(path, "unreadable", problem=problem, **said)
    is_lost = record.status == "running" and not is_at_work(path)
    changes = tuple(identity_changes(before.identity, record.identity)) if before else ()
    return RunRow(path, "lost" if is_lost else record.status, record, problem, changes, **said)


def _notes(path: Path) -> tuple[Notes, str | None]:
    """Return the notes of a run, and why they cannot be read, which is no reason not to list it."""
    try:
        return read_notes(path), None
    except ConfigError as error:
        return Notes(), error.message.removeprefix(f"{path}{os.sep}")


def _checkpoint_row(path: Path) -> CheckpointRow:
    size = 0
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        size = sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    try:
        return CheckpointRow(path, size, read_manifest(path))
    except CheckpointError as error:
        return CheckpointRow(path, size, problem=_without_path(error, path))


def _without_path(error: HooklineError, path: Path) -> str:
    return error.message.removeprefix(f"{path} is ").removeprefix(f"{path}: ")
