"""Metric ``perplexity``: how many equally probable answers the model chooses from, on average."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hookline_plugins.metrics.answers import Answers

if TYPE_CHECKING:
    from torch import Tensor


class Perplexity:
    """The exponential of the mean of ``-log softmax(prediction)[target]`` over all answers that count, at least 1.

    Each answer counts the same: in a language model each token, whatever the batches. Predictions are logits.

    Args:
        answers: The form of predictions and targets.

    Example:
        >>> import torch
        >>> perplexity = Perplexity()
        >>> perplexity.update(torch.zeros(2, 8, 3), torch.zeros(2, 3, dtype=torch.int64))
        >>> round(perplexity.compute(), 6)
        8.0
    """

    higher_is_better = False

    def __init__(self, answers: Answers | None = None) -> None:
        self._answers = answers or Answers()
        self.reset()

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch."""
        import torch
        from torch.nn import functional

        rows, actual = self._answers.rows(prediction, target)
        precise = rows.to(torch.promote_types(rows.dtype, torch.float32))
        self._sum += float(functional.cross_entropy(precise, actual, reduction="none").double().sum())
        self._num_answers += actual.numel()

    def compute(self) -> float:
        """Return the perplexity since the last ``reset``; NaN without answers."""
        if not self._num_answers:
            return float("nan")
        mean = self._sum / self._num_answers
        return math.exp(mean) if mean < math.log(1e300) else math.inf

    def reset(self) -> None:
        """Discard all batches."""
        self._sum = 0.0
        self._num_answers = 0
