"""Operations on one batch: count, slice, move and cast its tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass


def count_examples(batch: Any) -> int:
    """Return the number of examples in a batch: the length of the first tensor in it; 1 if there is none.

    >>> count_examples({"name": ["a", "b"], "image": torch.zeros(2, 3)})
    2
    """
    if type(batch) is tuple and type(batch[0]) is Tensor and batch[0].dim():
        return batch[0].shape[0]  # what most batches are; this is asked in every step, and len() takes twice as long
    return next((len(tensor) for tensor in tensors_in(batch) if tensor.dim()), 1)


def part_of(batch: Any, start: int, stop: int | None) -> Any:
    """Return the examples of a batch from ``start`` to before ``stop``, or to its end: slices of its tensors.

    >>> part_of({"x": torch.arange(5), "name": "all"}, 1, 3)
    {'x': tensor([1, 2]), 'name': 'all'}
    """
    if isinstance(batch, Tensor):
        return batch[start:stop] if batch.dim() else batch
    return with_parts(batch, lambda part: part_of(part, start, stop))


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Give every tensor of a batch, nested as it may be.

    >>> len(list(tensors_in({"a": torch.zeros(1), "b": [torch.zeros(1), "c"]})))
    2
    """
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors_in(part)


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


def brief(value: Any) -> str:
    """Return what a value is, for a message: shape and dtype of a tensor, the type of anything else."""
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}: " + ", ".join(map(brief, value[:3]))
    return "nothing" if value is None else f"a {type(value).__name__}"
