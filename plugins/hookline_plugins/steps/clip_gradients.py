"""Callback ``clip-gradients``: gradient clipping before each update of the weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from hookline import hookimpl
from hookline.trained import Snippet

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import RunView


_Power = Annotated[float, Meta(gt=0, description="order p of the norm; 'inf': the largest element")]


@dataclass
class ClipGradients:
    """Gradient clipping, by norm or by value.

    With ``max_norm``, all gradients are multiplied by ``max_norm / (norm + 1e-6)`` if that is less than 1; the norm is
    taken over all of them as one vector: ``torch.nn.utils.clip_grad_norm_``. With ``max_value``, each element is
    clamped to [-``max_value``, ``max_value``]: ``torch.nn.utils.clip_grad_value_``. The gradient is that of the whole
    step, also with ``train.micro_batch_size``. Source: R. Pascanu et al., "On the difficulty of training recurrent
    neural networks", https://arxiv.org/abs/1211.5063. The default of ``norm_type`` is torch's.
    """

    max_norm: Annotated[float, Meta(gt=0, description="maximum norm of the gradient")] | None = None
    norm_type: _Power | Literal["inf"] = 2.0
    max_value: Annotated[float, Meta(gt=0, description="maximum absolute value of a gradient element")] | None = None

    def __post_init__(self) -> None:
        if (self.max_norm is None) == (self.max_value is None):
            got = "neither is" if self.max_norm is None else "both are"
            raise ValueError(f"exactly one of max_norm and max_value must be given, but {got}")
        if self.max_value is not None and self.norm_type != 2.0:
            raise ValueError("norm_type applies to max_norm, but max_value is given")

    @hookimpl(wrapper=True)
    def build_update(self, run: RunView) -> Generator[None, Any, Callable[[], None]]:
        """Clip before the update."""
        update = yield
        clip = self._clip()

        def clipped_update() -> None:
            # Clipping turns infinity into a large number, or spreads NaN to all gradients: let the run check first.
            if run.finite_guard.accepts_gradients():
                clip([parameter for group in run.optimizer.param_groups for parameter in group["params"]])
                update()

        return clipped_update

    def _clip(self) -> Callable[[list[Tensor]], object]:
        from torch.nn.utils import clip_grad_norm_, clip_grad_value_

        if self.max_value is not None:
            return functools.partial(clip_grad_value_, clip_value=self.max_value)
        assert self.max_norm is not None, "one of the two is given"
        return functools.partial(clip_grad_norm_, max_norm=self.max_norm, norm_type=float(self.norm_type))

    def script(self, run: RunView) -> Snippet:  # noqa: ARG002 - the form of the method
        """Return the clipping as source code."""
        from hookline_plugins.commands.ejecting.text import call

        by = "value" if self.max_norm is None else "norm"
        limit = {"clip_value": self.max_value} if self.max_norm is None else {"max_norm": self.max_norm}
        power = {} if self.norm_type == 2.0 else {"norm_type": float(self.norm_type)}
        clip = call(f"nn.utils.clip_grad_{by}_", "model.parameters()", indent=12, **limit, **power)
        return Snippet(("from torch import nn",), before_update=clip)
