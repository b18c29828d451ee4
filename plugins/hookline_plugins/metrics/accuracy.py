"""Metric ``accuracy``: the share of examples whose most probable class is correct."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Accuracy:
    """Share of correct answers, in [0, 1].

    Class indices ``[B]`` are compared with the largest of the logits ``[B, C]``; probabilities ``[B, O]`` with the sign
    of the logits ``[B, O]``, element by element.

    Example:
        >>> import torch
        >>> accuracy = Accuracy()
        >>> accuracy.update(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        >>> accuracy.compute()
        0.5
    """

    def __init__(self) -> None:
        self.reset()

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch."""
        is_binary = target.is_floating_point()
        right = (prediction > 0) == (target > 0.5) if is_binary else prediction.argmax(dim=1) == target
        self._num_right += int(right.sum())
        self._num_answers += target.numel()

    def compute(self) -> float:
        """Return the share of correct answers since the last ``reset``; NaN if there are none."""
        return self._num_right / self._num_answers if self._num_answers else float("nan")

    def reset(self) -> None:
        """Discard all batches."""
        self._num_right = 0
        self._num_answers = 0
