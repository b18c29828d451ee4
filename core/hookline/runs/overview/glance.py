"""A glance at a run: what a list of thousands shows of each, without decoding the rest of its record."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from hookline.engine.files import read_file
from hookline.runs.disk.formats import NOT_JSON, Moment
from hookline.runs.disk.occupancy import is_at_work
from hookline.runs.listing import row_of
from hookline.runs.record import MAX_RECORD_BYTES, RECORD, BestValue, RunRecord, Status


class Glance(msgspec.Struct, frozen=True, kw_only=True):
    """One run in a list of many.

    Attributes:
        status: Status in the record; ``lost`` if that is ``running`` but no program works in the folder; or
            ``unreadable``.
        problem: The reason why the record cannot be read; empty if it can.
        epochs: Number of epochs completed.
        num_epochs: Number of epochs requested.
        step: Number of steps taken.
        time_s: Total time of all attempts, in seconds.
        started: Start time of the first attempt, in UTC; None if it is unknown.
        metrics: Metrics of the last epoch.
        best: Best value of the observed metric; None before it is measured.
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
    _settings: bytes = b"{}"

    def settings(self) -> dict[str, Any]:
        """Return the values of the config by their keys; they are decoded now, because most lists show few of them."""
        return msgspec.json.decode(self._settings, type=dict[str, Any])


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
        return _glance(seen, path, bytes(seen.identity.settings))
    except (OSError, ValueError, *NOT_JSON):
        # A damaged record may be made again from the checkpoints; there are few of these.
        row = row_of(path)
        if row.record is None:
            return Glance(status=row.status, problem=row.problem or "")
        settings = row.record.identity.get("settings")
        return _glance(row.record, path, msgspec.json.encode(settings if isinstance(settings, dict) else {}))


def _glance(seen: _Seen | RunRecord, path: Path, settings: bytes) -> Glance:
    return Glance(
        status="lost" if seen.status == "running" and not is_at_work(path) else seen.status,
        epochs=seen.epochs,
        num_epochs=seen.num_epochs,
        step=seen.step,
        time_s=seen.time_s,
        started=seen.attempts[0].started if seen.attempts else None,
        metrics=seen.metrics,
        best=seen.best,
        _settings=settings if settings.startswith(b"{") else b"{}",
    )
