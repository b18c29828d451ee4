"""Columns of a list of runs: facts of their records, settings and metrics, by which they are shown and sorted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from typing import Any

import msgspec

from hookline.engine.errors import ConfigError, Fault
from hookline.engine.words import nearest
from hookline.runs.listing import RunRow
from hookline.runs.names import label_of, number_of
from hookline.runs.record import RunRecord

_OF_ROW: dict[str, Callable[[RunRow], Any]] = {
    "run": lambda row: number_of(row.path.name),
    "name": lambda row: label_of(row.path.name),
    "status": lambda row: row.status,
}
_OF_RECORD: dict[str, Callable[[RunRecord], Any]] = {
    "best": lambda record: record.best and record.best.value,
    "epochs": lambda record: record.epochs,
    "steps": lambda record: record.step,
    "time": lambda record: record.time_s,
    "started": lambda record: (
        f"{record.attempts[0].started.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if record.attempts else None
    ),
}
COLUMNS = (*_OF_ROW, *_OF_RECORD)
"""Names of the columns that every list of runs has; settings and metrics are columns too."""


def check_columns(rows: Sequence[RunRow], keys: Sequence[str]) -> None:
    """Check that each key is a column of some run.

    Raises:
        ConfigError: When it is not, with the nearest one.
    """
    known = dict.fromkeys(COLUMNS)
    for row in rows:
        known |= dict.fromkeys((*settings_of(row), *(row.record.metrics if row.record else ())))
    if unknown := [key for key in dict.fromkeys(keys) if rows and key not in known]:
        raise ConfigError("no such column", faults=[Fault(repr(key), hint=_meant(key, known)) for key in unknown])


def value_of(row: RunRow, key: str) -> Any:
    """Return the value of a run in a column; None if it has none there."""
    if key in _OF_ROW:
        return _OF_ROW[key](row)
    if row.record is None:
        return None
    if key in _OF_RECORD:
        return _OF_RECORD[key](row.record)
    settings = settings_of(row)
    return settings[key] if key in settings else row.record.metrics.get(key)


def settings_of(row: RunRow) -> Mapping[str, Any]:
    """Return the settings of a run by key; empty if they are not known."""
    settings = row.record.identity.get("settings") if row.record else None
    return settings if isinstance(settings, Mapping) else {}


def differing_settings(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys of the settings in which runs differ.

    Options that only some runs have differ if their values do: that runs lack them follows from the plugins.

    >>> differing_settings([{"model.use": "linear", "a": 1}, {"model.use": "mlp", "model.hidden": [64], "a": 1}])
    ['model.use']
    """
    found: list[str] = []
    for key in dict.fromkeys(key for each in settings for key in each):
        values = [each[key] for each in settings if key in each]
        is_missing = key.endswith(".use") and len(values) < len(settings)
        if is_missing or any(value != values[0] for value in values):
            found.append(key)
    return found


def sorted_rows(rows: Sequence[RunRow], key: str, *, is_descending: bool = False) -> list[RunRow]:
    """Return runs in the order of a column: numbers before texts, and runs without a value at the end."""
    values = [(value_of(row, key), row) for row in rows]
    having = sorted((pair for pair in values if pair[0] is not None), key=_rank, reverse=is_descending)
    return [row for _, row in (*having, *(pair for pair in values if pair[0] is None))]


def _rank(pair: tuple[Any, RunRow]) -> tuple[int, Any]:
    value = pair[0]
    if isinstance(value, (int, float)):
        return 0, value
    return (1, value) if isinstance(value, str) else (2, msgspec.json.encode(value))


def _meant(key: str, known: Mapping[str, Any]) -> str:
    if match := nearest(key, known):
        return f"did you mean {match!r}?"
    return f"use {', '.join(COLUMNS)}, a setting such as optimizer.lr, or a metric of one of these runs"
