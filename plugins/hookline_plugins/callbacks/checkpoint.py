"""Callback ``checkpoint``: keeps the state of a run in its folder, to go on from after whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from hookline import CheckpointError, ConfigError, hookimpl
from hookline.runs import folder_of, identity_of
from hookline_plugins.callbacks.monitoring import check_monitored
from hookline_plugins.callbacks.single import check_single

if TYPE_CHECKING:
    from hookline import RunView
    from hookline.runs import Manifest, RunFolder


@dataclass
class SaveCheckpoints:
    """Saves the state of the run: at times, every so many steps or epochs, when a metric is good, and at the end.

    A checkpoint is a new folder each, written beside, flushed to the disk and renamed. Old ones are removed only when
    the new one was read again and found good.

    ``every_s``: Young's interval, ``sqrt(2 * save time * mean time between failures)`` (J. W. Young, *A first order
    approximation to the optimum checkpoint interval*, 1974), is 300 s for a save of one second and a failure in 12.5
    hours.
    """

    every_s: Annotated[float, Meta(ge=0, description="seconds from one save to the next; 0: none")] = 300.0
    every_steps: Annotated[int, Meta(ge=0, description="steps from one save to the next; 0: none")] = 0
    every_epochs: Annotated[int, Meta(ge=0, description="epochs from one save to the next; 0: none")] = 0
    keep: Annotated[int, Meta(ge=1, description="how many of the newest stay")] = 2
    keep_best: Annotated[int, Meta(ge=0, description="how many of the best stay, saved when they are measured")] = 0
    monitor: Annotated[str, Meta(description="metric that says which are the best")] = "validation/loss"
    mode: Annotated[Literal["min", "max"], Meta(description="whether smaller or larger is better")] = "min"
    in_background: Annotated[
        bool, Meta(description="whether a thread writes while the training goes on; takes memory for one more state")
    ] = False
    on_failure: Annotated[
        Literal["warn", "fail"], Meta(description="what a save that fails does, but for the last, which must not fail")
    ] = "warn"

    def __post_init__(self) -> None:
        self._saved: tuple[int, int] | None = None
        self.measured: tuple[int, dict[str, float]] = (0, {})
        self._best: list[float] = []
        self._ranked_step = 0
        self._saved_at = time.monotonic()
        self._was_tried = False
        self._saving: _Saving | None = None

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Forget an earlier run."""
        self.__post_init__()
        folder = folder_of(run)
        if folder is None:
            hint = "let run-folder make one: callbacks.run-folder={}, or switch it off: callbacks.checkpoint=off"
            raise ConfigError("checkpoint has no folder to save in", hint=hint)
        check_single(run, self)
        self._folder = folder
        if self.keep_best:
            check_monitored(run, self.monitor, "checkpoint")

    @hookimpl
    def on_evaluation_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Note what was measured."""
        self.measured = run.step, dict(metrics)

    @hookimpl
    def on_epoch_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Note what was measured."""
        self.measured = run.step, dict(metrics)

    @hookimpl
    def on_save_point(self, run: RunView, is_last: bool) -> None:
        """Save, if it is time."""
        if not (is_last or self._is_due(run)):
            return
        place = run.step, len(run.history)
        if self._saved != place:
            self._save(run, place, must_succeed=is_last or self.on_failure == "fail")
        if is_last:
            self._finish(run, must_succeed=True)

    @hookimpl
    def on_run_error(self, run: RunView) -> None:
        """Wait for what is being written."""
        self._finish(run, must_succeed=False)

    def state_dict(self) -> dict[str, Any]:
        """Return the best values, and where the state was saved last: here, if it is that of a checkpoint."""
        return {"best": list(self._best), "saved": list(self._saved) if self._saved else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        saved = state["saved"]
        self._best = list(state["best"])
        self._saved = (saved[0], saved[1]) if saved else None

    def _is_due(self, run: RunView) -> bool:
        if not self._was_tried:
            # A state that cannot be kept is refused after the first step, and not after a night.
            self._was_tried = True
            self._check_state(run)
        # First, since it has to see every measurement.
        if self.keep_best and self._is_among_best(run):
            return True
        if self.every_s and time.monotonic() - self._saved_at >= self.every_s:
            return True
        is_new_step = self._saved is None or self._saved[0] != run.step
        if self.every_steps and run.step % self.every_steps == 0 and is_new_step:
            return True
        return bool(self.every_epochs) and run.position == 0 and run.epoch % self.every_epochs == 0

    def _check_state(self, run: RunView) -> None:
        try:
            state = run.state_dict()
        except CheckpointError:
            return  # a disk that is full now may not be when the state is saved
        self._folder.check_state(state)

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
        self._saved, self._saved_at = place, time.monotonic()
        try:
            self._saving = saving = _Saving(self, run, self._folder)
        except CheckpointError as error:
            self._tell_failure(run, error, must_succeed=must_succeed)
            return
        if self.in_background and not must_succeed:
            saving.start()
        else:
            saving.run()
            self._finish(run, must_succeed=must_succeed)

    def _finish(self, run: RunView, *, must_succeed: bool) -> None:
        """Wait until what is being written is on the disk, and tell what became of it."""
        saving, self._saving = self._saving, None
        if saving is None:
            return
        if saving.is_alive():
            saving.join()
        if saving.path:
            run.announce_checkpoint(saving.path)
        if saving.kept_error:
            run.warn(f"{saving.kept_error.message}; it is tried again after the next save")
        if saving.error:
            self._tell_failure(run, saving.error, must_succeed=must_succeed)

    def _tell_failure(self, run: RunView, error: BaseException, *, must_succeed: bool) -> None:
        # The same place is tried again when it is the last.
        self._saved = None
        if must_succeed or not isinstance(error, CheckpointError):
            raise error
        run.warn(f"the state was not saved, and the run goes on: {error.message}")


class _Saving(threading.Thread):
    """One save: of a copy of the state, in this thread or in its own.

    Attributes:
        path: The folder, when it is on the disk.
        error: Why it is not.
        kept_error: Why an old checkpoint could not be removed.
    """

    def __init__(self, options: SaveCheckpoints, run: RunView, folder: RunFolder) -> None:
        super().__init__(name="hookline checkpoint")
        self._options, self._folder, self._identity = options, folder, identity_of(run)
        self._state = run.state_dict()
        step, metrics = options.measured
        # Numbers of other weights say nothing about these.
        self._metrics = metrics if step == run.step else {}
        self.path: Path | None = None
        self.error: BaseException | None = None
        self.kept_error: CheckpointError | None = None

    def run(self) -> None:
        """Write the state, and remove old checkpoints."""
        try:
            self.path = self._folder.write_checkpoint(self._state, metrics=self._metrics, identity=self._identity)
            self._prune()
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits for it
            self.error = error

    def _prune(self) -> None:
        options = self._options
        try:
            self._folder.prune_checkpoints(options.keep, self._badness, options.keep_best)
        except CheckpointError as error:
            self.kept_error = error

    def _badness(self, manifest: Manifest) -> float | None:
        return _badness(manifest.metrics.get(self._options.monitor), self._options.mode)


def _badness(value: float | None, mode: str) -> float | None:
    """Return a number that is the smaller the better; None for what is not a number."""
    if value is None or value != value:  # noqa: PLR0124 - NaN alone differs from itself
        return None
    return value if mode == "min" else -value
