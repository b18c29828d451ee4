"""Losses for regression: those of torch. Each is the mean over the batch.

Defaults are those of ``torch.nn``. Shapes: ``B`` examples in a batch, ``O`` values predicted for an example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from hookline import hookimpl
from hookline_plugins.losses.torch_loss import TorchLoss, script_of_torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hookline_plugins.metrics.answers import Task


@dataclass
class MSE:
    """Mean squared error, ``nn.MSELoss``: the mean of ``(prediction - target)^2``; both ``[B, O]``."""

    task: ClassVar[Task] = "regression"
    script = script_of_torch

    @hookimpl
    def build_loss(self) -> nn.Module:
        """Build the loss."""
        from hookline_plugins.losses.mean_squared_error import MSELoss

        return MSELoss()


@dataclass
class L1(TorchLoss):
    """Mean absolute error, ``nn.L1Loss``: the mean of ``|prediction - target|``; both ``[B, O]``."""

    task: ClassVar[Task] = "regression"
    script = script_of_torch

    @hookimpl
    def build_loss(self) -> nn.Module:
        """Build the loss."""
        return self.of_torch()


@dataclass
class Huber(TorchLoss):
    """Huber loss, ``nn.HuberLoss``: with ``d = prediction - target``, the mean of ``d^2 / 2`` where ``|d| < delta``.

    Elsewhere it is ``delta (|d| - delta / 2)``; both tensors ``[B, O]``. Source: P. J. Huber, "Robust estimation of a
    location parameter", Annals of Mathematical Statistics 35 (1964). The default of ``delta`` is torch's.
    """

    task: ClassVar[Task] = "regression"
    script = script_of_torch

    delta: Annotated[float, Meta(gt=0, description="error above which the loss is linear")] = 1.0

    @hookimpl
    def build_loss(self) -> nn.Module:
        """Build the loss."""
        return self.of_torch()


@dataclass
class SmoothL1(TorchLoss):
    """Smooth L1 loss, ``nn.SmoothL1Loss``: with ``d = prediction - target``, the mean of ``d^2 / (2 beta)``.

    Where ``|d| >= beta`` it is ``|d| - beta / 2``; both tensors ``[B, O]``. It is ``huber`` with ``delta = beta``,
    divided by ``beta``. Source: R. Girshick, "Fast R-CNN", https://arxiv.org/abs/1504.08083.
    """

    task: ClassVar[Task] = "regression"
    script = script_of_torch

    beta: Annotated[float, Meta(ge=0, description="error above which the loss is linear; 0: the loss 'l1'")] = 1.0

    @hookimpl
    def build_loss(self) -> nn.Module:
        """Build the loss."""
        return self.of_torch()


@dataclass
class PoissonNLL(TorchLoss):
    """Negative log-likelihood of counts, ``nn.PoissonNLLLoss``: the mean of ``exp(p) - target * p``.

    The prediction ``p`` is the logarithm of the expected count; both tensors ``[B, O]``. Without ``log_input`` it is
    the expected count, and the loss the mean of ``p - target * log(p + eps)``.
    """

    script = script_of_torch

    log_input: Annotated[bool, Meta(description="predictions are logarithms of the expected counts")] = True
    full: Annotated[bool, Meta(description="add Stirling's approximation of log(target!) for targets above 1")] = False
    eps: Annotated[float, Meta(gt=0, description="added to an expected count before its logarithm")] = 1e-8

    @hookimpl
    def build_loss(self) -> nn.Module:
        """Build the loss."""
        return self.elementwise()


@dataclass
class GaussianNLL(TorchLoss):
    """Negative log-likelihood of a normal distribution, ``nn.GaussianNLLLoss``.

    The mean of ``(log(v) + (m - target)^2 / v) / 2`` with ``v = max(variance, eps)``. The model returns a tuple
    ``(m, variance)``; these and the targets are ``[B, O]``. Source: D. A. Nix and A. S. Weigend, "Estimating the mean
    and variance of the target probability distribution", ICNN (1994).
    """

    full: Annotated[bool, Meta(description="add the constant log(2 pi) / 2")] = False
    eps: Annotated[float, Meta(gt=0, description="smallest variance")] = 1e-6

    @hookimpl
    def build_loss(self) -> Callable[[Any, Any], Tensor]:
        """Build the loss."""
        from hookline_plugins.losses.several_tensors import over_variances

        return over_variances(self.of_torch(), "gaussian-nll")
