"""Readers of examples, in this process or in workers, and their errors."""

from __future__ import annotations

import copy
import itertools
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, get_worker_info

from hookline.engine.data import DataSource
from hookline.engine.errors import DataError, HooklineError, NonFiniteError, error_text, text_of
from hookline.engine.loop.rng import Bystanders, derive_seed, preserved_rng, seed_all

_UNSHARED = "workers would yield each of them several times, because the stream does not share them out"
_SHARE = "share them out in __iter__ by torch.utils.data.get_worker_info(), or set train.num_workers = 1"
_NAMED = 8
"""Maximum number of examples of a batch to name in a message."""


class Rows(NamedTuple):
    """The examples of a batch.

    Attributes:
        number: Number of the batch in its epoch, from 0.
        indices: Indices of its examples.
        repeats: Number of earlier occurrences of each in the epoch.
    """

    number: int
    indices: npt.NDArray[np.int64]
    repeats: npt.NDArray[np.int64]


class ExampleReader(Dataset[Any]):
    """Reads batches of a map-style dataset, in any process.

    The random numbers drawn for a single example depend on the seed, the epoch, its index, and the number of its
    earlier occurrences in the epoch. A dataset that reads a whole batch at once (``gather``, ``__getitems__``) draws
    for all its examples together, so there they depend on the number of the batch. Both are the same in any process,
    and in a resumed run.

    In the process of the run nothing is seeded until an example draws; its batch is then read again. The generators of
    that process are not affected.

    Attributes:
        epoch: The epoch that is read.
    """

    def __init__(self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any], seed: int) -> None:
        self._dataset = dataset
        self._collate = collate
        self._reads_many = _reads_many(dataset)
        self._seed_of_run, self.epoch = seed, 0
        self._bystanders = Bystanders()

    def of_epoch(self, epoch: int) -> ExampleReader:
        """Return the reader of an epoch, which shares what is known about the dataset."""
        reader = copy.copy(self)
        reader.epoch = epoch
        return reader

    def __getitem__(self, rows: Rows) -> Any:
        if get_worker_info() is not None:
            return self._read(rows, is_seeded=True)
        bystanders, is_same = self._bystanders, False
        bystanders.keep()
        try:
            batch = self._read(rows, is_seeded=bystanders.are_drawn_from)
            if not (is_same := bystanders.are_same()) and not bystanders.are_drawn_from:
                bystanders.are_drawn_from = True
                batch = self._read(rows, is_seeded=True)
            return batch
        finally:
            if not is_same:
                bystanders.restore()

    def _read(self, rows: Rows, *, is_seeded: bool) -> Any:
        seed = self._seed if is_seeded else _nothing
        try:
            if hasattr(self._dataset, "gather"):
                seed("batch", rows.number)
                return self._dataset.gather(torch.tensor(rows.indices))
            indices = rows.indices.tolist()
            if self._reads_many:
                seed("batch", rows.number)
                many = cast(Any, self._dataset).__getitems__(indices)
                if len(many) != len(indices):
                    error = DataError(f"__getitems__ returned {len(many)} items for {len(indices)} indices")
                    return Failure(name_examples(indices), error, " as a batch")
                return self._collate(many)
            items = []
            for index, repeat in zip(indices, rows.repeats.tolist(), strict=True):
                try:
                    seed("item", index, repeat)
                    items.append(self._dataset[index])
                except Exception as error:  # noqa: BLE001 - any error of a dataset is reported as one of the data
                    return Failure(f"example {index}", error)
            return self._collate(items)
        except Exception as error:  # noqa: BLE001 - as above
            return Failure(name_examples(rows.indices.tolist()), error, " as a batch")

    def _seed(self, *names: str | int) -> None:
        seed_all(derive_seed(self._seed_of_run, *names, self.epoch))


def _nothing(*_names: str | int) -> None:
    """Seed nothing."""


class StreamReader(IterableDataset[Any]):
    """Reads batches of a stream, in any process; refuses one that gives all its examples to each of several workers."""

    def __init__(
        self, dataset: Dataset[Any], batch_size: int, collate: Callable[[list[Any]], Any], min_size: int = 1
    ) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        self._collate = collate
        self._min_size = min_size

    def __iter__(self) -> Iterator[Any]:
        num_read = 0
        worker: Any = get_worker_info()
        asked = {"id"} if worker is None or worker.num_workers == 1 else _recorded_reads(worker)
        try:
            examples = iter(cast(Iterable[Any], self._dataset))
            while True:
                items: list[Any] = []
                for example in itertools.islice(examples, self._batch_size):
                    items.append(example)
                    num_read += 1
                if len(items) < self._min_size:
                    return
                # It must have asked by now: its first example depends on the answer.
                if not asked & {"id", "num_workers"}:
                    yield Failure("the examples", DataError(f"{worker.num_workers} {_UNSHARED}", hint=_SHARE))
                    return
                yield self._collate(items)
        except Exception as error:  # noqa: BLE001 - as above
            yield Failure(f"the rest after {num_read} examples", error)


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


def stop_workers(batches: Any) -> None:
    """Stop the workers, which would otherwise live as long as the error that ended the reading.

    A worker that dies only now does not matter, and must not hide that error.
    """
    try:
        batches._shutdown_workers()  # noqa: SLF001 - torch has no public function for it
    except RuntimeError as error:
        if not lost_worker(error):
            raise


def unchanged(batch: Any) -> Any:
    """Return the batch; ``DataLoader`` needs a collate function."""
    return batch


def _reads_many(dataset: Dataset[Any]) -> bool:
    """Return whether a dataset has torch's ``__getitems__``; for a ``Subset``, which always has it, look inside."""
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return callable(getattr(dataset, "__getitems__", None))


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
