"""Columns of a table as numbers, categories and classes; every faulty cell is found."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hookline_plugins.data.faults import LISTED, Cell, Faults
from hookline_plugins.data.tables.features import DATE_PARTS
from hookline_plugins.data.tables.files.sheet import Sheet, as_numbers, polars
from hookline_plugins.data.tables.kinds import are_whole, distinct, first_fraction, kind_of, show, whole_texts

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor


Missing = Literal["error", "drop", "mean"]
MAX_CATEGORIES = 1000
"""Largest number of categories of a one-hot column: with more it is an identifier, and would fill the memory."""

_FILL_HINT = "fill it in, or set `missing` to 'drop' or 'mean'"
_LARGEST = "the largest number is about 1.8e308"
_DECIMAL_COMMA = re.compile(r"[+-]?[\d.]*,\d+")


@dataclass(frozen=True)
class Reader:
    """Reader of the columns of a sheet; faulty cells are added to ``faults`` and returned as null.

    Attributes:
        sheet: The table.
        faults: The faults found so far.
        missing: How to treat missing cells; with ``error`` they are faults.
        problems: The reasons why rows are faulty, by their number in the file; if given, faulty cells go there.
    """

    sheet: Sheet
    faults: Faults
    missing: Missing
    problems: dict[int, str] | None = None

    def feature(self, name: str) -> pl.Series:
        """Return a column of numbers, float64."""
        column = self.sheet.column(name)
        if self._is_present(column, _FILL_HINT, refuse=self.missing == "error"):
            return self._numbers(column, "list it in `one_hot`, or list only the other columns in `features`")
        return _nothing(column)

    def target(self, name: str) -> pl.Series:
        """Return a column of numbers to predict, float64."""
        column = self.sheet.column(name)
        if self._is_target_present(column):
            return self._numbers(column, "to predict text, set task = 'classification' or 'binary'")
        return _nothing(column)

    @property
    def fill_hint(self) -> str | None:
        """The hint for a missing feature; None if it is no fault."""
        return _FILL_HINT if self.missing == "error" else None

    def dates(self, name: str, form: str, missing_hint: str | None) -> list[pl.Series]:
        """Return a column for each of ``DATE_PARTS``, float64, of the dates that ``form`` describes."""
        pl = polars()
        column = self.sheet.column(name)
        if missing_hint:
            self._add_cells(column, column.is_null(), missing_hint)
        if column.dtype == pl.String:
            dates = column.str.to_datetime(form, strict=False, time_unit="us", ambiguous="null")
            hint = f"a date of the form {form!r} is expected"
            self._add_cells(
                column,
                column.is_not_null() & dates.is_null(),
                describe=lambda value: (f"{show(value)} is not a date", hint),
            )
        elif column.dtype.is_temporal() and column.dtype not in (pl.Time, pl.Duration):
            dates = column.cast(pl.Datetime("us"))
        else:
            self.faults.add(f"column {name!r} holds values of type {column.dtype}, not dates")
            return []
        days = dates.dt.epoch("us").cast(pl.Float64) / 86_400e6
        parts = [days, *(getattr(dates.dt, part)().cast(pl.Float64) for part in DATE_PARTS[1:])]
        return [values.alias(f"{name}.{part}") for part, values in zip(DATE_PARTS, parts, strict=True)]

    def codes(self, name: str) -> tuple[pl.Series, list[str]]:
        """Return the code of each row, int64 and null for a missing cell, and the levels: 1 is the first of them.

        The levels are those of the whole file. Otherwise the number of features would depend on the split, and a
        model trained with one seed would not fit the data of another.
        """
        column = self.sheet.column(name)
        if not self._is_present(column, _FILL_HINT, refuse=self.missing == "error"):
            return _nothing(column), []
        labels = self._labels(column, "remove it from `one_hot`: numbers can be features directly")
        levels = distinct(labels)
        if len(levels) > MAX_CATEGORIES:
            message = f"column {name!r} has {len(levels):,} different values; `one_hot` allows {MAX_CATEGORIES:,}"
            self.faults.add(message, hint="leave it out of `features`")
            return _nothing(column), []
        return _codes(labels, levels), levels

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
            hint = f"known: {', '.join(map(show, levels[:LISTED]))}; or set `unseen` to 'mean'"
            self._add_cells(
                column,
                column.is_not_null() & codes.is_null(),
                describe=lambda value: (f"{show(value)} was not in the training data", hint),
            )
        return codes

    def _is_target_present(self, column: pl.Series) -> bool:
        hint = "to leave out such rows, set `missing` to 'drop' or 'mean'"
        return self._is_present(column, hint, refuse=self.missing == "error")

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
        if numbers.null_count() > column.null_count() or not math.isfinite(numbers.sum()):
            is_word = numbers.is_null() & column.is_not_null()
            self._add_cells(column, is_word | ~numbers.is_finite().fill_null(value=True))
        if unit := self.sheet.form.units.get(column.name):
            self._check_unit(column, numbers, unit)
        return numbers

    def _check_unit(self, column: pl.Series, numbers: pl.Series, unit: str) -> None:
        """Add a fault for each number without its unit: ``0.5`` among per cents may be 50 of them."""
        texts = self.sheet.frame[column.name].cast(polars().String)
        hint = "write it in every cell of the column; or in none, and remove the column from `units`"
        self._add_cells(
            column,
            numbers.is_not_null() & ~texts.str.contains(unit, literal=True),
            describe=lambda value: (f"{show(value)} lacks the unit {unit!r} of its column", hint),
        )

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
