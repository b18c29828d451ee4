"""Sections of several runs: their results, what differs between them, and their curves over each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hookline.runs import RunRecord, RunRow, row_of
from hookline.sections import Axis, ParallelCoordinates, Section, Table, bounded
from hookline_plugins.drawing.curves import curve_sections
from hookline_plugins.drawing.of_run import duration, splits_of, words

_PARTS = ("settings", "versions", "plugins", "code", "data", "machine")
_MAX_AXES = 12
_MAX_METRICS = 8
_MAX_RESULTS = 4


def sections_of_runs(paths: Sequence[Path]) -> list[Section]:
    """Return the sections that compare runs."""
    curves = curve_sections({path.name: path for path in paths}, splits=splits_of(paths))
    return [*comparison_of_runs(paths), *curves]


def comparison_of_runs(paths: Sequence[Path]) -> list[Section]:
    """Return the same sections without the curves."""
    rows = [row_of(path) for path in paths]
    records = {row.path.name: row.record for row in rows if row.record is not None}
    metrics = list(dict.fromkeys(name for record in records.values() for name in record.metrics))
    different = differing(records)
    sections: list[Section] = [
        Table(
            title="Runs",
            topic="run",
            columns=["run", "status", "epochs", "steps", "time", "best", *metrics[:_MAX_METRICS]],
            rows=[_cells(row, metrics[:_MAX_METRICS]) for row in rows],
        )
    ]
    if different:
        columns = ["part", "key", *records]
        shown = [[part, key, *map(words, values)] for (part, key), values in different.items()]
        sections.append(Table(title="Differences", topic="run", columns=columns, rows=shown))
    axes = _axes(records, different, metrics)
    if len(records) > 1 and len(axes) > 1:
        note = "Each line is a run; point at it, or move to it with the Tab key, to read its values."
        title = "Settings and results"
        sections.append(ParallelCoordinates(title=title, topic="run", labels=list(records), axes=axes, note=note))
    return list(map(bounded, sections))


def differing(records: Mapping[str, RunRecord]) -> dict[tuple[str, str], list[Any]]:
    """Return the values in which the fingerprints of runs differ, by part and key, one for each run."""
    found: dict[tuple[str, str], list[Any]] = {}
    for part in _PARTS:
        parts = [_part(record, part) for record in records.values()]
        for key in dict.fromkeys(key for each in parts for key in each):
            values = [each.get(key) for each in parts]
            if any(value != values[0] for value in values):
                found[part, key] = values
    return found


def _axes(
    records: Mapping[str, RunRecord], different: Mapping[tuple[str, str], Sequence[Any]], metrics: Sequence[str]
) -> list[Axis]:
    settings = [(key, values) for (part, key), values in different.items() if part == "settings"]
    axes = [Axis(name=key, values=list(map(words, values))) for key, values in settings[:_MAX_AXES]]
    # The lines lead to the metric by which the runs are compared, and to the last ones: those of the last split.
    best = [one.best.metric for one in records.values() if one.best]
    measured = [name for name in reversed(metrics) if "running" not in name]
    chosen = list(dict.fromkeys([*best, *measured]))[:_MAX_RESULTS]
    results = [Axis(name=name, values=[one.metrics.get(name) for one in records.values()]) for name in chosen]
    return [*axes, *results] if axes else []


def _cells(row: RunRow, metrics: Sequence[str]) -> list[Any]:
    record = row.record
    if record is None:
        return [row.path.name, f"{row.status}: {row.problem}", *(None for _ in range(4 + len(metrics)))]
    best = f"{record.best.metric} {record.best.value:.6g}" if record.best else None
    facts = [row.status, record.epochs, record.step, duration(record.time_s), best]
    return [row.path.name, *facts, *(record.metrics.get(name) for name in metrics)]


def _part(record: RunRecord, name: str) -> Mapping[str, Any]:
    part = record.identity.get(name)
    return part if isinstance(part, Mapping) else {}
