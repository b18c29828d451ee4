"""``HookWatch``: adapts what hooks build to several ranks, and knows which hook runs on rank 0 alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.utils.data import IterableDataset

from hookline.engine import Member, Observer, Parallel
from hookline.engine.data import DataSource
from hookline.engine.errors import ConfigError, ContractError, DataError, TrainingError


class Untolerated(BaseException):
    """Carries an error past ``on_error = "warn"``.

    Attributes:
        error: The error.
    """

    def __init__(self, error: ConfigError) -> None:
        super().__init__(error.message)
        self.error = error


class HookWatch(Observer):
    """Watches the hooks of a run of several ranks.

    Args:
        world_size: Number of ranks.
        add_up: Returns the sums of some numbers over all ranks.
    """

    def __init__(self, world_size: int, add_up: Callable[[Sequence[float]], list[float]]) -> None:
        self._world_size, self._add_up = world_size, add_up
        self._has_stream = False
        self._hook: tuple[Member, str] | None = None

    def call(self, member: Member, hook: str, run: Callable[[], Any], arguments: Mapping[str, Any]) -> Any:  # noqa: ARG002 - all are passed
        """Call a hook, and remember it meanwhile if a rank may lack its plugin."""
        if self._hook or not (_is_of_zero(member) or member.is_tolerated):
            return run()
        self._hook = member, hook
        try:
            return run()
        finally:
            self._hook = None

    def built(self, member: Member, hook: str, result: Any, *, is_wrapper: bool) -> Any:
        """Return the result of a hook, adapted to several ranks.

        Each rank measures the predictions of all, so metrics of torchmetrics must not add up those of the ranks.
        """
        if hook == "build_metrics" and isinstance(result, Mapping):
            modules = [metric for metric in result.values() if isinstance(metric, nn.Module)]
            for part in (part for metric in modules for part in metric.modules()):
                if hasattr(part, "distributed_available_fn"):
                    vars(part)["distributed_available_fn"] = bool  # False
        if hook == "build_data" and isinstance(result, DataSource):
            self._has_stream = isinstance(result.train, IterableDataset)
        if hook == "build_reader" and result and member.is_core and self._has_stream:
            return partial(self._read_together, result)
        if hook == "build_parallel" and isinstance(result, Parallel) and not is_wrapper:
            self._check_readers(member, result.readers)
            if result.forwards_together:
                result.model.register_forward_pre_hook(lambda *_: self.check())
            return result._replace(synchronize=partial(self._together, result.synchronize))
        return result

    def _read_together(self, reader: Callable[[int, int], Iterator[Any]], epoch: int, start: int) -> Iterator[Any]:
        """Yield the batches of a stream, whose end must be the same on all ranks.

        Raises:
            DataError: When it ends on some of them alone; the others would wait. Or when none has a batch.
        """
        batches, num_read = reader(epoch, start), start
        while (batch := next(batches, None)) is not None or self._num_reading(0):
            if batch is None or self._num_reading(1) < self._world_size:
                where = "has ended here" if batch is None else "goes on here"
                message = f"the stream of training examples {where} in epoch {epoch}, but not on all ranks"
                raise DataError(message, hint="let it give the same examples to all ranks, which take parts of them")
            num_read += 1
            yield batch
        if not num_read:
            hint = "a stream must restart for each iteration"
            raise DataError(f"the stream of training examples yields no batch in epoch {epoch}", hint=hint)

    def _num_reading(self, is_reading: int) -> float:
        """Return the number of ranks that have a batch."""
        return self._add_up([is_reading])[0]

    def _together(self, synchronize: Callable[[], object]) -> None:
        self.check()
        synchronize()

    def _check_readers(self, member: Member, readers: Sequence[int]) -> None:
        numbers = sorted({*readers})
        if readers and (len(readers) != self._world_size or numbers != [*range(len(numbers))]):
            message = (
                f"build_parallel of {member.plugin} returned readers = {list(readers)} for {self._world_size} ranks"
            )
            hint = "give the number of a part of the data for each rank, from 0 and without a gap"
            raise ContractError(message, hint=hint)

    def check(self) -> None:
        """Check that every rank is here.

        Raises:
            TrainingError: In a hook that only rank 0 calls, which would wait for the others in vain.
            Untolerated: In a hook that is disabled after an error, on the rank alone on which it failed.
        """
        if not self._hook:
            return
        member, hook = self._hook
        asks = f"{hook!r} of {member.plugin} asks all ranks for something"
        if _is_of_zero(member):
            hint = "state_dict, evaluate and gather need every rank: remove ranks = 'zero' from its class"
            raise TrainingError(f"{asks}, but only rank 0 has this plugin (ranks = 'zero')", hint=hint)
        message = f"'{member.table}.on_error' is 'warn', but {asks}: after an error on one, the others would wait"
        raise Untolerated(ConfigError(message, hint="leave on_error out, or train with one process"))


def _is_of_zero(member: Member) -> bool:
    return getattr(member.instance, "ranks", "all") == "zero"
