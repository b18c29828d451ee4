"""Copies of the weights of a run, and their way back into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import Outcome, RunView


def weights_of(run: RunView) -> dict[str, Tensor]:
    """Return the parameters and buffers of the model by name, each once: not copies, but detached.

    Those of its wrappers are named ``wrappers/NAME``, those of the loss ``loss/NAME``.
    """
    from torch import nn

    found: dict[int, tuple[str, Tensor]] = {}
    for prefix, part in (("", run.unwrapped_model), ("wrappers/", run.model), ("loss/", run.loss)):
        if isinstance(part, nn.Module):
            for name, tensor in (*part.named_parameters(), *part.named_buffers()):
                found.setdefault(id(tensor), (prefix + name, tensor.detach()))
    return dict(found.values())


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of weights."""
    return {name: tensor.clone() for name, tensor in weights.items()}


def taken_over(run: RunView, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of saved weights, which may be on another device, as those of a run: each rank may have a part."""
    weights = weights_of(run)
    there = run.ranks.sharded(values, weights)
    return {name: value.to(weights[name].device, copy=True) for name, value in there.items()}


def put(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Overwrite weights in place, so that the optimizer and wrappers see the new values."""
    for name, tensor in weights.items():
        tensor.copy_(values[name])


def is_finished(run: RunView, outcome: Outcome) -> bool:
    """Return True if a run completed or a plugin stopped it.

    Any other run, such as one whose program left the loop over its steps, may be resumed and keeps its own weights.
    """
    return outcome == "completed" or (outcome == "stopped" and run.stop_reason is not None)
