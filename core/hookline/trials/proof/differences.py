"""Differences of two states to the last bit: their places, kinds and sizes."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from hookline.engine.words import printable
from hookline.trials.short_texts import cut, form


class Missing:
    """Stands for a value that only the other state has."""

    def __repr__(self) -> str:
        return "nothing"


MISSING: Final = Missing()


@dataclass(frozen=True)
class Difference:
    """One place in which two states differ.

    Attributes:
        keys: The keys that lead there, from the outermost.
        first: The value in the first state; ``MISSING`` for none.
        second: The value in the second state, likewise.
    """

    keys: tuple[Any, ...]
    first: Any
    second: Any

    @property
    def path(self) -> str:
        """The place as text: ``optimizer/state/0/exp_avg``."""
        return "/".join(printable(str(key)) for key in self.keys)

    @property
    def largest(self) -> float | None:
        """The largest absolute difference of two numbers; None if there are none to subtract."""
        if _are_numbers(self.first, self.second):
            return _largest(torch.tensor(self.first).double(), torch.tensor(self.second).double())
        first, second = _tensor(self.first), _tensor(self.second)
        if first is None or second is None or first.shape != second.shape:
            return None
        wide = torch.complex128 if first.is_complex() or second.is_complex() else torch.float64
        return _largest(first.to(wide), second.to(wide))

    @property
    def how(self) -> str:
        """The difference, in words."""
        first, second = _tensor(self.first), _tensor(self.second)
        if first is None or second is None:
            return f"{_brief(self.first)} and {_brief(self.second)}"
        if (first.dtype, first.shape) != (second.dtype, second.shape):
            return f"{form(first)} and {form(second)}"
        if first.dim() == 0:
            return f"{first.item()!r} and {second.item()!r}"
        return f"{_num_different(first, second)} of {first.numel()} values differ{self._at_most()}"

    def _at_most(self) -> str:
        return "" if self.largest is None else f", at most by {self.largest:.3g}"

    def __str__(self) -> str:
        return f"{self.path}: {self.how}" if self.keys else self.how


@dataclass(frozen=True)
class Tally:
    """Size of a state.

    Attributes:
        tensors: Number of tensors and arrays.
        values: Number of values: elements of tensors and arrays, and plain values.
    """

    tensors: int
    values: int

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.tensors + other.tensors, self.values + other.values)


def differences(first: Any, second: Any, keys: tuple[Any, ...] = ()) -> Iterator[Difference]:
    """Yield every difference of two states, in the order of the first.

    States are mappings, lists and tuples of tensors, arrays and plain values. The order of a mapping and the device
    of a tensor do not count. Everything else does, to the last bit: types, shapes, 0.0 and -0.0, the bits of a NaN.

    Args:
        first: The first state.
        second: The second state.
        keys: The keys that lead to both.
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        # To Python, 1, 1.0 and True are the same key.
        ours, theirs = ({(type(key), key): item for key, item in state.items()} for state in (first, second))
        for place in ours | theirs:
            yield from differences(ours.get(place, MISSING), theirs.get(place, MISSING), (*keys, place[1]))
    elif type(first) is type(second) and isinstance(first, list | tuple):
        for number, pair in enumerate(zip_longest(first, second, fillvalue=MISSING)):
            yield from differences(*pair, (*keys, number))
    elif not _is_same(first, second):
        yield Difference(keys, first, second)


def first_difference(first: Any, second: Any) -> Difference | None:
    """Return the first difference of two states, as ``differences`` yields it; None if there is none.

    Example:
        >>> print(first_difference({"lr": 0.1, "betas": [0.9]}, {"betas": [0.8], "lr": 0.1}))
        betas/0: 0.9 and 0.8
        >>> first_difference(float("nan"), float("nan"))
    """
    return next(differences(first, second), None)


def tally(state: Any) -> Tally:
    """Return the size of a state.

    Example:
        >>> tally({"weight": torch.zeros(2, 3), "betas": (0.9, 0.999)})
        Tally(tensors=1, values=8)
    """
    if isinstance(state, Mapping):
        state = list(state.values())
    if isinstance(state, list | tuple):
        return sum(map(tally, state), Tally(0, 0))
    tensor = _tensor(state)
    return Tally(0, 1) if tensor is None else Tally(1, tensor.numel())


def _is_same(first: Any, second: Any) -> bool:
    if type(first) is not type(second):
        return False
    if isinstance(first, Tensor | np.ndarray | np.generic):
        return form(first) == form(second) and _bits(first) == _bits(second)
    if isinstance(first, float):
        return struct.pack("d", first) == struct.pack("d", second)
    if isinstance(first, complex):
        return struct.pack("dd", first.real, first.imag) == struct.pack("dd", second.real, second.imag)
    return bool(first == second)


def _bits(value: Tensor | np.ndarray[Any, Any] | np.generic) -> bytes:
    return _as_bytes(value).numpy().tobytes() if isinstance(value, Tensor) else value.tobytes()


def _as_bytes(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor, uint8 ``[num_elements, num_bytes of one]``."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    dense = plain if plain.layout is torch.strided else plain.to_dense()
    # An empty tensor cannot be viewed as bytes.
    if not dense.numel():
        return torch.empty(0, 1, dtype=torch.uint8)
    return dense.contiguous().reshape(-1, 1).view(torch.uint8)


def _tensor(value: Any) -> Tensor | None:
    """Return a tensor, or an array of numbers, as a tensor in memory; None for anything else."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
    return None


def _are_numbers(first: Any, second: Any) -> bool:
    return all(isinstance(value, int | float) and abs(value) < 2**63 for value in (first, second))


def _largest(first: Tensor, second: Tensor) -> float | None:
    # NaN on one side, or infinity on both, has no difference.
    gaps = (first - second).abs()
    gaps = gaps[~gaps.isnan()]
    return gaps.max().item() if gaps.numel() else None


def _num_different(first: Tensor, second: Tensor) -> int:
    return int((_as_bytes(first) != _as_bytes(second)).any(dim=1).sum())


def _brief(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple | set):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, Tensor | np.ndarray):
        return form(value)
    return cut(printable(repr(value)))
