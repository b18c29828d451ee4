"""The optimizers of torch, with options under torch's names.

Defaults are those of ``torch.optim`` unless the class says otherwise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from hookline import hookimpl
from hookline_plugins.optimizers.parameter_groups import check_groups, own_options, parameter_groups

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from hookline import RunView


_Beta = Annotated[float, Meta(ge=0, lt=1)]
_LearningRate = Annotated[float, Meta(ge=0, description="learning rate")]
_WeightDecay = Annotated[float, Meta(ge=0, description="factor of the L2 penalty on the weights")]
_Betas = Annotated[tuple[_Beta, _Beta], Meta(description="decay of the running means of gradient and squared gradient")]
_Eps = Annotated[float, Meta(ge=0, description="added to the denominator to avoid division by zero")]
_Momentum = Annotated[float, Meta(ge=0, description="share of the previous update to add")]
_Fused = Annotated[
    bool, Meta(description="update all weights in one kernel, which can skip an update that is not finite")
]
_FOREACH = 16
"""Number of weight tensors above which one call for all of them is faster on the CPU than one for each."""
_Groups = Annotated[
    tuple[dict[str, Any], ...],
    Meta(description="options for some parameters: tables with a list of name patterns, and options"),
]


@dataclass
class SGD:
    """Stochastic gradient descent, ``torch.optim.SGD``.

    The default of ``lr`` is that of Zhang et al., *Dive into Deep Learning*, section 3.5.

    On the CPU, one call updates all weights (``foreach``) if there are more than 16 weight tensors; torch's default is
    one call for each. The result is bit-identical. With ``weight_decay``, ``nesterov`` or ``groups`` this is not done,
    because it would need a copy of all gradients.
    """

    lr: _LearningRate = 0.03
    momentum: _Momentum = 0.0
    dampening: Annotated[float, Meta(description="share of the gradient that does not enter the momentum")] = 0.0
    weight_decay: _WeightDecay = 0.0
    nesterov: Annotated[bool, Meta(description="use Nesterov momentum; needs momentum > 0, dampening 0")] = False
    fused: _Fused = False
    groups: _Groups = ()

    def __post_init__(self) -> None:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("nesterov = true needs momentum > 0 and dampening = 0")
        check_groups(self)

    @hookimpl
    def build_optimizer(self, run: RunView, model: nn.Module) -> Optimizer:
        """Build the optimizer."""
        import torch

        options = own_options(self)
        needs_copies = self.weight_decay or self.nesterov or self.groups
        if run.device.type == "cpu" and not (self.fused or needs_copies) and len(list(model.parameters())) > _FOREACH:
            options["foreach"] = True
        return torch.optim.SGD(parameter_groups(self, run, model), **options)


@dataclass
class Adam:
    """Adam, ``torch.optim.Adam``. Source: D. P. Kingma and J. Ba, "Adam", https://arxiv.org/abs/1412.6980."""

    lr: _LearningRate = 0.001
    betas: _Betas = (0.9, 0.999)
    eps: _Eps = 1e-8
    weight_decay: _WeightDecay = 0.0
    amsgrad: Annotated[bool, Meta(description="use the AMSGrad variant")] = False
    fused: _Fused = False
    groups: _Groups = ()

    def __post_init__(self) -> None:
        check_groups(self)

    @hookimpl
    def build_optimizer(self, run: RunView, model: nn.Module) -> Optimizer:
        """Build the optimizer."""
        import torch

        return torch.optim.Adam(parameter_groups(self, run, model), **own_options(self))


@dataclass
class AdamW:
    """Adam with decoupled weight decay, ``torch.optim.AdamW``.

    Source: I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", https://arxiv.org/abs/1711.05101.
    """

    lr: _LearningRate = 0.001
    betas: _Betas = (0.9, 0.999)
    eps: _Eps = 1e-8
    weight_decay: Annotated[float, Meta(ge=0, description="share of the weights, times lr, to subtract per step")] = (
        0.01
    )
    amsgrad: Annotated[bool, Meta(description="use the AMSGrad variant")] = False
    fused: _Fused = False
    groups: _Groups = ()

    def __post_init__(self) -> None:
        check_groups(self)

    @hookimpl
    def build_optimizer(self, run: RunView, model: nn.Module) -> Optimizer:
        """Build the optimizer."""
        import torch

        return torch.optim.AdamW(parameter_groups(self, run, model), **own_options(self))


@dataclass
class RMSprop:
    """RMSprop, ``torch.optim.RMSprop``.

    Source: G. Hinton, *Neural Networks for Machine Learning*, lecture 6.
    """

    lr: _LearningRate = 0.01
    alpha: Annotated[_Beta, Meta(description="decay of the running mean of the squared gradient")] = 0.99
    eps: _Eps = 1e-8
    weight_decay: _WeightDecay = 0.0
    momentum: _Momentum = 0.0
    centered: Annotated[bool, Meta(description="normalize the gradient by an estimate of its variance")] = False
    groups: _Groups = ()

    def __post_init__(self) -> None:
        check_groups(self)

    @hookimpl
    def build_optimizer(self, run: RunView, model: nn.Module) -> Optimizer:
        """Build the optimizer."""
        import torch

        return torch.optim.RMSprop(parameter_groups(self, run, model), **own_options(self))


@dataclass
class LBFGS:
    """Limited-memory BFGS, ``torch.optim.LBFGS``, for full batches (``train.batch_size = "all"``).

    One step is up to ``max_iter`` iterations. Source: D. C. Liu and J. Nocedal, "On the limited memory BFGS method for
    large scale optimization", Mathematical Programming 45 (1989).
    """

    lr: _LearningRate = 1.0
    max_iter: Annotated[int, Meta(ge=1, description="maximum number of iterations in a step")] = 20
    tolerance_grad: Annotated[float, Meta(ge=0, description="largest gradient element at which a step ends")] = 1e-7
    tolerance_change: Annotated[float, Meta(ge=0, description="change of loss or weights at which a step ends")] = 1e-9
    history_size: Annotated[int, Meta(ge=1, description="number of updates to remember")] = 100
    line_search_fn: Annotated[
        Literal["strong_wolfe", "none"],
        Meta(description="line search, accurate to half of the digits; 'none' takes steps of length lr"),
    ] = "strong_wolfe"

    @hookimpl
    def build_optimizer(self, model: nn.Module) -> Optimizer:
        """Build the optimizer."""
        import torch

        options = asdict(self)
        options["line_search_fn"] = None if self.line_search_fn == "none" else self.line_search_fn
        return torch.optim.LBFGS(model.parameters(), **options)
