"""The columns of a table that decide on the split of each row: its file, and its class, group, time or split."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hookline_plugins.data.faults import LISTED, Cell, Faults
from hookline_plugins.data.splits import Key, Options, key_of, split_rows
from hookline_plugins.data.tables.columns import parsed
from hookline_plugins.data.tables.files.several import file_numbers, rows_in_files
from hookline_plugins.data.tables.files.sheet import Sheet, as_numbers, polars
from hookline_plugins.data.tables.kinds import show, whole_texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl
    from torch import Tensor


_ISO_DATE = r"^\d{4}(-(\d\d|W\d\d|Q\d)([-T :.\dZ]*))?$"
"""Dates and times of ISO 8601 without an offset, whose order is that of their texts."""


class Division(NamedTuple):
    """What decides on the splits of the rows of a table.

    Attributes:
        files: The number of the file of each row; the first one is split further.
        key: The value of each row in the column that decides; None for a random split.
        rows: The number of each row in its file, from 0 below the header.
    """

    files: pl.Series
    key: pl.Series | None
    rows: pl.Series

    def lacks_key(self) -> pl.Series:
        """Return a mask of the rows of the first file whose cell in the column that decides is empty."""
        own = self.files == 0
        return own.set(own, False) if self.key is None else own & self.key.is_null()

    def of_rows(self, keep: pl.Series) -> Division:
        """Return what decides on the rows under a mask."""
        key = None if self.key is None else self.key.filter(keep)
        return Division(self.files.filter(keep), key, self.rows.filter(keep))


def read_division(
    sheet: Sheet, options: Options, dates: Mapping[str, str], faults: Faults, *, refuses_gaps: bool
) -> Division:
    """Return what decides on the splits of a sheet.

    Args:
        sheet: The table.
        options: The options of its splits.
        dates: The forms of columns of dates.
        faults: Gets the faults.
        refuses_gaps: Whether an empty cell is a fault; otherwise such rows are left out later.
    """
    files, rows = file_numbers(sheet), rows_in_files(sheet)
    by = key_of(options)
    if by is None or by[1] not in sheet.names:  # a missing column is a fault already
        return Division(files, None, rows)
    option, name = by
    column = sheet.column(name)
    is_empty = column.is_null() & (files == 0)
    if refuses_gaps and is_empty.any():
        _add_cells(sheet, column, is_empty, f"the cell is empty, but `{option}` needs it", faults)
    key = _in_order(sheet, column, dates, faults) if option == "order_by" else _as_labels(column)
    return Division(files, key, rows)


def split_table(division: Division, options: Options, faults: Faults) -> dict[str, Tensor]:
    """Return the row numbers of each split, int64, in the order of the files; an empty split is a fault."""
    import torch

    numbers = torch.from_numpy(division.files.to_numpy(writable=True))
    own = (numbers == 0).nonzero().squeeze(1)
    rows = split_rows(len(own), options, _key(division, options), faults)
    for number, name in enumerate(options.files, start=1):
        if name in rows:
            hint = f"a split has one source: rename that of `files`, or the rows of {options.split_column!r}"
            faults.add(f"both a file and the column {options.split_column!r} name the split {name!r}", hint=hint)
        rows[name] = (numbers == number).nonzero().squeeze(1)
        if not len(rows[name]):
            faults.add(f"every row of the file of the split {name!r} has a missing cell", hint="list fewer `features`")
    # In memory the rows of the first file come first, so their numbers are those of the table.
    return rows


def _key(division: Division, options: Options) -> Key | None:
    import torch

    by = key_of(options)
    if division.key is None or by is None:
        return None
    column = division.key.filter(division.files == 0)
    codes = torch.from_numpy(column.rank("dense").cast(polars().Int64).to_numpy(writable=True)) - 1
    return Key(by[1], codes, column.unique().sort().cast(polars().String).to_list())


def _as_labels(column: pl.Series) -> pl.Series:
    """Return values as text, whole numbers without a fraction."""
    text = polars().String
    return whole_texts(column) if column.dtype.is_float() or column.dtype == text else column.cast(text, strict=False)


def _in_order(sheet: Sheet, column: pl.Series, dates: Mapping[str, str], faults: Faults) -> pl.Series:
    """Return values that sort as numbers, dates or times do; text whose order is unknown is a fault."""
    pl = polars()
    if column.dtype != pl.String:
        return column
    if (form := dates.get(column.name)) is not None:
        moments = parsed(column, form)
        wrong = moments.is_null() & column.is_not_null()
        _add_cells(sheet, column, wrong, f"a date of the form {form!r} is expected", faults)
        return moments
    numbers = as_numbers(column, sheet.form)
    if numbers.null_count() == column.null_count():
        return numbers
    if not column.str.contains(_ISO_DATE).all():
        example = column.filter(~column.str.contains(_ISO_DATE))[0]
        hint = "order by a column of numbers; or give the form of its dates in `dates`, such as '%d/%m/%Y'"
        faults.add(f"column {column.name!r} holds text such as {show(example)}, whose order is unknown", hint=hint)
    return column


def _add_cells(sheet: Sheet, column: pl.Series, mask: pl.Series, message: str, faults: Faults) -> None:
    rows = sheet.rows.filter(mask).head(LISTED)
    faults.add_cells([Cell(row, column.name, message) for row in rows], int(mask.sum()))
