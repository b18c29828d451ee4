"""The datasets of arrays in memory: read, split, scaled.

Imported only when they are built, because it needs torch. Shapes: ``N`` rows, ``I`` input features, ``O`` targets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from hookline import DataSource
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.forms import as_inputs, as_tensor
from hookline_plugins.data.rows import Rows, read_numbers
from hookline_plugins.data.splits import Folding, Key, chosen_rows, with_origins
from hookline_plugins.data.splits import named as split_names
from hookline_plugins.data.tables.scaling import Scale, Unscale, measure
from hookline_plugins.data.targets import Targets, Task, read_targets


class Options(Folding, Protocol):
    """The options of ``FromArrays``, and its arrays."""

    validation: float
    test: float
    stratify: bool
    task: Task | Literal["auto"]
    float_inputs: bool
    standardize: bool
    standardize_target: bool

    @property
    def given(self) -> Mapping[str, tuple[Any, Any]]:
        """Inputs and targets by split."""


def build_source(options: Options, generator: torch.Generator | None) -> DataSource:
    """Return the data source of the arrays that ``options.given`` holds.

    Args:
        options: The plugin.
        generator: Chooses the rows of the splits; None to take the last ones.

    Raises:
        DataError: When they cannot be used; carries every fault.
    """
    faults = Faults(None)
    places = {split: "" if split == "train" else f"{split} " for split in options.given}
    read = _read_inputs({split: (f"the {places[split]}inputs", x) for split, (x, _) in options.given.items()}, faults)
    named = {split: (f"the {places[split]}targets", y) for split, (_, y) in options.given.items()}
    targets = read_targets(named, options.task, faults)
    if read and targets:
        _check_lengths(read, targets.values, places, faults)
    faults.check()
    assert read is not None, "arrays that cannot be read are a fault"
    assert targets is not None, "as above"
    inputs = {split: as_inputs(as_tensor(one.values), is_float=options.float_inputs) for split, one in read.items()}
    outputs = {split: as_tensor(values) for split, values in targets.values.items()}
    rows = _split(options, targets, (inputs, outputs), generator, faults)
    names = read["train"].names, targets.names
    scales = _scales(options, targets, (inputs, outputs), names, faults)
    faults.check()
    datasets = {
        split: with_origins(_dataset(x, outputs[split]), rows[split].numpy() if split in rows else None)
        for split, x in inputs.items()
    }
    return _source(targets, datasets, names, scales, read["train"].values.dtype.name)


def _read_inputs(given: Mapping[str, tuple[str, Any]], faults: Faults) -> dict[str, Rows] | None:
    read: dict[str, Rows] = {}
    for split, (what, values) in given.items():
        rows = read_numbers(values, what, faults, read["train"].names if read else ())
        if rows is None:
            return None
        if read and rows.values.shape[1:] != read["train"].values.shape[1:]:
            shapes = f"{list(rows.values.shape[1:])}, but those of the training {list(read['train'].values.shape[1:])}"
            faults.add(f"each of {what} has the shape {shapes}")
        read[split] = rows
    return read


def _check_lengths(
    read: Mapping[str, Rows], targets: Mapping[str, Any], places: Mapping[str, str], faults: Faults
) -> None:
    for split, place in places.items():
        counts = len(read[split].values), len(targets[split])
        if counts[0] != counts[1]:
            what = f"there are {counts[0]:,} {place}inputs but {counts[1]:,} {place}targets"
            faults.add(what, hint="each input needs a target, in the same order")
        elif not counts[0]:
            faults.add(f"there are no {place}rows")


_Splits = tuple[dict[str, Tensor], dict[str, Tensor]]


def _split(
    options: Options, targets: Targets, parts: _Splits, generator: torch.Generator | None, faults: Faults
) -> Mapping[str, Tensor]:
    """Move rows of the training split to splits of their own; return the numbers of those of each."""
    named = {"validation": options.validation, "test": options.test}
    shares = {name: share for name, share in named.items() if share and name not in options.given}
    if not (shares or options.fold):
        return {}
    classes = None
    if targets.labels is not None and options.stratify:
        name = targets.names[0] if targets.names else "targets"
        classes = Key(name, parts[1]["train"].flatten().long(), list(map(str, targets.labels.tolist())))
    rows = chosen_rows(len(parts[0]["train"]), shares, options, classes, generator, faults)
    faults.check()
    for part in parts:
        part.update({name: part["train"][chosen] for name, chosen in rows.items()})
    return rows


def _scales(
    options: Options, targets: Targets, parts: _Splits, names: tuple[tuple[str, ...], ...], faults: Faults
) -> list[Scale | None]:
    """Scale inputs and targets as the options say; return the scales."""
    wanted = [options.standardize, options.standardize_target]
    if options.standardize and parts[0]["train"].dim() != 2:
        faults.add(f"inputs of shape {list(parts[0]['train'].shape)} have no columns to standardize")
        wanted[0] = False
    if options.standardize_target and targets.labels is not None:
        faults.add("the targets are labels, which cannot be standardized", hint="set task = 'regression'")
        wanted[1] = False
    scales: list[Scale | None] = []
    for part, is_wanted, known in zip(parts, wanted, names, strict=True):
        if not is_wanted:
            scales.append(None)
            continue
        table = part["train"].T.double().clone()
        scale = measure(table, known or tuple(map(str, range(len(table)))), faults, is_scaled=True)
        part.update({split: (rows.double() - scale.mean) / scale.scale for split, rows in part.items()})
        scales.append(scale)
    return scales


def _source(
    targets: Targets,
    datasets: Mapping[str, TensorDataset],
    names: tuple[tuple[str, ...], ...],
    scales: list[Scale | None],
    dtype: str,
) -> DataSource:
    inputs, outputs = datasets["train"].tensors
    labels = None if targets.labels is None else targets.labels.tolist()
    kept: dict[str, Any] = {"labels": labels or [], "is_flat": targets.is_flat, "dtype": dtype}
    for prefix, scale in zip(("", "target_"), scales, strict=True):
        if scale:
            kept |= {f"{prefix}mean": scale.mean.tolist(), f"{prefix}scale": scale.scale.tolist()}
    return DataSource(
        **split_names(datasets),
        in_features=inputs.shape[1] if inputs.dim() == 2 else None,
        out_features=len(labels) if labels and targets.task == "classification" else outputs.shape[1],
        feature_names=names[0],
        target_names=names[1],
        class_names=tuple(map(str, labels or ())),
        task=targets.task,
        kept=kept,
        unscale=Unscale(scales[1].mean, scales[1].scale) if scales[1] else None,
    )


def _dataset(inputs: Tensor, targets: Tensor) -> TensorDataset:
    dataset = TensorDataset(inputs, targets)
    # An attribute and no subclass, whose examples a run would not index as whole tensors.
    vars(dataset)["fingerprint"] = partial(_digest, (inputs, targets))
    return dataset


def _digest(tensors: tuple[Tensor, ...]) -> str:
    """Return a hash of every value: arrays of a program have no file to compare."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.numpy()).data)
    return digest.hexdigest()
