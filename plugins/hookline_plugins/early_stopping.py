"""Callback ``early-stopping``: ends the run when a metric no longer gets better."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from hookline import ConfigError, did_you_mean, hookimpl

if TYPE_CHECKING:
    from hookline import Run


@dataclass
class EarlyStopping:
    """Ends the run when a metric has not become better by more than ``min_delta`` for ``patience`` epochs."""

    monitor: Annotated[str, Meta(description="name of the metric, as an epoch's row shows it")] = "validation/loss"
    mode: Annotated[Literal["min", "max"], Meta(description="whether smaller or larger is better")] = "min"
    patience: Annotated[int, Meta(ge=1, description="epochs without improvement after which the run ends")] = 3
    min_delta: Annotated[float, Meta(ge=0, description="least change that counts as an improvement")] = 0.0

    def __post_init__(self) -> None:
        self._best = math.inf
        self._num_bad_epochs = 0

    @hookimpl(wrapper=True)
    def build_step(self, run: Run) -> Generator[None, Any, Any]:
        """Refuse a metric that the run will not have, as soon as it is built."""
        if self.monitor not in run.metric_names:
            hint = did_you_mean(self.monitor, run.metric_names)
            raise ConfigError(f"early-stopping monitors {self.monitor!r}, which this run does not measure", hint=hint)
        return (yield)

    @hookimpl
    def on_run_start(self) -> None:
        """Forget the epochs of an earlier run."""
        self.__post_init__()

    def state_dict(self) -> dict[str, float | int | None]:
        """Return the best metric so far, None before the first, and for how long there was none better."""
        best = self._best if math.isfinite(self._best) else None
        return {"best": best, "num_bad_epochs": self._num_bad_epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self._best = math.inf if state["best"] is None else state["best"]
        self._num_bad_epochs = state["num_bad_epochs"]

    @hookimpl
    def on_epoch_end(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Compare the epoch's metric with the best so far."""
        value = metrics[self.monitor] if self.mode == "min" else -metrics[self.monitor]
        if value < self._best - self.min_delta:
            self._best, self._num_bad_epochs = value, 0
            return
        self._num_bad_epochs += 1
        if self._num_bad_epochs >= self.patience:
            epochs = "1 epoch" if self.patience == 1 else f"{self.patience} epochs"
            run.request_stop(f"{self.monitor} did not improve for {epochs}")
