"""Callback ``freeze``: keeps some parameters of the model as they are."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from hookline import ConfigError, Fault, hookimpl
from hookline_plugins.optimizers.parameter_groups import is_match, name_hint

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Freeze:
    """Takes no gradients of some parameters, so that they stay what the model's plugin made them.

    Patterns are those of ``fnmatch``: ``*`` stands for any characters, ``?`` for one. They are compared with the names
    in the model as its plugin built it. Buffers, such as the running mean of a batch normalization, are no parameters.
    """

    parameters: Annotated[
        tuple[str, ...], Meta(min_length=1, description="names of parameters, or patterns such as 'encoder.*'")
    ]

    # The innermost, so that the names are those of the model whatever is put around it.
    @hookimpl(wrapper=True, trylast=True)
    def build_model(self) -> Generator[None, Any, nn.Module]:
        """Freeze the parameters."""
        model: nn.Module = yield
        named = dict(model.named_parameters())
        unknown = [one for one in self.parameters if not any(is_match(name, [one]) for name in named)]
        if faults := [Fault(f"{one!r} is the name of none", hint=name_hint(one, list(named))) for one in unknown]:
            raise ConfigError("freeze names parameters that the model does not have", faults=faults)
        for name, parameter in named.items():
            if is_match(name, self.parameters):
                parameter.requires_grad_(False)
        return model
