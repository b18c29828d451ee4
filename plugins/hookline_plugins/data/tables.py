"""Data source ``csv``: a table in a CSV or Parquet file, split, cleaned and scaled.

Shapes: ``N`` rows, ``I`` input features, ``O`` targets.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from msgspec import Meta

from hookline import DataSource, hookimpl
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.splits import Fractions, SplitSeed, check_fractions, split_rows
from hookline_plugins.data.table_columns import Missing, Reader, as_tensor, choose_columns
from hookline_plugins.data.table_file import read_table

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor, nn

    from hookline import Outcome, Predictor, RunView


_Names = tuple[str, ...]


@dataclass(frozen=True)
class _Scaling:
    """The scaling of the columns for the model: ``(value - mean) / scale``."""

    feature_names: tuple[str, ...]
    target_names: tuple[str, ...]
    feature_mean: Tensor
    feature_scale: Tensor
    target_mean: Tensor
    target_scale: Tensor

    def unscaled(self, values: Tensor) -> Tensor:
        """Return targets or predictions ``[B, O]`` in the units of the file."""
        return values * self.target_scale.to(values) + self.target_mean.to(values)


class _Columns(NamedTuple):
    """The columns of a file.

    Attributes:
        features: The features, with a column for each category.
        targets: The targets.
        class_names: The names of the classes, for a classification.
        categories: The categories of each feature column; None for a column of numbers.
        names: The names of all columns.
    """

    features: list[pl.Series]
    targets: list[pl.Series]
    class_names: tuple[str, ...]
    categories: dict[str, list[str] | None]
    names: tuple[str, ...]

    def kept(self, fill: list[float], scaling: _Scaling) -> dict[str, Any]:
        """Return the values needed to read new rows; ``fill`` replaces missing features."""
        return {
            "features": [[name, categories] for name, categories in self.categories.items()],
            "others": [name for name in self.names if name not in self.categories],
            "fill": fill,
            "mean": scaling.feature_mean.tolist(),
            "scale": scaling.feature_scale.tolist(),
            "target_mean": scaling.target_mean.tolist(),
            "target_scale": scaling.target_scale.tolist(),
        }


@dataclass
class Table:
    """A table in a CSV file, or in a Parquet file if its name ends in ``.parquet``.

    Inputs are float64 ``[N, I]``. Targets are float64 ``[N, O]`` (regression), int64 ``[N]`` with class indices
    (classification), or float64 ``[N, 1]`` of 0 and 1 (binary). Numbers are read to the nearest float64. An empty cell
    is a missing value; blanks around a cell are ignored.

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
    standardize: Annotated[bool, Meta(description="scale features to mean 0 and standard deviation 1")] = False
    standardize_target: Annotated[bool, Meta(description="scale the targets of a regression in the same way")] = False
    delimiter: Annotated[
        str, Meta(min_length=1, max_length=1, description="character between the cells of a CSV file")
    ] = ","
    missing: Annotated[
        Missing,
        Meta(description="missing cells: report an error, drop the row, or fill in the mean of the training split"),
    ] = "error"
    one_hot: Annotated[_Names, Meta(description="features to replace by a 0/1 feature for each of their values")] = ()

    def __post_init__(self) -> None:
        self._scaling: _Scaling | None = None
        check_fractions(self.split)
        if not self.delimiter.isascii() or self.delimiter in '"\r\n':
            raise ValueError(f"`delimiter` must be ASCII, not a quote mark or line break; got {self.delimiter!r}")
        if self.standardize_target and self.task != "regression":
            raise ValueError(f"`standardize_target` is for task = 'regression', not {self.task!r}")
        if self.task != "regression" and len(self._targets) > 1:
            raise ValueError(f"task = {self.task!r} takes one target, not {len(self._targets)}")

    @property
    def _targets(self) -> tuple[str, ...]:
        return (self.target,) if isinstance(self.target, str) else self.target

    @hookimpl
    def build_data(self) -> DataSource:
        """Read and split the file."""
        faults = Faults(self.path)
        columns = self._read(faults)
        features, targets, class_names = columns.features, columns.targets, columns.class_names

        from torch.utils.data import TensorDataset  # only now: a bad file is reported without waiting for torch

        x, y = as_tensor(features), as_tensor(targets)
        splits = split_rows(len(x), self.split, self.split_seed, faults)
        faults.check()
        names = tuple(column.name for column in features), tuple(column.name for column in targets)
        fill = [x[:, number][splits[0]].nanmean().item() for number in range(x.shape[1])]
        self._scaling = _Scaling(
            *names,
            *_prepare(x, splits[0], names[0], faults, is_scaled=self.standardize),
            *_prepare(y, splits[0], names[1], faults, is_scaled=self.standardize_target),
        )
        faults.check()
        y = y.squeeze(1).long() if self.task == "classification" else y
        train, validation, test, *_ = [*(TensorDataset(x[rows], y[rows]) for rows in splits), None, None]
        assert train is not None, "there is always a training split"
        return DataSource(
            train,
            validation,
            test,
            in_features=len(names[0]),
            out_features=len(class_names) if self.task == "classification" else len(names[1]),
            feature_names=names[0],
            target_names=names[1],
            class_names=class_names,
            task=self.task,
            kept=columns.kept(fill, self._scaling),
            unscale=self._scaling.unscaled if self.standardize_target else None,
        )

    @hookimpl
    def build_predictor(self, data: DataSource) -> Predictor:
        """Read new rows with the categories, means and scales of the training data."""
        from hookline_plugins.data.table_predictor import TablePredictor

        return TablePredictor(data, self.delimiter, self.missing, self.task)

    @hookimpl
    def on_run_end(self, run: RunView, outcome: Outcome) -> None:
        """Report the coefficients of a linear regression in the units of the file."""
        from torch import nn

        layer, is_over = run.unwrapped_model, outcome in ("completed", "stopped")
        if is_over and self.task == "regression" and isinstance(layer, nn.Linear) and self._scaling:
            run.report("coefficients", _coefficients(layer, self._scaling))

    def _read(self, faults: Faults) -> _Columns:
        """Return the columns of the file, without the rows to drop."""
        sheet = read_table(self.path, self.delimiter, faults)
        feature_columns, target_columns = choose_columns(sheet, self._targets, self.features, self.one_hot, faults)
        reader = Reader(sheet, faults, self.missing)
        features: list[pl.Series] = []
        categories: dict[str, list[str] | None] = {}
        for name in feature_columns:
            is_one_hot = name in self.one_hot
            read = reader.one_hot(name) if is_one_hot else [reader.feature(name)]
            categories[name] = [column.name.removeprefix(f"{name}=") for column in read] if is_one_hot else None
            features += read
        class_names: tuple[str, ...] = ()
        if self.task == "regression":
            targets = [reader.target(name) for name in target_columns]
        else:
            labels, class_names = reader.classes(target_columns[0], is_binary=self.task == "binary")
            targets = [labels]
        faults.check(sheet)
        if self.missing == "drop":
            features, targets = _drop_missing(features, targets, faults)
        return _Columns(features, targets, class_names, categories, sheet.names)


def _drop_missing(
    features: list[pl.Series], targets: list[pl.Series], faults: Faults
) -> tuple[list[pl.Series], list[pl.Series]]:
    keep = ~functools.reduce(operator.or_, (column.is_null() for column in (*features, *targets)))
    if not keep.any():
        faults.stop("every row has a missing cell, so dropping them leaves no rows", hint="list fewer `features`")
    if keep.all():
        return features, targets
    return [column.filter(keep) for column in features], [column.filter(keep) for column in targets]


def _prepare(
    table: Tensor, train: Tensor, names: tuple[str, ...], faults: Faults, *, is_scaled: bool
) -> tuple[Tensor, Tensor]:
    """Fill in missing cells and scale, in place, using the training rows; return the mean and the scale."""
    import torch

    for number in table.isnan().any(dim=0).nonzero().flatten().tolist():
        column = table[:, number]
        mean = column[train].nanmean()
        if mean.isnan():
            faults.add(f"column {names[number]!r} has no values in the training split, and so no mean")
        column[column.isnan()] = mean.nan_to_num()  # so that the scales are not found at fault as well
    if not is_scaled:
        return torch.zeros(len(names), dtype=table.dtype), torch.ones(len(names), dtype=table.dtype)
    rows = table[train]
    low = rows.amin(dim=0)
    is_constant = low == rows.amax(dim=0)
    mean = rows.mean(dim=0).where(~is_constant, low)
    scale = rows.std(dim=0, correction=0).where(~is_constant, 1)
    for number in (~(mean.isfinite() & scale.isfinite() & (scale > 0))).nonzero().flatten().tolist():
        faults.add(f"column {names[number]!r} cannot be standardized: its numbers are too large or too close together")
    table.sub_(mean).div_(scale)
    return mean, scale


def _coefficients(layer: nn.Linear, scaling: _Scaling) -> list[dict[str, str | float]]:
    """Return the coefficients of a linear model for unscaled columns."""
    s = scaling
    weight = layer.weight.detach().double().cpu() * s.target_scale.unsqueeze(1) / s.feature_scale
    intercept = s.target_mean - weight @ s.feature_mean
    if layer.bias is not None:
        intercept += layer.bias.detach().double().cpu() * s.target_scale
    rows: list[dict[str, str | float]] = []
    for target, coefficients, constant in zip(s.target_names, weight.tolist(), intercept.tolist(), strict=True):
        label: dict[str, str | float] = {"target": target} if len(s.target_names) > 1 else {}
        named = zip((*s.feature_names, "(intercept)"), (*coefficients, constant), strict=True)
        rows += [{**label, "feature": feature, "coefficient": value} for feature, value in named]
    return rows
