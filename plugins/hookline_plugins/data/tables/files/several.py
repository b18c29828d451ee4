"""Several table files, one for each split, read as one sheet."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hookline_plugins.data.faults import Faults
from hookline_plugins.data.tables.files.reading import Reading, read_table
from hookline_plugins.data.tables.files.sheet import Sheet, polars

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    import polars as pl

    from hookline import Fault
    from hookline_plugins.data.faults import Cell


@dataclass(frozen=True)
class Sheets(Sheet):
    """The rows of several files, one after another, under the column names of the first.

    Attributes:
        parts: The sheet of each file.
        starts: The number of the first row of each file in ``rows``.
    """

    parts: Sequence[Sheet] = ()
    starts: Sequence[int] = ()

    def cell_faults(self, cells: Sequence[Cell]) -> list[Fault]:
        """Return a fault for each cell, with its location in its file."""
        faults = []
        for part, start, stop in zip(self.parts, self.starts, [*self.starts[1:], None], strict=True):
            own = [cell for cell in cells if start <= cell.row and (stop is None or cell.row < stop)]
            faults += part.cell_faults([cell._replace(row=cell.row - start) for cell in own])
        return faults


def read_tables(
    path: Path, others: Mapping[str, Path], reading: Reading, faults: Faults, optional: Collection[str] = ()
) -> Sheet:
    """Read a file, and further ones with the same columns; see ``read_table``.

    Columns that only further files have are ignored; ``optional`` ones, which only the first needs, are null there.

    Raises:
        DataError: If a file cannot be read any further; carries every fault of this file.
        PluginError: If polars is not installed.
    """
    first = read_table(path, reading, faults)
    if not others:
        return first
    faults.check(first)
    parts = [first, *(_read_further(first, other, reading, optional) for other in others.values())]
    if mixed := _mixed(parts):
        as_text = replace(reading, is_text=lambda name: name in mixed or reading.is_text(name))
        parts = [read_table(part.path, as_text, Faults(part.path)) for part in parts]
    pl = polars()
    names = dict.fromkeys(first.names)
    frames = [_with_columns(part, list(names), mixed) for part in parts]
    try:
        frame = pl.concat(frames, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        faults.stop(f"the columns of the files are of different types: {str(error).splitlines()[0]}")
    sizes = [int(part.rows.max()) + 1 for part in parts]  # type: ignore[arg-type] # row numbers
    starts = [0, *itertools.accumulate(sizes[:-1])]
    rows = pl.concat([part.rows + start for part, start in zip(parts, starts, strict=True)])
    return Sheets(path, tuple(names), frame, rows, first.form, first.source, {}, parts, starts)


def file_numbers(sheet: Sheet) -> pl.Series:
    """Return the number of the file of each row of a sheet, from 0."""
    parts = sheet.parts if isinstance(sheet, Sheets) else [sheet]
    columns = [polars().repeat(number, part.frame.height, eager=True) for number, part in enumerate(parts)]
    numbers: pl.Series = polars().concat(columns)
    return numbers


def rows_in_files(sheet: Sheet) -> pl.Series:
    """Return the number of each row of a sheet in its file, from 0 below the header."""
    parts = sheet.parts if isinstance(sheet, Sheets) else [sheet]
    rows: pl.Series = polars().concat([part.rows.cast(polars().UInt32) for part in parts])
    return rows


def _read_further(first: Sheet, path: Path, reading: Reading, optional: Collection[str]) -> Sheet:
    faults = Faults(path)
    sheet = read_table(path, reading, faults)
    for name in first.names:
        if name and name not in sheet.names and name not in optional:
            faults.add(f"there is no column {name!r}, which {first.path.name} has", hint="the files need equal columns")
    faults.check(sheet)
    return sheet


def _mixed(parts: Sequence[Sheet]) -> set[str]:
    """Return the columns that are text in some files alone."""
    text = polars().String
    kinds: dict[str, set[bool]] = {}
    for part in parts:
        for name, dtype in part.frame.schema.items():
            kinds.setdefault(name, set()).add(dtype == text)
    return {name for name, found in kinds.items() if len(found) > 1}


def _with_columns(sheet: Sheet, names: list[str], mixed: Collection[str]) -> pl.DataFrame:
    pl = polars()
    there = set(sheet.frame.columns)
    columns = [pl.col(name) if name in there else pl.lit(None).alias(name) for name in names if name or name in there]
    return sheet.frame.select(columns).with_columns(pl.col(name).cast(pl.String) for name in mixed if name in names)
