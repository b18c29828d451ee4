"""Sections about the columns of a table as they stand in its file: missing cells, numbers, categories."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hookline.sections import Bars, Section, Table

if TYPE_CHECKING:
    import polars as pl

    from hookline_plugins.data.tables.cells import Cells

_COLUMNS = ["column", "kind", "missing", "different", "minimum", "mean", "maximum", "standard deviation"]


def column_sections(cells: Cells) -> list[Section]:
    """Return a table of the columns in use, and the missing cells if there are any."""
    rows = list(_rows(cells))
    missing = sorted(((row[0], row[2]) for row in rows if row[2]), key=lambda pair: -pair[1])
    note = "The rows in use of all splits, before missing cells are filled in and numbers are scaled."
    sections: list[Section] = [Table(title="Columns", topic="data", columns=_COLUMNS, rows=rows, note=note)]
    if missing:
        names, counts = zip(*missing, strict=True)
        sections.append(Bars(title="Missing cells", topic="data", labels=names, values=counts, value_label="cells"))
    return sections


def _rows(cells: Cells) -> Iterator[list[Any]]:
    for column in cells.numbers:
        yield _numbers(column, "numbers")
    for column in cells.codes:
        yield [column.name, "categories", _num_missing(column), column.drop_nulls().n_unique(), None, None, None, None]
    for column in cells.targets:
        if cells.class_names:
            yield [column.name, "target, classes", _num_missing(column), len(cells.class_names), None, None, None, None]
        else:
            yield _numbers(column, "target")


def _numbers(column: pl.Series, kind: str) -> list[Any]:
    there = column.drop_nulls()
    measured: list[Any] = [there.min(), there.mean(), there.max(), there.std(ddof=0)] if len(there) else [None] * 4
    return [column.name, kind, _num_missing(column), there.n_unique(), *measured]


def _num_missing(column: pl.Series) -> int:
    return int(column.null_count())
