"""Callback ``notebook``: the progress of a run in the output of a notebook's cell, updated in place."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from hookline import hookimpl
from hookline.runs import Redaction
from hookline_plugins.callback_parts.fitting import by_relevance
from hookline_plugins.callback_parts.html import curves, losses_of, table, text
from hookline_plugins.optional import optional_package

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import Outcome, RunView

_MAX_COLUMNS = 8
"""About as many numbers as fit beside each other in a cell's output."""
_MAX_EPOCHS = 100
"""Rows of the table, most of them folded; the history of the result has all."""


@dataclass
class Notebook:
    """Progress in a notebook: a bar with rate and time left, the curves of the losses, and a table of the epochs.

    It replaces the output of the cell in place, and needs IPython. Outside a notebook, nothing is shown, after a
    warning.
    """

    ranks: ClassVar = "zero"
    allows_fused_steps: ClassVar[bool] = True  # it only observes

    every_s: Annotated[float, Meta(gt=0, description="shortest time between two updates, in seconds")] = 0.5

    def __post_init__(self) -> None:
        self._update: Callable[[str], None] | None = None
        self._due_at = 0.0

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Show the progress for the first time."""
        self._start, self._num_before, self._loss = time.perf_counter(), run.step, ""
        self._names = by_relevance(run)[:_MAX_COLUMNS]
        self._redaction = Redaction.of(run.config)
        self._update = _updater()
        if self._update is None:
            run.warn("notebook shows nothing: this program is no notebook; use progress in a terminal")
        self._show(run, "")

    @hookimpl
    def on_step_end(self, run: RunView, loss: Tensor) -> None:
        """Update the bar, if that is due."""
        if self._update and time.perf_counter() >= self._due_at:
            self._loss = f", loss {loss.item():.4g}"
            self._show(run, "")

    @hookimpl
    def on_epoch_end(self, run: RunView) -> None:
        """Update the table, if that is due."""
        if time.perf_counter() >= self._due_at:
            self._show(run, "")

    # Last, to include the warnings of the other plugins.
    @hookimpl(trylast=True)
    def on_run_end(self, run: RunView, outcome: Outcome) -> None:
        """Show how the run ended."""
        self._show(run, outcome)

    def _show(self, run: RunView, outcome: str) -> None:
        if self._update:
            self._update(self._html(run, outcome))
            self._due_at = time.perf_counter() + self.every_s

    def _html(self, run: RunView, outcome: str) -> str:
        seconds = time.perf_counter() - self._start
        rate = (run.step - self._num_before) / seconds
        total = f" of {run.num_steps:,}" if run.num_steps else ""
        left = f", {(run.num_steps - run.step) / rate:,.0f} s left" if run.num_steps and rate and not outcome else ""
        state = f"{outcome} after {seconds:.1f} s, " if outcome else ""
        line = f"{state}epoch {run.epoch} of {run.config.train.epochs}, step {run.step:,}{total}{self._loss}"
        bar = f'<progress value="{run.step}" max="{run.num_steps}" style="width:20em"></progress> ' if total else ""
        # The newest first, because the table folds what comes after its first rows.
        newest = list(enumerate(run.history, 1))[: -_MAX_EPOCHS - 1 : -1]
        rows = [[number, *(metrics.get(name, "") for name in self._names)] for number, metrics in newest]
        epochs = table(["epoch", *self._names], rows) if rows else ""
        messages = [[self._redaction.text(message)] for message in run.warnings[-_MAX_EPOCHS:]]
        warnings = table(["warning"], messages) if messages else ""
        drawing = curves(run.history, losses_of(self._names))
        return f"<div>{bar}{text(line)}, {rate:,.0f} steps/s{left}{drawing}{epochs}{warnings}</div>"


def _updater() -> Callable[[str], None] | None:
    """Return a function that shows HTML in the output of this cell, each time in the same place; None elsewhere."""
    shell: Any = optional_package("IPython", "notebook needs", "notebook").get_ipython()
    if not hasattr(shell, "kernel"):
        return None
    display: Any = optional_package("IPython.display", "notebook needs", "notebook")
    handle = display.display(display.HTML(""), display_id=True)
    return lambda content: handle.update(display.HTML(content))
