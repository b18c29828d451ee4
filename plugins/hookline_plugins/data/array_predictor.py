"""Predictor of the data source ``arrays``: new inputs read as in training, predictions as columns.

Imported only for predictions, because it needs torch. Shapes: ``B`` rows, ``O`` targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hookline import Location
from hookline_plugins.data.array_files import StoredArray, find_arrays
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.predictions import WRITERS, class_columns, in_batches, number_columns

if TYPE_CHECKING:
    from hookline import DataSource


class ArrayPredictor:
    """Predictor for arrays of the shape and kind of the training inputs.

    Args:
        data: The training data, as stored with the run.
        name: The name of the input array.
        form: Function from rows to inputs.
    """

    writers = WRITERS

    def __init__(self, data: DataSource, name: str, form: Callable[[Tensor], Tensor]) -> None:
        self._data, self._name, self._form = data, name, form
        self._example, self._target = data.train[0]

    def read(self, path: Path, batch_size: int) -> Iterator[Tensor]:
        """Yield the inputs of a file, ``[B, ...]``.

        Raises:
            DataError: If the file does not hold such inputs; carries every fault.
        """
        faults = Faults(path)
        (array,) = find_arrays(path, (self._name,), faults)
        faults.check()
        assert array is not None, "a missing array is a fault"
        yield from in_batches(self._parts(array, faults), batch_size)

    def columns(self, prediction: Tensor) -> Mapping[str, Sequence[Any]]:
        """Return ``predicted``, a class index, and each class's probability; or a column for each of ``O`` targets."""
        count = self._data.out_features or 0
        names = [str(number) for number in range(count)]
        if self._target.is_floating_point():
            return number_columns(prediction, names)
        return class_columns(prediction, "", names, is_binary=False)

    def _parts(self, array: StoredArray, faults: Faults) -> Iterator[Tensor]:
        for first, rows in _chunks(array, faults):
            inputs = self._form(rows)
            if not first:
                self._check(array, inputs, faults)
            bad = (~inputs.isfinite()).reshape(len(inputs), -1).any(1).nonzero() if inputs.is_floating_point() else ()
            for row in bad[:1]:
                more = f" (the first of {len(bad):,} such rows)" if len(bad) > 1 else ""
                faults.add(f"row {first + int(row)} of the array {array.name!r} is not finite{more}")
            if not faults.has_any:
                yield inputs
        faults.check()

    def _check(self, array: StoredArray, inputs: Tensor, faults: Faults) -> None:
        """Refuse inputs of another shape or kind before any is used."""
        if inputs.shape[1:] != self._example.shape:
            shapes = f"{list(inputs.shape[1:])}, but the model was trained on {list(self._example.shape)}"
            faults.add(f"inputs in the array {array.name!r} have the shape {shapes}")
        if inputs.is_floating_point() != self._example.is_floating_point():
            expected = "floating-point numbers" if self._example.is_floating_point() else "integers"
            faults.add(f"the array {array.name!r} holds {array.dtype_name}, but the model was trained on {expected}")
        faults.check()


def _chunks(array: StoredArray, faults: Faults) -> Iterator[tuple[int, Tensor]]:
    """Yield the rows of an array in chunks, each with the number of its first row; all at once from an archive."""
    if array.offset is not None:
        yield from array.chunks()
        return
    try:
        rows = array.load()
    except Exception as error:  # noqa: BLE001 - a damaged archive fails in many ways
        what = f"the array {array.name!r} cannot be read: {type(error).__name__}: {error}"
        faults.stop(what, location=Location(str(array.path)), hint="copy or save it again")
    yield 0, rows
