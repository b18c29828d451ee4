"""The device of a run: which one is meant, and how batches get there."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from hookline.errors import ConfigError, did_you_mean

_TYPES = ("auto", "cpu", "cuda", "mps")


def find_device(name: str) -> torch.device:
    """Return the device that a config means: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    ``auto`` is the first CUDA device if torch sees one, else Apple's GPU, else the CPU.

    Raises:
        ConfigError: When there is no such device here, or torch's default device is not the CPU.
    """
    default = torch.get_default_device()
    if default.type != "cpu":
        message = f"torch's default device is {str(default)!r}, and a run needs the CPU: data are put in order there"
        hint = "leave torch.set_default_device out; 'train.device' says where model and batches go"
        raise ConfigError(message, hint=hint)
    kind, colon, number = name.partition(":")
    if kind not in _TYPES or (colon and not (kind == "cuda" and number.isdecimal())):
        hint = did_you_mean(kind, _TYPES)
        raise ConfigError(f"'train.device' is {name!r}, but must be one of {', '.join(_TYPES)} or cuda:N", hint=hint)
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if kind == "auto":
        return torch.device("cuda" if has_cuda else "mps" if has_mps else "cpu")
    if (kind == "cuda" and not has_cuda) or (kind == "mps" and not has_mps):
        raise ConfigError(
            f"'train.device' is {name!r}, but torch sees no such device", hint="set it to 'auto' or 'cpu'"
        )
    if number and int(number) >= torch.cuda.device_count():
        raise ConfigError(f"'train.device' is {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)


def placed(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a batch, nested as it may be, with its tensors on a device, and floating-point ones of a dtype.

    Mappings, lists, tuples and named tuples keep their type. Any other object that has a method ``to``, such as a
    ``PackedSequence``, is asked to move itself; the rest stays as it is. From pinned memory the copy does not wait for
    the device.
    """
    if isinstance(batch, Tensor):
        wanted = dtype if batch.is_floating_point() else batch.dtype
        return batch.to(device=device, dtype=wanted, non_blocking=True)
    if hasattr(batch, "to"):
        return batch.to(device)
    return with_parts(batch, lambda part: placed(part, device, dtype))


def with_parts(batch: Any, changed: Callable[[Any], Any]) -> Any:
    """Return a mapping, list, tuple or named tuple of the same type with each part ``changed``; all else as it is."""
    if isinstance(batch, Mapping):
        return _with_values(batch, {key: changed(value) for key, value in batch.items()})
    if isinstance(batch, tuple | list):
        parts = [changed(part) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def _with_values(batch: Mapping[Any, Any], values: dict[Any, Any]) -> Mapping[Any, Any]:
    """Return a mapping of the same type with other values; a dict where the type cannot be written to."""
    if type(batch) is dict or not isinstance(batch, MutableMapping):
        return values
    # As DataLoader does it: no constructor of a mapping can be relied on.
    clone = copy.copy(batch)
    clone.update(values)
    return clone
