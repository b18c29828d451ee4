"""Data source ``parquet``: tables that are larger than the memory, in one or many Parquet files.

Shapes: ``N`` rows, ``B`` rows of a batch, ``I`` input features, ``O`` targets.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from hookline import DataSource, hookimpl
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.options import (
    Dates,
    Faulty,
    Features,
    OneHot,
    Standardize,
    StandardizeTarget,
    Target,
    Task,
    checked_targets,
)
from hookline_plugins.data.parquet.columns import Column
from hookline_plugins.data.parquet.files import Block, blocks_of, find_files, read_schema, split_blocks
from hookline_plugins.data.splits import STANDARD, Fractions, SplitSeed, check_fractions
from hookline_plugins.data.tables.columns import check_form, may_hold
from hookline_plugins.data.tables.files.format import TableFormat
from hookline_plugins.data.tables.files.sheet import Sheet, polars
from hookline_plugins.data.tables.starting.choosing import choose_columns

if TYPE_CHECKING:
    import polars as pl

    from hookline import Predictor, RunView
    from hookline_plugins.data.parquet.survey import Survey
    from hookline_plugins.data.tables.scaling import Scale


@dataclass
class Parquet:
    """A table in Parquet files, of which only some blocks of rows are in memory.

    Inputs are ``[B, I]`` in the type of the run. Targets are ``[B, O]`` (regression), int64 ``[B]`` with class indices
    (classification), or ``[B, 1]`` of 0 and 1 (binary). Options of the same name mean what they mean for the source
    ``csv``, and so do categories, classes, means and scales. One pass over all files before the training finds them,
    and every fault. They are kept in the user's folder for caches: files that have not changed are not read again.

    The rows are read in blocks. Each epoch has another random order of the blocks, and of the rows in each window of
    ``window`` blocks. A run resumes in the middle of an epoch by reading the blocks of one window again. A row group of
    ``block_rows`` rows is read fastest.

    The splits are blocks chosen at random, or files of their own.
    """

    path: Annotated[Path, Meta(description="the file, a folder of files, or a pattern such as 'part-*.parquet'")]
    target: Target
    features: Features = ()
    task: Task = "regression"
    split: Fractions = (1.0,)
    split_seed: SplitSeed = 0
    validation: Annotated[
        Path | None, Meta(description="files of the validation split, as `path`; then `split` is not needed")
    ] = None
    test: Annotated[Path | None, Meta(description="files of the test split")] = None
    standardize: Standardize = False
    standardize_target: StandardizeTarget = False
    missing: Annotated[
        Literal["error", "mean"],
        Meta(description="missing cells: report an error, or fill in the mean of the training split"),
    ] = "error"
    unseen: Annotated[
        Literal["error", "mean"],
        Meta(description="categories of new rows that the training data lack: report an error, or fill in the mean"),
    ] = "error"
    faulty: Faulty = "error"
    one_hot: OneHot = ()
    dates: Dates = field(default_factory=dict)
    block_rows: Annotated[int, Meta(ge=1, description="rows of a file that are read at once")] = 65_536
    window: Annotated[int, Meta(ge=1, description="blocks of which the rows are shuffled together")] = 8

    def __post_init__(self) -> None:
        check_fractions(self.split)
        if len(self.split) > 1 and (self.validation or self.test):
            raise ValueError("`split` and the files of `validation` or `test` exclude each other")
        self._targets = checked_targets(self)

    @hookimpl
    def build_data(self, run: RunView) -> DataSource:
        """Read all files once, for categories, means and faults."""
        faults = Faults(self.path)
        if run.config.train.num_workers and multiprocessing.get_start_method() == "fork":
            hint = "set train.num_workers = 0: threads of this process read ahead of the steps"
            faults.stop("workers that are forked cannot read Parquet files", hint=hint)
        files = find_files(self.path, faults)
        more = {split: find_files(path, Faults(path)) for split in STANDARD[1:] if (path := getattr(self, split))}
        schema = read_schema([*files, *(file for group in more.values() for file in group)], faults)
        features, targets = self._columns(schema, faults)
        faults.check()
        parts = split_blocks(blocks_of(files, self.block_rows), self.split, self.split_seed, faults)
        blocks = dict(zip(STANDARD, parts, strict=False))
        blocks |= {split: blocks_of(group, self.block_rows) for split, group in more.items()}
        faults.check()
        return self._source(run, blocks, features, targets, faults)

    @hookimpl
    def build_predictor(self, data: DataSource) -> Predictor:
        """Read new rows with the categories, means and scales of the training data."""
        from hookline_plugins.data.tables.predictor import Rules, TablePredictor
        from hookline_plugins.data.tables.ways import Ways

        rules = Rules(Ways(self.missing), fills_unseen=self.unseen == "mean", leaves_empty=self.faulty == "empty")
        return TablePredictor(data, TableFormat(missing_words=()), rules, self.task, self.path)

    def _columns(self, schema: pl.Schema, faults: Faults) -> tuple[list[Column], list[Column]]:
        """Return the features and the targets; a column of a type that they cannot have is a fault."""
        pl = polars()
        empty = pl.DataFrame(schema=schema)
        sheet = Sheet(self.path, tuple(schema), empty, pl.int_range(0, eager=True), TableFormat(), None)
        converted = {"one_hot": self.one_hot, "dates": tuple(self.dates)}
        names = choose_columns(sheet, self._targets, self.features, converted, faults)
        for name in dict.fromkeys(name for name in (*names[0], *names[1]) if name not in self._labels):
            is_date = name in self.dates and may_hold(schema[name], self.dates[name])
            if is_date and schema[name] == pl.String:
                check_form(name, self.dates[name], faults)
            if not (is_date or schema[name].is_numeric() or schema[name] == pl.Boolean):
                hint = "list it in `one_hot` or `dates`, or list only the other columns in `features`"
                hint = "set task = 'classification' or 'binary'" if name in self._targets else hint
                faults.add(f"column {name!r} holds values of type {schema[name]}, not numbers", hint=hint)
        columns = [
            Column(name, self.dates.get(name), is_text=schema[name] == pl.String) for group in names for name in group
        ]
        return columns[: len(names[0])], columns[len(names[0]) :]

    @property
    def _labels(self) -> set[str]:
        return {*self.one_hot, *(self._targets if self.task != "regression" else ())}

    def _source(
        self,
        run: RunView,
        blocks: dict[str, list[Block]],
        features: list[Column],
        targets: list[Column],
        faults: Faults,
    ) -> DataSource:
        from hookline_plugins.data.parquet.kept import surveyed
        from hookline_plugins.data.parquet.stream import BlockStream, Form
        from hookline_plugins.data.parquet.survey import identity, survey
        from hookline_plugins.data.tables.scaling import Unscale

        given = tuple(features), tuple(targets), tuple(sorted(self._labels)), self.task, self.missing
        found = surveyed(survey, blocks, *given, faults=faults)
        faults.check()
        names = [[name for column in group for name in column.names] for group in (found.features, found.targets)]
        num_rows = sum(block.size for block in blocks["train"])
        scales = (
            found.feature_moments.scale(names[0], num_rows, faults, is_scaled=self.standardize),
            found.target_moments.scale(names[1], num_rows, faults, is_scaled=self.standardize_target)
            if self.task == "regression"
            else identity(self._targets),
        )
        faults.check()
        has_missing = self.missing != "error"
        form = Form(found.features, found.targets, scales, self.task, has_missing, run.config.train.dtype)
        seed = run.generator("parquet").initial_seed() if run.config.train.shuffle else None
        stream = partial(BlockStream, form=form, window=self.window)
        rest = {split: stream(part, seed=None) for split, part in blocks.items() if split != "train"}
        return DataSource(
            stream(blocks["train"], seed=seed),
            rest.get("validation"),
            rest.get("test"),
            in_features=len(names[0]),
            out_features=len(found.class_names) if self.task == "classification" else len(self._targets),
            feature_names=tuple(names[0]),
            target_names=self._targets,
            class_names=found.class_names,
            task=self.task,
            unscale=Unscale(scales[1].mean, scales[1].scale) if self.standardize_target else None,
            kept=_kept(found, scales, dict(self.dates)),
        )


def _kept(found: Survey, scales: tuple[Scale, Scale], dates: dict[str, str]) -> dict[str, object]:
    """Return what the predictor of tables needs."""
    return {
        "features": [[each.name, None if each.codes is None else list(each.categories)] for each in found.features],
        "dates": dates,
        "fill": scales[0].fill.tolist(),
        "mean": scales[0].mean.tolist(),
        "scale": scales[0].scale.tolist(),
        "target_mean": scales[1].mean.tolist(),
        "target_scale": scales[1].scale.tolist(),
    }
