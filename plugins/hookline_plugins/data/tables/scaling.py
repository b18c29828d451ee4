"""Means and scales of the columns of a table, and the coefficients of a linear model in the units of the file.

Imported only when a table was read, because it needs torch. Shapes: ``N`` rows, ``I`` columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from hookline_plugins.data.faults import Faults


@dataclass(frozen=True)
class Scale:
    """The scaling of columns for the model: ``(value - mean) / scale``.

    Attributes:
        names: The names of the columns.
        fill: The values for missing cells, float64 ``[I]``: the means of the training rows.
        mean: The values to subtract, float64 ``[I]``.
        scale: The values to divide by, float64 ``[I]``.
    """

    names: tuple[str, ...]
    fill: Tensor
    mean: Tensor
    scale: Tensor


class Unscale(nn.Module):
    """Maps scaled targets and predictions ``[B, O]`` to the units of the data: ``value * scale + mean``."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, values: Tensor) -> Tensor:
        """Return the values in the units of the data."""
        return values * self.scale.to(values) + self.mean.to(values)


def measure(rows: Tensor, names: tuple[str, ...], faults: Faults, *, is_scaled: bool) -> Scale:
    """Return the scaling of columns by their training rows ``[I, N]``, in which missing cells are filled in."""
    fill = rows.mean(dim=1)
    # The sum of a row with a missing cell is NaN; so may be a sum that overflows.
    for number in fill.isnan().nonzero().flatten().tolist():
        is_missing = rows[number].isnan()
        if not is_missing.any():
            continue
        fill[number] = rows[number].nanmean()
        if fill[number].isnan():
            faults.add(f"column {names[number]!r} has no values in the training split, and so no mean")
            fill[number] = 0  # so that the scales are not found at fault as well
        rows[number, is_missing] = fill[number]
    if not is_scaled or not names:
        return Scale(names, fill, torch.zeros_like(fill), torch.ones_like(fill))
    low, high = torch.aminmax(rows, dim=1)
    is_constant = low == high
    mean = fill.where(~is_constant, low)
    scale = rows.std(dim=1, correction=0).where(~is_constant, 1)
    for number in (~(mean.isfinite() & scale.isfinite() & (scale > 0))).nonzero().flatten().tolist():
        faults.add(f"column {names[number]!r} cannot be standardized: its numbers are too large or too close together")
    return Scale(names, fill, mean, scale)


def coefficients(layer: nn.Linear, features: Scale, targets: Scale) -> list[dict[str, str | float]]:
    """Return the coefficients of a linear model for unscaled columns."""
    weight = layer.weight.detach().double().cpu() * targets.scale.unsqueeze(1) / features.scale
    intercept = targets.mean - weight @ features.mean
    if layer.bias is not None:
        intercept += layer.bias.detach().double().cpu() * targets.scale
    rows: list[dict[str, str | float]] = []
    for target, slopes, constant in zip(targets.names, weight.tolist(), intercept.tolist(), strict=True):
        label: dict[str, str | float] = {"target": target} if len(targets.names) > 1 else {}
        named = zip((*features.names, "(intercept)"), (*slopes, constant), strict=True)
        rows += [{**label, "feature": feature, "coefficient": value} for feature, value in named]
    return rows
