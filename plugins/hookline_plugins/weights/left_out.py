"""Leave the frozen parameters of a model out of its state; their SHA-256 takes their place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hookline import CheckpointError, ContractError

if TYPE_CHECKING:
    from torch import Tensor, nn


SUM = "left_out_sha256"
"""Entry of the state: the SHA-256 of the parameters that are left out, as bytes."""


def leave_out(model: nn.Module) -> Callable[[], None]:
    """Leave the parameters of a model that are frozen now out of its state; return a function that takes it back.

    A state with another sum is refused, because what was trained belongs to other parameters.
    """
    frozen = [name for name, one in _parameters(model).items() if not one.requires_grad]
    sums = _Sums(frozen)
    prefixes = [""]

    def on_state(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        parameters = _parameters(module)
        if trained := [name for name in frozen if parameters[name].requires_grad]:
            hint = "train them from the start: name them in callbacks.lora.full, or set callbacks.lora.save = 'all'"
            raise ContractError(f"weights are trained that no checkpoint has: {', '.join(trained)}", hint=hint)
        for name in frozen:
            state.pop(prefix + name, None)
        state[prefix + SUM] = sums.of(parameters)

    def before_load(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        prefixes[0] = prefix
        saved = state.pop(prefix + SUM, None)
        if saved is not None and saved.tolist() != sums.of(_parameters(module)).tolist():
            message = "the model is built with other frozen weights than its saved weights were trained with"
            hint = (
                "restore the file that it reads, or its seed; if weights are loaded only when a run begins, train with "
            )
            raise CheckpointError(message, hint=f"{hint}callbacks.lora.save = 'all'")

    def after_load(_: nn.Module, keys: Any) -> None:
        known = {prefixes[0] + name for name in frozen}
        keys.missing_keys[:] = [name for name in keys.missing_keys if name not in known]

    hooked: Any = model  # torch leaves these without types
    handles = [
        hooked.register_state_dict_post_hook(on_state),
        hooked.register_load_state_dict_pre_hook(before_load),
        hooked.register_load_state_dict_post_hook(after_load),
    ]

    def take_back() -> None:
        for handle in handles:
            handle.remove()

    return take_back


def _parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters by name, one that is shared under each of its names."""
    return dict(module.named_parameters(remove_duplicate=False))


class _Sums:
    """The SHA-256 of some parameters: of their names, types and values, in this order.

    Args:
        names: Their names.
    """

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._seen: object = None
        self._sum: Tensor

    def of(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the sum, uint8 ``[32]``; the same tensor until one of the parameters is written to or moved."""
        import torch

        named = {name: parameters[name].detach() for name in self._names}
        seen = [(tensor.data_ptr(), tensor._version, tensor.device) for tensor in named.values()]  # noqa: SLF001 - documented in torch's notes on autograd
        if seen != self._seen:
            digest = hashlib.sha256()
            for name, tensor in named.items():
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            self._sum, self._seen = torch.tensor(list(digest.digest()), dtype=torch.uint8), seen
        return self._sum
