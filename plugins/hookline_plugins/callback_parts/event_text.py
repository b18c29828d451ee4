"""The events of a run as lines of text, for ``progress`` and for the log."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hookline.engine import printable
from hookline.runs import Redaction
from hookline_plugins.callback_parts.fitting import (
    UNLIMITED,
    by_relevance,
    column_widths,
    fitted,
    rjust,
    shortened_name,
)

if TYPE_CHECKING:
    from hookline import Outcome, RunView


_EPOCH_WIDTH, _SECONDS_WIDTH = 9, 9


class EventText:
    """The lines for one run: a table with a row for each epoch, warnings before it and results after it.

    Args:
        run: The run, which starts now.
        width: Width of the table; unlimited for all metrics with their whole names.
    """

    def __init__(self, run: RunView, width: int = UNLIMITED) -> None:
        self._start = self._epoch_start = time.perf_counter()
        self._last_row = 0
        self._redaction = Redaction.of(run.config)
        self._reports = Reports()
        self._width = width
        fitting = column_widths(by_relevance(run), width - _EPOCH_WIDTH - _SECONDS_WIDTH)
        self._widths = {name: fitting[name] for name in run.metric_names if name in fitting}

    def head(self, run: RunView) -> list[str]:
        """Return the warnings from before the run, and the head of the table."""
        names = [rjust(shortened_name(name, width), width) for name, width in self._widths.items()]
        left_out = [printable(name) for name in run.metric_names if name not in self._widths]
        others = fitted(["not in this table:", *left_out], self._width) or f"{len(left_out)} metrics more"
        return [
            *map(self.warning, run.warnings),
            *([others] if left_out else []),
            "  ".join(["epoch".rjust(_EPOCH_WIDTH), *names, "seconds"]),
        ]

    def epoch_start(self) -> None:
        """Start timing an epoch."""
        self._epoch_start = time.perf_counter()

    def step(self, run: RunView, *parts: str) -> str:
        """Return the line of a step in a long epoch, with the given parts."""
        number = f"step {run.step}" + (f"/{run.num_steps}" if run.num_steps else "")
        epoch = f"{run.epoch}/{run.config.train.epochs}".rjust(_EPOCH_WIDTH)
        return fitted([epoch, number, *filter(None, parts)], self._width)

    def evaluation_start(self, run: RunView) -> None:
        """Notice the tables that were reported before an evaluation."""
        self._reports.mark(run)

    def reports(self, run: RunView) -> list[str]:
        """Return the tables that were reported in an evaluation; the end does not show them again."""
        return [line for title, rows in self._reports.new(run).items() for line in _titled(title, rows)]

    def evaluation(self, run: RunView, metrics: Mapping[str, float]) -> list[str]:
        """Return the row of an evaluation within an epoch; one at the end of an epoch is part of the epoch's row."""
        every = run.config.train.evaluate_every_steps
        if not (every and run.step % every == 0 and run.step != self._last_row):
            return []
        self._last_row = run.step
        return [self._row(f"step {run.step}", metrics)]

    def epoch(self, run: RunView, metrics: Mapping[str, float]) -> str:
        """Return the epoch's row, with an empty cell for each metric that was not measured."""
        return self._row(f"{run.epoch}/{run.config.train.epochs}", metrics)

    def warning(self, message: str) -> str:
        """Return the line of a warning."""
        return f"warning: {printable(self._redaction.text(message))}"

    def end(self, run: RunView, outcome: Outcome) -> list[str]:
        """Return the reported tables, and how the run ended."""
        tables = [
            line
            for title, rows in run.summary.items()
            if rows is not self._reports.shown.get(title)
            for line in _titled(title, rows)
        ]
        reason = run.interrupt_reason if outcome == "interrupted" else run.stop_reason
        because = f": {printable(reason)}" if reason else ""
        seconds = time.perf_counter() - self._start
        return [*tables, "", f"{outcome} after {run.step} steps in {seconds:.2f} s{because}"]

    def _row(self, label: str, metrics: Mapping[str, float]) -> str:
        cells = {name: _metric_cell(name, metrics, width) for name, width in self._widths.items()}
        values = [cell.rjust(self._widths[name]) for name, cell in cells.items()]
        return "  ".join([label.rjust(_EPOCH_WIDTH), *values, f"{time.perf_counter() - self._epoch_start:7.2f}"])


class Reports:
    """The tables that plugins report in evaluations, to show them at once.

    Attributes:
        shown: Those that were returned, by title.
    """

    def __init__(self) -> None:
        self.shown: dict[str, Sequence[Mapping[str, Any]]] = {}
        self._before: dict[str, Sequence[Mapping[str, Any]]] = {}

    def mark(self, run: RunView) -> None:
        """Notice the tables of a run before an evaluation."""
        self._before = dict(run.summary)

    def new(self, run: RunView) -> dict[str, Sequence[Mapping[str, Any]]]:
        """Return the tables that were reported since."""
        new = {title: rows for title, rows in run.summary.items() if rows is not self._before.get(title)}
        self.shown |= new
        return new


def _titled(title: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return ["", printable(title), *(f"  {row}" for row in _table(rows))]


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return rows of plain values as aligned lines under their keys, numbers right-aligned."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[*map(printable, keys)], *([_cell(row.get(key)) for key in keys] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(keys))]
    is_number = [all(isinstance(row.get(key), int | float) for row in rows) for key in keys]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        ).rstrip()
        for line in cells
    ]


def _metric_cell(name: str, metrics: Mapping[str, float], width: int) -> str:
    """Return a metric, the number of its numbers if it has several, or nothing if it was not measured."""
    if name in metrics:
        text = f"{metrics[name]:.6g}"
        return text if len(text) <= width else f"{metrics[name]:.4g}"
    num_parts = sum(each.startswith(f"{name}/") for each in metrics)
    return f"{num_parts} numbers" if num_parts else ""


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))
