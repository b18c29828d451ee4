"""``Sheet``: the rows of a table file in a polars frame, with the location of each cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hookline import Fault, Location, PluginError
from hookline_plugins.data.csv_records import Record, read_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
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
        frame: The rows, without blank and faulty ones; all text for a CSV file.
        rows: The number in the file of each row of ``frame``, from 0 below the header.
        delimiter: The delimiter of a CSV file; None for Parquet.
    """

    path: Path
    names: tuple[str, ...]
    frame: pl.DataFrame
    rows: pl.Series
    delimiter: str | None

    def column(self, name: str) -> pl.Series:
        """Return a column; text is stripped of blanks, and null if nothing is left."""
        pl = polars()
        column = self.frame[name]
        if column.dtype != pl.String:
            return column
        text = pl.col(name).str.strip_chars()
        return column.to_frame().select(pl.when(text != "").then(text)).to_series().alias(name)

    def cell_faults(self, cells: Sequence[Cell]) -> list[Fault]:
        """Return a fault for each cell, with its location in the file."""
        if self.delimiter is None:
            where = Location(str(self.path))
            return [Fault(f"row {c.row + 1}, column {c.column!r}: {c.message}", where, c.hint) for c in cells]
        wanted, records = {cell.row for cell in cells}, {}
        for row, record in enumerate(read_rows(self.path, self.delimiter)):
            if row in wanted:
                records[row] = record
                if len(records) == len(wanted):
                    break
        return [Fault(f"column {c.column!r}: {c.message}", self._locate(c, records.get(c.row)), c.hint) for c in cells]

    def _locate(self, cell: Cell, record: Record | None) -> Location:
        assert self.delimiter is not None
        if record is None:
            return Location(str(self.path))
        return record.location(self.path, self.names.index(cell.column), self.delimiter)
