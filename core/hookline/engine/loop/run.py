"""``Run``: the facade over the components, the position and the loop of a run."""

from __future__ import annotations

import collections
import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hookline.engine.data import DataSource
from hookline.engine.errors import TrainingError
from hookline.engine.loop.building import Site, build_all
from hookline.engine.loop.components import Components
from hookline.engine.loop.loop import Loop
from hookline.engine.loop.position import Position
from hookline.engine.loop.predicting import predicting
from hookline.engine.loop.results import check_result
from hookline.engine.loop.state import component_state, load_component_state
from hookline.engine.loop.step import CoreHooks
from hookline.engine.plugin.host import Host
from hookline.engine.plugin.member import Config, Member
from hookline.engine.plugin.observer import Observer
from hookline.engine.ranks import Ranks
from hookline.engine.result import Outcome, RunResult, Shown, Step, plain_rows
from hookline.engine.rng import RandomState, in_run, make_generator
from hookline.engine.view import Guard, LossFunction, Reduction, Row
from hookline.engine.words import as_text


class Run(Shown):
    """A run: its components, which are built on creation, and its loop.

    Plugins see it as a ``RunView``.

    Args:
        config: The complete config, from ``load_config``.
        observers: Observers of every hook call, such as a ``Ledger``.
        shortcuts: Whether to call torch without the Python code around it; the numbers are the same.
        ranks: The processes that train together; None: this one alone.
        build: Builds the components, if only some of them are needed.

    Attributes:
        config: The complete config.
        ranks: The processes that train together.
        shared: Objects that plugins share, by name.
        summary: Tables that plugins reported, by title.
        warnings: Problems that did not end the run.

    Raises:
        HooklineError: Of the class for the problem: config, plugin, data or contract.
        TypeError: When ``config`` is anything else, such as a mapping.

    Example:
        >>> from hookline import load_config
        >>> run = Run(load_config({"train": {"epochs": 1}}))
        >>> for step in run.steps():
        ...     pass
        >>> run.outcome, step.step
        ('completed', 100)
    """

    def __init__(
        self,
        config: Config,
        *,
        observers: Sequence[Observer] = (),
        shortcuts: bool = True,
        ranks: Ranks | None = None,
        build: Callable[[Site], None] = build_all,
    ) -> None:
        if not isinstance(config, Config):
            message = f"a run takes a RunConfig, not a {type(config).__name__}: pass that to hookline.load_config"
            raise TypeError(message)
        self.config = config
        self.ranks = ranks or Ranks()
        self.shared: dict[str, object] = {}
        self.summary: dict[str, Sequence[Row]] = {}
        self.warnings: list[str] = []
        position = Position(config.train.epochs)
        parts = Components(config.train)
        core = Member("the loop", "the loop", CoreHooks(parts, shortcuts=shortcuts), is_core=True)
        watches = (*observers, *self.ranks.observers)
        with in_run(RandomState(config.train.seed, "build")):
            members = [*config.make_members(self.ranks.rank), core]
            host = Host(members, warn=self.warn, observers=watches, check=check_result)
            self._loop = Loop(self, host, parts, position, observers)
            with host.makers.attributing():
                build(Site(parts, host, self, position, observers))

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to set anything but ``micro_batch_size`` and ``num_ahead`` once the attributes of a run exist."""
        # Its parts would not follow, so the run would go on with two models, or two counts of steps.
        if "_loop" in vars(self) and name not in ("micro_batch_size", "num_ahead"):
            raise AttributeError(f"run.{name} cannot be set, only run.micro_batch_size and run.num_ahead can")
        super().__setattr__(name, value)

    # ---- components --------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Device of the model and of every batch."""
        return self._loop.parts.device

    @property
    def data(self) -> DataSource:
        """The data source."""
        return self._loop.parts.data

    @property
    def model(self) -> nn.Module:
        """The model, with all wrappers around it."""
        return self._loop.parts.model

    @property
    def unwrapped_model(self) -> nn.Module:
        """The model as its plugin built it."""
        return self._loop.parts.unwrapped_model

    @property
    def loss(self) -> LossFunction:
        """The loss ``(prediction, target) -> scalar``."""
        return self._loop.parts.loss

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer."""
        return self._loop.parts.optimizer

    @property
    def backward(self) -> Callable[[Tensor], None]:
        """Function that adds the gradients of a loss to the ``grad`` of the parameters; for custom steps."""
        return self._loop.parts.backward

    @property
    def update(self) -> Callable[[], None]:
        """Function that updates the weights by their gradients; for custom steps."""
        self.finite_guard  # noqa: B018 - the update asks it
        return self._loop.parts.update

    @property
    def finite_guard(self) -> Guard:
        """The check of losses and gradients; for custom steps."""
        self._loop.parts.finite_guard.is_used = True
        return self._loop.parts.finite_guard

    @property
    def micro_batch_size(self) -> int | None:
        """Number of examples that pass through the model at once; 0: all; None: the step does not split batches."""
        return self._loop.parts.micro_batch_size

    @micro_batch_size.setter
    def micro_batch_size(self, size: int | None) -> None:
        self._loop.parts.micro_batch_size = size

    # ---- position and metrics ----------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 1; 0 before the first."""
        return self._loop.position.epoch

    @property
    def step(self) -> int:
        """Number of steps taken."""
        return self._loop.position.step

    @property
    def position(self) -> int:
        """Number of batches used in the current epoch; 0 between two epochs."""
        return self._loop.position.batch

    @property
    def num_ahead(self) -> int:
        """Number of steps whose updates are in the weights but not yet in ``step``."""
        return self._loop.position.num_ahead

    @num_ahead.setter
    def num_ahead(self, num_steps: int) -> None:
        self._loop.position.num_ahead = num_steps

    @property
    def steps_per_epoch(self) -> int | None:
        """Number of steps in an epoch; None for a stream of unknown length."""
        return self._loop.position.steps_per_epoch

    @property
    def num_steps(self) -> int | None:
        """Number of steps of the run; None if neither the data nor ``train.max_steps`` determine it."""
        limits = self._loop.position.num_steps, self.config.train.max_steps or None
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics of each epoch, without logged values."""
        return self._loop.parts.metric_names

    @property
    def history(self) -> Sequence[Mapping[str, float]]:
        """The metrics of each completed epoch."""
        return self._loop.progress.history

    @property
    def outcome(self) -> Outcome | None:
        """The outcome; None until the run is over."""
        return self._loop.outcome

    @property
    def stop_reason(self) -> str | None:
        """Reason for which the run is stopped; None if it is not."""
        return self._loop.position.stop_reason

    @property
    def interrupt_reason(self) -> str | None:
        """Reason for which the run is interrupted; None if it is not."""
        return self._loop.position.interrupt_reason or self.ranks.asked.get("interrupt_reason")

    # ---- requests of plugins and programs ----------------------------------------------------------------------------

    def batch_order(self, epoch: int) -> Tensor:
        """Return the indices of the training examples in the order of an epoch (from 1), int64 ``[num_examples]``."""
        return self._loop.parts.batches.order(epoch)

    def batch_indices(self, step: int | None = None) -> list[int]:
        """Return the indices of the examples in the current batch, or in that of ``step``; empty for a stream."""
        return self._loop.position.indices(step)

    def generator(self, name: str) -> torch.Generator:
        """Return a new CPU generator that depends on the seed of the run and on ``name`` alone."""
        return make_generator(self.config.train.seed, "plugin", name)

    @property
    def members(self) -> Sequence[Member]:
        """The plugins, in the order of the config."""
        return self._loop.host.members

    def hook_order(self, hook: str) -> Sequence[tuple[Member, bool]]:
        """Return the plugins that implement a hook in calling order, each with a flag that marks wrappers."""
        return self._loop.host.order(hook)

    def request_stop(self, reason: str) -> None:
        """Stop the run after this step; its epoch is evaluated and ended as usual."""
        self._loop.position.ask(self.ranks, "stop_reason", as_text(reason, "the reason for a stop"))

    def interrupt(self, reason: str) -> None:
        """Interrupt the run after this step, within its epoch, so that it can be resumed from there.

        Safe to call from a signal handler or another thread.
        """
        self._loop.position.ask(self.ranks, "interrupt_reason", as_text(reason, "the reason for an interrupt"))

    def report(self, title: str, rows: Sequence[Row]) -> None:
        """Add a table of plain values to the summary, which is shown when the run ends."""
        self.summary[as_text(title, "the title of a report")] = plain_rows(rows)

    def log(self, name: str, value: float | Tensor, reduce: Reduction = "mean") -> None:
        """Log a number under a name, reduced over ``train.log_every_steps`` steps; does not wait for a device."""
        if self._loop.position.is_begun:  # a model may log while the first batch is tried
            self._loop.progress.logged.add(name, value, reduce)

    def warn(self, message: str) -> None:
        """Report a problem to every plugin, and continue."""
        message = as_text(message, "a warning")
        # The plugins of a resumed run may repeat warnings that were restored with its state.
        if message not in self.warnings:
            self.warnings.append(message)
            if not self.ranks.is_zero:  # which tells for all
                self.ranks.ask(f"rank {self.ranks.rank}: {message}", message)
        if self._loop.position.is_begun:
            self._loop.host.notify_started("on_warning", run=self, message=message)

    def announce_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Notify every plugin that a checkpoint was saved in the folder ``path``."""
        self._loop.host.notify_started("on_checkpoint_saved", run=self, path=Path(path))

    # ---- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the complete state: tensors and plain values.

        Available between two steps (of ``steps()``), in ``on_save_point``, before the first step, and when the run is
        over. Of several ranks, all call it; each gets its part of a tensor that is shared out: see ``Ranks.whole``.
        A run of the same config that loads the state ends with the same bits as an uninterrupted one.

        Raises:
            TrainingError: When called within a step or an event, or while ``num_ahead`` is not 0.
            NonFiniteError: When an earlier step was not finite and an accelerator has not reported it yet.
        """
        if not self._loop.is_resting:
            hint = "call state_dict in on_save_point, or between two steps of run.steps()"
            raise TrainingError("a run has no state to save within a step or an event", hint=hint)
        if self.num_ahead:
            message = f"a run has no state to save within a block: the weights are {self.num_ahead} steps ahead"
            raise TrainingError(message, hint="call state_dict when run.num_ahead is 0, or take single steps")
        self._loop.parts.finite_guard.look()  # a resumed run could not report it
        self._loop.parts.parallel.synchronize()
        own = {"summary": self.summary, "warnings": self.warnings, "plugins": self._loop.host.states.state_dict()}
        progress = self._loop.progress.state_dict(self._loop.position, self.ranks)
        return copy.deepcopy(progress | own | component_state(self._loop.parts))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by ``state_dict`` of a run of the same config, before the first step.

        The states of plugins are loaded when ``on_run_start`` of all plugins has returned.

        Raises:
            TrainingError: When the run has already begun.
            ContractError: When the state belongs to a different model or optimizer, or to different plugins; or, when
                the run begins, when a plugin cannot load its state.
        """
        if self._loop.position.is_begun:
            hint = "create a new Run, and load the state before its first step"
            raise TrainingError("the run has already begun", hint=hint)
        state = copy.deepcopy(dict(state))
        absent = {choice.table for choice in self.config.plugins} - {member.table for member in self.members}
        plugins = {table: of_plugin for table, of_plugin in state["plugins"].items() if table not in absent}
        self._loop.host.states.load_state_dict(plugins)
        load_component_state(self._loop.parts, state, self.ranks)
        self._loop.progress.load_state_dict(state, self._loop.position, self.ranks)
        self.summary.update(state["summary"])
        self.warnings[:] = state["warnings"]

    # ---- steps -------------------------------------------------------------------------------------------------------

    def fit(self) -> RunResult:
        """Take all steps, and return the result of the run.

        Raises:
            NonFiniteError: When a loss or gradient is not finite.
            TrainingError: When the run has already begun, or runs out of memory.
            Exception: Any error of a plugin or a component, with notes that name the place.
        """
        with self._loop.working():
            # No Python code runs between the steps, so an interrupt is always raised inside the loop.
            collections.deque(self._loop.steps(), maxlen=0)
        return self.result()

    def steps(self) -> Iterator[Step]:
        """Take each step when it is requested.

        Between the steps, torch's global random generator has the state of the caller. Leaving the iteration stops the
        run.
        """
        return self._loop.each(self._loop.steps())

    def try_steps(self) -> Iterator[Step]:
        """Take steps without end, without events and evaluations.

        For trials of a run: the steps change the weights, so create a new run to train.
        """
        return self._loop.each(self._loop.bare_steps())

    def evaluate(self) -> Mapping[str, float]:
        """Evaluate the current weights, without events; return the loss and the metrics of each split."""
        loop = self._loop
        parts, makers, logged = loop.parts, loop.host.makers, loop.progress.logged
        with loop.working(), makers.attributing(), parts.workers, parts.evaluated_weights.loaded(), logged.paused():
            return parts.evaluate(self)

    def result(self) -> RunResult:
        """Return the result of the run.

        Raises:
            TrainingError: When the run is not over.
        """
        if self.outcome is None:
            raise TrainingError("the run is not over", hint="take all its steps, or call fit()")
        return RunResult.of(self, self.outcome, predicting(self._loop.host, self, self._loop.parts.evaluated_weights))
