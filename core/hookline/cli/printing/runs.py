"""Printing of runs: the list, the details of one, the differences of two, curves."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hookline.cli.output import Output
from hookline.cli.printing.drawing import plot_lines
from hookline.engine.words import printable, shortened
from hookline.runs.changes import Change, entry_text
from hookline.runs.curves import Curve
from hookline.runs.listing import CheckpointRow, RunRow
from hookline.runs.overview.columns import value_of
from hookline.runs.record import BestValue, RunRecord

_CHANGED_WIDTH = 60
_MAX_ROWS = 20
_MAX_DIFFERENCES = 1000
_MAX_CELL, _MAX_LINE = 200, 2000
"""Longest text in a table, and outside one, that a person can still read."""
_MARKS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_CURVES = len(_MARKS)
"""Maximum number of curves in one plot."""

_OTHER = {"versions": "other versions", "code": "other code", "data": "other data"}
"""Short descriptions of changes other than settings."""


# ---- the table of runs -----------------------------------------------------------------------------------------------


def row_values(row: RunRow, shown: Sequence[str] = ()) -> dict[str, Any]:
    """Return a run as plain values, without its fingerprint, and with its values in the columns ``shown``."""
    known = msgspec.to_builtins(row.record) if row.record else {}
    known.pop("identity", None)
    changes = [{"part": c.part, "key": c.key, "before": c.before, "after": c.after} for c in row.changes]
    said = {"status": row.status, "problem": row.problem, "tags": list(row.tags), "note": row.note}
    columns = {"shown": {key: value_of(row, key) for key in shown}} if shown else {}
    return {**_name_values(row), **known, **said, "changes": changes, **columns}


def print_runs(output: Output, rows: Sequence[RunRow], ignored: Collection[str], shown: Sequence[str]) -> None:
    """Print a row for each run.

    Args:
        output: Where to print.
        rows: The runs.
        ignored: Tables whose changes are not shown.
        shown: Columns to show in place of the changes.
    """
    columns = {name: [cell(row) for row in rows] for name, cell in _CELLS.items()}
    for key in shown:
        columns.setdefault(key, [_chosen_cell(row, key) for row in rows])
    if not shown:
        columns["changed"] = [row.problem or changed_words(row.changes, ignored) for row in rows]
    # Most people give no run a tag or a note: then there is no column of them.
    said = {"tags": [", ".join(row.tags) for row in rows], "note": [_first_line(row) for row in rows]}
    columns |= {name: texts for name, texts in said.items() if any(texts)}
    output.table(_printable(*columns), [_printable(*line) for line in zip(*columns.values(), strict=True)])


def _best_cell(row: RunRow) -> str:
    best = row.record and row.record.best
    return f"{best.metric} {best.value:.6g}" if best else ""


_CELLS: dict[str, Callable[[RunRow], str]] = {
    "run": lambda row: row.path.name,
    "status": lambda row: row.status,
    "best": _best_cell,
    "epochs": lambda row: f"{row.record.epochs}/{row.record.num_epochs}" if row.record else "",
    "time": lambda row: duration(row.record.time_s) if row.record else "",
}


def _chosen_cell(row: RunRow, key: str) -> str:
    value = value_of(row, key)
    return "" if value is None else value_words(value)


def _first_line(row: RunRow) -> str:
    first, _, rest = row.note.strip().partition("\n")
    return shortened(f"{first} ..." if rest else first, _CHANGED_WIDTH)


def changed_words(changes: Sequence[Change], ignored: Collection[str]) -> str:
    """Return the changes between consecutive runs in a few words."""
    settings = [c for c in changes if c.part == "settings" and not any(c.key.startswith(f"{t}.") for t in ignored)]
    exchanged = {c.key.rpartition(".")[0]: c.after for c in settings if c.key.endswith(".use")}
    words = [f"{table}={name}" if name is not None else f"no {table}" for table, name in exchanged.items()]
    for change in settings:
        table, _, name = change.key.rpartition(".")
        # Different plugins have different options; only those that both have are compared.
        is_shown = table not in exchanged or (change.before is not None and change.after is not None)
        if name != "use" and is_shown:
            words.append(f"{change.key}={value_words(change.after)}")
    parts = {change.part for change in changes}
    has_other_data = any(change.key.startswith("data.") for change in settings)
    words += [text for part, text in _OTHER.items() if part in parts and not (part == "data" and has_other_data)]
    return _shortened(words)


def _shortened(words: Sequence[str]) -> str:
    """Return as many words as fit, at least one, and the number of the others."""
    shown = ""
    for number, word in enumerate(words):
        longer = f"{shown}, {word}" if shown else word[:_CHANGED_WIDTH] + ("..." if len(word) > _CHANGED_WIDTH else "")
        if shown and len(longer) > _CHANGED_WIDTH:
            return f"{shown} and {len(words) - number} more"
        shown = longer
    return shown


def value_words(value: Any) -> str:
    """Format a plain value in short form."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else msgspec.json.encode(value).decode()


def duration(seconds: float) -> str:
    """Format a duration for people.

    >>> duration(3.21), duration(190), duration(7500)
    ('3.2 s', '3 min 10 s', '2 h 05 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


# ---- one run ---------------------------------------------------------------------------------------------------------


def run_values(row: RunRow, checkpoints: Sequence[CheckpointRow]) -> dict[str, Any]:
    """Return a run with its checkpoints as plain values."""
    known = msgspec.to_builtins(row.record) if row.record else {}
    saved = [_checkpoint_values(checkpoint) for checkpoint in checkpoints]
    said = {"status": row.status, "problem": row.problem, "tags": list(row.tags), "note": row.note}
    return {**_name_values(row), **known, **said, "checkpoints": saved}


def print_run(output: Output, row: RunRow, record: RunRecord, checkpoints: Sequence[CheckpointRow]) -> None:
    """Print the details of a run."""
    for name, text in _facts(row, record).items():
        output.line(f"{name.ljust(10)}  {shortened(text, _MAX_LINE)}")
    if row.note:
        output.line("note")
        output.line(textwrap.indent(row.note, "  "))
    if row.problem:
        output.line(f"problem     {shortened(row.problem, _MAX_LINE)}")
    _print_table(output, "metrics", ["metric", "value"], [[k, value_words(v)] for k, v in record.metrics.items()])
    _print_table(
        output,
        "attempts",
        ["started", "host", "process", "steps", "took", "outcome", "error"],
        [
            [
                f"{a.started:%Y-%m-%d %H:%M:%S}",
                a.host,
                str(a.pid),
                f"{a.from_step}-{a.step}",
                duration((a.ended - a.started).total_seconds()) if a.ended else "",
                a.outcome or row.status,
                a.error or "",
            ]
            for a in record.attempts
        ],
    )
    numbered = [(number, text) for number, attempt in enumerate(record.attempts, 1) for text in attempt.changes]
    _print_lines(output, [f"attempt {number}: {text}" for number, text in numbered])
    head = ["checkpoint", "step", "epochs", "bytes", "saved"]
    _print_table(output, "checkpoints", head, [_checkpoint_cells(checkpoint) for checkpoint in checkpoints])
    for title, rows in record.summary.items():
        columns = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[value_words(row[name]) if name in row else "" for name in columns] for row in rows]
        _print_table(output, shortened(title, _MAX_CELL), columns, cells)
    _print_table(output, "plugins", ["table", "plugin"], _identity_rows(record, "plugins"))
    _print_table(output, "versions", ["of", "version"], _identity_rows(record, "versions"))
    _print_lines(output, [f"warning: {text}" for text in record.warnings])


def _facts(row: RunRow, record: RunRecord) -> dict[str, str]:
    best = record.best
    attempts = record.attempts
    return {
        "run": row.path.name,
        "folder": str(row.path.resolve()),
        "status": f"{row.status}, {record.epochs} of {record.num_epochs} epochs, {record.step} steps, "
        f"{duration(record.time_s)}",
        **({"best": _best_words(best)} if best else {}),
        "seed": str(record.seed),
        **({"command": " ".join(attempts[0].command)} if attempts else {}),
        **({"started": f"{attempts[0].started:%Y-%m-%d %H:%M:%S} UTC"} if attempts else {}),
        "git": record.git or "none",
        **({"tags": ", ".join(row.tags)} if row.tags else {}),
    }


def _best_words(best: BestValue) -> str:
    return f"{best.metric} {best.value:.6g} ({best.mode}), in epoch {best.epoch}, after {best.step} steps"


def _print_table(output: Output, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with a title, only its last rows if it is long; print nothing without rows."""
    if not rows:
        return
    output.line(f"\n{title}" + (f", the last {_MAX_ROWS} of {len(rows)}" if len(rows) > _MAX_ROWS else ""))
    output.table(_printable(*head), [_printable(*row) for row in rows[-_MAX_ROWS:]])


def _identity_rows(record: RunRecord, part: str) -> list[list[str]]:
    found = record.identity.get(part)
    return [[key, _format_value(value)] for key, value in found.items()] if isinstance(found, Mapping) else []


def _checkpoint_values(row: CheckpointRow) -> dict[str, Any]:
    manifest = row.manifest
    known = {"step": manifest.step, "epoch": manifest.epoch, "position": manifest.position} if manifest else {}
    saved = {"time": manifest.time, "metrics": manifest.metrics} if manifest else {}
    return {"path": str(row.path), "bytes": row.size, **known, **saved, "problem": row.problem}


def _checkpoint_cells(row: CheckpointRow) -> list[str]:
    manifest = row.manifest
    if manifest is None:
        return [row.path.name, "", "", str(row.size), row.problem or ""]
    saved = f"{manifest.time:%Y-%m-%d %H:%M:%S}"
    return [row.path.name, str(manifest.step), str(manifest.num_epochs), str(row.size), saved]


# ---- two runs --------------------------------------------------------------------------------------------------------


def print_differences(output: Output, names: tuple[str, str], changes: Sequence[Change]) -> None:
    """Print the differences between two runs side by side."""
    shown = changes[:_MAX_DIFFERENCES]
    rows = [_printable(c.part, c.key, _format_value(c.before), _format_value(c.after)) for c in shown]
    output.table(["part", "of", *_printable(*names)], rows)
    if len(changes) > len(shown):
        output.prose(f"\nand {len(changes) - len(shown)} more: hookline runs diff --json")


def _format_value(value: Any) -> str:
    return entry_text(value) if isinstance(value, Mapping) else value_words(value)


# ---- curves ----------------------------------------------------------------------------------------------------------


def curve_values(curves: Sequence[tuple[str, Curve]]) -> list[dict[str, Any]]:
    """Return curves as plain values, each with its run."""
    return [
        {"run": run, "metric": c.metric, "num_values": c.num_values, "last": c.last, "points": c.points}
        for run, c in curves
    ]


def print_curves(output: Output, title: str, curves: Sequence[tuple[str, Curve]], *, is_log: bool) -> None:
    """Print curves in one plot with a legend."""
    output.prose(f"{title}, by step" + (", logarithmic" if is_log else ""))
    marks = "*" if len(curves) == 1 else _MARKS
    points = {mark: list(_scaled(curve, is_log=is_log)) for mark, (_, curve) in zip(marks, curves, strict=False)}
    if all_points := [point for some in points.values() for point in some]:
        last = max(1.0, *(step for step, _ in all_points))
        low, high = min(value for _, value in all_points), max(value for _, value in all_points)
        placed = {mark: [(step / last, value) for step, value in some] for mark, some in points.items()}
        # Not 10**high, which overflows for the largest numbers.
        shown = [value for _, curve in curves for _, value in curve.points if value > 0 or not is_log]
        labels = (f"{min(shown):.4g}", f"{max(shown):.4g}")
        for line in plot_lines(placed, bounds=(low, high), labels=labels, ends=("0", f"{last:.0f}")):
            output.line(line)
    for mark, (run, curve) in zip(marks, curves, strict=False):
        values = "1 value" if curve.num_values == 1 else f"{curve.num_values} values"
        output.line(f"{mark}  {printable(run)} {printable(curve.metric)}: {values}, the last {curve.last:.6g}")


def _scaled(curve: Curve, *, is_log: bool) -> Iterator[tuple[float, float]]:
    """Yield the points to plot; a logarithmic scale omits values that are not above 0."""
    for step, value in curve.points:
        if not is_log:
            yield step, value
        elif value > 0:
            yield step, math.log10(value)


# ---- shared ----------------------------------------------------------------------------------------------------------


def _name_values(row: RunRow) -> dict[str, Any]:
    number, _, label = row.path.name.partition("-")
    path = str(Path(row.path).resolve())
    return {"name": row.path.name, "number": int(number) if number.isdigit() else None, "label": label, "path": path}


def _print_lines(output: Output, lines: Sequence[str]) -> None:
    """Print lines of bounded length, only the last ones if there are many."""
    if len(lines) > _MAX_ROWS:
        output.line(f"the last {_MAX_ROWS} of {len(lines)}:")
    for line in lines[-_MAX_ROWS:]:
        output.line(shortened(line, _MAX_LINE))


def _printable(*cells: str) -> list[str]:
    # A line break in a cell would break the table.
    return [shortened(cell, _MAX_CELL) for cell in cells]
