"""Ways to treat the columns of a table: missing cells, rare categories, transforms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Missing = Literal["error", "drop", "mean", "median", "other"] | float
"""How to treat missing cells; a number fills them in."""
Transform = Literal["log", "log1p", "uniform", "normal"]
"""A transform of numbers: a logarithm, or their quantiles as uniform or normal numbers."""


@dataclass(frozen=True)
class Ways:
    """How to treat the columns of a table.

    Attributes:
        missing: How to treat missing cells.
        missing_by_column: The same, for single columns.
        transforms: The transforms of columns.
        min_frequency: The number of rows, or their share, below which a category is rare.
        max_categories: The most categories of a column, with the one for all rare ones.
    """

    missing: Missing = "error"
    missing_by_column: Mapping[str, Missing] = field(default_factory=dict)
    transforms: Mapping[str, Transform] = field(default_factory=dict)
    min_frequency: float = 1
    max_categories: int | None = None

    def missing_of(self, name: str) -> Missing:
        """Return how to treat the missing cells of a column."""
        return self.missing_by_column.get(name, self.missing)

    def fill_of(self, name: str) -> Missing:
        """Return the way to fill in the missing cells of a column of numbers, which may be part of a date."""
        way = self.missing_of(name)
        return way if isinstance(way, float) or way == "median" else "mean"
