"""Callback ``progress``: a row per epoch on standard output, and a live line in a terminal."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TextIO

from msgspec import Meta

from hookline import hookimpl
from hookline.engine import printable
from hookline_plugins.callback_parts.display import Display
from hookline_plugins.callback_parts.event_text import EventText
from hookline_plugins.callback_parts.fitting import fitted

if TYPE_CHECKING:
    from rich.progress import Progress as LiveProgress
    from torch import Tensor

    from hookline import Outcome, RunView


_REDRAW_S = 0.1
"""Shortest time between two redraws of the live line; ten per second look smooth."""
_BAR_WIDTH, _MIN_BAR = 24, 8


@dataclass
class Progress:
    """The progress of a run: a row per epoch, then the tables that plugins report, and the outcome.

    A terminal also has a live line with rate, time left and the latest logged values, redrawn at most ten times per
    second. Elsewhere (a pipe, a log, CI) only plain lines are written, without control characters; an epoch that takes
    longer than ``every_s`` has a line for each interval. If standard output fails, the run continues without it, after
    a warning.
    """

    ranks: ClassVar = "zero"
    allows_fused_steps: ClassVar[bool] = True  # it only observes

    live: Annotated[
        Literal["auto", "on", "off"], Meta(description="live line; 'auto': in a terminal that can redraw")
    ] = "auto"
    every_s: Annotated[
        float, Meta(ge=0, description="without a live line: seconds between lines within a long epoch; 0: none")
    ] = 60.0

    def __post_init__(self) -> None:
        self._is_live = self.live == "on" or (self.live == "auto" and _is_terminal())
        self._display = Display("progress")
        self._live_line: LiveProgress | None = None
        self._waiting: list[str] = []
        self._reports: list[str] = []
        self._logged: dict[str, float] = {}
        self._interval_s = _REDRAW_S if self._is_live else self.every_s
        if not self._interval_s:
            # Steps then cost nothing: an instance switches a hook off by setting it to None.
            self.on_step_end = self.on_log = None  # type: ignore[assignment, method-assign] # see above

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Write the head of the table, and start the live line."""
        self._start, self._num_before = time.perf_counter(), run.step
        # on_epoch_start is not called for an epoch that is resumed
        self._due_at = self._start + (0 if self._is_live else self.every_s)
        self._text = EventText(run, shutil.get_terminal_size().columns)
        self._write(run, *self._text.head(run))
        if self._is_live:
            self._live_line, self._room = _live_display(run)
            self._display.attempt(run, self._live_line.start)

    @hookimpl
    def on_epoch_start(self) -> None:
        """Start timing the epoch."""
        self._text.epoch_start()
        if not self._is_live:
            self._due_at = time.perf_counter() + self._interval_s

    @hookimpl
    def on_step_end(self, run: RunView, loss: Tensor) -> None:
        """Redraw the live line, or else write a line, if it is due."""
        now = time.perf_counter()
        if now >= self._due_at:
            self._due_at = now + self._interval_s
            rate = f"{(run.step - self._num_before) / (now - self._start):.0f} steps/s"
            self._display.attempt(run, lambda: self._show(run, f"{loss.item():.4g}", rate))

    @hookimpl
    def on_log(self, values: Mapping[str, float]) -> None:
        """Show the logged values in the live line from its next redraw on, or in the next line of a long epoch."""
        self._logged |= values

    @hookimpl
    def on_evaluation_start(self, run: RunView) -> None:
        """Notice what is reported in the evaluation."""
        self._text.evaluation_start(run)

    # Last, to include the reports of the other plugins.
    @hookimpl(trylast=True)
    def on_evaluation_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Write the row of an evaluation within an epoch; one at the end of an epoch is part of the epoch's row.

        The tables that were reported in the evaluation follow the row.
        """
        row, reports = self._text.evaluation(run, metrics), self._text.reports(run)
        self._reports = [] if row else reports
        self._write(run, *row, *(reports if row else []))

    @hookimpl
    def on_epoch_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Write the epoch's row."""
        self._write(run, self._text.epoch(run, metrics), *self._reports)
        self._reports = []

    @hookimpl
    def on_warning(self, run: RunView, message: str) -> None:
        """Write the warning."""
        self._write(run, self._text.warning(message))

    # Last, to include the reports of the other plugins.
    @hookimpl(trylast=True)
    def on_run_end(self, run: RunView, outcome: Outcome) -> None:
        """Remove the live line, and write the reported tables and the outcome."""
        if self._live_line:
            # Always, because it restores standard output; a failure shows in the next line.
            with contextlib.suppress(OSError, ValueError):
                self._live_line.stop()
            self._live_line = None
            self._write(run, *self._waiting)
        self._write(run, *self._text.end(run, outcome))

    def _write(self, run: RunView, *lines: str) -> None:
        """Write lines; with a live line, at its next redraw, because each write redraws it."""
        if self._live_line:
            self._waiting += lines
        else:
            self._display.lines(run, *lines)

    def _show(self, run: RunView, loss: str, rate: str) -> None:
        logged = [f"{printable(name)} {value:.4g}" for name, value in self._logged.items()]
        if self._live_line is None:
            self._display.lines(run, self._text.step(run, f"loss {loss}", rate, *logged))
            return
        task = self._live_line.task_ids[0]
        shown = fitted(logged, self._room)
        self._live_line.update(task, completed=run.step, epoch=run.epoch, loss=loss, rate=rate, logged=shown)
        if self._waiting:
            text = "\n".join(self._waiting)
            self._live_line.console.print(text, markup=False, highlight=False, soft_wrap=True)
            self._waiting.clear()
        else:
            self._live_line.refresh()


def _is_terminal() -> bool:
    stream: TextIO | None = sys.stdout  # None if it was closed when the program started
    can_redraw = os.environ.get("TERM", "dumb") != "dumb" and "CI" not in os.environ
    return can_redraw and stream is not None and stream.isatty()


def _live_display(run: RunView) -> tuple[LiveProgress, int]:
    """Return the live line, with the columns that fit beside each other, and the room for logged values after them."""
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

    epochs, steps = run.config.train.epochs, f"/{run.num_steps}" if run.num_steps else ""
    columns: dict[str, tuple[int, ProgressColumn]] = {  # the most important first, with the most that each may need
        "loss": (15, TextColumn("loss {task.fields[loss]}")),
        "epoch": (7 + 2 * len(f"{epochs}"), TextColumn(f"epoch {{task.fields[epoch]}}/{epochs}")),
        "left": (7, TimeRemainingColumn()),
        "step": (4 + 2 * max(len(steps), 4), TextColumn(f"step {{task.completed}}{steps}")),
        "rate": (13, TextColumn("{task.fields[rate]}")),
    }
    room, chosen = shutil.get_terminal_size().columns - 1, {}
    for name, (width, column) in columns.items():
        if width < room:
            room -= width + 1
            chosen[name] = column
    if room > _MIN_BAR:
        bar = min(_BAR_WIDTH, room - 1)
        room -= bar + 1
        chosen["bar"] = BarColumn(bar_width=bar)
    shown = [chosen[name] for name in ("epoch", "bar", "step", "loss", "rate", "left") if name in chosen]
    display = Progress(*shown, TextColumn("{task.fields[logged]}", markup=False), auto_refresh=False, transient=True)
    display.add_task("steps", total=run.num_steps, epoch=0, loss="-", rate="-", logged="")
    return display, room
