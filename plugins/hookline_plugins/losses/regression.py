"""Losses for regression: those of torch. Each is the mean over the batch.

Shapes: ``B`` examples in a batch, ``O`` values predicted for an example.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from hookline import hookimpl

if TYPE_CHECKING:
    from torch import nn


@dataclass
class MSE:
    """Mean squared error, ``nn.MSELoss``: the mean of ``(prediction - target)^2``; both ``[B, O]``."""

    @hookimpl
    def build_loss(self) -> nn.Module:
        """Build the loss."""
        from hookline_plugins.losses.mean_squared_error import MSELoss

        return MSELoss()


@dataclass
class L1:
    """Mean absolute error, ``nn.L1Loss``: the mean of ``|prediction - target|``; both ``[B, O]``."""

    @hookimpl
    def build_loss(self) -> nn.Module:
        """Build the loss."""
        from torch import nn

        return nn.L1Loss()


@dataclass
class Huber:
    """Huber loss, ``nn.HuberLoss``: with ``d = prediction - target``, the mean of ``d^2 / 2`` where ``|d| < delta``.

    Elsewhere it is ``delta (|d| - delta / 2)``; both tensors ``[B, O]``. Source: P. J. Huber, "Robust estimation of a
    location parameter", Annals of Mathematical Statistics 35 (1964). The default of ``delta`` is torch's.
    """

    delta: Annotated[float, Meta(gt=0, description="error above which the loss is linear")] = 1.0

    @hookimpl
    def build_loss(self) -> nn.Module:
        """Build the loss."""
        from torch import nn

        return nn.HuberLoss(delta=self.delta)
