"""``Cells``: the cells of a table as they were read."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from hookline_plugins.data.faults import Faults
    from hookline_plugins.data.tables.dividing import Division
    from hookline_plugins.data.tables.features import Levels


@dataclass
class Cells:
    """The cells of a file, as they were read.

    Attributes:
        division: What decides on the split of each row.
        columns: The names of the columns to predict from; each with the levels of its categories, None for numbers and
            dates.
        others: The columns of categories with a feature for other values.
        flags: The columns of numbers and dates with a feature for missing cells.
        booleans: The columns of words for true and false.
        needed: The columns whose rows are dropped where a cell is missing.
        numbers: The columns of numbers, with each part of a date.
        codes: The columns of categories, as codes.
        targets: The targets.
        class_names: The names of the classes, for a classification.
        num_without_target: The number of rows that were left out because they have no target.
    """

    division: Division
    columns: list[tuple[str, Levels]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    booleans: list[str] = field(default_factory=list)
    needed: list[pl.Series] = field(default_factory=list)
    numbers: list[pl.Series] = field(default_factory=list)
    codes: list[pl.Series] = field(default_factory=list)
    targets: list[pl.Series] = field(default_factory=list)
    class_names: tuple[str, ...] = ()
    num_without_target: int = 0

    def leave_out(self, faults: Faults, *, drops_rows: bool) -> None:
        """Leave out rows that lack a target, a needed cell or, with ``drops_rows``, the cell that decides on the split.

        Raises:
            DataError: If no row is left.
        """
        has_target = ~_any_null(self.targets)
        keep = has_target & ~self.division.lacks_key() if drops_rows else has_target
        keep = keep & ~_any_null(self.needed) if self.needed else keep
        if not keep.any():
            faults.stop("every row has a missing cell, so dropping them leaves no rows", hint="list fewer `features`")
        if not keep.all():
            self.division = self.division.of_rows(keep)
            for columns in (self.numbers, self.codes, self.targets):
                columns[:] = [column.filter(keep) for column in columns]
        self.num_without_target = int((~has_target).sum())


def _any_null(columns: list[pl.Series]) -> pl.Series:
    masks = [column.is_null() for column in columns if column.null_count()]
    return functools.reduce(operator.or_, masks, columns[0].is_null() if not masks else masks[0])
