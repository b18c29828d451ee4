"""Kinds of columns: numbers, text, dates; their different values, and how to show one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from hookline_plugins.data.tables.files.sheet import as_numbers, polars

if TYPE_CHECKING:
    from collections.abc import Iterable

    import polars as pl

    from hookline_plugins.data.tables.files.format import TableFormat


def kind_of(column: pl.Series, form: TableFormat) -> Literal["numbers", "text", "other"]:
    """Return the kind of a column's values; a text column is numbers if most of its cells are."""
    pl = polars()
    if column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Time, pl.Duration):
        return "numbers"
    if column.dtype in (pl.Categorical, pl.Enum):
        return "text"
    if column.dtype != pl.String:
        return "other"
    num_words = as_numbers(column, form).null_count() - column.null_count()
    return "text" if 2 * num_words > len(column) - column.null_count() else "numbers"


def first_fraction(column: pl.Series, numbers: pl.Series) -> float | None:
    """Return the first value that is not a whole number; None if all are whole, or if some are not numbers."""
    if numbers.null_count() > column.null_count():
        return None
    fractions = numbers.filter((numbers != numbers.floor()) | ~numbers.is_finite())
    return None if fractions.is_empty() else float(fractions[0])


def whole_texts(column: pl.Series) -> pl.Series:
    """Return the values of a column as text, whole numbers without a fraction: ``1.0`` is ``1``, ``007`` remains."""
    text_type = polars().String
    if column.dtype.is_float() or column.dtype.is_decimal():
        column = column.cast(polars().Float64)
    return column.cast(text_type).str.replace(r"^([+-]?\d+)\.0*$", "$1")


def distinct(column: pl.Series) -> list[str]:
    """Return a column's different values as text, sorted; as numbers if all are whole numbers."""
    values: list[str] = column.cast(polars().String).drop_nulls().unique().to_list()
    return sorted(values, key=lambda value: (int(value), value)) if are_whole(values) else sorted(values)


def are_whole(values: Iterable[str]) -> bool:
    """Return whether all texts are whole numbers."""
    return all(re.fullmatch(r"[+-]?[0-9]+", value) for value in values)


def show(value: object) -> str:
    """Return a value as text for a message."""
    text = repr(str(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
