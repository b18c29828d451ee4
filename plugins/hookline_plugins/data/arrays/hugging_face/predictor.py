"""Predictor of the data source ``hugging-face``: new inputs read as in training, predictions as columns.

Imported only for predictions, because it needs torch. Shapes: ``B`` inputs, ``O`` targets, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hookline_plugins.data.arrays.hugging_face.reading import check_columns, is_stacked, open_datasets
from hookline_plugins.data.arrays.hugging_face.rows import ArrowRows, Form
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.predictions import WRITERS, class_columns, number_columns

if TYPE_CHECKING:
    from hookline import DataSource


class DatasetPredictor:
    """Predictor for the inputs of another dataset.

    Args:
        data: The training data, as stored with the run.
        inputs: The columns of the inputs.
    """

    writers = WRITERS

    def __init__(self, data: DataSource, inputs: tuple[str, ...]) -> None:
        self._data, self._inputs = data, inputs

    def read(self, path: Path, batch_size: int) -> Iterator[Any]:
        """Yield the inputs of all splits of a dataset.

        Raises:
            DataError: With every fault of its columns.
        """
        faults = Faults(path)
        found = open_datasets(path, faults)
        for name, dataset in found.items():
            check_columns(name, dataset, self._inputs, "", path, faults)
        faults.check()
        for dataset in found.values():
            form = Form(self._inputs, is_stacked(dataset.features, self._inputs))
            rows = ArrowRows(dataset, form, torch.zeros(len(dataset)))
            for part in torch.split(torch.arange(len(rows)), batch_size):
                yield rows.gather(part)[0]

    def columns(self, prediction: Tensor) -> Mapping[str, Sequence[Any]]:
        """Return the predicted label and the probability of each class, or the predicted numbers."""
        names = self._data.target_names
        if self._data.class_names:
            return class_columns(prediction, names[0], self._data.class_names, is_binary=False)
        return number_columns(prediction, names)
