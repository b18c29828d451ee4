"""State of a run: everything needed to continue it bit for bit, as tensors and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from hookline.engine.errors import ContractError
from hookline.engine.loop.building import Components


def component_state(parts: Components) -> dict[str, Any]:
    """Return the state of the model, its wrappers, the loss and the optimizer."""
    return {
        "model": parts.unwrapped_model.state_dict(),
        "wrappers": state_of_wrappers(parts.model, parts.unwrapped_model),
        "loss": parts.loss.state_dict() if isinstance(parts.loss, nn.Module) else {},
        "optimizer": parts.optimizer.state_dict(),
    }


def load_component_state(parts: Components, state: Mapping[str, Any]) -> None:
    """Load what ``component_state`` returned into the components.

    Raises:
        ContractError: When the state belongs to another model or optimizer.
    """
    try:
        parts.unwrapped_model.load_state_dict(state["model"])
        load_state_of_wrappers(parts.model, parts.unwrapped_model, state["wrappers"])
        if isinstance(parts.loss, nn.Module):
            parts.loss.load_state_dict(state["loss"])
        parts.optimizer.load_state_dict(state["optimizer"])
    except (KeyError, ValueError, RuntimeError) as error:
        hint = "resume with the config with which the state was taken"
        raise ContractError(f"this state belongs to a different run: {error}", hint=hint) from error


def state_of_wrappers(model: nn.Module, unwrapped: nn.Module) -> dict[str, Any]:
    """Return the entries that wrappers added to the state of a model, by the names that they give them."""
    if model is unwrapped:
        return {}
    inner = unwrapped.state_dict(keep_vars=True)
    around, ids = model.state_dict(keep_vars=True), set(map(id, inner.values()))
    return {name: value for name, value in model.state_dict().items() if id(around[name]) not in ids}


def load_state_of_wrappers(model: nn.Module, unwrapped: nn.Module, state: Mapping[str, Any]) -> None:
    """Load what ``state_of_wrappers`` returned.

    Raises:
        ValueError: When the model has other wrappers.
    """
    if unknown := sorted(state.keys() ^ state_of_wrappers(model, unwrapped).keys()):
        raise ValueError(f"the wrappers of the model differ in {', '.join(unknown)}")
    model.load_state_dict(state, strict=False)
