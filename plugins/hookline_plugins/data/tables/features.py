"""The input features that the columns of a table become, and their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hookline_plugins.data.faults import Faults

Levels = Sequence[str] | None
"""The values of a column of categories in the order of their codes; None for a column of numbers."""
Columns = Sequence[tuple[str, Levels]]
"""The names of the columns of a file with their levels."""

DATE_PARTS = ("days", "year", "month", "day", "weekday", "hour")
"""The features that replace a date: days since 1970-01-01 with their fraction, and the parts of the calendar."""
TIME_PARTS = ("hours",)
"""The feature that replaces a time of day: hours since midnight, with their fraction."""

_CALENDAR = re.compile(r"%[-_]?[YyGCmbBhdejDFUWVsc]")

IS_MISSING = -1
"""``Feature.code`` of a feature that says whether the cell of a column of numbers is missing."""


class Column(NamedTuple):
    """A column of numbers, or one of categories.

    Attributes:
        name: Its name.
        levels: The levels of its categories.
        has_other: Whether it has a feature for all cells that have none of its levels.
        flag: The name of the 0/1 feature that says whether a number is missing; empty for none.
    """

    name: str
    levels: Levels = None
    has_other: bool = False
    flag: str = ""


class Feature(NamedTuple):
    """An input feature: a column of numbers, or 0 and 1.

    Attributes:
        name: Its name.
        column: The number of its column among those of numbers, or among those of categories.
        code: The code of the level that it stands for, 0 for all others, ``IS_MISSING``; None for numbers.
        is_filled: Whether it has the mean of the training split where the code is 0.
    """

    name: str
    column: int
    code: int | None = None
    is_filled: bool = False


def parts_of(form: str) -> tuple[str, ...]:
    """Return the features that replace a column of dates, or of times if its form has no part of the calendar.

    >>> parts_of("%H:%M")
    ('hours',)
    """
    return DATE_PARTS if not form or _CALENDAR.search(form) else TIME_PARTS


def expanded(read: Columns, dates: Mapping[str, str], others: Collection[str], flags: Collection[str]) -> list[Column]:
    """Return the columns as they were read, each part of a date as one of numbers.

    Args:
        read: The names of the columns of the file with their levels.
        dates: The forms of columns of dates.
        others: The columns of categories with a feature for other values.
        flags: The columns of numbers and dates with a feature for missing cells.
    """
    columns: list[Column] = []
    for name, levels in read:
        parts = [f"{name}.{part}" for part in parts_of(dates[name])] if name in dates else [name]
        columns += [Column(part, levels, name in others) for part in parts]
        if name in flags:
            columns[-1] = columns[-1]._replace(flag=f"{name}.missing")
    return columns


def features_of(columns: Sequence[Column], *, keeps_codes: bool) -> list[Feature]:
    """Return the features in the order of the columns; columns whose codes are kept have none."""
    numbers = iter(range(len(columns)))
    categories = iter(range(len(columns)))
    return [
        feature
        for column in columns
        for feature in (
            _of_numbers(column, next(numbers))
            if column.levels is None
            else _of_categories(column, column.levels, next(categories), keeps_codes=keeps_codes)
        )
    ]


def _of_numbers(column: Column, number: int) -> Iterator[Feature]:
    yield Feature(column.name, number)
    if column.flag:
        yield Feature(column.flag, number, IS_MISSING)


def _of_categories(column: Column, levels: Sequence[str], number: int, *, keeps_codes: bool) -> Iterator[Feature]:
    if not keeps_codes:
        for code, level in enumerate(levels, start=1):
            yield Feature(f"{column.name}={level}", number, code, not column.has_other)
        if column.has_other:
            yield Feature(f"{column.name}.other", number, 0)


def feature_names(columns: Sequence[Column], *, keeps_codes: bool) -> tuple[str, ...]:
    """Return the names of all features; those of columns whose codes are kept are the last ones."""
    names = [feature.name for feature in features_of(columns, keeps_codes=keeps_codes)]
    return (*names, *(column.name for column in columns if keeps_codes and column.levels is not None))


def source_columns(
    read: Columns, dates: Mapping[str, str], others: Collection[str], flags: Collection[str], *, keeps_codes: bool
) -> Sequence[str] | Mapping[str, Sequence[str]]:
    """Return the column of the file that each input feature stems from; by input, if codes are kept.

    The arguments are those of ``expanded``.
    """
    features = [
        name
        for name, levels in read
        for _ in features_of(expanded([(name, levels)], dates, others, flags), keeps_codes=keeps_codes)
    ]
    if not keeps_codes:
        return features
    return {"numbers": features, "categories": [name for name, levels in read if levels is not None]}


def check_different(names: tuple[str, ...], faults: Faults) -> None:
    """Refuse features of the same name: a column ``c=red`` beside the category ``red`` of a column ``c``."""
    for name, count in Counter(names).items():
        if count > 1:
            faults.add(f"{count} features would be named {name!r}", hint="rename one of the columns, or leave it out")
