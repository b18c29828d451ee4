"""What the callbacks that follow a metric share: its options, is it measured, when is it new, is it better."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from hookline import ConfigError, hookimpl
from hookline.engine import did_you_mean

if TYPE_CHECKING:
    from hookline import RunView


def check_monitored(run: RunView, name: str, who: str) -> None:
    """Check that a run measures a metric.

    Raises:
        ConfigError: When it does not, with the nearest name.
    """
    if name not in run.metric_names:
        hint = did_you_mean(name, run.metric_names)
        raise ConfigError(f"{who} monitors {name!r}, which this run does not measure", hint=hint)


class Monitor:
    """Follows a metric through the evaluations of a run, and keeps the best value.

    Not every epoch is evaluated, and an evaluation may come after any step; the end of an epoch repeats the numbers of
    its evaluation. So a value counts when it is there, once for each step.

    Args:
        name: The metric.
        mode: Whether smaller or larger is better.
        min_delta: The least change that counts as better.

    Attributes:
        name: The metric.
        best: The best value; None before the first. What is not finite is never better.
        epoch: The epoch in which it was measured.
        step: The number of steps after which it was.
    """

    def __init__(self, name: str, mode: Literal["min", "max"], min_delta: float = 0.0) -> None:
        self.name = name
        self._sign = 1 if mode == "min" else -1
        self._min_delta = min_delta
        self._last_step = 0
        self.best: float | None = None
        self.epoch = 0
        self.step = 0

    def look(self, run: RunView, metrics: Mapping[str, float]) -> bool | None:
        """Return whether the metric is better than ever before; None when it was not measured anew."""
        if self.name not in metrics or run.step == self._last_step:
            return None
        self._last_step = run.step
        value = metrics[self.name]
        if not self._is_better(value):
            return False
        self.best, self.epoch, self.step = value, run.epoch, run.step
        return True

    def _is_better(self, value: float) -> bool:
        if self.best is None or not math.isfinite(value):
            return math.isfinite(value)
        return self._sign * value < self._sign * self.best - self._min_delta

    def state_dict(self) -> dict[str, float | int | None]:
        """Return the best value, where it was, and the step of the last one."""
        return {"best": self.best, "epoch": self.epoch, "step": self.step, "last_step": self._last_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self.best, self.epoch, self.step = state["best"], state["epoch"], state["step"]
        self._last_step = state["last_step"]


@dataclass
class MonitoringCallback(ABC):
    """A callback that looks at a metric whenever it may have been measured.

    Attributes:
        plugin_name: What it is called in messages.
    """

    plugin_name: ClassVar[str]
    allows_fused_steps: ClassVar[bool] = True  # the step stays as it is

    monitor: Annotated[str, Meta(description="name of the metric, as an epoch's row shows it")] = "validation/loss"
    mode: Annotated[Literal["min", "max"], Meta(description="whether smaller or larger is better")] = "min"

    @abstractmethod
    def look(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Compare the metric with the best so far."""

    @hookimpl(wrapper=True)
    def build_step(self, run: RunView) -> Generator[None, Any, Any]:
        """Refuse a metric that the run will not have, as soon as it is built."""
        check_monitored(run, self.monitor, self.plugin_name)
        return (yield)

    @hookimpl
    def on_evaluation_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Compare the evaluation's metric with the best so far."""
        self.look(run, metrics)

    @hookimpl
    def on_epoch_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Compare a metric that no evaluation gives, ``train/running_loss``."""
        self.look(run, metrics)
