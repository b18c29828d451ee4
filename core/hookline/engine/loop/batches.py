"""From a dataset to a stream of batches that can start at any (epoch, position).

The order of the examples depends on (seed, epoch) alone: it is drawn from a private generator, and a batch need not be
read to be skipped. The random numbers drawn for an example depend on (seed, epoch) and the example, whichever process
reads it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import nullcontext
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

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
"""Size of the pieces in which an in-memory dataset is put in order: large enough to be fast, and yet small."""


class ReadOptions(NamedTuple):
    """Options of reading the examples of a dataset.

    Attributes:
        dtype: Type to cast floating-point tensors to.
        device: Device of the batches.
        num_workers: Number of processes that read the examples; 0: this process.
        worker_timeout_s: Seconds to wait for a batch from those processes; 0: no limit.
        collate: Makes a batch from a list of items; None: ``default_collate``.
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
        dataset: Items ``(input, target)``, or any items that ``collate`` accepts.
        batch_size: Examples in a batch, at least 1; None for all of them. The last batch may be smaller.
        reading: Options of reading the examples.
        seed: Seed of the order; None: the order of the dataset.
        name: Name of the dataset in messages.
        order: Returns the indices of the examples of an epoch, int64, instead of a random permutation.
        drop_last: Whether to leave out the last batch of an epoch if it is smaller than the others.

    Attributes:
        num_examples: Number of examples in an epoch; None for a stream.

    Raises:
        DataError: When the dataset is empty, or ``order`` returns anything but indices of its examples; and while it is
            read, when the dataset raises or a worker dies.

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
        drop_last: bool = False,
    ) -> None:
        self._is_stream = isinstance(dataset, IterableDataset)
        self.num_examples = None if self._is_stream else _length(dataset, name)
        if self.num_examples == 0:
            raise DataError(f"the {name} is empty", hint="give it at least one example")
        if self._is_stream and batch_size is None:
            message = "'all' is not a valid batch size for a stream of unknown length"
            raise DataError(message, hint="set train.batch_size")
        if self._is_stream and order is not None:
            hint = "build_order requires a dataset with a length"
            raise DataError(f"the {name} is a stream, whose order cannot be changed", hint=hint)
        if type(dataset) is TensorDataset:
            dataset = TensorDataset(*(placed(tensor, tensor.device, reading.dtype) for tensor in dataset.tensors))
        self._dataset = dataset
        self._reading = reading
        self._seed = seed
        self._name = name
        self._order = order
        self._begun: Iterator[Any] | None = None
        if order is not None:
            self.num_examples = len(self._checked(order(1)))
        self._batch_size = min(batch_size or 2**53, self.num_examples or 2**53)
        self._reader = ExampleReader(dataset, reading.collate or default_collate, reading.item_seed)
        self._resumed_epoch = self._offset = 0
        self._drops_last, self._num_all = drop_last, self.num_examples or 0
        if drop_last and self.num_examples:
            self.num_examples -= self.num_examples % self._batch_size

    @property
    def num_batches(self) -> int | None:
        """Number of batches in an epoch; None for a stream."""
        return None if self.num_examples is None else -(-self.num_examples // self._batch_size)

    def resume(self, epoch: int, number: int, num_used: int) -> int:
        """Continue an epoch of which ``number`` batches, of any size, with ``num_used`` examples were used.

        Return the number of its batches that remain, 0 for a stream.

        Raises:
            DataError: When a stream was read in batches of another size.
        """
        self._resumed_epoch, self._offset = epoch, num_used - number * self._batch_size
        if self.num_examples is not None:
            return max(-(-(len(self.order(epoch)) - num_used) // self._batch_size), 0)
        if self._offset:
            message = f"the {self._name} is a stream, read in batches of another size so far"
            raise DataError(message, hint="resume with the same train.batch_size")
        return 0

    def num_used(self, epoch: int, number: int) -> int:
        """Return the number of examples of an epoch before a batch; ``number`` counts from 0."""
        return number * self._batch_size + (self._offset if epoch == self._resumed_epoch else 0)

    def smallest(self, limit: int = 0) -> int:
        """Return the smallest number of examples that pass through a model at once.

        Args:
            limit: Number of examples in a part of a batch; 0: no parts.

        >>> Batches(TensorDataset(torch.zeros(11)), 4, ReadOptions(torch.float32)).smallest(limit=3)
        1
        """
        sizes = [self._batch_size, (self.num_examples or 0) % self._batch_size or self._batch_size]
        return min(size % limit or limit if limit else size for size in sizes)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Return the batches of an epoch (from 1), without the first ``start``; a stream is read from its beginning."""
        if type(self._dataset) is TensorDataset and self._reading.collate is None:
            return self._gathered(self._dataset.tensors, epoch, start)
        if not self._is_stream:
            return self._loaded(epoch, start)
        begun, self._begun = self._begun, None  # dropped where it is not used, which ends its workers
        batches = begun if begun and epoch == 1 else self._loaded(epoch, 0)
        return itertools.islice(batches, start, None)

    def first(self) -> Iterator[Any]:
        """Yield the first batch of the first epoch alone; a stream is read on from there by that epoch."""
        batches = self.epoch(1)
        batch = next(batches)
        if self._is_stream:
            self._begun = itertools.chain([batch], batches)
        yield batch

    def order(self, epoch: int) -> Tensor:
        """Return the indices of the examples in the order of an epoch: int64 ``[num_examples]``."""
        num_all = self._num_all
        if self._order is not None:
            order = self._checked(self._order(epoch))
            if len(order) != num_all:
                message = f"the order of the {self._name} has {len(order)} indices in epoch {epoch}"
                hint = "return the same number of indices for each epoch"
                raise DataError(f"{message}, but {num_all} in the first", hint=hint)
        elif self._seed is None:
            order = torch.arange(num_all)
        else:
            order = torch.randperm(num_all, generator=make_generator(self._seed, "order", epoch))
        # An epoch that resumed with another batch size has another last batch.
        num_dropped = (num_all - self.num_used(epoch, 0)) % self._batch_size if self._drops_last else 0
        return order[: num_all - num_dropped]

    def indices(self, epoch: int, number: int) -> list[int]:
        """Return the indices of the examples of one batch of an epoch; ``number`` counts from 0."""
        start = self.num_used(epoch, number)
        return cast(list[int], self.order(epoch)[start : start + self._batch_size].tolist())

    def _gathered(self, tensors: tuple[Tensor, ...], epoch: int, start: int) -> Iterator[tuple[Tensor, ...]]:
        """Index whole tensors, many batches at a time, and yield slices of the result.

        The pieces do not depend on ``start``, so a batch always has the same offset in memory: the rounding of kernels
        may depend on alignment.
        """
        size = self._batch_size
        row_bytes = sum(tensor[0].numel() * tensor.element_size() for tensor in tensors)
        per_piece = size * (max(_GATHERED_BYTES // (row_bytes * size), 1) if row_bytes else 1)
        order, used = self.order(epoch), self.num_used(epoch, start)
        for first in range(used % size + (used - used % size) // per_piece * per_piece, len(order), per_piece):
            rows = order[first : first + per_piece]
            pieces = (placed(tensor[rows], self._reading.device, self._reading.dtype) for tensor in tensors)
            batches = zip(*(torch.split(piece, size) for piece in pieces), strict=True)
            yield from itertools.islice(batches, max(used - first, 0) // size, None)

    def _loaded(self, epoch: int, start: int) -> Iterator[Any]:
        """Read one batch after another, in this process or in workers."""
        batches: Any = iter(self._loader(epoch, start))
        stream = ReaderState(derive_seed(self._reading.item_seed, "stream", epoch)) if self._is_stream else None
        try:
            for number in itertools.count(start):
                # Workers and readers of examples seed their own generators.
                with nullcontext() if self._reading.num_workers or stream is None else stream.active():
                    batch = self._next(batches, epoch, start, number)
                if batch is _END and not number:
                    hint = "a stream must restart for each iteration"
                    raise DataError(f"the {self._name} yields no batch in epoch {epoch}", hint=hint)
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

    def _loader(self, epoch: int, start: int) -> Iterable[Any]:
        settings: dict[str, Any] = {
            # DataLoader draws a seed for its workers; with a generator it does not draw from the global one.
            "generator": make_generator(self._reading.item_seed, "workers", epoch),
            "batch_size": None,
            "collate_fn": unchanged,
            "num_workers": self._reading.num_workers,
            "timeout": self._reading.worker_timeout_s if self._reading.num_workers else 0,
            "pin_memory": self._reading.device.type == "cuda",
        }
        if self._is_stream:
            min_size, collate = self._batch_size if self._drops_last else 1, self._reading.collate or default_collate
            return DataLoader(StreamReader(self._dataset, self._batch_size, collate, min_size), **settings)
        reader, rows = self._reader.of_epoch(epoch), self._rows(epoch, start)
        if not self._reading.num_workers and not settings["pin_memory"]:
            return map(reader.__getitem__, rows)  # the loader would only take time
        return DataLoader(reader, sampler=cast(Any, rows), **settings)

    def _next(self, batches: Iterator[Any], epoch: int, start: int, number: int) -> Any:
        try:
            return next(batches, _END)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out"):
                raise
            awaited = f"the {self._name}"
            if not self._is_stream:
                # The workers take turns.
                worker = (number - start) % self._reading.num_workers
                awaited = f"{name_examples(self.indices(epoch, number))} of {awaited} from worker {worker}"
            message = f"waited {self._reading.worker_timeout_s:g} s (train.worker_timeout_s) for {awaited}"
            raise DataError(message, hint="check what the dataset waits for, or increase the limit") from error

    def _rows(self, epoch: int, start: int) -> Iterator[Rows]:
        """Yield the examples of each batch of an epoch, without the first ``start`` batches."""
        order, size = self.order(epoch), self._batch_size
        # A permutation has no repeats.
        repeats = torch.zeros(1, dtype=torch.int64).expand(len(order)) if self._order is None else _repeats(order)
        # Arrays, because tensors would be sent to workers in shared memory.
        of_examples = order.numpy(), repeats.numpy()
        for number, first in enumerate(range(self.num_used(epoch, start), len(order), size), start):
            yield Rows(number, *(values[first : first + size] for values in of_examples))

    def _checked(self, order: Any) -> Tensor:
        num_examples = _length(self._dataset, self._name)
        is_order = isinstance(order, Tensor) and order.dim() == 1 and order.dtype == torch.int64 and len(order) > 0
        if not is_order or not (int(order.min()) >= 0 and int(order.max()) < num_examples):
            message = f"the order of the {self._name} is not a list of indices of its {num_examples} examples"
            raise DataError(message, hint="build_order must return a function that returns int64 [N]")
        return cast(Tensor, order)


_END = object()


def _repeats(order: Tensor) -> Tensor:
    """Return for each index the number of its earlier occurrences.

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
