"""``ExampleReader``: batches of a map-style dataset."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Subset, default_collate

from hookline.engine.data import DataSource
from hookline.engine.errors import DataError
from hookline.engine.reading.batch import count_examples, tensors_in
from hookline.engine.reading.failure import Failure, name_examples
from hookline.engine.reading.workers import Workers
from hookline.engine.rng import derive_seed, preserved_rng, seed_all


class Rows(NamedTuple):
    """The examples of a batch.

    Attributes:
        epoch: Number of the epoch.
        number: Number of the batch in it, from 0.
        indices: Indices of its examples.
        repeats: Number of earlier occurrences of each in the epoch.
        first: Place of the first of them in the batch, of which a rank reads a part.
    """

    epoch: int
    number: int
    indices: npt.NDArray[np.int64]
    repeats: npt.NDArray[np.int64]
    first: int = 0


class ExampleReader:
    """Reads batches of a map-style dataset, in any process.

    The random numbers drawn for a single example depend on the seed, the epoch, its index, and the number of its
    earlier occurrences in the epoch. A dataset that reads a whole batch at once (``gather``, ``__getitems__``) draws
    for all its examples together, so there they depend on the number of the batch. Both are the same in any process,
    and in a resumed run.

    Attributes:
        draws: Whether to seed the generators for what the examples draw.
        draws_nothing: Whether the dataset declares that its examples never draw.
    """

    draws = False

    def __init__(self, dataset: Dataset[Any], workers: Workers) -> None:
        self._dataset = dataset
        self._collate = workers.collate or default_collate
        self._item_seed = workers.item_seed
        self._reads_many = _reads_many(dataset)

    def read(self, rows: Rows) -> Any:
        """Return a batch, or a ``Failure``."""
        try:
            if self._reads_many:
                self._seed("batch", rows.number, rows.epoch, *([rows.first] if rows.first else []))
                return self._read_many(rows.indices)
            items = []
            for index, repeat in zip(rows.indices.tolist(), rows.repeats.tolist(), strict=True):
                try:
                    self._seed("item", index, repeat, rows.epoch)
                    items.append(self._dataset[index])
                except Exception as error:  # noqa: BLE001 - any error of a dataset is reported as one of the data
                    return Failure(f"example {index}", error)
            return self._collate(items)
        except Exception as error:  # noqa: BLE001 - as above
            return Failure(name_examples(rows.indices.tolist()), error, " as a batch")

    def _read_many(self, indices: npt.NDArray[np.int64]) -> Any:
        dataset: Any = self._dataset
        name = "gather" if hasattr(dataset, "gather") else "__getitems__"
        many = dataset.gather(torch.tensor(indices)) if name == "gather" else dataset.__getitems__(indices.tolist())
        num_read = len(many) if name == "__getitems__" else count_examples(many)
        if num_read < len(indices) and (name == "__getitems__" or any(True for _ in tensors_in(many))):
            raise DataError(f"{name} returned {num_read} items for {len(indices)} indices")
        return many if name == "gather" else self._collate(many)

    def _seed(self, *names: str | int) -> None:
        if self.draws:
            seed_all(derive_seed(self._item_seed, *names))


def with_sizes(data: DataSource) -> DataSource:
    """Return a data source with the sizes that it does not give, as far as its first training example has them.

    Only a vector of floating-point numbers has such a size: an index of a class or a row of tokens has none. Neither
    have the items of a stream, which a look would use up, and those that need a ``collate``.
    """
    if None in (data.in_features, data.out_features) and data.collate is None and hasattr(data.train, "__len__"):
        # An example that cannot be read is reported when the first batch is.
        with preserved_rng(), suppress(Exception):
            sizes = [len(one) if one.ndim == 1 and one.is_floating_point() else None for one in data.train[0]]
            inputs, outputs = (size or None for size in sizes)
            return replace(data, in_features=data.in_features or inputs, out_features=data.out_features or outputs)
    return data


def _reads_many(dataset: Dataset[Any]) -> bool:
    """Return whether a dataset reads a whole batch at once; a ``Subset``, which always could, if its dataset does."""
    gathers = hasattr(dataset, "gather")
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return gathers or callable(getattr(dataset, "__getitems__", None))
