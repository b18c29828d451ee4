"""The list of runs: read once, then only the runs that changed."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hookline import HooklineError
from hookline.engine import encodable
from hookline.runs import Glance, glance_at, run_names

_SURVEY_S = 10.0
"""Shortest time between two looks at all runs: those at work are looked at each time, the others change rarely."""
_MAX_TEXT = 200
_EXACT = 2**53
"""Integers above it are no longer exact in the numbers of JavaScript (IEEE 754, binary64)."""

METRIC = "metric:"
"""Prefix of the name of a column that shows a metric, not a setting."""


@dataclass
class _Entry:
    name: str
    glance: Glance
    key: tuple[int, ...]
    version: int


@dataclass(frozen=True)
class Changes:
    """What has changed in the list.

    Attributes:
        version: Version of the list.
        is_whole: Whether these are all runs, to replace those that were known before.
        rows: Plain values of each new or changed run.
    """

    version: int
    is_whole: bool
    rows: Sequence[Mapping[str, Any]]


@dataclass
class Index:
    """The runs in a folder.

    Attributes:
        folder: The folder of the runs.
    """

    folder: Path
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    # From the time, so that a page that outlives a server asks the next one for everything.
    _version: int = field(default_factory=lambda: int(datetime.now(UTC).timestamp() * 1000))
    _surveyed: float = -_SURVEY_S
    _seen: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self._whole_at = self._version

    def changes(self, since: int, columns: Collection[str]) -> Changes:
        """Return the runs that have changed since a version of the list, with the values of some columns.

        Raises:
            ConfigError: When the folder cannot be read.
        """
        with self._lock:
            self._refresh()
            is_whole = not self._whole_at <= since <= self._version
            entries = [one for one in self._entries.values() if is_whole or one.version > since]
            return Changes(self._version, is_whole, [_row(one, columns) for one in entries])

    def prepare(self) -> None:
        """Read all runs, so that the first question is answered at once; an error is left to that question."""
        with contextlib.suppress(HooklineError):
            self.changes(0, ())

    def row_of(self, name: str) -> Mapping[str, Any] | None:
        """Return the values of a listed run; None if there is none of that name.

        Raises:
            ConfigError: When the folder cannot be read.
        """
        with self._lock:
            self._refresh()
            return _row(self._entries[name], ()) if name in self._entries else None

    def path_of(self, name: str) -> Path | None:
        """Return the folder of a listed run, by the name that the list shows; None for anything else.

        Raises:
            ConfigError: When the folder cannot be read.
        """
        with self._lock:
            if name not in self._entries:
                self._refresh()
            return self.folder / self._entries[name].name if name in self._entries else None

    def columns(self) -> dict[str, Any]:
        """Return the settings and metrics that runs have, by name, with whether they differ between runs.

        Raises:
            ConfigError: When the folder cannot be read.
        """
        with self._lock:
            self._refresh()
            glances = [entry.glance for entry in self._entries.values()]
        # A damaged run has none.
        settings = (table for glance in glances if (table := glance.settings()))
        return {"settings": _varying(settings), "metrics": _names(glances)}

    def _refresh(self) -> None:
        """Look at the runs at work, and from time to time at all of them."""
        seen = _key(self.folder)
        is_survey = time.monotonic() - self._surveyed >= _SURVEY_S
        if is_survey or seen != self._seen:
            self._survey(is_survey=is_survey)
            self._seen = seen
        else:
            for entry in [one for one in self._entries.values() if one.glance.status == "running"]:
                self._look(entry.name)

    def _survey(self, *, is_survey: bool) -> None:
        names = {encodable(name): name for name in run_names(self.folder)}
        self._version += 1
        if gone := self._entries.keys() - names.keys():
            self._whole_at = self._version
            for name in gone:
                del self._entries[name]
        for shown, name in names.items():
            if is_survey or shown not in self._entries:
                self._look(name)
        if is_survey:
            self._surveyed = time.monotonic()

    def _look(self, name: str) -> None:
        """Read a run if its files have changed, or if a program may have left it."""
        path, shown = f"{self.folder}/{name}", encodable(name)  # pathlib would take a third of the time
        key, known = _keys(path), self._entries.get(shown)
        if known and known.key == key and known.glance.status != "running":
            return
        glance = glance_at(path)
        if known is None or known.glance != glance:
            self._version += 1
            self._entries[shown] = _Entry(name, glance, key, self._version)
        else:
            known.key = key


def _keys(path: str) -> tuple[int, ...]:
    # The time of the folder changes with each file that is replaced in it.
    return (*_key(path), *_key(f"{path}/run.json"))


def _key(path: str | Path) -> tuple[int, ...]:
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        return status.st_mtime_ns, status.st_size, status.st_ino
    return ()


def _row(entry: _Entry, columns: Collection[str]) -> dict[str, Any]:
    glance, best = entry.glance, entry.glance.best
    settings = glance.settings() if any(not name.startswith(METRIC) for name in columns) else {}
    return {
        "name": encodable(entry.name),
        "status": glance.status,
        "problem": encodable(glance.problem),
        "best": best and best.value,
        "metric": cell(best.metric) if best else "",
        "epochs": glance.epochs,
        "num_epochs": glance.num_epochs,
        "step": glance.step,
        "time_s": glance.time_s,
        "started": glance.started,
        "tags": [encodable(tag) for tag in glance.tags],
        "note": cell(glance.note),
        "cells": [
            cell(glance.metrics.get(name.removeprefix(METRIC)) if name.startswith(METRIC) else settings.get(name))
            for name in columns
        ],
    }


def cell(value: Any) -> str | float | bool | None:
    """Return a plain value as one that a table can show: texts are bounded, lists become text.

    >>> cell(0.01), cell([8, 8]), cell(2**60)
    (0.01, '[8, 8]', '1152921504606846976')
    """
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) <= _EXACT):
        return value
    text = encodable(value if isinstance(value, str) else str(value))
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"


def _varying(tables: Iterator[Mapping[str, Any]]) -> list[dict[str, Any]]:
    first: dict[str, Any] = {}
    varying: set[str] = set()
    for number, table in enumerate(tables):
        varying |= {key for key, value in table.items() if key not in varying and first.get(key) != value}
        varying |= first.keys() - table.keys()
        if number == 0:
            first, varying = dict(table), set()
    return [{"name": encodable(key), "varies": key in varying} for key in sorted(first.keys() | varying)]


def _names(glances: Sequence[Glance]) -> list[str]:
    return [encodable(name) for name in dict.fromkeys(name for glance in glances for name in glance.metrics)]
