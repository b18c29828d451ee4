"""A dataset with the values of one feature in another order, and the features of inputs of any form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

_Places = Mapping[str, list[int] | None]


@dataclass(frozen=True)
class Feature:
    """A feature of the inputs.

    Attributes:
        name: Its name.
        places: Its columns in each entry of the inputs, None for a whole entry; inputs that are no mapping have one
            entry, "".
    """

    name: str
    places: _Places


def features_of(inputs: Any, columns: Sequence[str] | Mapping[str, Sequence[str]] = ()) -> list[Feature]:
    """Return the features of the inputs of an example.

    A vector has a feature for each of its columns, or for each name: columns of the same name are one feature. Each
    entry of a mapping is a feature, unless its columns have names. Any other input is one feature.

    Args:
        inputs: The inputs: a tensor, a mapping, or anything else.
        columns: The name of each column of a vector; or of each entry that is a vector, by its name.

    Example:
        >>> import torch
        >>> [(one.name, dict(one.places)) for one in features_of(torch.zeros(3), ["age", "color", "color"])]
        [('age', {'': [0]}), ('color', {'': [1, 2]})]
    """
    named: Mapping[str, Sequence[str]] = columns if isinstance(columns, Mapping) else {"": columns}
    entries = inputs if isinstance(inputs, Mapping) else {"": inputs}
    places: dict[str, dict[str, list[int] | None]] = {}
    for entry, value in entries.items():
        names = _names_of_columns(entry, value, named.get(entry, ()))
        if names is None:
            places.setdefault(entry or "inputs", {})[entry] = None
        for number, name in enumerate(names or ()):
            found = places.setdefault(name, {}).setdefault(entry, [])
            assert found is not None, "an entry is a feature, or its columns are"
            found.append(number)
    return [Feature(name, found) for name, found in places.items()]


def _names_of_columns(entry: str, value: Any, names: Sequence[str]) -> Sequence[str] | None:
    """Return the names of the columns of an entry; None if it is a feature as a whole."""
    if not isinstance(value, Tensor) or value.dim() != 1:
        return None
    if len(names) == len(value):
        return names
    return None if entry else [str(number) for number in range(len(value))]


def permuted(dataset: Any, feature: Feature, order: Tensor) -> Dataset[Any]:
    """Return a dataset in which example ``i`` has the values of a feature that example ``order[i]`` has.

    Args:
        dataset: The dataset, with examples by number.
        feature: The feature.
        order: A permutation of its examples, int64.
    """
    if type(dataset) is TensorDataset:
        whole = tuple(dataset.tensors)
        return TensorDataset(*_exchanged(whole, tuple(tensor[order] for tensor in whole), feature))
    return _Permuted(dataset, feature, order)


class _Permuted(Dataset[Any]):
    """A dataset whose examples are made when they are asked for; it gives whole batches if the original does."""

    def __init__(self, dataset: Any, feature: Feature, order: Tensor) -> None:
        self._dataset, self._feature, self._order = dataset, feature, order
        for name, method in (("gather", self._gather), ("__getitems__", self._getitems)):
            if hasattr(dataset, name):
                setattr(self, name, method)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        return _exchanged(self._dataset[index], self._dataset[int(self._order[index])], self._feature)

    def _gather(self, indices: Tensor) -> Any:
        return _exchanged(self._dataset.gather(indices), self._dataset.gather(self._order[indices]), self._feature)

    def _getitems(self, indices: list[int]) -> list[Any]:
        pairs = (self._dataset.__getitems__(which) for which in (indices, self._order[indices].tolist()))
        return [_exchanged(one, other, self._feature) for one, other in zip(*pairs, strict=True)]


def _exchanged(example: Any, other: Any, feature: Feature) -> Any:
    """Return an example, or a batch, with the values of a feature of another one."""
    if isinstance(example, Mapping):
        return _with_entries(example, other, feature.places)
    (inputs, *rest), (others, *_) = example, other
    if isinstance(inputs, Mapping):
        return (_with_entries(inputs, others, feature.places), *rest)
    return (_with_columns(inputs, others, feature.places[""]), *rest)


def _with_entries(inputs: Mapping[str, Any], others: Mapping[str, Any], places: _Places) -> dict[str, Any]:
    return {**inputs, **{name: _with_columns(inputs[name], others[name], which) for name, which in places.items()}}


def _with_columns(value: Any, other: Any, columns: list[int] | None) -> Any:
    if columns is None:
        return other
    changed = value.clone()
    changed[..., columns] = other[..., columns]
    return changed
