"""``StreamReader``: batches of a stream, which goes on from a place."""

from __future__ import annotations

import copy
import inspect
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from torch.utils.data import Dataset, default_collate, get_worker_info

from hookline.engine.errors import DataError
from hookline.engine.reading.batch import count_examples, rows_of, tensors_in
from hookline.engine.reading.failure import Failure
from hookline.engine.reading.workers import Workers
from hookline.engine.rng import derive_seed, seed_all

_UNSHARED = "workers would yield each of them several times, because the stream does not share them out"
_SHARE = "give it a method shard(worker, num_workers), share them out in __iter__, or set train.num_workers = 1"


class Turn(NamedTuple):
    """A turn of a reader of a stream, to read its next batch.

    Attributes:
        epoch: Number of the epoch.
        number: Number of the turn in it, from 0; the readers take turns, also those whose examples are over.
        place: Where the reader begins: ``{}``, the beginning, or a place that it returned; None: it goes on.
        part: Number of the part of the stream to read, and the number of parts.
    """

    epoch: int
    number: int
    place: dict[str, Any] | None
    part: tuple[int, int]


WHOLE = 0, 1
"""The part of a stream that is not shared out."""


ENDED = {"ended": True}
"""The place of a reader whose examples are over."""


class StreamReader:
    """Reads batches of a stream, in any process.

    The random numbers drawn for a batch depend on the seed, the epoch and the number of the turn. Before each epoch, a
    stream with a ``state_dict`` gets the state of its beginning; a stream with ``shard`` is shared out between workers
    and parts by it, and another one that gives all its examples to each of several workers is refused. A stream with a
    method ``batches(batch_size)`` makes its batches itself.
    """

    draws = True

    def __init__(self, dataset: Dataset[Any], batch_size: int, workers: Workers, *, drop_last: bool = False) -> None:
        self._stream: Any = dataset
        self._batch_size = batch_size
        self._collate = workers.collate or default_collate
        self._item_seed = workers.item_seed
        self._drops_last = drop_last
        self._part: tuple[int, int] | None = None
        self._source: Any = None
        self._first: Mapping[str, Any] = {}
        self._batches: Iterator[Any] = iter(())
        self._num_read = 0
        self._asked: set[str] | None = None

    def read(self, turn: Turn | None) -> Any:
        """Return a batch with the place after it and its mark, a ``Failure``, or None if no batch is left."""
        try:
            if turn is None:
                return None
            if self.draws:
                seed_all(derive_seed(self._item_seed, "stream", turn.number, turn.epoch))
            if turn.place is not None:
                self._begin(turn.epoch, turn.place, turn.part)
            batch = next(self._batches, None)
            if batch is None:
                return None
            # It must have asked by now: its first example depends on the answer.
            if self._asked is not None and not self._asked & {"id", "num_workers"}:
                error = DataError(f"{cast(Any, get_worker_info()).num_workers} {_UNSHARED}", hint=_SHARE)
                return Failure("the examples", error)
            place = {"state": copy.deepcopy(self._source.state_dict())} if self._first else {}
            return batch, place, None if place else _mark_of(batch)
        except Exception as error:  # noqa: BLE001 - as above
            return Failure(f"the rest after {self._num_read} examples", error)

    def rewind(self) -> None:
        """Take the stream back to its beginning."""
        if self._first:
            self._source.load_state_dict(copy.deepcopy(self._first["state"]))

    def _begin(self, epoch: int, place: Mapping[str, Any], part: tuple[int, int]) -> None:
        self._num_read, self._batches = 0, iter(())
        if part != self._part:
            self._part, self._source = part, self._share(*part)
            if all(callable(getattr(self._source, name, None)) for name in ("state_dict", "load_state_dict")):
                self._first = {"state": copy.deepcopy(self._source.state_dict())}
        if place != ENDED:
            if hasattr(self._source, "set_epoch"):
                self._source.set_epoch(epoch)
            if place or self._first:
                self._source.load_state_dict(copy.deepcopy((place or self._first)["state"]))
            self._batches = self._read_batches(len(range(self._batch_size)[rows_of(*part, self._batch_size)]))

    def _read_batches(self, size: int) -> Iterator[Any]:
        min_size = size if self._drops_last else 1
        if hasattr(self._source, "batches"):
            made = self._source.batches(size)
            yield from (batch for batch in made if count_examples(batch) >= min_size)
            return
        examples = enumerate(self._source, 1)
        while True:
            items: list[Any] = []
            for number, example in itertools.islice(examples, size):
                items.append(example)
                self._num_read = number
            if len(items) < min_size:
                return
            yield self._collate(items)

    def _share(self, part: int, num_parts: int) -> Any:
        """Return the share of this process in a part of the stream."""
        worker: Any = get_worker_info()
        if shard := shard_of(self._stream):
            number, num_workers = (worker.id, worker.num_workers) if worker else WHOLE
            return shard(worker=part * num_workers + number, num_workers=num_parts * num_workers)
        if worker and worker.num_workers > 1:
            self._asked = _recorded_reads(worker)
        return self._stream


def shard_of(dataset: Dataset[Any]) -> Callable[..., Dataset[Any]] | None:
    """Return the method ``shard(worker, num_workers)`` of a stream, if it has one."""
    shard = getattr(dataset, "shard", None)
    # Other libraries have a method of this name with other parameters.
    is_it = callable(shard) and {"worker", "num_workers"} <= inspect.signature(shard).parameters.keys()
    return shard if is_it else None


def _mark_of(batch: Any) -> int:
    """Return a checksum of some values of a batch, by which it is recognized when it is read again."""
    flat = [tensor.detach().flatten() for tensor in tensors_in(batch)]
    return zlib.crc32(repr([(len(each), each[:: len(each) // 64 + 1].tolist()) for each in flat]).encode())


def _recorded_reads(worker: Any) -> set[str]:
    """Record in the returned set which attributes of a worker's info are read from now on."""
    names: set[str] = set()

    class Recording(type(worker)):  # type: ignore[misc] # the class of torch is private
        __slots__ = ()  # else its layout would differ

        def __getattribute__(self, name: str) -> Any:
            names.add(name)
            return super().__getattribute__(name)

    object.__setattr__(worker, "__class__", Recording)  # torch lets nothing be set on it otherwise
    return names
