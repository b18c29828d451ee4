"""The learning-rate range test: the loss while the learning rate rises.

Source: L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", https://arxiv.org/abs/1506.01186, section
3.3. The exponential rise, the stopping rule and the suggestion are those of S. Gugger, "How Do You Find A Good
Learning Rate" (2018), https://sgugger.github.io/how-do-you-find-a-good-learning-rate.html.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from hookline.config.layers import Source
from hookline.config.loading import as_config
from hookline.config.run_config import RunConfig
from hookline.engine.errors import ContractError, NonFiniteError
from hookline.engine.loop.run import Run

_KEPT = 0.9
"""Weight of the previous smoothed loss in the next: a memory of about 10 steps.

Gugger's 0.98 remembers 50, which is four decades of the default range: the lowest loss would be found far too late.
"""
_DIVERGED = 4.0
"""The search ends when the smoothed loss is this many times its minimum. Source: Gugger, above."""
_BELOW_LEAST = 10.0
"""The suggestion is the learning rate with the lowest smoothed loss, divided by this. Source: Gugger, above."""
_LEARNED = 0.95
"""Share of its first value to which the smoothed loss must fall, to distinguish learning from noise."""


@dataclass(frozen=True, slots=True)
class LRPoint:
    """One step of the search.

    Attributes:
        lr: The learning rate of the update.
        loss: The loss of its batch before the update.
        smoothed: The mean of the losses so far, weighted towards the latest.
    """

    lr: float
    loss: float
    smoothed: float


@dataclass(frozen=True)
class LRCurve:
    """The loss while the learning rate rises.

    Attributes:
        points: The steps, from the lowest learning rate on; none when the first loss was not finite.
        ending: The reason why the search ended.
        suggestion: A learning rate to train with; None when the curve shows none.
        reason: The rule of the suggestion, or the reason why there is none.
    """

    points: Sequence[LRPoint]
    ending: str
    suggestion: float | None
    reason: str


def lr_find(
    config: RunConfig | Source = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    plugins: Mapping[str, Any] | None = None,
    start_lr: float = 1e-7,
    end_lr: float = 10.0,
    num_steps: int = 100,
) -> LRCurve:
    """Raise the learning rate exponentially while training a run, and return the curve of the loss.

    The run is made for this and discarded. It fires no events, so callbacks write nothing. Epochs follow one another
    for as long as needed. Wrappers of model, step and update work as in training. With several parameter groups each
    keeps its learning rate relative to that of the first.

    Args:
        config: A TOML file's path, a mapping of the same form, a ``RunConfig``, or None for the defaults.
        overrides: Values by dotted key that win over the config's; not with a ``RunConfig``.
        plugins: Objects instead of named plugins, by table; not with a ``RunConfig``.
        start_lr: The first learning rate, above 0. This default and the next two are fastai's.
        end_lr: The last learning rate, above ``start_lr``.
        num_steps: Number of steps, at least 2.

    Raises:
        ContractError: When the optimizer has no learning rate.
        HooklineError: When anything else is wrong with the run.

    Example:
        >>> curve = lr_find(num_steps=50)
        >>> 0.001 < curve.suggestion < 1
        True
    """
    if not (0 < start_lr < end_lr < math.inf and num_steps >= 2):
        raise ValueError("the search needs 0 < start_lr < end_lr and at least 2 steps")
    run = Run(as_config(config, overrides, plugins=plugins))
    rates = [start_lr * (end_lr / start_lr) ** (number / (num_steps - 1)) for number in range(num_steps)]
    points: list[LRPoint] = []
    ending = f"the learning rate reached {end_lr:.3g}"
    try:
        for point in _points(run, rates):
            points.append(point)
            if point.smoothed > _DIVERGED * min(earlier.smoothed for earlier in points):
                ending = f"the loss diverged at {point.lr:.3g}"
                break
    except NonFiniteError:
        # Raised before the step has a point.
        ending = f"the loss was not finite at {rates[len(points)]:.3g}"
    suggestion, reason = _suggestion(points, has_reached_end=len(points) == num_steps)
    return LRCurve(points, ending, suggestion, reason)


def _points(run: Run, rates: Sequence[float]) -> Iterator[LRPoint]:
    """Take a step with each learning rate, and yield its point."""
    set_lr = _RateSetter(run.optimizer)
    steps = run.try_steps()
    mean = 0.0
    for number, lr in enumerate(rates, 1):
        set_lr(lr)
        loss = next(steps).loss.item()
        if not math.isfinite(loss):
            raise NonFiniteError(f"the loss is {loss}")
        mean = _KEPT * mean + (1 - _KEPT) * loss
        # Corrects the bias of a mean that starts at 0: Kingma and Ba, "Adam", section 3.
        yield LRPoint(lr, loss, mean / (1 - _KEPT**number))


class _RateSetter:
    """Sets the learning rate of an optimizer just before each update, after anything else that sets it."""

    def __init__(self, optimizer: Optimizer) -> None:
        if any("lr" not in group for group in optimizer.param_groups):
            hint = "choose an optimizer whose parameter groups have 'lr'"
            raise ContractError(f"the optimizer {type(optimizer).__name__} has no learning rate", hint=hint)
        first = float(optimizer.param_groups[0]["lr"])
        self._shares = [float(group["lr"]) / first if first else 1.0 for group in optimizer.param_groups]
        self._lr = 0.0
        optimizer.register_step_pre_hook(self._apply)

    def __call__(self, lr: float) -> None:
        self._lr = lr

    def _apply(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        for group, share in zip(optimizer.param_groups, self._shares, strict=True):
            if isinstance(group["lr"], torch.Tensor):  # a compiled or captured update reads it there
                group["lr"].fill_(self._lr * share)
            else:
                group["lr"] = self._lr * share


def _suggestion(points: Sequence[LRPoint], *, has_reached_end: bool) -> tuple[float | None, str]:
    if not points:
        return None, "no suggestion: the loss was not finite from the beginning; lower the first learning rate"
    least = min(points, key=lambda point: point.smoothed)
    if least.smoothed > _LEARNED * points[0].smoothed:
        return None, "no suggestion: the loss did not fall; the range is too narrow, or the model cannot learn"
    if has_reached_end and least is points[-1]:
        return None, f"no suggestion: the loss is still falling at {least.lr:.3g}; raise the last learning rate"
    return least.lr / _BELOW_LEAST, f"a tenth of {least.lr:.3g}, where the smoothed loss is lowest"
