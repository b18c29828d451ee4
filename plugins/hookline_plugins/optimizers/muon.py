"""Optimizer ``muon``: torch's Muon for the hidden matrices of a model, and AdamW for its other parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from hookline import ConfigError, Fault, hookimpl
from hookline_plugins.optimizers.parameter_groups import is_match, name_hint, named_parameters

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from hookline import RunView

_Beta = Annotated[float, Meta(ge=0, lt=1)]


@dataclass
class Muon:
    """Muon, ``torch.optim.Muon``, for the matrices of hidden layers; ``torch.optim.AdamW`` for all other parameters.

    AdamW updates the parameters that are not matrices, the weights of embeddings, and those that ``adamw_parameters``
    names, such as the last layer. With ``adjust_lr_fn = "match_rms_adamw"``, the updates of both have the same size,
    so that a learning rate of AdamW suits both.

    Sources: K. Jordan, "Muon: An optimizer for hidden layers in neural networks",
    https://kellerjordan.github.io/posts/muon/; J. Liu et al., "Muon is Scalable for LLM Training",
    https://arxiv.org/abs/2502.16982. The defaults are those of torch.
    """

    needs_whole_weights: ClassVar[bool] = True  # it multiplies whole matrices

    lr: Annotated[float, Meta(ge=0, description="learning rate of Muon")] = 0.001
    weight_decay: Annotated[float, Meta(ge=0, description="share of the matrices, times lr, to subtract per step")] = (
        0.1
    )
    momentum: Annotated[_Beta, Meta(description="decay of the running sum of the gradients")] = 0.95
    nesterov: Annotated[bool, Meta(description="use Nesterov momentum")] = True
    ns_steps: Annotated[
        int, Meta(ge=1, le=99, description="number of Newton-Schulz iterations that orthogonalize an update")
    ] = 5
    adjust_lr_fn: Annotated[
        Literal["original", "match_rms_adamw"],
        Meta(description="factor on the learning rate for the shape of a matrix: that of the author, or AdamW's size"),
    ] = "original"
    adamw_parameters: Annotated[
        tuple[str, ...],
        Meta(description="names or patterns of matrices that AdamW updates, such as the last layer: ['head.*']"),
    ] = ()
    adamw_lr: Annotated[float, Meta(ge=0, description="learning rate of AdamW")] = 0.001
    adamw_betas: Annotated[
        tuple[_Beta, _Beta], Meta(description="decay of AdamW's running means of gradient and squared gradient")
    ] = (0.9, 0.999)
    adamw_weight_decay: Annotated[
        float, Meta(ge=0, description="share of the weights, times adamw_lr, that AdamW subtracts per step")
    ] = 0.01

    @hookimpl
    def build_optimizer(self, run: RunView, model: nn.Module) -> Optimizer:
        """Build the two optimizers, as one.

        Raises:
            ConfigError: If a pattern matches no parameter, or no matrix is left for Muon.
        """
        from torch import optim

        from hookline_plugins.optimizers.joint_optimizer import JointOptimizer

        matrices, rest = self._divide(run, model)
        muon = optim.Muon(
            matrices,
            lr=self.lr,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
            ns_steps=self.ns_steps,
            adjust_lr_fn=self.adjust_lr_fn,
        )
        if not rest:
            return muon
        adamw = optim.AdamW(rest, lr=self.adamw_lr, betas=self.adamw_betas, weight_decay=self.adamw_weight_decay)
        return JointOptimizer(muon, adamw)

    def _divide(self, run: RunView, model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return the parameters for Muon, and those for AdamW."""
        from torch import nn

        embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
        parameters = named_parameters(run, model)
        names = [name for name, _ in parameters]
        unknown = [p for p in self.adamw_parameters if not any(is_match(name, [p]) for name in names)]
        faults = [Fault(f"adamw_parameters: {p!r} matches no parameter", hint=name_hint(p, names)) for p in unknown]
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in parameters:
            is_hidden = parameter.ndim == 2 and id(parameter) not in embeddings
            (matrices if is_hidden and not is_match(name, self.adamw_parameters) else rest).append(parameter)
        if not matrices and not faults:
            hint = "use the optimizer 'adamw', or name fewer parameters in adamw_parameters"
            faults.append(Fault("no matrix is left for Muon", hint=hint))
        if faults:
            raise ConfigError("the options of the optimizer do not fit the model", faults=faults)
        return matrices, rest
