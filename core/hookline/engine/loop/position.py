"""``Position``: the progress of a run, and requests to end it."""

from __future__ import annotations

from hookline.engine.loop.batches import Batches


class Position:
    """The progress of a run; only the loop advances it.

    Attributes:
        seed: Seed of all random numbers of the run.
        num_epochs: Number of epochs of the run.
        batches: The training batches; None until they are built.
        epoch: Number of the current epoch, from 1; 0 before the first.
        step: Number of steps taken.
        batch: Number of batches used in the current epoch; 0 between two epochs.
        num_ahead: Number of steps whose updates are in the weights but not yet in ``step``.
        is_begun: Whether the first step was requested.
        stop_reason: Reason for which the run is stopped; None if it is not.
        interrupt_reason: Reason for which the run is interrupted; None if it is not.
    """

    def __init__(self, seed: int, num_epochs: int) -> None:
        self.seed = seed
        self.num_epochs = num_epochs
        self.batches: Batches | None = None
        self.epoch = self.step = self.batch = self.num_ahead = 0
        self.is_begun = False
        self.stop_reason: str | None = None
        self.interrupt_reason: str | None = None

    @property
    def steps_per_epoch(self) -> int | None:
        """Number of steps in an epoch; None for a stream of unknown length."""
        return self.batches.num_batches if self.batches else None

    def indices(self, step: int | None = None) -> list[int]:
        """Return the indices of the examples in the current batch, or in that of ``step``; empty for a stream."""
        if not self.epoch or self.batches is None or not self.steps_per_epoch:
            return []
        if step is None or step == self.step + 1:
            return self.batches.indices(self.epoch, self.batch)
        number_of_epoch, number = divmod(step - 1, self.steps_per_epoch)
        return self.batches.indices(number_of_epoch + 1, number)

    def epoch_of(self, step: int) -> int:
        """Return the epoch of a step; for a stream the current one."""
        if step == self.step + 1 or not self.steps_per_epoch:
            return self.epoch
        return -(-step // self.steps_per_epoch)

    def __str__(self) -> str:
        if self.epoch == 0:
            return "before the first epoch"
        ahead = f", with weights that are {self.num_ahead} steps ahead" if self.num_ahead else ""
        return f"in epoch {self.epoch} of {self.num_epochs}, after {self.step} steps{ahead}"
