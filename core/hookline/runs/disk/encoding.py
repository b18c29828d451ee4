"""Encode a state as JSON and tensors, and decode it: exactly, and without running any code.

A state consists of mappings, lists, tuples, tensors, arrays and plain values. Values that JSON has are written
unchanged; every other value becomes an object with one key that begins with ``$``::

    {"$tensor": "model/weight"}    the tensor of that name        {"$map": [[1, "a"], ...]}   keys that are not text
    {"$array": "plugins/seen"}     a NumPy array, likewise        {"$int": "0x10000000000..."}  beyond 64 bits
    {"$tuple": [0.9, 0.999]}       a tuple                        {"$float": "nan"}           or "inf", "-inf"
    {"$bytes": "AAEC"}             bytes, in base 64 (RFC 4648)
    {"$complex": "model/phase"}    complex128: a tensor of pairs of float64, which safetensors has
"""

from __future__ import annotations

import base64
import functools
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from hookline.engine.errors import CheckpointError
from hookline.runs.disk.formats import NOT_JSON

_INT64 = range(-(2**63), 2**63)
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
        *(torch.complex64, torch.bool),
    )
}
"""The dtypes that both safetensors and torch have, by name."""
_NO_TENSOR = "__metadata__"
"""The only name in a safetensors file that is not a tensor's."""
_OTHERS = "extra_state"
"""The entry of a header, and the prefix of the tensors, for what ``get_extra_state`` of a module returned."""
_HINT = "a state consists of tensors, numbers, texts, lists, tuples and mappings"


def is_shared_out(value: Any) -> bool:
    """Return whether a value is a tensor of which each rank has a part: a DTensor, whose module is slow to import."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def has_shared_out(state: Any) -> bool:
    """Return whether there is such a tensor in a state of any nesting."""
    if isinstance(state, Mapping):
        return any(map(has_shared_out, state.values()))
    return any(map(has_shared_out, state)) if isinstance(state, list | tuple) else is_shared_out(state)


def encode(state: Any, name: str = "", shared_out: dict[str, Any] | None = None) -> tuple[Any, dict[str, Tensor]]:
    """Return a state as JSON values, and its tensors by name.

    Tensors that share their memory, such as tied weights, are written once.

    Args:
        state: The state.
        name: Prefix of the names of its tensors.
        shared_out: Gets the tensors by name of which each rank has a part, DTensors; None if there must not be any.

    Raises:
        CheckpointError: When the state contains values that cannot be saved; names each of them.

    Example:
        >>> encode({"lr": 0.1, "betas": (0.9, 0.999)})
        ({'lr': 0.1, 'betas': {'$tuple': [0.9, 0.999]}}, {})
    """
    encoder = _Encoder(shared_out)
    try:
        tree = encoder.encode(state, name)
    except RecursionError as error:
        raise CheckpointError("the state cannot be saved: it is nested too deeply", hint=_HINT) from error
    if encoder.faults:
        raise CheckpointError(f"the state cannot be saved: {'; '.join(encoder.faults)}", hint=_HINT)
    return tree, encoder.tensors


def decode(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the state from which ``encode`` made these values and tensors.

    Raises:
        CheckpointError: When they are not an encoded state.

    Example:
        >>> decode({"$tuple": [0.9, 0.999]}, {})
        (0.9, 0.999)
    """
    try:
        return _decode(tree, tensors)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"this is not a state: {type(error).__name__}: {error}") from error


def to_json(value: Any) -> bytes:
    """Return JSON values as JSON text (RFC 8259)."""
    return msgspec.json.encode(value)


def from_json(data: bytes) -> Any:
    """Return the values of a JSON text.

    Raises:
        CheckpointError: When it is not valid JSON.
    """
    try:
        return msgspec.json.decode(data)
    except NOT_JSON as error:
        raise CheckpointError(f"it is not valid JSON: {error}") from error


def to_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors as the bytes of a safetensors file."""
    return safetensors.torch.save(dict(tensors))


def safetensors_in_pieces(tensors: Mapping[str, Tensor]) -> list[bytes | memoryview]:
    """Return tensors on the CPU as the pieces of a safetensors file: its header, and the memory of each tensor.

    Nothing is copied, unlike by ``to_safetensors``. The format: https://github.com/huggingface/safetensors.
    """
    if sys.byteorder == "big":  # a file is little-endian
        return [to_safetensors(tensors)]
    header, end = {}, 0
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))  # so that each is aligned
    for name, tensor in ordered.items():
        begin, end = end, end + tensor.nbytes
        offsets = {"data_offsets": [begin, end]}
        header[name] = {"dtype": _safetensors_dtype(tensor.dtype), "shape": list(tensor.shape)} | offsets
    text = to_json(header)
    text += b" " * (-len(text) % 8)
    memories = [tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data for tensor in ordered.values()]
    return [len(text).to_bytes(8, "little") + text, *memories]


@functools.cache
def _safetensors_dtype(dtype: torch.dtype) -> str:
    data = safetensors.torch.save({"": torch.empty(0, dtype=dtype)})
    return str(msgspec.json.decode(data[8 : 8 + int.from_bytes(data[:8], "little")])[""]["dtype"])


def state_to_safetensors(state: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the state of a module as a safetensors file: its tensors by name, and in the header all else, encoded.

    Any reader of such files can read the tensors. Tied weights are written under each of their names.

    Args:
        state: The state, from ``state_dict`` of the module.
        metadata: Texts for the header of the file.

    Raises:
        CheckpointError: When it contains something that cannot be saved.
    """
    is_plain = {
        name: isinstance(value, Tensor) and value.dtype is not torch.complex128 for name, value in state.items()
    }
    others, tensors = encode({name: value for name, value in state.items() if not is_plain[name]}, _OTHERS)
    tree, weights = encode({name: value for name, value in state.items() if is_plain[name]})
    names = {name: value["$tensor"] for name, value in tree.items()}
    tensors |= {name: weights[kept] if name == kept else weights[kept].clone() for name, kept in names.items()}
    header = {**(metadata or {}), **({_OTHERS: to_json(others).decode()} if others else {})}
    return safetensors.torch.save(tensors, metadata=header or None)


def state_from_safetensors(data: bytes) -> dict[str, Any]:
    """Return the state from which ``state_to_safetensors`` made a file.

    Raises:
        CheckpointError: When it is not such a file.
    """
    tensors = from_safetensors(data)
    header = from_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
    others = decode(from_json(header.get(_NO_TENSOR, {}).get(_OTHERS, "{}").encode()), tensors)
    if not isinstance(others, dict):
        raise CheckpointError(f"{_OTHERS} in its header is not a state")
    return {name: value for name, value in tensors.items() if not name.startswith(f"{_OTHERS}/")} | others


def from_safetensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file. No other code loads tensors.

    Raises:
        CheckpointError: When it is not a valid safetensors file; its header is checked against its size first.
    """
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"it is not a valid safetensors file: {error}") from error


class _Encoder:
    """Collects the tensors of a state, and the faults that keep it from being saved."""

    def __init__(self, shared_out: dict[str, Any] | None) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._shared_out = shared_out
        self.faults: list[str] = []
        self._names: dict[tuple[Any, ...], str] = {}
        self._seen: list[Tensor] = []
        self._memories: set[int] = set()

    def encode(self, value: Any, name: str) -> Any:
        """Return ``value`` as JSON values."""
        if isinstance(value, Mapping):
            return self._mapping(value, name)
        if type(value) in (list, tuple, torch.Size):
            items = [self.encode(item, f"{name}/{number}") for number, item in enumerate(value)]
            return items if type(value) is list else {"$tuple": items}
        is_part = is_shared_out(value)
        if not is_part and isinstance(value, Tensor) and _is_complex128(value):
            return {"$complex": self._keep(torch.view_as_real(value.detach().resolve_conj().resolve_neg()), name)}
        if isinstance(value, Tensor):
            return {"$tensor": self._set_aside(value, name) if is_part else self._keep(value, name)}
        if type(value) is np.ndarray and value.dtype.kind in "biufc":
            tensor = self.encode(torch.from_numpy(value.astype(value.dtype.newbyteorder("="))), name)
            return {"$array": tensor.get("$tensor", tensor)}
        return self._scalar(value, name)

    def _scalar(self, value: Any, name: str) -> Any:
        if value is None or type(value) is bool or _is_text(value):
            return value
        if type(value) is int:
            return value if value in _INT64 else {"$int": hex(value)}
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"$float": str(float(value))}
        if type(value) in (bytes, bytearray):
            return {"$bytes": base64.b64encode(value).decode()}
        self.faults.append(f"{name or 'it'} is of type {type(value).__module__}.{type(value).__qualname__}")
        return None

    def _mapping(self, value: Mapping[Any, Any], name: str) -> Any:
        items = {key: self.encode(item, f"{name}/{key}" if name else str(key)) for key, item in value.items()}
        if all(_is_text(key) and not key.startswith("$") for key in items):
            return items
        return {"$map": [[self.encode(key, f"a key of {name}"), item] for key, item in items.items()]}

    def _set_aside(self, tensor: Any, name: str) -> str:
        if self._shared_out is None:
            self.faults.append(f"{name} is a tensor that is shared out: gather it by run.ranks.whole")
        elif tensor.dtype not in DTYPES.values() or any(placement.is_partial() for placement in tensor.placements):
            self.faults.append(f"{name} is a tensor of dtype {tensor.dtype}, shared out as {tensor.placements}")
        else:
            name = self._free(name)
            self._shared_out[name] = tensor
        return name

    def _free(self, name: str) -> str:
        while name in self.tensors or name in (self._shared_out or ()) or name.endswith(_NO_TENSOR):
            name += "'"
        return name

    def _keep(self, tensor: Tensor, name: str) -> str:
        if tensor.layout is not torch.strided or tensor.device.type == "meta" or tensor.dtype not in DTYPES.values():
            form = f"dtype {tensor.dtype} and layout {tensor.layout} on device {tensor.device}"
            self.faults.append(f"{name} is a tensor of {form}")
            return name
        place = (tensor.data_ptr(), tensor.device, tensor.is_conj(), tensor.is_neg())
        same = (*place, tensor.dtype, tensor.shape, tensor.stride())
        # Empty tensors may all have the same address.
        if tensor.numel() and same in self._names:
            return self._names[same]
        self._names[same] = name = self._free(name)
        # While it is alive, no other tensor can have its address.
        self._seen.append(tensor)
        kept = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        # safetensors refuses tensors that share memory.
        memory = kept.untyped_storage()
        is_shared = memory.data_ptr() in self._memories or memory.nbytes() != kept.numel() * kept.element_size()
        self._memories.add(memory.data_ptr())
        self.tensors[name] = kept.clone() if is_shared else kept
        return name


def _is_complex128(tensor: Tensor) -> bool:
    return tensor.dtype is torch.complex128 and tensor.layout is torch.strided


def _is_text(value: Any) -> bool:
    """Return whether a value is text that JSON can hold: valid UTF-8, so without lone surrogates."""
    if type(value) is not str:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decode(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_decode(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    tag, value = cast(tuple[str, Any], next(iter(tree.items()), ("", None)))
    if tag.startswith("$"):
        return _MEANINGS[tag](value, tensors)
    return {key: _decode(item, tensors) for key, item in tree.items()}


_MEANINGS: dict[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "$tensor": lambda value, tensors: tensors[value],
    "$complex": lambda value, tensors: torch.view_as_complex(tensors[value]),
    "$array": lambda value, tensors: (tensors[value] if _is_text(value) else _decode(value, tensors)).numpy(),
    "$tuple": lambda value, tensors: tuple(_decode(item, tensors) for item in value),
    "$map": lambda value, tensors: {_decode(key, tensors): _decode(item, tensors) for key, item in value},
    "$int": lambda value, _: int(value, 16),
    "$float": lambda value, _: float(value),
    "$bytes": lambda value, _: base64.b64decode(value, validate=True),
}
"""How an object with one of these keys is decoded."""
