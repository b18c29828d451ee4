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

    def unscaled(self, values: Tensor) -> Tensor:
        """Return values ``[B, I]`` in the units of the file."""
        return values * self.scale.to(values) + self.mean.to(values)


def prepare(table: Tensor, train: Tensor | None, names: tuple[str, ...], faults: Faults, *, is_scaled: bool) -> Scale:
    """Fill in missing cells of a table ``[I, N]`` and scale it, in place, by the rows of the training split.

    ``train`` are the numbers of these rows; None for all.
    """
    rows = table if train is None else table.index_select(1, train)
    fill = rows.mean(dim=1)
    # The sum of a row with a missing cell is NaN; so may be a sum that overflows.
    for number in table.sum(dim=1).isnan().nonzero().flatten().tolist():
        if not table[number].isnan().any():
            continue
        fill[number] = rows[number].nanmean()
        if fill[number].isnan():
            faults.add(f"column {names[number]!r} has no values in the training split, and so no mean")
            fill[number] = 0  # so that the scales are not found at fault as well
        for column in (table[number], rows[number]):
            column[column.isnan()] = fill[number]
    if not is_scaled:
        return Scale(names, fill, torch.zeros_like(fill), torch.ones_like(fill))
    low, high = torch.aminmax(rows, dim=1)
    is_constant = low == high
    mean = fill.where(~is_constant, low)
    scale = rows.std(dim=1, correction=0).where(~is_constant, 1)
    for number in (~(mean.isfinite() & scale.isfinite() & (scale > 0))).nonzero().flatten().tolist():
        faults.add(f"column {names[number]!r} cannot be standardized: its numbers are too large or too close together")
    table.sub_(mean.unsqueeze(1)).div_(scale.unsqueeze(1))
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
