"""The state of a run: everything needed to continue it bit for bit, as tensors and plain values."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from typing import Any

from torch import nn

from hookline.engine.errors import ContractError
from hookline.engine.logged import Logged
from hookline.engine.loop.components import Components
from hookline.engine.loop.position import Position
from hookline.engine.loop.weighted_mean import WeightedMean
from hookline.engine.ranks import Ranks
from hookline.engine.read_only import ReadOnly
from hookline.engine.rng import RandomState
from hookline.engine.view import RunView


class Modes:
    """The modes that plugins changed in the run: training or eval of modules, trained or frozen of parameters.

    Modes from before the first step follow from the config, so they are no state.

    Args:
        parts: The components; model and loss have the modes.

    Attributes:
        changed: Names of the modes that a resumed run changes when it starts.
    """

    def __init__(self, parts: Components) -> None:
        self._parts = parts
        self._first: set[str] | None = None
        self.changed: list[str] = []

    def start(self) -> None:
        """Take the modes of now as those of the start; plugins have started, and not loaded their states."""
        self._first = self._current()

    def restore(self) -> None:
        """Set the modes of the time at which the state was saved."""
        off = (self._first or set()) ^ {*self.changed}
        for name, module in self._whole().named_modules():
            module.training = name not in off
        for name, parameter in self._whole().named_parameters():
            parameter.requires_grad_(name not in off)

    def state(self) -> list[str]:
        """Return the names of the modes that were changed since the start."""
        return self.changed if self._first is None else sorted(self._first ^ self._current())

    def _current(self) -> set[str]:
        """Return the names of the modules in eval mode, and of the parameters that get no gradients."""
        frozen = (name for name, parameter in self._whole().named_parameters() if not parameter.requires_grad)
        return {*frozen, *(name for name, module in self._whole().named_modules() if not module.training)}

    def _whole(self) -> nn.Module:
        loss = {"loss": self._parts.loss} if isinstance(self._parts.loss, nn.Module) else {}
        # Without the wrapper for several ranks, so that the names are the same for any number of them.
        return nn.ModuleDict({"model": self._parts.forward.model, **loss})


class Progress:
    """The metrics of a run so far, and its random state.

    Attributes:
        random: State of torch's global generators in the run.
        modes: The modes that plugins changed.
        logged: The numbers that plugins log.
        history: The metrics of each completed epoch.
        running: Mean loss over the steps of the current epoch.
        evaluated_step: The step after which the run was last evaluated; 0: none.
        evaluated: The metrics of that evaluation.
    """

    def __init__(self, random: RandomState, modes: Modes, logged: Logged) -> None:
        self.random, self.modes, self.logged = random, modes, logged
        self.history: list[Mapping[str, float]] = []
        self.running = WeightedMean()
        self.evaluated_step = 0
        self.evaluated: Mapping[str, float] = {}
        self._used_s = 0.0
        self._begun: float | None = None

    @property
    def used_s(self) -> float:
        """Seconds in the loop, including those before a resume; 0 without ``train.max_time_s``."""
        return self._used_s if self._begun is None else self._used_s + time.perf_counter() - self._begun

    def begin(self) -> None:
        """Count the time from now."""
        self._begun = time.perf_counter()

    def running_loss(self, ranks: Ranks) -> tuple[float, float]:
        """Return the mean loss over the steps of the current epoch, and the sum of the weights, of all ranks."""
        total, weight = (sum(column) for column in zip(*ranks.gather(self.running.sums()), strict=True))
        return total / weight if weight else math.nan, weight

    def measured_after(self, step: int) -> Mapping[str, float]:
        """Return the metrics of an evaluation after a step; none without one."""
        return self.evaluated if self.evaluated_step == step else {}

    def state_dict(self, position: Position, ranks: Ranks) -> dict[str, Any]:
        """Return the state of the loop, which includes the position, and what each of several ranks has of its own."""
        own = {
            "random": self.random.state_dict(),
            "running": self.running.state_dict(),
            "logged": self.logged.state_dict(),
            "place": position.batches and position.batches.place(position.batch),
        }
        return {
            **own,
            **({"ranks": ranks.gather(own)} if ranks.world_size > 1 else {}),
            "epoch": position.epoch,
            "step": position.step,
            "used_s": self.used_s,
            "position": position.batch,
            "examples": position.num_examples,
            "stop_reason": position.stop_reason,
            "history": [dict(metrics) for metrics in self.history],
            "modes": self.modes.state(),
            "evaluated": [self.evaluated_step, dict(self.evaluated)],
        }

    def load_state_dict(self, state: Mapping[str, Any], position: Position, ranks: Ranks) -> None:
        """Load a state returned by ``state_dict``, perhaps of another number of ranks, and set the position."""
        position.stop_reason, self._used_s = state["stop_reason"], state["used_s"]
        self.history = [ReadOnly(metrics) for metrics in state["history"]]
        self.modes.changed = state["modes"]
        saved = state.get("ranks") or [state]  # one process, or a state from before there were ranks
        is_same = len(saved) == ranks.world_size
        place = saved[ranks.rank].get("place", state["place"]) if is_same else state["place"]
        position.resume(state["epoch"], state["step"], state["position"], state["examples"], place)
        if is_same:
            saved = [saved[ranks.rank]]
            self.running.load_state_dict(saved[0]["running"])
        else:  # rank 0 continues what all had of their own
            saved = saved if ranks.is_zero else []
            self.running = WeightedMean.joined([one["running"] for one in saved])
        if saved:
            self.random.load_state_dict(saved[0]["random"])
        self.logged.load_state_dicts([one["logged"] for one in saved], state["logged"][1])
        self.evaluated_step, metrics = state["evaluated"]
        self.evaluated = ReadOnly(metrics)


def component_state(parts: Components) -> dict[str, Any]:
    """Return the state of the model, its wrappers, the loss and the optimizer.

    If other weights are evaluated, ``evaluated_weights`` has the first three with those.
    """
    evaluated: dict[str, Any] = {}
    if parts.evaluated_weights:
        with parts.evaluated_weights.loaded():
            evaluated = copy.deepcopy(weights_of(parts))
    return {**weights_of(parts), "evaluated_weights": evaluated, "optimizer": parts.optimizer.state_dict()}


def weights_of(parts: Components | RunView) -> dict[str, Any]:
    """Return the state of the model, its wrappers and the loss: all that an evaluation needs."""
    return {
        "model": parts.unwrapped_model.state_dict(),
        "wrappers": state_of_wrappers(parts.model, parts.unwrapped_model),
        "loss": parts.loss.state_dict() if isinstance(parts.loss, nn.Module) else {},
    }


def load_component_state(parts: Components, state: Mapping[str, Any], ranks: Ranks) -> None:
    """Load a state returned by ``component_state``.

    Raises:
        ContractError: When the state belongs to a different model or optimizer.
    """
    try:
        parts.unwrapped_model.load_state_dict(ranks.sharded(state["model"], parts.unwrapped_model.state_dict()))
        wrappers = ranks.sharded(state["wrappers"], parts.model.state_dict())
        load_state_of_wrappers(parts.model, parts.unwrapped_model, wrappers)
        if isinstance(parts.loss, nn.Module):
            parts.loss.load_state_dict(state["loss"])
        parameters = [parameter for group in parts.optimizer.param_groups for parameter in group["params"]]
        parts.optimizer.load_state_dict(ranks.sharded(state["optimizer"], {"state": dict(enumerate(parameters))}))
    except (KeyError, ValueError, RuntimeError) as error:
        hint = "resume with the config of the run that saved the state"
        raise ContractError(f"this state belongs to a different run: {error}", hint=hint) from error


def state_of_wrappers(model: nn.Module, unwrapped: nn.Module) -> dict[str, Any]:
    """Return the entries that wrappers add to the state of a model."""
    if model is unwrapped:
        return {}
    inner = unwrapped.state_dict(keep_vars=True)
    around, ids = model.state_dict(keep_vars=True), set(map(id, inner.values()))
    return {name: value for name, value in model.state_dict().items() if id(around[name]) not in ids}


def load_state_of_wrappers(model: nn.Module, unwrapped: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a state returned by ``state_of_wrappers``.

    Raises:
        ValueError: When the model has different wrappers.
    """
    if unknown := sorted(state.keys() ^ state_of_wrappers(model, unwrapped).keys()):
        raise ValueError(f"the wrappers of the model differ in {', '.join(unknown)}")
    model.load_state_dict(state, strict=False)
