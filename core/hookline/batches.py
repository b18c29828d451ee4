"""Datasets -> a stream of batches that can start at any (epoch, position).

The order of the examples is a function of (seed, epoch), drawn from a private generator: nothing else that draws random
numbers changes it, and no batch has to be read to skip it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from hookline.errors import DataError
from hookline.rng import make_generator

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

    Raises:
        DataError: When the dataset is empty.

    Example:
        >>> dataset = TensorDataset(torch.arange(5.0))
        >>> [batch[0].tolist() for batch in Batches(dataset, 2, dtype=torch.float32, seed=None).epoch(1)]
        [[0.0, 1.0], [2.0, 3.0], [4.0]]
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int | None,
        *,
        dtype: torch.dtype,
        seed: int | None,
        name: str = "dataset",
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

    @property
    def num_batches(self) -> int | None:
        """Number of batches in an epoch; None for a stream."""
        return None if self.num_examples is None else -(-self.num_examples // self._batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Give the batches of an epoch (from 1), without the first ``start``."""
        if type(self._dataset) is TensorDataset:
            return self._gathered(self._dataset.tensors, epoch, start)
        return self._loaded(epoch, start)

    def order(self, epoch: int) -> Tensor:
        """Return the indices of the examples in the order of an epoch: int64 ``[num_examples]``."""
        assert self.num_examples is not None
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
            batches = zip(*(torch.split(tensor[rows], size) for tensor in tensors), strict=True)
            for number, batch in enumerate(batches, first):
                if number >= start:
                    yield batch

    def _loaded(self, epoch: int, start: int) -> Iterator[Any]:
        # DataLoader draws a seed for its workers; from a generator of ours it leaves the global one alone.
        generator = make_generator(self._seed or 0, "workers", epoch)
        if self._is_stream:
            if start:
                raise DataError("a stream cannot be entered in the middle", hint="use a map-style dataset")
            loader = DataLoader(self._dataset, batch_size=self._batch_size, generator=generator)
        else:
            batches = torch.split(self.order(epoch)[start * self._batch_size :], self._batch_size)
            sampler = (batch.tolist() for batch in batches if len(batch))
            loader = DataLoader(self._dataset, batch_sampler=cast(Any, sampler), generator=generator)
        return (_cast(batch, self._dtype) for batch in loader)


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
    return next((len(tensor) for tensor in _tensors(batch) if tensor.dim()), 1)


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, dict | tuple | list):
        for part in batch.values() if isinstance(batch, dict) else batch:
            yield from _tensors(part)


def _cast_tensors(dataset: TensorDataset, dtype: torch.dtype) -> TensorDataset:
    return TensorDataset(*(_cast(tensor, dtype) for tensor in dataset.tensors))


def _cast(batch: Any, dtype: torch.dtype) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(dtype) if batch.is_floating_point() else batch
    if isinstance(batch, dict):
        return {key: _cast(value, dtype) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [_cast(part, dtype) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
