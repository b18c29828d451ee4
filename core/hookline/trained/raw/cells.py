"""Cells of a table as the inputs of an exported model: numbers, texts and dates; every faulty cell is found."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache, partial
from typing import Any, NamedTuple

from hookline.trained.exportable import RawInput, TableForm
from hookline.trained.raw.faults import LISTED

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - dates of a table have no time zone
_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)
_WHOLE = re.compile(r"([+-]?\d+)(\.0*)?", re.ASCII)
_NUMBER_HINT = "numbers are read as in the training data"
_FILL_HINT = "fill it in: the model was exported without a value for missing cells"


class CellFault(NamedTuple):
    """A faulty cell: its place in the column, the message and the remedy."""

    row: int
    message: str
    hint: str | None


class _BadCellError(ValueError):
    """Carries the message and the hint for a faulty cell."""


def read_cells(cells: Sequence[Any], raw: RawInput, form: TableForm) -> tuple[Any, list[CellFault]]:
    """Return the cells of a column as an array for an input, and those that cannot be read.

    Args:
        cells: Texts of a CSV file, or values of a Parquet file; None for a missing one.
        raw: The input.
        form: How the cells are written.
    """
    import numpy as np

    read: Callable[[Any], Any] = _text_reader(raw) if raw.dtype == "text" else _number_reader(raw, form)
    nothing: Any = "" if raw.dtype == "text" else math.nan
    if (fast := _plain_numbers(cells, raw, form)) is not None:
        return np.array(fast, dtype=raw.dtype), []
    words = {"", *form.missing_words}
    sentinels = set(form.missing_numbers)

    @lru_cache(typed=True)  # categories and dates repeat
    def value_of(cell: Any) -> Any:
        given = cell.strip() if isinstance(cell, str) else cell
        is_missing = given is None or given in words or given != given  # noqa: PLR0124 - NaN
        value = nothing if is_missing else read(given)
        if is_missing or (sentinels and _number_or_none(given, form) in sentinels):
            value = nothing
            if not raw.fills_missing:
                raise _BadCellError("the cell is empty", _FILL_HINT)
        return value

    values, faults = [], []
    for row, cell in enumerate(cells):
        try:
            values.append(value_of(str(cell) if isinstance(cell, list | dict) else cell))
        except _BadCellError as error:
            values.append(nothing)
            faults.append(CellFault(row, *error.args))
    if raw.dtype == "text":
        return np.array(values, dtype=object), faults
    with np.errstate(invalid="ignore"):
        return np.array(values, dtype="float64").astype(raw.dtype), faults


def _plain_numbers(cells: Sequence[Any], raw: RawInput, form: TableForm) -> list[float] | None:
    """Return a column of ordinary numbers; None if there is anything else in it."""
    is_special = raw.date is not None or raw.time is not None or raw.words or raw.name in form.units
    if raw.dtype != "float64" or is_special or form.decimal != "." or form.missing_numbers or form.thousands:
        return None
    try:
        values = list(map(float, cells))
    except (TypeError, ValueError):
        return None
    return (
        values if math.isfinite(sum(values)) and not any("_" in cell for cell in cells if type(cell) is str) else None
    )


def _number_reader(raw: RawInput, form: TableForm) -> Callable[[Any], float]:
    if raw.date is not None:
        return partial(_days, form=raw.date)
    if raw.time is not None:
        return partial(_hours, form=raw.time)
    if raw.words:
        return partial(_number_of_word, words=raw.words)
    unit = form.units.get(raw.name)

    def read(cell: Any) -> float:
        if unit and isinstance(cell, str):
            cell = _without_unit(cell, unit)
        value = _number_or_none(cell, form)
        if value is None:
            hint = "if it stands for a missing value, leave the cell empty"
            raise _BadCellError(f"{show(cell)} is not a number", hint)
        if not math.isfinite(value):
            raise _BadCellError(f"{show(cell)} is not a finite number", "the largest number is about 1.8e308")
        if not raw.dtype.startswith("float") and value != math.floor(value):
            raise _BadCellError(f"{show(cell)} is not a whole number", _NUMBER_HINT)
        return value

    return read


def _number_or_none(cell: Any, form: TableForm) -> float | None:
    """Return a cell as a number; None if it is no number in this form.

    A time of day is the number of hours since midnight, a duration that of its seconds.

    >>> _number_or_none("1.234,5", TableForm(decimal=",", thousands="."))
    1234.5
    """
    try:
        if isinstance(cell, time):
            return (datetime.combine(_EPOCH, cell) - _EPOCH) / _HOUR
        if isinstance(cell, timedelta):
            return cell.total_seconds()
        if not isinstance(cell, str):
            return float(cell)
        sign = re.escape(form.decimal)
        if form.thousands and re.fullmatch(rf"[+-]?\d{{1,3}}({re.escape(form.thousands)}\d{{3}})+({sign}\d*)?", cell):
            cell = cell.replace(form.thousands, "")
        if form.decimal != ".":
            cell = "" if "." in cell else cell.replace(form.decimal, ".")
        return float(cell) if cell.isascii() and "_" not in cell else None
    except (TypeError, ValueError):
        return None


def _without_unit(text: str, unit: str) -> str:
    """Return text without a unit before or after a number.

    >>> _without_unit("-$ 5", "$"), _without_unit("5 %", "%")
    ('-5', '5')
    """
    mark = re.escape(unit)
    text, before = re.subn(rf"^([+-]?)\s*{mark}\s*([+-]?[\d.,])", r"\1\2", text)
    text, after = re.subn(rf"([\d.,])\s*{mark}$", r"\1", text)
    if not before + after:
        raise _BadCellError(f"{show(text)} lacks the unit {unit!r} of its column", "write it as in the training data")
    return text


def _days(cell: Any, form: str) -> float:
    """Return the days since 1970-01-01 of a date.

    >>> _days("1970-01-02 12:00", "%Y-%m-%d %H:%M")
    1.5
    """
    if isinstance(cell, str):
        try:
            cell = datetime.strptime(cell, form)  # noqa: DTZ007 - dates of a table have no time zone
        except ValueError:
            raise _BadCellError(f"{show(cell)} is not a date", f"a date of the form {form!r} is expected") from None
    if isinstance(cell, datetime):
        plain = cell.astimezone(UTC).replace(tzinfo=None) if cell.tzinfo else cell
        return (plain - _EPOCH) / _DAY
    if isinstance(cell, date):
        return float((cell - _EPOCH.date()).days)
    raise _BadCellError(f"{show(cell)} is not a date", None)


def _hours(cell: Any, form: str) -> float:
    """Return the hours since midnight of a time of day.

    >>> _hours("08:30", "%H:%M")
    8.5
    """
    if isinstance(cell, str):
        try:
            cell = datetime.strptime(cell, form).time()  # noqa: DTZ007 - times of a table have no time zone
        except ValueError:
            raise _BadCellError(f"{show(cell)} is not a time", f"a time of the form {form!r} is expected") from None
    if isinstance(cell, time):
        return (datetime.combine(_EPOCH, cell) - _EPOCH) / _HOUR
    raise _BadCellError(f"{show(cell)} is not a time", None)


def _number_of_word(cell: Any, words: Mapping[str, float]) -> float:
    """Return the number of a word, in any case.

    >>> _number_of_word("Yes", {"yes": 1.0}), _number_of_word(True, {"true": 1.0})
    (1.0, 1.0)
    """
    if isinstance(cell, str | bool):
        value = words.get(str(cell).lower())
    else:
        value = float(cell) if cell in words.values() else None
    if value is None:
        raise _BadCellError(f"{show(cell)} is none of the values of this column", f"known: {_listed(words)}")
    return value


def _text_reader(raw: RawInput) -> Callable[[Any], str]:
    levels = set(raw.levels)
    are_whole = all(re.fullmatch(r"[+-]?[0-9]+", level) for level in levels)

    def read(cell: Any) -> str:
        text = str(cell).lower() if isinstance(cell, bool) else str(cell)
        if text not in levels and are_whole and (whole := _WHOLE.fullmatch(text)):
            text = whole[1]
        if text not in levels and not raw.fills_unseen:
            raise _BadCellError(f"{show(text)} was not in the training data", f"known: {_listed(raw.levels)}")
        return text

    return read


def _listed(values: Iterable[str]) -> str:
    return ", ".join(map(show, itertools.islice(values, LISTED)))


def show(value: object) -> str:
    """Return a value as text for a message."""
    text = repr(str(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
