"""Losses for classification: those of torch. Each is the mean over the batch.

Shapes: ``B`` examples in a batch, ``O`` values predicted for an example, ``C`` classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from hookline import ContractError, DataSource, hookimpl
from hookline_plugins.metrics.accuracy import Accuracy

if TYPE_CHECKING:
    from torch import nn

    from hookline import Metric


@dataclass
class CrossEntropy:
    """Cross-entropy, ``nn.CrossEntropyLoss``: the mean of ``-log softmax(prediction)[target]``.

    Predictions are logits ``[B, C]``, targets class indices ``[B]``, int64. It adds the metric ``accuracy``.
    """

    label_smoothing: Annotated[
        float, Meta(ge=0, le=1, description="share of the target's probability to spread over all classes")
    ] = 0.0

    @hookimpl
    def build_loss(self, data: DataSource) -> nn.Module:
        """Build the loss; refuse data with a single output, for which it would always be 0."""
        from torch import nn

        if data.out_features == 1:
            hint = "for two classes in one output set loss=bce-with-logits, for numbers loss=mse"
            raise ContractError("cross-entropy needs data with at least two classes, but out_features is 1", hint=hint)
        return nn.CrossEntropyLoss(label_smoothing=self.label_smoothing)

    @hookimpl
    def build_metrics(self) -> dict[str, Metric]:
        """Measure the share of correct classes."""
        return {"accuracy": Accuracy()}


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
        return {"accuracy": Accuracy()}
