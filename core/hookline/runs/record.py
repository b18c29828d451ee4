"""What is known of a run: the file ``run.json``."""

from __future__ import annotations

import secrets
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from hookline.engine.errors import ConfigError
from hookline.engine.files import read_file, reason
from hookline.runs.disk.checkpoint import FileSum

RECORD = "run.json"
FORMAT = 1
"""Number of the form of a record."""

_MAX_RECORD_BYTES = 2**24

Status = Literal["running", "completed", "stopped", "interrupted", "failed"]


class Attempt(msgspec.Struct):
    """One process that worked on a run.

    Attributes:
        started: When it began, in UTC.
        command: The words that it was started with.
        host: Name of its machine.
        pid: Number of its process.
        from_step: Number of steps that the run had when it began.
        step: Number of steps that the run had at the last look.
        ended: When it ended, in UTC; None until then, and if it was killed.
        outcome: How it ended; None likewise.
        error: What ended it, in one line.
        changes: What was different from the attempt before.
    """

    started: datetime
    command: list[str]
    host: str
    pid: int
    from_step: int
    step: int
    ended: datetime | None = None
    outcome: Status | None = None
    error: str | None = None
    changes: list[str] = []


class BestValue(msgspec.Struct):
    """Where a metric was best.

    Attributes:
        metric: Name of the metric.
        mode: ``min`` or ``max``.
        value: Its best value.
        epoch: The epoch in which it was measured, from 1.
        step: Number of steps before it.
    """

    metric: str
    mode: Literal["min", "max"]
    value: float
    epoch: int
    step: int


class RunRecord(msgspec.Struct, kw_only=True):
    """What is known of a run: the file ``run.json``.

    Attributes:
        run: The run's own sign, made once.
        seed: Its seed.
        status: ``running``, or how it ended.
        epochs: Number of epochs that were ended.
        num_epochs: Number of epochs that it is to have.
        step: Number of steps that were taken.
        time_s: Seconds that all attempts took together.
        metrics: The numbers of the last epoch.
        best: Where the observed metric was best; None before it was measured.
        identity: What the run is made of: versions, plugins, hashes of their code, data.
        model: What the file of the weights must be; None until there is one.
        data: What the file about the data must be; None until there is one.
        git: The commit of the folder in which it was started, with ``-dirty`` behind it if there were changes.
        attempts: Every process that worked on it.
        warnings: What was wrong without ending it; the last of them, if there are many.
        format: Number of the form.
    """

    run: str = msgspec.field(default_factory=lambda: secrets.token_hex(8))
    seed: int = 0
    status: Status = "running"
    epochs: int = 0
    num_epochs: int = 0
    step: int = 0
    time_s: float = 0.0
    metrics: dict[str, float | None] = {}
    best: BestValue | None = None
    identity: dict[str, Any] = {}
    model: FileSum | None = None
    data: FileSum | None = None
    git: str | None = None
    attempts: list[Attempt] = []
    warnings: list[str] = []
    format: int = FORMAT


def read_record(path: Path) -> RunRecord:
    """Return the record of a run folder.

    Raises:
        ConfigError: When there is none, or it cannot be read.
    """
    text = _read(path)
    try:
        return msgspec.json.decode(text, type=_Written)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        number = _format_of(text)
        if number in (None, FORMAT):
            raise ConfigError(f"{path}: run.json cannot be read: {error}") from error
        hint = "read it with the version of Hookline that wrote it"
        raise ConfigError(
            f"{path}: run.json is of format {number}, and this Hookline reads {FORMAT}", hint=hint
        ) from error


def read_best(path: Path) -> BestValue | None:
    """Return where the observed metric of a run was best; None before it was measured. Nothing else is read.

    Raises:
        ConfigError: When there is no record, or it cannot be read.
    """
    try:
        return msgspec.json.decode(_read(path), type=_Ranked).best
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {RECORD} cannot be read: {error}") from error


class _Numbered(msgspec.Struct):
    format: int


class _Written(RunRecord, kw_only=True):
    """A record that was read: what would be made for a new one must be there, and of a later format none is read."""

    run: str
    attempts: list[Attempt]
    format: Literal[1]


def _format_of(text: bytes) -> int | None:
    try:
        return msgspec.json.decode(text, type=_Numbered).format
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class _Ranked(msgspec.Struct):
    """All that the best run is found by."""

    run: str
    format: Literal[1]
    best: BestValue | None = None


def _read(path: Path) -> bytes:
    try:
        return read_file(path / RECORD, _MAX_RECORD_BYTES)
    except OSError as error:
        raise ConfigError(f"{path} is no run folder: run.json: {reason(error)}") from error
    except ValueError as error:
        raise ConfigError(f"{str(path)!r} is no path: {error}") from error
