"""``Position``: the progress of a run, and requests to end it."""

from __future__ import annotations

from typing import Any

from hookline.engine.ranks import Ranks
from hookline.engine.reading.batches import Batches


class Position:
    """The progress of a run; only the loop advances it.

    Attributes:
        num_epochs: Number of epochs of the run.
        batches: The training batches; None until they are built.
        epoch: Number of the current epoch, from 1; 0 before the first.
        step: Number of steps taken.
        batch: Number of batches used in the current epoch; 0 between two epochs.
        num_before: Number of steps taken before the run was resumed.
        num_ahead: Number of steps whose updates are in the weights but not yet in ``step``.
        is_begun: Whether the first step was requested.
        stop_reason: Reason for which the run is stopped; None if it is not.
        interrupt_reason: Reason for which the run is interrupted; None if it is not.
    """

    def __init__(self, num_epochs: int) -> None:
        self.num_epochs = num_epochs
        self.batches: Batches | None = None
        self.epoch = self.step = self.batch = self.num_ahead = self.num_before = 0
        self._resumed = 0, 0  # the epoch that was resumed, and the number of steps before it
        self._num_extra = 0  # steps beyond those of epochs with this batch size, because it was another before
        self.is_begun = False
        self.stop_reason: str | None = None
        self.interrupt_reason: str | None = None

    @property
    def steps_per_epoch(self) -> int | None:
        """Number of steps in an epoch; None for a stream of unknown length."""
        return self.batches.num_batches if self.batches else None

    @property
    def num_steps(self) -> int | None:
        """Number of steps of all epochs; None for a stream of unknown length."""
        return None if self.steps_per_epoch is None else self.steps_per_epoch * self.num_epochs + self._num_extra

    @property
    def num_examples(self) -> int:
        """Number of examples used in the current epoch, rounded up to whole batches; 0 between two epochs."""
        return self.batches.num_used(self.epoch, self.batch) if self.batches and self.batch else 0

    def resume(self, epoch: int, step: int, batch: int, num_examples: int, place: Any = None) -> None:
        """Set the position to that of an earlier run, whose batches may have had another size."""
        self.epoch, self.step, self.batch, self.num_before = epoch, step, batch, step
        rest = self.batches.resume(epoch, batch, num_examples, place) if self.batches and batch else 0
        self._resumed = epoch, step - batch
        self._num_extra = step + rest - epoch * (self.steps_per_epoch or 0)

    def ask(self, ranks: Ranks, name: str, reason: str) -> None:
        """Set ``stop_reason`` or ``interrupt_reason`` unless it is set, of several ranks when they meet."""
        if ranks.world_size > 1:
            ranks.ask(name, reason)
        elif getattr(self, name) is None:
            setattr(self, name, reason)

    def indices(self, step: int | None = None) -> list[int]:
        """Return the indices of the examples in the current batch, or in that of ``step``.

        Empty for a stream, and for a step before the run was resumed.
        """
        step = self.step + 1 if step is None else step
        if not (self.epoch and self.batches and self.steps_per_epoch and step > self.num_before):
            return []
        return self.batches.indices(*self._place_of(step, self.steps_per_epoch))

    def _place_of(self, step: int, steps_per_epoch: int) -> tuple[int, int]:
        """Return the epoch of a step, and the number of its batch in it, from 0."""
        resumed, num_before = self._resumed
        if num_before < step <= self._num_extra + resumed * steps_per_epoch:
            return resumed, step - 1 - num_before
        epoch, number = divmod(step - 1 - self._num_extra, steps_per_epoch)
        return epoch + 1, number

    def __str__(self) -> str:
        if self.epoch == 0:
            return "before the first epoch"
        ahead = f", with weights that are {self.num_ahead} steps ahead" if self.num_ahead else ""
        return f"in epoch {self.epoch} of {self.num_epochs}, after {self.step} steps{ahead}"
