"""``Loop``: takes the steps of a run and calls its events, all in ``Loop.steps``."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from hookline.engine.errors import TrainingError, error_text
from hookline.engine.logged import Logged
from hookline.engine.loop.components import Components
from hookline.engine.loop.memory import explaining, memory_error_of_step
from hookline.engine.loop.position import Position
from hookline.engine.loop.results import check_losses, check_step_result
from hookline.engine.loop.state import Modes, Progress
from hookline.engine.plugin.hook_call import ending_error
from hookline.engine.plugin.host import Host
from hookline.engine.plugin.observer import Observer
from hookline.engine.read_only import ReadOnly
from hookline.engine.reading.failure import note_examples
from hookline.engine.reading.workers import lost_worker
from hookline.engine.result import Outcome, Step
from hookline.engine.rng import RandomState, in_run
from hookline.engine.view import RunView


class Loop:
    """The loop of a run.

    Args:
        run: The view that hooks receive.
        host: The plugins.
        parts: The components.
        position: Position of the run, which the loop advances.
        observers: Observers of the run.

    Attributes:
        host: The plugins.
        parts: The components.
        position: Position of the run.
        progress: The metrics so far, and the random state.
        outcome: The outcome; None until the run is over.
        is_resting: Whether the run is between two steps, where it has a state to save.
    """

    def __init__(
        self, run: RunView, host: Host, parts: Components, position: Position, observers: Sequence[Observer]
    ) -> None:
        self._run, self.host, self.parts, self.position = run, host, parts, position
        self._observers = observers
        self._options = run.config.train
        self._max_steps = run.config.train.max_steps or math.inf
        self._is_left = False
        self._notify_save_point: Callable[..., None] | None = host.caller("on_save_point")
        rank = run.ranks.rank
        random = RandomState(run.config.train.seed, "train", *([rank] if rank else []), device=parts.device)
        self.progress = Progress(random, Modes(parts), Logged(run))
        self.outcome: Outcome | None = None
        self.is_resting = True

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def steps(self) -> Generator[Tensor]:  # noqa: C901, PLR0912 - the whole loop on one screen
        """Take all steps and yield their losses; every event is called from here."""
        self._begin()
        host, run, position, step = self.host, self._run, self.position, self.parts.step
        on_step_end, evaluate_every = host.caller("on_step_end"), self._options.evaluate_every_steps
        logged, log_every = self.progress.logged, self._options.log_every_steps
        is_shared, has_listeners = run.ranks.world_size > 1, self._notify_save_point is not None
        outcome: Outcome = "failed"
        error: BaseException | None = None
        try:
            host.start(run=run)
            self.progress.modes.start()
            host.load_states()
            self.progress.modes.restore()
            self._agree(is_due=True)
            while not position.interrupt_reason and (position.batch or self._has_next_epoch()):
                if not position.batch:
                    position.epoch += 1
                    host.notify("on_epoch_start", run=run)
                self.parts.ensure_training_mode()
                for batch in self._training_batches():
                    try:
                        loss = step(batch)
                    except Exception as failure:
                        note_examples(failure, position.indices(), "the step")
                        raise
                    self._count(loss, batch)
                    if on_step_end:
                        on_step_end(run=run, loss=loss)
                    if (logged.pending or is_shared) and position.step % log_every == 0:
                        self._log()
                    if evaluate_every and position.step % evaluate_every == 0:
                        self._evaluate(position.step // evaluate_every)
                    if is_shared or has_listeners:
                        self._save_point(is_last=False)
                    yield loss
                    if self._is_over():
                        break
                if not position.interrupt_reason:
                    host.notify("on_epoch_end", run=run, metrics=self._end_epoch())
                    position.batch = 0
                    self._save_point(is_last=False)
            self._save_point(is_last=True)
            outcome = self._outcome_of_all_steps()
        except BaseException as raised:
            outcome, error = self._early_end(raised)
            if error is None or error is raised:
                raise
            raise error from raised
        finally:
            self._end(outcome, error)

    def bare_steps(self) -> Generator[Tensor]:
        """Take steps without end and yield their losses; no events, no evaluations."""
        if self.parts.share:
            raise TrainingError("several ranks cannot try steps", hint="create a Run without ranks")
        self._begin()
        with self.host.makers.attributing(), explaining(self._run):
            while True:
                self.position.epoch += 1
                for batch in self.parts.read("train", self.parts.batches, None, self.position.epoch):
                    loss = self.parts.step(batch)
                    self._count(loss, batch)
                    yield loss
                self.position.batch = 0

    def each(self, steps: Generator[Tensor]) -> Iterator[Step]:
        """Take each step when it is requested; leaving the iteration ends the loop."""
        try:
            while True:
                with self.working():
                    try:
                        loss = next(steps)
                    except StopIteration:
                        return
                yield Step(self.position.epoch, self.position.step, loss)
        finally:
            self._is_left = True
            with self.working():
                steps.close()
            self.parts.workers.stop()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Use the random state of the run, and compute gradients, whatever the settings of the surrounding program."""
        was_resting, self.is_resting = self.is_resting, False
        try:
            with in_run(self.progress.random):
                yield
        finally:
            self.is_resting = was_resting

    # ---- the parts of the loop ---------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self.position.is_begun:
            raise TrainingError("the run has already begun", hint="create a new Run")
        self.position.is_begun = True
        if self._options.max_time_s:
            self.progress.begin()
            self._check_time()
        for observer in self._observers:
            observer.begin()

    def _training_batches(self) -> Iterator[Any]:
        """Return the remaining batches of the current epoch; none if the run is over within it."""
        position = self.position
        if position.batch and (self._is_over() or position.epoch > position.num_epochs):
            return iter(())
        return self.parts.reader(position.epoch, position.batch)

    def _count(self, loss: Tensor, batch: Any) -> None:
        """Count a step."""
        position = self.position
        position.step += 1
        position.batch += 1
        if position.step == position.num_before + 1:
            with self.host.makers.attributing(self.parts.step):
                check_step_result(loss)
            self.parts.finite_guard.check_use()
        if self.parts.finite_guard.has_skipped:
            self.parts.finite_guard.has_skipped = False
        else:
            share = self.parts.share
            self.progress.running.add(loss, share.weight if share else self.parts.weigh(batch))
        if self._options.max_time_s:
            self._check_time()

    def _check_time(self) -> None:
        if self._run.ranks.is_zero and self.progress.used_s >= self._options.max_time_s:
            self._run.request_stop(f"train.max_time_s = {self._options.max_time_s:g} has passed")

    def _agree(self, *, is_due: bool) -> None:
        """Learn what the other ranks ask for, and of what they warn, if that is due or it is time."""
        ranks, position = self._run.ranks, self.position
        ranks.meet(position.step, is_due=is_due)
        position.stop_reason = position.stop_reason or ranks.agreed.get("stop_reason")
        position.interrupt_reason = position.interrupt_reason or ranks.agreed.get("interrupt_reason")
        for text, message in ranks.agreed.items():
            if ranks.is_zero and text.startswith("rank ") and message not in self._run.warnings:
                self._run.warn(text)

    def _is_over(self) -> bool:
        position = self.position
        is_ending = position.stop_reason is not None or position.interrupt_reason is not None
        # While the weights are ahead of the step, the run continues.
        return (is_ending or position.step >= self._max_steps) and not position.num_ahead

    def _has_next_epoch(self) -> bool:
        position = self.position
        return position.step < self._max_steps and position.epoch < position.num_epochs and position.stop_reason is None

    def _outcome_of_all_steps(self) -> Outcome:
        """Return the outcome; keep the weights that are evaluated, unless the run will be resumed."""
        if self.position.interrupt_reason and (self.position.batch or self._has_next_epoch()):
            return "interrupted"
        self._log()
        self.parts.evaluated_weights.keep()
        return "completed" if self.position.stop_reason is None else "stopped"

    def _save_point(self, *, is_last: bool) -> None:
        # An evaluation may lead all ranks to the same request, which they fulfil in this step, as one process does.
        is_measured = self.progress.evaluated_step == self.position.step
        self._agree(is_due=is_last or is_measured or not self.position.batch)
        if self._notify_save_point and not self.position.num_ahead:
            self.is_resting = True
            try:
                self._notify_save_point(run=self._run, is_last=is_last)
            finally:
                self.is_resting = False

    def _log(self) -> None:
        """End the interval of the logged values, if there are any."""
        if values := self.progress.logged.end_interval():
            self.host.notify("on_log", run=self._run, values=ReadOnly(values))

    def _evaluate(self, number: int) -> None:
        """Evaluate the splits that are due between the events, unless all of them were measured after this step."""
        every = self._options.evaluate_every
        due = [split for split in self.parts.evaluation_batches if number % every.get(split, 1) == 0]
        measured = self.progress.measured_after(self.position.step)
        if all(f"{split}/loss" in measured for split in due):
            return
        with self.parts.evaluated_weights.loaded():
            self.host.notify("on_evaluation_start", run=self._run)
            with self.progress.logged.paused():
                metrics = self.parts.evaluate(self._run, due)
            self.progress.evaluated_step, self.progress.evaluated = self.position.step, metrics
            self.host.notify("on_evaluation_end", run=self._run, metrics=metrics)

    def _end_epoch(self) -> Mapping[str, float]:
        self.parts.finite_guard.look()
        position, every = self.position, self._options.evaluate_every_epochs
        is_last = position.epoch >= position.num_epochs or self._is_over()
        is_due = every and (position.epoch % every == 0 or is_last)
        if is_due:
            self._evaluate(0 if is_last else position.epoch // every)
        self._log()
        evaluated = self.progress.measured_after(position.step) if is_due else {}
        running, num_counted = self.progress.running_loss(self._run.ranks)
        measured = {"train/running_loss": running, **evaluated}
        metrics = ReadOnly(measured | self.progress.logged.end_epoch())
        self.progress.history.append(metrics)
        self.progress.running.reset()
        # If every update was skipped, the running loss is NaN.
        check_losses(measured if num_counted else evaluated, position.epoch)
        return metrics

    def _early_end(self, raised: BaseException) -> tuple[Outcome, BaseException | None]:
        """Return the outcome of a loop that ended early, and the error to raise, if any."""
        if isinstance(raised, GeneratorExit) and self._is_left:
            return "stopped", None
        if isinstance(raised, KeyboardInterrupt):
            return "interrupted", raised
        if isinstance(raised, SystemExit | StopIteration | GeneratorExit):
            error = ending_error(raised, self.host.makers.of(raised))
            error.epoch, error.step = self.position.epoch, self.position.step
            raised = error
        else:
            raised = lost_worker(raised) or memory_error_of_step(raised, self._run) or raised
            self.host.makers.attribute(raised)
        raised = self._run.ranks.fail(raised)
        raised.add_note(str(self.position))
        return "failed", raised

    def _end(self, outcome: Outcome, error: BaseException | None) -> None:
        """Notify every plugin that the run is over; their errors never hide the one that ended it."""
        self.outcome = outcome
        self.parts.workers.stop()
        failures = self.host.close_each("on_run_error", run=self._run, error=error) if error else []
        failures += self.host.close_each("on_run_end", run=self._run, outcome=outcome)
        for observer in self._observers:
            observer.end()
        if not failures:
            return
        first = error or failures.pop(0)
        for failure in failures:
            first.add_note("and then " + "; ".join([error_text(failure), *getattr(failure, "__notes__", ())]))
        if error is None:
            self.outcome = "failed"
            raise first
