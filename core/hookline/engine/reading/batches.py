"""From a dataset to a stream of batches that can start at any (epoch, position).

The order of the examples depends on (seed, epoch) alone: it is drawn from a private generator, and a batch need not be
read to be skipped. The random numbers drawn for an example depend on (seed, epoch) and the example, whichever process
reads it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from hookline.engine.errors import DataError
from hookline.engine.ranks import Share
from hookline.engine.reading.batch import placed
from hookline.engine.reading.examples import ExampleReader, Rows
from hookline.engine.reading.failure import Failure, name_examples
from hookline.engine.reading.streams import ENDED, WHOLE, StreamReader, Turn
from hookline.engine.reading.workers import Workers, lost_worker
from hookline.engine.rng import make_generator
from hookline.shortcuts.copies import copied_ahead

_GATHERED_BYTES = 2**26
"""Size of the pieces in which an in-memory dataset is put in order: large enough to be fast, and yet small."""


class Batches:
    """The batches of one dataset.

    Args:
        dataset: Items ``(input, target)``, or any items that ``collate`` accepts.
        batch_size: Examples in a batch, at least 1; None for all of them. The last batch may be smaller.
        workers: The processes that read the examples, with options.
        seed: Seed of the order; None: the order of the dataset.
        name: Name of the dataset in messages.
        order: Returns the indices of the examples of an epoch, int64, instead of a random permutation.
        drop_last: Whether to leave out the last batch of an epoch if it is smaller than the others.
        share: The part of this rank, if a stream is shared out by its method ``shard``.

    Attributes:
        num_examples: Number of examples in an epoch; None for a stream.

    Raises:
        DataError: When the dataset is empty, or ``order`` returns anything but indices of its examples; and while it is
            read, when the dataset raises or a worker dies.

    Example:
        >>> dataset = TensorDataset(torch.arange(5.0))
        >>> [batch[0].tolist() for batch in Batches(dataset, 2, Workers(torch.float32)).epoch(1)]
        [[0.0, 1.0], [2.0, 3.0], [4.0]]
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int | None,
        workers: Workers,
        *,
        seed: int | None = None,
        name: str = "dataset",
        order: Callable[[int], Tensor] | None = None,
        drop_last: bool = False,
        share: Share | None = None,
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
            dataset = TensorDataset(*(placed(tensor, tensor.device, workers.dtype) for tensor in dataset.tensors))
        self._dataset = dataset
        self._workers = workers
        self._seed = seed
        self._name, self._share = name, share
        self._order = order
        self._begun: Iterator[Any] | None = None
        self._place: tuple[int, Mapping[str, Any] | None] = 0, None
        self._resumed: Mapping[str, Any] = {}
        if order is not None:
            self.num_examples = len(self._checked(order(1)))
        self._batch_size = min(batch_size or 2**53, self.num_examples or 2**53)
        self._resumed_epoch = self._offset = 0
        self._drops_last, self._num_all = drop_last, self.num_examples or 0
        if drop_last and self.num_examples:
            self.num_examples -= self.num_examples % self._batch_size
        self._reader: Any = None
        if self._is_stream:
            self._reader = StreamReader(dataset, self._batch_size, workers, drop_last=drop_last)
        elif type(dataset) is not TensorDataset or workers.collate is not None:
            self._reader = ExampleReader(dataset, workers)
        if self._reader:
            self._reader.draws_nothing = getattr(dataset, "draws", True) is False
            self._read = self._workers.add(self._reader)

    @property
    def num_batches(self) -> int | None:
        """Number of batches in an epoch; None for a stream."""
        return None if self.num_examples is None else -(-self.num_examples // self._batch_size)

    @property
    def _readers(self) -> list[int]:
        """For each rank the number of the part of a stream that it reads; ``[0]``: this process reads the whole."""
        return self._share.readers(self._dataset, self._batch_size) if self._share else [0]

    def place(self, number: int) -> Mapping[str, Any] | None:
        """Return the place of a stream after ``number`` batches of the current epoch, for a state; None if unknown."""
        return self._place[1] if number and self._place[0] == number else None

    def resume(self, epoch: int, number: int, num_used: int, place: Mapping[str, Any] | None = None) -> int:
        """Continue an epoch of which ``number`` batches, of any size, with ``num_used`` examples were used.

        Return the number of its batches that remain, 0 for a stream, which goes on at its ``place`` if that is known.

        Raises:
            DataError: When a stream was read in batches of another size, or by other workers or ranks.
        """
        self._resumed_epoch, self._offset = epoch, num_used - number * self._batch_size
        if self.num_examples is not None:
            return max(-(-(len(self.order(epoch)) - num_used) // self._batch_size), 0)
        self._resumed, self._place = place or {}, (number, place)
        now = max(self._workers.num_workers, 1), self._readers
        before = (len(place["shares"]), place.get("readers", [0])) if place else (now[0], [0])
        if self._offset or before != now:
            message = (
                f"the {self._name} is a stream, read in batches of another size or by other workers or ranks so far"
            )
            hint = "resume with the same train.batch_size, train.num_workers and number of ranks"
            raise DataError(message, hint=hint)
        return 0

    def num_used(self, epoch: int, number: int) -> int:
        """Return the number of examples of an epoch before a batch; ``number`` counts from 0."""
        return number * self._batch_size + (self._offset if epoch == self._resumed_epoch else 0)

    def epoch(self, epoch: int, start: int = 0, share: Share | None = None) -> Iterator[Any]:
        """Return the batches of an epoch (from 1), without the first ``start``, or the share of a rank in them.

        A stream is read from its beginning, unless it goes on at the place where it was resumed.
        """
        if self._reader and not self._is_stream:
            return self._taken(self._results(self._rows(epoch, start, share)), epoch, start)
        batches: Iterator[Any]
        part = WHOLE
        begun, self._begun = self._begun, None
        if not self._reader:
            batches = self._gathered(cast(TensorDataset, self._dataset).tensors, epoch, start)
        elif begun and epoch == 1 and not start:
            batches = begun
        else:
            part = share.part() if share and self._readers != [0] else WHOLE
            batches = self._taken(self._streamed(epoch, start, part), epoch, start)
        return share.parts(batches, start) if share and part == WHOLE else batches

    def first(self) -> Iterator[Any]:
        """Yield the first batch of the first epoch alone; a stream that this process reads goes on from there."""
        batches: Any = self.epoch(1)
        place = self._place
        batch = next(batches)
        if self._is_stream and not self._workers.num_workers and self._readers == [0]:
            self._begun = itertools.chain([batch], batches)
        else:
            batches.close()
            self._workers.stop()
            self._place = place
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
            pieces = (placed(tensor[rows], self._workers.device, self._workers.dtype) for tensor in tensors)
            batches = zip(*(torch.split(piece, size) for piece in pieces), strict=True)
            yield from itertools.islice(batches, max(used - first, 0) // size, None)

    def _streamed(self, epoch: int, start: int, part: tuple[int, int]) -> Generator[Any]:
        """Yield batches of a stream, from the place where it was resumed if that is known.

        After those of one of several parts, yield None without end.
        """
        resumed, self._resumed = self._resumed if epoch == self._resumed_epoch else {}, {}
        shares = list(resumed.get("shares", ()))
        is_known = any("state" in share for share in shares) or 0 < shares.count(ENDED) == len(shares)
        first, num_read = (resumed["turn"], start) if is_known else (0, 0)
        shares = shares if is_known else [{}] * max(self._workers.num_workers, 1)
        readers = self._readers
        results = self._results(_turns(epoch, first, list(shares), part))
        try:
            for turn, result in enumerate(results, first - first % len(shares)):
                if result is not None:
                    batch, shares[turn % len(shares)], mark = result
                    num_read += 1
                    self._place = num_read, {"turn": turn + 1, "shares": [*shares], "mark": mark, "readers": readers}
                    if num_read > start:
                        yield batch
                    elif num_read == start and resumed.get("mark", mark) != mark:
                        num_read = -1
                        break
                elif turn >= first:
                    shares[turn % len(shares)] = ENDED
                    if shares.count(ENDED) == len(shares):
                        break
        finally:
            results.close()  # the workers are free
            self._reader.rewind()
        if num_read < start:
            message = f"the {self._name} yields other examples in epoch {epoch} than before the run was interrupted"
            hint = "give it state_dict and load_state_dict, or resume from a checkpoint at the end of an epoch"
            raise DataError(message, hint=hint)
        for num_after in itertools.count(num_read + 1) if part != WHOLE else ():
            self._place = num_after, {"turn": turn + 1, "shares": shares, "readers": readers}
            yield None
        if not num_read:
            hint = "a stream must restart for each iteration"
            raise DataError(f"the {self._name} yields no batch in epoch {epoch}", hint=hint)

    def _results(self, requests: Iterable[Any]) -> Generator[Any]:
        for result in self._read(requests):
            if isinstance(result, Failure):
                raise result.as_error(self._name) from result.cause
            yield result

    def _taken(self, batches: Generator[Any], epoch: int, start: int) -> Iterator[Any]:
        """Take the batches of an epoch to the device; stop all workers if that fails."""
        workers, number = self._workers, start - 1
        place = functools.partial(placed, device=workers.device, dtype=workers.dtype)
        copied = map(place, batches) if workers.device.type != "cuda" else copied_ahead(batches, place, workers.device)
        try:
            for number, batch in enumerate(copied, start):  # noqa: B007 - used below
                yield batch
        except Exception as error:
            batches.close()
            workers.stop()
            if lost := lost_worker(error):
                raise lost from error
            if not str(error).startswith("DataLoader timed out"):
                raise
            awaited = f"the {self._name}"
            if not self._is_stream:
                # The workers take turns.
                worker = (number + 1 - start) % workers.num_workers
                awaited = f"{name_examples(self.indices(epoch, number + 1))} of {awaited} from worker {worker}"
            message = f"waited {workers.timeout_s:g} s (train.worker_timeout_s) for {awaited}"
            raise DataError(message, hint="check what the dataset waits for, or increase the limit") from error

    def _rows(self, epoch: int, start: int, share: Share | None) -> Iterator[Rows]:
        """Yield the examples of each batch of an epoch, without the first ``start`` batches."""
        order, size = self.order(epoch), self._batch_size
        # A permutation has no repeats.
        repeats = torch.zeros(1, dtype=torch.int64).expand(len(order)) if self._order is None else _repeats(order)
        of_examples = order.numpy(), repeats.numpy()  # tensors would be sent to workers in shared memory
        for number, first in enumerate(range(self.num_used(epoch, start), len(order), size), start):
            part = share.rows(number, len(order[first : first + size])) if share else slice(0, size)
            if part:
                rows, earlier = (values[first : first + size][part] for values in of_examples)
                yield Rows(epoch, number, rows, earlier, part.start)

    def _checked(self, order: Any) -> Tensor:
        num_examples = _length(self._dataset, self._name)
        is_order = isinstance(order, Tensor) and order.dim() == 1 and order.dtype == torch.int64 and len(order) > 0
        if not is_order or not (int(order.min()) >= 0 and int(order.max()) < num_examples):
            message = f"the order of the {self._name} is not a list of indices of its {num_examples} examples"
            raise DataError(message, hint="build_order must return a function that returns int64 [N]")
        return cast(Tensor, order)


def _turns(epoch: int, first: int, places: list[Any], part: tuple[int, int]) -> Iterator[Turn | None]:
    """Yield the turns of the readers of a stream, each with its place; None for those before the ``first``."""
    yield from [None] * (first % len(places))
    for number in itertools.count(first):
        share = number % len(places)
        place, places[share] = places[share], None
        yield Turn(epoch, number, place, part)


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
