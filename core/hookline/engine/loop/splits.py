"""The splits to evaluate; ``SplitReader``: the batches of a split, with errors of reading as errors of the data."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

from hookline.engine.data import STANDARD_SPLITS
from hookline.engine.errors import ConfigError, DataError, HooklineError, error_text
from hookline.engine.loop.position import Position
from hookline.engine.plugin.host import Host
from hookline.engine.plugin.observer import Observer
from hookline.engine.ranks import Share
from hookline.engine.reading.batches import Batches
from hookline.engine.reading.workers import lost_worker
from hookline.engine.train_options import TrainOptions
from hookline.engine.words import did_you_mean


class SplitReader:
    """Reads the batches of the splits of a data source.

    Args:
        host: The plugins, for messages.
        position: Position of the run.
        observers: Observers of the run, which see every batch.
    """

    def __init__(self, host: Host, position: Position, observers: Sequence[Observer]) -> None:
        self._host = host
        self._position = position
        self._observers = observers

    def __call__(self, split: str, batches: Batches, share: Share | None, epoch: int, start: int = 0) -> Generator[Any]:
        """Yield the batches of an epoch, without the first ``start``, or the share of this rank in them.

        Raises:
            DataError: When reading fails.
        """
        return self._reported(split, batches.epoch(epoch, start, share))

    def first(self, split: str, batches: Batches) -> Any:
        """Return the first batch, which a stream will yield again.

        Raises:
            DataError: When reading fails.
        """
        return next(self._reported(split, batches.first()))

    def _reported(self, split: str, stream: Iterator[Any]) -> Generator[Any]:
        for observer in self._observers:
            stream = observer.reading(split, stream)
        try:
            yield from stream
        except HooklineError as error:
            # Ctrl-C reaches the workers, too.
            if not (self._position.interrupt_reason and lost_worker(error.__cause__ or error)):
                raise
        except Exception as error:
            culprit, _ = self._host.makers.of(error) or (self._host.owner("data"), None)
            raise DataError(f"{culprit} fails while the {split} split is read: {error_text(error)}") from error


def evaluated_splits(options: TrainOptions, splits: Mapping[str, Any]) -> list[str]:
    """Return the splits of the data to evaluate; those of the usual names may be missing.

    Raises:
        ConfigError: When another one is missing.
    """
    wanted = list(splits) if options.evaluate == "all" else list(dict.fromkeys(options.evaluate))
    for name in (*wanted, *options.evaluate_every):
        if name not in (*splits, *STANDARD_SPLITS):
            hint = did_you_mean(name, splits)
            raise ConfigError(f"the data have no split {name!r} that can be evaluated", hint=hint)
    return [name for name in wanted if name in splits]
