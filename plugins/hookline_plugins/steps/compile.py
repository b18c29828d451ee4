"""Callback ``compile``: ``torch.compile`` for the model."""

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
    from hookline.engine import Parallel


_Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


@dataclass
class Compile:
    """The model compiled by ``torch.compile``, with its options and defaults, when it is first called.

    Wrappers of callbacks listed earlier are compiled with the model. ``run.unwrapped_model`` is the model without
    them, with the original names of its weights. With several ranks, evaluations use this compiled model, and steps
    another one, of what ``build_parallel`` makes of it.
    """

    is_part_of_model: ClassVar[bool] = False  # it computes the same
    allows_fused_steps: ClassVar[bool] = False  # they compile the whole step, including the model

    mode: Annotated[_Mode, Meta(description="torch's compile mode; all but 'default' need inductor")] = "default"
    backend: Annotated[
        str, Meta(description="backend of torch, or of a plugin of the run; 'inductor' needs a C++ compiler")
    ] = "inductor"
    fullgraph: Annotated[bool, Meta(description="fail if the model cannot be compiled as a single graph")] = False
    dynamic: (
        Annotated[bool, Meta(description="compile for varying sizes; 'auto': once a size varies")] | Literal["auto"]
    ) = "auto"

    def __post_init__(self) -> None:
        if self.mode != "default" and self.backend != "inductor":
            raise ValueError(f"mode = {self.mode!r} needs backend = 'inductor', but it is {self.backend!r}")

    @hookimpl(wrapper=True)
    def build_model(self, run: RunView) -> Generator[None, nn.Module, nn.Module]:
        """Return the compiled model."""
        return self._compiled(run, (yield))

    @hookimpl(wrapper=True)
    def build_parallel(self, run: RunView) -> Generator[None, Parallel | None, Parallel | None]:
        """Return the compiled model for several ranks: torch then sends gradients during the backward pass."""
        parallel = yield
        return parallel and parallel._replace(model=self._compiled(run, parallel.model))

    def _compiled(self, run: RunView, model: nn.Module) -> nn.Module:
        import torch
        from torch import nn

        _check_backend(self.backend)
        # Not model.compile(): that does not compile a model whose class is torch's own, such as nn.Sequential.
        compiled: Any = torch.compile(
            model,
            mode=self.mode,
            backend=self.backend,
            fullgraph=self.fullgraph,
            dynamic=None if self.dynamic == "auto" else self.dynamic,
        )
        if isinstance(compiled, nn.Module):
            return compiled
        run.warn("the model is already compiled; compile leaves it unchanged")
        return model


def _check_backend(name: str) -> None:
    """Check that a backend is registered.

    Torch would import one that a distribution only declares: code that no rule and no lock of this run has seen.

    Raises:
        ConfigError: When it is not.
    """
    import torch
    from torch._dynamo.backends.registry import _COMPILER_FNS as REGISTERED

    declared = torch.compiler.list_backends(exclude_tags=())
    if name not in REGISTERED:
        hint = did_you_mean(name, REGISTERED)
        message = f"compile: torch has no backend {name!r}"
        if name in declared:
            message = f"compile: backend {name!r} is not part of torch, and no plugin of this run registers it"
            hint = "name a plugin that calls torch._dynamo.register_backend; rules and locks then apply to it"
        raise ConfigError(message, hint=hint)
