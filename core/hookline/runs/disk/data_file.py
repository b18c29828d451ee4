"""The file ``data.json``: enough about the data of a run to rebuild its model and to read inputs for it.

It holds the sizes and names of the data source, the form of one example, and the ``kept`` values of the data source.
It contains none of the data themselves.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from hookline.engine.data import DataSource
from hookline.engine.errors import CheckpointError, DataError
from hookline.engine.rng import preserved_rng, seed_all
from hookline.runs.disk.encoding import decode, encode, from_json, to_json
from hookline.runs.disk.formats import check_format

FORMAT = 1
"""Version of the format."""

_FACTS = ("in_features", "out_features", "feature_names", "target_names", "class_names", "task", "target")
_MAX_NUMEL = 2**31 - 1
"""Largest size and largest example that are believed: beyond any input, and small enough for every computation."""

_Size = Annotated[int, msgspec.Meta(ge=1, le=_MAX_NUMEL)]


class _Facts(msgspec.Struct, forbid_unknown_fields=True):
    """Types of the saved facts; a data source checks its ``kept`` itself."""

    in_features: _Size | None
    out_features: _Size | None
    feature_names: tuple[str, ...] | None
    target_names: tuple[str, ...] | None
    class_names: tuple[str, ...] | None
    task: Literal["regression", "classification", "binary"] | None
    target: str
    kept: dict[str, Any]


def to_kept(data: DataSource, shown: Callable[[Any], Any] = lambda value: value) -> bytes:
    """Return the contents of ``data.json`` for a data source.

    Args:
        data: The data source.
        shown: Returns a plain value, such as a name or ``kept``, as it may be written.

    Raises:
        CheckpointError: When its ``kept`` contains anything but plain values.
    """
    values = {name: getattr(data, name) for name in _FACTS}
    names = {name: shown(value) for name, value in values.items() if name.endswith("_names")}
    tree, tensors = encode({**values, **names, "kept": shown(dict(data.kept))})
    if tensors:
        hint = "`kept` of a DataSource holds numbers, texts, lists and mappings: use tensor.tolist()"
        raise CheckpointError(f"the `kept` of the data source contains tensors: {', '.join(tensors)}", hint=hint)
    return to_json({"format": FORMAT, "example": _form_of_first(data.train), **tree})


def from_kept(text: bytes) -> DataSource:
    """Return a data source with the saved sizes, names and ``kept``, and with one example of zeros.

    Raises:
        CheckpointError: When ``text`` is not output of ``to_kept``.
    """
    tree = from_json(text)
    check_format(tree.get("format") if isinstance(tree, dict) else None, FORMAT, "it", CheckpointError)
    try:
        example = tree.pop("example")
        tree = {"task": None, "target": "labels", **tree}  # earlier versions did not save them
        facts = msgspec.convert(decode({name: tree[name] for name in (*_FACTS, "kept")}, {}), _Facts)
        values = {name: value for name in (*_FACTS, "kept") if (value := getattr(facts, name)) is not None}
        return DataSource(KeptExample(None if example is None else _zeros(example)), **values)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"it does not describe data: {type(error).__name__}: {error}") from error


class KeptExample(Dataset[Any]):
    """Stand-in for data that may no longer exist: one example of zeros, in the form of the original examples.

    Attributes:
        example: The example; None if its form could not be saved.
    """

    def __init__(self, example: Any) -> None:
        self.example = example

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        if self.example is None:
            hint = "build the model from the sizes of the data source: in_features, out_features"
            raise DataError("the training data are not available, and the form of an example was not saved", hint=hint)
        return [self.example][index]


def _form_of_first(dataset: Dataset[Any]) -> Any:
    """Return the form of the first example; None if it contains anything but tensors, or would start a stream."""
    if isinstance(dataset, IterableDataset):
        return None
    if isinstance(dataset, KeptExample):
        return _form(dataset.example)
    if type(dataset) is TensorDataset:
        return _form(tuple(tensor[0] for tensor in dataset.tensors))
    states = random.getstate(), np.random.get_state()
    with preserved_rng():  # random numbers drawn by the dataset must not affect the training
        try:
            seed_all(0)
            return _form(dataset[0])
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


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
        raise TypeError(f"{form['dtype']} is not a dtype")
    shape = msgspec.convert(form["shape"], list[Annotated[int, msgspec.Meta(ge=0)]])
    if math.prod(shape) > _MAX_NUMEL:
        raise ValueError(f"an example of shape {shape} is too large")
    # Expanded from one number, so that a size that a file declares takes no memory.
    return torch.zeros((), dtype=dtype).expand(shape)
