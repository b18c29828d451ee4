"""Preparation of the columns of a table: from numbers and codes of categories to the inputs of a model.

The training, the predictor and exports use the same modules. Imported only when a table was read, because it needs
torch. Shapes: ``N`` rows of a table, ``B`` rows at once, ``K`` columns of numbers, ``C`` columns of categories, ``I``
input features, ``O`` targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from hookline_plugins.data.tables.features import IS_MISSING, Column, Feature, features_of
from hookline_plugins.data.tables.scaling import Scale, fill_in, measure, standardized, unscaled
from hookline_plugins.data.tables.transforms import fitted

if TYPE_CHECKING:
    from hookline_plugins.data.faults import Faults
    from hookline_plugins.data.tables.ways import Transform, Ways


Inputs = Tensor | dict[str, Tensor]

_ROWS_AT_ONCE = 2**14
"""Rows that are prepared at once: few enough for the cache of a processor."""
_FLAGS_AT_ONCE = 16
"""0/1 features that are measured at once: all of a column with many levels would fill the memory."""


class Raw(NamedTuple):
    """The cells of a table as they were read.

    Attributes:
        numbers: The columns of numbers, float64 ``[K, N]``; NaN for a missing cell.
        categories: The codes of the columns of categories, int64 ``[C, N]``: 0 for a missing cell, 1 for the first
            level, and so on.
    """

    numbers: Tensor
    categories: Tensor


class Preparation(nn.Module):
    """Fills in missing cells, transforms numbers, makes 0/1 features of levels or keeps codes, and standardizes.

    ``forward`` maps numbers, float64 ``[B, K]`` with NaN for missing cells, and codes of categories, int64 ``[B, C]``,
    to inputs: float64 ``[B, I]`` in the order of the columns, or with ``keeps_codes`` a mapping ``{"numbers": float64
    [B, I], "categories": int64 [B, C]}``. Where a code is 0, the features of its levels have the values for missing
    cells.

    Args:
        columns: The columns.
        scale: The values for missing cells, the means and the scales of the features; none for codes that are kept.
        transforms: The transforms of columns of numbers, by name.
        keeps_codes: Whether the model gets the codes.
    """

    fill: Tensor
    gap_column: Tensor
    flag_fill: Tensor
    flag_column: Tensor
    flag_code: Tensor
    order: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(
        self, columns: Sequence[Column], scale: Scale, transforms: Mapping[str, nn.Module], *, keeps_codes: bool
    ) -> None:
        super().__init__()
        features = features_of(columns, keeps_codes=keeps_codes)
        if sizes := {len(values) for values in (scale.fill, scale.mean, scale.scale)} - {len(features)}:
            raise ValueError(f"{len(features)} features have {sizes} values for missing cells, means and scales")
        kinds = torch.tensor([_kind(feature) for feature in features], dtype=torch.int64)
        flags = [feature for feature in features if _kind(feature) == _FLAG]
        buffers = {
            "fill": scale.fill[kinds == _NUMBER],
            "gap_column": torch.tensor([one.column for one in features if _kind(one) == _GAP], dtype=torch.int64),
            "flag_fill": scale.fill[kinds == _FLAG],
            "flag_column": torch.tensor([flag.column for flag in flags], dtype=torch.int64),
            "flag_code": torch.tensor([flag.code for flag in flags], dtype=torch.int64),
            "order": _order(features),
            "mean": scale.mean,
            "scale": scale.scale,
        }
        for name, values in buffers.items():
            self.register_buffer(name, values)
        self.transforms = _by_column(columns, transforms)
        self.keeps_codes, self.has_flags = keeps_codes, bool(flags)
        self.is_scaled = bool((scale.mean != 0).any() or (scale.scale != 1).any())

    def forward(self, numbers: Tensor, categories: Tensor) -> Inputs:
        """Return the inputs of the model."""
        is_missing = numbers.isnan()
        values = transformed(torch.where(is_missing, self.fill, numbers), self.transforms)
        parts = [values]
        if len(self.gap_column):
            parts.append(is_missing.index_select(1, self.gap_column).to(values.dtype))
        if self.has_flags:
            codes = categories.index_select(1, self.flag_column)
            parts.append(torch.where(codes == 0, self.flag_fill, (codes == self.flag_code).to(values.dtype)))
        if len(parts) > 1:
            values = torch.cat(parts, dim=1).index_select(1, self.order)
        if self.is_scaled:
            values = (values - self.mean).div_(self.scale)
        return {"numbers": values, "categories": categories} if self.keeps_codes else values


def transformed(values: Tensor, transforms: nn.ModuleDict) -> Tensor:
    """Return numbers ``[B, K]`` with some columns transformed, by their number."""
    if not transforms:
        return values
    columns = list(values.unbind(dim=1))
    for number, transform in transforms.items():
        columns[int(number)] = transform(columns[int(number)])
    return torch.stack(columns, dim=1)


class Fitting(NamedTuple):
    """How to fit a preparation to training rows.

    Attributes:
        columns: The columns.
        ways: How to treat them.
        fills: How to fill in missing cells of each column of numbers.
        standardize: Whether the features are scaled.
        keeps_codes: Whether the model gets the codes of categories.
    """

    columns: Sequence[Column]
    ways: Ways
    fills: Sequence[str | float]
    standardize: bool
    keeps_codes: bool


def fit(fitting: Fitting, raw: Raw, train: Tensor, faults: Faults) -> tuple[Preparation, Scale]:
    """Return the preparation, and its scaling, by the rows of the training split, whose numbers are ``train``.

    A column without a mean, or one that cannot be scaled, is a fault.
    """
    features = features_of(fitting.columns, keeps_codes=fitting.keeps_codes)
    transforms, numbers = _fit_numbers(fitting, raw, train, faults)
    parts = [numbers]
    others = [*(one for one in features if _kind(one) == _GAP), *(one for one in features if _kind(one) == _FLAG)]
    for first in range(0, len(others), _FLAGS_AT_ONCE):
        some = others[first : first + _FLAGS_AT_ONCE]
        part = measure(_flag_rows(some, raw, train), _names(some), faults, is_scaled=fitting.standardize)
        part.fill[:] = torch.tensor(
            [
                value if one.is_filled else float(one.code == 0)
                for one, value in zip(some, part.fill.tolist(), strict=True)
            ],
            dtype=torch.float64,
        )
        parts.append(part)
    order = _order(features)
    fill, mean, scale = (
        torch.cat([getattr(part, name) for part in parts])[order] for name in ("fill", "mean", "scale")
    )
    whole = Scale(_names(features), fill, mean, scale)
    return Preparation(fitting.columns, whole, transforms, keeps_codes=fitting.keeps_codes), whole


def _fit_numbers(fitting: Fitting, raw: Raw, train: Tensor, faults: Faults) -> tuple[dict[str, nn.Module], Scale]:
    """Return the transforms and the scaling of the columns of numbers."""
    names = tuple(column.name for column in fitting.columns if column.levels is None)
    rows = raw.numbers.index_select(1, train)
    transforms = fit_transforms(names, rows, fitting.ways.transforms)
    fill = fill_in(rows, names, faults, fitting.fills)
    means = fill.clone()
    for number, (name, way) in enumerate(zip(names, fitting.fills, strict=True)):
        if name in transforms:
            rows[number] = transforms[name](rows[number])
        if name in transforms or way != "mean":
            means[number] = rows[number].mean()
    if not fitting.standardize:
        return transforms, unscaled(names, fill)
    return transforms, standardized(rows, names, fill, means, faults)


def fit_transforms(names: Sequence[str], rows: Tensor, uses: Mapping[str, Transform]) -> dict[str, nn.Module]:
    """Return the transforms of columns by name, from their training rows ``[K, N]``, in which cells may be missing."""
    return {
        name: fitted(uses[name], rows[number][~rows[number].isnan()])
        for number, name in enumerate(names)
        if name in uses and not rows[number].isnan().all()
    }


def prepared(preparation: Preparation, raw: Raw, rows: Tensor) -> Inputs:
    """Return the inputs of the rows whose numbers are ``rows``, prepared in parts to use little more memory."""
    whole: dict[str, Tensor] = {}
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[first : first + _ROWS_AT_ONCE]
        part = preparation(raw.numbers.index_select(1, some).T, raw.categories.index_select(1, some).T)
        for name, values in (part if isinstance(part, dict) else {"": part}).items():
            whole.setdefault(name, values.new_empty(len(rows), values.shape[1]))[first : first + len(some)] = values
    return whole if preparation.keeps_codes else whole[""]


_NUMBER, _GAP, _FLAG = range(3)


def _kind(feature: Feature) -> int:
    """Return whether a feature is a number, or says that one is missing, or stands for a level."""
    if feature.code is None:
        return _NUMBER
    return _GAP if feature.code == IS_MISSING else _FLAG


def _order(features: Sequence[Feature]) -> Tensor:
    """Return the place of each feature when numbers stand first, then the flags of missing ones, then the others."""
    return torch.tensor([_kind(feature) for feature in features]).long().argsort(stable=True).argsort()


def _names(features: Sequence[Feature]) -> tuple[str, ...]:
    return tuple(feature.name for feature in features)


def _by_column(columns: Sequence[Column], transforms: Mapping[str, nn.Module]) -> nn.ModuleDict:
    names = [column.name for column in columns if column.levels is None]
    return nn.ModuleDict({str(number): transforms[name] for number, name in enumerate(names) if name in transforms})


def _flag_rows(flags: Sequence[Feature], raw: Raw, rows: Tensor) -> Tensor:
    """Return 1 in the rows of which a feature is true, 0 in the others, and NaN where it gets the mean."""
    values = torch.empty(len(flags), len(rows), dtype=torch.float64)
    for row, flag in zip(values, flags, strict=True):
        if flag.code == IS_MISSING:
            row.copy_(raw.numbers[flag.column, rows].isnan())
            continue
        codes = raw.categories[flag.column, rows]
        row.copy_(codes.eq(flag.code or 0))
        if flag.is_filled:
            row.masked_fill_(codes.eq(0), torch.nan)
    return values
