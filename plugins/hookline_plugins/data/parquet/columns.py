"""Columns of Parquet files as features and targets: expressions that polars computes when it reads a block.

Shapes: ``I`` input features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hookline_plugins.data.tables.features import DATE_PARTS, TIME_PARTS, parts_of
from hookline_plugins.data.tables.files.sheet import polars

if TYPE_CHECKING:
    import polars as pl

    from hookline_plugins.data.tables.scaling import Scale


@dataclass(frozen=True)
class Column:
    """A column of the files, and what is made of it.

    Attributes:
        name: Its name.
        date_form: The form of a date or time of the day, which becomes its parts; None for numbers and categories.
        is_text: Whether the date or time is text.
        codes: The number of the category of each value; None for numbers and dates.
        categories: The names of the categories.
    """

    name: str
    date_form: str | None = None
    is_text: bool = False
    codes: dict[Any, int] | None = field(default=None, hash=False)
    categories: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        """The names of what is made of it."""
        if self.date_form is not None:
            return [f"{self.name}.{part}" for part in parts_of(self.date_form)]
        return [self.name] if self.codes is None else [f"{self.name}={category}" for category in self.categories]

    def values(self, *, has_missing: bool = True) -> list[pl.Expr]:
        """Return the numbers that are made of it, float64; a missing cell is null, where there are any."""
        pl = polars()
        if self.date_form is not None:
            return [part.cast(pl.Float64) for part in self._date_parts()]
        if self.codes is None:
            numbers = pl.col(self.name).cast(pl.Float64)
            return [numbers.fill_nan(None) if has_missing else numbers]
        code = self.code()
        return [(code == number).cast(pl.Float64) for number in range(len(self.categories))]

    def code(self) -> pl.Expr:
        """Return the number of the category, int64; null for a missing cell."""
        assert self.codes is not None, "it has categories"
        values, numbers = list(self.codes), list(self.codes.values())
        column = polars().col(self.name)
        code: pl.Expr = column.replace_strict(values, numbers, default=None, return_dtype=polars().Int64)
        return code

    def _date_parts(self) -> list[pl.Expr]:
        pl = polars()
        assert self.date_form is not None, "it is a date"
        dates = pl.col(self.name)
        if parts_of(self.date_form) == TIME_PARTS:
            times = dates.str.to_time(self.date_form, strict=False) if self.is_text else dates
            return [times.cast(pl.Int64).cast(pl.Float64) / 3600e9]
        if self.is_text:
            dates = dates.str.to_datetime(self.date_form, strict=False, time_unit="us", ambiguous="null")
        dates = dates.cast(pl.Datetime("us"))
        days = dates.dt.epoch("us").cast(pl.Float64) / 86_400e6
        return [days, *(getattr(dates.dt, part)() for part in DATE_PARTS[1:])]


def scaled(columns: Sequence[Column], scale: Scale, dtype: str, *, prefix: str, has_missing: bool) -> list[pl.Expr]:
    """Return what is made of columns, scaled, in the dtype of the run; named by number behind ``prefix``.

    Missing cells are filled in; without any, only what is needed is computed.
    """
    pl = polars()
    target = pl.Float32 if dtype == "float32" else pl.Float64
    values = [value for column in columns for value in column.values(has_missing=has_missing)]
    rules = zip(values, scale.fill.tolist(), scale.mean.tolist(), scale.scale.tolist(), strict=True)
    made = []
    for number, (value, fill, mean, deviation) in enumerate(rules):
        filled = value.fill_null(fill) if has_missing else value
        moved = filled if (mean, deviation) == (0, 1) else (filled - mean) / deviation
        made.append(moved.cast(target).alias(f"{prefix}{number}"))
    return made
