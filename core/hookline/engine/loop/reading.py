"""Readers of examples, in this process or in workers, and their errors."""

from __future__ import annotations

import copy
import inspect
import itertools
import traceback
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, default_collate, get_worker_info

from hookline.engine.data import DataSource
from hookline.engine.errors import DataError, HooklineError, NonFiniteError, error_text, text_of
from hookline.engine.loop.batch import count_examples, tensors_in
from hookline.engine.loop.rng import Bystanders, derive_seed, make_generator, preserved_rng, seed_all

_UNSHARED = "workers would yield each of them several times, because the stream does not share them out"
_SHARE = "give it a method shard(worker, num_workers), share them out in __iter__, or set train.num_workers = 1"
_NAMED = 8
"""Maximum number of examples of a batch to name in a message."""


@dataclass
class Workers:
    """The processes that read examples; with ``num_workers = 0`` it is this one.

    They start when they are first needed, and live until they are stopped. An epoch that is read while another is, such
    as that of an evaluation within an epoch, has workers of its own.

    Attributes:
        dtype: Type to cast floating-point tensors to.
        device: Device of the batches.
        num_workers: Number of processes that read the examples; 0: this process.
        timeout_s: Seconds to wait for a batch from those processes; 0: no limit.
        collate: Makes a batch from a list of items; None: ``default_collate``.
        item_seed: Seed of the random numbers drawn while examples are read.
    """

    dtype: torch.dtype
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - it cannot be changed
    num_workers: int = 0
    timeout_s: float = 0.0
    collate: Callable[[list[Any]], Any] | None = None
    item_seed: int = 0

    def __post_init__(self) -> None:
        self._readers = _Readers()
        self._idle: list[Any] = []

    def __enter__(self) -> None:
        """Do nothing; they start when they are needed."""

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def add(self, reader: Any) -> Callable[[Iterable[Any]], Generator[Any]]:
        """Return a function from requests to the results of a reader, in their order."""
        self._readers.all.append(reader)
        number = len(self._readers.all) - 1
        return lambda requests: self._results((number, request) for request in requests)

    def stop(self) -> None:
        """Stop those that read nothing now."""
        for loader in self._idle:
            _stop(loader)

    def _results(self, requests: Iterator[tuple[int, Any]]) -> Generator[Any]:
        loader = self._idle.pop() if self._idle else self._loader()
        cast(_Requests, loader.sampler).now = requests
        try:
            yield from loader
        finally:
            self._idle.append(loader)

    def _loader(self) -> Any:
        if not self.num_workers and self.device.type != "cuda":
            return _Here(self._readers, _Requests())
        return DataLoader(
            self._readers,
            batch_size=None,
            sampler=_Requests(),
            collate_fn=_unchanged,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            timeout=self.timeout_s if self.num_workers else 0,
            pin_memory=self.device.type == "cuda",
            # DataLoader draws a seed for its workers; with a generator it does not draw from the global one.
            generator=make_generator(self.item_seed, "workers"),
        )


class _Readers(Dataset[Any]):
    """Readers, each with a number; an item is the answer of one of them to a request.

    A reader seeds the global generators if its attribute ``draws`` is true. In the process of the run, one of examples
    does it only from the batch on in which an example draws, which is read again; and the generators are restored. One
    whose dataset declares that it draws nothing (``draws = False``) is neither seeded nor watched.
    """

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._bystanders = Bystanders()

    def __getitem__(self, request: Any) -> Any:
        number, wanted = request
        reader = self.all[number]
        if get_worker_info() is not None or reader.draws_nothing:
            reader.draws = not reader.draws_nothing
            return reader.read(wanted)
        is_same = False
        self._bystanders.keep()
        try:
            result = reader.read(wanted)
            if not (is_same := self._bystanders.are_same()) and not reader.draws:
                reader.draws = True
                result = reader.read(wanted)
            return result
        finally:
            if not is_same:
                self._bystanders.restore()


class _Here(NamedTuple):
    """Reads in this process what a ``DataLoader`` would only take longer for."""

    readers: _Readers
    sampler: _Requests

    def __iter__(self) -> Iterator[Any]:
        return map(self.readers.__getitem__, self.sampler.now)


class _Requests(Sampler[Any]):
    """The requests of the epoch that is read now."""

    now: Iterator[Any] = iter(())

    def __iter__(self) -> Iterator[Any]:
        return self.now


def _stop(loader: Any) -> None:
    """Stop the workers of a loader, which starts others if it is used again.

    A worker that dies only now does not matter, and must not hide an error that ended the reading.
    """
    iterator = getattr(loader, "_iterator", None)  # torch has no public function for it
    try:
        if iterator is not None:
            loader._iterator = None  # noqa: SLF001 - as above
            iterator._shutdown_workers()  # noqa: SLF001 - as above
    except RuntimeError as error:
        if not lost_worker(error):
            raise


class Rows(NamedTuple):
    """The examples of a batch.

    Attributes:
        epoch: Number of the epoch.
        number: Number of the batch in it, from 0.
        indices: Indices of its examples.
        repeats: Number of earlier occurrences of each in the epoch.
    """

    epoch: int
    number: int
    indices: npt.NDArray[np.int64]
    repeats: npt.NDArray[np.int64]


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
                self._seed("batch", rows.number, rows.epoch)
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


class Turn(NamedTuple):
    """A turn of a reader of a stream, to read its next batch.

    Attributes:
        epoch: Number of the epoch.
        number: Number of the turn in it, from 0; the readers take turns, also those whose examples are over.
        place: Where the reader begins: ``{}``, the beginning, or a place that it returned; None: it goes on.
    """

    epoch: int
    number: int
    place: dict[str, Any] | None


ENDED = {"ended": True}
"""The place of a reader whose examples are over."""


class StreamReader:
    """Reads batches of a stream, in any process.

    The random numbers drawn for a batch depend on the seed, the epoch and the number of the turn. Before each epoch, a
    stream with a ``state_dict`` gets the state of its beginning; a stream with ``shard`` is shared out between workers
    by it, and another one that gives all its examples to each of several workers is refused. A stream with a method
    ``batches(batch_size)`` makes its batches itself.
    """

    draws = True

    def __init__(self, dataset: Dataset[Any], batch_size: int, workers: Workers, min_size: int = 1) -> None:
        self._stream: Any = dataset
        self._batch_size = batch_size
        self._collate = workers.collate or default_collate
        self._item_seed = workers.item_seed
        self._min_size = min_size
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
                self._begin(turn.epoch, turn.place)
            batch = next(self._batches, None)
            if batch is None or (self._min_size > 1 and count_examples(batch) < self._min_size):
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

    def _begin(self, epoch: int, place: Mapping[str, Any]) -> None:
        self._num_read, self._batches = 0, iter(())
        if self._source is None:
            self._source = self._share()
            if all(callable(getattr(self._source, name, None)) for name in ("state_dict", "load_state_dict")):
                self._first = {"state": copy.deepcopy(self._source.state_dict())}
        if place != ENDED:
            if hasattr(self._source, "set_epoch"):
                self._source.set_epoch(epoch)
            if place or self._first:
                self._source.load_state_dict(copy.deepcopy((place or self._first)["state"]))
            self._batches = self._read_batches()

    def _read_batches(self) -> Iterator[Any]:
        if hasattr(self._source, "batches"):
            yield from self._source.batches(self._batch_size)
            return
        examples = enumerate(self._source, 1)
        while True:
            items: list[Any] = []
            for number, example in itertools.islice(examples, self._batch_size):
                items.append(example)
                self._num_read = number
            if len(items) < self._min_size:
                return
            yield self._collate(items)

    def _share(self) -> Any:
        """Return the share of this process in the stream."""
        worker: Any = get_worker_info()
        if shard := shard_of(self._stream):
            return shard(worker=worker.id if worker else 0, num_workers=worker.num_workers if worker else 1)
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


class _WorkerTraceback(Exception):  # noqa: N818 - it only carries text
    """The traceback of an error in a worker, as text, because not every error can be pickled."""


class Failure:
    """The result for a batch that could not be read.

    Attributes:
        cause: The error.
    """

    def __init__(self, subject: str, error: Exception, how: str = "") -> None:
        worker = get_worker_info()
        where = f" (worker {worker.id})" if worker else ""
        reported = error if isinstance(error, HooklineError) else HooklineError(error_text(error))
        self._words = subject, f"cannot be read{how}{where}: {reported.message}"
        self._hint, self._faults = reported.hint, reported.faults
        text = "".join(traceback.format_exception(error))
        self.cause = _WorkerTraceback(f"\n{text}") if worker else error

    def as_error(self, name: str) -> DataError:
        """Return the error to raise; ``name`` is the name of the dataset."""
        subject, problem = self._words
        return DataError(f"{subject} of the {name} {problem}", hint=self._hint, faults=self._faults)


def lost_worker(error: BaseException) -> DataError | None:
    """Return the error to raise if a worker died; None for any other error.

    torch raises it in the main thread at any place, even within a step.
    """
    text = text_of(error).partition("\n")[0]
    if not (isinstance(error, RuntimeError) and text.startswith("DataLoader worker (pid")):
        return None
    hint = "it may have run out of memory; train.num_workers = 0 reads the examples in this process"
    return DataError(f"a process that reads examples died: {text.strip()}", hint=hint)


def _unchanged(batch: Any) -> Any:
    """Return the batch; ``DataLoader`` needs a collate function."""
    return batch


def _reads_many(dataset: Dataset[Any]) -> bool:
    """Return whether a dataset reads a whole batch at once; a ``Subset``, which always could, if its dataset does."""
    gathers = hasattr(dataset, "gather")
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return gathers or callable(getattr(dataset, "__getitems__", None))


def note_examples(error: Exception, indices: Sequence[int], where: str) -> None:
    """Add a note with the examples of a batch to an error, unless it names examples itself."""
    if indices and not isinstance(error, DataError | NonFiniteError):
        error.add_note(f"in {where} with {name_examples(indices)}")


def name_examples(indices: Sequence[int]) -> str:
    """Return text that names examples.

    >>> name_examples([3]), name_examples([3, 1]), name_examples(range(20))
    ('example 3', 'examples 3, 1', 'examples 0, 1, 2, 3, 4, 5, 6, 7 and 12 more')
    """
    shown = ", ".join(map(str, indices[:_NAMED]))
    more = f" and {len(indices) - _NAMED} more" if len(indices) > _NAMED else ""
    return f"example{'s' * (len(indices) != 1)} {shown}{more}"
