"""Data source ``hugging-face``: a dataset of the package ``datasets`` on this machine.

Shapes: ``B`` examples in a batch, ``I`` input features, ``O`` targets, ``C`` classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from msgspec import Meta

from hookline import DataSource, Location, hookimpl
from hookline_plugins.data.arrays.hugging_face.reading import check_columns, is_stacked, open_datasets
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.splits import (
    Fold,
    FoldSeed,
    Fractions,
    Key,
    SplitSeed,
    check_fold,
    check_fractions,
    chosen_rows,
    with_origins,
)

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import Predictor
    from hookline_plugins.data.arrays.hugging_face.rows import ArrowRows, Form


_Name = Annotated[str, Meta(min_length=1)]


@dataclass
class HuggingFace:
    """Columns of a folder written by ``save_to_disk``, or of a Parquet, JSON, CSV or Arrow file, as inputs and target.

    Inputs that are one number each are the features of one tensor ``[B, I]``. Any others are a mapping of their
    columns, passed to the model by name; a single one is its tensor. Lists of different lengths are padded with 0, and
    need a column ``attention_mask``; targets that are such lists are padded with -100.

    Targets are class indices (``ClassLabel``, integers, text) or floating-point numbers, ``[B, 1]``. The splits are
    those of the dataset, or made at random from its training split, with the same shares of the classes.

    Nothing is downloaded, unpickled or cached. A folder or an Arrow file stays on disk, memory-mapped.
    """

    path: Annotated[Path, Meta(description="folder of save_to_disk, or a .parquet, .json, .jsonl, .csv or .arrow file")]
    inputs: Annotated[tuple[_Name, ...], Meta(min_length=1, description="columns of the inputs")]
    target: Annotated[_Name, Meta(description="column to predict")] = "label"
    task: Annotated[
        Literal["auto", "regression", "classification"],
        Meta(description="how to treat targets of one number; auto: as classes unless they are floating-point"),
    ] = "auto"
    split: Fractions = (1.0,)
    split_seed: SplitSeed = 0
    fold: Fold = ""
    fold_seed: FoldSeed = 0

    def __post_init__(self) -> None:
        check_fractions(self.split)
        check_fold(self.fold)
        if self.target in self.inputs:
            raise ValueError(f"`inputs` name the target {self.target!r}")

    @hookimpl
    def build_data(self) -> DataSource:
        """Open the dataset and check its columns."""
        faults = Faults(self.path)
        found = open_datasets(self.path, faults)
        if "train" not in found:
            faults.add("there is no split 'train'", hint=f"it has {', '.join(found)}")
        if (len(self.split) > 1 or self.fold) and len(found) > 1:
            option = "fold" if self.fold else "split"
            faults.add(f"the dataset has the splits {', '.join(found)}", hint=f"leave out `{option}`")
        for name, dataset in found.items():
            check_columns(name, dataset, self.inputs, self.target, self.path, faults)
        faults.check()

        import torch

        from hookline_plugins.data.arrays.hugging_face.rows import ArrowRows, Form

        features = found["train"].features
        is_list = hasattr(features[self.target], "feature") or hasattr(features[self.target], "shape")
        form = Form(self.inputs, is_stacked(features, self.inputs), self.target if is_list else None)
        labels, targets = ([], {}) if is_list else self._targets(found, faults)
        faults.check()
        parts = {
            name: with_origins(ArrowRows(dataset, form, targets.get(name)), None) for name, dataset in found.items()
        }
        if len(self.split) > 1 or self.fold:
            shares = dict(zip(("validation", "test"), self.split[1:], strict=False))
            generator = torch.Generator().manual_seed(self.split_seed)
            classes = Key(self.target, targets["train"], labels) if labels else None
            rows = chosen_rows(len(parts["train"]), shares, self, classes, generator, faults)
            faults.check()
            whole = found["train"], form, targets.get("train")
            parts = {name: with_origins(ArrowRows(*whole, one), one.numpy()) for name, one in rows.items()}
        return self._source(parts, labels, form)

    @hookimpl
    def build_predictor(self, data: DataSource) -> Predictor:
        """Read the inputs of another dataset."""
        from hookline_plugins.data.arrays.hugging_face.predictor import DatasetPredictor

        return DatasetPredictor(data, self.inputs)

    def _source(self, parts: dict[str, ArrowRows], labels: list[str], form: Form) -> DataSource:
        inputs, target = parts["train"][0]
        is_vector = not isinstance(inputs, dict) and inputs.dim() == 1
        is_number = target.dim() < 2 and target.is_floating_point()
        return DataSource(
            parts.pop("train"),
            parts.pop("validation", None),
            parts.pop("test", None),
            in_features=len(inputs) if is_vector else None,
            out_features=len(labels) or (target.numel() if is_number else None),
            feature_names=form.inputs if form.is_stacked else (),
            target_names=(self.target,),
            class_names=tuple(labels),
            task="classification" if labels else "regression" if is_number else None,
            more_splits=cast(Any, parts),
        )

    def _targets(self, found: dict[str, Any], faults: Faults) -> tuple[list[str], dict[str, Tensor]]:
        """Return the names of the classes, none for numbers, and the targets of each split."""
        import numpy as np
        import torch

        from hookline_plugins.data.arrays.hugging_face.rows import columns_of

        values = {name: columns_of(dataset, [self.target]).column(0).to_numpy() for name, dataset in found.items()}
        first, feature = values["train"], found["train"].features[self.target]
        is_class = first.dtype.kind != "f" if self.task == "auto" else self.task == "classification"
        if not is_class:
            return [], {name: torch.from_numpy(one.astype(np.float64)).unsqueeze(1) for name, one in values.items()}
        known = getattr(feature, "names", None)
        labels = list(range(len(known))) if known else np.unique(first).tolist()
        numbers = {label: number for number, label in enumerate(labels)}
        indices = {name: [numbers.get(value, -1) for value in one.tolist()] for name, one in values.items()}
        for name, one in indices.items():
            wrong = [row for row, index in enumerate(one) if index < 0]
            if wrong:
                more = f" (the first of {len(wrong):,} such rows)" if len(wrong) > 1 else ""
                value = values[name][wrong[0]]
                message = (
                    f"row {wrong[0]} has the label {str(value)[:40]!r}, which is no class of the training data{more}"
                )
                where = Location(f"{self.path}, split {name}")
                faults.add(message, location=where, hint="rows count from 0; filter the dataset")
        return [str(one) for one in known or labels], {name: torch.tensor(one) for name, one in indices.items()}
