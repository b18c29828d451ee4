"""``Run``: built components, where the run stands, and the loop."""

from __future__ import annotations

import collections
import copy
import functools
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hookline.engine.config.layers import Source
from hookline.engine.config.loading import load_config
from hookline.engine.config.run_config import RunConfig
from hookline.engine.data import DataSource
from hookline.engine.errors import ContractError, DataError, HooklineError, NonFiniteError, TrainingError
from hookline.engine.loop.batch import brief, count_examples
from hookline.engine.loop.batches import Batches
from hookline.engine.loop.building import (
    build_batches,
    build_component,
    build_metrics,
    load_state_of_wrappers,
    state_of_wrappers,
    try_first_batches,
)
from hookline.engine.loop.device import find_device
from hookline.engine.loop.evaluation import WeightedMean, evaluate
from hookline.engine.loop.finite_guard import FiniteGuard
from hookline.engine.loop.first_batch import check_parameters
from hookline.engine.loop.fused import FusedSteps
from hookline.engine.loop.memory import MEMORY_ERRORS, evaluating, memory_error_of_step
from hookline.engine.loop.reading import lost_worker
from hookline.engine.loop.rng import RandomState, make_generator
from hookline.engine.loop.step import DefaultStep, LossFunction, StepFunction, check_step_can_halve
from hookline.engine.loop.subset import first_examples
from hookline.engine.plugin.host import Host
from hookline.engine.plugin.observer import Observer
from hookline.engine.result import Outcome, Row, RunResult, Step

if TYPE_CHECKING:
    from pathlib import Path

    from hookline.runs.folder import RunFolder


class Run:
    """A run: its components, built when it is made, and where it stands.

    Args:
        config: A TOML file's path, a mapping of the same form, a ``RunConfig``, or None for the defaults.
        overrides: Values by dotted key that win over the config's; not with a ``RunConfig``.
        plugins: Objects instead of named plugins, by table: ``{"model": net}``; not with a ``RunConfig``.
        observers: Who looks on at every call of a hook, such as a ``Ledger``.

    Attributes:
        config: The complete config.
        seed: Where its random numbers come from.
        data: The data source.
        device: Where the model is.
        model: The model, with all wrappers around it.
        unwrapped_model: The model as its plugin built it.
        loss: The loss.
        metrics: What is measured beside the loss, by name.
        optimizer: The optimizer.
        backward: Adds the gradients of a loss to the parameters' ``grad``; what a step of one's own calls.
        update: Updates the weights by their gradients; what a step of one's own calls.
        micro_batch_size: How many examples go through the model at once in a step; 0: all; None when the step has no
            parts.
        finite_guard: Looks at losses and gradients before the weights are touched.
        epoch: The epoch at work, from 1; 0 before the first.
        step: Number of steps taken.
        history: The numbers of each epoch that ended.
        summary: What plugins reported.
        warnings: What is wrong without ending the run.
        outcome: How it ended; None until then.
        stop_reason: Why it is to stop early; None if it is not.
        interrupt_reason: Why it is to end before its time, to be taken up later; None if it is not.
        folder: The folder in which its plugins keep things; None if there is none. Set it before the first step.

    Raises:
        HooklineError: Of the class that says what is wrong: config, plugin, data or contract.

    Example:
        >>> run = Run({"train": {"epochs": 1}})
        >>> for step in run.steps():
        ...     pass
        >>> run.outcome, step.step
        ('completed', 100)
    """

    def __init__(
        self,
        config: RunConfig | Source = None,
        overrides: Mapping[str, Any] | Sequence[str] = (),
        *,
        plugins: Mapping[str, Any] | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        if not isinstance(config, RunConfig):
            config = load_config(config, overrides, plugins=plugins)
        elif overrides or plugins:
            raise TypeError("a RunConfig is complete: give overrides and plugins to load_config")
        self.config = config
        self.seed = config.train.seed
        self.epoch = 0
        self.step = 0
        self.history: list[Mapping[str, float]] = []
        self.summary: dict[str, Sequence[Row]] = {}
        self.warnings: list[str] = []
        self.outcome: Outcome | None = None
        self.stop_reason: str | None = None
        self.interrupt_reason: str | None = None
        self.folder: RunFolder | None = None
        self._watches = observers
        self._is_begun = False
        self._is_working = False
        self._is_at_save_point = False
        self._num_done = 0  # batches of the epoch at work; 0 between two epochs
        self._running = WeightedMean()
        self._evaluated: tuple[int, Mapping[str, float]] = (0, {})  # the last step after which it was evaluated
        # Asked in every step.
        self._max_steps = config.train.max_steps or -1
        self._max_time_s = config.train.max_time_s
        self._plugin_states: Mapping[str, Any] | None = None
        self.micro_batch_size: int | None = None
        self._is_left = False
        self.device = find_device(config.train.device)
        self.finite_guard = FiniteGuard(self, config.train.non_finite)
        self._dtype: torch.dtype = getattr(torch, config.train.dtype)
        self._random = RandomState(self.seed, "train", device=self.device)
        self._fused = FusedSteps(config.train.fuse_steps) if config.train.fuse_steps > 1 else None
        self._used_s = 0.0
        self._started = 0.0
        try:
            with self._working(RandomState(self.seed, "build")):
                self._host = Host.open(config, self._fused or DefaultStep(), warn=self.warn, observers=observers)
                self._build()
        except SystemExit as ending:
            raise TrainingError("a component tried to end the program while the run was built") from ending

    # ---- what plugins and host programs may ask for ------------------------------------------------------------------

    @property
    def num_epochs(self) -> int:
        """Number of epochs that the run is to have."""
        return self.config.train.epochs

    @property
    def steps_per_epoch(self) -> int | None:
        """Number of steps in an epoch; None for a stream of unknown length."""
        return self._batches.num_batches

    @property
    def num_steps(self) -> int | None:
        """Number of steps that the run is to have; None when nothing says so."""
        of_epochs = self.steps_per_epoch * self.num_epochs if self.steps_per_epoch is not None else None
        return min((n for n in (of_epochs, self.config.train.max_steps or None) if n is not None), default=None)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the numbers that each epoch will have."""
        evaluated = [f"{split}/{name}" for split in self._evaluation_batches for name in ("loss", *self.metrics)]
        return ("train/running_loss", *evaluated)

    @property
    def position(self) -> int:
        """Number of batches of the epoch at work that were used; 0 between two epochs."""
        return self._num_done

    @property
    def num_ahead(self) -> int:
        """Number of steps that the weights are ahead of ``step``: 0, but within a block of ``train.fuse_steps``."""
        return self._fused.num_ahead if self._fused else 0

    def batch_order(self, epoch: int) -> Tensor:
        """Return the indices of the training examples in the order of an epoch (from 1): int64 ``[num_examples]``."""
        return self._batches.order(epoch)

    def batch_indices(self, step: int | None = None) -> list[int]:
        """Return the indices of the training examples of the batch at work, or of a step before; empty for a stream."""
        if not self.epoch or self.steps_per_epoch is None:
            return []
        if step is None or step == self.step + 1:
            return self._batches.indices(self.epoch, self._num_done)
        number_of_epoch, number = divmod(step - 1, self.steps_per_epoch)
        return self._batches.indices(number_of_epoch + 1, number)

    def generator(self, name: str) -> torch.Generator:
        """Return a new CPU generator whose numbers depend on the run's seed and on ``name`` alone."""
        return make_generator(self.seed, "plugin", name)

    def request_stop(self, reason: str) -> None:
        """End the run after this step: its epoch is evaluated and ended as usual, and no other begins."""
        self.stop_reason = self.stop_reason or reason

    def interrupt(self, reason: str) -> None:
        """End the run after this step, in the middle of its epoch, such that it can be taken up from there.

        Safe to call from a signal handler or another thread.
        """
        self.interrupt_reason = self.interrupt_reason or reason

    def report(self, title: str, rows: Sequence[Row]) -> None:
        """Put a table of plain values into the run's summary, which is shown when it ends."""
        self.summary[title] = [dict(row) for row in rows]

    def warn(self, message: str) -> None:
        """Tell every plugin that something is wrong, and go on."""
        # A run that goes on has the warnings from before, and its plugins may say the same again.
        if message not in self.warnings:
            self.warnings.append(message)
        if self._is_begun:
            self._host.notify_started("on_warning", run=self, message=message)

    def announce_checkpoint(self, path: Path) -> None:
        """Tell every plugin that the state of the run was kept in the folder ``path``."""
        self._host.notify_started("on_checkpoint_saved", run=self, path=path)

    @functools.cached_property
    def identity(self) -> Mapping[str, Any]:
        """What the run is made of, as plain values: versions, plugins, hashes of their code, settings, data, machine.

        Taken when it is first asked for.
        """
        from hookline.runs.identity import identity_of

        return identity_of(self)

    # ---- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all that is needed to go on from here: tensors and plain values.

        Between two steps (of ``steps()``), in ``on_save_point``, before the first step, or when the run is over. A run
        of the same config that takes it up ends with the same numbers, to the last bit, as if it had not been
        interrupted.

        Raises:
            TrainingError: When it is called from within a step or an event, or within a block (``num_ahead``).
            NonFiniteError: When a step before was not finite, and an accelerator has not told yet.
        """
        if self._is_working and not self._is_at_save_point:
            hint = "ask in on_save_point, or between two steps of run.steps()"
            raise TrainingError("a run has no state to keep while it is in a step or an event", hint=hint)
        if self.num_ahead:
            message = f"a run has no state to keep within a block: the weights are {self.num_ahead} steps ahead"
            raise TrainingError(message, hint="ask when run.num_ahead is 0, or set train.fuse_steps to 1")
        self.finite_guard.look()  # what is taken up again would not know of it
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "used_s": self._used_s,
            "position": self._num_done,
            "micro_batch_size": self.micro_batch_size,
            "stop_reason": self.stop_reason,
            "history": [dict(metrics) for metrics in self.history],
            "summary": self.summary,
            "warnings": self.warnings,
            "random": self._random.state_dict(),
            "running": self._running.state_dict(),
            "evaluated": [self._evaluated[0], dict(self._evaluated[1])],
            "model": self.unwrapped_model.state_dict(),
            "wrappers": state_of_wrappers(self.model, self.unwrapped_model),
            "loss": self.loss.state_dict() if isinstance(self.loss, nn.Module) else {},
            "optimizer": self.optimizer.state_dict(),
            "plugins": self._host.state_dict(),
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state_dict`` of a run of the same config gave, before the first step.

        The state of a plugin is handed to its ``load_state_dict`` when its ``on_run_start`` has returned.

        Raises:
            TrainingError: When the run was begun.
            ContractError: When the state is of another model or optimizer; and, as the run begins, of other plugins.
        """
        if self._is_begun:
            raise TrainingError("the run was begun before", hint="make a new Run, and load the state first")
        state = copy.deepcopy(dict(state))
        try:
            self.unwrapped_model.load_state_dict(state["model"])
            load_state_of_wrappers(self.model, self.unwrapped_model, state["wrappers"])
            if isinstance(self.loss, nn.Module):
                self.loss.load_state_dict(state["loss"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, ValueError, RuntimeError) as error:
            hint = "resume with the config with which the state was taken"
            raise ContractError(f"the state is that of another run: {error}", hint=hint) from error
        self.epoch, self.step, self._num_done = state["epoch"], state["step"], state["position"]
        self.stop_reason, self._used_s = state["stop_reason"], state["used_s"]
        self.history = [MappingProxyType(metrics) for metrics in state["history"]]
        self.summary, self.warnings = state["summary"], state["warnings"]
        self._random.load_state_dict(state["random"])
        self._running.load_state_dict(state["running"])
        evaluated_step, metrics = state["evaluated"]
        self._evaluated = evaluated_step, MappingProxyType(metrics)
        self._plugin_states = state["plugins"]
        if self.config.train.out_of_memory == "halve":  # else it is the config's, which may be smaller by now
            sizes = (state["micro_batch_size"], self.micro_batch_size)
            self.micro_batch_size = min((size for size in sizes if size), default=0)

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def fit(self) -> RunResult:
        """Take all steps, and return what became of the run.

        Raises:
            NonFiniteError: When the loss of an epoch is not finite.
            TrainingError: When the run was begun before.
            Exception: Whatever a plugin or a component raises, with notes that say where.
        """
        with self._working(self._random):
            # Drained without a line of Python between the steps, so that an interrupt is always raised inside the loop.
            collections.deque(self._loop(), maxlen=0)
        return self.result()

    def steps(self) -> Iterator[Step]:
        """Take one step after the other, each when it is asked for.

        Between the steps torch's global random generator is the caller's. Leaving the iteration stops the run.
        """
        return self._each_step(self._loop())

    def _each_step(self, loop: Generator[Tensor]) -> Iterator[Step]:
        try:
            while True:
                with self._working(self._random):
                    try:
                        loss = next(loop)
                    except StopIteration:
                        return
                    except MEMORY_ERRORS as error:
                        if told := memory_error_of_step(error, self):
                            raise told from error
                        raise
                yield Step(self.epoch, self.step, loss)
        finally:
            self._is_left = True
            with self._working(self._random):
                loop.close()

    def result(self) -> RunResult:
        """Return what became of the run.

        Raises:
            TrainingError: When it is not over.
        """
        if self.outcome is None:
            raise TrainingError("the run is not over", hint="take all its steps, or call fit()")
        return RunResult(
            outcome=self.outcome,
            stop_reason=self.stop_reason,
            epochs=self.epoch,
            steps=self.step,
            metrics=self.history[-1] if self.history else {},
            history=tuple(self.history),
            summary=self.summary,
            warnings=tuple(self.warnings),
            model=self.model,
        )

    def evaluate(self) -> Mapping[str, float]:
        """Return the loss and the metrics of every split that is evaluated, with the weights as they are; no events."""
        with self._working(self._random):
            return self._measured()

    def try_step(self) -> float:
        """Take one step with the first batch, outside the loop and without events, and return its loss.

        For checking a run before it is started: the step changes the weights, so make a new run to train.
        """
        return next(self.try_steps()).loss.item()

    def try_steps(self) -> Iterator[Step]:
        """Take one step after the other, epoch after epoch without end, without events and evaluations.

        For trying a run out: the steps change the weights, so make a new run to train.
        """
        return self._each_step(self._trial())

    def _loop(self) -> Generator[Tensor]:  # noqa: C901 - all of it on one screen says more than parts of it on two
        """The loop: every event is a call in it; it gives the loss of each step."""
        self._begin()
        host, step, evaluate_every = self._host, self._step, self.config.train.evaluate_every_steps
        on_step_end, save_point = host.caller("on_step_end"), self._save_point
        has_save_points = self._tell_save_point is not None
        outcome: Outcome = "failed"
        error: BaseException | None = None
        try:
            host.start(self._plugin_states, run=self)
            while not self.interrupt_reason and (self._num_done or self._has_next_epoch()):
                if not self._num_done:
                    self.epoch += 1
                    host.notify("on_epoch_start", run=self)
                self.model.train()
                for batch in self._training_batches():
                    loss = step(batch)
                    self._count(loss, batch)
                    if on_step_end:
                        on_step_end(run=self, loss=loss)
                    if evaluate_every and self.step % evaluate_every == 0:
                        self._evaluate()
                    if has_save_points:
                        save_point(is_last=False)
                    yield loss
                    if self._is_over():
                        break
                if not self.interrupt_reason:
                    host.notify("on_epoch_end", run=self, metrics=self._end_epoch())
                    self._num_done = 0
                    save_point(is_last=False)
            save_point(is_last=True)
            outcome = self._outcome_of_all_steps()
        except BaseException as raised:
            outcome, error = self._early_end(raised)
            if error is None or error is raised:
                raise
            raise error from raised
        finally:
            self._end(outcome, error)

    def _trial(self) -> Generator[Tensor]:
        """The steps of the loop alone; it gives the loss of each."""
        self._begin()
        while True:
            self.epoch += 1
            self.model.train()
            for batch in self._read("train", self._batches, self.epoch):
                loss = self._step(batch)
                self._count(loss, batch)
                yield loss
            if not self._num_done:
                hint = "a stream must start anew each time it is iterated over"
                raise DataError(f"{self._host.owner('data')} gave no batch in epoch {self.epoch}", hint=hint)
            self._num_done = 0

    # ---- the parts of the loop ---------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._is_begun:
            raise TrainingError("the run was begun before", hint="make a new Run for a new run")
        self._is_begun = True
        self._started = time.perf_counter() - self._used_s
        for observer in self._watches:
            observer.begin()

    @contextmanager
    def _working(self, random: RandomState) -> Iterator[None]:
        """Work with random numbers of the run's own and with gradients, whatever the program around it has set."""
        was_working, self._is_working = self._is_working, True
        try:
            with random.active(), torch.inference_mode(mode=False), torch.enable_grad():
                yield
        finally:
            self._is_working = was_working

    def _read(self, split: str, batches: Batches, epoch: int, start: int = 0) -> Generator[Any]:
        """Give the batches of an epoch from ``start`` on; what reading them raises is a fault of the data."""
        if start and self._is_over():
            return
        stream = batches.epoch(epoch, start)
        for observer in self._watches:
            stream = observer.reading(split, stream)
        try:
            yield from stream
        except HooklineError as error:
            # Ctrl-C reaches the workers, too.
            if not (self.interrupt_reason and lost_worker(error.__cause__ or error)):
                raise
        except Exception as error:
            message = f"{self._host.owner('data')} fails while its {split} split is read"
            raise DataError(f"{message}: {type(error).__name__}: {error}") from error

    def _training_batches(self) -> Iterator[Any]:
        """Return what gives the rest of the batches of the epoch at work."""
        batches = self._read("train", self._batches, self.epoch, self._num_done)
        return self._fused.reading(self, batches, self._num_done) if self._fused else batches

    def _check_loss(self, loss: Any) -> None:
        if not (isinstance(loss, Tensor) and loss.dim() == 0 and loss.is_floating_point() and not loss.requires_grad):
            message = f"the step returned {brief(loss)}, but must return the detached loss, a scalar tensor"
            raise ContractError(message, hint="end the step with: return loss.detach()")

    def _early_end(self, raised: BaseException) -> tuple[Outcome, BaseException | None]:
        """Return the outcome, and the error to raise if there is one, for what ended the loop before its time."""
        if isinstance(raised, GeneratorExit) and self._is_left:
            return "stopped", None
        if isinstance(raised, KeyboardInterrupt):
            return "interrupted", raised
        if isinstance(raised, SystemExit | StopIteration | GeneratorExit):
            message = f"a component raised {type(raised).__name__}, {self._position()}"
            hint = "to end a run early, a plugin calls run.request_stop(reason)"
            return "failed", TrainingError(message, epoch=self.epoch, step=self.step, hint=hint)
        error = lost_worker(raised) or memory_error_of_step(raised, self) or raised
        error.add_note(self._position())
        return "failed", error

    def _position(self) -> str:
        if self.epoch == 0:
            return "before the first epoch"
        ahead = f", with weights that are {self.num_ahead} steps ahead" if self.num_ahead else ""
        return f"in epoch {self.epoch} of {self.num_epochs}, after {self.step} steps{ahead}"

    def _count(self, loss: Tensor, batch: Any) -> None:
        """Take note of a step that was taken."""
        self.step += 1
        self._num_done += 1
        if self.step == 1:
            self._check_loss(loss)
        if self.finite_guard.has_skipped:
            self.finite_guard.has_skipped = False
        else:
            self._running.add(loss, count_examples(batch))
        if self._max_time_s:
            self._used_s = time.perf_counter() - self._started
            if self._used_s >= self._max_time_s:
                self.request_stop(f"train.max_time_s = {self._max_time_s:g} is over")

    def _is_over(self) -> bool:
        # A stop that is asked for within a block comes at its end: the weights are there already.
        is_ending = self.stop_reason is not None or self.step == self._max_steps or self.interrupt_reason is not None
        return is_ending and not self.num_ahead

    def _has_next_epoch(self) -> bool:
        return self.epoch < self.num_epochs and self.stop_reason is None and self.step != self._max_steps

    def _outcome_of_all_steps(self) -> Outcome:
        if self.interrupt_reason and (self._num_done or self._has_next_epoch()):
            return "interrupted"
        return "completed" if self.stop_reason is None else "stopped"

    def _save_point(self, *, is_last: bool) -> None:
        if self._tell_save_point and not self.num_ahead:
            self._is_at_save_point = True
            try:
                self._tell_save_point(run=self, is_last=is_last)
            finally:
                self._is_at_save_point = False

    def _evaluate(self) -> None:
        """Evaluate every split, with the events around it; nothing, without events, if there is none."""
        if not self._evaluation_batches:
            return
        self._host.notify("on_evaluation_start", run=self)
        metrics = self._measured()
        self._evaluated = self.step, metrics
        self._host.notify("on_evaluation_end", run=self, metrics=metrics)

    def _measured(self) -> Mapping[str, float]:
        measured: dict[str, float] = {}
        for split, batches in self._evaluation_batches.items():
            # Closed at once also when the model raises: the error holds the frames in which it was raised.
            with closing(self._read(split, batches, 1)) as read, evaluating(self, split, batches.num_examples):
                numbers = evaluate(read, self.model, self.loss, self.metrics)
            measured |= {f"{split}/{name}": value for name, value in numbers.items()}
        return MappingProxyType(measured)

    def _end_epoch(self) -> Mapping[str, float]:
        self.finite_guard.look()
        every = self.config.train.evaluate_every_epochs
        is_last = self.epoch == self.num_epochs or self._is_over()
        is_due = every and (self.epoch % every == 0 or is_last)
        if is_due and self._evaluated[0] != self.step:
            self._evaluate()
        evaluated = self._evaluated[1] if is_due else {}
        metrics = MappingProxyType({"train/running_loss": self._running.compute(), **evaluated})
        self.history.append(metrics)
        # Without any update the mean is that of nothing.
        checked = metrics if self._running.weight else evaluated
        self._running.reset()
        for name, value in checked.items():
            if name.endswith("loss") and not math.isfinite(value):
                raise NonFiniteError(
                    f"{name} is {value} in epoch {self.epoch}",
                    hint="try a smaller learning rate, and look for extreme values in the data",
                )
        return metrics

    def _end(self, outcome: Outcome, error: BaseException | None) -> None:
        """Tell every plugin that the run is over; what they raise never hides what ended it."""
        self.outcome = outcome
        failures = self._host.close_each("on_run_error", run=self, error=error) if error else []
        failures += self._host.close_each("on_run_end", run=self, outcome=outcome)
        for observer in self._watches:
            observer.end()
        if not failures:
            return
        first = error or failures.pop(0)
        for failure in failures:
            first.add_note(
                "and then " + "; ".join([f"{type(failure).__name__}: {failure}", *getattr(failure, "__notes__", ())])
            )
        if error is None:
            self.outcome = "failed"
            raise first

    # ---- building ----------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        """Build the components, each from those before it, and try a batch on them before there is an optimizer."""
        host, options = self._host, self.config.train
        self.data: DataSource = build_component(host, "data", DataSource, run=self)
        if options.max_examples:
            self.data = first_examples(self.data, options.max_examples)
        order = host.first_result("build_order", run=self, data=self.data)
        self._batches, self._evaluation_batches = build_batches(
            self.data, options, order, dtype=self._dtype, device=self.device, owner=str(host.owner("data"))
        )
        with RandomState(self.seed, "model").active():
            model: nn.Module = build_component(host, "model", nn.Module, run=self, data=self.data)
            self.unwrapped_model: nn.Module = host.innermost("build_model")
            self.model = model.to(device=self.device, dtype=self._dtype)
            self.loss: LossFunction = build_component(host, "loss", Callable, run=self, data=self.data)
            if isinstance(self.loss, nn.Module):
                self.loss.to(device=self.device, dtype=self._dtype)
            self.metrics = build_metrics(host, run=self, data=self.data)
            # A plugin with a step of its own answers for its batches and its parameters.
            has_own_step = host.is_implemented("build_step")
            tried = self._evaluation_batches | ({} if has_own_step else {"train": self._batches})
            try_first_batches(tried, self._read, self.model, self.loss, host, options.micro_batch_size)
            self.optimizer: Optimizer = build_component(host, "optimizer", Optimizer, run=self, model=self.model)
            if has_own_step:
                check_step_can_halve(self, "that of a plugin")
            else:
                check_parameters(self.optimizer, self.model, self.loss, str(host.owner("optimizer")))
            self.backward: Callable[[Tensor], None] = host.first_result("build_backward", run=self)
            self.update: Callable[[], None] = host.first_result("build_update", run=self)
            self._step: StepFunction = host.first_result("build_step", run=self)
            if self._fused:
                self._fused.prepare(self, host, self._batches, self._read)
        self._tell_save_point = host.caller("on_save_point")


def train(
    config: RunConfig | Source = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    plugins: Mapping[str, Any] | None = None,
    observers: Sequence[Observer] = (),
) -> RunResult:
    """Make a run, take all its steps, and return what became of it.

    Silent: nothing is printed or written, and nothing global is changed.

    Args:
        config: A TOML file's path, a mapping of the same form, a ``RunConfig``, or None for the defaults.
        overrides: Values by dotted key that win over the config's; not with a ``RunConfig``.
        plugins: Objects instead of named plugins, by table: ``{"model": net}``; not with a ``RunConfig``.
        observers: Who looks on at every call of a hook, such as a ``Ledger``.

    Raises:
        HooklineError: Of the class that says what is wrong.
        Exception: Whatever a plugin or a component raises, with notes that say where.

    Example:
        >>> train({"optimizer": {"lr": 0.1}}, {"train.epochs": 1}).outcome
        'completed'
    """
    return Run(config, overrides, plugins=plugins, observers=observers).fit()
