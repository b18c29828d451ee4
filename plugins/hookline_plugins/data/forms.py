"""The forms of rows: arrays as tensors, tensors as inputs of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def as_tensor(values: Any) -> Tensor:
    """Return an array as a tensor that shares its memory, or as a copy where torch cannot share it."""
    import torch

    # torch has no strides below 0, no other byte order, and no memory that cannot be written to.
    needs_copy = not values.flags.writeable or any(step < 0 for step in values.strides)
    native = values.astype(values.dtype.newbyteorder("="), copy=needs_copy)
    return torch.from_numpy(native)


def as_inputs(rows: Tensor, *, is_float: bool) -> Tensor:
    """Return rows as inputs: ``[N]`` as ``[N, 1]``, and converted to floating point if ``is_float``."""
    rows = rows.unsqueeze(1) if rows.dim() == 1 else rows
    if not is_float or rows.is_floating_point():
        return rows
    # float32 holds 16-bit integers exactly; the run casts to its own dtype.
    return rows.float() if rows.element_size() <= 2 else rows.double()
