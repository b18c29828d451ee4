"""Losses for classification: those of torch. Each is the mean over the batch.

Shapes: ``B`` examples in a batch, ``O`` values predicted for an example, ``C`` classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from hookline import ContractError, DataSource, hookimpl
from hookline_plugins.metrics.accuracy import Accuracy
from hookline_plugins.metrics.answers import Answers

if TYPE_CHECKING:
    from torch import nn

    from hookline import Metric


@dataclass
class CrossEntropy:
    """Cross-entropy, ``nn.CrossEntropyLoss``: the mean of ``-log softmax(prediction)[target]``.

    Predictions are logits ``[B, C]``. Targets are class indices ``[B]``, int64, or probabilities ``[B, C]`` of a
    floating dtype. The mean is that over the targets that count. It adds the metric ``accuracy``, for probabilities the
    share of examples in which the most probable class is the same. The default ``ignore_index`` is torch's.
    """

    label_smoothing: Annotated[
        float, Meta(ge=0, le=1, description="share of the target's probability to spread over all classes")
    ] = 0.0
    ignore_index: Annotated[int, Meta(description="class index of targets that do not count")] = -100

    @hookimpl
    def build_loss(self, data: DataSource) -> nn.Module:
        """Build the loss; refuse data with a single output, for which it would always be 0."""
        from torch import nn

        if data.out_features == 1:
            hint = "for two classes in one output set loss=bce-with-logits, for numbers loss=mse"
            raise ContractError("cross-entropy needs data with at least two classes, but out_features is 1", hint=hint)
        loss = nn.CrossEntropyLoss(label_smoothing=self.label_smoothing, ignore_index=self.ignore_index)
        if not _may_contain(data, self.ignore_index):
            loss.batch_weight = None  # type: ignore[assignment] # every target counts, so the number of examples does
        return loss

    @hookimpl
    def build_metrics(self) -> dict[str, Metric]:
        """Measure the share of correct classes."""
        return {"accuracy": Accuracy(Answers(ignore_index=self.ignore_index))}


@dataclass
class BCEWithLogits:
    """Binary cross-entropy of ``sigmoid(prediction)``, ``nn.BCEWithLogitsLoss``.

    Predictions are logits, targets probabilities of a floating dtype; both ``[B, O]``. It adds the metric ``accuracy``.
    """

    @hookimpl
    def build_loss(self) -> nn.Module:
        """Build the loss."""
        from torch import nn

        return nn.BCEWithLogitsLoss()

    @hookimpl
    def build_metrics(self) -> dict[str, Metric]:
        """Measure the share of correct answers."""
        return {"accuracy": Accuracy(Answers(is_binary=True))}


def _may_contain(data: DataSource, target: int) -> bool:
    """Return whether a split contains a target, or is not in memory."""
    from torch.utils.data import TensorDataset

    splits = data.splits().values()
    return data.collate is not None or any(
        type(split) is not TensorDataset or bool((split.tensors[-1] == target).any()) for split in splits
    )
