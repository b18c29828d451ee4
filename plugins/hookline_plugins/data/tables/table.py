"""Data source ``csv``: a table in a CSV or Parquet file, split, cleaned and scaled.

Shapes: ``N`` rows, ``I`` input features, ``O`` targets.
"""

from __future__ import annotations

import functools
import operator
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from msgspec import Meta

from hookline import DataSource, hookimpl
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.splits import (
    Files,
    Fractions,
    GroupBy,
    OrderBy,
    SplitColumn,
    SplitSeed,
    Stratify,
    check_options,
    key_of,
    named,
)
from hookline_plugins.data.tables.columns import Missing, Reader, stacked
from hookline_plugins.data.tables.dividing import Division, read_division, split_table
from hookline_plugins.data.tables.files.format import MISSING_WORDS, TableFormat
from hookline_plugins.data.tables.files.reading import Reading
from hookline_plugins.data.tables.files.several import read_tables
from hookline_plugins.data.tables.starting.choosing import choose_columns

if TYPE_CHECKING:
    import polars as pl

    from hookline import Outcome, Predictor, RunView
    from hookline_plugins.data.tables.scaling import Scale


_Names = tuple[str, ...]


class _Columns(NamedTuple):
    """The columns of a file.

    Attributes:
        features: The features, with a column for each category and each part of a date.
        targets: The targets.
        class_names: The names of the classes, for a classification.
        categories: The categories of each feature column; None for a column of numbers or dates.
        num_without_target: The number of rows that were left out because they have no target.
        division: What decides on the split of each row.
    """

    features: list[pl.Series]
    targets: list[pl.Series]
    class_names: tuple[str, ...]
    categories: dict[str, list[str] | None]
    num_without_target: int
    division: Division


@dataclass
class Table:
    """A table in a CSV file, or in a Parquet file if its name ends in ``.parquet``.

    A CSV file may be compressed with gzip, bzip2, xz or Zstandard, or be the only file of a zip archive.

    Inputs are float64 ``[N, I]``. Targets are float64 ``[N, O]`` (regression), int64 ``[N]`` with class indices
    (classification), or float64 ``[N, 1]`` of 0 and 1 (binary). Numbers are read to the nearest float64. An empty cell
    is a missing value, and so is one of ``missing_words``; blanks around a cell are ignored. A row without a target is
    left out, with a warning, unless ``missing`` is ``error``.

    Rows are split at random; each split keeps the order of the file. Means and standard deviations are those of the
    training split, with ``N`` in the denominator; a column that is constant there is only centered. One-hot columns are
    standardized like all others. New rows are read with the categories, means and scales of the training data.

    After a regression with a linear model, its coefficients are reported in the units of the file. So are metrics; the
    loss is that of the scaled targets.
    """

    path: Annotated[Path, Meta(description="the CSV or Parquet file")]
    target: Annotated[
        str | Annotated[_Names, Meta(min_length=1)], Meta(description="column to predict, or a list of columns")
    ]
    features: Annotated[_Names, Meta(description="columns to predict from; all others if empty")] = ()
    task: Annotated[Literal["regression", "classification", "binary"], Meta(description="how to treat the target")] = (
        "regression"
    )
    split: Fractions = (1.0,)
    split_seed: SplitSeed = 0
    stratify: Stratify = ""
    group_by: GroupBy = ""
    order_by: OrderBy = ""
    split_column: SplitColumn = ""
    files: Files = field(default_factory=dict)
    standardize: Annotated[bool, Meta(description="scale features to mean 0 and standard deviation 1")] = False
    standardize_target: Annotated[bool, Meta(description="scale the targets of a regression in the same way")] = False
    missing: Annotated[
        Missing,
        Meta(description="missing cells: report an error, drop the row, or fill in the mean of the training split"),
    ] = "error"
    unseen: Annotated[
        Literal["error", "mean"],
        Meta(description="categories of new rows that the training data lack: report an error, or fill in the mean"),
    ] = "error"
    faulty: Annotated[
        Literal["error", "empty"],
        Meta(description="new rows that cannot be read: report an error, or leave their predictions empty"),
    ] = "error"
    one_hot: Annotated[_Names, Meta(description="features to replace by a 0/1 feature for each of their values")] = ()
    dates: Annotated[
        dict[str, str],
        Meta(description="features to replace by the parts of a date, with its form, such as '%Y-%m-%d'"),
    ] = field(default_factory=dict)
    delimiter: Annotated[
        str,
        Meta(min_length=1, max_length=1, description="character between the cells of a CSV file; ' ' for any blanks"),
    ] = ","
    decimal: Annotated[Literal[".", ","], Meta(description="decimal sign of numbers in a CSV file")] = "."
    thousands: Annotated[
        str, Meta(max_length=1, description="character between groups of three digits in a CSV file")
    ] = ""
    comment: Annotated[str, Meta(description="beginning of lines of a CSV file to leave out, such as '#'")] = ""
    header: Annotated[
        bool, Meta(description="take the column names from the first line; without, they are column_1, column_2, ...")
    ] = True
    encoding: Annotated[str, Meta(description="encoding of a CSV file, such as 'cp1252' or 'utf-16'")] = "utf-8"
    missing_words: Annotated[_Names, Meta(description="texts that stand for a missing value")] = MISSING_WORDS
    missing_numbers: Annotated[
        tuple[float, ...], Meta(description="numbers that stand for a missing value, such as -999")
    ] = ()
    units: Annotated[
        dict[str, str],
        Meta(description="columns whose numbers have a unit before or after them, with the unit, such as '$' or '%'"),
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._scales: tuple[Scale, Scale] | None = None
        self._num_without_target = 0
        check_options(self)
        self._form  # noqa: B018 - a format that cannot be is refused
        if self.standardize_target and self.task != "regression":
            raise ValueError(f"`standardize_target` is for task = 'regression', not {self.task!r}")
        if self.task != "regression" and len(self._targets) > 1:
            raise ValueError(f"task = {self.task!r} takes one target, not {len(self._targets)}")

    @property
    def _form(self) -> TableFormat:
        return TableFormat(**{option.name: getattr(self, option.name) for option in fields(TableFormat)})

    @property
    def _targets(self) -> tuple[str, ...]:
        return (self.target,) if isinstance(self.target, str) else self.target

    @hookimpl
    def build_data(self) -> DataSource:
        """Read and split the file."""
        faults = Faults(self.path)
        columns = self.read(faults)
        features, targets, class_names = columns.features, columns.targets, columns.class_names
        self._num_without_target = columns.num_without_target

        from torch.utils.data import TensorDataset  # only now: a bad file is reported without waiting for torch

        from hookline_plugins.data.tables.scaling import prepare

        x, y = stacked(features), stacked(targets)
        splits = split_table(columns.division, self, faults)
        faults.check()
        train = splits["train"] if len(splits) > 1 else None
        names = tuple(column.name for column in features), tuple(column.name for column in targets)
        self._scales = scales = (
            prepare(x, train, names[0], faults, is_scaled=self.standardize),
            prepare(y, train, names[1], faults, is_scaled=self.standardize_target),
        )
        faults.check()
        y = y.squeeze(0).long() if self.task == "classification" else y.T
        return DataSource(
            **named({name: TensorDataset(x.T[rows], y[rows]) for name, rows in splits.items()}),
            in_features=len(names[0]),
            out_features=len(class_names) if self.task == "classification" else len(names[1]),
            feature_names=names[0],
            target_names=names[1],
            class_names=class_names,
            task=self.task,
            unscale=scales[1].unscaled if self.standardize_target else None,
            kept={
                "features": [[name, categories] for name, categories in columns.categories.items()],
                "dates": dict(self.dates),
                "fill": scales[0].fill.tolist(),
                "mean": scales[0].mean.tolist(),
                "scale": scales[0].scale.tolist(),
                "target_mean": scales[1].mean.tolist(),
                "target_scale": scales[1].scale.tolist(),
            },
        )

    @hookimpl
    def build_predictor(self, data: DataSource) -> Predictor:
        """Read new rows with the categories, means and scales of the training data."""
        from hookline_plugins.data.tables.predictor import Rules, TablePredictor

        rules = Rules(self.missing, fills_unseen=self.unseen == "mean", leaves_empty=self.faulty == "empty")
        return TablePredictor(data, self._form, rules, self.task)

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Warn of rows that were left out."""
        if count := self._num_without_target:
            rows = "1 row has" if count == 1 else f"{count:,} rows have"
            run.warn(f"{rows} no target, and cannot be used: {self.path.name}")

    @hookimpl
    def on_run_end(self, run: RunView, outcome: Outcome) -> None:
        """Report the coefficients of a linear regression in the units of the file."""
        from torch import nn

        layer, is_over = run.unwrapped_model, outcome in ("completed", "stopped")
        if is_over and self.task == "regression" and isinstance(layer, nn.Linear) and self._scales:
            from hookline_plugins.data.tables.scaling import coefficients

            run.report("coefficients", coefficients(layer, *self._scales))

    def read(self, faults: Faults) -> _Columns:
        """Return the columns of the file, without the rows to drop.

        Raises:
            DataError: If the file cannot be used; carries every fault.
            PluginError: If polars is not installed.
        """
        labels = self._targets if self.task != "regression" else ()
        texts = {*self.one_hot, *self.dates, *labels}
        by = key_of(self)
        beside = dict([by]) if by else {}
        reading = Reading(self._form, texts.__contains__)
        sheet = read_tables(self.path, self.files, reading, faults, () if self.stratify else beside.values())
        converted = {"one_hot": self.one_hot, "dates": tuple(self.dates)}
        feature_columns, target_columns = choose_columns(sheet, self._targets, self.features, converted, beside, faults)
        drops_rows = self.missing == "drop"
        division = read_division(sheet, self, self.dates, faults, drops_rows=drops_rows)
        reader = Reader(sheet, faults, self.missing)
        features: list[pl.Series] = []
        categories: dict[str, list[str] | None] = {}
        for name in feature_columns:
            read = self._feature(reader, name)
            is_one_hot = name in self.one_hot
            categories[name] = [column.name.removeprefix(f"{name}=") for column in read] if is_one_hot else None
            features += read
        class_names: tuple[str, ...] = ()
        if self.task == "regression":
            targets = [reader.target(name) for name in target_columns]
        else:
            target, class_names = reader.classes(target_columns[0], is_binary=self.task == "binary")
            targets = [target]
        _check_different(features, faults)
        faults.check(sheet)
        if self.missing == "error":
            return _Columns(features, targets, class_names, categories, 0, division)
        keep, count = _kept(features, targets, division, faults, drops_rows=drops_rows)
        features, targets = ([column.filter(keep) for column in columns] for columns in (features, targets))
        return _Columns(features, targets, class_names, categories, count, division.of_rows(keep))

    def _feature(self, reader: Reader, name: str) -> list[pl.Series]:
        if name in self.one_hot:
            return reader.one_hot(name)
        if name in self.dates:
            return reader.dates(name, self.dates[name], reader.fill_hint)
        return [reader.feature(name)]


def _check_different(features: list[pl.Series], faults: Faults) -> None:
    """Refuse features of the same name: a column ``c=red`` beside the category ``red`` of a column ``c``."""
    for name, count in Counter(column.name for column in features).items():
        if count > 1:
            faults.add(f"{count} features would be named {name!r}", hint="rename one of the columns, or leave it out")


def _kept(
    features: list[pl.Series], targets: list[pl.Series], division: Division, faults: Faults, *, drops_rows: bool
) -> tuple[pl.Series, int]:
    """Return a mask without rows that lack a target, or any cell, and the number of those that lack a target."""
    has_target = ~_any_null(targets)
    keep = has_target & ~_any_null(features) & ~division.lacks_key() if drops_rows else has_target
    if not keep.any():
        faults.stop("every row has a missing cell, so dropping them leaves no rows", hint="list fewer `features`")
    return keep, int((~has_target).sum())


def _any_null(columns: list[pl.Series]) -> pl.Series:
    masks = [column.is_null() for column in columns if column.null_count()]
    return functools.reduce(operator.or_, masks, columns[0].is_null() if not masks else masks[0])
