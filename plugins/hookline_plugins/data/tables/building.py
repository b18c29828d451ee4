"""The datasets of a table: its cells split and prepared.

Imported only when a table was read, because it needs torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch.utils.data import TensorDataset

from hookline import DataSource
from hookline_plugins.data.splits import Options as SplitOptions
from hookline_plugins.data.splits import named
from hookline_plugins.data.tables.columns import stacked, stacked_codes
from hookline_plugins.data.tables.dividing import split_table
from hookline_plugins.data.tables.examples import Examples
from hookline_plugins.data.tables.features import feature_names, with_date_parts
from hookline_plugins.data.tables.preparation import Preparation, Raw, fit, prepared
from hookline_plugins.data.tables.scaling import Scale, Unscale, measure

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Literal

    from torch import Tensor
    from torch.utils.data import Dataset

    from hookline_plugins.data.faults import Faults
    from hookline_plugins.data.tables.cells import Cells


class Options(SplitOptions, Protocol):
    """The options of ``Table`` that its datasets need."""

    task: Literal["regression", "classification", "binary"]
    standardize: bool
    standardize_target: bool
    categories: Literal["one-hot", "codes"]
    dates: dict[str, str]


def build_source(options: Options, cells: Cells, faults: Faults) -> tuple[DataSource, tuple[Scale, Scale]]:
    """Return the data source of the cells, and the scales of its features and its targets.

    Raises:
        DataError: If they cannot be split or scaled; carries every fault.
    """
    num_rows = len(cells.targets[0])
    raw = Raw(stacked(cells.numbers, num_rows), stacked_codes(cells.codes, num_rows))
    targets = stacked(cells.targets, num_rows)
    splits = split_table(cells.division, options, faults)
    faults.check()
    columns, keeps_codes = with_date_parts(cells.columns, options.dates), options.categories == "codes"
    scale = fit(columns, raw, splits["train"], faults, standardize=options.standardize, keeps_codes=keeps_codes)
    target_names = tuple(column.name for column in cells.targets)
    target_scale = measure(targets[:, splits["train"]], target_names, faults, is_scaled=options.standardize_target)
    faults.check()
    preparation = Preparation(columns, scale, keeps_codes=keeps_codes)
    targets.sub_(target_scale.mean.unsqueeze(1)).div_(target_scale.scale.unsqueeze(1))
    y = targets.squeeze(0).long() if options.task == "classification" else targets.T
    parts = {name: _dataset(prepared(preparation, raw, rows), y[rows]) for name, rows in splits.items()}
    data = DataSource(
        **named(parts),
        in_features=None if keeps_codes else len(scale.names),
        out_features=len(cells.class_names) if options.task == "classification" else len(target_names),
        feature_names=feature_names(columns, keeps_codes=keeps_codes),
        target_names=target_names,
        class_names=cells.class_names,
        task=options.task,
        unscale=Unscale(target_scale.mean, target_scale.scale) if options.standardize_target else None,
        kept=_kept(options, cells, scale, target_scale),
    )
    return data, (scale, target_scale)


def _kept(options: Options, cells: Cells, scale: Scale, target_scale: Scale) -> Mapping[str, Any]:
    """Return the values that new rows need, and the number of codes of each column, for models with embeddings."""
    return {
        "features": [[name, levels] for name, levels in cells.columns],
        "categories": options.categories,
        "num_codes": [len(levels) + 1 for _, levels in cells.columns if levels is not None],
        "dates": dict(options.dates),
        "fill": scale.fill.tolist(),
        "mean": scale.mean.tolist(),
        "scale": scale.scale.tolist(),
        "target_mean": target_scale.mean.tolist(),
        "target_scale": target_scale.scale.tolist(),
    }


def _dataset(inputs: Tensor | dict[str, Tensor], targets: Tensor) -> Dataset[Any]:
    return Examples(inputs, targets) if isinstance(inputs, dict) else TensorDataset(inputs, targets)
