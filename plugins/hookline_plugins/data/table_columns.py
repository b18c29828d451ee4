"""The columns of a table as numbers, categories and class labels, with every faulty cell found."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hookline.engine import did_you_mean, nearest
from hookline_plugins.data.table_file import LISTED, Cell, Faults, Sheet, polars

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import polars as pl
    from torch import Tensor


Missing = Literal["error", "drop", "mean"]

MAX_CATEGORIES = 1000
"""The most categories that a one-hot column may have: with more it is an identifier, and would fill the memory."""

_FILL_HINT = "fill it in, or set `missing` to 'drop' or 'mean'"
_WORDS_FOR_MISSING = {"na", "n/a", "#n/a", "nan", "null", "none", "nil", "missing", "-", "--", "?", "."}
_DECIMAL_COMMA = re.compile(r"[+-]?[\d.]*,\d+")


@dataclass(frozen=True)
class Reader:
    """Reads columns of a sheet; what is wrong goes to ``faults``, and stands as null in what is returned.

    Attributes:
        sheet: The table.
        faults: Where faults go.
        missing: What is done about missing cells; with ``error`` they are faults.
    """

    sheet: Sheet
    faults: Faults
    missing: Missing

    def feature(self, name: str) -> pl.Series:
        """Return a column of numbers, float64."""
        column = self.sheet.column(name)
        if self._is_present(column, _FILL_HINT, refuse=self.missing == "error"):
            return self._numbers(column, "name it in `one_hot`, or leave it out of `features`")
        return _nothing(column)

    def target(self, name: str) -> pl.Series:
        """Return a column of numbers to be predicted, float64."""
        column = self.sheet.column(name)
        if self._is_target_present(column):
            return self._numbers(column, "a target of words needs task = 'classification' or 'binary'")
        return _nothing(column)

    def one_hot(self, name: str) -> list[pl.Series]:
        """Return a column for each category: 1.0 where the row has it, 0.0 where it has another.

        The categories are those of the whole file: if they were those of the training split, the number of features
        would hang on the split, and a model trained with one seed would not fit the data of another.
        """
        pl = polars()
        column = self.sheet.column(name)
        if not self._is_present(column, _FILL_HINT, refuse=self.missing == "error"):
            return []
        labels = self._labels(column, "leave it out of `one_hot`: numbers are features as they are")
        categories = distinct(labels)
        if len(categories) > MAX_CATEGORIES:
            message = f"column {name!r} has {len(categories):,} different values; one-hot takes {MAX_CATEGORIES:,}"
            self.faults.add(message, hint="leave it out of `features`")
            return []
        return [(labels == category).cast(pl.Float64).alias(f"{name}={category}") for category in categories]

    def classes(self, name: str, *, is_binary: bool) -> tuple[pl.Series, tuple[str, ...]]:
        """Return the class index of each row, int64, and the names of the classes: all values of the file, sorted."""
        pl = polars()
        column = self.sheet.column(name)
        if not self._is_target_present(column):
            return _nothing(column), ()
        labels = self._labels(column, "to predict a number, set task = 'regression'")
        if labels.null_count() == len(labels):
            return labels, ()
        names = distinct(labels)
        if is_binary and len(names) != 2:
            hint = "task = 'classification' takes any number of classes"
            self.faults.add(f"the target {name!r} must have two different values, it has {_count(names)}", hint=hint)
        elif len(names) < 2:
            hint = "a classification needs two classes or more"
            self.faults.add(f"the target {name!r} has only one value, {_show(names[0])}", hint=hint)
        return labels.cast(pl.Enum(names)).to_physical().cast(pl.Int64), tuple(names)

    def numbers(self, name: str, missing_hint: str | None) -> pl.Series:
        """Return a column that is known to be one of numbers, float64; with a hint, missing cells are faults."""
        column = self.sheet.column(name)
        if missing_hint:
            self._add_cells(column, column.is_null(), missing_hint)
        return self._finite(column)

    def indicators(self, name: str, categories: Sequence[str], missing_hint: str | None) -> list[pl.Series]:
        """Return a column for each of the known categories, as ``one_hot`` does; another category is a fault."""
        pl = polars()
        column = self.sheet.column(name)
        if missing_hint:
            self._add_cells(column, column.is_null(), missing_hint)
        is_number = column.dtype.is_float() or column.dtype.is_decimal()
        labels = (column.cast(pl.Int64, strict=False) if is_number else column).cast(pl.String)
        unknown = column.is_not_null() & ~labels.is_in(categories).fill_null(value=False)
        hint = f"known: {', '.join(map(_show, categories[:LISTED]))}"
        self._add_cells(column, unknown, said=lambda value: (f"{_show(value)} was in no row of the training", hint))
        return [(labels == category).cast(pl.Float64) for category in categories]

    def _is_target_present(self, column: pl.Series) -> bool:
        hint = "set `missing` to 'drop' to leave such rows out"
        if self.missing == "mean":
            hint = f"a target is never filled in with a mean: {hint}"
        return self._is_present(column, hint, refuse=self.missing != "drop")

    def _is_present(self, column: pl.Series, hint: str, *, refuse: bool) -> bool:
        """Whether a column has any value; ``refuse`` makes each missing cell a fault."""
        if column.null_count() == len(column):
            self.faults.add(f"column {column.name!r} has no value in any row", hint="leave it out")
            return False
        if refuse and column.null_count():
            self._add_cells(column, column.is_null(), hint)
        return True

    def _numbers(self, column: pl.Series, text_hint: str) -> pl.Series:
        kind = kind_of(column)
        if kind == "other":
            message = f"column {column.name!r} holds values of type {column.dtype}, not numbers"
            self.faults.add(message, hint="leave it out, or write it as numbers")
        if kind == "text":
            examples = ", ".join(_show(value) for value in column.drop_nulls().unique(maintain_order=True).head(3))
            self.faults.add(f"column {column.name!r} holds text, not numbers: {examples}", hint=text_hint)
        return self._finite(column) if kind == "numbers" else _nothing(column)

    def _finite(self, column: pl.Series) -> pl.Series:
        """Return the values of a column as numbers; what is no finite number is a fault."""
        numbers = column.cast(polars().Float64, strict=False)
        if numbers.null_count() > column.null_count() or not math.isfinite(numbers.sum()):
            is_word = numbers.is_null() & column.is_not_null()
            self._add_cells(column, is_word | ~numbers.is_finite().fill_null(value=True))
        return numbers

    def _labels(self, column: pl.Series, hint: str) -> pl.Series:
        """Return a column's values as text; nothing, and a fault with ``hint``, when they are no names."""
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
        said: Callable[[object], tuple[str, str | None]] | None = None,
    ) -> None:
        """Take in the cells under ``mask``; ``missing_hint`` says that it is for missing ones, ``said`` what to say."""
        if not (count := int(mask.sum())):
            return
        rows, values = self.sheet.rows.filter(mask).head(LISTED), column.filter(mask).head(LISTED)
        cells = []
        for row, value in zip(rows, values, strict=True):
            message, hint = ("the cell is empty", missing_hint) if missing_hint else (said or _not_a_number)(value)
            cells.append(Cell(row, column.name, message, hint))
        self.faults.add_cells(cells, count)


def as_tensor(columns: list[pl.Series]) -> Tensor:
    """Return the columns side by side, float64; a missing cell is NaN."""
    import torch

    result = torch.empty(len(columns[0]), len(columns), dtype=torch.float64)
    for number, column in enumerate(columns):
        values = column.cast(polars().Float64)
        values = values.fill_null(math.nan) if values.null_count() else values
        result[:, number] = torch.from_numpy(values.to_numpy(writable=True))
    return result


def kind_of(column: pl.Series) -> Literal["numbers", "text", "other"]:
    """Return what a column is to be taken for; text in a CSV file is numbers when most of its cells are.

    Words that people write for a missing value count neither way.
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

    No ``features`` means all columns that are not targets.

    Raises:
        DataError: When a target is not there: nobody knows then what the features are.
    """
    for option, names in (("target", target), ("features", features), ("one_hot", one_hot)):
        _check_listed(sheet, option, names, faults)
    if not set(target) <= set(_present(sheet, target)):
        faults.check()
    for name in dict.fromkeys(target):
        if name in features or name in one_hot:
            faults.add(f"the target {name!r} is also a feature", hint="a model that is given the answer learns nothing")
    for name in dict.fromkeys(one_hot):
        if features and name not in (*features, *target):
            faults.add(f"`one_hot` names {name!r}, which is not a feature", hint="name it in `features` too")
    if not features:
        features = tuple(name for name in sheet.names if name not in target)
        _check_default_features(sheet, features, faults)
    return _present(sheet, features), _present(sheet, target)


def check_known_columns(
    sheet: Sheet, features: Sequence[str], others: Sequence[str], one_hot: Sequence[str], faults: Faults
) -> list[str]:
    """Check that a file has the features of a trained model, and no column that the training did not have.

    Args:
        sheet: The file, or a part of it.
        features: The features, in their order.
        others: The other columns of the training; they may be there.
        one_hot: The features that are categories.
        faults: Where faults go.

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
            faults.add(f"`{option}` names the column {name!r} {count} times", hint="name it once")
        if name not in present:
            faults.add(f"there is no column {name!r}, which `{option}` names", hint=_absent_hint(sheet, name))


def _check_default_features(sheet: Sheet, features: tuple[str, ...], faults: Faults) -> None:
    if not features:
        faults.add("there is no column but the target", hint="a model needs at least one feature")
    if "" in features:
        message = f"column {sheet.names.index('') + 1} has no name in the header"
        faults.add(message, hint="give it one; or, if it only numbers the rows, list the others in `features`")


def _absent_hint(sheet: Sheet, name: str) -> str:
    if sheet.delimiter and len(sheet.names) == 1:
        for other in ";\t|,":
            if other in sheet.names[0]:
                return f"the whole header is one column, {_show(sheet.names[0])}: set `delimiter` to {other!r}"
    if all(re.fullmatch(r"[+-]?\d[\d.]*([eE][+-]?\d+)?", known) for known in sheet.names):
        return "the first line must hold the names of the columns; here it holds numbers"
    known = [name for name in dict.fromkeys(sheet.names) if name]
    return did_you_mean(name, known if nearest(name, known) else known[:LISTED])


def _nothing(column: pl.Series) -> pl.Series:
    """Return a column of nulls, to stand for one that cannot be read."""
    return column.is_null().clear(len(column)).cast(polars().Float64)


def _first_fraction(column: pl.Series) -> float | None:
    """Return the first value that is not whole, of a column in which every value is a number."""
    pl = polars()
    if not (column.dtype.is_float() or column.dtype.is_decimal() or column.dtype == pl.String):
        return None
    numbers = column.cast(pl.Float64, strict=False)
    if numbers.null_count() > column.null_count():
        return None
    fractions = numbers.filter((numbers != numbers.floor()) | ~numbers.is_finite())
    return None if fractions.is_empty() else float(fractions[0])


def distinct(column: pl.Series) -> list[str]:
    """Return a column's different values as text, sorted: as numbers when all are whole numbers."""
    values: list[str] = column.cast(polars().String).drop_nulls().unique().to_list()
    are_whole = all(re.fullmatch(r"[+-]?[0-9]+", value) for value in values)
    return sorted(values, key=lambda value: (int(value), value)) if are_whole else sorted(values)


def _not_a_number(value: object) -> tuple[str, str | None]:
    """Return what is wrong with a cell that should be a number, and what to do."""
    if not isinstance(value, str):
        return f"{value} is not a finite number", None
    message = f"{_show(value)} is not a number"
    if value.lower() in _WORDS_FOR_MISSING:
        return message, "a missing value is an empty cell: empty it, and set `missing` to 'drop' or 'mean'"
    if _DECIMAL_COMMA.fullmatch(value):
        return message, "write a decimal point, and nothing between thousands"
    if _is_infinite(value):
        return f"{_show(value)} is not a finite number", "the largest that can be held is about 1.8e308"
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
