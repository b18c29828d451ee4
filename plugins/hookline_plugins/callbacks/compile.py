"""Callback ``compile``: the model compiled by ``torch.compile``."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from hookline import ConfigError, hookimpl
from hookline.engine import did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from hookline import RunView


_Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


@dataclass
class Compile:
    """Compiles the model when it is first called: ``torch.compile``, whose options and defaults these are.

    What callbacks that are listed before have put around the model is compiled with it. ``run.unwrapped_model`` is the
    model as it was, with the names of its weights.
    """

    allows_fused_steps: ClassVar[bool] = False  # there the whole step is compiled, the model with it

    mode: Annotated[_Mode, Meta(description="what is optimized for; others than 'default' need inductor")] = "default"
    backend: Annotated[str, Meta(description="what makes the code; 'inductor' needs a compiler for C++")] = "inductor"
    fullgraph: Annotated[bool, Meta(description="whether a model that cannot be one graph is an error")] = False
    dynamic: (
        Annotated[bool, Meta(description="whether sizes may vary; 'auto' after the first that does")] | Literal["auto"]
    ) = "auto"

    def __post_init__(self) -> None:
        if self.mode != "default" and self.backend != "inductor":
            raise ValueError(f"mode = {self.mode!r} needs backend = 'inductor', but it is {self.backend!r}")

    @hookimpl(wrapper=True)
    def build_model(self, run: RunView) -> Generator[None, nn.Module, nn.Module]:
        """Put the compiled model in the place of the model."""
        import torch
        from torch import nn

        model = yield
        known = torch.compiler.list_backends(exclude_tags=())
        if self.backend not in known:
            hint = did_you_mean(self.backend, known)
            raise ConfigError(f"compile: torch has no backend {self.backend!r}", hint=hint)
        # Not model.compile(): that leaves a model whose class is torch's own, such as nn.Sequential, as it is.
        compiled: Any = torch.compile(
            model,
            mode=self.mode,
            backend=self.backend,
            fullgraph=self.fullgraph,
            dynamic=None if self.dynamic == "auto" else self.dynamic,
        )
        if isinstance(compiled, nn.Module):
            return compiled
        run.warn("the model is compiled already; compile leaves it as it is")
        return model
