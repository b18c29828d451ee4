"""A glance at a run: what a list of thousands shows of each, without decoding the rest of its record."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from hookline.config.files import read_file
from hookline.engine.errors import ConfigError
from hookline.runs.disk.formats import NOT_JSON, Moment
from hookline.runs.disk.occupancy import is_at_work
from hookline.runs.listing import RunRow, row_of
from hookline.runs.overview.notes import NOTES, Notes, read_notes
from hookline.runs.record import MAX_RECORD_BYTES, RECORD, BestValue, RunRecord, Status


class Glance(msgspec.Struct, frozen=True, kw_only=True):
    """One run in a list of many.

    Attributes:
        status: Status in the record; ``lost`` if that is ``running`` but no program works in the folder; or
            ``unreadable``.
        problem: The reason why the record or the notes cannot be read; empty if they can.
        epochs: Number of epochs completed.
        num_epochs: Number of epochs requested.
        step: Number of steps taken.
        time_s: Total time of all attempts, in seconds.
        started: Start time of the first attempt, in UTC; None if it is unknown.
        metrics: Metrics of the last epoch.
        best: Best value of the observed metric; None before it is measured.
        tags: The tags that people gave the run.
        note: Their note; empty without one.
        settings_json: The values of the config, as a JSON object.
    """

    status: str
    problem: str = ""
    epochs: int = 0
    num_epochs: int = 0
    step: int = 0
    time_s: float = 0.0
    started: datetime | None = None
    metrics: Mapping[str, float | None] = {}
    best: BestValue | None = None
    tags: Sequence[str] = ()
    note: str = ""
    settings_json: bytes = b"{}"

    def settings(self) -> dict[str, Any]:
        """Return the values of the config by their keys; they are decoded now, because most lists show few of them."""
        return msgspec.json.decode(self.settings_json, type=dict[str, Any])


class _Started(msgspec.Struct):
    started: Moment


class _Identity(msgspec.Struct, frozen=True):
    settings: msgspec.Raw = msgspec.Raw(b"{}")


class _Seen(msgspec.Struct):
    """The fields of a record that a list shows."""

    run: str
    format: Literal[1]
    status: Status = "running"
    epochs: int = 0
    num_epochs: int = 0
    step: int = 0
    time_s: float = 0.0
    metrics: dict[str, float | None] = {}
    best: BestValue | None = None
    attempts: Sequence[_Started] = ()
    identity: _Identity = _Identity()


_decode = msgspec.json.Decoder(_Seen).decode


def glance_at(path: str | os.PathLike[str]) -> Glance:
    """Return what a list shows of the run in a folder; a record that cannot be read is one of its properties."""
    path = Path(path)
    try:
        seen = _decode(read_file(path / RECORD, MAX_RECORD_BYTES))
        # Most runs have none, and an error for each of thousands would take longer than all else.
        notes = read_notes(path) if os.path.lexists(path / NOTES) else Notes()
    except (OSError, ConfigError, *NOT_JSON):
        # A damaged record may be made again from the checkpoints; there are few of these.
        return _of_row(row_of(path))
    status = "lost" if seen.status == "running" and not is_at_work(path) else seen.status
    return _glance(seen, status, bytes(seen.identity.settings), notes)


def _of_row(row: RunRow) -> Glance:
    problem = row.problem or ""
    if row.record is None:
        return Glance(status=row.status, problem=problem, tags=row.tags, note=row.note)
    settings = msgspec.json.encode(row.record.identity.get("settings"))
    return replace(_glance(row.record, row.status, settings, row), problem=problem)


def _glance(seen: _Seen | RunRecord, status: str, settings: bytes, notes: Notes | RunRow) -> Glance:
    return Glance(
        status=status,
        epochs=seen.epochs,
        num_epochs=seen.num_epochs,
        step=seen.step,
        time_s=seen.time_s,
        started=seen.attempts[0].started if seen.attempts else None,
        metrics=seen.metrics,
        best=seen.best,
        tags=notes.tags,
        note=notes.note,
        settings_json=settings if settings.startswith(b"{") else b"{}",
    )
