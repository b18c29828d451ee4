"""The device of a run: which one is meant, and how batches get there."""

from __future__ import annotations

import torch

from hookline.engine.errors import ConfigError
from hookline.engine.words import did_you_mean

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
