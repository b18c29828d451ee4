"""Columns of a table as numbers, categories and classes; every faulty cell is found."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hookline_plugins.data.faults import LISTED, Cell, Faults
from hookline_plugins.data.tables.features import DATE_PARTS, TIME_PARTS, parts_of
from hookline_plugins.data.tables.files.sheet import Sheet, as_numbers, polars
from hookline_plugins.data.tables.kinds import are_whole, distinct, first_fraction, kind_of, show, whole_texts
from hookline_plugins.data.tables.ways import Ways

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor


MAX_CATEGORIES = 1000
"""Largest number of categories of a one-hot column: with more it is an identifier, and would fill the memory."""

_FILL_HINT = "fill it in, or set `missing` to 'drop' or 'mean'"
_BOOLEANS = (("false", "true"), ("no", "yes"), ("f", "t"), ("n", "y"))
"""Words for 0 and 1, in any case."""
BOOLEANS = {"0": 0.0, "1": 1.0} | {word: float(value) for pair in _BOOLEANS for value, word in enumerate(pair)}
"""The numbers of cells of a column of such words."""
_LIMITS = {"log": (0, "has no logarithm"), "log1p": (-1, "plus 1 has no logarithm")}
"""Largest number that a transform does not accept, and the reason."""
_LARGEST = "the largest number is about 1.8e308"
_DECIMAL_COMMA = re.compile(r"[+-]?[\d.]*,\d+")


@dataclass(frozen=True)
class Reader:
    """Reader of the columns of a sheet; faulty cells are added to ``faults`` and returned as null.

    Attributes:
        sheet: The table.
        faults: The faults found so far.
        ways: How to treat the columns; missing cells are faults where the way is ``error``.
        problems: The reasons why rows are faulty, by their number in the file; if given, faulty cells go there.
        booleans: The features that hold words for true and false.
    """

    sheet: Sheet
    faults: Faults
    ways: Ways
    problems: dict[int, str] | None = None
    booleans: list[str] = field(default_factory=list)

    def feature(self, name: str) -> pl.Series:
        """Return a column of numbers, float64; words for true and false are 1 and 0."""
        column = self.sheet.column(name)
        if self._is_present(column, _FILL_HINT, refuse=self._is_refused(name)):
            if column.dtype == polars().Boolean or are_booleans(column):
                self.booleans.append(name)
                return _from_booleans(column)
            return self._numbers(column, "list it in `one_hot`, or list only the other columns in `features`")
        return _nothing(column)

    def target(self, name: str) -> pl.Series:
        """Return a column of numbers to predict, float64."""
        column = self.sheet.column(name)
        if self._is_target_present(column):
            return self._numbers(column, "to predict text, set task = 'classification' or 'binary'")
        return _nothing(column)

    def fill_hint(self, name: str) -> str | None:
        """Return the hint for a missing cell of a feature; None if it is no fault."""
        return _FILL_HINT if self._is_refused(name) else None

    def _is_refused(self, name: str) -> bool:
        return self.ways.missing_of(name) == "error"

    def dates(self, name: str, form: str, missing_hint: str | None) -> list[pl.Series]:
        """Return a column for each feature that replaces a date or time of the form, float64."""
        pl = polars()
        column = self.sheet.column(name)
        if missing_hint:
            self._add_cells(column, column.is_null(), missing_hint)
        is_time = parts_of(form) == TIME_PARTS
        what = "a time" if is_time else "a date"
        if column.dtype == pl.String:
            dates = parsed(column, form)
            hint = f"{what} of the form {form!r} is expected"
            self._add_cells(
                column,
                column.is_not_null() & dates.is_null(),
                describe=lambda value: (f"{show(value)} is not {what}", hint),
            )
        elif may_hold(column.dtype, form):
            dates = column if is_time else column.cast(pl.Datetime("us"))
        else:
            self.faults.add(f"column {name!r} holds values of type {column.dtype}, not {what[2:]}s")
            return []
        return [values.alias(f"{name}.{part}") for part, values in _date_parts(dates, is_time=is_time).items()]

    def codes(self, name: str) -> tuple[pl.Series, list[str], bool]:
        """Return the code of each row, int64, the levels, and whether others are rare: 1 is the first level.

        A missing cell and a rare category have no code. The levels are those of the whole file. Otherwise the number of
        features would depend on the split, and a model trained with one seed would not fit the data of another.
        """
        column = self.sheet.column(name)
        if not self._is_present(column, _FILL_HINT, refuse=self._is_refused(name)):
            return _nothing(column), [], False
        labels = self._labels(column, "remove it from `one_hot`: numbers can be features directly")
        every = distinct(labels)
        levels = self._frequent(labels, every)
        if len(levels) > MAX_CATEGORIES:
            message = f"column {name!r} has {len(levels):,} different values; `one_hot` allows {MAX_CATEGORIES:,}"
            self.faults.add(message, hint="leave it out of `features`, or set `max_categories`")
            return _nothing(column), [], False
        return _codes(labels, levels), levels, len(levels) < len(every)

    def _frequent(self, labels: pl.Series, levels: list[str]) -> list[str]:
        """Return the levels that are not rare; of equally frequent ones, the last ones are kept."""
        present = labels.drop_nulls()
        counts = dict(present.value_counts().iter_rows())
        least = self.ways.min_frequency
        least = least * len(present) if least < 1 else least
        kept = [level for level in levels if counts[level] >= least]
        most = self.ways.max_categories
        if most is None or len(kept) + 1 <= most:
            return kept
        frequent = set(sorted(levels, key=lambda level: counts[level])[len(levels) - most + 1 :])
        return [level for level in kept if level in frequent]

    def classes(self, name: str, *, is_binary: bool) -> tuple[pl.Series, tuple[str, ...]]:
        """Return the class index of each row, int64, and the names of the classes: the sorted values of the file."""
        column = self.sheet.column(name)
        if not self._is_target_present(column):
            return _nothing(column), ()
        labels = self._labels(column, "to predict a number, set task = 'regression'")
        if labels.null_count() == len(labels):
            return labels, ()
        names = distinct(labels)
        if is_binary and len(names) != 2:
            hint = "task = 'classification' allows any number of classes"
            self.faults.add(f"the target {name!r} must have two different values, but has {_count(names)}", hint=hint)
        elif len(names) < 2:
            hint = "a classification needs at least two classes"
            self.faults.add(f"the target {name!r} has only one value, {show(names[0])}", hint=hint)
        return _codes(labels, names) - 1, tuple(names)

    def numbers(self, name: str, missing_hint: str | None) -> pl.Series:
        """Return a column that was numeric in training, float64; with a hint, missing cells are faults."""
        column = self.sheet.column(name)
        if missing_hint:
            self._add_cells(column, column.is_null(), missing_hint)
        return self._finite(column)

    def known_booleans(self, name: str, missing_hint: str | None) -> pl.Series:
        """Return a column that held words for true and false in training, float64; 0 and 1 are accepted."""
        column = self.sheet.column(name)
        if missing_hint:
            self._add_cells(column, column.is_null(), missing_hint)
        values = _from_booleans(column)
        self._add_cells(
            column,
            column.is_not_null() & values.is_null(),
            describe=lambda value: (f"{show(value)} is neither true nor false", None),
        )
        return values

    def known_codes(
        self, name: str, levels: Sequence[str], missing_hint: str | None, *, fills_unseen: bool
    ) -> pl.Series:
        """Return the code of each row, as ``codes`` does, for the levels of the training data.

        An unknown category is a fault, or null with ``fills_unseen``.
        """
        pl = polars()
        column = self.sheet.column(name)
        if missing_hint:
            self._add_cells(column, column.is_null(), missing_hint)
        labels = whole_texts(column) if are_whole(levels) else column.cast(pl.String)
        codes = _codes(labels, levels)
        if not fills_unseen:
            hint = f"known: {', '.join(map(show, levels[:LISTED]))}; or set `unseen` to 'mean' or 'other'"
            self._add_cells(
                column,
                column.is_not_null() & codes.is_null(),
                describe=lambda value: (f"{show(value)} was not in the training data", hint),
            )
        return codes

    def _is_target_present(self, column: pl.Series) -> bool:
        hint = "to leave out such rows, set `missing` to 'drop' or 'mean'"
        return self._is_present(column, hint, refuse=self.ways.missing == "error")

    def _is_present(self, column: pl.Series, hint: str, *, refuse: bool) -> bool:
        """Return whether a column has any values; ``refuse`` makes each missing cell a fault."""
        if column.null_count() == len(column):
            self.faults.add(f"column {column.name!r} has no values", hint="leave it out")
            return False
        if refuse and column.null_count():
            self._add_cells(column, column.is_null(), hint)
        return True

    def _numbers(self, column: pl.Series, text_hint: str) -> pl.Series:
        kind = kind_of(column, self.sheet.form)
        if kind == "other":
            message = f"column {column.name!r} holds values of type {column.dtype}, not numbers"
            self.faults.add(message, hint="leave it out, or convert it to numbers")
        if kind == "text":
            examples = ", ".join(show(value) for value in column.drop_nulls().unique(maintain_order=True).head(3))
            self.faults.add(f"column {column.name!r} holds text, not numbers: {examples}", hint=text_hint)
        return self._finite(column) if kind == "numbers" else _nothing(column)

    def _finite(self, column: pl.Series) -> pl.Series:
        """Return the values of a column as numbers; a value that is not a finite number is a fault."""
        numbers = as_numbers(column, self.sheet.form)
        lacks_unit = self._check_unit(column)
        if numbers.null_count() > column.null_count() or not math.isfinite(numbers.sum()):
            is_word = numbers.is_null() & column.is_not_null()
            is_word = is_word if lacks_unit is None else is_word & ~lacks_unit
            self._add_cells(column, is_word | ~numbers.is_finite().fill_null(value=True))
        if limit := _LIMITS.get(self.ways.transforms.get(column.name, "")):
            hint = "take another of `transforms`, such as 'log1p' or 'normal'"
            self._add_cells(
                column,
                (numbers <= limit[0]).fill_null(value=False),
                describe=lambda value: (f"{value} {limit[1]}", hint),
            )
        return numbers

    def _check_unit(self, column: pl.Series) -> pl.Series | None:
        """Add a fault for each cell without the unit of its column, and return where: ``0.5`` may be 50 per cent."""
        if not (unit := self.sheet.form.units.get(column.name)):
            return None
        texts = self.sheet.frame[column.name].cast(polars().String)
        lacks = column.is_not_null() & ~texts.str.contains(unit, literal=True)
        hint = "write it in every cell of the column; or in none, and remove the column from `units`"
        self._add_cells(
            column, lacks, describe=lambda value: (f"{show(value)} lacks the unit {unit!r} of its column", hint)
        )
        return lacks

    def _labels(self, column: pl.Series, hint: str) -> pl.Series:
        """Return a column's values as text; if they cannot be names, return nulls and add a fault with ``hint``."""
        pl = polars()
        if column.dtype.is_nested() or column.dtype == pl.Binary:
            self.faults.add(f"column {column.name!r} holds values of type {column.dtype}, not text or whole numbers")
            return _nothing(column).cast(pl.String)
        if column.dtype in (pl.Categorical, pl.Enum):
            return column.cast(pl.String)
        numbers = as_numbers(column, self.sheet.form)
        fraction = first_fraction(column, numbers)
        if fraction is not None:
            message = f"column {column.name!r} holds numbers such as {fraction}, not text or whole numbers"
            self.faults.add(message, hint=hint)
            return _nothing(column).cast(pl.String)
        are_numbers = numbers.null_count() == column.null_count()
        return whole_texts(column) if are_numbers else column.cast(pl.String)

    def _add_cells(
        self,
        column: pl.Series,
        mask: pl.Series,
        missing_hint: str | None = None,
        describe: Callable[[object], tuple[str, str | None]] | None = None,
    ) -> None:
        """Add the cells under ``mask``: missing ones with ``missing_hint``, others with the text of ``describe``."""
        if not (count := int(mask.sum())):
            return
        limit = count if self.problems is not None else LISTED
        rows, values = self.sheet.rows.filter(mask).head(limit), column.filter(mask).head(limit)
        cells = []
        for row, value in zip(rows, values, strict=True):
            message, hint = ("the cell is empty", missing_hint) if missing_hint else (describe or _not_a_number)(value)
            cells.append(Cell(row, column.name, message, hint))
        if self.problems is None:
            self.faults.add_cells(cells, count)
            return
        for cell in cells:
            self.problems.setdefault(cell.row, f"column {cell.column!r}: {cell.message}")


def are_booleans(column: pl.Series) -> bool:
    """Return whether a column of text holds nothing but two words for true and false."""
    if column.dtype != polars().String:
        return False
    found = set(column.drop_nulls().head(1000).str.to_lowercase().unique())
    return any(
        found <= set(pair) and bool(column.drop_nulls().str.to_lowercase().is_in(pair).all()) for pair in _BOOLEANS
    )


def _from_booleans(column: pl.Series) -> pl.Series:
    """Return 0 and 1, float64; null for anything else."""
    pl = polars()
    if column.dtype == pl.String:
        return column.str.to_lowercase().replace_strict(BOOLEANS, default=None, return_dtype=pl.Float64)
    numbers = column.cast(pl.Float64, strict=False)
    return numbers.set(~numbers.is_in([0.0, 1.0]), None)


def may_hold(dtype: pl.DataType, form: str) -> bool:
    """Return whether a column of a type holds dates of a form, or times of the day: as text or as values."""
    pl, is_time = polars(), parts_of(form) == TIME_PARTS
    is_moment = dtype.is_temporal() and dtype != pl.Duration and (dtype == pl.Time) == is_time
    return bool(is_moment or dtype == pl.String)


def check_form(name: str, form: str, faults: Faults) -> None:
    """Refuse the form of a column of text in which no date, or no time of the day, can be written and read again.

    Raises:
        DataError: If it is one; carries every fault.
    """
    pl = polars()
    is_time = parts_of(form) == TIME_PARTS
    moment = pl.Series([datetime(2001, 2, 3, 16, 5, 6, tzinfo=UTC)])
    try:
        text = (moment.dt.time() if is_time else moment).dt.strftime(form)
        can_be = form and not parsed(text, form).has_nulls()
    except pl.exceptions.PolarsError:
        can_be = False
    if not can_be:
        what = "time of the day" if is_time else "date"
        hint = "a date needs a year, such as '%Y-%m-%d'; an hour needs a minute, such as '%H:%M', or '%I:%M %p'"
        faults.stop(f"`dates` has the form {form!r} for column {name!r}: no {what} has this form", hint=hint)


def parsed(column: pl.Series, form: str) -> pl.Series:
    """Return the dates of a column of text, or the times of the day; null where there is none of this form."""
    if parts_of(form) == TIME_PARTS:
        return column.str.to_time(form, strict=False)
    return column.str.to_datetime(form, strict=False, time_unit="us", ambiguous="null")


def _date_parts(dates: pl.Series, *, is_time: bool) -> dict[str, pl.Series]:
    """Return the columns that replace dates, or times of the day, by the names of the parts."""
    pl = polars()
    if is_time:
        return {"hours": dates.cast(pl.Int64).cast(pl.Float64) / 3600e9}
    days = dates.dt.epoch("us").cast(pl.Float64) / 86_400e6
    return {"days": days} | {part: getattr(dates.dt, part)().cast(pl.Float64) for part in DATE_PARTS[1:]}


def stacked(columns: Sequence[pl.Series], num_rows: int) -> Tensor:
    """Return the columns as one tensor, float64 ``[I, N]``; a missing cell is NaN."""
    import torch

    result = torch.empty(len(columns), num_rows, dtype=torch.float64)
    for number, column in enumerate(columns):
        values = column.cast(polars().Float64)
        values = values.fill_null(math.nan) if values.null_count() else values
        result[number] = torch.from_numpy(values.to_numpy(writable=True))
    return result


def stacked_codes(columns: Sequence[pl.Series], num_rows: int) -> Tensor:
    """Return columns of codes as one tensor, int64 ``[C, N]``; a missing cell is 0."""
    import torch

    result = torch.empty(len(columns), num_rows, dtype=torch.int64)
    for number, column in enumerate(columns):
        result[number] = torch.from_numpy(column.fill_null(0).to_numpy(writable=True))
    return result


def _codes(labels: pl.Series, levels: Sequence[str]) -> pl.Series:
    """Return the number of each label among the levels, from 1; null for any other."""
    types = polars()
    codes: pl.Series = labels.cast(types.Enum(levels), strict=False).to_physical().cast(types.Int64) + 1
    return codes


def _nothing(column: pl.Series) -> pl.Series:
    """Return a column of nulls in place of one that cannot be read."""
    return column.is_null().clear(len(column)).cast(polars().Float64)


def _not_a_number(value: object) -> tuple[str, str | None]:
    """Return the message and the hint for a cell that should be a number."""
    if not isinstance(value, str):
        return f"{value} is not a finite number", _LARGEST
    message = f"{show(value)} is not a number"
    if _DECIMAL_COMMA.fullmatch(value):
        return message, "set `decimal` to ',', or `thousands` if the comma separates groups of three digits"
    if _is_infinite(value):
        return f"{show(value)} is not a finite number", _LARGEST
    return message, "if it stands for a missing value, list it in `missing_words`"


def _is_infinite(value: str) -> bool:
    try:
        return math.isinf(float(value))
    except ValueError:
        return False


def _count(names: list[str]) -> str:
    shown = ", ".join(show(name) for name in names[:5])
    return f"{len(names):,}: {shown}{', ...' if len(names) > 5 else ''}"
