"""Eight examples on a plane, and a linear layer to fit to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def some_data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 3, generator=generator)
    return inputs, inputs @ torch.tensor([[1.0], [-2.0], [3.0]]) + 0.5


INPUTS, TARGETS = some_data()


def linear() -> nn.Linear:
    layer = nn.Linear(3, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.1, 0.2, 0.3]]))
        layer.bias.zero_()
    return layer
