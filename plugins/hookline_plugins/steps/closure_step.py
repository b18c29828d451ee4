"""The step of an optimizer that updates the weights several times per step, by a closure (``torch.optim.LBFGS``)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor
from torch.optim import Optimizer

from hookline import ConfigError, ContractError, RunView
from hookline.engine import Forward, counted


def needs_closure(optimizer: Optimizer) -> bool:
    """Return whether ``step`` of an optimizer requires a closure."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def closure_step(run: RunView) -> Callable[[Any], Tensor]:
    """Return a step for an optimizer that needs a closure.

    Raises:
        ContractError: When a plugin builds or wraps the update.
        ConfigError: When there are several ranks.
    """
    problem = f"{type(run.optimizer).__name__} updates the weights several times per step"
    if run.hook_order("build_update"):
        hint = "use another optimizer, or disable the plugin that wraps it"
        raise ContractError(f"{problem}, so build_update cannot be wrapped", hint=hint)
    if run.ranks.world_size > 1:
        message = f"{problem}, each by its own loss: {run.ranks.world_size} ranks cannot"
        raise ConfigError(message, hint="use another optimizer")
    optimizer, guard, backward = run.optimizer, run.finite_guard, run.backward
    forward = Forward(run.model, run.loss, run.data.target, run.unwrapped_model, run)
    forward = forward.with_loss(counted(run.loss), run.model)

    def step(batch: Any) -> Tensor:
        def closure() -> Tensor:
            optimizer.zero_grad()
            value = forward.loss_of(batch)
            if guard.accepts_loss(value, batch):
                backward(value)
            return value

        value: Any = optimizer.step(closure)  # type: ignore[arg-type] # torch declares that the closure returns a float
        return cast(Tensor, value).detach()

    return step
