"""Tensors of which each of several ranks has a part: their form in a checkpoint, and how any number of ranks read them.

Each rank writes its parts to a file of its own, and ``shards.json`` tells where in each tensor they belong. A part is a
box: the index at which it begins and its size, in each dimension. How a tensor is cut is torch's to say; a reader needs
nothing but the boxes, so it need not know why they were cut like this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hookline.engine.errors import CheckpointError
from hookline.engine.reading.batch import with_parts
from hookline.runs.disk.encoding import DTYPES
from hookline.runs.disk.formats import NOT_JSON

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""The index at which a part of a tensor begins, and its size, in each dimension."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a tensor.

    Attributes:
        file: The file that has it, under the name of the tensor.
        offsets: The index at which it begins, in each dimension.
        sizes: Its size in each dimension.
    """

    file: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


class Parts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor in parts.

    Attributes:
        dtype: Name of its dtype, such as ``float32``.
        shape: Its whole shape.
        parts: Its parts, which do not overlap.
    """

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


class Shards(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of ``shards.json``.

    Attributes:
        world_size: Number of ranks that wrote the files.
        mesh: Names and sizes of the dimensions in which they were arranged.
        tensors: Each tensor by its name in the state.
    """

    world_size: int
    mesh: dict[str, int]
    tensors: dict[str, Parts]


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor on the disk, of which as much is read as is asked for.

    Attributes:
        name: Its name in the files.
        dtype: Its dtype.
        shape: Its shape.
        parts: Its parts.
        files: The files by name.
    """

    name: str
    dtype: torch.dtype
    shape: torch.Size
    parts: Sequence[Part]
    files: Mapping[str, ShardFile]

    def whole(self) -> Tensor:
        """Read all of it.

        Raises:
            CheckpointError: As ``read``.
        """
        return self.read((0,) * len(self.shape), self.shape)

    def read(self, offsets: Sequence[int], sizes: Sequence[int]) -> Tensor:
        """Read a box of it.

        Raises:
            CheckpointError: When a file is missing or damaged, or the box is not there.
        """
        if 0 in sizes:
            return torch.empty(sizes, dtype=self.dtype)
        pieces = [(place, part) for part in self.parts if (place := _common((offsets, sizes), part)) is not None]
        num_found = sum(math.prod(high - low for low, high in place) for place, _ in pieces)
        if num_found != math.prod(sizes):
            raise CheckpointError(f"{self.name} is not complete: {num_found} of {math.prod(sizes)} values are there")
        read: list[tuple[Any, Tensor]] = []
        for place, part in pieces:
            values = self.files[part.file].tensor(self.name, self.dtype, part.sizes)
            here = tuple(slice(low - at, high - at) for (low, high), at in zip(place, part.offsets, strict=True))
            there = tuple(slice(low - at, high - at) for (low, high), at in zip(place, offsets, strict=True))
            read.append((there, values[here]))
        found = torch.zeros(sizes, dtype=self.dtype)  # what is in memory by chance must never be a weight
        for there, values in read:
            found[there] = values
        return found

    def __deepcopy__(self, memo: Any) -> StoredTensor:
        return self  # it cannot be changed


class ShardFile:
    """A file of one rank, opened when something is read.

    Args:
        path: Its path; the file is verified before.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _opened(self) -> Any:
        return safe_open(self._path, framework="pt")

    def tensor(self, name: str, dtype: torch.dtype, sizes: Sequence[int]) -> Tensor:
        """Return a tensor of the file; the system reads what is used of it.

        Raises:
            CheckpointError: When there is none of this name, dtype and size.
        """
        try:
            found: Tensor = self._opened.get_tensor(name)
        except (SafetensorError, OSError, KeyError) as error:
            raise CheckpointError(f"{self._path} cannot be read: {name}: {error}") from error
        if found.dtype != dtype or found.shape != torch.Size(sizes):
            raise CheckpointError(f"{self._path} is damaged: {name} is {found.dtype} {list(found.shape)}")
        return found


def shards_of(tensors: Mapping[str, Any], boxes_of: Mapping[str, Mapping[str, Box]]) -> Shards:
    """Return which rank writes which part of tensors that are shared out: the first one that has it.

    Args:
        tensors: The tensors by name.
        boxes_of: For the file of each rank the parts that the rank has, by name.

    Raises:
        CheckpointError: When the parts are not the whole of a tensor.
    """
    found, faults = {}, []
    for name, tensor in tensors.items():
        first: dict[Box, Part] = {}
        for file, boxes in boxes_of.items():
            offsets, sizes = boxes[name]
            if 0 not in sizes:
                first.setdefault((offsets, sizes), Part(file, offsets, sizes))
        if sum(math.prod(sizes) for _, sizes in first) != tensor.numel():
            faults.append(name)
        found[name] = Parts(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tuple(first.values()))
    if faults:
        raise CheckpointError(f"the ranks do not have each value once of {', '.join(faults)}")
    mesh = next(tensor.device_mesh for tensor in tensors.values())
    names = mesh.mesh_dim_names or [str(number) for number in range(mesh.ndim)]
    return Shards(len(boxes_of), dict(zip(names, mesh.shape, strict=True)), found)


def box_of(tensor: Any) -> Box:
    """Return the part of a tensor that this rank has; one of size 0 if it has none."""
    [part] = tensor.__create_chunk_list__()
    return tuple(part.offsets), tuple(part.sizes)


def stored_tensors(text: bytes, files: Mapping[str, ShardFile]) -> dict[str, StoredTensor]:
    """Return the tensors of a checkpoint that are in parts, none of them read yet.

    Args:
        text: The contents of ``shards.json``.
        files: The files of the ranks by name.

    Raises:
        CheckpointError: When it is not such a file.
    """
    try:
        shards = msgspec.json.decode(text, type=Shards)
        return {
            name: StoredTensor(name, DTYPES[one.dtype], torch.Size(one.shape), _checked(one, files), files)
            for name, one in shards.tensors.items()
        }
    except (*NOT_JSON, KeyError, ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"it does not tell where the parts of the tensors are: {error}") from error


def read_whole(state: Any) -> Any:
    """Return a state of any nesting with all tensors in memory.

    Raises:
        CheckpointError: When one cannot be read.
    """
    return state.whole() if isinstance(state, StoredTensor) else with_parts(state, read_whole)


def _checked(one: Parts, files: Mapping[str, ShardFile]) -> Sequence[Part]:
    for part in one.parts:
        if part.file not in files or not len(part.offsets) == len(part.sizes) == len(one.shape):
            raise ValueError(f"a part of {part.sizes} at {part.offsets} in {part.file}")
    return one.parts


def _common(box: tuple[Sequence[int], Sequence[int]], part: Part) -> list[tuple[int, int]] | None:
    """Return where a box and a part overlap, as the first index and that after the last; None if they do not."""
    sides = [
        (max(at, other), min(at + size, other + other_size))
        for at, size, other, other_size in zip(*box, part.offsets, part.sizes, strict=True)
    ]
    return sides if all(low < high for low, high in sides) else None
