"""Losses: torch's, with their options. Each is the mean over the batch.

Shapes: ``B`` examples in a batch, ``O`` values predicted for an example, ``C`` classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from hookline import ContractError, DataSource, hookimpl
from hookline_plugins.accuracy import Accuracy

if TYPE_CHECKING:
    from torch import nn

    from hookline import Metric


@dataclass
class MSE:
    """Mean squared error, ``nn.MSELoss``: the mean of ``(prediction - target)^2``; both ``[B, O]``."""

    @hookimpl
    def build_loss(self) -> nn.Module:
        """Make the loss."""
        from hookline_plugins.mean_squared_error import MSELoss

        return MSELoss()


@dataclass
class L1:
    """Mean absolute error, ``nn.L1Loss``: the mean of ``|prediction - target|``; both ``[B, O]``."""

    @hookimpl
    def build_loss(self) -> nn.Module:
        """Make the loss."""
        from torch import nn

        return nn.L1Loss()


@dataclass
class Huber:
    """Huber loss, ``nn.HuberLoss``: with ``d = prediction - target``, the mean of ``d^2 / 2`` where ``|d| < delta``.

    Elsewhere it is ``delta (|d| - delta / 2)``; both tensors ``[B, O]``. Source: P. J. Huber, "Robust estimation of a
    location parameter", Annals of Mathematical Statistics 35 (1964). The default of ``delta`` is torch's.
    """

    delta: Annotated[float, Meta(gt=0, description="error from which on the loss grows linearly")] = 1.0

    @hookimpl
    def build_loss(self) -> nn.Module:
        """Make the loss."""
        from torch import nn

        return nn.HuberLoss(delta=self.delta)


@dataclass
class CrossEntropy:
    """Cross-entropy, ``nn.CrossEntropyLoss``: the mean of ``-log softmax(prediction)[target]``.

    Predictions are logits ``[B, C]``, targets class indices ``[B]``, int64. Accuracy is measured with it.
    """

    label_smoothing: Annotated[
        float, Meta(ge=0, le=1, description="share of the target's probability that is spread over all classes")
    ] = 0.0

    @hookimpl
    def build_loss(self, data: DataSource) -> nn.Module:
        """Make the loss; refuse data with a single output, for which it would always be 0."""
        from torch import nn

        if data.out_features == 1:
            hint = "for yes or no in one output choose loss=bce-with-logits, for numbers loss=mse"
            raise ContractError("cross-entropy needs data with two classes or more, but out_features is 1", hint=hint)
        return nn.CrossEntropyLoss(label_smoothing=self.label_smoothing)

    @hookimpl
    def build_metrics(self) -> dict[str, Metric]:
        """Measure the share of right classes."""
        return {"accuracy": Accuracy()}


@dataclass
class BCEWithLogits:
    """Binary cross-entropy of ``sigmoid(prediction)``, ``nn.BCEWithLogitsLoss``.

    Predictions are logits, targets probabilities of a floating dtype; both ``[B, O]``. Accuracy is measured with it.
    """

    @hookimpl
    def build_loss(self) -> nn.Module:
        """Make the loss."""
        from torch import nn

        return nn.BCEWithLogitsLoss()

    @hookimpl
    def build_metrics(self) -> dict[str, Metric]:
        """Measure the share of right answers."""
        return {"accuracy": Accuracy()}
