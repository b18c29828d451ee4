"""Data source ``arrays``: inputs and targets from array files, read at once or batch by batch.

Shapes: ``N`` rows, ``I`` input features, ``O`` targets, ``C`` classes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from hookline import DataSource, Location, hookimpl
from hookline_plugins.data.arrays.files import StoredArray, find_arrays
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.forms import as_inputs
from hookline_plugins.data.splits import Fractions, SplitSeed, check_fractions, split_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from torch import Tensor
    from torch.utils.data import Dataset

    from hookline import Predictor


_LARGE_BYTES = 2**30
"""Arrays larger than this stay in their file. It is a fixed size, not the free memory, so that a run reads in the same
way everywhere."""

_MOST_CLASSES = 2**20
"""Largest number of classes; larger integers are not taken for class indices."""


@dataclass
class Arrays:
    """Inputs and targets in an ``.npz`` or ``.safetensors`` file, or in a folder of ``.npy`` files.

    Inputs are ``[N, I]``, or ``[N, ...]`` of any shape; ``[N]`` is read as ``[N, 1]``. Targets are floating-point
    ``[N, O]`` (regression), where ``[N]`` is read as ``[N, 1]``, or class indices ``[N]`` from 0 (classification); the
    largest gives the number of classes.

    Rows are split at random; each split keeps the order of the file. Arrays that stay in their file are read batch by
    batch. Nothing is unpickled.
    """

    path: Annotated[Path, Meta(description="the file, or a folder of .npy files")]
    inputs: Annotated[str, Meta(min_length=1, description="name of the input array")] = "inputs"
    targets: Annotated[str, Meta(min_length=1, description="name of the target array")] = "targets"
    task: Annotated[
        Literal["auto", "regression", "classification"],
        Meta(description="how to treat the targets; auto: as classes if they are integers"),
    ] = "auto"
    float_inputs: Annotated[bool, Meta(description="convert integer inputs to floating point")] = False
    split: Fractions = (1.0,)
    split_seed: SplitSeed = 0
    memory_map: Annotated[
        bool | Literal["auto"],
        Meta(description="leave the arrays in their file and read batch by batch; auto: if larger than 1 GiB"),
    ] = "auto"

    def __post_init__(self) -> None:
        check_fractions(self.split)
        if self.inputs == self.targets:
            raise ValueError(f"`inputs` and `targets` both name the array {self.inputs!r}")

    @hookimpl
    def build_data(self) -> DataSource:
        """Read the arrays, or their headers if they stay in their file."""
        faults = Faults(self.path)
        inputs, targets = find_arrays(self.path, (self.inputs, self.targets), faults)
        is_mapped = self._is_mapped([array for array in (inputs, targets) if array], faults)
        x = self._read(inputs, faults, is_mapped=is_mapped)
        y = self._read(targets, faults, is_mapped=is_mapped)
        num_classes = self._check_targets(targets, y, faults) if targets else None
        if inputs and not is_mapped:
            _check_finite(inputs, x, faults)
        if inputs and targets and inputs.shape[0] != targets.shape[0]:
            lengths = f"{inputs.shape[0]:,} inputs but {targets.shape[0]:,} targets"
            faults.add(f"there are {lengths}", hint="each input needs a target, in the same order")
        faults.check()
        assert inputs is not None, "a missing array is a fault"
        assert targets is not None, "as above"
        forms = (
            functools.partial(as_inputs, is_float=self.float_inputs),
            functools.partial(_as_targets, is_classes=num_classes is not None),
        )
        splits: list[Any] = [None]
        if len(self.split) > 1:
            splits = list(split_rows(inputs.shape[0], self.split, self.split_seed, faults))
            faults.check()
        datasets = _mapped(inputs, targets, forms, splits) if is_mapped else _in_memory(x, y, forms, splits)
        train, validation, test = [*datasets, None, None][:3]
        assert train is not None, "there is always a training split"
        return DataSource(
            train,
            validation,
            test,
            in_features=[*inputs.shape[1:], 1][0] if len(inputs.shape) < 3 else None,
            out_features=num_classes or [*targets.shape[1:], 1][0],
            task="regression" if num_classes is None else "classification",
            kept={"is_flat": len(targets.shape) == 1, "dtype": inputs.dtype_name},
        )

    @hookimpl
    def build_predictor(self, data: DataSource) -> Predictor:
        """Read new inputs of the same shape; targets are not needed."""
        from hookline_plugins.data.arrays.predictor import ArrayPredictor

        form = functools.partial(as_inputs, is_float=self.float_inputs)
        return ArrayPredictor(data, self.inputs, form, self._first_rows)

    def _first_rows(self, count: int) -> Tensor:
        """Return rows of the input array.

        Raises:
            DataError: If it cannot be read.
        """
        faults = Faults(self.path)
        (array,) = find_arrays(self.path, (self.inputs,), faults)
        faults.check()
        assert array is not None, "a missing array is a fault"
        return array.load()[:count] if array.offset is None else array.rows(slice(count))

    def _is_mapped(self, arrays: list[StoredArray], faults: Faults) -> bool:
        if self.memory_map is True:
            for array in arrays:
                if array.offset is None:
                    hint = "save it as .npy or .safetensors, or set memory_map = false"
                    faults.add(f"the array {array.name!r} is in an archive and cannot be mapped", hint=hint)
        can_be = all(array.offset is not None for array in arrays)
        is_large = sum(array.num_bytes for array in arrays) > _LARGE_BYTES
        return can_be and (is_large if self.memory_map == "auto" else self.memory_map)

    def _read(self, array: StoredArray | None, faults: Faults, *, is_mapped: bool) -> Tensor | None:
        """Return an array that is to be in memory; if it cannot be read, return None and add a fault."""
        if array is None or is_mapped:
            return None
        try:
            return array.load()
        except Exception as error:  # noqa: BLE001 - a damaged archive fails in many ways
            what = f"the array {array.name!r} cannot be read: {type(error).__name__}: {error}"
            faults.add(what, location=Location(str(array.path)), hint="copy or save it again")
            return None

    def _check_targets(self, targets: StoredArray, y: Tensor | None, faults: Faults) -> int | None:
        """Check the targets and return the number of classes; None for a regression."""
        is_whole, shape = targets.kind != "f", targets.shape
        where = Location(str(targets.path))
        is_flat = len(shape) == 1 or shape[1:] == (1,)
        if self.task == "regression" or (self.task == "auto" and not is_whole):
            if len(shape) > 2:
                faults.add(f"the targets have the shape {list(shape)}, not [N] or [N, O]", location=where)
            _check_finite(targets, y, faults)
            return None
        if not is_whole:
            message = f"the array {targets.name!r} holds {targets.dtype_name}, not integers"
            faults.add(message, location=where, hint="class indices are integers from 0")
            return None
        if not is_flat:
            hint = "class indices have the shape [N]; to predict numbers, set task = 'regression'"
            faults.add(f"the targets are integers of shape {list(shape)}", location=where, hint=hint)
            return None
        return _count_classes(targets, y, faults)


def _chunks(array: StoredArray, values: Tensor | None) -> Iterable[tuple[int, Tensor]]:
    """Return the rows of an array in chunks, each with the number of its first row; all at once if in memory."""
    if values is not None:
        return [(0, values)]
    # One in an archive that could not be read is a fault already.
    return array.chunks() if array.offset is not None else []


def _check_finite(array: StoredArray, values: Tensor | None, faults: Faults) -> None:
    """Add a fault with the first row that is not finite and the number of such rows."""
    import torch

    if array.kind != "f":
        return
    first, count = None, 0
    for begin, rows in _chunks(array, values):
        bad = (~torch.isfinite(rows.flatten(1) if rows.dim() > 1 else rows.unsqueeze(1))).any(1).nonzero()
        first = begin + int(bad[0]) if first is None and len(bad) else first
        count += len(bad)
    if first is not None:
        more = f" (the first of {count:,} such rows)" if count > 1 else ""
        message = f"row {first} of the array {array.name!r} is not finite{more}"
        faults.add(message, location=Location(str(array.path)), hint="rows count from 0; drop or fill in such rows")


def _count_classes(array: StoredArray, values: Tensor | None, faults: Faults) -> int:
    """Return the number of classes: one more than the largest class index."""
    largest = -1
    for begin, rows in _chunks(array, values):
        classes = rows.flatten().long()
        largest = max(largest, int(classes.max()))
        outside = ((classes < 0) | (classes >= _MOST_CLASSES)).nonzero()
        if len(outside):
            row = int(outside[0])
            message = f"row {begin + row} of the array {array.name!r} is {int(classes[row])}, not a class index"
            hint = "number the classes from 0; to predict numbers, set task = 'regression'"
            faults.add(message, location=Location(str(array.path)), hint=hint)
            break
    return largest + 1


def _as_targets(rows: Tensor, *, is_classes: bool) -> Tensor:
    if is_classes:
        return rows.reshape(-1).long()
    rows = rows.unsqueeze(1) if rows.dim() == 1 else rows
    return rows if rows.is_floating_point() else rows.double()


_Forms = tuple["Callable[[Tensor], Tensor]", "Callable[[Tensor], Tensor]"]


def _in_memory(
    x: Tensor | None, y: Tensor | None, forms: _Forms, splits: list[Tensor | None]
) -> list[Dataset[tuple[Tensor, ...]]]:
    from torch.utils.data import TensorDataset

    assert x is not None
    assert y is not None
    inputs, targets = forms[0](x), forms[1](y)
    return [TensorDataset(*((inputs, targets) if s is None else (inputs[s], targets[s]))) for s in splits]


def _mapped(
    inputs: StoredArray, targets: StoredArray, forms: _Forms, splits: list[Tensor | None]
) -> list[Dataset[tuple[Tensor, ...]]]:
    from hookline_plugins.data.arrays.mapped_rows import MappedRows

    return [MappedRows(inputs, targets, forms, rows) for rows in splits]
