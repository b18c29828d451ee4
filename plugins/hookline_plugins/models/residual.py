"""Residual blocks of convolutions. Imported only when a model is built, because they need torch."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

_GROUPS = 32
"""Number of groups in Wu and He, "Group Normalization" (2018); fewer where the channels cannot be divided by it."""


def convolution(channels: int, width: int, norm: str, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """Return a convolution that keeps the size of an image, or divides it by ``stride``, with its normalization."""
    layer = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=norm == "none")
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if norm == "batch":
        return [layer, nn.BatchNorm2d(width)]
    return [layer, nn.GroupNorm(math.gcd(_GROUPS, width), width)] if norm == "group" else [layer]


class Block(nn.Module):
    """Two convolutions whose result is added to the input; where its size changes, by a convolution of 1 x 1.

    Args:
        channels: Number of channels of the input.
        width: That of the output.
        norm: The normalization: ``batch``, ``group`` or ``none``.
        stride: The factor by which the image becomes smaller.
    """

    def __init__(self, channels: int, width: int, norm: str, *, stride: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            *convolution(channels, width, norm, stride=stride), nn.ReLU(), *convolution(width, width, norm)
        )
        is_same = channels == width and stride == 1
        self.shortcut = (
            nn.Identity() if is_same else nn.Sequential(*convolution(channels, width, norm, kernel=1, stride=stride))
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return features ``[B, width, H / stride, W / stride]``."""
        return functional.relu(self.shortcut(inputs) + self.change(inputs))
