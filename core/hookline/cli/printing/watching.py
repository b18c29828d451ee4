"""Printing of runs at work: a table that is redrawn in its place, lines, or events."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from hookline.cli.output import Output
from hookline.cli.printing.runs import duration
from hookline.engine.words import printable
from hookline.runs.overview.at_work import WatchedRun

_HEAD = ("run", "status", "epoch", "step", "values", "steps/s", "left")
_CLEAR_BELOW, _UP = "\x1b[J", "\x1b[{}F"
_MORE, _MIN_NAME = "...", 12


def watched_values(run: WatchedRun) -> dict[str, Any]:
    """Return a run at work as plain values."""
    return {
        "run": run.path.name,
        "path": str(run.path.resolve()),
        "status": run.status,
        "epoch": run.epoch,
        "num_epochs": run.record.num_epochs,
        "step": run.step,
        "num_steps": run.num_steps,
        "metrics": run.values,
        "steps_per_s": run.steps_per_s,
        "seconds_left": run.seconds_left,
    }


def watched_line(run: WatchedRun) -> str:
    """Return a run at work as one line."""
    name, status, epoch, step, values, speed, left = _cells(run)
    facts = [f"epoch {epoch}", f"step {step}", values, speed and f"{speed} steps/s", left and f"{left} left"]
    return f"{name} {status}: {', '.join(filter(None, facts))}"


class RedrawnTable:
    """A table in a terminal that is drawn again in its place, each line cut to the width of the terminal."""

    def __init__(self) -> None:
        self._num_lines = 0

    def draw(self, output: Output, runs: Sequence[WatchedRun]) -> None:
        """Draw the table in place of the one before."""
        size = shutil.get_terminal_size()
        rows = [list(_HEAD), *map(_cells, runs)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        excess = sum(widths) + 2 * (len(widths) - 1) - (size.columns - 1)
        widths[0] = max(min(widths[0], widths[0] - excess), _MIN_NAME)
        rows = [[_without_middle(name, widths[0]), *rest] for name, *rest in rows]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        hidden = len(lines) - (size.lines - 1)
        if hidden > 0:  # what has left the screen cannot be drawn again
            lines = [*lines[: size.lines - 2], f"and {hidden + 1} more"]
        back = _UP.format(self._num_lines) if self._num_lines else ""
        output.verbatim(back + "".join(f"{cut(line, size.columns - 1)}\x1b[K\n" for line in lines) + _CLEAR_BELOW)
        self._num_lines = len(lines)


def cut(line: str, width: int) -> str:
    """Return a line that fits into a width, with a sign where it was cut."""
    return line if len(line) <= width else f"{line[: max(width - len(_MORE), 0)]}{_MORE}"


def _without_middle(name: str, width: int) -> str:
    half = (width - len(_MORE)) // 2
    return name if len(name) <= width else f"{name[: width - len(_MORE) - half]}{_MORE}{name[-half:]}"


def _cells(run: WatchedRun) -> list[str]:
    values = "  ".join(f"{printable(name)} {value:.5g}" for name, value in run.shown_values().items())
    speed = "" if run.steps_per_s is None else f"{run.steps_per_s:.3g}"
    left = "" if run.seconds_left is None else duration(run.seconds_left)
    return [
        printable(run.path.name),
        run.status,
        f"{run.epoch}/{run.record.num_epochs}",
        f"{run.step}",
        values,
        speed,
        left,
    ]
