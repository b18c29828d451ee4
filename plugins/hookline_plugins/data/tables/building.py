"""The datasets of a table: its cells split and prepared.

Imported only when a table was read, because it needs torch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from torch.utils.data import TensorDataset

from hookline import DataSource
from hookline_plugins.data.splits import Options as SplitOptions
from hookline_plugins.data.splits import named, with_origins
from hookline_plugins.data.tables.columns import stacked, stacked_codes
from hookline_plugins.data.tables.dividing import split_table
from hookline_plugins.data.tables.examples import Examples
from hookline_plugins.data.tables.features import expanded, feature_names
from hookline_plugins.data.tables.preparation import (
    Fitting,
    Preparation,
    Raw,
    fit,
    fit_transforms,
    prepared,
    transformed,
)
from hookline_plugins.data.tables.scaling import Scale, Unscale, measure
from hookline_plugins.data.tables.transforms import Quantiles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Literal

    from torch import Tensor
    from torch.utils.data import Dataset

    from hookline_plugins.data.faults import Faults
    from hookline_plugins.data.tables.cells import Cells
    from hookline_plugins.data.tables.ways import Ways


class Options(SplitOptions, Protocol):
    """The options of ``Table`` that its datasets need."""

    task: Literal["regression", "classification", "binary"]
    standardize: bool
    standardize_target: bool
    categories: Literal["one-hot", "codes"]
    dates: dict[str, str]

    @property
    def ways(self) -> Ways:
        """How to treat the columns."""


def build_source(options: Options, cells: Cells, faults: Faults) -> tuple[DataSource, tuple[Scale, Scale] | None]:
    """Return the data source of the cells, and the scales of features and targets, unless a target is transformed.

    Raises:
        DataError: If they cannot be split or scaled; carries every fault.
    """
    num_rows = len(cells.targets[0])
    raw = Raw(stacked(cells.numbers, num_rows), stacked_codes(cells.codes, num_rows))
    targets = stacked(cells.targets, num_rows)
    splits = split_table(cells.division, options, faults)
    faults.check()
    fitting, uses = _fitting(options, cells), options.ways.transforms
    preparation, scale = fit(fitting, raw, splits["train"], faults)
    target_names = tuple(column.name for column in cells.targets)
    unscale, target_scale = _fit_targets(options, targets, splits["train"], target_names, faults)
    faults.check()
    targets = transformed(targets.T, unscale.transforms).T.contiguous()
    targets.sub_(target_scale.mean.unsqueeze(1)).div_(target_scale.scale.unsqueeze(1))
    y = targets.squeeze(0).long() if options.task == "classification" else targets.T
    in_file = cells.division.rows.to_numpy()
    parts = {
        name: with_origins(_dataset(prepared(preparation, raw, rows), y[rows]), in_file[rows.numpy()])
        for name, rows in splits.items()
    }
    labels = tuple(f"{uses[name]}({name})" if name in uses else name for name in scale.names)
    data = DataSource(
        **named(parts),
        in_features=None if fitting.keeps_codes else len(scale.names),
        out_features=len(cells.class_names) if options.task == "classification" else len(target_names),
        feature_names=feature_names(fitting.columns, keeps_codes=fitting.keeps_codes),
        target_names=target_names,
        class_names=cells.class_names,
        task=options.task,
        unscale=unscale if options.standardize_target or unscale.transforms else None,
        kept=_kept(options, cells, (preparation, scale), (unscale, target_scale)),
    )
    return data, None if unscale.transforms else (replace(scale, names=labels), target_scale)


def _fitting(options: Options, cells: Cells) -> Fitting:
    """Return how to fit the preparation of the columns."""
    columns = expanded(cells.columns, options.dates, cells.others, cells.flags)
    fills = [
        options.ways.fill_of(name)
        for name, levels in cells.columns
        if levels is None
        for _ in expanded([(name, levels)], options.dates, (), ())
    ]
    return Fitting(columns, options.ways, fills, options.standardize, options.categories == "codes")


def _fit_targets(
    options: Options, targets: Tensor, train: Tensor, names: tuple[str, ...], faults: Faults
) -> tuple[Unscale, Scale]:
    """Return the way back to the units of the file, and the scaling of targets ``[O, N]``."""
    rows = targets[:, train]
    found = fit_transforms(names, rows, options.ways.transforms)
    transforms = {number: found[name] for number, name in enumerate(names) if name in found}
    for number, transform in transforms.items():
        rows[number] = transform(rows[number])
    scale = measure(rows, names, faults, is_scaled=options.standardize_target)
    return Unscale(scale.mean, scale.scale, transforms), scale


def _kept(
    options: Options, cells: Cells, inputs: tuple[Preparation, Scale], targets: tuple[Unscale, Scale]
) -> Mapping[str, Any]:
    """Return the values that new rows need, and the number of codes of each column, for models with embeddings."""
    names = [column.name for column in expanded(cells.columns, options.dates, (), ()) if column.levels is None]
    quantiles = {
        known[int(number)]: transform.quantiles.tolist()
        for known, transforms in ((names, inputs[0].transforms), (targets[1].names, targets[0].transforms))
        for number, transform in transforms.items()
        if isinstance(transform, Quantiles)
    }
    return {
        "features": [[name, levels] for name, levels in cells.columns],
        "categories": options.categories,
        "num_codes": [len(levels) + 1 for _, levels in cells.columns if levels is not None],
        "others": list(cells.others),
        "flags": list(cells.flags),
        "booleans": list(cells.booleans),
        "transforms": dict(options.ways.transforms),
        "quantiles": quantiles,
        "dates": dict(options.dates),
        "fill": inputs[1].fill.tolist(),
        "mean": inputs[1].mean.tolist(),
        "scale": inputs[1].scale.tolist(),
        "target_mean": targets[1].mean.tolist(),
        "target_scale": targets[1].scale.tolist(),
    }


def _dataset(inputs: Tensor | dict[str, Tensor], targets: Tensor) -> Dataset[Any]:
    return Examples(inputs, targets) if isinstance(inputs, dict) else TensorDataset(inputs, targets)
