"""The optimizers of torch, with options under torch's names.

Defaults are those of ``torch.optim`` unless the class says otherwise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from hookline import ConfigError, hookimpl
from hookline.trained import Snippet
from hookline_plugins.optimizers.parameter_groups import Groups, check_groups, own_options, parameter_groups

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from hookline import RunView


_Beta = Annotated[float, Meta(ge=0, lt=1)]
_LearningRate = Annotated[float, Meta(ge=0, description="learning rate")]
_WeightDecay = Annotated[float, Meta(ge=0, description="factor of the L2 penalty on the weights")]
_DecoupledDecay = Annotated[float, Meta(ge=0, description="share of the weights, times lr, to subtract per step")]
_Decoupled = Annotated[bool, Meta(description="subtract the weight decay from the weights, as AdamW does")]
_Betas = Annotated[tuple[_Beta, _Beta], Meta(description="decay of the running means of gradient and squared gradient")]
_Eps = Annotated[float, Meta(ge=0, description="added to the denominator to avoid division by zero")]
_Momentum = Annotated[float, Meta(ge=0, description="share of the previous update to add")]
_Fused = Annotated[
    bool, Meta(description="update all weights in one kernel, which can skip an update that is not finite")
]
_FOREACH = 16
"""Number of weight tensors above which one call for all of them is faster on the CPU than one for each."""


class _TorchOptimizer:
    """An optimizer of torch with the name of the class, whose fields are options of torch and ``groups``."""

    def __post_init__(self) -> None:
        check_groups(self)

    @hookimpl
    def build_optimizer(self, run: RunView, model: nn.Module) -> Optimizer:
        """Build the optimizer."""
        import torch

        build: Any = getattr(torch.optim, type(self).__name__)
        groups = [self._as_torch(group) for group in parameter_groups(self, run, model)]
        built: Optimizer = build(groups, **self._as_torch(own_options(self)))
        return built

    def script(self, run: RunView) -> Snippet:  # noqa: ARG002 - the form of the method
        """Return the optimizer as source code."""
        return _script(self, self._as_torch(own_options(self)))

    def _as_torch(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return options as torch takes them."""
        return options


def _script(optimizer: Any, options: dict[str, Any]) -> Snippet:
    import torch

    from hookline_plugins.commands.ejecting.text import call, changed

    if optimizer.groups:
        raise ConfigError("its option groups has no script", hint="use the same options for all parameters")
    name = type(optimizer).__name__
    shown = changed(getattr(torch.optim, name), options, "lr")
    return Snippet(setup=call(f"optimizer = torch.optim.{name}", "model.parameters()", **shown))


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
    groups: Groups = ()

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

    def script(self, run: RunView) -> Snippet:  # noqa: ARG002 - the form of the method
        """Return the optimizer as source code."""
        return _script(self, own_options(self))


@dataclass
class Adam(_TorchOptimizer):
    """Adam, ``torch.optim.Adam``. Source: D. P. Kingma and J. Ba, "Adam", https://arxiv.org/abs/1412.6980."""

    lr: _LearningRate = 0.001
    betas: _Betas = (0.9, 0.999)
    eps: _Eps = 1e-8
    weight_decay: _WeightDecay = 0.0
    amsgrad: Annotated[bool, Meta(description="use the AMSGrad variant")] = False
    fused: _Fused = False
    groups: Groups = ()


@dataclass
class AdamW(_TorchOptimizer):
    """Adam with decoupled weight decay, ``torch.optim.AdamW``.

    Source: I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", https://arxiv.org/abs/1711.05101.
    """

    lr: _LearningRate = 0.001
    betas: _Betas = (0.9, 0.999)
    eps: _Eps = 1e-8
    weight_decay: _DecoupledDecay = 0.01
    amsgrad: Annotated[bool, Meta(description="use the AMSGrad variant")] = False
    fused: _Fused = False
    groups: Groups = ()


@dataclass
class RMSprop(_TorchOptimizer):
    """RMSprop, ``torch.optim.RMSprop``.

    Source: G. Hinton, *Neural Networks for Machine Learning*, lecture 6.
    """

    lr: _LearningRate = 0.01
    alpha: Annotated[_Beta, Meta(description="decay of the running mean of the squared gradient")] = 0.99
    eps: _Eps = 1e-8
    weight_decay: _WeightDecay = 0.0
    momentum: _Momentum = 0.0
    centered: Annotated[bool, Meta(description="normalize the gradient by an estimate of its variance")] = False
    groups: Groups = ()


@dataclass
class NAdam(_TorchOptimizer):
    """Adam with Nesterov momentum, ``torch.optim.NAdam``.

    Source: T. Dozat, "Incorporating Nesterov Momentum into Adam" (2016),
    https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ.
    """

    lr: _LearningRate = 0.002
    betas: _Betas = (0.9, 0.999)
    eps: _Eps = 1e-8
    weight_decay: _WeightDecay = 0.0
    momentum_decay: Annotated[float, Meta(ge=0, description="decay of the momentum over the steps")] = 0.004
    decoupled_weight_decay: _Decoupled = False
    groups: Groups = ()


@dataclass
class RAdam(_TorchOptimizer):
    """Adam with a rectified variance, ``torch.optim.RAdam``, which needs no warm-up of the learning rate.

    Source: L. Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", https://arxiv.org/abs/1908.03265.
    """

    lr: _LearningRate = 0.001
    betas: _Betas = (0.9, 0.999)
    eps: _Eps = 1e-8
    weight_decay: _WeightDecay = 0.0
    decoupled_weight_decay: _Decoupled = False
    groups: Groups = ()


@dataclass
class Adamax(_TorchOptimizer):
    """Adam with the infinity norm, ``torch.optim.Adamax``.

    Source: D. P. Kingma and J. Ba, "Adam", section 7.1, https://arxiv.org/abs/1412.6980.
    """

    lr: _LearningRate = 0.002
    betas: Annotated[tuple[_Beta, _Beta], Meta(description="decay of the running mean and of the running maximum")] = (
        0.9,
        0.999,
    )
    eps: _Eps = 1e-8
    weight_decay: _WeightDecay = 0.0
    groups: Groups = ()


@dataclass
class SparseAdam(_TorchOptimizer):
    """Adam for sparse gradients, ``torch.optim.SparseAdam``, such as those of ``nn.Embedding(..., sparse=True)``.

    It updates the moments of the rows in the gradient alone, and rejects dense gradients.
    """

    script: ClassVar[None] = None  # type: ignore[assignment] # its models have no script

    lr: Annotated[float, Meta(gt=0, description="learning rate")] = 0.001
    betas: _Betas = (0.9, 0.999)
    eps: Annotated[float, Meta(gt=0, description="added to the denominator to avoid division by zero")] = 1e-8
    groups: Groups = ()


@dataclass
class Adafactor(_TorchOptimizer):
    """Adafactor, ``torch.optim.Adafactor``, which keeps a row and a column of second moments instead of a matrix.

    Source: N. Shazeer and M. Stern, "Adafactor", https://arxiv.org/abs/1804.04235.
    """

    needs_whole_weights: ClassVar[bool] = True  # it takes means over the rows and columns of a matrix

    lr: _LearningRate = 0.01
    beta2_decay: Annotated[float, Meta(le=0, description="exponent of the step in the decay of second moments")] = -0.8
    eps: Annotated[
        tuple[Annotated[float, Meta(ge=0)] | Literal["auto"], Annotated[float, Meta(ge=0)]],
        Meta(description="floors of the second moments ('auto': precision of their dtype) and of the weights' scale"),
    ] = ("auto", 0.001)
    d: Annotated[float, Meta(ge=1, description="largest root mean square of an update; larger ones are scaled")] = 1.0
    weight_decay: _DecoupledDecay = 0.0
    groups: Groups = ()

    def _as_torch(self, options: dict[str, Any]) -> dict[str, Any]:
        if "eps" not in options:
            return options
        floor, scale = options["eps"]
        return {**options, "eps": (None if floor == "auto" else floor, scale)}


@dataclass
class Adagrad(_TorchOptimizer):
    """Adagrad, ``torch.optim.Adagrad``.

    Source: J. Duchi, E. Hazan and Y. Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization", JMLR 12 (2011), https://jmlr.org/papers/v12/duchi11a.html.
    """

    lr: _LearningRate = 0.01
    lr_decay: Annotated[float, Meta(ge=0, description="decay of the learning rate over the steps")] = 0.0
    weight_decay: _WeightDecay = 0.0
    initial_accumulator_value: Annotated[float, Meta(ge=0, description="initial sum of squared gradients")] = 0.0
    eps: _Eps = 1e-10
    fused: _Fused = False
    groups: Groups = ()


@dataclass
class Adadelta(_TorchOptimizer):
    """Adadelta, ``torch.optim.Adadelta``.

    Source: M. D. Zeiler, "ADADELTA: An Adaptive Learning Rate Method", https://arxiv.org/abs/1212.5701.
    """

    lr: Annotated[float, Meta(ge=0, description="factor on the update")] = 1.0
    rho: Annotated[float, Meta(ge=0, le=1, description="decay of the running mean of the squared gradient")] = 0.9
    eps: _Eps = 1e-6
    weight_decay: _WeightDecay = 0.0
    groups: Groups = ()


@dataclass
class ASGD(_TorchOptimizer):
    """Averaged stochastic gradient descent, ``torch.optim.ASGD``.

    torch keeps the average in the state of the optimizer; the model trains and is evaluated with the current weights.
    To evaluate with averaged weights, use the callback ``averaging``.
    Source: B. T. Polyak and A. B. Juditsky, "Acceleration of stochastic approximation by averaging", SIAM Journal on
    Control and Optimization 30 (1992), https://dl.acm.org/doi/10.1137/0330046.
    """

    lr: _LearningRate = 0.01
    lambd: Annotated[float, Meta(description="decay term of the weights and of the learning rate")] = 0.0001
    alpha: Annotated[float, Meta(description="exponent of the decay of the learning rate")] = 0.75
    t0: Annotated[float, Meta(ge=0, description="step at which averaging begins")] = 1e6
    weight_decay: _WeightDecay = 0.0
    groups: Groups = ()


@dataclass
class Rprop(_TorchOptimizer):
    """Resilient backpropagation, ``torch.optim.Rprop``, for full batches (``train.batch_size = "all"``).

    It uses the signs of the gradients alone. Source: M. Riedmiller and H. Braun, "A direct adaptive method for faster
    backpropagation learning: the RPROP algorithm" (1993), https://doi.org/10.1109/ICNN.1993.298623.
    """

    needs_whole_weights: ClassVar[bool] = True  # it assigns to chosen elements, which torch cannot do to parts

    lr: Annotated[float, Meta(ge=0, description="size of the first update")] = 0.01
    etas: Annotated[
        tuple[Annotated[float, Meta(gt=0, lt=1)], Annotated[float, Meta(gt=1)]],
        Meta(description="factors on the size of the update where the sign changes, and where it stays"),
    ] = (0.5, 1.2)
    step_sizes: Annotated[
        tuple[Annotated[float, Meta(gt=0)], Annotated[float, Meta(gt=0)]],
        Meta(description="smallest and largest size of an update"),
    ] = (1e-6, 50.0)
    groups: Groups = ()


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
