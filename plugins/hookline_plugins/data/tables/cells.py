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
        numbers: The columns of numbers, with each part of a date.
        codes: The columns of categories, as codes.
        targets: The targets.
        class_names: The names of the classes, for a classification.
        num_without_target: The number of rows that were left out because they have no target.
    """

    division: Division
    columns: list[tuple[str, Levels]] = field(default_factory=list)
    numbers: list[pl.Series] = field(default_factory=list)
    codes: list[pl.Series] = field(default_factory=list)
    targets: list[pl.Series] = field(default_factory=list)
    class_names: tuple[str, ...] = ()
    num_without_target: int = 0

    def leave_out(self, faults: Faults, *, with_any_gap: bool) -> None:
        """Leave out the rows that lack a target, or any cell.

        Raises:
            DataError: If no row is left.
        """
        has_target = ~_any_null(self.targets)
        cells = [*self.numbers, *self.codes]
        keep = has_target & ~_any_null(cells) & ~self.division.lacks_key() if with_any_gap else has_target
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
