"""The schedule-free optimizers of the package ``schedulefree``, with options and defaults under its names.

They take gradients at ``y``, the weights that the run trains, and evaluate ``x``, an average: ``y`` lies between it and
``z``, to which the updates are applied: ``y = (1 - beta) z + beta x``. Source: A. Defazio et al., "The Road Less
Scheduled", https://arxiv.org/abs/2405.15682.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from hookline import hookimpl
from hookline_plugins.optimizers.parameter_groups import Groups, check_groups, own_options, parameter_groups
from hookline_plugins.optional import optional_package

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from hookline import RunView


_Beta = Annotated[float, Meta(ge=0, lt=1)]
_LearningRate = Annotated[float, Meta(ge=0, description="learning rate")]
_Betas = Annotated[
    tuple[Annotated[float, Meta(gt=0, lt=1)], _Beta],
    Meta(description="weight of the average in the trained weights; decay of the mean of the squared gradient"),
]
_Eps = Annotated[float, Meta(ge=0, description="added to the denominator to avoid division by zero")]
_WeightDecay = Annotated[float, Meta(ge=0, description="share of the weights, times lr, to subtract per step")]
_WarmupSteps = Annotated[int, Meta(ge=0, description="number of steps in which the learning rate grows linearly")]
_R = Annotated[float, Meta(ge=0, description="the average weights step k by k^r")]
_WeightLRPower = Annotated[float, Meta(ge=0, description="the average weights a step by its lr to this power")]


class _ScheduleFree:
    """An optimizer of ``schedulefree`` with the name of the class, whose fields are its options and ``groups``."""

    def __post_init__(self) -> None:
        check_groups(self)

    @hookimpl
    def build_optimizer(self, run: RunView, model: nn.Module) -> Optimizer:
        """Build the optimizer, in the mode in which it trains.

        Raises:
            PluginError: When the package is not installed.
        """
        package = optional_package("schedulefree", "the schedule-free optimizers need the package")
        build: Any = getattr(package, type(self).__name__)
        optimizer: Any = build(parameter_groups(self, run, model), **own_options(self))
        optimizer.train()
        built: Optimizer = optimizer
        return built

    @hookimpl
    def build_evaluated_weights(self, run: RunView) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
        """Return the function that gives the averages."""
        return lambda: _averages(run.optimizer)


@dataclass
class SGDScheduleFree(_ScheduleFree):
    """Schedule-free SGD, ``schedulefree.SGDScheduleFree``."""

    lr: _LearningRate = 1.0
    momentum: Annotated[float, Meta(gt=0, lt=1, description="weight of the average in the trained weights")] = 0.9
    weight_decay: _WeightDecay = 0.0
    warmup_steps: _WarmupSteps = 0
    r: _R = 0.0
    weight_lr_power: _WeightLRPower = 2.0
    groups: Groups = ()


@dataclass
class AdamWScheduleFree(_ScheduleFree):
    """Schedule-free AdamW, ``schedulefree.AdamWScheduleFree``."""

    lr: _LearningRate = 0.0025
    betas: _Betas = (0.9, 0.999)
    eps: _Eps = 1e-8
    weight_decay: _WeightDecay = 0.0
    warmup_steps: _WarmupSteps = 0
    r: _R = 0.0
    weight_lr_power: _WeightLRPower = 2.0
    groups: Groups = ()


@dataclass
class RAdamScheduleFree(_ScheduleFree):
    """Schedule-free RAdam, ``schedulefree.RAdamScheduleFree``, which needs no warm-up."""

    lr: _LearningRate = 0.0025
    betas: _Betas = (0.9, 0.999)
    eps: _Eps = 1e-8
    weight_decay: _WeightDecay = 0.0
    r: _R = 0.0
    weight_lr_power: _WeightLRPower = 2.0
    silent_sgd_phase: Annotated[
        bool, Meta(description="update no weights in the first steps, in which RAdam would be SGD")
    ] = True
    groups: Groups = ()


def _averages(optimizer: Optimizer) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each weight ``y`` that has been updated, with ``x = y + (1 - 1 / beta) (z - y)``."""
    for group in optimizer.param_groups:
        beta = group["momentum"] if "momentum" in group else group["betas"][0]
        for weight in group["params"]:
            if "z" in (state := optimizer.state.get(weight, {})):
                yield weight, weight.detach().lerp(state["z"], 1 - 1 / beta)
