"""Columns of a table as numbers, categories and classes; every faulty cell is found."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hookline.engine import did_you_mean, nearest
from hookline_plugins.data.faults import LISTED, Cell, Faults
from hookline_plugins.data.sheet import Sheet, polars

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import polars as pl
    from torch import Tensor


Missing = Literal["error", "drop", "mean"]

MAX_CATEGORIES = 1000
"""Largest number of categories of a one-hot column: with more it is an identifier, and would fill the memory."""

_FILL_HINT = "fill it in, or set `missing` to 'drop' or 'mean'"
_WORDS_FOR_MISSING = {"na", "n/a", "#n/a", "nan", "null", "none", "nil", "missing", "-", "--", "?", "."}
_DECIMAL_COMMA = re.compile(r"[+-]?[\d.]*,\d+")


@dataclass(frozen=True)
class Reader:
    """Reader of the columns of a sheet; faulty cells are added to ``faults`` and returned as null.

    Attributes:
        sheet: The table.
        faults: The faults found so far.
        missing: How to treat missing cells; with ``error`` they are faults.
    """

    sheet: Sheet
    faults: Faults
    missing: Missing

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

    def one_hot(self, name: str) -> list[pl.Series]:
        """Return a column for each category: 1.0 in rows that have it, 0.0 in rows that have another.

        The categories are those of the whole file. Otherwise the number of features would depend on the split, and a
        model trained with one seed would not fit the data of another.
        """
        pl = polars()
        column = self.sheet.column(name)
        if not self._is_present(column, _FILL_HINT, refuse=self.missing == "error"):
            return []
        labels = self._labels(column, "remove it from `one_hot`: numbers can be features directly")
        categories = distinct(labels)
        if len(categories) > MAX_CATEGORIES:
            message = f"column {name!r} has {len(categories):,} different values; `one_hot` allows {MAX_CATEGORIES:,}"
            self.faults.add(message, hint="leave it out of `features`")
            return []
        return [(labels == category).cast(pl.Float64).alias(f"{name}={category}") for category in categories]

    def classes(self, name: str, *, is_binary: bool) -> tuple[pl.Series, tuple[str, ...]]:
        """Return the class index of each row, int64, and the names of the classes: the sorted values of the file."""
        pl = polars()
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
            self.faults.add(f"the target {name!r} has only one value, {_show(names[0])}", hint=hint)
        return labels.cast(pl.Enum(names)).to_physical().cast(pl.Int64), tuple(names)

    def numbers(self, name: str, missing_hint: str | None) -> pl.Series:
        """Return a column that was numeric in training, float64; with a hint, missing cells are faults."""
        column = self.sheet.column(name)
        if missing_hint:
            self._add_cells(column, column.is_null(), missing_hint)
        return self._finite(column)

    def indicators(self, name: str, categories: Sequence[str], missing_hint: str | None) -> list[pl.Series]:
        """Return a column for each known category, as ``one_hot`` does; an unknown category is a fault."""
        pl = polars()
        column = self.sheet.column(name)
        if missing_hint:
            self._add_cells(column, column.is_null(), missing_hint)
        is_number = column.dtype.is_float() or column.dtype.is_decimal()
        labels = (column.cast(pl.Int64, strict=False) if is_number else column).cast(pl.String)
        unknown = column.is_not_null() & ~labels.is_in(categories).fill_null(value=False)
        hint = f"known: {', '.join(map(_show, categories[:LISTED]))}"
        self._add_cells(column, unknown, describe=lambda value: (f"{_show(value)} was not in the training data", hint))
        return [(labels == category).cast(pl.Float64) for category in categories]

    def _is_target_present(self, column: pl.Series) -> bool:
        hint = "to leave out such rows, set `missing` to 'drop'"
        if self.missing == "mean":
            hint = f"a target is never filled in with the mean; {hint}"
        return self._is_present(column, hint, refuse=self.missing != "drop")

    def _is_present(self, column: pl.Series, hint: str, *, refuse: bool) -> bool:
        """Return whether a column has any values; ``refuse`` makes each missing cell a fault."""
        if column.null_count() == len(column):
            self.faults.add(f"column {column.name!r} has no values", hint="leave it out")
            return False
        if refuse and column.null_count():
            self._add_cells(column, column.is_null(), hint)
        return True

    def _numbers(self, column: pl.Series, text_hint: str) -> pl.Series:
        kind = kind_of(column)
        if kind == "other":
            message = f"column {column.name!r} holds values of type {column.dtype}, not numbers"
            self.faults.add(message, hint="leave it out, or convert it to numbers")
        if kind == "text":
            examples = ", ".join(_show(value) for value in column.drop_nulls().unique(maintain_order=True).head(3))
            self.faults.add(f"column {column.name!r} holds text, not numbers: {examples}", hint=text_hint)
        return self._finite(column) if kind == "numbers" else _nothing(column)

    def _finite(self, column: pl.Series) -> pl.Series:
        """Return the values of a column as numbers; a value that is not a finite number is a fault."""
        numbers = column.cast(polars().Float64, strict=False)
        if numbers.null_count() > column.null_count() or not math.isfinite(numbers.sum()):
            is_word = numbers.is_null() & column.is_not_null()
            self._add_cells(column, is_word | ~numbers.is_finite().fill_null(value=True))
        return numbers

    def _labels(self, column: pl.Series, hint: str) -> pl.Series:
        """Return a column's values as text; if they cannot be names, return nulls and add a fault with ``hint``."""
        pl = polars()
        if column.dtype.is_nested() or column.dtype == pl.Binary:
            self.faults.add(f"column {column.name!r} holds values of type {column.dtype}, not text or whole numbers")
            return _nothing(column).cast(pl.String)
        fraction = _first_fraction(column)
        if fraction is not None:
            message = f"column {column.name!r} holds numbers such as {fraction}, not text or whole numbers"
            self.faults.add(message, hint=hint)
            return _nothing(column).cast(pl.String)
        if column.dtype.is_float() or column.dtype.is_decimal():
            column = column.cast(pl.Int64)
        return column.cast(pl.String)

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
        rows, values = self.sheet.rows.filter(mask).head(LISTED), column.filter(mask).head(LISTED)
        cells = []
        for row, value in zip(rows, values, strict=True):
            message, hint = ("the cell is empty", missing_hint) if missing_hint else (describe or _not_a_number)(value)
            cells.append(Cell(row, column.name, message, hint))
        self.faults.add_cells(cells, count)


def as_tensor(columns: list[pl.Series]) -> Tensor:
    """Return the columns as one tensor, float64 ``[N, I]``; a missing cell is NaN."""
    import torch

    result = torch.empty(len(columns[0]), len(columns), dtype=torch.float64)
    for number, column in enumerate(columns):
        values = column.cast(polars().Float64)
        values = values.fill_null(math.nan) if values.null_count() else values
        result[:, number] = torch.from_numpy(values.to_numpy(writable=True))
    return result


def kind_of(column: pl.Series) -> Literal["numbers", "text", "other"]:
    """Return the kind of a column's values; a text column is numbers if most of its cells are.

    Words that people write for a missing value are not counted.
    """
    pl = polars()
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return "numbers"
    if column.dtype in (pl.Categorical, pl.Enum):
        return "text"
    if column.dtype != pl.String:
        return "other"
    numbers = column.cast(pl.Float64, strict=False)
    if numbers.null_count() == column.null_count():
        return "numbers"
    is_number = numbers.is_not_null()
    words = column.filter(~is_number).drop_nulls().str.to_lowercase()
    return "text" if (~words.is_in(list(_WORDS_FOR_MISSING))).sum() > is_number.sum() else "numbers"


def choose_columns(
    sheet: Sheet, target: tuple[str, ...], features: tuple[str, ...], one_hot: tuple[str, ...], faults: Faults
) -> tuple[list[str], list[str]]:
    """Return the names of the feature columns and of the target columns that the file has.

    If ``features`` is empty, all columns but the targets are features.

    Raises:
        DataError: If a target is missing, because the features are then unknown.
    """
    for option, names in (("target", target), ("features", features), ("one_hot", one_hot)):
        _check_listed(sheet, option, names, faults)
    if not set(target) <= set(_present(sheet, target)):
        faults.check()
    for name in dict.fromkeys(target):
        if name in features or name in one_hot:
            faults.add(f"the target {name!r} is also a feature", hint="a model that sees the answer learns nothing")
    for name in dict.fromkeys(one_hot):
        if features and name not in (*features, *target):
            faults.add(f"`one_hot` lists {name!r}, which is not a feature", hint="list it in `features` too")
    if not features:
        features = tuple(name for name in sheet.names if name not in target)
        _check_default_features(sheet, features, faults)
    return _present(sheet, features), _present(sheet, target)


def check_known_columns(
    sheet: Sheet, features: Sequence[str], others: Sequence[str], one_hot: Sequence[str], faults: Faults
) -> list[str]:
    """Check that a file has the features of a trained model, and no column that was not in the training data.

    Args:
        sheet: The file, or a part of it.
        features: The features, in order.
        others: The other columns of the training data; they may be present.
        one_hot: The features that are categories.
        faults: The faults found so far.

    Returns:
        The features that can be read.
    """
    known = {*features, *others}
    present = [name for name in features if name in sheet.names]
    for name in features:
        if name not in present:
            faults.add(f"there is no column {name!r}, a feature of the model", hint=_absent_hint(sheet, name))
    for name in sheet.names:
        if name not in known:
            what = f"column {name!r}" if name else f"column {sheet.names.index('') + 1}, which has no name,"
            faults.add(f"{what} was not in the training data", hint=f"leave it out; {did_you_mean(name, known)}")
    readable = []
    for name in present:
        column = sheet.frame[name]
        if name in one_hot or column.dtype == polars().String or kind_of(column) == "numbers":
            readable.append(name)
        else:
            faults.add(f"column {name!r} holds values of type {column.dtype}, not numbers")
    return readable


def _present(sheet: Sheet, names: tuple[str, ...]) -> list[str]:
    known = set(sheet.names) - {""}
    return [name for name in dict.fromkeys(names) if name in known]


def _check_listed(sheet: Sheet, option: str, names: tuple[str, ...], faults: Faults) -> None:
    present = set(_present(sheet, names))
    for name, count in Counter(names).items():
        if count > 1:
            faults.add(f"`{option}` lists the column {name!r} {count} times", hint="list it once")
        if name not in present:
            faults.add(f"there is no column {name!r}, which `{option}` names", hint=_absent_hint(sheet, name))


def _check_default_features(sheet: Sheet, features: tuple[str, ...], faults: Faults) -> None:
    if not features:
        faults.add("there is no column but the target", hint="a model needs at least one feature")
    if "" in features:
        message = f"column {sheet.names.index('') + 1} has no name in the header"
        faults.add(message, hint="give it one; or, if it only numbers the rows, list the other columns in `features`")


def _absent_hint(sheet: Sheet, name: str) -> str:
    if sheet.delimiter and len(sheet.names) == 1:
        for other in ";\t|,":
            if other in sheet.names[0]:
                return f"the whole header is one column, {_show(sheet.names[0])}: set `delimiter` to {other!r}"
    if all(re.fullmatch(r"[+-]?\d[\d.]*([eE][+-]?\d+)?", known) for known in sheet.names):
        return "the first line must hold the column names, but it holds numbers"
    known = [name for name in dict.fromkeys(sheet.names) if name]
    return did_you_mean(name, known if nearest(name, known) else known[:LISTED])


def _nothing(column: pl.Series) -> pl.Series:
    """Return a column of nulls in place of one that cannot be read."""
    return column.is_null().clear(len(column)).cast(polars().Float64)


def _first_fraction(column: pl.Series) -> float | None:
    """Return the first value that is not a whole number; None if all are whole, or if some are not numbers."""
    pl = polars()
    if not (column.dtype.is_float() or column.dtype.is_decimal() or column.dtype == pl.String):
        return None
    numbers = column.cast(pl.Float64, strict=False)
    if numbers.null_count() > column.null_count():
        return None
    fractions = numbers.filter((numbers != numbers.floor()) | ~numbers.is_finite())
    return None if fractions.is_empty() else float(fractions[0])


def distinct(column: pl.Series) -> list[str]:
    """Return a column's different values as text, sorted; as numbers if all are whole numbers."""
    values: list[str] = column.cast(polars().String).drop_nulls().unique().to_list()
    are_whole = all(re.fullmatch(r"[+-]?[0-9]+", value) for value in values)
    return sorted(values, key=lambda value: (int(value), value)) if are_whole else sorted(values)


def _not_a_number(value: object) -> tuple[str, str | None]:
    """Return the message and the hint for a cell that should be a number."""
    if not isinstance(value, str):
        return f"{value} is not a finite number", None
    message = f"{_show(value)} is not a number"
    if value.lower() in _WORDS_FOR_MISSING:
        return message, "write a missing value as an empty cell, and set `missing` to 'drop' or 'mean'"
    if _DECIMAL_COMMA.fullmatch(value):
        return message, "use a decimal point and no thousands separators"
    if _is_infinite(value):
        return f"{_show(value)} is not a finite number", "the largest number is about 1.8e308"
    return message, None


def _is_infinite(value: str) -> bool:
    try:
        return math.isinf(float(value))
    except ValueError:
        return False


def _count(names: list[str]) -> str:
    shown = ", ".join(_show(name) for name in names[:5])
    return f"{len(names):,}: {shown}{', ...' if len(names) > 5 else ''}"


def _show(value: object) -> str:
    text = repr(str(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
