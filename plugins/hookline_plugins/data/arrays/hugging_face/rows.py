"""A dataset of the package ``datasets`` that returns whole batches of tensors.

Imported only when such a dataset is made, because it needs torch. Shapes: ``N`` examples, ``B`` in a batch, ``I`` input
features, ``T`` entries of the longest list in a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hookline import DataError
from hookline.engine import brief
from hookline_plugins.data.forms import as_tensor

MASK = "attention_mask"
IGNORED = -100
"""Target of padding, which does not count in the losses of torch and of transformers."""
_SAMPLED_ROWS = 64
"""Number of rows in a fingerprint: enough to notice new data or another order, few enough to cost nothing."""


class Form(NamedTuple):
    """The form of the examples of a dataset.

    Attributes:
        inputs: The columns of the inputs.
        is_stacked: Whether each holds one number, so that they are the features of one tensor ``[B, I]``.
        target: The column of the targets, if they are lists; None if they are given apart.
    """

    inputs: tuple[str, ...]
    is_stacked: bool
    target: str | None = None


class ArrowRows(Dataset[Any]):
    """Rows of a dataset as pairs of inputs and target.

    Args:
        dataset: A ``datasets.Dataset``.
        form: The form of its examples.
        targets: The target of each row, if it is one number.
        rows: The rows to use, int64; None for all.

    Attributes:
        lengths: The length of the first list of each example, for the callback ``bucket-by-length``.
    """

    def __init__(self, dataset: Any, form: Form, targets: Tensor | None, rows: Tensor | None = None) -> None:
        self._form, self._rows = form, rows
        self._targets = targets if rows is None or targets is None else targets[rows]
        self._table = dataset.with_format("arrow")
        self._num_rows = len(dataset) if rows is None else len(rows)
        lengths = next((one for one in map(self._lengths, form.inputs) if one is not None), None)
        if lengths is not None:
            self.lengths = lengths if rows is None else lengths[rows]

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, index: int) -> Any:
        inputs, target = self.gather(torch.tensor([range(len(self))[index]]))
        return {name: v[0] for name, v in inputs.items()} if isinstance(inputs, dict) else inputs[0], target[0]

    def gather(self, indices: Tensor) -> tuple[Any, Tensor]:
        """Return the examples with these indices.

        Raises:
            DataError: If inputs have different lengths, and no mask says where each ends.
        """
        rows = indices if self._rows is None else self._rows[indices]
        table = self._table[rows.tolist()]
        inputs = {name: tensor_of(table.column(name), 0, name, MASK in self._form.inputs) for name in self._form.inputs}
        target = self._form.target
        targets = tensor_of(table.column(target), IGNORED, target, True) if target else None
        if self._targets is not None:
            targets = self._targets[indices]
        assert targets is not None, "a target is a column or given apart"
        if self._form.is_stacked:
            return torch.stack([values.double() for values in inputs.values()], dim=1), targets
        return (inputs if len(inputs) > 1 else next(iter(inputs.values()))), targets

    def fingerprint(self) -> str:
        """Return a hash of the number of rows and of the values in some, to recognize changed data."""
        inputs, targets = self.gather(torch.linspace(0, len(self) - 1, min(_SAMPLED_ROWS, len(self))).long())
        digest = hashlib.sha256(f"{len(self)}".encode())
        for values in (*(inputs.values() if isinstance(inputs, dict) else [inputs]), targets):
            digest.update(brief(values).encode())
            digest.update(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _lengths(self, name: str) -> Tensor | None:
        column = self._table.data.column(name)
        parts = [chunk for chunk in column.chunks if hasattr(chunk, "value_lengths")]
        return torch.tensor([n for part in parts for n in part.value_lengths().to_pylist()]) if parts else None


def tensor_of(column: Any, padding: int, name: str, is_masked: bool) -> Tensor:
    """Return a column of Arrow as a tensor: numbers, lists of numbers of any depth, or padded lists.

    Raises:
        DataError: If lists have different lengths, and no mask says where each ends.
    """
    array = column.combine_chunks()
    shape: list[int] = [len(array)]
    while True:
        array = getattr(array, "storage", array)  # of the package's own types of arrays
        if not hasattr(array, "flatten") or not hasattr(array, "value_lengths"):
            break
        lengths = np.asarray(array.value_lengths())
        array = array.flatten()
        if len(lengths) and (lengths != lengths[0]).any():
            return _padded(as_tensor(_numbers(array)), lengths, len(shape), padding, name, is_masked)
        shape.append(int(lengths[0]) if len(lengths) else 0)
    return as_tensor(_numbers(array)).reshape(shape)


def _numbers(array: Any) -> Any:
    return array.to_numpy(zero_copy_only=False)


def _padded(values: Tensor, lengths: Any, depth: int, padding: int, name: str, is_masked: bool) -> Tensor:
    if depth > 1 or values.dim() > 1 or values.dtype == torch.bool or not is_masked:
        message = f"the lists in column {name!r} have different lengths"
        raise DataError(
            message, hint=f"pad them, or give the inputs a column {MASK!r} of lists with a 1 for each entry"
        )
    return torch.nn.utils.rnn.pad_sequence(
        list(torch.split(values, lengths.tolist())), batch_first=True, padding_value=padding
    )


def columns_of(dataset: Any, names: Sequence[str]) -> Any:
    """Return some columns of a whole dataset as a table of Arrow."""
    return dataset.with_format("arrow").select_columns(list(names))[:]
