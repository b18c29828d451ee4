"""Callback ``json-lines``: one JSON object per event on standard output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from hookline import hookimpl
from hookline.engine import text_of
from hookline.runs import folder_of

if TYPE_CHECKING:
    from hookline import Outcome, RunView


@dataclass
class JSONLines:
    """One JSON object (RFC 8259) per line for each event except steps; non-finite numbers are null."""

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Write the size of the run."""
        kept = folder_of(run)
        folder = str(kept.path) if kept else None
        size = {"epochs": run.num_epochs, "steps_per_epoch": run.steps_per_epoch, "step": run.step}
        _write("run_start", **size, seed=run.config.train.seed, folder=folder)
        for message in run.warnings:
            self.on_warning(message)

    @hookimpl
    def on_epoch_start(self, run: RunView) -> None:
        """Write the number of the epoch."""
        _write("epoch_start", epoch=run.epoch)

    @hookimpl
    def on_evaluation_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Write the metrics of the evaluation."""
        _write("evaluation_end", epoch=run.epoch, step=run.step, metrics=dict(metrics))

    @hookimpl
    def on_epoch_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Write the metrics of the epoch."""
        _write("epoch_end", epoch=run.epoch, step=run.step, metrics=dict(metrics))

    @hookimpl
    def on_warning(self, message: str) -> None:
        """Write the warning."""
        _write("warning", message=_text(message))

    @hookimpl
    def on_run_error(self, run: RunView, error: BaseException) -> None:
        """Write the error."""
        _write("run_error", epoch=run.epoch, step=run.step, type=type(error).__name__, message=_text(text_of(error)))

    # Last, to include the reports of the other plugins.
    @hookimpl(trylast=True)
    def on_run_end(self, run: RunView, outcome: Outcome) -> None:
        """Write the outcome and the reported tables."""
        _write("run_end", outcome=outcome, stop_reason=run.stop_reason, steps=run.step, summary=dict(run.summary))


def _text(message: str) -> str:
    """Return a message with lone surrogates escaped, such as undecodable bytes of a file name."""
    return message.encode(errors="backslashreplace").decode()


def _write(event: str, **values: Any) -> None:
    # msgspec writes NaN and infinity as null.
    line = msgspec.json.encode({"event": event, **values}).decode()
    if not line.isprintable():
        # Escape characters that a terminal could obey or hide; DEL is the only one that JSON does not escape itself.
        shown = (c if c.isprintable() else json.dumps(c)[1:-1] for c in line.replace("\x7f", "\\u007f"))
        line = "".join(shown)
    print(line, flush=True)  # noqa: T201 - this plugin writes to standard output
