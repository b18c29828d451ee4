"""Datasets -> a stream of batches that can start at any (epoch, position).

The order of the examples is a function of (seed, epoch), drawn from a private generator: nothing else that draws random
numbers changes it, and no batch has to be read to skip it. What is drawn for an example is a function of (seed, epoch)
and the example, whichever process reads it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sized
from contextlib import nullcontext
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    default_collate,
)

from hookline.engine.errors import DataError
from hookline.engine.loop.batch import placed
from hookline.engine.loop.reading import (
    ExampleReader,
    Failure,
    Rows,
    StreamReader,
    lost_worker,
    name_examples,
    stop_workers,
    unchanged,
)
from hookline.engine.loop.rng import ReaderState, derive_seed, make_generator

_GATHERED_BYTES = 2**26
"""How much of an in-memory dataset is put in order at once: large enough to cost little, small enough not to matter."""


class ReadOptions(NamedTuple):
    """How the examples of a dataset are read.

    Attributes:
        dtype: Floating-point type that floating-point tensors are cast to.
        device: Device of the batches.
        num_workers: Number of processes that read the examples; 0 reads them in this one.
        worker_timeout_s: Seconds to wait for a batch from those processes; 0: no limit.
        collate: Makes a batch of a list of items; None: that of ``DataLoader``.
        item_seed: Seed of the random numbers drawn while examples are read.
    """

    dtype: torch.dtype
    device: torch.device = torch.device("cpu")
    num_workers: int = 0
    worker_timeout_s: float = 0.0
    collate: Callable[[list[Any]], Any] | None = None
    item_seed: int = 0


class Batches:
    """The batches of one dataset.

    Args:
        dataset: Items ``(input, target)``, or anything that the default collation of ``DataLoader`` takes.
        batch_size: Examples in a batch, at least 1; None for all of them. The last batch may be smaller.
        reading: Options of reading the examples.
        seed: Seed of the order; None keeps the dataset's own order.
        name: Name of the dataset in messages.
        order: Gives the indices of the examples of an epoch, int64, instead of the private generator.

    Attributes:
        num_examples: Number of examples in an epoch; None for a stream.
        is_in_memory: Whether batches are slices of whole tensors.

    Raises:
        DataError: When the dataset is empty, or ``order`` gives no indices of its examples; and while it is read, when
            the dataset raises or a worker is lost.

    Example:
        >>> dataset = TensorDataset(torch.arange(5.0))
        >>> [batch[0].tolist() for batch in Batches(dataset, 2, ReadOptions(torch.float32)).epoch(1)]
        [[0.0, 1.0], [2.0, 3.0], [4.0]]
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int | None,
        reading: ReadOptions,
        *,
        seed: int | None = None,
        name: str = "dataset",
        order: Callable[[int], Tensor] | None = None,
    ) -> None:
        self._is_stream = isinstance(dataset, IterableDataset)
        self.num_examples = None if self._is_stream else _length(dataset, name)
        if self.num_examples == 0:
            raise DataError(f"the {name} is empty", hint="give it at least one example")
        if self._is_stream and batch_size is None:
            raise DataError("'all' is no batch size for a stream of unknown length", hint="set train.batch_size")
        if self._is_stream and order is not None:
            hint = "build_order is for datasets that have a length"
            raise DataError(f"the {name} is a stream, and so has an order of its own", hint=hint)
        self.is_in_memory = type(dataset) is TensorDataset and reading.collate is None
        self._dataset = _cast_tensors(dataset, reading.dtype) if type(dataset) is TensorDataset else dataset
        self._reading = reading
        self._seed = seed
        self._name = name
        self._order = order
        if order is not None:
            self.num_examples = len(self._checked(order(1)))
        self._batch_size = min(batch_size or 2**53, self.num_examples or 2**53)

    @property
    def num_batches(self) -> int | None:
        """Number of batches in an epoch; None for a stream."""
        return None if self.num_examples is None else -(-self.num_examples // self._batch_size)

    @property
    def num_full_batches(self) -> int:
        """Number of batches in an epoch without a smaller last one; 0 for a stream."""
        return (self.num_examples or 0) // self._batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Give the batches of an epoch (from 1), without the first ``start``."""
        if self.is_in_memory:
            return self._gathered(cast(TensorDataset, self._dataset).tensors, epoch, start)
        if self._is_stream and start:
            raise DataError("a stream cannot be entered in the middle", hint="use a map-style dataset")
        return self._loaded(epoch, start)

    def order(self, epoch: int) -> Tensor:
        """Return the indices of the examples in the order of an epoch: int64 ``[num_examples]``."""
        assert self.num_examples is not None
        if self._order is not None:
            order = self._checked(self._order(epoch))
            if len(order) != self.num_examples:
                message = f"the order of the {self._name} has {len(order)} indices in epoch {epoch}"
                raise DataError(f"{message}, and {self.num_examples} in the first", hint="give all epochs one length")
            return order
        if self._seed is None:
            return torch.arange(self.num_examples)
        return torch.randperm(self.num_examples, generator=make_generator(self._seed, "order", epoch))

    def indices(self, epoch: int, number: int) -> list[int]:
        """Return the indices of the examples of one batch of an epoch; ``number`` counts from 0."""
        size = self._batch_size
        indices: list[int] = self.order(epoch)[number * size : (number + 1) * size].tolist()
        return indices

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
            pieces = (placed(tensor[rows], self._reading.device, self._reading.dtype) for tensor in tensors)
            batches = zip(*(torch.split(piece, size) for piece in pieces), strict=True)
            for number, batch in enumerate(batches, first):
                if number >= start:
                    yield batch

    def _loaded(self, epoch: int, start: int) -> Iterator[Any]:
        """Read batch after batch, in this process or in workers."""
        batches: Any = iter(self._loader(epoch, start))
        stream = ReaderState(derive_seed(self._reading.item_seed, "stream", epoch))
        try:
            for number in itertools.count(start):
                # Workers have generators of their own.
                with nullcontext() if self._reading.num_workers else stream.active():
                    batch = self._next(batches, epoch, start, number)
                if batch is _END:
                    return
                if isinstance(batch, Failure):
                    raise batch.as_error(self._name) from batch.cause
                yield placed(batch, self._reading.device, self._reading.dtype)
        except RuntimeError as error:
            if lost := lost_worker(error):
                raise lost from error
            raise
        finally:
            if self._reading.num_workers:
                stop_workers(batches)

    def _loader(self, epoch: int, start: int) -> DataLoader[Any]:
        settings: dict[str, Any] = {
            # DataLoader draws a seed for its workers; from a generator of ours it leaves the global one alone.
            "generator": make_generator(self._reading.item_seed, "workers", epoch),
            "batch_size": None,
            "collate_fn": unchanged,
            "num_workers": self._reading.num_workers,
            "timeout": self._reading.worker_timeout_s if self._reading.num_workers else 0,
            "pin_memory": self._reading.device.type == "cuda",
        }
        collate = self._reading.collate or default_collate
        if self._is_stream:
            return DataLoader(StreamReader(self._dataset, self._batch_size, collate), **settings)
        reader = ExampleReader(self._dataset, collate, (self._reading.item_seed, epoch))
        return DataLoader(reader, sampler=cast(Any, self._rows(epoch, start)), **settings)

    def _next(self, batches: Iterator[Any], epoch: int, start: int, number: int) -> Any:
        try:
            return next(batches, _END)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out"):
                raise
            what = f"the {self._name}"
            if not self._is_stream:
                # The workers take turns.
                worker = (number - start) % self._reading.num_workers
                what = f"{name_examples(self.indices(epoch, number))} of {what}, which worker {worker} reads"
            message = f"{what}, did not come within {self._reading.worker_timeout_s:g} s (train.worker_timeout_s)"
            raise DataError(message, hint="see what the dataset waits for, or allow more time") from error

    def _rows(self, epoch: int, start: int) -> Iterator[Rows]:
        """Give the examples of each batch of an epoch, without the first ``start`` batches."""
        order, size = self.order(epoch), self._batch_size
        # A permutation has no example twice.
        repeats = torch.zeros(1, dtype=torch.int64).expand(len(order)) if self._order is None else _repeats(order)
        for number in range(start, cast(int, self.num_batches)):
            part = slice(number * size, (number + 1) * size)
            yield Rows(number, order[part].tolist(), repeats[part].tolist())

    def _checked(self, order: Any) -> Tensor:
        num_examples = _length(self._dataset, self._name)
        is_order = isinstance(order, Tensor) and order.dim() == 1 and order.dtype == torch.int64 and len(order) > 0
        if not is_order or not (int(order.min()) >= 0 and int(order.max()) < num_examples):
            message = f"the order of the {self._name} is no list of indices of its {num_examples} examples"
            raise DataError(message, hint="build_order returns a function that returns int64 [num_examples]")
        return cast(Tensor, order)


_END = object()


def _repeats(order: Tensor) -> Tensor:
    """Return for each index how often it stands before.

    >>> _repeats(torch.tensor([4, 2, 4, 4])).tolist()
    [0, 0, 1, 2]
    """
    values, places = order.sort(stable=True)
    repeats = torch.empty_like(order)
    repeats[places] = torch.arange(len(order)) - torch.searchsorted(values, values)
    return repeats


def _length(dataset: Dataset[Any], name: str) -> int:
    try:
        return len(cast(Sized, dataset))
    except Exception as error:
        hint = "a dataset has __len__ and __getitem__, or is an IterableDataset"
        raise DataError(f"the {name}, a {type(dataset).__name__}, has no length: {error}", hint=hint) from error


def _cast_tensors(dataset: TensorDataset, dtype: torch.dtype) -> TensorDataset:
    return TensorDataset(*(placed(tensor, tensor.device, dtype) for tensor in dataset.tensors))
