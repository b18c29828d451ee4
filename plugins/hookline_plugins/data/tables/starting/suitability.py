"""Columns of a table that a first run can use, and the reasons why it leaves out the others."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hookline_plugins.data.tables.columns import are_booleans, parsed
from hookline_plugins.data.tables.files.sheet import Sheet, as_numbers, polars
from hookline_plugins.data.tables.kinds import distinct, kind_of, show, whole_texts

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl


_FEW_CATEGORIES = 20
_MAX_CATEGORIES = 200
"""A text column with more different values is left out: it more likely holds names or remarks than categories."""
_ROWS_OF_CATEGORY = 5
"""Rows that each category has on average, if there are more than a few."""
_MAX_CLASSES = 10
"""Different whole numbers that may be classes; with more they are quantities."""
_MAX_FAULTY = 0.05
"""Share of words in a column of numbers that may be faults; with more it holds text."""
_MIN_VALUES = 10
"""Values that a column must have, or in half of the rows, so that each split has some."""

_DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%d.%m.%Y", "%Y/%m/%d")
_AMBIGUOUS_DATES = ("%d/%m/%Y", "%m/%d/%Y")
_TIMES = ("%H:%M", "%H:%M:%S")
_CURRENCIES = "USD|EUR|GBP|CHF|JPY|CNY|INR|AUD|CAD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|RON|BRL|MXN|ZAR|KRW|SGD|HKD|TRY|ILS|THB"
_WITH_UNIT = (
    rf"^[+-]?\s*([A-Z]{{0,2}}\p{{Sc}}|{_CURRENCIES})?\s*"
    r"[+-]?\d([\d.,'\s]*\d)?\s*(%|[A-Z]{0,2}\p{Sc}|[A-Za-z°µ/²³]{1,6})?$"
)
_IDENTIFIER = re.compile(
    r"(.*[_ .-])?(id|idx|index|uuid|guid)|unnamed: \d+|__index_level_\d+__|.*[a-z]ID|Id|ID", re.ASCII
)
_CODE = re.compile(r"\b(zip|plz|post(al)?_?code|zip_?code|code|type|kind|category|district|region|group|class)\b")
_SENTINELS = (-999, -9999, -99999, -99, 999, 9999, 99999)


@dataclass(frozen=True)
class Usable:
    """A column that can be a feature or a target.

    Attributes:
        column: Its values.
        kind: How to treat it.
        date: The form of its dates, or times of the day.
        doubt: The reason to leave it out if there are enough others; empty for none.
    """

    column: pl.Series
    kind: Literal["numbers", "categories", "dates"]
    date: str = ""
    doubt: str = ""

    @property
    def name(self) -> str:
        """The name of the column."""
        return self.column.name

    @property
    def has_levels(self) -> bool:
        """Whether each of its values is a level, as two words are; words for true and false in any case are numbers.

        Two words could be numbers as well, but the model is better with levels on four of nine tables of
        ``tests/benchmarks/real_tables.py``, by up to a seventh, and as good on two.
        """
        return self.kind == "categories" and not (self.num_values > 2 and are_booleans(self.column))

    @property
    def num_values(self) -> int:
        """The number of its different values."""
        return self.column.drop_nulls().n_unique()

    def may_be_classes(self, sheet: Sheet) -> bool:
        """Return whether its values are words, 0 and 1, or a few whole numbers that each occur often."""
        if self.kind == "categories":
            return True
        numbers = as_numbers(self.column.drop_nulls(), sheet.form)
        if (numbers != numbers.floor()).any():
            return False
        values = numbers.unique()
        return set(values) <= {0.0, 1.0} or (
            len(values) <= _MAX_CLASSES and len(numbers) >= _ROWS_OF_CATEGORY * len(values)
        )


def judge(sheet: Sheet, name: str) -> Usable | str:
    """Return a column as one that can be used, or the reason why it is left out."""
    if not name:
        return "it has no name"
    column = sheet.column(name)
    if reason := _lack_of_values(column):
        return reason
    kind = kind_of(column, sheet.form)
    if kind == "numbers":
        return _judge_numbers(sheet, column)
    if kind == "other":
        is_date = column.dtype.is_temporal() and column.dtype not in (polars().Time, polars().Duration)
        return Usable(column, "dates") if is_date else f"it holds values of type {column.dtype}"
    return _judge_text(column, column.drop_nulls())


def _lack_of_values(column: pl.Series) -> str:
    present = column.drop_nulls()
    if present.is_empty():
        return "it has no values"
    if len(present) < min(_MIN_VALUES, (len(column) + 1) // 2):
        return f"it has only {len(present)} value{'s' * (len(present) != 1)} in {len(column)} rows"
    if not column.dtype.is_nested() and (present == present[0]).all():
        return f"it never changes: {whole_texts(present.head(1))[0]} in all rows"
    return ""


def _judge_numbers(sheet: Sheet, column: pl.Series) -> Usable | str:
    numbers = as_numbers(column, sheet.form)
    texts = column.drop_nulls() if column.dtype == polars().String else None
    if texts is not None and texts.str.contains(r"^0\d").any():
        return _judge_text(column, texts)
    if numbers.null_count() - column.null_count() > _MAX_FAULTY * len(column):
        return _judge_text(column, column.drop_nulls())
    values = numbers.drop_nulls()
    if column.name.startswith("__index_level_"):
        return "it is the index that pandas writes"
    deviation = values.to_frame().select(polars().all().std(ddof=0)).item()
    if values.is_finite().all() and not math.isfinite(deviation):
        return "its numbers are too large to be standardized"
    return Usable(column, "numbers", doubt=_doubt_of_numbers(column.name, values, len(column)))


def _doubt_of_numbers(name: str, values: pl.Series, num_rows: int) -> str:
    if len(values) < num_rows:
        return ""
    if len(values) > 2 and values[0] in (0, 1) and (values.diff().drop_nulls() == 1).all():
        return f"it looks like an identifier: {values[0]:.0f}, {values[1]:.0f}, {values[2]:.0f}, ..."
    if _IDENTIFIER.fullmatch(name if name.isupper() else name.lower()) and values.n_unique() == num_rows:
        return "it looks like an identifier: its name, and a different value in each row"
    return ""


def _judge_text(column: pl.Series, present: pl.Series) -> Usable | str:
    dates = [form for form in (*_DATES, *_TIMES) if _are_dates(present, form)]
    either = [form for form in _AMBIGUOUS_DATES if _are_dates(present, form)]
    if len(either) == 2:
        return "it may hold dates with the day or the month first: list it in `dates` with its form, such as '%d/%m/%Y'"
    if dates or either:
        return Usable(column, "dates", (dates or either)[0])
    count = present.n_unique()
    if unit := " and ".join(map(show, _units(present))):
        return f"it holds numbers with several units, such as {unit}: write plain numbers to use it"
    limit = min(_FEW_CATEGORIES, len(present) // 2), min(_MAX_CATEGORIES, len(present) // _ROWS_OF_CATEGORY)
    if count > max(limit):
        return f"it holds text with {count:,} different values in {len(present):,} rows"
    return Usable(column, "categories")


def _are_dates(texts: pl.Series, form: str) -> bool:
    if texts.dtype != polars().String:
        return False
    return parsed(texts, form).null_count() == 0


def unit_of(texts: pl.Series) -> str:
    """Return the unit that stands before or after each number of a text column; empty if there is not exactly one."""
    units = _units(texts)
    return units[0] if len(units) == 1 else ""


def _units(texts: pl.Series) -> list[str]:
    """Return up to three units of a text column of numbers; none if some cells are not a number with a unit."""
    if texts.dtype != polars().String or not texts.str.contains(_WITH_UNIT).all():
        return []
    units = texts.str.replace_all(r"[\d.,'+\-\s]", "").unique(maintain_order=True).head(3).to_list()
    return [] if "" in units else units


def doubts(sheet: Sheet, usable: Usable) -> Iterator[str]:
    """Yield what a person should look at in a column that is used."""
    if usable.has_levels:
        yield from _doubts_of_categories(usable)
    if usable.kind == "numbers":
        numbers = as_numbers(usable.column, sheet.form).drop_nulls()
        if _CODE.search(usable.name.lower()) and (numbers == numbers.floor()).all():
            yield f"{usable.name}: whole numbers; if they stand for categories, list it in `one_hot`"
        for sentinel in _SENTINELS:
            if _is_far_off(numbers, sentinel):
                count = int((numbers == sentinel).sum())
                times = "once" if count == 1 else f"{count} times"
                hint = f"if it stands for a missing value, set missing_numbers = [{sentinel}]"
                yield f"{usable.name}: {sentinel} occurs {times}, far from all other values; {hint}"


def _doubts_of_categories(usable: Usable) -> Iterator[str]:
    values = distinct(usable.column)
    same: dict[str, list[str]] = {}
    for value in values:
        same.setdefault(value.casefold(), []).append(value)
    for spellings in same.values():
        if len(spellings) > 1:
            yield f"{usable.name}: {', '.join(map(show, spellings))} differ only by case, and are different values"


def _is_far_off(numbers: pl.Series, value: int) -> bool:
    """Return whether a number occurs at a distance from all others that is larger than their range."""
    if not (numbers == value).any():
        return False
    others = numbers.filter(numbers != value)
    if others.is_empty():
        return False
    low, high = float(others.min()), float(others.max())  # type: ignore[arg-type] # they are numbers
    return (low - value if value < low else value - high) > max(high - low, abs(high) / 2, abs(low) / 2)
