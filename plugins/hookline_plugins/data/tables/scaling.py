"""Means and scales of the columns of a table, and the coefficients of a linear model in the units of the file.

Imported only when a table was read, because it needs torch. Shapes: ``N`` rows, ``I`` columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    """Maps targets and predictions ``[B, O]`` to the units of the data.

    It returns ``value * scale + mean``, and for some targets the inverse of a transform of that.

    Args:
        mean: The values to add, float64 ``[O]``.
        scale: The factors, float64 ``[O]``.
        transforms: The transforms of targets by their number; each has a method ``inverse``.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor, transforms: Mapping[int, nn.Module] | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.transforms = nn.ModuleDict({str(number): transform for number, transform in (transforms or {}).items()})

    def forward(self, values: Tensor) -> Tensor:
        """Return the values in the units of the data."""
        values = values * self.scale.to(values) + self.mean.to(values)
        if not self.transforms:
            return values
        columns = list(values.unbind(dim=1))
        for number, transform in self.transforms.items():
            columns[int(number)] = cast("Any", transform).inverse(columns[int(number)])
        return torch.stack(columns, dim=1)


def measure(rows: Tensor, names: tuple[str, ...], faults: Faults, *, is_scaled: bool) -> Scale:
    """Return the scaling of columns by their training rows ``[I, N]``, whose missing cells get the mean, in place."""
    fill = fill_in(rows, names, faults)
    return standardized(rows, names, fill, fill, faults) if is_scaled else unscaled(names, fill)


def fill_in(rows: Tensor, names: tuple[str, ...], faults: Faults, ways: Sequence[str | float] = ()) -> Tensor:
    """Fill in the missing cells of rows ``[I, N]`` in place; return the values for them, ``[I]``.

    ``ways`` are the mean, the median or a number for each row; without, the means.
    """
    fill = rows.mean(dim=1)
    # The sum of a row with a missing cell is NaN; so may be a sum that overflows.
    has_gaps = set(fill.isnan().nonzero().flatten().tolist())
    for number, way in enumerate(ways or ["mean"] * len(rows)):
        if way == "mean" and number not in has_gaps:
            continue
        is_missing = rows[number].isnan()
        present = rows[number][~is_missing]
        if isinstance(way, float):
            fill[number] = way
        elif not len(present):
            faults.add(f"column {names[number]!r} has no values in the training split, and so no {way}")
            fill[number] = 0  # so that the scales are not found at fault as well
        elif way == "median":
            fill[number] = _median(present)
        elif is_missing.any():
            fill[number] = rows[number].nanmean()
        rows[number, is_missing] = fill[number]
    return fill


def _median(values: Tensor) -> Tensor:
    ordered = values.sort().values
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def unscaled(names: tuple[str, ...], fill: Tensor) -> Scale:
    """Return a scaling that changes nothing."""
    return Scale(names, fill, torch.zeros_like(fill), torch.ones_like(fill))


def standardized(rows: Tensor, names: tuple[str, ...], fill: Tensor, means: Tensor, faults: Faults) -> Scale:
    """Return the scaling to mean 0 and standard deviation 1 of rows ``[I, N]`` without missing cells."""
    if not names:
        return unscaled(names, fill)
    low, high = torch.aminmax(rows, dim=1)
    is_constant = low == high
    mean = means.where(~is_constant, low)
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
