"""Batches -> numbers: the mean loss and the metrics of a split, without gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hookline.engine.errors import ContractError, DataError
from hookline.engine.hookspecs import Metric
from hookline.engine.loop.batch import brief, count_examples
from hookline.engine.loop.batches import Batches
from hookline.engine.loop.memory import evaluating
from hookline.engine.loop.rng import preserved_rng
from hookline.engine.loop.splits import SplitReader
from hookline.engine.plugin.host import Host
from hookline.engine.view import LossFunction, RunView

if TYPE_CHECKING:
    pass


_FOLD = 1024
"""Values kept before they are summed up: one sum for many steps instead of one for each."""


_MAX_METRICS = 100_000
"""With more, the record of a run would be larger than any that is read."""


class WeightedMean:
    """The mean of scalar tensors, each weighted by a number of examples.

    Adding does not wait for the device: the values are kept and summed many at a time, in float64.

    Example:
        >>> mean = WeightedMean()
        >>> mean.add(torch.tensor(1.0), 3)
        >>> mean.add(torch.tensor(5.0), 1)
        >>> mean.compute()
        2.0
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all values."""
        self._values: list[Tensor] = []
        self._weights: list[int] = []
        self._sum: Tensor | float = 0.0
        self._weight = 0

    @property
    def weight(self) -> int:
        """The sum of all weights."""
        return self._weight + sum(self._weights)

    def add(self, value: Tensor, weight: int) -> None:
        """Take in one value, a scalar of any floating dtype."""
        self._values.append(value)
        self._weights.append(weight)
        if len(self._values) == _FOLD:
            self._fold()

    def state_dict(self) -> dict[str, Any]:
        """Return what was added, such that the same comes out whenever it is taken up again."""
        values = torch.stack(self._values) if self._values else None
        return {"values": values, "weights": list(self._weights), "sum": float(self._sum), "weight": self._weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self._values = [] if state["values"] is None else list(state["values"].clone().unbind())
        self._weights = list(state["weights"])
        self._sum, self._weight = state["sum"], state["weight"]

    def compute(self) -> float:
        """Return the mean, NaN if nothing was added; waits for the device."""
        self._fold()
        return float(self._sum / self._weight) if self._weight else float("nan")

    def _fold(self) -> None:
        if self._values:
            values = torch.stack(self._values).double()
            self._sum = self._sum + (values * values.new_tensor(self._weights)).sum()
            self._weight += sum(self._weights)
            self._values, self._weights = [], []


def evaluate(
    batches: Iterable[Any], model: nn.Module, loss: LossFunction, metrics: Mapping[str, Metric]
) -> dict[str, float]:
    """Return ``loss``, the mean over all examples, and each metric.

    The model is in eval mode meanwhile; its modes and torch's global random generator are as before afterwards.

    Raises:
        DataError: When there is no batch.
        ContractError: When a metric gives no number.
    """
    mean = WeightedMean()
    for metric in metrics.values():
        metric.reset()
    with torch.no_grad(), preserved_rng(), evaluation_mode(model):
        for inputs, target in batches:
            prediction = model(inputs)
            mean.add(loss(prediction, target), count_examples(target))
            for metric in metrics.values():
                metric.update(prediction, target)
    if not mean.weight:
        raise DataError("there was no batch to evaluate", hint="a stream must start anew each time it is iterated over")
    return {"loss": mean.compute()} | {name: _number(name, metric.compute()) for name, metric in metrics.items()}


def evaluate_splits(
    run: RunView, read: SplitReader, splits: Mapping[str, Batches], metrics: Mapping[str, Metric]
) -> Mapping[str, float]:
    """Return the loss and the metrics of every split that is evaluated, by names such as ``validation/loss``."""
    measured: dict[str, float] = {}
    for split, batches in splits.items():
        # Closed at once also when the model raises: the error holds the frames in which it was raised.
        with closing(read(split, batches, 1)) as stream, evaluating(run, split, batches.num_examples):
            numbers = evaluate(stream, run.model, run.loss, metrics)
        measured |= {f"{split}/{name}": value for name, value in numbers.items()}
    return MappingProxyType(measured)


def _number(name: str, value: Tensor | float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ContractError(f"the metric {name!r} gave {brief(value)}, but must give one number") from error


class evaluation_mode:  # noqa: N801 - a context manager, named like torch.no_grad
    """Put a model and its parts into eval mode; afterwards each part is in the mode that it was in."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._training = [module for module in model.modules() if module.training]

    def __enter__(self) -> None:
        self._model.eval()

    def __exit__(self, *exception: object) -> None:
        for module in self._training:
            module.training = True


def build_metrics(host: Host, **arguments: Any) -> Mapping[str, Metric]:
    """Return the metrics of all plugins by name.

    Raises:
        ContractError: When a plugin gives no mapping, a name that is there already or is no text, or far too many.
    """
    metrics: dict[str, Metric] = {}
    for plugin, built in host.results("build_metrics", **arguments):
        if not isinstance(built, Mapping):
            raise ContractError(f"build_metrics of {plugin} returned {brief(built)}, but must return metrics by name")
        for name, metric in built.items():
            if name in metrics or name in ("loss", "running_loss"):
                raise ContractError(f"{plugin} brings the metric {name!r}, which is there already")
            if not _is_text(name):
                raise ContractError(f"{plugin} names a metric {name!r}, which is no text that a file can hold")
            metrics[name] = metric
        if len(metrics) > _MAX_METRICS:
            raise ContractError(f"with {plugin} there are {len(metrics):,} metrics; a run takes {_MAX_METRICS:,}")
    return MappingProxyType(metrics)


def _is_text(name: Any) -> bool:
    # Half of a surrogate pair, as in the name of a file that is no UTF-8, cannot be written.
    return isinstance(name, str) and name.encode(errors="ignore").decode() == name
