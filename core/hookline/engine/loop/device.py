"""The choice of the device of a run."""

from __future__ import annotations

import torch

from hookline.engine.errors import ConfigError
from hookline.engine.words import did_you_mean

_TYPES = ("auto", "cpu", "cuda", "mps")


def find_device(name: str) -> torch.device:
    """Return the device that the config names: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    ``auto`` is the first CUDA device if torch finds one, else Apple's GPU, else the CPU.

    Raises:
        ConfigError: When there is no such device, or torch's default device is not the CPU.
    """
    default = torch.get_default_device()
    if default.type != "cpu":
        message = f"torch's default device is {str(default)!r}, but a run orders its data on the CPU"
        hint = "do not call torch.set_default_device; 'train.device' sets the device of model and batches"
        raise ConfigError(message, hint=hint)
    kind, colon, number = name.partition(":")
    if kind not in _TYPES or (colon and not (kind == "cuda" and number.isdecimal())):
        hint = did_you_mean(kind, _TYPES)
        raise ConfigError(f"'train.device' is {name!r}, but must be one of {', '.join(_TYPES)} or cuda:N", hint=hint)
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if kind == "auto":
        return torch.device("cuda" if has_cuda else "mps" if has_mps else "cpu")
    if (kind == "cuda" and not has_cuda) or (kind == "mps" and not has_mps):
        message = f"'train.device' is {name!r}, but torch finds no such device"
        raise ConfigError(message, hint="set it to 'auto' or 'cpu'")
    if number and int(number) >= torch.cuda.device_count():
        raise ConfigError(f"'train.device' is {name!r}, but torch finds {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)
