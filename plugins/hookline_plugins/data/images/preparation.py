"""``Preparation``: pixels -> inputs of a model; used in training, for predictions and in exports.

Imported only when it is needed, because it needs torch. Shapes: ``H`` rows, ``W`` columns, ``C`` channels, ``B`` images
in a batch, or no dimension for a single one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hookline_plugins.data.tables.scaling import Unscale

if TYPE_CHECKING:
    from hookline_plugins.data.images.reading import Pixels


class Preparation(nn.Module):
    """Computes ``(pixels / peak - mean) / std`` for each channel.

    Args:
        peak: The largest value of a pixel.
        mean: Mean of each channel, from 0 to 1.
        std: Its standard deviation.

    Example:
        >>> Preparation(255, [0.5], [0.25])(torch.tensor([[[0, 255]]])).tolist()
        [[[-2.0, 2.0]]]
    """

    factor: Tensor
    shift: Tensor

    def __init__(self, peak: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        scale = torch.tensor(std, dtype=torch.float64)
        shift = -torch.tensor(mean, dtype=torch.float64) / scale
        self.register_buffer("factor", (1 / (peak * scale)).float().reshape(-1, 1, 1))
        self.register_buffer("shift", shift.float().reshape(-1, 1, 1))
        self._values = self.factor, self.shift  # torch takes microseconds to look up a buffer

    def forward(self, pixels: Tensor) -> Tensor:
        """Return inputs ``[B, C, H, W]`` for pixels ``[B, C, H, W]`` of any dtype."""
        return pixels.float() * self.factor + self.shift

    def of_rows(self, pixels: Pixels) -> Tensor:
        """Return inputs ``[B, C, H, W]`` for pixels as they are read, ``[B, H, W, C]``."""
        rows = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
        inputs = np.empty(rows.shape, np.float32)
        inputs[:] = rows
        factor, shift = self._values
        return torch.from_numpy(inputs).mul_(factor).add_(shift)


def statistics_of(parts: Iterable[Pixels], peak: int) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel of pixels ``[B, H, W, C]``, on a scale from 0 to 1.

    They are those of all pixels, with their number in the denominator. A channel that is constant has a standard
    deviation of 1, so that it is only centered.
    """
    counts: Any = np.zeros(0)
    for pixels in parts:
        channels = pixels.reshape(-1, pixels.shape[-1]).T
        found = np.stack([np.bincount(channel, minlength=peak + 1) for channel in channels])
        counts = found if not counts.size else counts + found
    values = np.arange(peak + 1) / peak
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    return mean.tolist(), np.where(std > 0, std, 1.0).tolist()


def unscale_of(targets: Tensor) -> Unscale:
    """Return the way back to the units of the data for standardized numbers ``[N, O]``.

    A column that is constant is only centered.
    """
    values = targets.double()
    scale = values.std(dim=0, correction=0)
    return Unscale(values.mean(dim=0), scale.where(scale > 0, 1.0))
