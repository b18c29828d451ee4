"""Metric ``accuracy``: the share of examples whose most probable class is correct."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookline_plugins.metrics.answers import Answers

if TYPE_CHECKING:
    from torch import Tensor


class Accuracy:
    """Share of correct answers, in [0, 1].

    Args:
        answers: The form of predictions and targets.

    Example:
        >>> import torch
        >>> accuracy = Accuracy()
        >>> accuracy.update(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        >>> accuracy.compute()
        0.5
    """

    higher_is_better = True

    def __init__(self, answers: Answers | None = None) -> None:
        self._answers = answers or Answers()
        self.reset()

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch."""
        chosen, actual = self._answers.chosen_and_true(prediction, target)
        self._num_right += int((chosen == actual).sum())
        self._num_answers += actual.numel()

    def compute(self) -> float:
        """Return the share of correct answers since the last ``reset``; NaN if there are none."""
        return self._num_right / self._num_answers if self._num_answers else float("nan")

    def reset(self) -> None:
        """Discard all batches."""
        self._num_right = 0
        self._num_answers = 0
