"""Checks of what plugins returned: the type of each component, and the form of a step's loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hookline.engine.data import DataSource, Predictor
from hookline.engine.errors import ConfigError, ContractError, NonFiniteError
from hookline.engine.plugin.member import Member, Plugin
from hookline.engine.ranks import Parallel
from hookline.engine.reading.batch import brief
from hookline.engine.view import Guard
from hookline.engine.words import with_article

_RESULTS: Mapping[str, tuple[Any, str | None]] = {
    "build_data": (DataSource, "wrap a dataset: hookline.DataSource(train=dataset, in_features=..., out_features=...)"),
    "build_model": (nn.Module, None),
    "build_metrics": (Mapping, None),
    "build_parallel": (Parallel, None),
    "build_optimizer": (Optimizer, None),
    "build_guard": (Guard, None),
    "build_predictor": (Predictor, "an object with the methods read(path, batch_size) and columns(prediction)"),
}
"""The type that a build hook must return, with a hint; any other hook must return a callable."""


def check_step_result(loss: Any) -> None:
    """Check the result of a step.

    Raises:
        ContractError: When it is not a detached scalar.
    """
    if not (isinstance(loss, Tensor) and loss.dim() == 0 and loss.is_floating_point() and not loss.requires_grad):
        message = f"the step returned {brief(loss)}, but must return the detached loss, a scalar tensor"
        raise ContractError(message, hint="end the step with: return loss.detach()")


def check_step_for_ranks(order: Iterable[tuple[Member, bool]], world_size: int) -> None:
    """Check that the plugins that implement the step know of other ranks.

    Args:
        order: The plugins with the hook ``build_step``, each with a flag that marks wrappers.
        world_size: Number of ranks.

    Raises:
        ConfigError: When one does not.
    """
    for member, is_wrapper in order:
        if not is_wrapper and not getattr(member.instance, "allows_ranks", False):
            message = f"the step of {member.plugin} cannot be taken by {world_size} ranks"
            raise ConfigError(message, hint="train with one process, or without this plugin")


def check_losses(metrics: Mapping[str, float], epoch: int) -> None:
    """Check that each loss among the metrics of an epoch is finite.

    Raises:
        NonFiniteError: When one is not.
    """
    for name, value in metrics.items():
        if name.endswith("loss") and not math.isfinite(value):
            hint = "try a smaller learning rate, and look for extreme values in the data"
            raise NonFiniteError(f"{name} is {value} in epoch {epoch}", hint=hint)


def check_result(plugin: Plugin, hook: str, result: Any) -> None:
    """Check the type of what a build hook of a plugin returned; None stands for no result.

    Raises:
        ContractError: When it is not of the type that the hook must return.
    """
    expected, hint = _RESULTS.get(hook, (Callable, None))
    if result is not None and not isinstance(result, expected):
        message = f"{hook} of {plugin} returned {with_article(type(result).__name__)}"
        raise ContractError(f"{message}, but must return {with_article(expected.__name__)}", hint=hint)
