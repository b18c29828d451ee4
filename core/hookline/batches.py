"""Datasets -> a stream of batches that can start at any (epoch, position).

The order of the examples is a function of (seed, epoch), drawn from a private generator: nothing else that draws random
numbers changes it, and no batch has to be read to skip it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from hookline.device import placed
from hookline.errors import DataError
from hookline.rng import derive_seed, make_generator, preserved_rng, seed_all

_GATHERED_BYTES = 2**26
"""How much of an in-memory dataset is put in order at once: large enough to cost little, small enough not to matter."""


class Batches:
    """The batches of one dataset.

    Args:
        dataset: Items ``(input, target)``, or anything that the default collation of ``DataLoader`` takes.
        batch_size: Examples in a batch, at least 1; None for all of them. The last batch may be smaller.
        dtype: What floating-point tensors are cast to.
        seed: The run's seed; None keeps the dataset's own order.
        name: What the dataset is called in messages.
        device: Where the batches are to be; default: the CPU.
        num_workers: Number of processes that read the examples; 0 reads them in this one.
        collate: Makes a batch of a list of items; default: that of ``DataLoader``.
        order: Gives the indices of the examples of an epoch, int64, in the place of the private generator.

    Raises:
        DataError: When the dataset is empty, or ``order`` gives no indices of its examples.

    Example:
        >>> dataset = TensorDataset(torch.arange(5.0))
        >>> [batch[0].tolist() for batch in Batches(dataset, 2, dtype=torch.float32, seed=None).epoch(1)]
        [[0.0, 1.0], [2.0, 3.0], [4.0]]
    """

    def __init__(  # noqa: PLR0913 - each says one thing about how a dataset is read
        self,
        dataset: Dataset[Any],
        batch_size: int | None,
        *,
        dtype: torch.dtype,
        seed: int | None,
        name: str = "dataset",
        device: torch.device | None = None,
        num_workers: int = 0,
        collate: Callable[[list[Any]], Any] | None = None,
        order: Callable[[int], Tensor] | None = None,
    ) -> None:
        self._is_stream = isinstance(dataset, IterableDataset)
        self.num_examples = None if self._is_stream else _length(dataset, name)
        if self.num_examples == 0:
            raise DataError(f"the {name} is empty", hint="give it at least one example")
        if batch_size is None and self.num_examples is None:
            raise DataError("'all' is no batch size for a stream of unknown length", hint="set train.batch_size")
        self._dataset = _cast_tensors(dataset, dtype) if type(dataset) is TensorDataset else dataset
        self._batch_size = min(batch_size or 2**53, self.num_examples or 2**53)
        self._dtype = dtype
        self._seed = seed
        self._name = name
        self._device = device or torch.device("cpu")
        self._num_workers = num_workers
        self._collate = collate
        self._order = order
        if order is not None:
            self.num_examples = len(self.order(epoch=1))

    @property
    def num_batches(self) -> int | None:
        """Number of batches in an epoch; None for a stream."""
        return None if self.num_examples is None else -(-self.num_examples // self._batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Give the batches of an epoch (from 1), without the first ``start``."""
        if type(self._dataset) is TensorDataset:
            return self._gathered(self._dataset.tensors, epoch, start)
        if hasattr(self._dataset, "gather"):
            return self._read_whole(self._dataset.gather, epoch, start)
        return self._loaded(epoch, start)

    def order(self, epoch: int) -> Tensor:
        """Return the indices of the examples in the order of an epoch: int64 ``[num_examples]``."""
        assert self.num_examples is not None
        if self._order is not None:
            return self._checked(self._order(epoch))
        if self._seed is None:
            return torch.arange(self.num_examples)
        return torch.randperm(self.num_examples, generator=make_generator(self._seed, "order", epoch))

    def _gathered(self, tensors: tuple[Tensor, ...], epoch: int, start: int) -> Iterator[tuple[Tensor, ...]]:
        """Index whole tensors, many batches at a time, and give slices of the result.

        The pieces begin at the same places wherever the epoch is entered, so a batch always lies at the same offset in
        memory: kernels may round differently by alignment.
        """
        size = self._batch_size
        row_bytes = sum(tensor[0].numel() * tensor.element_size() for tensor in tensors)
        per_piece = max(_GATHERED_BYTES // (row_bytes * size), 1) if row_bytes else 1
        order = self.order(epoch)
        for first in range(start - start % per_piece, cast(int, self.num_batches), per_piece):
            rows = order[first * size : (first + per_piece) * size]
            pieces = (placed(tensor[rows], self._device, self._dtype) for tensor in tensors)
            batches = zip(*(torch.split(piece, size) for piece in pieces), strict=True)
            for number, batch in enumerate(batches, first):
                if number >= start:
                    yield batch

    def _read_whole(self, gather: Callable[[Tensor], Any], epoch: int, start: int) -> Iterator[Any]:
        """Let the dataset give each batch as a whole, by the indices of its examples."""
        for rows in self._rows(epoch, start):
            yield placed(gather(rows), self._device, self._dtype)

    def _loaded(self, epoch: int, start: int) -> Iterator[Any]:
        settings: dict[str, Any] = {
            # DataLoader draws a seed for its workers; from a generator of ours it leaves the global one alone.
            "generator": make_generator(self._seed or 0, "workers", epoch),
            "num_workers": self._num_workers,
            "collate_fn": self._collate,
            "pin_memory": self._device.type == "cuda",
        }
        if self._is_stream:
            if start:
                raise DataError("a stream cannot be entered in the middle", hint="use a map-style dataset")
            loader = DataLoader(self._dataset, batch_size=self._batch_size, **settings)
        else:
            seeded = _SeededItems(self._dataset, derive_seed(self._seed or 0, "item", epoch))
            sampler = [rows.tolist() for rows in self._rows(epoch, start)]
            loader = DataLoader(seeded, batch_sampler=cast(Any, sampler), **settings)
        batches: Iterator[Any] = iter(loader)
        if not (self._is_stream or self._num_workers):
            batches = _with_own_numbers(batches)
        return (placed(batch, self._device, self._dtype) for batch in batches)

    def _rows(self, epoch: int, start: int) -> list[Tensor]:
        """Return the indices of the examples of each batch of an epoch, without the first ``start`` batches."""
        rows = self.order(epoch)[start * self._batch_size :]
        return list(torch.split(rows, self._batch_size)) if len(rows) else []

    def _checked(self, order: Any) -> Tensor:
        num_examples = _length(self._dataset, self._name)
        is_order = isinstance(order, Tensor) and order.dim() == 1 and order.dtype == torch.int64 and len(order) > 0
        if not is_order or not (int(order.min()) >= 0 and int(order.max()) < num_examples):
            message = f"the order of the {self._name} is no list of indices of its {num_examples} examples"
            raise DataError(message, hint="build_order returns a function that returns int64 [num_examples]")
        return cast(Tensor, order)


class _SeededItems(Dataset[Any]):
    """A dataset in which what is drawn for an example depends on the seed, the epoch and its index alone.

    So it is the same whoever reads the example, in whatever order, and after whatever interruption.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self._dataset = dataset
        self._seed = seed

    def __getitem__(self, index: int) -> Any:
        seed_all(self._seed + index)
        return self._dataset[index]


def _with_own_numbers(batches: Iterator[Any]) -> Iterator[Any]:
    """Give batches, and leave no trace of what is drawn for them in the global generators."""
    while True:
        with preserved_rng(is_all=True):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _length(dataset: Dataset[Any], name: str) -> int:
    try:
        return len(cast(Sized, dataset))
    except Exception as error:
        hint = "a dataset has __len__ and __getitem__, or is an IterableDataset"
        raise DataError(f"the {name}, a {type(dataset).__name__}, has no length: {error}", hint=hint) from error


def count_examples(batch: Any) -> int:
    """Return the number of examples in a batch: the length of the first tensor in it; 1 if there is none.

    >>> count_examples({"name": ["a", "b"], "image": torch.zeros(2, 3)})
    2
    """
    if type(batch) is tuple and type(batch[0]) is Tensor and batch[0].dim():
        return len(batch[0])  # what most batches are; this is asked in every step
    return next((len(tensor) for tensor in tensors_in(batch) if tensor.dim()), 1)


def part_of(batch: Any, start: int, stop: int) -> Any:
    """Return the examples of a batch from ``start`` to before ``stop``: slices of its tensors.

    >>> part_of({"x": torch.arange(5), "name": "all"}, 1, 3)
    {'x': tensor([1, 2]), 'name': 'all'}
    """
    if isinstance(batch, Tensor):
        return batch[start:stop] if batch.dim() else batch
    if isinstance(batch, dict):
        return {key: part_of(value, start, stop) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [part_of(part, start, stop) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Give every tensor of a batch, nested as it may be.

    >>> len(list(tensors_in({"a": torch.zeros(1), "b": [torch.zeros(1), "c"]})))
    2
    """
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, dict | tuple | list):
        for part in batch.values() if isinstance(batch, dict) else batch:
            yield from tensors_in(part)


def _cast_tensors(dataset: TensorDataset, dtype: torch.dtype) -> TensorDataset:
    return TensorDataset(*(placed(tensor, tensor.device, dtype) for tensor in dataset.tensors))
