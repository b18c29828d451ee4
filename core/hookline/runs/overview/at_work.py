"""Watch a run at work from outside: its record, and the lines that it appends to its metrics."""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path
from typing import Any

import msgspec

from hookline.config.files import NO_LINKS, NO_WAITING, check_regular
from hookline.engine.errors import ConfigError
from hookline.runs.disk.formats import NOT_JSON
from hookline.runs.disk.occupancy import is_at_work
from hookline.runs.folder import METRICS
from hookline.runs.record import RECORD, RunRecord, read_record

_TAIL_BYTES = 2**20
"""How much of a file is read at once: more than the lines of a second, and than a line of 10,000 metrics."""
_CHECK_S = 5.0
"""Time between two checks whether a program still works in the folder; only a killed one does not say that it ends."""
_LOSSES = ("train/loss", "loss", "train/running_loss")


class WatchedRun:
    """A run that is watched. Each look costs a call of ``stat`` for two files, and reads only what is new in them.

    Attributes:
        path: Path of its folder.
        record: Its record.
        status: Its status; ``lost`` if its record says that it runs, but no program does; ``unreadable`` if it was
            removed.
        epoch: Epoch of its last line of metrics.
        step: Step of its last line of metrics.
        values: The newest value of each metric.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record: RunRecord = read_record(path)
        self.status: str = "running"
        self.epoch, self.step = self.record.epochs, self.record.step
        self.values: dict[str, float] = {}
        self._steps_per_epoch: float | None = None
        self._written_at: float | None = None
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._offset = 0
        self._checked_at, self._is_at_work = -math.inf, True

    @property
    def num_steps(self) -> int | None:
        """Number of steps of the whole run; None before the end of its first epoch."""
        return round(self._steps_per_epoch * self.record.num_epochs) if self._steps_per_epoch else None

    @property
    def steps_per_s(self) -> float | None:
        """Steps per second of the newest attempt, up to its last line; None before that."""
        attempt = self.record.attempts[-1] if self.record.attempts else None
        if attempt is None or self._written_at is None or self.step <= attempt.from_step:
            return None
        took = self._written_at - attempt.started.timestamp()
        return (self.step - attempt.from_step) / took if took > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the run is over at this speed; None while that is not known."""
        if not (self.num_steps and self.steps_per_s) or self.status != "running":
            return None
        return max(self.num_steps - self.step, 0) / self.steps_per_s

    def shown_values(self) -> dict[str, float]:
        """Return the newest loss of the training, and the newest value of the metric by which runs are compared."""
        best = self.record.best.metric if self.record.best else "validation/loss"
        names = [next((name for name in _LOSSES if name in self.values), ""), best]
        return {name: self.values[name] for name in names if name in self.values}

    def look(self) -> bool:
        """Read what is new, and return whether anything is."""
        has_record, has_lines, before = self._is_new(RECORD), self._is_new(METRICS), self.status
        if has_lines:
            with contextlib.suppress(OSError):  # it is replaced at this moment, and the next look reads it
                self._read_lines()
        if has_record:
            try:
                self.record = read_record(self.path)
            except ConfigError:  # the folder was removed
                self.status = "unreadable"
                return True
        now = time.monotonic()
        if now - self._checked_at >= _CHECK_S:
            self._checked_at, self._is_at_work = now, is_at_work(self.path)
        self.status = "lost" if self.record.status == "running" and not self._is_at_work else self.record.status
        return has_record or has_lines or self.status != before

    def _is_new(self, name: str) -> bool:
        """Return whether a file is another one or has changed since the last look."""
        try:
            status = (self.path / name).lstat()
        except OSError:
            return self._seen.pop(name, None) is not None
        seen = status.st_ino, status.st_size, status.st_mtime_ns
        is_new, self._seen[name] = self._seen.get(name) != seen, seen
        return is_new

    def _read_lines(self) -> None:
        descriptor = os.open(self.path / METRICS, os.O_RDONLY | NO_LINKS | NO_WAITING)
        try:
            there = os.fstat(descriptor)
            check_regular(there, self.path / METRICS)
            # A resumed run cuts its file off; of a long one, only the end matters.
            start = self._offset if self._offset <= there.st_size else 0
            start = max(start, there.st_size - _TAIL_BYTES)
            os.lseek(descriptor, start, os.SEEK_SET)
            text = os.read(descriptor, there.st_size - start)
        finally:
            os.close(descriptor)
        end = text.rfind(b"\n") + 1
        self._offset = start + end
        for line in text[:end].splitlines():
            self._add(line)
        self._written_at = there.st_mtime

    def _add(self, line: bytes) -> None:
        try:
            row = msgspec.json.decode(line, type=dict[str, Any])
            epoch, step = int(row.pop("epoch")), int(row.pop("step"))
        except (KeyError, TypeError, ValueError, OverflowError, *NOT_JSON):
            return
        self.epoch, self.step = epoch, step
        self.values |= {name: value for name, value in row.items() if type(value) in (int, float)}
        if "train/running_loss" in row and epoch > 0:
            self._steps_per_epoch = step / epoch
