"""One pass over Parquet files: categories, classes, means and scales; every fault of the columns is found.

Imported only when files are read, because it needs torch. Shapes: ``I`` columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hookline import Location
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.parquet.columns import Column
from hookline_plugins.data.parquet.files import Block
from hookline_plugins.data.tables.columns import Reader
from hookline_plugins.data.tables.files.format import TableFormat
from hookline_plugins.data.tables.files.sheet import Sheet, polars
from hookline_plugins.data.tables.scaling import Scale
from hookline_plugins.data.tables.ways import Ways

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray


_MOST_VALUES = 100_000
"""Number of different values of a column after which no more are collected: it is an identifier."""

_COUNT = "\0count"
"""Name of the column of counts of values, which no other has."""

_FILL_HINT = "fill it in, or set `missing` to 'mean'"
_TARGET_HINT = "a row without a target cannot be used: leave such rows out of the files"


class Moments:
    """Means, deviations and ranges of columns, of which the rows come in blocks; missing cells do not count.

    The deviations are merged by Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance".

    Args:
        num_columns: ``I``.
    """

    def __init__(self, num_columns: int) -> None:
        self.count, self.mean, self.squares = (np.zeros(num_columns) for _ in range(3))
        self.low, self.high = np.full(num_columns, np.inf), np.full(num_columns, -np.inf)

    @classmethod
    def of(cls, block: NDArray[np.float64]) -> Moments:
        """Return those of one block, as ``add`` takes it."""
        moments = cls(block.shape[1])
        moments.add(block)
        return moments

    def block(self) -> NDArray[np.float64]:
        """Return them as ``add`` takes them."""
        return np.stack([self.count, self.mean, self.squares, self.low, self.high])

    @np.errstate(all="ignore")  # numbers that are too large are found at the end
    def add(self, block: NDArray[np.float64]) -> None:
        """Add the counts, means, squared deviations, minima and maxima of a block, ``[5, I]``."""
        count, mean, squares, low, high = block
        has_any = count > 0
        total = self.count + count
        share = np.divide(count, total, out=np.zeros_like(total), where=total > 0)
        step = np.where(has_any, mean - self.mean, 0)
        self.mean += step * share
        self.squares += np.where(has_any, squares, 0) + step * step * self.count * share
        self.count = total
        self.low, self.high = np.fmin(self.low, low), np.fmax(self.high, high)

    @np.errstate(all="ignore")  # as above
    def scale(self, names: Sequence[str], num_rows: int, faults: Faults, *, is_scaled: bool) -> Scale:
        """Return the scale of the columns, as ``scaling.measure`` does: with the missing cells filled in."""
        for name, count in zip(names, self.count, strict=True):
            if not count:
                faults.add(f"column {name!r} has no values in the training split, and so no mean")
        is_constant = self.low >= self.high
        mean = np.where(is_constant & (self.count > 0), self.low, self.mean)
        scale = np.where(is_constant, 1, np.sqrt(self.squares / num_rows))
        if not is_scaled:
            return Scale(tuple(names), *map(torch.tensor, (self.mean, np.zeros_like(mean), np.ones_like(mean))))
        for number in np.flatnonzero(~(np.isfinite(mean) & np.isfinite(scale) & (scale > 0))).tolist():
            what = "its numbers are too large or too close together"
            faults.add(f"column {names[number]!r} cannot be standardized: {what}")
        return Scale(tuple(names), *map(torch.tensor, (self.mean, mean, scale)))


@dataclass(frozen=True)
class Survey:
    """What a pass over the files has found.

    Attributes:
        features: The features.
        targets: The targets.
        class_names: The names of the classes, for a classification.
        feature_moments: The moments of what is made of the features, in the training split.
        target_moments: Those of the targets.
    """

    features: list[Column]
    targets: list[Column]
    class_names: tuple[str, ...]
    feature_moments: Moments
    target_moments: Moments


class _Tally:
    """Numbers and faults of columns, block by block.

    Args:
        columns: The columns without categories.
        coded: Those with categories, whose different values are counted.
        train: The blocks of the training split.
    """

    def __init__(self, columns: Sequence[Column], coded: Sequence[Column], train: Iterable[Block]) -> None:
        self._columns, self._coded, self._train = columns, coded, set(train)
        self.names = [name for column in columns for name in column.names]
        self.moments = Moments(len(self.names))
        self.values: dict[str, dict[Any, int]] = {column.name: {} for column in coded}
        self.trained: dict[str, dict[Any, int]] = {column.name: {} for column in coded}
        self.problems: dict[tuple[str, str], tuple[int, Block]] = {}

    def add(self, block: Block) -> None:
        """Read a block."""
        pl = polars()
        values = [value for column in self._columns for value in column.values()]
        numbers = [
            getattr(value, what)().cast(pl.Float64).alias(f"{number}.{what}")
            for what in ("count", "mean", "var", "min", "max")
            for number, value in enumerate(values)
        ]
        levels = [pl.col(column.name).value_counts(name=_COUNT).implode() for column in self._coded]
        nulls = [pl.col(column.name).null_count().alias(f"{column.name}.null") for column in self._coded]
        row = block.read([*numbers, *levels, *nulls]).row(0)
        found = np.array(row[: len(numbers)], dtype=np.float64).reshape(5, len(values))
        found[2] = np.where(found[0] > 1, found[2] * (found[0] - 1), 0)
        if block in self._train:
            self.moments.add(found)
        place = 0
        for column in self._columns:
            self._check(column, block, found[:, place])
            place += len(column.names)
        rest = zip(self._coded, row[len(numbers) :], row[len(numbers) + len(levels) :], strict=False)
        for column, level, num_missing in rest:
            self._count(column.name, level, is_trained=block in self._train)
            self._note(column.name, "missing", num_missing, block)

    def _check(self, column: Column, block: Block, found: NDArray[np.float64]) -> None:
        """Count the faulty cells of a block, of which there are usually none."""
        if found[0] == block.size and np.isfinite(found[3:]).all():
            return
        masks = _masks(column)
        for what, count in (
            block.read([mask.sum().alias(what) for what, mask in masks.items()]).row(0, named=True).items()
        ):
            self._note(column.name, what, count, block)

    def _note(self, name: str, what: str, count: int, block: Block) -> None:
        if count:
            total, first = self.problems.get((name, what), (0, block))
            self.problems[name, what] = total + count, first

    def _count(self, name: str, found: Sequence[Mapping[str, Any]], *, is_trained: bool) -> None:
        for each in found:
            value, count = each[name], each[_COUNT]
            if value is None or value != value or len(self.values[name]) > _MOST_VALUES:  # noqa: PLR0124 - NaN
                continue
            self.values[name][value] = self.values[name].get(value, 0) + count
            if is_trained:
                self.trained[name][value] = self.trained[name].get(value, 0) + count


def survey(
    blocks: Mapping[str, Sequence[Block]],
    features: Sequence[Column],
    targets: Sequence[Column],
    labels: Sequence[str],
    task: str,
    missing: str,
    faults: Faults,
) -> Survey:
    """Read all blocks once.

    Args:
        blocks: The blocks of each split.
        features: The features, those with categories without them.
        targets: The targets.
        labels: The names of the columns with categories: one-hot features, and the target of a classification.
        task: The option ``task``.
        missing: The option ``missing``.
        faults: Gets every fault.
    """
    every = [*features, *targets]
    plain, coded = [c for c in every if c.name not in labels], [c for c in every if c.name in labels]
    tally = _Tally(plain, coded, blocks["train"])
    for split in blocks.values():
        for block in split:
            tally.add(block)
    target_names = {column.name for column in targets}
    for (name, what), (count, block) in tally.problems.items():
        if what != "missing" or missing == "error" or name in target_names:
            hint = _TARGET_HINT if name in target_names else _FILL_HINT
            column = next(c for c in every if c.name == name)
            _add_problem(replace(column, codes={}) if column in coded else column, what, count, block, hint, faults)
    class_names: tuple[str, ...] = ()
    known: dict[str, Column] = {column.name: column for column in plain}
    for column in coded:
        known[column.name] = _with_categories(column, tally.values[column.name], task, target_names, faults)
        if column.name in target_names:
            class_names = tuple(known[column.name].categories)
    parts = [[known[column.name] for column in group] for group in (features, targets)]
    moments = [_moments_of(group, tally) for group in parts]
    return Survey(parts[0], parts[1], class_names, *moments)


def identity(names: Sequence[str]) -> Scale:
    """Return the scale of columns that are not scaled."""
    zeros, ones = torch.zeros(len(names), dtype=torch.float64), torch.ones(len(names), dtype=torch.float64)
    return Scale(tuple(names), zeros, zeros, ones)


def _masks(column: Column) -> dict[str, pl.Expr]:
    """Return expressions for the faulty cells of a column, by what is wrong with them."""
    is_null, value = polars().col(column.name).is_null(), column.values()[0]
    if column.date_form is not None:
        return {"missing": is_null, "no date": ~is_null & value.is_null()}
    if column.codes is not None:
        return {"missing": is_null}
    return {"missing": value.is_null(), "not finite": value.is_infinite().fill_null(value=False)}


def _add_problem(column: Column, what: str, count: int, block: Block, hint: str, faults: Faults) -> None:
    """Add a fault with the first row of a problem."""
    found = block.read([_masks(column)[what].arg_true().first().alias("row")])
    row = block.first + int(found["row"][0]) + 1
    more = f" (the first of {count:,} such cells)" if count > 1 else ""
    message = {"missing": "the cell is empty", "not finite": "the number is not finite"}.get(what, f"{what}")
    if what == "no date":
        message, hint = f"the text is not a date of the form {column.date_form!r}", "change the form in `dates`"
    where = Location(str(block.path))
    faults.add(f"row {row:,}, column {column.name!r}: {message}{more}", location=where, hint=hint)


def _with_categories(column: Column, values: Mapping[Any, int], task: str, targets: set[str], faults: Faults) -> Column:
    """Return a column with the categories that the source ``csv`` makes of its values."""
    pl = polars()
    if len(values) > _MOST_VALUES:
        faults.add(f"column {column.name!r} has more than {_MOST_VALUES:,} different values", hint="leave it out")
        return replace(column, codes={})
    frame = pl.Series(column.name, list(values), strict=False).to_frame()
    sheet = Sheet(Path(), (column.name,), frame, pl.int_range(frame.height, eager=True), TableFormat(), None)
    reader = Reader(sheet, faults, Ways("mean"))
    if column.name in targets:
        indices, names = reader.classes(column.name, is_binary=task == "binary")
        return replace(column, codes=dict(zip(values, indices, strict=True)), categories=names)
    codes, levels, _ = reader.codes(column.name)
    numbers = {value: code - 1 for value, code in zip(values, codes, strict=True) if code is not None}
    return replace(column, codes=numbers, categories=levels)


def _moments_of(columns: Sequence[Column], tally: _Tally) -> Moments:
    """Return the moments of what is made of columns, in their order."""
    names = [name for column in columns for name in column.names]
    block = np.zeros((5, len(names)))
    places, measured = {name: number for number, name in enumerate(tally.names)}, tally.moments.block()
    first = 0
    for column in columns:
        for number in range(first, first + len(column.names)):
            if column.codes is None:
                block[:, number] = measured[:, places[names[number]]]
            else:
                block[:, number] = _of_category(column.codes, tally.trained[column.name], number - first)
        first += len(column.names)
    return Moments.of(block)


def _of_category(codes: Mapping[Any, int], counts: Mapping[Any, int], number: int) -> list[float]:
    """Return count, mean, squared deviations, minimum and maximum of the 0/1 feature of a category."""
    total = sum(counts.values())
    ones = sum(count for value, count in counts.items() if codes[value] == number)
    share = ones / total if total else 0.0
    return [total, share, ones * (1 - share), float(ones == total), float(ones > 0)]
