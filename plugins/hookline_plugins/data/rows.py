"""Arrays and frames of a program as NumPy arrays with the names of their columns.

A frame is anything with named columns that ``frame[name]`` returns: of pandas, polars or Arrow, a structured array, a
mapping. Columns and everything else are read by their ``__array__``, as NumPy does. So no library is imported.

Shapes: ``N`` rows, ``I`` columns.
"""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from hookline_plugins.data.faults import Faults

    Array = NDArray[Any]

_ROWS_HINT = "rows count from 0; drop or fill in such rows"


class Rows(NamedTuple):
    """Rows of a program.

    Attributes:
        values: Their values, ``[N, ...]``: booleans, integers, floating-point numbers or, if read as such, labels.
        names: The names of the columns; empty without names.
    """

    values: Array
    names: tuple[str, ...] = ()


def read_numbers(given: Any, what: str, faults: Faults, columns: Collection[str] = ()) -> Rows | None:
    """Return rows of finite numbers; add a fault for each column with a value that is none, and return None.

    Args:
        given: An array, a tensor or a frame.
        what: The name of the rows for messages.
        faults: Gets the faults.
        columns: The columns of a frame to read, in this order; empty for all.
    """
    parts = _columns_of(given, what, faults, columns)
    if parts is None:
        return None
    checked = [_as_numbers(values, _place(what, name), faults) for name, values in parts]
    names = tuple(name for name, _ in parts if name is not None)
    arrays = [array for array in checked if array is not None]
    if len(arrays) < len(parts):
        return None
    return Rows(np.stack(arrays, axis=1) if names else arrays[0], names)


def read_labels(given: Any, what: str, faults: Faults) -> Rows | None:
    """Return one column of labels ``[N]`` of any type, or several columns; None, with a fault, if one is missing."""
    parts = _columns_of(given, what, faults, ())
    if parts is None:
        return None
    missing = {_place(what, name): rows for name, values in parts if len(rows := _missing_rows(values))}
    for place, rows in missing.items():
        _add_rows(rows, place, "missing", faults)
    if missing:
        return None
    names = tuple(name for name, _ in parts if name is not None)
    arrays = [values for _, values in parts]
    return Rows(np.stack(arrays, axis=1) if len(arrays) > 1 else arrays[0], names)


def _missing_rows(values: Array) -> Array:
    if values.dtype.kind not in "Of" or not values.size:
        return np.empty(0, int)
    missing = np.isnan(values) if values.dtype.kind == "f" else np.frompyfunc(is_missing, 1, 1)(values).astype(bool)
    return np.flatnonzero(missing.reshape(len(values), -1).any(axis=1))


def is_missing(value: Any) -> bool:
    """Return whether a value stands for a missing one: None, NaN, or the value of a library for it."""
    is_nan = isinstance(value, float) and value != value  # noqa: PLR0124 - NaN alone differs from itself
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def names_of(given: Any) -> list[Any] | None:
    """Return the names of the columns of a frame, as the frame knows them; None for anything without columns."""
    if isinstance(given, dict):
        return list(given)
    names = getattr(getattr(given, "dtype", None), "names", None)  # of a structured array
    for attribute in ("column_names", "columns"):  # of Arrow; of pandas and polars
        names = getattr(given, attribute, None) if names is None else names
    return None if names is None or callable(names) else list(names)


def _place(what: str, name: str | None) -> str:
    return what if name is None else f"column {name!r} of {what}"


def _columns_of(
    given: Any, what: str, faults: Faults, columns: Collection[str]
) -> Sequence[tuple[str | None, Array]] | None:
    """Return the columns of a frame with their names, or an array without one; None, with a fault, for neither."""
    names = names_of(given)
    if names is None:
        array = _array(given, what, faults)
        return None if array is None else [(None, array)]
    known = {str(name): name for name in names}
    if repeated := next((name for name in known if [str(one) for one in names].count(name) > 1), None):
        faults.add(f"{what} have several columns {repeated!r}", hint="give each column a name of its own")
        return None
    if missing := [name for name in columns if name not in known]:
        faults.add(f"{what} have no column {', '.join(map(repr, missing))}", hint=f"they have {', '.join(known)}")
        return None
    if not known:
        faults.add(f"{what} have no columns")
        return None
    found = [(name, _array(given[known[name]], _place(what, name), faults)) for name in columns or known]
    arrays: list[tuple[str | None, Array]] = [(name, array) for name, array in found if array is not None]
    for name, array in arrays:
        if array.ndim != 1:
            faults.add(f"{_place(what, name)} has the shape {list(array.shape)}, not [N]", hint="pass it as an array")
    return arrays if len(arrays) == len(found) and all(array.ndim == 1 for _, array in arrays) else None


def _array(given: Any, place: str, faults: Faults) -> Array | None:
    """Return the values of an array, a tensor or a column; not copied where its library does not."""
    if hasattr(given, "detach"):  # a tensor
        given = given.detach().cpu()
        given = given.float() if str(given.dtype) == "torch.bfloat16" else given  # NumPy has no such type
    try:
        if np.ma.isMaskedArray(given):
            masked = np.ma.getmaskarray(given)
            given = np.ma.getdata(given).astype(object)
            given[masked] = None
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        faults.add(f"{place} cannot be read as an array: {error}", hint=_HINT)
        return None
    if array.ndim:
        return array
    faults.add(f"{place} are {type(given).__name__}, not an array or a frame", hint=_HINT)
    return None


_HINT = "pass a NumPy array, a dense tensor on any device, or a frame of pandas, polars or Arrow"


def _as_numbers(values: Array, place: str, faults: Faults) -> Array | None:
    kind = values.dtype.kind
    if kind == "O":
        return _of_objects(values, place, faults)
    if kind not in "biuf":
        hint = "encode it as numbers, for example one column for each value" if kind in "USO" else None
        faults.add(f"{place} holds {values.dtype}, not numbers", hint=hint)
        return None
    if kind == "f" and values.dtype.itemsize > 8:  # torch has no such type
        values = values.astype(np.float64)
    if kind == "f" and not (is_good := np.isfinite(values)).all():
        rows = np.flatnonzero(~is_good.reshape(len(values), -1).all(axis=1))
        value = values[rows[0]][~is_good[rows[0]]].flat[0] if values.ndim > 1 else values[rows[0]]
        _add_rows(rows, place, "missing (NaN)" if math.isnan(value) else str(value), faults)
        return None
    return values


def _of_objects(values: Array, place: str, faults: Faults) -> Array | None:
    """Return Python objects as float64, or as booleans if all of them are."""
    missing, numbers_found = [], np.empty(values.size)
    for number, value in enumerate(values.flat):
        if is_missing(value):
            missing.append(number * len(values) // values.size)
        elif isinstance(value, numbers.Number) and not isinstance(value, complex):
            numbers_found[number] = float(value)  # type: ignore[arg-type] # such as a Decimal
        else:
            row = number * len(values) // values.size
            faults.add(f"row {row} of {place} is {str(value)[:40]!r}, not a number", hint="encode it as a number")
            return None
    if missing:
        _add_rows(list(dict.fromkeys(missing)), place, "missing", faults)
        return None
    return _as_numbers(numbers_found.reshape(values.shape), place, faults)


def _add_rows(rows: Sequence[int] | Array, place: str, what: str, faults: Faults) -> None:
    more = f" (the first of {len(rows):,} such rows)" if len(rows) > 1 else ""
    faults.add(f"row {int(rows[0])} of {place} is {what}{more}", hint=_ROWS_HINT)
