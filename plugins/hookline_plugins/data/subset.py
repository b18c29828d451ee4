"""First examples of each split of a data source, for the callback ``limit-examples``."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sized
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
        return TensorDataset(*(tensor[:max_examples] for tensor in dataset.tensors))
    return FirstExamples(dataset, max_examples)


class FirstExamples(Dataset[Any]):
    """The first examples of a map-style dataset, which gives whole batches if that does."""

    def __init__(self, dataset: Dataset[Any], max_examples: int) -> None:
        self._dataset = dataset
        self._max_examples = max_examples
        for name in ("gather", "__getitems__"):
            if hasattr(dataset, name):
                setattr(self, name, getattr(dataset, name))

    def __len__(self) -> int:
        return min(self._max_examples, len(cast(Sized, self._dataset)))

    def __getitem__(self, index: int) -> Any:
        return self._dataset[index]


class FirstOfStream(IterableDataset[Any]):
    """The first examples of a stream; where several processes read it, each gives its share of them."""

    def __init__(self, dataset: IterableDataset[Any], max_examples: int) -> None:
        self._dataset = dataset
        self._max_examples = max_examples

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        share = self._max_examples
        if worker is not None:
            share = len(range(worker.id, self._max_examples, worker.num_workers))
        return itertools.islice(iter(self._dataset), share)
