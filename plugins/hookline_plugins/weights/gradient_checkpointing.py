"""Callback ``gradient-checkpointing``: compute parts of the model twice in a step instead of keeping their results."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from hookline import ConfigError, Fault, hookimpl
from hookline_plugins.optimizers.parameter_groups import is_match, name_hint

if TYPE_CHECKING:
    from torch import nn


@dataclass
class GradientCheckpointing:
    """Less memory for a step: what some modules compute is not kept for the gradients, but computed again for them.

    A module keeps its inputs alone. The numbers are the same: those that are drawn, as for dropout, are drawn again,
    and buffers, as those of batch normalization, are updated once. By ``torch.utils.checkpoint`` without re-entrance.
    Evaluations and predictions are unaffected. Source: T. Chen et al., "Training Deep Nets with Sublinear Memory
    Cost", https://arxiv.org/abs/1604.06174.

    Patterns are those of ``fnmatch``: ``*`` matches any characters, ``?`` one. They are matched against the names of
    modules in the model as its plugin built it; modules within a module that matches are part of it.
    """

    is_part_of_model: ClassVar[bool] = False  # it computes the same
    allows_fused_steps: ClassVar[bool] = False  # they compile the whole step, including the model

    modules: Annotated[
        tuple[str, ...], Meta(min_length=1, description="names of modules, or patterns such as 'layers.*'")
    ]

    # The innermost, so that no other wrapper changes the names.
    @hookimpl(wrapper=True, trylast=True)
    def build_model(self) -> Generator[None, Any, nn.Module]:
        """Let the modules compute again what the gradients need."""
        model: nn.Module = yield
        for module in self._chosen(model):
            # Not a new class, nor a module around it: names and types stay. A copy has a copy of the partial function.
            module.forward = functools.partial(_recomputed, module.forward, module)
        return model

    def _chosen(self, model: nn.Module) -> list[nn.Module]:
        """Return the outermost modules that match.

        Raises:
            ConfigError: When a pattern matches none.
        """
        from torch import nn

        # A container such as ModuleList is never called.
        named = {
            name: module
            for name, module in model.named_modules()
            if name and type(module).forward is not nn.Module.forward
        }
        unknown = [one for one in self.modules if not any(is_match(name, [one]) for name in named)]
        if faults := [Fault(f"{one!r} matches no module", hint=name_hint(one, list(named))) for one in unknown]:
            raise ConfigError("gradient-checkpointing names modules that the model does not have", faults=faults)
        chosen: dict[str, nn.Module] = {}
        for name, module in named.items():  # parents come before their children
            if is_match(name, self.modules) and not any(name.startswith(f"{parent}.") for parent in chosen):
                chosen[name] = module
        return list(chosen.values())


def _recomputed(forward: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call the ``forward`` of a module, and keep nothing of it for the gradients but its inputs."""
    import torch
    from torch.utils.checkpoint import checkpoint

    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    if not torch.compiler.is_compiling() and next(module.buffers(), None) is not None:
        kwargs["context_fn"] = functools.partial(_contexts, module)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return contexts for the first computation of a module, and for the second."""
    return nullcontext(), _buffers_kept(module)


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Restore the buffers of a module: its first computation has updated them."""
    import torch

    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
