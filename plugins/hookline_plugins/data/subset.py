"""First examples of each split of a data source, for the callback ``limit-examples``."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sized
from typing import Any, cast

from torch.utils.data import Dataset, IterableDataset, TensorDataset, get_worker_info

from hookline import DataSource


def first_examples(data: DataSource, max_examples: int) -> DataSource:
    """Return a data source with at most ``max_examples`` examples in each split, the first ones.

    Example:
        >>> import torch
        >>> data = DataSource(TensorDataset(torch.arange(8.0)), in_features=1)
        >>> len(first_examples(data, 3).train)
        3
    """
    shortened = {name: _shortened(dataset, max_examples) for name, dataset in data.splits().items()}
    more = {name: shortened.pop(name) for name in data.more_splits}
    return dataclasses.replace(data, more_splits=more, **cast(Any, shortened))


def _shortened(dataset: Dataset[Any], max_examples: int) -> Dataset[Any]:
    if isinstance(dataset, IterableDataset):
        return FirstOfStream(dataset, max_examples)
    if type(dataset) is TensorDataset:  # a subclass may have items of its own
        first = TensorDataset(*(tensor[:max_examples] for tensor in dataset.tensors))
        vars(first).update({name: value for name, value in vars(dataset).items() if name == "origins"})
        return first
    return FirstExamples(dataset, max_examples)


class FirstExamples(Dataset[Any]):
    """The first examples of a map-style dataset, which gives whole batches if that does."""

    def __init__(self, dataset: Dataset[Any], max_examples: int) -> None:
        self._dataset = dataset
        self._max_examples = max_examples
        for name in ("gather", "__getitems__", "origins"):
            if hasattr(dataset, name):
                setattr(self, name, getattr(dataset, name))

    def __len__(self) -> int:
        return min(self._max_examples, len(cast(Sized, self._dataset)))

    def __getitem__(self, index: int) -> Any:
        return self._dataset[index]


class FirstOfStream(IterableDataset[Any]):
    """The first examples of a stream; where several processes read it, each gives its share of them.

    It has a state and a method ``shard`` if the stream does.
    """

    def __init__(self, dataset: IterableDataset[Any], max_examples: int, *, is_share: bool = False) -> None:
        self._dataset: Any = dataset
        self._max_examples = max_examples
        self._is_share = is_share
        self._num_before = self._num_given = 0
        own = {"state_dict": self._state_dict, "load_state_dict": self._load_state_dict, "shard": self._shard}
        for name in ("state_dict", "load_state_dict", "shard", "set_epoch", "origins"):
            if hasattr(dataset, name):
                setattr(self, name, own.get(name) or getattr(dataset, name))

    def __iter__(self) -> Iterator[Any]:
        first, self._num_before = self._num_before, 0
        for example in itertools.islice(self._dataset, self._share() - first):
            first += 1
            self._num_given = first
            yield example

    def _share(self) -> int:
        worker = get_worker_info()
        if worker is None or self._is_share:
            return self._max_examples
        # A run refuses a stream that does not ask for its worker; it does not notice that this one does.
        number, num_workers = (object.__getattribute__(worker, name) for name in ("id", "num_workers"))
        return len(range(number, self._max_examples, num_workers))

    def _shard(self, worker: int, num_workers: int) -> FirstOfStream:
        share = self._dataset.shard(worker=worker, num_workers=num_workers)
        return FirstOfStream(share, len(range(worker, self._max_examples, num_workers)), is_share=True)

    def _state_dict(self) -> dict[str, Any]:
        return {"num_given": self._num_given, "stream": self._dataset.state_dict()}

    def _load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._num_before = self._num_given = state["num_given"]
        self._dataset.load_state_dict(state["stream"])
