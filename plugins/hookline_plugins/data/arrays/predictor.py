"""Predictor of the data sources of arrays: new inputs read as in training; predictions as columns, or as an array.

Imported only for predictions, because it needs torch. Shapes: ``B`` or ``N`` rows, ``I`` features, ``O`` targets, ``C``
classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import Tensor, nn

from hookline import ContractError, DataError, Location
from hookline.trained import Exportable, RawInput
from hookline_plugins.data.arrays.files import StoredArray, find_arrays
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.forms import as_tensor
from hookline_plugins.data.predictions import (
    NO_CLASSES,
    WRITERS,
    class_columns,
    classes_of,
    in_batches,
    number_columns,
)
from hookline_plugins.data.rows import names_of, read_numbers
from hookline_plugins.data.tables.scaling import Unscale

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hookline import DataSource


_DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
"""Dtypes of rows that an exported model takes."""


class _Kept(msgspec.Struct):
    """The values that data sources of arrays keep for new inputs, as read from the description of the data of a run."""

    labels: list[str | int | float | bool] = []
    is_flat: bool = False
    mean: list[float] = []
    scale: list[float] = []
    target_mean: list[float] = []
    target_scale: list[float] = []
    dtype: str = ""


class ArrayPredictor:
    """Predictor for arrays of the shape and kind of the training inputs.

    Args:
        data: The training data, as stored with the run.
        name: The name of the input array.
        form: Function from rows to inputs.
        first_rows: Function from a number to so many rows of the training data.
    """

    writers = WRITERS

    def __init__(
        self,
        data: DataSource,
        name: str,
        form: Callable[[Tensor], Tensor],
        first_rows: Callable[[int], Tensor],
    ) -> None:
        try:
            self._kept = msgspec.convert(dict(data.kept), _Kept)
        except msgspec.ValidationError as error:
            raise DataError(f"the description of the data, saved with the run, cannot be used: {error}") from error
        self._data, self._name, self._form, self._first_rows = data, name, form, first_rows
        kept = self._kept
        self._unscale = Unscale(_doubles(kept.target_mean), _doubles(kept.target_scale)) if kept.target_scale else None
        self._example, self._target = data.train[0]
        self._is_binary = data.task == "binary"
        self._is_class = self._is_binary or not self._target.is_floating_point()

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
        """Return the predicted class and each class's probability; or a column for each of ``O`` targets."""
        data = self._data
        count = data.out_features or 0
        numbers = [str(number) for number in range(count)]
        if self._is_class:
            target = data.target_names[0] if data.target_names else ""
            return class_columns(prediction, target, data.class_names or numbers, is_binary=self._is_binary)
        return number_columns(prediction, data.target_names or numbers, self._unscale)

    def exportable(self, model: nn.Module) -> Exportable:
        """Return the model with the scaling of the training, for rows of the dtype of the training array."""
        from hookline_plugins.data.exported import RawModel, outputs_of, units_of

        data, dtype = self._data, self._raw_dtype()
        numbers = tuple(map(str, range(data.out_features or 0)))
        names = (data.class_names or numbers) if self._is_class else ()
        units = units_of(names, self._unscale, is_binary=self._is_binary)
        raw: Any = RawInput(self._name, dtype, tuple(self._example.shape))
        module = RawModel(_Prepared(self._name, self._form, *self._scale()), model, units)
        return Exportable(module, (raw,), outputs_of(data, names), partial(self._examples, getattr(torch, dtype)))

    def _examples(self, dtype: torch.dtype, count: int) -> tuple[dict[str, Tensor], Tensor, str]:
        from hookline_plugins.data.exported import invented

        try:
            rows = self._first_rows(count).to(dtype)
            rows = rows.unsqueeze(1) if rows.dim() == 1 else rows
            described = f"the first {len(rows)} rows of the array {self._name!r}"
            self._check(described, described, self._form(rows), Faults(None))
        except (DataError, OSError, ValueError):
            rows = invented((count, *self._example.shape), dtype)
            if self._kept.scale:
                mean, scale = self._scale()
                rows = (rows * scale + mean).to(dtype)
            described = f"{count} random examples, because the training data cannot be read"
        return {self._name: rows}, self._scaled(self._form(rows)), described

    def _raw_dtype(self) -> Any:
        """Return the dtype of the rows of the training array, or the nearest that NumPy and ONNX have as well."""
        if self._kept.dtype in _DTYPES:
            return self._kept.dtype
        example = self._example.dtype
        return "int64" if not example.is_floating_point else "float64" if example == torch.float64 else "float32"

    def predict(
        self, model: Callable[[Tensor], Any], inputs: Any, batch_size: int, *, probabilities: bool = False
    ) -> NDArray[Any]:
        """Return labels ``[N]`` or numbers as in the targets; or the probability of each class, ``[N, C]``.

        Raises:
            DataError: If the inputs are not like those of the training; carries every fault.
            ContractError: If the output of the model does not fit the targets.
        """
        if probabilities and not self._is_class:
            raise ValueError(NO_CLASSES)
        faults = Faults(None)
        columns = self._data.feature_names if names_of(inputs) is not None else ()
        read = read_numbers(inputs, "the inputs", faults, columns)
        faults.check()
        assert read is not None, "inputs that cannot be read are a fault"
        rows = self._form(as_tensor(read.values))
        self._check("the inputs", f"the inputs hold {read.values.dtype}", rows, faults)
        rows = self._scaled(rows)
        parts = [model(rows[first : first + batch_size]) for first in range(0, max(len(rows), 1), batch_size)]
        if not all(isinstance(part, Tensor) for part in parts):
            raise ContractError(f"the model returned a {type(parts[0]).__name__}, but predictions need one tensor")
        return self._in_units(torch.cat(parts), probabilities=probabilities)

    def _in_units(self, prediction: Tensor, *, probabilities: bool) -> NDArray[Any]:
        """Return predictions in the units of the targets."""
        if self._is_class:
            labels = self._kept.labels or range(self._data.out_features or 0)
            return classes_of(prediction, labels, is_binary=self._is_binary, probabilities=probabilities)
        if self._unscale:
            prediction = self._unscale(prediction.double())
        is_column = self._kept.is_flat and prediction.dim() == 2 and prediction.shape[1] == 1
        return (prediction.squeeze(1) if is_column else prediction).numpy()

    def _scaled(self, inputs: Tensor) -> Tensor:
        return _scaled(inputs, *self._scale())

    def _scale(self) -> tuple[Tensor, ...]:
        """Return mean and scale of the inputs; nothing if they are not scaled."""
        return _pair(self._kept.mean, self._kept.scale)

    def _parts(self, array: StoredArray, faults: Faults) -> Iterator[Tensor]:
        for first, rows in _chunks(array, faults):
            inputs = self._form(rows)
            if not first:
                held = f"the array {array.name!r} holds {array.dtype_name}"
                self._check(f"inputs in the array {array.name!r}", held, inputs, faults)
            bad = (~inputs.isfinite()).reshape(len(inputs), -1).any(1).nonzero() if inputs.is_floating_point() else ()
            for row in bad[:1]:
                more = f" (the first of {len(bad):,} such rows)" if len(bad) > 1 else ""
                faults.add(f"row {first + int(row)} of the array {array.name!r} is not finite{more}")
            if not faults.has_any:
                yield self._scaled(inputs)
        faults.check()

    def _check(self, what: str, held: str, inputs: Tensor, faults: Faults) -> None:
        """Refuse inputs of another shape or kind before any is used."""
        if inputs.shape[1:] != self._example.shape:
            shapes = f"{list(inputs.shape[1:])}, but the model was trained on {list(self._example.shape)}"
            faults.add(f"{what} have the shape {shapes}")
        if inputs.is_floating_point() != self._example.is_floating_point():
            expected = "floating-point numbers" if self._example.is_floating_point() else "integers"
            faults.add(f"{held}, but the model was trained on {expected}")
        faults.check()


class _Prepared(nn.Module):
    """The inputs of the model for the rows of an array ``name``."""

    def __init__(self, name: str, form: Callable[[Tensor], Tensor], *scale: Tensor) -> None:
        super().__init__()
        self._name, self._form = name, form
        for label, values in zip(("mean", "scale"), scale, strict=False):
            self.register_buffer(label, values)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the inputs of the model."""
        return _scaled(self._form(inputs[self._name]), *self.buffers())


def _scaled(inputs: Tensor, mean: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
    return inputs if mean is None or scale is None else (inputs.double() - mean) / scale


def _pair(mean: list[float], scale: list[float]) -> tuple[Tensor, ...]:
    return (_doubles(mean), _doubles(scale)) if scale else ()


def _doubles(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


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
