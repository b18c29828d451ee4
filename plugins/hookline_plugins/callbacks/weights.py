"""What the callbacks that exchange the weights of a model share: take a copy, put a copy in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hookline import Outcome, RunView


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model by name, each once: the tensors themselves, detached."""
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of weights."""
    return {name: tensor.clone() for name, tensor in weights.items()}


def put(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Overwrite weights in place, so that whoever holds them (optimizer, wrappers) holds the new ones."""
    for name, tensor in weights.items():
        tensor.copy_(values[name])


def is_finished(run: RunView, outcome: Outcome) -> bool:
    """Whether a run came to an end of its own, and was not left by the program that iterates over its steps.

    What was left may be taken up again, and so keeps the weights that it was trained with.
    """
    return outcome == "completed" or (outcome == "stopped" and run.stop_reason is not None)
