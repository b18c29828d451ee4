"""``Sheet``: the rows of a table file in a polars frame, with the location of each cell."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hookline import Fault, Location, PluginError
from hookline_plugins.data.tables.files.csv_records import Record, read_rows
from hookline_plugins.data.tables.files.format import BLANKS, TableFormat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import polars as pl

    from hookline_plugins.data.faults import Cell


def polars() -> Any:
    """Return the polars module.

    Raises:
        PluginError: If it is not installed.
    """
    try:
        import polars
    except ImportError as error:
        message = f"reading a table needs polars, which cannot be imported: {error}"
        raise PluginError(message, hint="pip install 'hookline[tables]'") from error
    return polars


@dataclass(frozen=True)
class Sheet:
    """The content of a table file, or of a part of it.

    Attributes:
        path: The file.
        names: The column names, in order; empty for a column without one.
        frame: The rows, without blank and faulty ones; a column of a CSV file is float64 or text.
        rows: The number in the file of each row of ``frame``, from 0 below the header.
        form: How the cells are written.
        source: The file or its converted content, to locate the cells of a CSV file; None for Parquet.
        problems: Reasons why rows of ``frame`` are malformed, by their number in the file.
    """

    path: Path
    names: tuple[str, ...]
    frame: pl.DataFrame
    rows: pl.Series
    form: TableFormat
    source: Path | bytes | None
    problems: Mapping[int, str] = field(default_factory=dict)

    def column(self, name: str) -> pl.Series:
        """Return a column; text is stripped of blanks and units, and null if nothing or a word for nothing is left."""
        pl = polars()
        column = self.frame[name]
        if column.dtype == pl.String:
            text = pl.col(name).str.strip_chars()
            is_present = (text != "") & ~text.is_in(self.form.missing_words)
            if unit := self.form.units.get(name):
                text = _without_unit(text, unit)
            column = column.to_frame().select(pl.when(is_present).then(text).alias(name)).to_series()
        elif column.dtype.is_float() and column.is_nan().any():
            column = column.fill_nan(None)
        return self._without_sentinels(column) if self.form.missing_numbers else column

    def cell_faults(self, cells: Sequence[Cell]) -> list[Fault]:
        """Return a fault for each cell, with its location in the file."""
        if self.source is None:
            where = Location(str(self.path))
            return [Fault(f"row {c.row + 1}, column {c.column!r}: {c.message}", where, c.hint) for c in cells]
        wanted, records = {cell.row for cell in cells}, {}
        for row, record in enumerate(read_rows(self.source, self.form)):
            if row in wanted:
                records[row] = record
                if len(records) == len(wanted):
                    break
        return [Fault(f"column {c.column!r}: {c.message}", self._locate(c, records.get(c.row)), c.hint) for c in cells]

    def _without_sentinels(self, column: pl.Series) -> pl.Series:
        """Return a column with null in place of the numbers that stand for a missing value."""
        if column.dtype.is_nested() or column.dtype.is_temporal():
            return column
        is_sentinel = as_numbers(column, self.form).is_in([float(number) for number in self.form.missing_numbers])
        kept: pl.Series = column.set(is_sentinel.fill_null(value=False), None)
        return kept

    def _locate(self, cell: Cell, record: Record | None) -> Location:
        if record is None:
            return Location(str(self.path))
        if self.form.delimiter == BLANKS:  # the columns of the file are not those of the parsed text
            return Location(str(self.path), record.line)
        return record.location(self.path, self.names.index(cell.column), self.form.delimiter)


def _without_unit(text: pl.Expr, unit: str) -> pl.Expr:
    """Return text without a unit before or after a number: ``-$ 5`` is ``-5``, ``5 %`` is ``5``."""
    mark = re.escape(unit)
    text = text.str.replace(rf"^([+-]?)\s*{mark}\s*([+-]?[\d.,])", "${1}${2}")
    return text.str.replace(rf"([\d.,])\s*{mark}$", "${1}")


def as_numbers(column: pl.Series, form: TableFormat) -> pl.Series:
    """Return a column as float64; text that is no number in this format becomes null.

    A duration is its number of seconds, a time of the day the number of hours since midnight.
    """
    pl = polars()
    if column.dtype == pl.Duration:
        return column.dt.total_microseconds().cast(pl.Float64) / 1e6
    if column.dtype == pl.Time:
        return column.cast(pl.Int64).cast(pl.Float64) / 3600e9
    if column.dtype != pl.String:
        return column.cast(pl.Float64, strict=False)
    if form.thousands:
        mark, sign = re.escape(form.thousands), re.escape(form.decimal)
        is_grouped = column.str.contains(rf"^[+-]?\d{{1,3}}({mark}\d{{3}})+({sign}\d*)?$")
        plain = pl.when(is_grouped).then(column.str.replace_all(form.thousands, "", literal=True)).otherwise(column)
        column = pl.select(plain.alias(column.name)).to_series()
    if form.decimal != ".":
        decimal = pl.when(~column.str.contains(".", literal=True)).then(
            column.str.replace(form.decimal, ".", literal=True)
        )
        column = pl.select(decimal.alias(column.name)).to_series()
    return column.cast(pl.Float64, strict=False)
