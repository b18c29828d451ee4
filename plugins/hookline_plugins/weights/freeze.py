"""Callback ``freeze``: exclude parameters of the model from training."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from hookline import ConfigError, Fault, hookimpl
from hookline.trained import Snippet
from hookline_plugins.optimizers.parameter_groups import is_match, name_hint

if TYPE_CHECKING:
    from torch import nn

    from hookline import RunView


@dataclass
class Freeze:
    """Frozen parameters: they get no gradients and keep their initial values.

    Patterns are those of ``fnmatch``: ``*`` matches any characters, ``?`` one. They are matched against the names in
    the model as its plugin built it. Buffers, such as the running mean of a batch normalization, are not parameters.
    """

    parameters: Annotated[
        tuple[str, ...], Meta(min_length=1, description="names of parameters, or patterns such as 'encoder.*'")
    ]

    # The innermost, so that no other wrapper changes the names.
    @hookimpl(wrapper=True, trylast=True)
    def build_model(self) -> Generator[None, Any, nn.Module]:
        """Freeze the parameters."""
        model: nn.Module = yield
        named = dict(model.named_parameters())
        unknown = [one for one in self.parameters if not any(is_match(name, [one]) for name in named)]
        if faults := [Fault(f"{one!r} matches no parameter", hint=name_hint(one, list(named))) for one in unknown]:
            raise ConfigError("freeze names parameters that the model does not have", faults=faults)
        for name, parameter in named.items():
            if is_match(name, self.parameters):
                parameter.requires_grad_(False)
        return model

    def script(self, run: RunView) -> Snippet:
        """Return the freezing as source code."""
        from hookline_plugins.commands.ejecting.text import bracketed, literal

        names = [name for name, _ in run.unwrapped_model.named_parameters() if is_match(name, self.parameters)]
        frozen = bracketed("frozen = [", [literal(name) for name in names], "]")
        return Snippet(setup=f"{frozen}\nfor name in frozen:\n    model.get_parameter(name).requires_grad_(False)")
