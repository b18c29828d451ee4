"""Callback ``json-lines``: one JSON object per event on standard output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from hookline import hookimpl
from hookline.engine import encodable, text_of
from hookline.runs import folder_of
from hookline.trained import only_watches
from hookline_plugins.callback_parts.display import Display
from hookline_plugins.callback_parts.event_text import Reports

if TYPE_CHECKING:
    from hookline import Outcome, RunView


@dataclass
class JSONLines:
    """One JSON object (RFC 8259) per line for each event except steps; non-finite numbers are null.

    If standard output fails, the run continues without it, after a warning.
    """

    script = only_watches

    ranks: ClassVar = "zero"

    def __post_init__(self) -> None:
        self._display = Display("json-lines")
        self._reports = Reports()

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Write the size of the run."""
        kept = folder_of(run)
        folder = encodable(str(kept.path)) if kept else None
        size = {"epochs": run.config.train.epochs, "steps_per_epoch": run.steps_per_epoch, "step": run.step}
        self._write(run, "run_start", **size, seed=run.config.train.seed, folder=folder)
        for message in run.warnings:
            self.on_warning(run, message)

    @hookimpl
    def on_epoch_start(self, run: RunView) -> None:
        """Write the number of the epoch."""
        self._write(run, "epoch_start", epoch=run.epoch)

    @hookimpl
    def on_log(self, run: RunView, values: Mapping[str, float]) -> None:
        """Write the logged values."""
        self._write(run, "log", epoch=run.epoch, step=run.step, values=dict(values))

    @hookimpl
    def on_evaluation_start(self, run: RunView) -> None:
        """Notice what is reported in the evaluation."""
        self._reports.mark(run)

    # Last, to include the reports of the other plugins.
    @hookimpl(trylast=True)
    def on_evaluation_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Write the metrics of the evaluation, and the tables that were reported in it."""
        self._write(run, "evaluation_end", epoch=run.epoch, step=run.step, metrics=dict(metrics))
        for title, rows in self._display.redaction(run).tables(self._reports.new(run)).items():
            self._write(run, "report", epoch=run.epoch, step=run.step, title=title, rows=rows)

    @hookimpl
    def on_epoch_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Write the metrics of the epoch."""
        self._write(run, "epoch_end", epoch=run.epoch, step=run.step, metrics=dict(metrics))

    @hookimpl
    def on_warning(self, run: RunView, message: str) -> None:
        """Write the warning."""
        self._write(run, "warning", message=self._text(run, message))

    @hookimpl
    def on_run_error(self, run: RunView, error: BaseException) -> None:
        """Write the error."""
        self._write(
            run,
            "run_error",
            epoch=run.epoch,
            step=run.step,
            type=type(error).__name__,
            message=self._text(run, text_of(error)),
        )

    # Last, to include the reports of the other plugins.
    @hookimpl(trylast=True)
    def on_run_end(self, run: RunView, outcome: Outcome) -> None:
        """Write the outcome and the reported tables."""
        self._write(
            run,
            "run_end",
            outcome=outcome,
            stop_reason=run.stop_reason,
            steps=run.step,
            summary=self._display.redaction(run).tables(run.summary),
        )

    def _text(self, run: RunView, message: str) -> str:
        """Return a message without secrets, with lone surrogates escaped."""
        return self._display.redaction(run).text(encodable(message))

    def _write(self, run: RunView, event: str, **values: Any) -> None:
        # Of the values, not of the line: its numbers and keys must stay. msgspec writes NaN and infinity as null.
        plain = self._display.redaction(run).plain(values)
        line = msgspec.json.encode({"event": event, **plain}).decode()
        if not line.isprintable():
            # Escape characters that a terminal could obey or hide; JSON itself escapes all of ASCII's but DEL.
            shown = (c if c.isprintable() else json.dumps(c)[1:-1] for c in line.replace("\x7f", "\\u007f"))
            line = "".join(shown)
        self._display.attempt(run, lambda: print(line, flush=True))  # noqa: T201 - it is standard output
