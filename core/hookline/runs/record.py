"""The record of a run: the file ``run.json``."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path
from typing import Any, Literal

import msgspec

from hookline.config.files import read_file, reason
from hookline.engine.errors import CheckpointError, ConfigError
from hookline.runs.disk.checkpoint import CHECKPOINTS, FileSum, manifests_in
from hookline.runs.disk.formats import NOT_JSON, Moment, check_format, format_of

RECORD = "run.json"
FORMAT = 1
"""Version of the format of a record."""

REBUILT = f"{RECORD} was lost or damaged; a new one was made from the checkpoints"
"""Warning in a record that was made from the manifests."""

_MAX_RECORD_BYTES = 2**24

Status = Literal["running", "completed", "stopped", "interrupted", "failed"]


class Attempt(msgspec.Struct):
    """One process that worked on a run.

    Attributes:
        started: Start time, in UTC.
        command: The command line, word by word.
        host: Name of its machine.
        pid: ID of the process.
        from_step: Number of steps of the run when the attempt began.
        step: Number of steps of the run when the record was last written.
        ended: End time, in UTC; None while it runs, and if it was killed.
        outcome: How it ended; None likewise.
        error: The error that ended it, in one line.
        changes: Differences from the previous attempt.
        job: Name of the job of torchrun that it belonged to; empty without one.
    """

    started: Moment
    command: list[str]
    host: str
    pid: int
    from_step: int
    step: int
    ended: Moment | None = None
    outcome: Status | None = None
    error: str | None = None
    changes: list[str] = []
    job: str = ""


class BestValue(msgspec.Struct):
    """The best value of a metric, and when it was measured.

    Attributes:
        metric: Name of the metric.
        mode: ``min`` or ``max``.
        value: Its best value.
        epoch: The epoch in which it was measured, from 1.
        step: Number of steps taken before.
    """

    metric: str
    mode: Literal["min", "max"]
    value: float
    epoch: int
    step: int


class RunRecord(msgspec.Struct, kw_only=True):
    """The record of a run: the file ``run.json``.

    Attributes:
        run: Random ID of the run.
        seed: Its seed.
        status: ``running``, or how it ended.
        epochs: Number of epochs completed.
        num_epochs: Number of epochs requested.
        step: Number of steps taken.
        time_s: Total time of all attempts, in seconds.
        metrics: Metrics of the last epoch.
        best: Best value of the observed metric; None before it is measured.
        summary: Tables that plugins reported, by title; only the first rows of long ones.
        identity: Fingerprint of the run: versions, plugins, hashes of their code, data.
        config: Size and checksum of the config; None until it is written.
        model: Size and checksum of the file of weights; None until there is one.
        data: Size and checksum of the description of the data; None until there is one.
        git: Commit checked out in the folder in which it was started; None without git.
        attempts: The processes that worked on it.
        warnings: Its warnings; only the last ones if there are many.
        format: Version of the format.
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
    summary: dict[str, list[dict[str, Any]]] = {}
    identity: dict[str, Any] = {}
    config: FileSum | None = None
    model: FileSum | None = None
    data: FileSum | None = None
    git: str | None = None
    attempts: list[Attempt] = []
    warnings: list[str] = []
    format: int = FORMAT


def read_record(path: Path) -> RunRecord:
    """Return the record of a run folder; if it is lost or damaged, a new one from the manifests of the checkpoints.

    Raises:
        ConfigError: When there is none, or it cannot be read, and there are no checkpoints.
    """
    try:
        return stored_record(path)
    except ConfigError as error:
        is_lost = isinstance(error.__cause__, (FileNotFoundError, *NOT_JSON))
        if is_lost and (record := _rebuilt(path)):
            return record
        raise


def stored_record(path: Path, at: int | None = None) -> RunRecord:
    """Return the record in the file of a run folder.

    Args:
        path: The folder.
        at: Its descriptor; None to find it by its path.

    Raises:
        ConfigError: When there is none, or it cannot be read.
    """
    text = _read(path, at)
    try:
        return msgspec.json.decode(text, type=_Written)
    except NOT_JSON as error:
        with contextlib.suppress(*NOT_JSON):
            check_format(format_of(text), FORMAT, f"{path}: {RECORD}", ConfigError)
        raise ConfigError(f"{path}: {RECORD} cannot be read: {error}") from error


def _rebuilt(path: Path) -> RunRecord | None:
    """Return a record from the manifests of the checkpoints; None if there are none, or they disagree about the run."""
    try:
        manifests = list(manifests_in(path / CHECKPOINTS))
    except CheckpointError:
        return None
    if len({manifest.run for manifest in manifests}) != 1:
        return None
    newest = manifests[0]
    settings = newest.identity.get("settings")
    seed, num_epochs = (
        value if isinstance(settings, dict) and type(value := settings.get(key)) is int else 0
        for key in ("train.seed", "train.epochs")
    )
    return RunRecord(
        run=newest.run,
        seed=seed,
        epochs=newest.num_epochs,
        num_epochs=num_epochs,
        step=newest.step,
        metrics=newest.metrics,
        identity=newest.identity,
        warnings=[REBUILT],
    )


def read_best(path: Path) -> BestValue | None:
    """Return the best value of the observed metric of a run, decoding nothing else; None before it is measured.

    Raises:
        ConfigError: When there is no record, or it cannot be read.
    """
    try:
        return msgspec.json.decode(_read(path), type=_Ranked).best
    except NOT_JSON as error:
        raise ConfigError(f"{path}: {RECORD} cannot be read: {error}") from error


class _Written(RunRecord, kw_only=True):
    """A record as read: fields with a default for new records are required, and later formats are refused."""

    run: str
    attempts: list[Attempt]
    format: Literal[1]


class _Ranked(msgspec.Struct):
    """The fields of a record that are needed to find the best run."""

    run: str
    format: Literal[1]
    best: BestValue | None = None


def _read(path: Path, at: int | None = None) -> bytes:
    try:
        return read_file(path / RECORD, _MAX_RECORD_BYTES, at)
    except OSError as error:
        raise ConfigError(f"{path} is not a run folder: {RECORD}: {reason(error)}") from error
    except ValueError as error:
        raise ConfigError(f"{str(path)!r} is not a valid path: {error}") from error
