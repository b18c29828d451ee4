"""``WeightedMean``, and the weight of a batch in the mean loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hookline.engine.reading.batch import tensors_in
from hookline.engine.view import LossFunction

_FOLD_ON_CPU, _FOLD = 64, 1024
"""Numbers of values to collect before they are summed: one sum for many steps, for which an accelerator waits.

On a CPU, each value that is kept is a hole in the memory of the steps, into which the allocator of C puts no tensor: a
thousand of them took 140 MB with batches of 400 kB.
"""


def weight_of(loss: LossFunction) -> Callable[[Tensor], Tensor] | None:
    """Return the function from the targets of a batch to the weight of its loss; None for the number of examples.

    It is the ``batch_weight`` of the loss. Two losses of torch without one are weighted means: each target counts as
    much as its class, and not at all if it is the ``ignore_index``.

    >>> weight = weight_of(nn.CrossEntropyLoss(torch.tensor([1.0, 20.0])))
    >>> weight(torch.tensor([0, 1, -100, 1]))
    tensor(41.)
    """
    of_torch = partial(_weight_of_classes, loss) if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) else None
    return getattr(loss, "batch_weight", of_torch)


def counted(loss: LossFunction) -> LossFunction:
    """Return a loss that is 0, with a gradient of 0, for a batch in which no target counts."""
    weigh = weight_of(loss)

    def counted_loss(prediction: Any, target: Any, **asked: Any) -> Tensor:
        value = loss(prediction, target, **asked)
        if value.is_cpu and math.isfinite(value.item()):
            return value  # on an accelerator, reading it would wait
        is_counted = weigh(target) > 0  # type: ignore[misc] # it is not None where this is returned
        for tensor in tensors_in(prediction):
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: gradient.where(is_counted, 0.0))  # type: ignore[no-untyped-call] # torch leaves it so
        return value.where(is_counted, 0.0)

    return counted_loss if weigh else loss


def _weight_of_classes(loss: nn.CrossEntropyLoss | nn.NLLLoss, target: Tensor) -> Tensor:
    if target.is_floating_point():  # probabilities, which torch weights by their number
        return target.new_full((), len(target))
    is_counted = target != loss.ignore_index
    if loss.weight is None:
        return is_counted.count_nonzero()
    return (loss.weight[target.where(is_counted, 0)] * is_counted).sum()


class WeightedMean:
    """The mean of scalar tensors, each weighted by a number of examples, or by a scalar tensor.

    Adding does not wait for the device: values are collected and summed many at a time, in float64.

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
        self._weights: list[int | Tensor] = []
        self._sum: Tensor | float = 0.0
        self._weight: Tensor | float = 0.0

    def add(self, value: Tensor, weight: int | Tensor) -> None:
        """Add a value, a scalar of any floating dtype; with a weight of 0 it does not count, even if it is NaN."""
        self._values.append(value)
        self._weights.append(weight)
        if len(self._values) >= (_FOLD_ON_CPU if value.is_cpu else _FOLD):
            self._fold()

    def state_dict(self) -> dict[str, Any]:
        """Return the values so far, such that the result after a resume is the same to the last bit."""
        values = torch.stack(self._values) if self._values else None
        sums = {"sum": float(self._sum), "weight": float(self._weight)}
        return {"values": values, "weights": _joined(self._weights), **sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by ``state_dict``."""
        self._values = [] if state["values"] is None else list(state["values"].clone())
        self._weights = list(state["weights"])
        self._sum, self._weight = state["sum"], state["weight"]

    @classmethod
    def joined(cls, states: Iterable[Mapping[str, Any]]) -> WeightedMean:
        """Return the mean of the values of several states."""
        joined, mean = cls(), cls()
        for state in states:
            mean.load_state_dict(state)
            total, weight = mean.sums()
            joined._sum += total
            joined._weight += weight
        return joined

    def sums(self) -> tuple[float, float]:
        """Return the sum of the weighted values, and that of the weights; wait for the device."""
        self._fold()
        return float(self._sum), float(self._weight)

    def compute(self) -> float:
        """Return the mean, NaN without values; wait for the device."""
        total, weight = self.sums()
        return total / weight if weight else float("nan")

    def _fold(self) -> None:
        if self._values:
            values = torch.stack(self._values).double()
            weights = torch.as_tensor(_joined(self._weights)).to(values)
            self._sum = self._sum + (values * weights).where(weights > 0, 0.0).sum()
            self._weight = self._weight + weights.sum()
            self._values, self._weights = [], []


def _joined(weights: list[Any]) -> Any:
    """Return tensors as one tensor; a copy of a list of numbers.

    >>> _joined([torch.tensor(2.5), torch.tensor(1.0)]), _joined([2, 1])
    (tensor([2.5000, 1.0000]), [2, 1])
    """
    return torch.stack(weights) if weights and isinstance(weights[0], Tensor) else list(weights)
