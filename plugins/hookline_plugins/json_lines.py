"""Callback ``json-lines``: one JSON object for each event, on standard output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from hookline import hookimpl

if TYPE_CHECKING:
    from hookline import Outcome, Run


@dataclass
class JSONLines:
    """Writes one JSON object (RFC 8259) a line for each event but the steps; numbers that are not finite are null."""

    @hookimpl
    def on_run_start(self, run: Run) -> None:
        """Write the size of the run."""
        _write("run_start", epochs=run.num_epochs, steps_per_epoch=run.steps_per_epoch, seed=run.seed)
        for message in run.warnings:
            self.on_warning(message)

    @hookimpl
    def on_epoch_start(self, run: Run) -> None:
        """Write the epoch's number."""
        _write("epoch_start", epoch=run.epoch)

    @hookimpl
    def on_evaluation_end(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Write the evaluation's numbers."""
        _write("evaluation_end", epoch=run.epoch, step=run.step, metrics=dict(metrics))

    @hookimpl
    def on_epoch_end(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Write the epoch's numbers."""
        _write("epoch_end", epoch=run.epoch, step=run.step, metrics=dict(metrics))

    @hookimpl
    def on_warning(self, message: str) -> None:
        """Write what is wrong."""
        _write("warning", message=message)

    @hookimpl
    def on_run_error(self, run: Run, error: BaseException) -> None:
        """Write what was raised."""
        _write("run_error", epoch=run.epoch, step=run.step, type=type(error).__name__, message=str(error))

    # Last, to tell what the other plugins report.
    @hookimpl(trylast=True)
    def on_run_end(self, run: Run, outcome: Outcome) -> None:
        """Write how it ended and what was reported."""
        _write("run_end", outcome=outcome, stop_reason=run.stop_reason, steps=run.step, summary=dict(run.summary))


def _write(event: str, **values: Any) -> None:
    # msgspec writes NaN and infinity as null.
    line = msgspec.json.encode({"event": event, **values}).decode()
    print(line, flush=True)  # noqa: T201 - standard output is what this plugin is for
