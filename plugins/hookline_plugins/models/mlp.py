"""Model ``mlp``: a multilayer perceptron.

Shapes: ``B`` examples in a batch, ``I`` input features, ``O`` values predicted for an example.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from hookline import DataSource, hookimpl
from hookline.trained import Snippet
from hookline_plugins.models.sizes import sizes_of

if TYPE_CHECKING:
    from torch import nn

    from hookline import RunView


_Activation = Literal["relu", "gelu", "silu", "tanh"]
_Width = Annotated[int, Meta(ge=1)]


@dataclass
class MLP:
    """A multilayer perceptron, from ``[B, I]`` to ``[B, O]``: linear layers with an activation after each but the last.

    Weights are initialized as in ``nn.Linear``: uniformly in ``+-1/sqrt(fan_in)``.
    """

    hidden: Annotated[tuple[_Width, ...], Meta(description="width of each hidden layer")] = (64, 64)
    activation: Annotated[_Activation, Meta(description="activation after each hidden layer")] = "relu"
    dropout: Annotated[float, Meta(ge=0, lt=1, description="probability of zeroing a hidden value")] = 0.0

    @hookimpl
    def build_model(self, data: DataSource) -> nn.Module:
        """Build the layers."""
        from torch import nn

        activation = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}[self.activation]
        in_features, out_features = sizes_of(data)
        widths = (in_features, *self.hidden)
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip(widths, self.hidden, strict=False):
            layers += [nn.Linear(fan_in, fan_out), activation()]
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
        return nn.Sequential(*layers, nn.Linear(widths[-1], out_features))

    def script(self, run: RunView) -> Snippet:
        """Return the layers as source code."""
        from hookline_plugins.commands.ejecting.text import call

        activation = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "tanh": "Tanh"}[self.activation]
        in_features, out_features = sizes_of(run.data)
        widths = (in_features, *self.hidden)
        layers: list[str] = []
        for fan_in, fan_out in zip(widths, self.hidden, strict=False):
            layers += [f"nn.Linear({fan_in}, {fan_out})", f"nn.{activation}()"]
            if self.dropout:
                layers.append(f"nn.Dropout({self.dropout})")
        layers.append(f"nn.Linear({widths[-1]}, {out_features})")
        return Snippet(("from torch import nn",), setup=call("model = nn.Sequential", *layers))
