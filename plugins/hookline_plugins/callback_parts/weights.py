"""Copies of a model's weights, and their way back into the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hookline import Outcome, RunView


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model by name, each once: not copies, but detached."""
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of weights."""
    return {name: tensor.clone() for name, tensor in weights.items()}


def put(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Overwrite weights in place, so that the optimizer and wrappers see the new values."""
    for name, tensor in weights.items():
        tensor.copy_(values[name])


def is_finished(run: RunView, outcome: Outcome) -> bool:
    """Return True if a run completed or a plugin stopped it.

    Any other run, such as one whose program left the loop over its steps, may be resumed and keeps its own weights.
    """
    return outcome == "completed" or (outcome == "stopped" and run.stop_reason is not None)
