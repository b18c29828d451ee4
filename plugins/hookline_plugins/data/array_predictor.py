"""New arrays -> inputs as they were in the training, and predictions -> columns.

Imported when predictions are asked for, because it needs torch. Shapes: ``B`` rows, ``O`` targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hookline import Location
from hookline_plugins.data.array_files import StoredArray, find_arrays
from hookline_plugins.data.predictions import WRITERS, class_columns, in_batches, number_columns
from hookline_plugins.data.table_file import Faults

if TYPE_CHECKING:
    from hookline import DataSource


class ArrayPredictor:
    """Reads arrays of the shape and kind that the inputs of the training had.

    Args:
        data: What was kept of the training data.
        name: The name of the array of inputs.
        form: What makes inputs of the rows that were read.
    """

    writers = WRITERS

    def __init__(self, data: DataSource, name: str, form: Callable[[Tensor], Tensor]) -> None:
        self._data, self._name, self._form = data, name, form
        self._example, self._target = data.train[0]

    def read(self, path: Path, batch_size: int) -> Iterator[Tensor]:
        """Give the inputs of a file, ``[B, ...]``.

        Raises:
            DataError: When there are no such inputs in it; with every fault.
        """
        faults = Faults(path)
        (array,) = find_arrays(path, (self._name,), faults)
        faults.check()
        assert array is not None, "what is missing is a fault"
        yield from in_batches(self._parts(array, faults), batch_size)

    def columns(self, prediction: Tensor) -> Mapping[str, Sequence[Any]]:
        """Return ``predicted`` with the class index, and a probability of each; or ``predicted_0`` to ``O - 1``."""
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
                more = f", and {len(bad) - 1:,} more" if len(bad) > 1 else ""
                faults.add(f"row {first + int(row)} of the array {array.name!r} is not finite{more}")
            if not faults.has_any:
                yield inputs
        faults.check()

    def _check(self, array: StoredArray, inputs: Tensor, faults: Faults) -> None:
        """Refuse inputs of another shape or kind, before any is used."""
        if inputs.shape[1:] != self._example.shape:
            got = f"{list(inputs.shape[1:])}, and was {list(self._example.shape)} in the training"
            faults.add(f"an input of the array {array.name!r} has the shape {got}")
        if inputs.is_floating_point() != self._example.is_floating_point():
            was = "floating-point numbers" if self._example.is_floating_point() else "integers"
            faults.add(f"the array {array.name!r} holds {array.dtype}, and held {was} in the training")
        faults.check()


def _chunks(array: StoredArray, faults: Faults) -> Iterator[tuple[int, Tensor]]:
    """Give the rows of an array, with the number of the first of them: at once where they are packed."""
    if array.offset is not None:
        yield from array.chunks()
        return
    try:
        rows = array.load()
    except Exception as error:  # noqa: BLE001 - a torn archive fails in many ways
        what = f"the array {array.name!r} cannot be read: {type(error).__name__}: {error}"
        faults.stop(what, location=Location(str(array.path)), hint="copy or save it again")
    yield 0, rows
