"""Contents of objects as short texts, to find state that a plugin does not save."""

from __future__ import annotations

import hashlib
import io
import itertools
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from types import FunctionType, GeneratorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hookline.trials.short_texts import MAX_CHARACTERS, form

_MAX_DEPTH = 12
_MAX_PLACES = 10_000
_MAX_ELEMENTS = 2**20
"""Number of elements of a tensor that are hashed; of larger ones a sample, since state mostly changes as a whole."""
STATE = "state "
"""Prefix of the text of a random generator."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_CLOSED = (ModuleType, type, io.IOBase, threading.Thread, type(threading.Lock()), type(threading.RLock()))


def inside(value: Any, *, besides: Iterable[Any] = ()) -> dict[str, str]:
    """Return the contents of an object: a text for each place in it, ``{"rng": "state 3f...", "seen[2].count": "3"}``.

    These are attributes, items, variables of closures and generators, and states of random generators; tensors are
    hashed. Each object is visited once.

    Args:
        value: The object.
        besides: Objects to skip, which belong to others.

    Example:
        >>> class Counter:
        ...     def __init__(self):
        ...         self.calls, self.rows = 3, [{"a": 1}]
        >>> inside(Counter())
        {'calls': '3', "rows[0]['a']": '1'}
    """
    visit = _Visit(besides)
    return dict(itertools.islice(visit.into(value, "", 0), _MAX_PLACES))


def outside_generators() -> dict[str, str]:
    """Return the states of the generators that belong to no run: those of Python and NumPy, as hashes."""
    states = {"random": random.getstate(), "numpy.random": _of_numpy(np.random.get_state())}
    return {name: f"{STATE}{_hash(repr(state).encode())}" for name, state in states.items()}


def _of_numpy(state: Any) -> Any:
    # Bytes are formatted far faster than numbers, and this runs around every call of a hook.
    return [part.tobytes() if isinstance(part, np.ndarray) else part for part in state]


def inside_modules(model: nn.Module) -> dict[str, str]:
    """Return the contents of the modules of a model outside their state: attributes and non-persistent buffers.

    Example:
        >>> inside_modules(nn.Dropout(0.5))
        {'training': 'True', 'p': '0.5', 'inplace': 'False'}
    """
    modules = dict(model.named_modules())
    visit = _Visit([model, *modules.values()])
    of_torch = vars(nn.Module()).keys() - {"training"}
    held: dict[str, str] = {}
    for prefix, module in modules.items():
        own = {name: value for name, value in vars(module).items() if name not in of_torch}
        own |= {name: module.get_buffer(name) for name in module._non_persistent_buffers_set}  # noqa: SLF001 - torch has no public access
        for name, value in own.items():
            held.update(visit.into(value, f"{prefix}.{name}".removeprefix("."), 0))
    return held


_GENERATORS: dict[type, Callable[[Any], Any]] = {
    torch.Generator: lambda generator: generator.get_state().tolist(),
    random.Random: lambda generator: generator.getstate(),
    np.random.Generator: lambda generator: generator.bit_generator.state,
    np.random.RandomState: lambda generator: _of_numpy(generator.get_state()),
}
"""Functions that return the state of a random generator, by its type."""


class _Visit:
    """One walk through an object and everything that it holds."""

    def __init__(self, besides: Iterable[Any]) -> None:
        # Keeps the objects alive: Python may reuse the id of one that is gone.
        self._seen = {id(thing): thing for thing in besides}

    def into(self, value: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
        """Yield each place in ``value`` with its text."""
        text = _text(value)
        if text is not None:
            yield path, text
        elif id(value) not in self._seen and depth < _MAX_DEPTH and not isinstance(value, _CLOSED):
            self._seen[id(value)] = value
            for name, item in _parts(value):
                yield from self.into(item, f"{path}{name}".removeprefix("."), depth + 1)


def _text(value: Any) -> str | None:
    """Return the text of a value without parts; None for a value that may have parts."""
    if isinstance(value, Tensor):
        return _of_tensor(value)
    if isinstance(value, np.ndarray | np.generic):
        return repr(value.item()) if value.size == 1 else f"{form(value)} {_hash(value.tobytes())}"
    if get_state := next((get for kind, get in _GENERATORS.items() if isinstance(value, kind)), None):
        return f"{STATE}{_hash(repr(get_state(value)).encode())}"
    if isinstance(value, (*_PLAIN, itertools.count)):
        text = repr(value)
        return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS // 2]}... {_hash(text.encode())}"
    if isinstance(value, AbstractSet):
        return f"{type(value).__name__} of {len(value)} {_hash(' '.join(sorted(map(repr, value))).encode())}"
    return None


def _of_tensor(tensor: Tensor) -> str:
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()  # a DTensor, of which other ranks have parts
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        return f"{tensor.layout} {list(tensor.shape)}"
    flat = tensor.detach().reshape(-1)
    if flat.numel() == 1:
        return repr(flat.item())
    sample = flat[:: 1 + flat.numel() // _MAX_ELEMENTS].cpu().resolve_conj().resolve_neg().contiguous()
    data = sample.view(torch.uint8).numpy().tobytes() if sample.numel() else b""
    return f"{form(tensor)} {_hash(data)}"


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of an object, each with the suffix of its path."""
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", item) for key, item in list(value.items()))
    elif isinstance(value, list | tuple | deque):
        yield from ((f"[{number}]", item) for number, item in enumerate(list(value)))
    elif isinstance(value, FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                yield f".{name}", cell.cell_contents
            except ValueError:
                continue  # a cell that is still empty
    elif isinstance(value, MethodType):
        yield "", value.__self__
    elif isinstance(value, partial):
        yield from ((".", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, GeneratorType):
        if value.gi_frame is not None:
            yield from ((f".{name}", item) for name, item in dict(value.gi_frame.f_locals).items())
    else:
        yield from _attributes(value)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    # Only stored attributes: a property may compute, and change, anything.
    for name, item in list(getattr(value, "__dict__", {}).items()):
        yield f".{name}", item
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            member: Any = vars(kind).get(name)
            if name not in ("__dict__", "__weakref__") and isinstance(member, MemberDescriptorType):
                try:
                    yield f".{name}", member.__get__(value)
                except AttributeError:
                    continue  # a slot that is still empty


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
