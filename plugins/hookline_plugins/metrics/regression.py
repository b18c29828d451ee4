"""Metrics for numbers, over all examples of an evaluation, not averaged over batches.

Shapes: ``B`` examples in a batch, ``O`` values predicted for an example; ``y`` is a target, ``p`` its prediction, and
``e = y - p``. Predictions and targets are ``[B, O]`` or ``[B]``. With several values for an example, errors weigh each
value equally; ``r2`` and ``explained_variance`` are the mean over the values.

The formulas are those of scikit-learn, https://scikit-learn.org/stable/modules/model_evaluation.html.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from hookline import ContractError

if TYPE_CHECKING:
    from torch import Tensor


class Moments:
    """Number, mean and sum of squared deviations of each column, independent of the batches.

    Source: T. F. Chan, G. H. Golub and R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", Stanford STAN-CS-79-773 (1979).
    """

    def __init__(self) -> None:
        self.num_rows = 0
        self.mean: Tensor | float = 0.0
        self.deviation: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        """Add rows, float64 ``[B, O]``, at least one."""
        mean = rows.mean(dim=0)
        total = self.num_rows + len(rows)
        shift = mean - self.mean
        within = (rows - mean).square().sum(dim=0)
        self.deviation = self.deviation + within + shift.square() * (self.num_rows * len(rows) / total)
        self.mean = self.mean + shift * (len(rows) / total)
        self.num_rows = total


class _OverErrors:
    """Base of the metrics: takes each batch as float64 columns.

    Args:
        unscale: Maps targets and predictions to the units of the metric; None: they are in these units.
    """

    higher_is_better = False

    def __init__(self, unscale: Callable[[Tensor], Tensor] | None = None) -> None:
        self._unscale = unscale or (lambda values: values)
        self.reset()

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch."""
        import torch

        if prediction.numel() != target.numel():
            shapes = f"the prediction is {list(prediction.shape)} and the target {list(target.shape)}"
            raise ContractError(f"a metric for numbers needs one prediction for each target, but {shapes}")
        # On the CPU, because not every accelerator has float64; reshaped, because [B, 1] and [B] would broadcast.
        rows = target.detach().to("cpu", torch.float64).reshape(len(target), -1)
        predicted = prediction.detach().to("cpu", torch.float64).reshape(rows.shape)
        rows = self._unscale(rows)
        self._add(rows, rows - self._unscale(predicted))

    def reset(self) -> None:
        """Discard all batches."""
        raise NotImplementedError

    def _add(self, targets: Tensor, errors: Tensor) -> None:
        raise NotImplementedError


class MAE(_OverErrors):
    """Mean absolute error: the mean of ``|e|``."""

    def reset(self) -> None:
        """Discard all batches."""
        self._sum, self._num_values = 0.0, 0

    def compute(self) -> float:
        """Return the metric; NaN without a batch."""
        return self._sum / self._num_values if self._num_values else math.nan

    def _add(self, targets: Tensor, errors: Tensor) -> None:  # noqa: ARG002 - the same signature for all
        self._sum += self._value(errors).sum().item()
        self._num_values += errors.numel()

    def _value(self, errors: Tensor) -> Tensor:
        return errors.abs()


class MSE(MAE):
    """Mean squared error: the mean of ``e^2``."""

    def _value(self, errors: Tensor) -> Tensor:
        return errors.square()


class RMSE(MSE):
    """Root of the mean squared error, in the unit of the target: ``sqrt(mean(e^2))``."""

    def compute(self) -> float:
        """Return the metric; NaN without a batch."""
        return math.sqrt(super().compute())


class MaxError(_OverErrors):
    """Largest error: the maximum of ``|e|``."""

    def reset(self) -> None:
        """Discard all batches."""
        self._largest: Tensor | None = None

    def compute(self) -> float:
        """Return the metric; NaN without a batch."""
        return math.nan if self._largest is None else self._largest.item()

    def _add(self, targets: Tensor, errors: Tensor) -> None:  # noqa: ARG002 - the same signature for all
        largest = errors.abs().max()
        # torch's maximum propagates NaN; Python's max may drop it.
        self._largest = largest if self._largest is None else largest.maximum(self._largest)


class R2(_OverErrors):
    """Coefficient of determination: ``1 - sum(e^2) / sum((y - mean(y))^2)``, at most 1.

    NaN for a constant target.
    """

    higher_is_better = True

    def reset(self) -> None:
        """Discard all batches."""
        self._errors, self._targets = Moments(), Moments()

    def compute(self) -> float:
        """Return the metric; NaN without a batch."""
        import torch

        variation = torch.as_tensor(self._targets.deviation)
        if not self._targets.num_rows:
            return math.nan
        # For a constant target 0 / 0 is NaN already, but x / 0 would be infinite.
        return float((1 - (self._unexplained() / variation).where(variation > 0, math.nan)).mean())

    def _unexplained(self) -> Tensor | float:
        """Return the sum of ``e^2`` for each value, from the mean and deviation of ``e``."""
        moments = self._errors
        return moments.deviation + moments.num_rows * moments.mean**2

    def _add(self, targets: Tensor, errors: Tensor) -> None:
        self._targets.add(targets)
        self._errors.add(errors)


class ExplainedVariance(R2):
    """Explained variance: ``1 - Var(e) / Var(y)``, which unlike ``r2`` ignores a constant error.

    NaN for a constant target.
    """

    def _unexplained(self) -> Tensor | float:
        return self._errors.deviation
