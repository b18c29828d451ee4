"""The input features that the columns of a table become, and their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hookline_plugins.data.faults import Faults

Levels = Sequence[str] | None
"""The values of a column of categories in the order of their codes; None for a column of numbers."""
Columns = Sequence[tuple[str, Levels]]
"""The names of columns with their levels."""

DATE_PARTS = ("days", "year", "month", "day", "weekday", "hour")
"""The features that replace a date: days since 1970-01-01 with their fraction, and the parts of the calendar."""


class Feature(NamedTuple):
    """An input feature: a column of numbers, or 0 and 1 for one level of a column of categories.

    Attributes:
        name: Its name.
        column: The number of its column among those of numbers, or among those of categories.
        code: The code of the level; None for numbers.
    """

    name: str
    column: int
    code: int | None = None


def with_date_parts(columns: Columns, dates: Collection[str]) -> list[tuple[str, Levels]]:
    """Return columns with a column of numbers for each part of a date in place of the date."""
    return list(_with_date_parts(columns, dates))


def _with_date_parts(columns: Columns, dates: Collection[str]) -> Iterator[tuple[str, Levels]]:
    for name, levels in columns:
        if name in dates:
            yield from ((f"{name}.{part}", None) for part in DATE_PARTS)
        else:
            yield name, levels


def features_of(columns: Columns, *, keeps_codes: bool) -> list[Feature]:
    """Return the features in the order of the columns; columns whose codes are kept have none."""
    features, num_numbers, num_categories = list[Feature](), 0, 0
    for name, levels in columns:
        if levels is None:
            features.append(Feature(name, num_numbers))
            num_numbers += 1
            continue
        if not keeps_codes:
            features += [Feature(f"{name}={level}", num_categories, code) for code, level in enumerate(levels, 1)]
        num_categories += 1
    return features


def feature_names(columns: Columns, *, keeps_codes: bool) -> tuple[str, ...]:
    """Return the names of all features; those of columns whose codes are kept are the last ones."""
    names = [feature.name for feature in features_of(columns, keeps_codes=keeps_codes)]
    return (*names, *(name for name, levels in columns if keeps_codes and levels is not None))


def source_columns(
    columns: Columns, dates: Collection[str], *, keeps_codes: bool
) -> Sequence[str] | Mapping[str, Sequence[str]]:
    """Return the column of the file that each input feature stems from; by input, if codes are kept."""
    numbers = [(name, len(DATE_PARTS) if name in dates else 1) for name, levels in columns if levels is None]
    if keeps_codes:
        categories = [name for name, levels in columns if levels is not None]
        return {"numbers": [name for name, width in numbers for _ in range(width)], "categories": categories}
    widths = {name: len(levels or ()) for name, levels in columns} | dict(numbers)
    return [name for name, width in widths.items() for _ in range(width)]


def check_different(names: tuple[str, ...], faults: Faults) -> None:
    """Refuse features of the same name: a column ``c=red`` beside the category ``red`` of a column ``c``."""
    for name, count in Counter(names).items():
        if count > 1:
            faults.add(f"{count} features would be named {name!r}", hint="rename one of the columns, or leave it out")
