"""Operations on one batch: count, slice, move and cast its tensors."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn


def count_examples(batch: Any) -> int:
    """Return the number of examples in a batch: the length of the first tensor in it; 1 without a tensor.

    >>> count_examples({"name": ["a", "b"], "image": torch.zeros(2, 3)})
    2
    """
    if type(batch) is tuple and type(batch[0]) is Tensor and batch[0].dim():
        return batch[0].shape[0]  # fast path, used in every step; len() takes twice as long
    return next((len(tensor) for tensor in tensors_in(batch) if tensor.dim()), 1)


def part_of(batch: Any, start: int, stop: int | None) -> Any:
    """Return the examples of a batch from ``start`` to ``stop`` (exclusive), or to the end: slices of its tensors.

    >>> part_of({"x": torch.arange(5), "name": "all"}, 1, 3)
    {'x': tensor([1, 2]), 'name': 'all'}
    """
    if isinstance(batch, Tensor):
        return batch[start:stop] if batch.dim() else batch
    return with_parts(batch, lambda part: part_of(part, start, stop))


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Yield every tensor of a batch of any nesting.

    >>> len(list(tensors_in({"a": torch.zeros(1), "b": [torch.zeros(1), "c"]})))
    2
    """
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors_in(part)


def placed(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a batch of any nesting with its tensors on a device, and floating-point tensors cast to a dtype.

    Complex tensors get the complex dtype of the same precision; integers and booleans keep theirs.
    Mappings, lists, tuples and named tuples keep their type. Any other object with a method ``to``, such as a
    ``PackedSequence``, moves itself; the rest is unchanged. A copy from pinned memory does not wait for the device.
    """
    if isinstance(batch, Tensor):
        is_complex = batch.is_complex()
        wanted = dtype.to_complex() if is_complex else dtype if batch.is_floating_point() else batch.dtype
        return batch.to(device=device, dtype=wanted, non_blocking=True)
    if hasattr(batch, "to"):
        return batch.to(device)
    return with_parts(batch, lambda part: placed(part, device, dtype))


def on_cpu(batch: Any) -> Any:
    """Return a batch of any nesting with its tensors on the CPU."""
    return batch.cpu() if isinstance(batch, Tensor) else with_parts(batch, on_cpu)


def placed_module(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Return a module moved to a device, with its floating-point and complex tensors cast as those of a batch.

    Unlike ``Module.to``, it keeps imaginary parts.
    """
    place = functools.partial(placed, device=device, dtype=dtype)
    module = module.to(device)
    module._apply(place)  # type: ignore[no-untyped-call] # noqa: SLF001 - Module.to calls it, too
    return module


def with_parts(batch: Any, changed: Callable[[Any], Any]) -> Any:
    """Return a mapping, list, tuple or named tuple of the same type with each part ``changed``; the rest unchanged.

    A mapping that cannot be written to becomes a dict.
    """
    if isinstance(batch, Mapping):
        values = {key: changed(value) for key, value in batch.items()}
        if type(batch) is dict or not isinstance(batch, MutableMapping):
            return values
        # The constructors of mappings differ, so their copies are updated, as in torch's default_collate.
        clone = copy.copy(batch)
        clone.update(values)
        return clone
    if isinstance(batch, tuple | list):
        parts = [changed(part) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def brief(value: Any) -> str:
    """Return a short description of a value: shape and dtype of a tensor, or the type of another object."""
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}: " + ", ".join(map(brief, value[:3]))
    return "nothing" if value is None else f"a {type(value).__name__}"
