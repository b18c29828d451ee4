"""``Workers``: this process or others, which answer the requests of readers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from hookline.engine.errors import DataError, text_of
from hookline.engine.rng import make_generator
from hookline.shortcuts.generators import Bystanders


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


@dataclass
class _Here:
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
