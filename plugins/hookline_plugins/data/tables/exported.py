"""Columns of a file as the inputs of an exported model.

Imported only for exports, because it needs torch. Shapes: ``B`` rows, ``K`` columns of numbers, ``C`` columns of
categories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hookline.trained import RawInput, TableForm
from hookline_plugins.data.exported import invented
from hookline_plugins.data.tables.columns import BOOLEANS
from hookline_plugins.data.tables.features import DATE_PARTS, TIME_PARTS, parts_of
from hookline_plugins.data.tables.preparation import Raw

if TYPE_CHECKING:
    from hookline_plugins.data.tables.features import Columns, Levels
    from hookline_plugins.data.tables.files.format import TableFormat
    from hookline_plugins.data.tables.preparation import Inputs, Preparation

_DAY_US, _HOUR_US = 86_400_000_000, 3_600_000_000

_OTHER_FORMS = {"%F": "%Y-%m-%d", "%T": "%H:%M:%S", "%R": "%H:%M", "%D": "%m/%d/%y", "%e": "%d", "%.f": ".%f"}
"""Forms of dates that polars knows (https://docs.rs/chrono/latest/chrono/format/strftime), and those of Python."""


class RawColumns(nn.Module):
    """Maps columns of a file, each ``[B]``, to the inputs of a model.

    Args:
        columns: The columns with their levels.
        dates: The columns that are dates.
        preparation: Maps numbers, float64 ``[B, K]``, and codes, int64 ``[B, C]``, to inputs.
    """

    def __init__(self, columns: Columns, dates: Mapping[str, str], preparation: Preparation) -> None:
        super().__init__()
        self._columns, self._dates, self.preparation = columns, dates, preparation

    def forward(self, inputs: Mapping[str, Tensor]) -> Inputs:
        """Return the inputs of the model."""
        numbers, codes = [], []
        for name, levels in self._columns:
            if name in self._dates:
                numbers += parts_of_dates(inputs[name])
            elif levels is None:
                numbers.append(inputs[name])
            else:
                codes.append(inputs[name])
        found: Inputs = self.preparation(_stacked(numbers, codes).double(), _stacked(codes, numbers).long())
        return found


def _stacked(columns: list[Tensor], others: list[Tensor]) -> Tensor:
    """Return columns as one tensor; with the length of the others if there are none."""
    return torch.stack(columns, dim=1) if columns else others[0].unsqueeze(1)[:, :0]


def parts_of_dates(days: Tensor) -> list[Tensor]:
    """Return the ``DATE_PARTS`` of dates, which are days since 1970-01-01; NaN for a missing one.

    The calendar is computed as in https://howardhinnant.github.io/date_algorithms.html (``civil_from_days``).

    >>> [part.item() for part in parts_of_dates(torch.tensor([11016.5], dtype=torch.float64))]
    [11016.5, 2000.0, 2.0, 29.0, 2.0, 12.0]
    """
    is_missing = days.isnan()
    time = (days.where(~is_missing, 0.0) * _DAY_US).round().long()
    day = time // _DAY_US
    shifted = day + 719_468  # days since 0000-03-01
    era = shifted // 146_097  # 400 years
    in_era = shifted - era * 146_097
    year = (in_era - in_era // 1460 + in_era // 36_524 - in_era // 146_096) // 365
    in_year = in_era - (365 * year + year // 4 - year // 100)
    month = (5 * in_year + 2) // 153  # from March
    is_next = (month >= 10).long()
    parts = {
        "year": year + era * 400 + is_next,
        "month": month + 3 - 12 * is_next,
        "day": in_year - (153 * month + 2) // 5 + 1,
        "weekday": (day + 3).remainder(7) + 1,
        "hour": (time - day * _DAY_US) // _HOUR_US,
    }
    return [days, *(parts[name].double().where(~is_missing, torch.nan) for name in DATE_PARTS[1:])]


def raw_input(name: str, levels: Levels, form: str | None, *, is_boolean: bool) -> RawInput:
    """Return the description of a column: of numbers, of categories, of words for true and false, of dates or times."""
    if levels is not None:
        return RawInput(name, "text", levels=tuple(levels))
    if form is None:
        return RawInput(name, words=BOOLEANS if is_boolean else {})
    if parts_of(form) == TIME_PARTS:
        return RawInput(name, time=_python_form(form))
    return RawInput(name, date=_python_form(form))


def columns_of(columns: Columns, dates: Mapping[str, str], raw: Raw) -> dict[str, Tensor]:
    """Return rows as ``RawColumns`` takes them."""
    numbers, codes = iter(raw.numbers), iter(raw.categories)
    found = {}
    for name, levels in columns:
        found[name] = next(numbers if levels is None else codes)
        for _ in DATE_PARTS[1:] if name in dates else ():
            next(numbers)
    return found


def invented_columns(
    columns: Columns, dates: Mapping[str, str], preparation: Preparation, count: int
) -> dict[str, Tensor]:
    """Return rows that might be in a file: numbers near the values for missing cells, and each level in turn."""
    typical = preparation.fill.unsqueeze(1)
    numbers = typical + typical.abs().clamp(min=1.0) * invented((len(typical), count), torch.float64) / 10
    sizes = [len(levels) + 1 for _, levels in columns if levels is not None]
    codes = torch.arange(count).expand(len(sizes), count) % torch.tensor(sizes).reshape(-1, 1)
    return columns_of(columns, dates, Raw(numbers, codes))


def table_form(form: TableFormat, *, leaves_empty: bool) -> TableForm:
    """Return how the cells of a file are written."""
    same = {one.name: getattr(form, one.name) for one in fields(TableForm) if hasattr(form, one.name)}
    return TableForm(**{**same, "units": dict(form.units), "leaves_empty": leaves_empty})


def _python_form(form: str) -> str:
    for short, long in _OTHER_FORMS.items():
        form = form.replace(short, long)
    return form
