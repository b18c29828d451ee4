"""What is kept of the data of a run: enough to build its model again, and to read inputs as theirs were read.

The file ``data.json`` of a run folder holds the sizes and names of the data source, the form of one example, and what
the data source wants to be kept. Of the data themselves it holds nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from hookline.engine.data import DataSource
from hookline.engine.errors import CheckpointError, DataError
from hookline.engine.loop.rng import ReaderState
from hookline.runs.disk.encoding import decode, encode, from_json, to_json

FORMAT = 1
"""Number of the form."""

_FACTS = ("in_features", "out_features", "feature_names", "target_names", "class_names")


def to_kept(data: DataSource) -> bytes:
    """Return what is kept of a data source.

    Raises:
        CheckpointError: When its ``kept`` holds something else than plain values.
    """
    values = {name: getattr(data, name) for name in _FACTS}
    tree, tensors = encode({**values, "kept": dict(data.kept)})
    if tensors:
        hint = "`kept` of a DataSource holds numbers, texts, lists and mappings: give tensor.tolist()"
        raise CheckpointError(f"the data source wants tensors to be kept: {', '.join(tensors)}", hint=hint)
    return to_json({"format": FORMAT, "example": _form_of_first(data.train), **tree})


def from_kept(text: bytes) -> DataSource:
    """Return a data source with the same sizes, names and ``kept``, and with one example of zeros.

    Raises:
        CheckpointError: When this is not what ``to_kept`` gave.
    """
    tree = from_json(text)
    number = tree.get("format") if isinstance(tree, dict) else None
    if number != FORMAT:
        hint = "read it with the version of Hookline that wrote it"
        raise CheckpointError(f"it is of format {number}, and this Hookline reads {FORMAT}", hint=hint)
    try:
        example = tree.pop("example")
        values = decode({name: tree[name] for name in (*_FACTS, "kept")}, {})
        return DataSource(KeptExample(None if example is None else _zeros(example)), **values)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"it does not describe data: {type(error).__name__}: {error}") from error


class KeptExample(Dataset[Any]):
    """Stands for data that need not be there any more: one example of zeros, in the form that the examples had.

    Attributes:
        example: The example; None where its form could not be kept.
    """

    def __init__(self, example: Any) -> None:
        self.example = example

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        if self.example is None:
            hint = "build the model from the sizes of the data source: in_features, out_features"
            raise DataError(
                "the training data are not at hand, and not even the form of an example was kept", hint=hint
            )
        return [self.example][index]


def _form_of_first(dataset: Dataset[Any]) -> Any:
    """Return the form of the first example; None if it is made of other things than tensors.

    A stream is not begun only to be looked at.
    """
    if isinstance(dataset, IterableDataset):
        return None
    if isinstance(dataset, KeptExample):
        return _form(dataset.example)
    if type(dataset) is TensorDataset:
        return _form(tuple(tensor[0] for tensor in dataset.tensors))
    with ReaderState(0).active():  # what the dataset draws must not show in the training
        return _form(dataset[0])


def _form(value: Any) -> Any:
    if isinstance(value, Tensor):
        return {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
    if isinstance(value, Mapping):
        forms = {str(key): _form(item) for key, item in value.items()}
        return None if None in forms.values() else {"mapping": forms}
    if type(value) in (tuple, list):
        forms_in_order = [_form(item) for item in value]
        return None if None in forms_in_order else forms_in_order
    return None


def _zeros(form: Any) -> Any:
    if isinstance(form, list):
        return tuple(_zeros(item) for item in form)
    if "mapping" in form:
        return {key: _zeros(item) for key, item in form["mapping"].items()}
    dtype = getattr(torch, form["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{form['dtype']} is no dtype")
    # Of one number: a size that a file declares takes no memory.
    return torch.zeros((), dtype=dtype).expand(form["shape"])
