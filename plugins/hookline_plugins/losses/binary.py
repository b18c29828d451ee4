"""Losses for answers that are yes or no: those of torch. Each is the mean over the batch.

Defaults are those of ``torch.nn``. Shapes: ``B`` examples in a batch, ``O`` answers or labels for an example.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from hookline import ConfigError, DataSource, hookimpl
from hookline.runs import has_saved_weights
from hookline.trained import Snippet
from hookline_plugins.losses.class_weights import balanced_answers, uncounted_answers
from hookline_plugins.losses.torch_loss import TorchLoss, check_length, check_signs, keep_weight, script_of_torch
from hookline_plugins.metrics.accuracy import Accuracy
from hookline_plugins.metrics.answers import Answers, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hookline import Metric, RunView

_RIGHT = "((prediction > {threshold}) == (target > 0.5)).double().mean().item()"
_Positive = tuple[Annotated[float, Meta(ge=0)], ...]


@dataclass
class BCEWithLogits(TorchLoss):
    """Binary cross-entropy of ``sigmoid(prediction)``, ``nn.BCEWithLogitsLoss``.

    Predictions are logits, targets probabilities of a floating dtype; both ``[B, O]``. It adds the metric ``accuracy``.
    """

    task: ClassVar[Task] = "binary"

    pos_weight: (
        Annotated[
            _Positive,
            Meta(description="factor on targets of 1, for each output; 'balanced': by their rarity; empty: 1"),
        ]
        | Literal["balanced"]
    ) = ()

    @hookimpl
    def build_loss(self, run: RunView, data: DataSource) -> nn.Module:
        """Build the loss."""
        import torch

        weight: Tensor | None
        count = None
        if self.pos_weight == "balanced":
            count = functools.partial(balanced_answers, data)
            weight = uncounted_answers(data) if has_saved_weights(run) else count()
        else:
            given = len(self.pos_weight)
            check_length("pos_weight", given if given > 1 else data.out_features or 0, data.out_features, "outputs")
            weight = torch.tensor(self.pos_weight) if given else None
        loss = self.of_torch(pos_weight=weight)
        keep_weight(loss, "pos_weight", count)
        return loss

    @hookimpl
    def build_metrics(self) -> dict[str, Metric]:
        """Measure the share of correct answers."""
        return {"accuracy": Accuracy(Answers(is_binary=True))}

    def script(self, run: RunView) -> Snippet:
        """Return the loss as source code.

        Raises:
            ConfigError: When the targets have weights.
        """
        if self.pos_weight:
            raise ConfigError("pos_weight has no script", hint="train without it")
        return replace(script_of_torch(self, run), metrics={"accuracy": _RIGHT.format(threshold="0")})


@dataclass
class BCE(TorchLoss):
    """Binary cross-entropy, ``nn.BCELoss``, of a model that ends with a sigmoid; ``bce-with-logits`` is more exact.

    Predictions are probabilities, targets probabilities of a floating dtype; both ``[B, O]``. It adds the metric
    ``accuracy``.
    """

    task: ClassVar[Task] = "binary"

    @hookimpl
    def build_loss(self) -> nn.Module:
        """Build the loss."""
        return self.of_torch()

    @hookimpl
    def build_metrics(self) -> dict[str, Metric]:
        """Measure the share of correct answers."""
        return {"accuracy": Accuracy(Answers(is_binary=True, threshold=0.5))}

    def script(self, run: RunView) -> Snippet:
        """Return the loss as source code."""
        return replace(script_of_torch(self, run), metrics={"accuracy": _RIGHT.format(threshold="0.5")})


@dataclass
class SoftMargin(TorchLoss):
    """Logistic loss, ``nn.SoftMarginLoss``: the mean of ``log(1 + exp(-target * prediction))``.

    Targets are 1 and -1 of a floating dtype; both tensors ``[B, O]``. It adds the metric ``accuracy``.
    """

    task: ClassVar[Task] = "binary"

    @hookimpl
    def build_loss(self, data: DataSource) -> nn.Module:
        """Build the loss; refuse other targets."""
        check_signs(data, "soft-margin")
        return self.elementwise()

    @hookimpl
    def build_metrics(self) -> dict[str, Metric]:
        """Measure the share of correct answers."""
        return {"accuracy": Accuracy(Answers(is_binary=True))}


@dataclass
class MultiLabelSoftMargin(TorchLoss):
    """Binary cross-entropy over several labels, ``nn.MultiLabelSoftMarginLoss``: the mean over the labels.

    Predictions are logits, targets 0 and 1 of a floating dtype; both ``[B, O]``. It adds the metric ``accuracy``, the
    share of correct labels.
    """

    task: ClassVar[Task] = "binary"

    weight: Annotated[_Positive, Meta(description="factor on the loss of each label; empty: 1")] = ()

    @hookimpl
    def build_loss(self, data: DataSource) -> nn.Module:
        """Build the loss."""
        import torch

        check_length("weight", len(self.weight) or data.out_features or 0, data.out_features, "outputs")
        loss = self.elementwise(weight=torch.tensor(self.weight) if self.weight else None)
        keep_weight(loss, "weight", None)
        return loss

    @hookimpl
    def build_metrics(self) -> dict[str, Metric]:
        """Measure the share of correct labels."""
        return {"accuracy": Accuracy(Answers(is_binary=True))}


@dataclass
class MultiLabelMargin(TorchLoss):
    """Hinge loss over several labels, ``nn.MultiLabelMarginLoss``.

    The mean of ``sum_ij max(0, 1 - (x[y[j]] - x[i])) / O`` over the examples, where ``x`` is the prediction, ``y[j]``
    a label of the example and ``i`` a label that it lacks. Predictions are scores ``[B, O]``. Targets are int64
    ``[B, O]``: the indices of the labels of an example, followed by -1.
    """

    @hookimpl
    def build_loss(self) -> nn.Module:
        """Build the loss."""
        return self.of_torch()
