"""Losses for classes: those of torch. Each is the mean over the batch.

Defaults are those of ``torch.nn`` unless the class says otherwise.

Shapes: ``B`` examples in a batch, ``C`` classes.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from hookline import ConfigError, ContractError, DataSource, hookimpl
from hookline.runs import has_saved_weights
from hookline.trained import Snippet
from hookline_plugins.losses.class_weights import balanced_classes, uncounted_classes
from hookline_plugins.losses.torch_loss import TorchLoss, check_length, keep_weight, script_of_torch
from hookline_plugins.metrics.accuracy import Accuracy
from hookline_plugins.metrics.answers import IGNORED, Answers, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hookline import Metric, RunView

_Weight = (
    Annotated[
        tuple[Annotated[float, Meta(ge=0)], ...],
        Meta(description="weight of each class; 'balanced': by its rarity in the training data; empty: all 1"),
    ]
    | Literal["balanced"]
)
_IgnoreIndex = Annotated[int, Meta(description="class index of targets that do not count")]


class _OfClasses(TorchLoss):
    """A loss of class indices, with an option ``weight`` and perhaps an ``ignore_index``."""

    task: ClassVar[Task] = "classification"
    title: ClassVar[str]
    weight: _Weight

    @hookimpl
    def build_loss(self, run: RunView, data: DataSource) -> nn.Module:
        """Build the loss; refuse data with a single output, for which it would always be 0."""
        import torch

        if data.out_features == 1:
            hint = "for two classes in one output set loss=bce-with-logits, for numbers loss=mse"
            message = f"{self.title} needs data with at least two classes, but out_features is 1"
            raise ContractError(message, hint=hint)
        ignored: int | None = getattr(self, "ignore_index", None)
        weight: Tensor | None
        count = None
        if self.weight == "balanced":
            count = functools.partial(balanced_classes, data, ignored)
            weight = uncounted_classes(data) if has_saved_weights(run) else count()
        else:
            weight = torch.tensor(self.weight) if self.weight else None
            check_length("weight", len(self.weight) or data.out_features or 0, data.out_features, "classes")
        loss = self.of_torch(weight=weight)
        keep_weight(loss, "weight", count)
        if weight is None and ignored is not None and not _may_contain(data, ignored):
            loss.batch_weight = None  # type: ignore[assignment] # every target counts, so the number of examples does
        return loss

    @hookimpl
    def build_metrics(self) -> dict[str, Metric]:
        """Measure the share of correct classes."""
        return {"accuracy": Accuracy(Answers(ignore_index=getattr(self, "ignore_index", IGNORED)))}

    def script(self, run: RunView) -> Snippet:
        """Return the loss as source code.

        Raises:
            ConfigError: When classes have weights.
        """
        if self.weight:
            raise ConfigError("weight has no script", hint="train without it")
        right = "(prediction.argmax(1) == target).double().mean().item()"
        return replace(script_of_torch(self, run), metrics={"accuracy": right})


@dataclass
class CrossEntropy(_OfClasses):
    """Cross-entropy, ``nn.CrossEntropyLoss``: the mean of ``-log softmax(prediction)[target]``.

    Predictions are logits ``[B, C]``. Targets are class indices ``[B]``, int64, or probabilities ``[B, C]`` of a
    floating dtype. Further dimensions may follow: with a target for each of ``T`` tokens, ``[B, T]``, predictions are
    ``[B, C, T]``, and each token counts the same. The mean is that over the targets that count, each with the weight of
    its class. It adds the metric ``accuracy``, for probabilities the share of examples in which the most probable class
    is the same.
    """

    title: ClassVar[str] = "cross-entropy"

    label_smoothing: Annotated[
        float, Meta(ge=0, le=1, description="share of the target's probability to spread over all classes")
    ] = 0.0
    ignore_index: _IgnoreIndex = IGNORED
    weight: _Weight = ()

    def of_torch(self, **changed: Any) -> nn.Module:
        """Return torch's loss with the options, which is faster if there are further dimensions."""
        from hookline_plugins.losses.cross_entropy import CrossEntropyLoss

        return CrossEntropyLoss(**{**asdict(self), **changed})


@dataclass
class NLL(_OfClasses):
    """Negative log-likelihood, ``nn.NLLLoss``: the mean of ``-prediction[target]``.

    Predictions are log-probabilities ``[B, C]``, as from ``log_softmax``; targets class indices ``[B]``, int64. The
    mean is that over the targets that count, each with the weight of its class. It adds the metric ``accuracy``.
    """

    title: ClassVar[str] = "nll"

    ignore_index: _IgnoreIndex = IGNORED
    weight: _Weight = ()


@dataclass
class MultiMargin(_OfClasses):
    """Hinge loss for classes, ``nn.MultiMarginLoss``.

    The mean of ``sum_i w[y] max(0, margin - x[y] + x[i])^p / C`` over the examples, where ``x`` is the prediction,
    ``y`` the target, and ``i`` any other class. Predictions are scores ``[B, C]``, targets class indices ``[B]``,
    int64. The sum of the weights does not divide the loss. It adds the metric ``accuracy``. Source: K. Crammer and
    Y. Singer, "On the algorithmic implementation of multiclass kernel-based vector machines", JMLR 2 (2001).
    """

    title: ClassVar[str] = "multi-margin"

    p: Annotated[Literal[1, 2], Meta(description="exponent of the margin that is missed")] = 1
    margin: Annotated[float, Meta(description="difference of the scores at which an example costs nothing")] = 1.0
    weight: _Weight = ()


@dataclass
class KLDiv(TorchLoss):
    """Kullback-Leibler divergence, ``nn.KLDivLoss``: the mean of ``sum_i t[i] (log t[i] - prediction[i])``.

    Predictions are log-probabilities ``[B, C]``, as from ``log_softmax``; targets ``t`` probabilities ``[B, C]``. The
    sum is divided by the number of examples, as in the definition (torch's ``reduction="batchmean"``).
    """

    log_target: Annotated[bool, Meta(description="targets are log-probabilities, too")] = False

    @hookimpl
    def build_loss(self) -> nn.Module:
        """Build the loss."""
        return self.elementwise(reduction="batchmean")


def _may_contain(data: DataSource, target: int) -> bool:
    """Return whether a split contains a target, or is not in memory."""
    from torch.utils.data import TensorDataset

    splits: Any = data.splits().values()
    return data.collate is not None or any(
        type(split) is not TensorDataset or bool((split.tensors[-1] == target).any()) for split in splits
    )
