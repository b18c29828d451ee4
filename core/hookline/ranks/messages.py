"""Messages between ranks: values of any nesting as bytes, without pickle."""

from __future__ import annotations

from typing import Any

import msgspec
import safetensors.torch
import torch

from hookline.engine.reading.batch import with_parts
from hookline.runs.disk.encoding import decode, encode


def to_bytes(value: Any) -> bytes:
    """Return a value as bytes: the length of its JSON text (8 bytes), that text, and its tensors as safetensors.

    Raises:
        CheckpointError: When it contains anything but tensors and plain values.
    """
    tree, tensors = encode(_received(value))
    text = msgspec.json.encode(tree)
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return len(text).to_bytes(8, "little") + text + (safetensors.torch.save(on_cpu) if on_cpu else b"")


def _received(value: Any) -> Any:
    """Wait for the tensors that are still on their way, as the outputs of a layer that several ranks compute."""
    if isinstance(value, torch.Tensor):
        return value.wait() if hasattr(value, "wait") else value
    return with_parts(value, _received)


def from_bytes(data: bytes) -> Any:
    """Return the value that ``to_bytes`` made into bytes.

    >>> from_bytes(to_bytes({"losses": (0.5, float("inf"))}))
    {'losses': (0.5, inf)}
    """
    end = 8 + int.from_bytes(data[:8], "little")
    tensors = safetensors.torch.load(data[end:]) if len(data) > end else {}
    return decode(msgspec.json.decode(data[8:end]), tensors)
