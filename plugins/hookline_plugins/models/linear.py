"""Model ``linear``: one linear layer.

Shapes: ``B`` examples in a batch, ``I`` input features, ``O`` values predicted for an example.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from hookline import DataSource, hookimpl
from hookline_plugins.models.sizes import sizes_of

if TYPE_CHECKING:
    from torch import nn

    from hookline import RunView
    from hookline.sections import Section

_MAX_SHOWN = 10
"""Number of outputs whose weights a report shows."""


@dataclass
class Linear:
    """A linear layer, ``nn.Linear``: ``y = x W^T + b`` from ``[B, I]`` to ``[B, O]``.

    Weights are initialized from ``N(0, init_std)``, the bias to 0. The default of ``init_std`` is that of Zhang et al.,
    *Dive into Deep Learning*, section 3.5. With ``start = "least-squares"`` both are the solution of the least-squares
    problem over the training split: the optimum of the loss ``mse``, at which training begins.
    """

    bias: Annotated[bool, Meta(description="learn an additive bias")] = True
    init_std: Annotated[float, Meta(ge=0, description="standard deviation of the initial weights")] = 0.01
    start: Annotated[
        Literal["random", "least-squares"],
        Meta(description="initial weights: random, or the optimum of a regression with the loss mse"),
    ] = "random"

    @hookimpl
    def build_model(self, data: DataSource) -> nn.Module:
        """Build the layer."""
        import torch
        from torch import nn

        layer = nn.Linear(*sizes_of(data), bias=self.bias)
        nn.init.normal_(layer.weight, std=self.init_std)
        if self.bias:
            nn.init.zeros_(layer.bias)
        if self.start == "least-squares":
            from hookline_plugins.models.least_squares import least_squares

            weight, bias = least_squares(data, bias=self.bias)
            layer = layer.double()  # the run casts it to its dtype
            with torch.no_grad():
                layer.weight.copy_(weight)
                if self.bias:
                    layer.bias.copy_(bias)
        return layer

    @hookimpl
    def build_report(self, run: RunView) -> list[Section]:
        """Show the weights of the first outputs."""
        from torch import nn

        from hookline.sections import Bars

        layer, data = run.unwrapped_model, run.data
        if not isinstance(layer, nn.Linear):
            return []
        weights, names = layer.weight.detach().cpu(), data.feature_names
        labels = [str(names[i]) if i < len(names) else f"x{i}" for i in range(weights.shape[1])]
        outputs = data.class_names or data.target_names or tuple(map(str, range(len(weights))))
        note = "For the inputs as the model gets them: scaled, if the data source scales them."
        return [
            Bars(
                title=f"Weights for {name}",
                topic="model",
                labels=labels,
                values=row.tolist(),
                value_label="weight",
                note=note,
            )
            for name, row in zip(outputs, weights[:_MAX_SHOWN], strict=False)
        ]
