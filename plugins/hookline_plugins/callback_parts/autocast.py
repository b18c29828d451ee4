"""A module that runs another one's forward pass in a lower-precision type. Importing it imports torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Autocast(nn.Module):
    """Another module's forward pass under ``torch.autocast``, with outputs in float32.

    Args:
        module: The module; its weights keep their type.
        device_type: Type of the device that it is on: ``cpu``, ``cuda``.
        dtype: The lower-precision type.

    Example:
        >>> layer = Autocast(nn.Linear(2, 1), "cpu", torch.bfloat16)
        >>> layer(torch.zeros(4, 2)).dtype
        torch.float32
    """

    def __init__(self, module: nn.Module, device_type: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self._device_type = device_type
        self._dtype = dtype

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the module's outputs, with tensors of the lower-precision type cast to float32."""
        with torch.autocast(self._device_type, dtype=self._dtype):
            outputs = self.module(*inputs, **named)
        return _widened(outputs, self._dtype)


def _widened(outputs: Any, dtype: torch.dtype) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.dtype == dtype else outputs
    if isinstance(outputs, dict):
        return {name: _widened(part, dtype) for name, part in outputs.items()}
    if isinstance(outputs, tuple | list):
        parts = [_widened(part, dtype) for part in outputs]
        return type(outputs)(*parts) if hasattr(outputs, "_fields") else type(outputs)(parts)
    return outputs
