"""The meaning of the targets of a run, and the answers of a classification.

Shapes: ``B`` examples in a batch, ``C`` classes, ``O`` binary answers for an example, ``N`` answers.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hookline import ContractError

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import DataSource

IGNORED = -100
"""The class index that torch's losses ignore by default."""

Task = Literal["regression", "classification", "binary"]


@dataclass(frozen=True)
class Answers:
    """Classes that a model chose, and the true ones.

    Predictions are ``[B, C]``, with class indices ``[B]`` or probabilities ``[B, C]``; or ``[B, O]``, with targets
    ``[B, O]`` of 0 and 1. Further dimensions may follow, as for pixels.

    Args:
        is_binary: True if the targets are 0 and 1, which are then the classes.
        ignore_index: Class index of targets that do not count.
        threshold: Prediction above which a binary answer is 1: 0 for logits.
    """

    is_binary: bool = False
    ignore_index: int = IGNORED
    threshold: float = 0.0

    def num_classes(self, prediction: Tensor) -> int:
        """Return the number of classes."""
        return 2 if self.is_binary else prediction.shape[1]

    def chosen_and_true(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chosen and the true class of each answer that counts, int64 ``[N]``."""
        if self.is_binary:
            return (prediction > self.threshold).long().flatten(), (target > 0.5).long().flatten()
        rows, actual = self.rows(prediction, target)
        return rows.argmax(dim=1), actual

    def rows(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predictions ``[N, C]`` and the true classes ``[N]`` of the answers that count.

        Raises:
            ContractError: When a target is no class index.
        """
        actual = (target.argmax(dim=1) if target.is_floating_point() else target).flatten()
        rows, is_counted = prediction.movedim(1, -1).reshape(-1, prediction.shape[1]), actual != self.ignore_index
        rows, actual = rows[is_counted], actual[is_counted]
        if ((actual < 0) | (actual >= rows.shape[1])).any():
            lowest, highest = int(actual.min()), int(actual.max())
            message = f"the targets are {lowest} to {highest}, but class indices are 0 to {rows.shape[1] - 1}"
            raise ContractError(message, hint="if they are numbers to predict, use a loss for numbers, such as mse")
        return rows, actual


def task_of(loss: object, data: DataSource) -> Task | None:
    """Return the meaning of the targets: as the loss declares it in ``task``, or else the data source; or None.

    The loss may be that of a run, its plugin, or a class.
    """
    from torch import nn

    of_torch: dict[type[nn.Module], Task] = {
        nn.CrossEntropyLoss: "classification",
        nn.NLLLoss: "classification",
        nn.MultiMarginLoss: "classification",
        nn.BCEWithLogitsLoss: "binary",
        nn.BCELoss: "binary",
        nn.SoftMarginLoss: "binary",
        nn.MultiLabelSoftMarginLoss: "binary",
        nn.MSELoss: "regression",
        nn.L1Loss: "regression",
        nn.SmoothL1Loss: "regression",
        nn.HuberLoss: "regression",
    }
    cls = loss if inspect.isclass(loss) else type(loss)
    known = next((task for kind, task in of_torch.items() if issubclass(cls, kind)), None)
    declared: Task | None = getattr(loss, "task", known)
    return declared or data.task


def answers_of(loss: object, task: Task) -> Answers:
    """Return the answers of a classification with a loss: its ``ignore_index``, and whether it takes probabilities."""
    from torch import nn

    threshold = 0.5 if isinstance(loss, nn.BCELoss) else 0.0
    return Answers(task == "binary", getattr(loss, "ignore_index", IGNORED), threshold)
