"""Callback ``lr-schedule``: torch's learning-rate schedulers, one or several in sequence, with a warm-up."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import typing
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from hookline import ConfigError, hookimpl
from hookline.engine import did_you_mean
from hookline.trained import Snippet
from hookline_plugins.callback_parts.lr_script import schedule_script
from hookline_plugins.callback_parts.monitoring import check_measured, check_monitored

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from hookline import RunView


_Scheduler = Literal[
    "constant",
    "cosine-annealing",
    "cosine-annealing-warm-restarts",
    "cyclic",
    "exponential",
    "linear",
    "multi-step",
    "one-cycle",
    "polynomial",
    "reduce-on-plateau",
    "step",
]
_CLASSES: dict[str, str] = {
    "constant": "ConstantLR",
    "cosine-annealing": "CosineAnnealingLR",
    "cosine-annealing-warm-restarts": "CosineAnnealingWarmRestarts",
    "cyclic": "CyclicLR",
    "exponential": "ExponentialLR",
    "linear": "LinearLR",
    "multi-step": "MultiStepLR",
    "one-cycle": "OneCycleLR",
    "polynomial": "PolynomialLR",
    "reduce-on-plateau": "ReduceLROnPlateau",
    "step": "StepLR",
}
_PLATEAU = "reduce-on-plateau"
_ALONE = (_PLATEAU, "cyclic", "one-cycle")
"""Schedulers that cannot be a phase: they need a metric, or overwrite the learning rate that the others start from."""
_LENGTH_OF = {
    "cosine-annealing": "T_max",
    "linear": "total_iters",
    "one-cycle": "total_steps",
    "polynomial": "total_iters",
}
"""The argument for the length of a scheduler; its default is the length of the run or the phase."""
_NOT_SET = ("self", "optimizer", "last_epoch", "scale_fn")
"""Parameters of torch's schedulers that a config cannot set."""
_PHASE_KEYS = ("arguments", "length", "scheduler")
_CHANGING = ("last_epoch", "_step_count", "_last_lr", "T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter")
"""The attributes of torch's schedulers that change in a run; the others follow from the config."""
_SET_IN_GROUPS = ("lr", "initial_lr", "min_lr", "max_lr", "momentum", "betas", "base_momentum", "max_momentum")
"""The options of parameter groups that torch's schedulers set."""
_MAX_ROWS = 20

_Value = bool | int | float | str | list[int | float]
_Arguments = dict[str, _Value]
_Phase = tuple[str, _Arguments, int | None]


@dataclass
class LRSchedule:
    """A learning-rate schedule: one of torch's schedulers, or several in sequence.

    The scheduler steps after each epoch or after each training step (``interval``); ``reduce-on-plateau`` steps each
    time its metric is measured. For the first ``warmup_steps`` training steps, the scheduled learning rate is
    multiplied by a factor that grows linearly from ``warmup_factor`` to 1, as in P. Goyal et al., "Accurate, Large
    Minibatch SGD", https://arxiv.org/abs/1706.02677; the schedule runs on meanwhile. The default ``warmup_factor`` is
    that of torch's ``LinearLR``. A training step whose update was skipped, because a gradient was not finite, does not
    count in either.

    The default, ``cosine-annealing`` over the whole run, is that of I. Loshchilov and F. Hutter, "SGDR",
    https://arxiv.org/abs/1608.03983, without restarts.

    In a run that resumes with other options, another length or another learning rate, the schedule is from then on that
    of an uninterrupted run with the new values; ``reduce-on-plateau`` goes on from the current learning rate.
    """

    scheduler: Annotated[_Scheduler, Meta(description="torch's scheduler")] = "cosine-annealing"
    arguments: Annotated[_Arguments, Meta(description="arguments of the scheduler, named as in torch")] = field(
        default_factory=dict
    )
    interval: Annotated[
        Literal["epoch", "step"], Meta(description="when the scheduler steps, and the unit of its arguments")
    ] = "epoch"
    monitor: Annotated[str, Meta(description="metric for 'reduce-on-plateau', named as in an epoch's row")] = ""
    warmup_steps: Annotated[int, Meta(ge=0, description="number of training steps in the warm-up")] = 0
    warmup_factor: Annotated[
        float, Meta(ge=0, le=1, description="factor on the learning rate in the first step of the warm-up")
    ] = 1 / 3
    phases: Annotated[
        tuple[dict[str, str | int | _Arguments], ...],
        Meta(description="schedulers in sequence: tables with scheduler, arguments and length"),
    ] = ()

    def __post_init__(self) -> None:
        self._used: list[float] = []
        self._of_epochs: list[list[float]] = []
        self._last_measured = 0
        self._num_skipped = 0
        self._has_updated = False
        self._detach: Callable[[], None] | None = None
        if (self.scheduler == _PLATEAU) != bool(self.monitor):
            raise ValueError("`monitor` is required with scheduler = 'reduce-on-plateau', and not allowed otherwise")
        if self.scheduler == _PLATEAU and self.interval == "step":
            raise ValueError("scheduler = 'reduce-on-plateau' steps when its metric is measured; remove `interval`")
        if self.phases and (self.arguments or self.scheduler != "cosine-annealing"):
            raise ValueError("give either `phases`, or `scheduler` with `arguments`")
        for number, phase in enumerate(self.phases, 1):
            _check_phase(phase, f"phase {number}", is_last=number == len(self.phases))
        _check_arguments(self.scheduler, self.arguments, "`arguments`")

    @property
    def allows_fused_steps(self) -> bool:
        """True if the learning rate is constant between two evaluations or ends of epochs."""
        return self.interval == "epoch" and not self.warmup_steps

    # torch's schedulers have to be built before the state of the optimizer is loaded.
    @hookimpl(wrapper=True)
    def build_optimizer(self, run: RunView) -> Generator[None, Any, Any]:
        """Build the scheduler, and set the learning rate of the first step."""
        from torch.optim import Optimizer

        optimizer = yield
        if not isinstance(optimizer, Optimizer):
            return optimizer  # the run rejects it
        if self.monitor:
            check_monitored(run, self.monitor, "lr-schedule")
        self._defaults = dict(optimizer.defaults)
        self._as_built = [
            {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]
        self._plan = self._planned(run)
        self._scheduler = _make_all(self._plan, optimizer)
        self._warm_up(0)
        return optimizer

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Reset the state, and start following the optimizer's updates if training steps count."""
        self._run = run
        self._used, self._of_epochs, self._last_measured = [], [], 0
        self._num_skipped, self._has_updated, self._detach = 0, False, None
        # A step of a plugin may use other optimizers; then each step counts.
        is_default_step = all(is_wrapper for _, is_wrapper in run.hook_order("build_step"))
        if is_default_step and not self.allows_fused_steps:
            self._detach = run.optimizer.register_step_post_hook(self._note_update).remove

    @hookimpl
    def on_step_end(self) -> None:
        """Record the learning rate of this step, and set that of the next."""
        self._used = [float(group["lr"]) for group in self._scheduler.optimizer.param_groups]
        if self._detach and not self._has_updated:
            self._num_skipped += 1
            return
        self._has_updated = False
        if self.interval == "step":
            self._advance()
        else:
            self._warm_up(self._num_updates)

    @hookimpl
    def on_evaluation_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Pass the metric to ``reduce-on-plateau``."""
        self._measure(run, metrics)

    @hookimpl
    def on_epoch_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Set the learning rate of the next epoch."""
        self._of_epochs.append(self._used)
        if self.monitor:
            check_measured(run, self.monitor, "lr-schedule")
            self._measure(run, metrics)
        elif self.interval == "epoch":
            self._advance()

    @hookimpl
    def on_run_end(self, run: RunView) -> None:
        """Report the learning rate of each epoch's last step; in a long run, of evenly spaced epochs."""
        if self._detach:
            self._detach()
        epochs = list(enumerate(self._of_epochs, 1))
        stride = max(math.ceil(len(epochs) / _MAX_ROWS), 1)
        shown = [epoch for epoch in epochs if epoch[0] % stride == 0 or epoch[0] == len(epochs)]
        if shown:
            run.report("learning rate at the end of epochs", [{"epoch": n, **_named(rates)} for n, rates in shown])

    def state_dict(self) -> dict[str, Any]:
        """Return the progress of the scheduler, the schedule that it belongs to, and the learning rates to report."""
        return {
            "schedule": self._schedule(),
            "scheduler": _changing(self._scheduler.state_dict()),
            "used": list(self._used),
            "of_epochs": [list(rates) for rates in self._of_epochs],
            "last_look": self._last_measured,
            "num_skipped": self._num_skipped,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from ``state_dict``; the learning rate itself is in the optimizer's state.

        If the schedule is no longer the same, it is taken to the current place in the run.
        """
        self._used, self._last_measured = list(state["used"]), state["last_look"]
        self._num_skipped = state.get("num_skipped", 0)  # earlier versions counted every step
        self._of_epochs = [list(rates) for rates in state["of_epochs"]]
        optimizer, apart = self._scheduler.optimizer, self._optimizer_apart()
        self._plan = self._planned(self._run)
        self._scheduler = _make_all(self._plan, apart)
        then, now = state["schedule"], self._schedule()
        if then == now:
            _load(self._scheduler, state["scheduler"])
        elif self.monitor:
            self._resume_plateau(then, now, state["scheduler"])
        else:
            for _ in range(self._num_updates if self.interval == "step" else len(self._run.history)):
                self._scheduler.step()
        _attach(self._scheduler, optimizer)
        if then != now:
            for group, planned in zip(optimizer.param_groups, apart.param_groups, strict=True):
                group.update({key: planned[key] for key in _SET_IN_GROUPS if key in planned and key != "lr"})
            self._set(self._scheduler.get_last_lr())
            self._warm_up(self._num_updates)

    def script(self, run: RunView) -> Snippet:
        """Return the schedule as source code."""
        plan = [(_CLASSES[scheduler], arguments) for scheduler, arguments, _ in self._plan]
        warmup = (self.warmup_steps, self.warmup_factor)
        return schedule_script(run, plan, _ends(self._plan), self.interval, warmup, self.monitor)

    def _resume_plateau(self, then: Mapping[str, Any], now: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
        """Go on from the current learning rate, with the best value so far if it is of the same metric."""
        kept = ["_last_lr"] if then["lr"] == now["lr"] else []
        if all(then[key] == now[key] for key in ("monitor", "mode")):
            kept += ["best", "num_bad_epochs", "cooldown_counter", "last_epoch"]
        _load(self._scheduler, {key: value for key, value in progress.items() if key in kept})

    def _schedule(self) -> dict[str, Any]:
        """Return everything that determines the schedule, as plain values."""
        return {
            "lr": [float(options["lr"]) for options in self._as_built],
            "interval": self.interval,
            "monitor": self.monitor,
            "mode": self.arguments.get("mode", "min") if self.monitor else "",
            "warmup": [self.warmup_steps, self.warmup_factor],
            "phases": [[name, dict(arguments)] for name, arguments, _ in self._plan],
            "ends": _ends(self._plan),
        }

    def _optimizer_apart(self) -> Optimizer:
        """Return an optimizer of nothing with the options of the run's as it was built, on which to try a schedule."""
        import torch

        groups = [{"params": [torch.zeros(())], **copy.deepcopy(options)} for options in self._as_built]
        return torch.optim.Optimizer(groups, self._defaults)

    def _measure(self, run: RunView, metrics: Mapping[str, float]) -> None:
        # The end of an epoch repeats the metrics of its evaluation.
        if self.monitor in metrics and run.step != self._last_measured:
            self._last_measured = run.step
            self._advance(metrics[self.monitor])

    @property
    def _num_updates(self) -> int:
        return self._run.step - self._num_skipped

    def _note_update(self, *_: Any) -> None:
        self._has_updated = True

    def _advance(self, *metric: float) -> None:
        """Step the scheduler from its own learning rate, without the factor of the warm-up."""
        if self._num_updates <= self.warmup_steps:
            self._set(self._scheduler.get_last_lr())
        self._scheduler.step(*metric)  # type: ignore[arg-type] # only reduce-on-plateau takes a number
        self._warm_up(self._num_updates)

    def _warm_up(self, step: int) -> None:
        """Multiply the scheduled learning rate by the warm-up's factor after ``step`` training steps."""
        if step <= self.warmup_steps and self.warmup_steps:
            factor = self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_steps
            self._set([rate * factor for rate in self._scheduler.get_last_lr()])

    def _set(self, rates: Sequence[Any]) -> None:
        for group, rate in zip(self._scheduler.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], float | int):
                group["lr"] = rate
            else:
                group["lr"].fill_(rate)  # the optimizer may hold on to this tensor

    def _planned(self, run: RunView) -> list[_Phase]:
        """Return the schedulers with their arguments, and the number of steps of each."""
        length = _length(run, self.interval)
        if not self.phases:
            return [_completed(self.scheduler, self.arguments, length)]
        plan: list[_Phase] = []
        begin = 0
        for phase in self.phases:
            rest = length - begin if length is not None else None
            duration: Any = phase.get("length", rest)
            arguments: Any = phase.get("arguments", {})
            plan.append(_completed(str(phase["scheduler"]), arguments, duration))
            begin += duration or 0
        return plan


def _length(run: RunView, interval: str) -> int | None:
    """Return the number of scheduler steps in the run, at least 1; None if it is unknown."""
    if interval == "step":
        return None if run.num_steps is None else max(run.num_steps, 1)
    if run.num_steps is None or not run.steps_per_epoch or not run.config.train.max_steps:
        return max(run.config.train.epochs, 1)
    # The batches of earlier epochs may have had another size.
    num_left = run.num_steps - (run.step - run.position)
    return max(len(run.history) + math.ceil(num_left / run.steps_per_epoch), 1)


def _completed(scheduler: str, arguments: Mapping[str, Any], length: int | None) -> _Phase:
    """Return a phase whose arguments include the length, if its scheduler needs one."""
    name = _LENGTH_OF.get(scheduler)
    values = dict(arguments)
    if name and name not in values and not {"epochs", "steps_per_epoch"} <= values.keys():
        if length is None:
            message = f"lr-schedule: {scheduler!r} needs {name!r}, because the data have no length"
            raise ConfigError(message, hint=f"set arguments.{name} or train.max_steps")
        values[name] = max(length, 1)
    return scheduler, values, length


def _make_all(plan: Sequence[_Phase], optimizer: Optimizer) -> LRScheduler:
    from torch.optim.lr_scheduler import SequentialLR

    # torch warns if the first update was skipped, which train.non_finite = "skip" does on purpose.
    optimizer._opt_called = True  # type: ignore[attr-defined] # noqa: SLF001 - the flag that torch checks
    schedulers = [_make(*phase, optimizer) for phase in plan]
    return schedulers[0] if len(plan) == 1 else SequentialLR(optimizer, schedulers, _ends(plan))


def _ends(plan: Sequence[_Phase]) -> list[int]:
    """Return the scheduler step at which each phase but the last ends."""
    return list(itertools.accumulate(length or 0 for *_, length in plan[:-1]))


def _attach(scheduler: LRScheduler, optimizer: Optimizer) -> None:
    """Let a scheduler act on another optimizer with the same groups."""
    for one in (scheduler, *vars(scheduler).get("_schedulers", ())):
        one.optimizer = optimizer


def _make(scheduler: str, arguments: Mapping[str, Any], length: int | None, optimizer: Optimizer) -> LRScheduler:
    try:
        made = _class_of(scheduler)(optimizer, **arguments)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ConfigError(f"lr-schedule: torch's {_CLASSES[scheduler]} rejects its arguments: {error}") from error
    total = getattr(made, "total_steps", None)
    if total and length is not None and total < length:
        message = f"lr-schedule: 'one-cycle' has 'total_steps' = {total}, but it takes {length} steps in the run"
        raise ConfigError(message, hint="omit 'total_steps' to use the length of the run")
    return made


def _class_of(scheduler: str) -> type[LRScheduler]:
    from torch.optim import lr_scheduler

    found: type[LRScheduler] = getattr(lr_scheduler, _CLASSES[scheduler])
    return found


# ---- checks of the config -------------------------------------------------------------------------------------------


def _check_phase(phase: Mapping[str, Any], where: str, *, is_last: bool) -> None:
    if unknown := sorted(phase.keys() - set(_PHASE_KEYS)):
        raise ValueError(f"{where} has an unknown key {unknown[0]!r}; {did_you_mean(unknown[0], _PHASE_KEYS)}")
    scheduler, arguments, length = (phase.get(key) for key in ("scheduler", "arguments", "length"))
    known = [name for name in _CLASSES if name not in _ALONE]
    if scheduler not in known:
        because = "it cannot be a phase" if scheduler in _ALONE else "unknown scheduler"
        hint = "use it alone" if scheduler in _ALONE else did_you_mean(str(scheduler), known)
        raise ValueError(f"{where} has scheduler = {scheduler!r}: {because}; {hint}")
    if not isinstance(arguments, dict | None):
        message = f"{where} has arguments = {arguments!r}, but expected a table"
        raise ValueError(message)  # noqa: TRY004 - the host reports a ValueError as a fault in the config
    is_count = isinstance(length, int) and not isinstance(length, bool) and length >= 1
    if not is_count and not (is_last and length is None):
        raise ValueError(f"{where} has length = {length!r}, but each phase except the last needs an integer >= 1")
    _check_arguments(scheduler, arguments or {}, f"{where}, `arguments`")


def _check_arguments(scheduler: str, arguments: Mapping[str, Any], where: str) -> None:
    """Raise ``ValueError`` for arguments of torch's scheduler that are unknown, missing or of the wrong type."""
    cls = _class_of(scheduler)
    parameters = {name: p for name, p in inspect.signature(cls).parameters.items() if name not in _NOT_SET}
    title = f"{where}: torch's {_CLASSES[scheduler]}"
    if unknown := sorted(arguments.keys() - parameters.keys()):
        raise ValueError(f"{title} has no argument {unknown[0]!r}; {did_you_mean(unknown[0], parameters)}")
    empty = inspect.Parameter.empty
    needed = [n for n, p in parameters.items() if p.default is empty and n != _LENGTH_OF.get(scheduler)]
    if missing := [name for name in needed if name not in arguments]:
        raise ValueError(f"{title} needs {', '.join(map(repr, missing))}")
    types = _types_of(cls)
    for name, value in arguments.items():
        try:
            msgspec.convert(value, types[name])
        except msgspec.ValidationError as error:
            raise ValueError(f"{title} does not take {name} = {value!r}: {error}") from None


def _types_of(cls: type) -> dict[str, Any]:
    # torch imports these two names of its annotations only for type checkers.
    names = {"Callable": Callable, "Iterable": Sequence}
    return typing.get_type_hints(cls.__init__, localns=names)  # type: ignore[misc] # read from the class, not called


# ---- state and report -----------------------------------------------------------------------------------------------


def _changing(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a scheduler's state that changes, as plain values; the rest is rebuilt from the config.

    Infinity, the best metric before the first, becomes None, because JSON has no infinity.
    """
    part: dict[str, Any] = {key: state[key] for key in _CHANGING if key in state}
    part["_last_lr"] = list(map(float, part["_last_lr"]))
    if "_schedulers" in state:
        part["_schedulers"] = [_changing(each) for each in state["_schedulers"]]
    return {key: None if value in (math.inf, -math.inf) else value for key, value in part.items()}


def _load(scheduler: LRScheduler, state: Mapping[str, Any]) -> None:
    values = {key: value for key, value in state.items() if key != "_schedulers"}
    if "best" in values and values["best"] is None:
        values["best"] = scheduler.mode_worse  # type: ignore[attr-defined] # reduce-on-plateau has it
    vars(scheduler).update({key: value for key, value in values.items() if value is not None})
    for inner, part in zip(vars(scheduler).get("_schedulers", ()), state.get("_schedulers", ()), strict=True):
        _load(inner, part)


def _named(rates: Sequence[float]) -> dict[str, float]:
    """Return the learning rate of each parameter group by name."""
    return {"lr" if len(rates) == 1 else f"lr {number}": rate for number, rate in enumerate(rates, 1)}
