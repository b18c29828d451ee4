"""The loss of each example of a batch: that of a batch of one example, as an evaluation computes it.

Shapes: ``B`` examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hookline.engine.errors import ContractError
from hookline.engine.loop.building import Site
from hookline.engine.loop.weighted_mean import WeightedMean, weight_of
from hookline.engine.reading.batch import Forward, count_examples, part_of

_ROUNDINGS = 100
"""Roundings of the largest loss of a batch by which its mean may differ."""


class Forwarded(NamedTuple):
    """A batch that has passed through the model.

    Attributes:
        batch: The batch.
        prediction: The prediction for it.
        target: Its target.
        asked: What the loss asks for besides.
    """

    batch: Any
    prediction: Any
    target: Any
    asked: dict[str, Any]

    @classmethod
    def of(cls, forward: Forward, batch: Any) -> Forwarded:
        """Pass a batch through a model."""
        return cls(batch, *forward(batch))


class ExampleLosses:
    """The losses of single examples, and their weights in the mean loss of an evaluation.

    Args:
        site: The run.
    """

    def __init__(self, site: Site) -> None:
        self._parts, self._owner = site.parts, str(site.host.owner("loss"))
        loss: Any = site.parts.loss
        evaluates = any(not member.is_core for member, _ in site.host.order("build_evaluation"))
        # A model that computes its own loss has computed that of the whole batch.
        self._is_usual = not evaluates and "output" not in site.parts.forward.asked
        self._weigh = None if evaluates else weight_of(loss)
        self._is_of_classes = isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and loss.weight is None
        self.mean = WeightedMean()

    def columns(self, forwarded: Forwarded) -> dict[str, list[float | None]]:
        """Return ``loss``, and ``weight`` if the examples may have different weights in the mean loss.

        An example without a target that counts has no loss.

        Raises:
            ContractError: When the loss of the batch is not the mean of those of its examples.
        """
        size = count_examples(forwarded.batch)
        pairs = list(self._of_each(forwarded, size))
        losses = torch.stack([loss for loss, _ in pairs]).double().cpu()
        weights = torch.tensor([1.0 if weight is None else float(weight) for _, weight in pairs], dtype=torch.float64)
        mean = (losses.where(weights > 0, 0.0) * weights).sum() / weights.sum()
        self._check(mean, losses, forwarded)
        self.mean.add(mean, weights.sum())
        found = [loss if weight else None for loss, weight in zip(losses.tolist(), weights.tolist(), strict=True)]
        return {"loss": found, **({"weight": weights.tolist()} if self._has_weights(forwarded.target) else {})}

    def _has_weights(self, target: Any) -> bool:
        """Return whether the examples may have different weights; whether one counts at all, its loss says."""
        if not self._is_usual:
            return self._weigh is not None
        return self._weigh is not None and not (self._is_of_classes and target.dim() == 1)

    def _of_each(self, forwarded: Forwarded, size: int) -> Iterator[tuple[Tensor, Any]]:
        """Yield the loss of each example, and its weight; None: 1."""
        if not self._is_usual:
            for number in range(size):
                found = self._parts.evaluation(part_of(forwarded.batch, number, number + 1))
                yield torch.as_tensor(found.loss), found.weight
            return
        loss, weigh, asked = self._parts.loss, self._weigh, forwarded.asked
        pairs = zip(_ones(forwarded.prediction, size), _ones(forwarded.target, size), strict=True)
        for number, (prediction, target) in enumerate(pairs):
            own = {
                name: part_of(value, number, number + 1) if name == "inputs" else value for name, value in asked.items()
            }
            yield loss(prediction, target, **own), weigh(target) if weigh else None

    def _check(self, mean: Tensor, losses: Tensor, forwarded: Forwarded) -> None:
        """Check that the loss of a batch is the mean of those of its examples."""
        if self._is_usual:
            whole = float(self._parts.loss(forwarded.prediction, forwarded.target, **forwarded.asked))
        else:
            whole = float(self._parts.evaluation(forwarded.batch).loss)
        near = _ROUNDINGS * torch.finfo(self._parts.dtype).eps * float(losses.nan_to_num(0.0).abs().max())
        if torch.isclose(mean, torch.tensor(whole).double(), rtol=0.0, atol=near, equal_nan=True):
            return
        got = f"that of a batch is {whole:.6g}, and the mean of its examples {float(mean):.6g}"
        hint = "it depends on the other examples of the batch: leave the losses out with --no-loss"
        raise ContractError(f"{self._owner} is no loss of single examples: {got}", hint=hint)


def _ones(values: Any, size: int) -> Iterable[Any]:
    """Return the examples of a batch as batches of one; splitting a tensor takes a tenth of the time of slicing it."""
    is_batch = isinstance(values, Tensor) and values.dim() and len(values) == size
    return values.split(1) if is_batch else (part_of(values, number, number + 1) for number in range(size))
