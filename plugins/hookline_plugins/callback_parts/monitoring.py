"""The base of callbacks that follow a metric: its options, and its best value so far."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from hookline import ConfigError, hookimpl
from hookline.engine import did_you_mean

if TYPE_CHECKING:
    from hookline import RunView


_WITHOUT_EVALUATIONS = "train/running_loss"
_LOGGED = "logged/"


def check_monitored(run: RunView, name: str, who: str) -> None:
    """Check that a run measures a metric; what only the end of an epoch shows is left to ``check_measured``.

    Raises:
        ConfigError: When it does not, or never evaluates; suggests the nearest name.
    """
    if name.startswith(_LOGGED) or _whole(run, name):
        return
    if name not in run.metric_names:
        hint = did_you_mean(name, run.metric_names)
        raise ConfigError(f"{who} monitors {name!r}, which this run does not measure", hint=hint)
    if name not in measured_names(run):
        hint = f"set train.evaluate_every_epochs, or monitor {_WITHOUT_EVALUATIONS!r}"
        raise ConfigError(f"{who} monitors {name!r}, but this run never evaluates", hint=hint)


def check_measured(run: RunView, name: str, who: str) -> None:
    """Check, at the end of an epoch, that a monitored value was ever logged, or is one of the numbers of its metric.

    Raises:
        ConfigError: When it was not; suggests the nearest name.
    """
    if any(name in metrics for metrics in run.history):
        return
    if name.startswith(_LOGGED):
        logged = [known for known in run.history[-1] if known.startswith(_LOGGED)]
        short = name.removeprefix(_LOGGED)
        message = f"{who} monitors {name!r}, but no plugin has logged {short!r} up to the end of epoch {run.epoch}"
        raise ConfigError(message, hint=did_you_mean(name, logged) or "a plugin logs it by run.log(name, value)")
    whole = _whole(run, name) or name
    if numbers := [known for metrics in run.history for known in metrics if f"{known}/".startswith(f"{whole}/")]:
        hint = did_you_mean(name, numbers) or f"this metric is {', '.join(dict.fromkeys(numbers))}"
        raise ConfigError(f"{who} monitors {name!r}, which this run does not measure", hint=hint)


def _whole(run: RunView, name: str) -> str | None:
    """Return the metric that may have a number of that name, such as ``validation/recall`` for its part ``/cat``."""
    return next((whole for whole in run.metric_names if name.startswith(f"{whole}/")), None)


def measured_names(run: RunView) -> Sequence[str]:
    """Return the metrics that a run will measure: without evaluations only the running loss."""
    train, num_steps = run.config.train, run.num_steps
    in_steps = train.evaluate_every_steps and (num_steps is None or train.evaluate_every_steps <= num_steps)
    return run.metric_names if train.evaluate_every_epochs or in_steps else (_WITHOUT_EVALUATIONS,)


class Monitor:
    """The best value of a metric over the evaluations of a run.

    An epoch may have no evaluation, an evaluation may come after any step, and the end of an epoch repeats the metrics
    of its evaluation. So a value counts whenever it is present, at most once per step.

    Args:
        name: The metric.
        mode: ``min`` if smaller is better, ``max`` if larger is.
        min_delta: Smallest change that counts as better.

    Attributes:
        name: The metric.
        best: The best value; None before the first. A non-finite value is never better.
        epoch: The epoch in which it was measured.
        step: The number of steps after which it was measured.
    """

    def __init__(self, name: str, mode: Literal["min", "max"], min_delta: float = 0.0) -> None:
        self.name = name
        self._mode = mode
        self._sign = 1 if mode == "min" else -1
        self._min_delta = min_delta
        self._last_step = 0
        self.best: float | None = None
        self.epoch = 0
        self.step = 0

    def update(self, run: RunView, metrics: Mapping[str, float]) -> bool | None:
        """Return True if the metric has a new best value, False if not, None if there is no new value."""
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

    def state_dict(self) -> dict[str, str | float | int | None]:
        """Return the metric, its best value with its epoch and step, and the step of the last value."""
        best = {"best": self.best, "epoch": self.epoch, "step": self.step, "last_step": self._last_step}
        return {"metric": self.name, "mode": self._mode, **best}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Restore the state from ``state_dict``; do nothing and return False if it is of another metric or mode."""
        if (state["metric"], state["mode"]) != (self.name, self._mode):
            return False
        saved = msgspec.convert(dict(state), _Saved)
        self.best, self.epoch, self.step, self._last_step = saved.best, saved.epoch, saved.step, saved.last_step
        return True


class _Saved(msgspec.Struct):
    """Types of the state of a monitor."""

    best: float | None
    epoch: int
    step: int
    last_step: int


@dataclass
class MonitoringCallback(ABC):
    """A callback that follows a metric.

    Attributes:
        plugin_name: Its name in messages.
    """

    plugin_name: ClassVar[str]
    allows_fused_steps: ClassVar[bool] = True  # it returns the step unchanged

    monitor: Annotated[str, Meta(description="name of the metric, as in an epoch's row")] = "validation/loss"
    mode: Annotated[Literal["min", "max"], Meta(description="'min': smaller is better; 'max': larger is better")] = (
        "min"
    )

    @abstractmethod
    def update(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Compare the metric with the best value so far."""

    @hookimpl(wrapper=True)
    def build_step(self, run: RunView) -> Generator[None, Any, Any]:
        """Check that the run measures the metric."""
        check_monitored(run, self.monitor, self.plugin_name)
        return (yield)

    @hookimpl
    def on_evaluation_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Compare the evaluation's metric with the best value so far."""
        self.update(run, metrics)

    @hookimpl
    def on_epoch_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Do the same for ``train/running_loss`` and logged values, which are not part of an evaluation."""
        check_measured(run, self.monitor, self.plugin_name)
        self.update(run, metrics)
