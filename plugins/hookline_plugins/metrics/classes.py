"""Metrics for classes, over all examples of an evaluation.

Shapes: ``C`` classes; those of predictions and targets are described in ``answers``.

``tp``, ``fp`` and ``fn`` are the true positives, false positives and false negatives of a class. The formulas are those
of scikit-learn, with 0 for 0 / 0: https://scikit-learn.org/stable/modules/model_evaluation.html.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hookline_plugins.metrics.answers import Answers

if TYPE_CHECKING:
    from torch import Tensor


class _OverClasses:
    """Base of the metrics: counts ``tp``, ``fp`` and ``fn`` of each class.

    Args:
        answers: The form of predictions and targets.
    """

    higher_is_better = True

    def __init__(self, answers: Answers | None = None) -> None:
        self._answers = answers or Answers()
        self.reset()

    def reset(self) -> None:
        """Discard all batches."""
        self._right: Tensor | None = None
        self._predicted: Tensor | None = None
        self._actual: Tensor | None = None

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch."""
        chosen, actual = self._answers.chosen_and_true(prediction, target)
        num_classes = self._answers.num_classes(prediction)
        counts = [each.bincount(minlength=num_classes) for each in (actual[chosen == actual], chosen, actual)]
        if self._right is None or self._predicted is None or self._actual is None:
            self._right, self._predicted, self._actual = counts
        else:
            self._right, self._predicted, self._actual = (
                self._right + counts[0],
                self._predicted + counts[1],
                self._actual + counts[2],
            )

    def compute(self) -> float:
        """Return the metric; NaN without a batch."""
        if self._right is None or self._predicted is None or self._actual is None:
            return math.nan
        right, predicted, actual = (count.cpu().double() for count in (self._right, self._predicted, self._actual))
        return self._value(right, predicted, actual)

    def _value(self, right: Tensor, predicted: Tensor, actual: Tensor) -> float:
        """Return the metric from ``tp``, ``tp + fp`` and ``tp + fn`` of each class, float64 ``[C]``."""
        raise NotImplementedError

    def _mean(self, values: Tensor, is_there: Tensor) -> float:
        """Return the value of class 1 if binary, else the mean over the classes that occur; with 0 for 0 / 0."""
        values = values.nan_to_num(nan=0.0)
        return float(values[1] if self._answers.is_binary else values[is_there].mean())


class BalancedAccuracy(_OverClasses):
    """Mean of ``tp / (tp + fn)`` over the classes among the targets, so that rare classes count as much as others.

    Source: K. H. Brodersen et al., "The balanced accuracy and its posterior distribution", ICPR (2010).
    """

    def _value(self, right: Tensor, predicted: Tensor, actual: Tensor) -> float:  # noqa: ARG002 - the same signature for all
        return float((right / actual)[actual > 0].mean())


class Precision(_OverClasses):
    """Share of the predictions of a class that are correct, ``tp / (tp + fp)``.

    That of 1 for targets 0 and 1; otherwise the mean over the classes that occur in targets or predictions.
    """

    def _value(self, right: Tensor, predicted: Tensor, actual: Tensor) -> float:
        return self._mean(right / predicted, predicted + actual > 0)


class Recall(_OverClasses):
    """Share of a class that is found, ``tp / (tp + fn)``; of 1, or the mean over classes, as for precision."""

    def _value(self, right: Tensor, predicted: Tensor, actual: Tensor) -> float:
        return self._mean(right / actual, predicted + actual > 0)


class F1(_OverClasses):
    """Harmonic mean of precision and recall, ``2 tp / (2 tp + fp + fn)``; of 1, or the mean over classes."""

    def _value(self, right: Tensor, predicted: Tensor, actual: Tensor) -> float:
        return self._mean(2 * right / (predicted + actual), predicted + actual > 0)


class Confusion:
    """Number of examples of each true class for which each class was chosen, ``[C, C]``: true class, chosen class."""

    def __init__(self, answers: Answers | None = None) -> None:
        self._answers = answers or Answers()
        self.reset()

    def reset(self) -> None:
        """Discard all batches."""
        self._counts: Tensor | None = None

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch."""
        chosen, actual = self._answers.chosen_and_true(prediction, target)
        size = self._answers.num_classes(prediction)
        counts = (actual * size + chosen).bincount(minlength=size * size).view(size, size)
        self._counts = counts if self._counts is None else self._counts + counts

    def compute(self) -> Tensor | float:
        """Return the numbers; NaN without a batch."""
        return math.nan if self._counts is None else self._counts


class TopKAccuracy:
    """Share of examples whose class is among the ``k`` with the largest logits."""

    higher_is_better = True

    def __init__(self, k: int, answers: Answers | None = None) -> None:
        self._k = k
        self._answers = answers or Answers()
        self.reset()

    def reset(self) -> None:
        """Discard all batches."""
        self._num_right = 0
        self._num_answers = 0

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch."""
        rows, actual = self._answers.rows(prediction, target)
        chosen = rows.topk(min(self._k, rows.shape[1]), dim=1).indices
        self._num_right += int((chosen == actual.unsqueeze(1)).sum())
        self._num_answers += actual.numel()

    def compute(self) -> float:
        """Return the share; NaN without a batch."""
        return self._num_right / self._num_answers if self._num_answers else math.nan
