"""Data source ``csv``: a table in a CSV or Parquet file, split, cleaned and scaled.

Shapes: ``N`` rows, ``I`` input features, ``O`` targets.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from hookline import DataSource, hookimpl
from hookline.engine import did_you_mean
from hookline.trained import only_watches
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.options import (
    Dates,
    Faulty,
    Features,
    Names,
    OneHot,
    Standardize,
    StandardizeTarget,
    Target,
    Task,
    checked_targets,
)
from hookline_plugins.data.splits import (
    Files,
    Fold,
    FoldSeed,
    Fractions,
    GroupBy,
    OrderBy,
    SplitColumn,
    SplitSeed,
    Stratify,
    check_options,
    key_of,
)
from hookline_plugins.data.tables.cells import Cells
from hookline_plugins.data.tables.columns import Reader, check_form
from hookline_plugins.data.tables.dividing import read_division
from hookline_plugins.data.tables.features import check_different, expanded, feature_names
from hookline_plugins.data.tables.files.format import MISSING_WORDS, TableFormat
from hookline_plugins.data.tables.files.reading import Reading
from hookline_plugins.data.tables.files.several import read_tables
from hookline_plugins.data.tables.files.sheet import polars
from hookline_plugins.data.tables.starting.choosing import choose_columns
from hookline_plugins.data.tables.ways import Missing, Transform, Ways

if TYPE_CHECKING:
    from hookline import Outcome, Predictor, RunView
    from hookline.sections import Section
    from hookline_plugins.data.tables.files.sheet import Sheet
    from hookline_plugins.data.tables.scaling import Scale


@dataclass
class Table:
    """A table in a CSV file, or in a Parquet file if its name ends in ``.parquet``.

    A CSV file may be compressed with gzip, bzip2, xz or Zstandard, or be the only file of a zip archive.

    Inputs are float64 ``[N, I]``; with ``categories = "codes"`` a mapping of ``numbers``, float64 ``[N, K]``, and
    ``categories``, int64 ``[N, C]``. Targets are float64 ``[N, O]`` (regression), int64 ``[N]`` with class indices
    (classification), or float64 ``[N, 1]`` of 0 and 1 (binary). Numbers are read to the nearest float64. An empty cell
    is a missing value, and so is one of ``missing_words``; blanks around a cell are ignored. A row without a target is
    left out, with a warning, unless ``missing`` is ``error``.

    Rows are split at random, or divided into folds; each split keeps the order of the file. Means and standard
    deviations are those of the training split, with ``N`` in the denominator; a column that is constant there is only
    centered. One-hot columns are standardized like all others. New rows are read with the categories, means and scales
    of the training data.

    Missing cells of features are filled in, then numbers are transformed, then standardized. After a regression with a
    linear model, its coefficients are reported in the units of the file, unless a target is transformed. Metrics are in
    these units in any case; the loss is that of the transformed and scaled targets.
    """

    script = only_watches

    path: Annotated[Path, Meta(description="the CSV or Parquet file")]
    target: Target
    features: Features = ()
    task: Task = "regression"
    split: Fractions = (1.0,)
    split_seed: SplitSeed = 0
    stratify: Stratify = ""
    group_by: GroupBy = ""
    order_by: OrderBy = ""
    split_column: SplitColumn = ""
    files: Files = field(default_factory=dict)
    fold: Fold = ""
    fold_seed: FoldSeed = 0
    standardize: Standardize = False
    standardize_target: StandardizeTarget = False
    missing: Annotated[
        Literal["error", "drop", "mean", "median"] | float,
        Meta(
            description="missing cells: report an error, drop the row, or fill in the mean or median of the training"
            " split, or a number"
        ),
    ] = "error"
    missing_by_column: Annotated[
        dict[str, Missing],
        Meta(description="the same for single columns; a missing category may also be 'other'"),
    ] = field(default_factory=dict)
    missing_flags: Annotated[
        bool, Meta(description="add a 0/1 feature for each column of numbers with missing cells that are filled in")
    ] = False
    unseen: Annotated[
        Literal["error", "mean", "other"],
        Meta(
            description="categories of new rows that the training data lack: report an error, fill in the mean, or"
            " use a feature for other values"
        ),
    ] = "error"
    min_frequency: Annotated[
        float,
        Meta(gt=0, description="fewest rows of a category, or their share if below 1; rarer ones are one category"),
    ] = 1.0
    max_categories: Annotated[
        Annotated[int, Meta(ge=2)] | None,
        Meta(description="most categories of a column, with the one for all rare ones"),
    ] = None
    transforms: Annotated[
        dict[str, Transform],
        Meta(description="columns to transform, the target too: 'log', 'log1p', or quantiles, 'uniform' or 'normal'"),
    ] = field(default_factory=dict)
    faulty: Faulty = "error"
    one_hot: OneHot = ()
    categories: Annotated[
        Literal["one-hot", "codes"],
        Meta(description="input of a column in `one_hot`: 0/1 features, or the code of its value for an embedding"),
    ] = "one-hot"
    dates: Dates = field(default_factory=dict)
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
    missing_words: Annotated[Names, Meta(description="texts that stand for a missing value")] = MISSING_WORDS
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
        self._targets = checked_targets(self)

    @property
    def _form(self) -> TableFormat:
        return TableFormat(**{option.name: getattr(self, option.name) for option in fields(TableFormat)})

    @property
    def ways(self) -> Ways:
        """How to treat the columns."""
        return Ways(self.missing, self.missing_by_column, self.transforms, self.min_frequency, self.max_categories)

    @hookimpl
    def build_data(self) -> DataSource:
        """Read and split the file."""
        faults = Faults(self.path)
        cells = self.read(faults)
        self._num_without_target = cells.num_without_target

        from hookline_plugins.data.tables.building import build_source  # only now: a bad file needs no torch

        data, self._scales = build_source(self, cells, faults)
        return data

    @hookimpl
    def build_predictor(self, data: DataSource) -> Predictor:
        """Read new rows with the categories, means and scales of the training data."""
        from hookline_plugins.data.tables.predictor import Rules, TablePredictor

        rules = Rules(self.ways, fills_unseen=self.unseen != "error", leaves_empty=self.faulty == "empty")
        return TablePredictor(data, self._form, rules, self.task, self.path)

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

    @hookimpl
    def build_report(self) -> list[Section]:
        """Show the columns of the file, with their missing cells."""
        from hookline_plugins.drawing.columns import column_sections

        return column_sections(self.read(Faults(self.path)))

    def read(self, faults: Faults) -> Cells:
        """Return the cells of the file, without the rows to drop.

        Raises:
            DataError: If the file cannot be used; carries every fault.
            PluginError: If polars is not installed.
        """
        labels = self._targets if self.task != "regression" else ()
        texts = {*self.one_hot, *self.dates, *labels}
        by, drops_rows = key_of(self), self.missing == "drop"
        beside = dict([by]) if by else {}
        reading = Reading(self._form, texts.__contains__)
        sheet = read_tables(self.path, self.files, reading, faults, () if self.stratify else beside.values())
        converted = {"one_hot": self.one_hot, "dates": tuple(self.dates)}
        feature_columns, target_columns = choose_columns(sheet, self._targets, self.features, converted, faults, beside)
        self._check_ways([*feature_columns, *target_columns], sheet, faults)
        for name in self.dates:
            if name in sheet.names and sheet.frame[name].dtype == polars().String:
                check_form(name, self.dates[name], faults)
        reader = Reader(sheet, faults, self.ways)
        refuses_gaps = not drops_rows and not set(beside.values()) & set(self._targets)
        division = read_division(sheet, self, self.dates, faults, refuses_gaps=refuses_gaps)
        cells = Cells(division, booleans=reader.booleans)
        for name in feature_columns:
            self._read_feature(reader, name, cells)
        if self.task == "regression":
            cells.targets = [reader.target(name) for name in target_columns]
        else:
            target, cells.class_names = reader.classes(target_columns[0], is_binary=self.task == "binary")
            cells.targets = [target]
        columns = expanded(cells.columns, self.dates, cells.others, cells.flags)
        check_different(feature_names(columns, keeps_codes=self.categories == "codes"), faults)
        faults.check(sheet)
        if cells.needed or self.missing != "error":
            cells.leave_out(faults, drops_rows=drops_rows)
        return cells

    def _check_ways(self, names: list[str], sheet: Sheet, faults: Faults) -> None:
        """Refuse options for columns that they are not for."""
        texts = {*self.one_hot, *self.dates, *(self._targets if self.task != "regression" else ())}
        for option, listed in (("missing_by_column", self.missing_by_column), ("transforms", self.transforms)):
            for name in listed:
                if name not in names:
                    hint = "list it in `features` too" if name in sheet.names else did_you_mean(name, sheet.names)
                    faults.add(f"`{option}` names {name!r}, which is no column in use", hint=hint)
        for name in self.transforms:
            if name in texts:
                faults.add(f"`transforms` names {name!r}, which does not hold numbers", hint="take it out")
        for name, way in self.missing_by_column.items():
            if name in self._targets:
                faults.add(f"`missing_by_column` names the target {name!r}", hint="a target is never filled in")
            elif way == "other" and name not in self.one_hot:
                hint = "for numbers, take 'mean', 'median' or a number"
                faults.add(f"`missing_by_column` is 'other' for {name!r}, which `one_hot` does not list", hint=hint)

    def _read_feature(self, reader: Reader, name: str, cells: Cells) -> None:
        levels, way = None, self.ways.missing_of(name)
        if name in self.one_hot:
            codes, levels, has_rare = reader.codes(name)
            read = [codes]
            cells.codes.append(codes)
            if has_rare or self.unseen == "other" or way == "other":
                cells.others.append(name)
        else:
            is_date = name in self.dates
            read = reader.dates(name, self.dates[name], reader.fill_hint(name)) if is_date else [reader.feature(name)]
            cells.numbers += read
            if self.missing_flags and way not in ("error", "drop") and any(column.null_count() for column in read):
                cells.flags.append(name)
        if way == "drop":
            cells.needed += read
        cells.columns.append((name, levels))
