"""Checks of what plugins returned: the type of each component, and the form of a step's loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hookline.engine.data import DataSource, Predictor
from hookline.engine.errors import ContractError
from hookline.engine.plugin.member import Plugin
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


def check_result(plugin: Plugin, hook: str, result: Any) -> None:
    """Check the type of what a build hook of a plugin returned; None stands for no result.

    Raises:
        ContractError: When it is not of the type that the hook must return.
    """
    expected, hint = _RESULTS.get(hook, (Callable, None))
    if result is not None and not isinstance(result, expected):
        message = f"{hook} of {plugin} returned {with_article(type(result).__name__)}"
        raise ContractError(f"{message}, but must return {with_article(expected.__name__)}", hint=hint)
