"""Losses for distances and similarities: those of torch. Each is the mean over the batch.

Defaults are those of ``torch.nn``. Shapes: ``B`` examples in a batch, ``O`` values predicted for an example, ``E``
numbers in an embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from hookline import DataSource, hookimpl
from hookline_plugins.losses.torch_loss import TorchLoss, check_signs

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass
class HingeEmbedding(TorchLoss):
    """Loss of distances, ``nn.HingeEmbeddingLoss``: the mean of ``x`` for a target 1, ``max(0, margin - x)`` for -1.

    Predictions ``x`` are distances; they and the targets are ``[B, O]``.
    """

    margin: Annotated[float, Meta(description="distance above which a target of -1 costs nothing")] = 1.0

    @hookimpl
    def build_loss(self, data: DataSource) -> nn.Module:
        """Build the loss; refuse other targets."""
        check_signs(data, "hinge-embedding")
        return self.elementwise()


@dataclass
class CosineEmbedding(TorchLoss):
    """Loss of the cosine ``c`` of two embeddings, ``nn.CosineEmbeddingLoss``.

    The mean of ``1 - c`` for a target 1, and of ``max(0, c - margin)`` for -1. The model returns a tuple of two
    embeddings ``[B, E]``; targets are ``[B]``.
    """

    margin: Annotated[float, Meta(ge=-1, le=1, description="cosine below which a target of -1 costs nothing")] = 0.0

    @hookimpl
    def build_loss(self, data: DataSource) -> Callable[[Any, Any], Tensor]:
        """Build the loss; refuse other targets."""
        from hookline_plugins.losses.several_tensors import over_pairs

        check_signs(data, "cosine-embedding")
        return over_pairs(self.of_torch(), "cosine-embedding", "(embedding, embedding)", is_elementwise=False)


@dataclass
class MarginRanking(TorchLoss):
    """Loss of the order of two scores, ``nn.MarginRankingLoss``: the mean of ``max(0, margin - target (x1 - x2))``.

    The model returns a tuple ``(x1, x2)``. A target 1 says that ``x1`` should be larger, -1 that ``x2`` should; all are
    ``[B, O]``.
    """

    margin: Annotated[float, Meta(description="difference of the scores at which a pair costs nothing")] = 0.0

    @hookimpl
    def build_loss(self, data: DataSource) -> Callable[[Any, Any], Tensor]:
        """Build the loss; refuse other targets."""
        from hookline_plugins.losses.several_tensors import over_pairs

        check_signs(data, "margin-ranking")
        return over_pairs(self.of_torch(), "margin-ranking", "(score, score)", is_elementwise=True)


@dataclass
class TripletMargin(TorchLoss):
    """Triplet loss, ``nn.TripletMarginLoss``: the mean of ``max(0, d(a, p) - d(a, n) + margin)``.

    The model returns a tuple ``(a, p, n)`` of embeddings ``[B, E]``: an anchor, one that should be near it, and one
    that should not. The targets are not used. Source: V. Balntas et al., "Learning shallow convolutional feature
    descriptors with triplet losses", BMVC (2016).
    """

    margin: Annotated[float, Meta(gt=0, description="difference of the distances at which a triplet costs nothing")] = (
        1.0
    )
    p: Annotated[float, Meta(gt=0, description="degree of the norm that is the distance")] = 2.0
    eps: Annotated[float, Meta(ge=0, description="added to each difference to avoid a root of 0")] = 1e-6
    swap: Annotated[bool, Meta(description="use d(p, n) where it is less than d(a, n)")] = False

    @hookimpl
    def build_loss(self) -> Callable[[Any, Any], Tensor]:
        """Build the loss."""
        from hookline_plugins.losses.several_tensors import over_triplets

        return over_triplets(self.of_torch(), "triplet-margin")
