"""Predictor of the data source ``csv``: new rows read as in training, predictions as columns in the units of the file.

Imported only for predictions, because it needs torch. Shapes: ``B`` rows, ``I`` input features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import Tensor

from hookline import DataError
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.predictions import WRITERS, class_columns, in_batches, number_columns
from hookline_plugins.data.sheet import Sheet
from hookline_plugins.data.table_columns import Missing, Reader, as_tensor, check_known_columns
from hookline_plugins.data.table_file import read_pieces

if TYPE_CHECKING:
    from hookline import DataSource


_HINTS: Mapping[Missing, str | None] = {
    "error": "fill it in",
    "drop": "fill it in: a prediction needs every feature",
    "mean": None,
}
"""Hint for a missing cell; None where it is filled in with the mean of the training split."""


class _Kept(msgspec.Struct):
    """The values that ``Table`` keeps for new rows, as read from the description of the data of a run."""

    features: list[tuple[str, list[str] | None]]
    others: list[str]
    fill: list[float]
    mean: list[float]
    scale: list[float]
    target_mean: list[float]
    target_scale: list[float]

    def __post_init__(self) -> None:
        num_features = sum(1 if categories is None else len(categories) for _, categories in self.features)
        sizes = {len(self.fill), len(self.mean), len(self.scale)}
        if sizes != {num_features} or len(self.target_mean) != len(self.target_scale):
            raise ValueError(f"{num_features} features have {sizes} values for missing cells, means and scales")


class TablePredictor:
    """Predictor that reads rows with the categories, means and scales of the training data.

    Args:
        data: The training data, as stored with the run.
        delimiter: The delimiter of a CSV file.
        missing: The option ``missing`` of the training.
        task: The option ``task`` of the training.
    """

    writers = WRITERS

    def __init__(self, data: DataSource, delimiter: str, missing: Missing, task: str) -> None:
        try:
            kept = msgspec.convert(dict(data.kept), _Kept)
        except msgspec.ValidationError as error:
            raise DataError(f"the description of the columns, saved with the run, cannot be used: {error}") from error
        if task == "regression" and len(kept.target_mean) != len(data.target_names):
            raise DataError("the description of the columns, saved with the run, has other targets than scales")
        self._data, self._task, self._delimiter = data, task, delimiter
        self._missing_hint = _HINTS[missing]
        self._categories: dict[str, list[str] | None] = dict(kept.features)
        self._others: list[str] = kept.others
        self._fill, self._mean, self._scale, self._target_mean, self._target_scale = (
            torch.tensor(values, dtype=torch.float64)
            for values in (kept.fill, kept.mean, kept.scale, kept.target_mean, kept.target_scale)
        )

    def read(self, path: Path, batch_size: int) -> Iterator[Tensor]:
        """Yield the inputs of a file, float64 ``[B, I]``.

        Raises:
            DataError: If its columns or cells do not match the training data; carries every fault.
        """
        yield from in_batches(self._parts(path), batch_size)

    def columns(self, prediction: Tensor) -> Mapping[str, Sequence[Any]]:
        """Return ``predicted_TARGET`` for each target, in the units of the file, and the probability of each class."""
        data = self._data
        if self._task == "regression":
            return number_columns(prediction, data.target_names, self._target_mean, self._target_scale)
        is_binary = self._task == "binary"
        return class_columns(prediction, data.target_names[0], data.class_names, is_binary=is_binary)

    def _parts(self, path: Path) -> Iterator[Tensor]:
        faults = Faults(path)
        sheet: Sheet | None = None
        num_rows = 0
        for sheet in read_pieces(path, self._delimiter, faults):
            if not num_rows:
                self._check_columns(sheet, faults)
            num_rows += sheet.frame.height
            inputs = self._inputs(sheet, faults)
            # After a fault the remaining parts are still read, for theirs.
            if inputs is not None and not faults.has_any:
                yield inputs
        faults.check(sheet)
        if not num_rows:
            faults.stop("the file has no rows")

    def _check_columns(self, sheet: Sheet, faults: Faults) -> None:
        one_hot = [name for name, categories in self._categories.items() if categories is not None]
        self._readable = check_known_columns(sheet, list(self._categories), self._others, one_hot, faults)

    def _inputs(self, sheet: Sheet, faults: Faults) -> Tensor | None:
        reader = Reader(sheet, faults, "error")
        columns = []
        for name in self._readable:
            categories = self._categories[name]
            if categories is None:
                columns.append(reader.numbers(name, self._missing_hint))
            else:
                columns += reader.indicators(name, categories, self._missing_hint)
        if faults.has_any or sheet.frame.is_empty():
            return None
        values = as_tensor(columns)
        values = torch.where(values.isnan(), self._fill, values)
        return values.sub_(self._mean).div_(self._scale)
