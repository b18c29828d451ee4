"""Preparation of the columns of a table: from numbers and codes of categories to the inputs of a model.

The training, the predictor and exports use the same modules. Imported only when a table was read, because it needs
torch. Shapes: ``N`` rows of a table, ``B`` rows at once, ``K`` columns of numbers, ``C`` columns of categories, ``I``
input features, ``O`` targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from hookline_plugins.data.tables.features import Columns, Feature, features_of
from hookline_plugins.data.tables.scaling import Scale, measure

if TYPE_CHECKING:
    from hookline_plugins.data.faults import Faults


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
    """Fills in missing cells, makes a 0/1 feature of each level or keeps the codes, and standardizes.

    ``forward`` maps numbers, float64 ``[B, K]`` with NaN for missing cells, and codes of categories, int64 ``[B, C]``,
    to inputs: float64 ``[B, I]`` in the order of the columns, or with ``keeps_codes`` a mapping ``{"numbers": float64
    [B, K], "categories": int64 [B, C]}``. Where a code is 0, the features of its levels have the values for missing
    cells.

    Args:
        columns: The columns.
        scale: The values for missing cells, the means and the scales of the features; with ``keeps_codes`` those of the
            columns of numbers.
        keeps_codes: Whether the model gets the codes.
    """

    fill: Tensor
    flag_fill: Tensor
    flag_column: Tensor
    flag_code: Tensor
    order: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, columns: Columns, scale: Scale, *, keeps_codes: bool) -> None:
        super().__init__()
        features = features_of(columns, keeps_codes=keeps_codes)
        if sizes := {len(values) for values in (scale.fill, scale.mean, scale.scale)} - {len(features)}:
            raise ValueError(f"{len(features)} features have {sizes} values for missing cells, means and scales")
        flags = [feature for feature in features if feature.code is not None]
        is_flag = torch.tensor([feature.code is not None for feature in features], dtype=torch.bool)
        buffers = {
            "fill": scale.fill[~is_flag],
            "flag_fill": scale.fill[is_flag],
            "flag_column": torch.tensor([flag.column for flag in flags], dtype=torch.int64),
            "flag_code": torch.tensor([flag.code for flag in flags], dtype=torch.int64),
            "order": _order(features),
            "mean": scale.mean,
            "scale": scale.scale,
        }
        for name, values in buffers.items():
            self.register_buffer(name, values)
        self.keeps_codes, self.has_flags = keeps_codes, bool(flags)
        self.is_scaled = bool((scale.mean != 0).any() or (scale.scale != 1).any())

    def forward(self, numbers: Tensor, categories: Tensor) -> Inputs:
        """Return the inputs of the model."""
        values = torch.where(numbers.isnan(), self.fill, numbers)
        if self.has_flags:
            codes = categories.index_select(1, self.flag_column)
            flags = torch.where(codes == 0, self.flag_fill, (codes == self.flag_code).to(values.dtype))
            values = torch.cat([values, flags], dim=1).index_select(1, self.order)
        if self.is_scaled:
            values = (values - self.mean).div_(self.scale)
        return {"numbers": values, "categories": categories} if self.keeps_codes else values


def fit(columns: Columns, raw: Raw, train: Tensor, faults: Faults, *, standardize: bool, keeps_codes: bool) -> Scale:
    """Return the values for missing cells, the means and the scales of the training rows.

    Args:
        columns: The columns.
        raw: Their cells.
        train: The numbers of the training rows, int64.
        faults: Gets a fault for each column that has no mean or cannot be scaled.
        standardize: Whether the features are scaled.
        keeps_codes: Whether the model gets the codes of categories.
    """
    features = features_of(columns, keeps_codes=keeps_codes)
    names = tuple(feature.name for feature in features if feature.code is None)
    parts = [measure(raw.numbers.index_select(1, train), names, faults, is_scaled=standardize)]
    flags = [feature for feature in features if feature.code is not None]
    for first in range(0, len(flags), _FLAGS_AT_ONCE):
        some = flags[first : first + _FLAGS_AT_ONCE]
        parts.append(
            measure(_flag_rows(some, raw, train), tuple(flag.name for flag in some), faults, is_scaled=standardize)
        )
    order = _order(features)
    fill, mean, scale = (
        torch.cat([getattr(part, name) for part in parts])[order] for name in ("fill", "mean", "scale")
    )
    return Scale(tuple(feature.name for feature in features), fill, mean, scale)


def prepared(preparation: Preparation, raw: Raw, rows: Tensor) -> Inputs:
    """Return the inputs of the rows whose numbers are ``rows``, prepared in parts to use little more memory."""
    whole: dict[str, Tensor] = {}
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[first : first + _ROWS_AT_ONCE]
        part = preparation(raw.numbers.index_select(1, some).T, raw.categories.index_select(1, some).T)
        for name, values in (part if isinstance(part, dict) else {"": part}).items():
            whole.setdefault(name, values.new_empty(len(rows), values.shape[1]))[first : first + len(some)] = values
    return whole if preparation.keeps_codes else whole[""]


def _order(features: Sequence[Feature]) -> Tensor:
    """Return the place of each feature when all numbers stand before all flags."""
    return torch.tensor([feature.code is not None for feature in features]).long().argsort(stable=True).argsort()


def _flag_rows(flags: Sequence[Feature], raw: Raw, rows: Tensor) -> Tensor:
    """Return 1 in the rows of a level, 0 in those of others, and NaN where the cell is missing."""
    values = torch.empty(len(flags), len(rows), dtype=torch.float64)
    for row, flag in zip(values, flags, strict=True):
        codes = raw.categories[flag.column, rows]
        row.copy_(codes.eq(flag.code or 0)).masked_fill_(codes.eq(0), torch.nan)
    return values
