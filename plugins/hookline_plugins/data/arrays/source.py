"""Data source ``arrays``: inputs and targets from array files, read at once or batch by batch.

Shapes: ``N`` rows, ``I`` input features, ``O`` targets, ``C`` classes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from msgspec import Meta

from hookline import DataSource, Location, hookimpl
from hookline_plugins.data.arrays.files import StoredArray, find_arrays, read_key
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.forms import as_inputs
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
    named,
    split_rows,
    with_origins,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from torch import Tensor

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

    Rows are split at random, or by an array ``[N]`` of the file: ``stratify``, ``group_by``, ``order_by`` and
    ``split_column`` name it as they name a column of a table. Each split keeps the order of the file. Arrays that stay
    in their file are read batch by batch. Nothing is unpickled.
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
    stratify: Stratify = ""
    group_by: GroupBy = ""
    order_by: OrderBy = ""
    split_column: SplitColumn = ""
    files: Files = field(default_factory=dict)
    fold: Fold = ""
    fold_seed: FoldSeed = 0
    memory_map: Annotated[
        bool | Literal["auto"],
        Meta(description="leave the arrays in their file and read batch by batch; auto: if larger than 1 GiB"),
    ] = "auto"

    def __post_init__(self) -> None:
        check_options(self)
        if self.inputs == self.targets:
            raise ValueError(f"`inputs` and `targets` both name the array {self.inputs!r}")

    @hookimpl
    def build_data(self) -> DataSource:
        """Read the arrays, or their headers if they stay in their files."""
        faults = Faults(self.path)
        own = self._part(self.path, faults)
        num_rows, by = own.inputs.shape[0], key_of(self)
        key = read_key(self.path, by[1], num_rows, faults) if by else None
        faults.check()
        is_split = bool(by or self.fold) or len(self.split) > 1
        rows: dict[str, Any] = split_rows(num_rows, self, key, faults) if is_split else {"train": None}
        parts = {name: self._further(name, path, own, rows) for name, path in self.files.items()}
        faults.check()
        classes = [part.num_classes for part in (own, *parts.values())]
        num_classes = None if own.num_classes is None else max(count or 0 for count in classes)
        datasets = {name: own.dataset(chosen) for name, chosen in rows.items()}
        datasets |= {name: part.dataset(None) for name, part in parts.items()}
        return DataSource(
            **named(datasets),
            in_features=[*own.inputs.shape[1:], 1][0] if len(own.inputs.shape) < 3 else None,
            out_features=num_classes or [*own.targets.shape[1:], 1][0],
            task="regression" if num_classes is None else "classification",
            kept={"is_flat": len(own.targets.shape) == 1, "dtype": own.inputs.dtype_name},
        )

    def _part(self, path: Path, faults: Faults) -> _Part:
        """Read the arrays of one file.

        Raises:
            DataError: If they cannot be used; carries every fault.
        """
        inputs, targets = find_arrays(path, (self.inputs, self.targets), faults)
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
        return _Part(inputs, targets, None if is_mapped else (x, y), forms, num_classes)

    def _further(self, name: str, path: Path, own: _Part, rows: Mapping[str, Any]) -> _Part:
        """Read the file of a further split, whose arrays must be like those of the first.

        Raises:
            DataError: If they are not; carries every fault.
        """
        faults = Faults(path)
        if name in rows:
            hint = f"a split has one source: rename that of `files`, or the rows of {self.split_column!r}"
            faults.stop(f"both a file and the array {self.split_column!r} name the split {name!r}", hint=hint)
        part = self._part(path, faults)
        for array, first in ((part.inputs, own.inputs), (part.targets, own.targets)):
            if array.shape[1:] != first.shape[1:] or (array.kind == "f") != (first.kind == "f"):
                got, expected = ([one.dtype_name, list(one.shape[1:])] for one in (array, first))
                hint = f"the files need arrays of equal form: {self.path}"
                faults.add(f"each row of the array {array.name!r} is {got}, not {expected}", hint=hint)
        faults.check()
        return part

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


class _Part(NamedTuple):
    """The arrays of one file.

    Attributes:
        inputs: The input array.
        targets: The target array.
        values: Both in memory; None if they stay in their file.
        forms: Functions from their rows to inputs and targets.
        num_classes: The number of classes; None for a regression.
    """

    inputs: StoredArray
    targets: StoredArray
    values: tuple[Tensor | None, Tensor | None] | None
    forms: _Forms
    num_classes: int | None

    def dataset(self, rows: Tensor | None) -> Any:
        """Return the dataset of some rows; None for all."""
        places = None if rows is None else rows.numpy()
        if self.values is None:
            from hookline_plugins.data.arrays.mapped_rows import MappedRows

            return with_origins(MappedRows(self.inputs, self.targets, self.forms, rows), places)
        from torch.utils.data import TensorDataset

        x, y = self.values
        assert x is not None
        assert y is not None
        inputs, targets = self.forms[0](x), self.forms[1](y)
        chosen = (inputs, targets) if rows is None else (inputs[rows], targets[rows])
        return with_origins(TensorDataset(*chosen), places)
