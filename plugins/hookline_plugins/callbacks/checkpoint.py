"""Callback ``checkpoint``: the state of a run, saved in its folder so that the run can resume."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from hookline import CheckpointError, ConfigError, hookimpl
from hookline.runs import begin_save, folder_of, identity_of
from hookline.trained import only_watches
from hookline_plugins.callback_parts.monitoring import check_measured, check_monitored
from hookline_plugins.callback_parts.single import check_single

if TYPE_CHECKING:
    from hookline import RunView
    from hookline.runs import Manifest, Save, StateCheck


_REQUEST = "checkpoint"
"""What rank 0 asks the others for when the time has come."""
_READ_AGAIN = (
    "the training data are a stream without a state: a run that is interrupted within an epoch reads it again from the "
    "beginning of the epoch, and ends if the examples are not the same; state_dict and load_state_dict avoid this"
)


@dataclass
class SaveCheckpoints:
    """Checkpoints by time, every so many steps or epochs, for the best values of a metric, and at the end of the run.

    Each checkpoint is a new folder, written under a temporary name, flushed to disk and renamed. Old ones are removed
    only after the new one has been read back and found valid.

    ``every_s``: Young's interval, ``sqrt(2 * save time * mean time between failures)`` (J. W. Young, *A first order
    approximation to the optimum checkpoint interval*, 1974), is 300 s for saves that take one second and a failure
    every 12.5 hours.
    """

    script = only_watches

    every_s: Annotated[float, Meta(ge=0, description="seconds between saves; 0: off")] = 300.0
    every_steps: Annotated[int, Meta(ge=0, description="steps between saves; 0: off")] = 0
    every_epochs: Annotated[int, Meta(ge=0, description="epochs between saves; 0: off")] = 0
    keep: Annotated[int, Meta(ge=1, description="number of newest checkpoints to keep")] = 2
    keep_best: Annotated[int, Meta(ge=0, description="number of best checkpoints to keep; saved when measured")] = 0
    monitor: Annotated[str, Meta(description="metric for keep_best")] = "validation/loss"
    mode: Annotated[Literal["min", "max"], Meta(description="'min': smaller is better; 'max': larger is better")] = (
        "min"
    )
    in_background: Annotated[
        bool, Meta(description="write in a thread while training continues; needs memory for a second state")
    ] = False
    on_failure: Annotated[
        Literal["warn", "fail"], Meta(description="what to do when a save fails; the last one must succeed")
    ] = "warn"

    def __post_init__(self) -> None:
        self._saved: tuple[int, int] | None = None
        self._has_failed = False
        self.measured: tuple[int, dict[str, float]] = (0, {})
        self._best: list[float] = []
        self._ranked_step = 0
        self._saved_at = time.monotonic()
        self._state_check: StateCheck | None = None
        self._saving: _Saving | None = None
        self._written: set[str] = set()

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Reset the state, and find the run folder."""
        self.__post_init__()
        folder = folder_of(run)
        if folder is None and run.ranks.is_zero:
            hint = "let run-folder create one: callbacks.run-folder={}, or switch saving off: callbacks.checkpoint=off"
            raise ConfigError("checkpoint has no folder to save in", hint=hint)
        check_single(run, self)
        self._folder = folder
        self._state_check = _state_check_of(run)
        if self.keep_best:
            check_monitored(run, self.monitor, "checkpoint")

    @hookimpl
    def on_evaluation_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Remember the metrics of this step."""
        self.measured = run.step, dict(metrics)

    @hookimpl
    def on_epoch_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Remember the metrics of this step."""
        if self.keep_best:
            check_measured(run, self.monitor, "checkpoint")
        self.measured = run.step, dict(metrics)

    @hookimpl
    def on_save_point(self, run: RunView, is_last: bool) -> None:
        """Save if a checkpoint is due."""
        if self._saving and self._is_written_by_all(run, self._saving):
            self._finish(run, must_succeed=self.on_failure == "fail")
        if not (is_last or self._is_due(run)):
            return
        place = run.step, len(run.history)
        # The end of the run tries again what failed, on all ranks.
        if self._saved != place or (is_last and run.ranks.gather(self._has_failed)[0]):
            self._save(run, place, must_succeed=is_last or self.on_failure == "fail")
        if is_last:
            self._finish(run, must_succeed=True)

    @hookimpl
    def on_run_error(self, run: RunView) -> None:
        """Wait for a save in the background."""
        self._leave(run)

    @hookimpl
    def on_run_end(self, run: RunView) -> None:
        """Wait for a save in the background: a program that leaves the steps of a run ends it without another save."""
        self._leave(run)

    def state_dict(self) -> dict[str, Any]:
        """Return the best values of the metric, and the place of the last save: the current one, in a checkpoint."""
        saved = list(self._saved) if self._saved else None
        return {"metric": self.monitor, "mode": self.mode, "best": list(self._best), "saved": saved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from ``state_dict``; best values of another metric or mode do not count."""
        saved = state["saved"]
        if (state["metric"], state["mode"]) == (self.monitor, self.mode):
            self._best = list(state["best"])[: self.keep_best]
        self._saved = (saved[0], saved[1]) if saved else None

    def _is_due(self, run: RunView) -> bool:
        if self._state_check:
            # Refuse a state that cannot be loaded again after the first step, not after hours of training.
            state_check, self._state_check = self._state_check, None
            _check_state(run, state_check)
        # First, because it has to see every measurement.
        if self.keep_best and self._is_among_best(run):
            return True
        if self.every_s and self._is_time(run):
            return True
        is_new_step = self._saved is None or self._saved[0] != run.step
        if self.every_steps and run.step % self.every_steps == 0 and is_new_step:
            return True
        return bool(self.every_epochs) and run.position == 0 and run.epoch % self.every_epochs == 0

    def _is_time(self, run: RunView) -> bool:
        is_time = time.monotonic() - self._saved_at >= self.every_s
        if run.ranks.world_size == 1:
            return is_time
        if is_time and run.ranks.is_zero:
            run.ranks.ask(_REQUEST)
        return _REQUEST in run.ranks.agreed

    def _is_among_best(self, run: RunView) -> bool:
        step, metrics = self.measured
        value = _badness(metrics.get(self.monitor), self.mode)
        if step != run.step or value is None or step == self._ranked_step:
            return False
        self._ranked_step = step
        if len(self._best) == self.keep_best and value >= self._best[-1]:
            return False
        self._best = sorted([*self._best, value])[: self.keep_best]
        return True

    def _save(self, run: RunView, place: tuple[int, int], *, must_succeed: bool) -> None:
        self._finish(run, must_succeed=self.on_failure == "fail")
        self._saved, self._saved_at, self._has_failed = place, time.monotonic(), False
        step, metrics = self.measured
        try:
            # Metrics of an earlier step do not describe these weights.
            save = begin_save(run, metrics=metrics if step == run.step else {}, identity=identity_of(run))
        except CheckpointError as error:
            self._report_failure(run, error, must_succeed=must_succeed)
            return
        if save is None:
            return
        self._saving = saving = _Saving(self, run, save)
        self._written = set()
        if self.in_background and not must_succeed:
            saving.start()
        else:
            saving.run()
            self._finish(run, must_succeed=must_succeed)

    def _finish(self, run: RunView, *, must_succeed: bool) -> None:
        """Wait until the current save is on disk, and report its result."""
        saving, self._saving = self._saving, None
        if saving is None:
            return
        saving.finish()
        if saving.path and self._folder:
            run.announce_checkpoint(saving.path)
        if saving.prune_error:
            run.warn(f"{saving.prune_error.message}; trying again after the next save")
        if saving.error:
            self._report_failure(run, saving.error, must_succeed=must_succeed)

    def _leave(self, run: RunView) -> None:
        if self._saving and self._saving.save.is_together:  # the other ranks may not come to complete it
            self._saving.abandon()
            self._saving = None
        self._finish(run, must_succeed=False)

    def _is_written_by_all(self, run: RunView, saving: _Saving) -> bool:
        """Return whether all ranks have written their parts in the background: on all of them after the same step."""
        if not saving.save.is_together:
            return False
        told = f"checkpoint {self._saved} is written by rank "
        self._written |= {name for name in run.ranks.agreed if name.startswith(told)}
        if not (saving.is_alive() or f"{told}{run.ranks.rank}" in self._written):
            run.ranks.ask(f"{told}{run.ranks.rank}")
        return len(self._written) == run.ranks.world_size

    def _report_failure(self, run: RunView, error: BaseException, *, must_succeed: bool) -> None:
        self._has_failed = True
        if must_succeed or not isinstance(error, CheckpointError):
            raise error
        run.warn(f"the state was not saved, and the run continues: {error.message}")


def _state_check_of(run: RunView) -> StateCheck:
    from hookline.runs import StateCheck  # imports torch

    return StateCheck(run)


def _check_state(run: RunView, state_check: StateCheck) -> None:
    try:
        state = run.state_dict()
    except CheckpointError:
        return  # a disk that is full now may have room when the state is saved
    state_check.check(state)
    if run.steps_per_epoch is None and not any((state["place"] or {"shares": ()})["shares"]):
        run.warn(_READ_AGAIN)


class _Saving(threading.Thread):
    """One save of a copy of the state, written in the calling thread or in a new one.

    Attributes:
        save: The save.
        path: Folder of the checkpoint, once it is complete.
        error: The reason that it is not.
        prune_error: The reason that an old checkpoint was not removed.
    """

    def __init__(self, options: SaveCheckpoints, run: RunView, save: Save) -> None:
        super().__init__(name="hookline checkpoint")
        self._options, self._folder, self.save = options, folder_of(run), save
        self.path: Path | None = None
        self.error: BaseException | None = None
        self.prune_error: CheckpointError | None = None

    def run(self) -> None:
        """Write the state; if no other rank has to agree, complete the checkpoint and remove old ones."""
        try:
            self.save.write()
            if not self.save.is_together:
                self._complete()
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits for the save
            self.error = error

    def finish(self) -> None:
        """Wait until it is written, and complete it."""
        self._wait()
        if self.error or not self.save.is_together:
            return
        try:
            self._complete()
        except CheckpointError as error:
            self.error = error

    def abandon(self) -> None:
        """Wait until it is written, and remove it."""
        self._wait()
        self.save.abandon()

    def _wait(self) -> None:
        if self.is_alive():
            self.join()

    def _complete(self) -> None:
        self.path = self.save.complete()
        options = self._options
        try:
            if self._folder:
                self._folder.prune_checkpoints(options.keep, self._badness, options.keep_best)
        except CheckpointError as error:
            self.prune_error = error

    def _badness(self, manifest: Manifest) -> float | None:
        return _badness(manifest.metrics.get(self._options.monitor), self._options.mode)


def _badness(value: float | None, mode: str) -> float | None:
    """Return a number that is smaller for better values; None for NaN and for no value."""
    if value is None or value != value:  # noqa: PLR0124 - NaN alone differs from itself
        return None
    return value if mode == "min" else -value
