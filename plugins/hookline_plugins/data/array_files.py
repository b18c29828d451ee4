"""Arrays in ``.npz``, ``.npy`` and ``.safetensors`` files: what they are, and their rows.

Nothing is ever unpickled: an array of Python objects is known by its header and refused.

Shapes: ``N`` rows in an array, ``B`` rows that are read at once.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from hookline import Location
from hookline.engine import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from torch import Tensor

    from hookline_plugins.data.table_file import Faults


_CHUNK_BYTES = 2**24
"""How much of an array is looked at, at once."""

_SAFETENSORS = {
    "BOOL": "|b1",
    "U8": "|u1",
    "I8": "|i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "BF16": "bfloat16",
    "F32": "<f4",
    "F64": "<f8",
}
"""The names that the format has for dtypes, and NumPy's; NumPy has no bfloat16."""

_WORDS = {"O": "Python objects", "U": "text", "S": "bytes", "M": "dates", "m": "durations", "V": "records"}
_BROKEN = (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError)
"""What reading a file that is torn can raise."""


@dataclass(frozen=True)
class StoredArray:
    """An array in a file.

    Attributes:
        path: The file.
        name: Its name.
        dtype: NumPy's name of its dtype with the byte order, such as ``<f4``; or ``bfloat16``.
        shape: Its shape, ``[N, ...]``.
        offset: Where its numbers begin in the file; None where they are packed.
        is_column_major: Whether the first index is the one that changes fastest (Fortran order).
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int | None = None
    is_column_major: bool = False

    @property
    def num_bytes(self) -> int:
        """Bytes that its numbers take."""
        return math.prod(self.shape) * self._stored.itemsize

    @property
    def kind(self) -> str:
        """What it holds: ``f`` floating-point numbers, ``i`` and ``u`` integers, ``b`` booleans, or no numbers."""
        if self.dtype == "bfloat16":
            return "f"
        kind = self._stored.kind
        return "longdouble" if kind == "f" and self._stored.itemsize > 8 else kind

    def check(self, faults: Faults) -> bool:
        """Whether it can be read; if not, faults are added."""
        where = Location(str(self.path))
        if self.kind not in "fiub":
            what = _WORDS.get(self.kind, f"numbers of type {self._stored.name}")
            hint = "nothing is unpickled; save numbers" if self.kind == "O" else "save integers or float32"
            faults.add(f"the array {self.name!r} holds {what}", location=where, hint=hint)
            return False
        if not self.shape or 0 in self.shape:
            faults.add(f"the array {self.name!r} has the shape {list(self.shape)}, and so no rows", location=where)
            return False
        if self.offset is not None and (size := self.path.stat().st_size) < self.offset + self.num_bytes:
            missing = self.offset + self.num_bytes - size
            message = f"the file is cut off: {missing:,} bytes of the array {self.name!r} are missing"
            faults.add(message, location=where, hint="copy or save it again")
            return False
        return True

    def load(self) -> Tensor:
        """Return all of it.

        Raises:
            OSError, ValueError: When the file is torn.
        """
        if self.offset is not None:
            return self.rows(slice(None))
        import numpy as np

        with np.load(self.path, allow_pickle=False) as file:
            return self._tensor(file[self.name])

    def rows(self, which: slice | np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
        """Return some rows, ``[B, ...]``, without reading the others.

        The file is mapped for the time of the call alone: what is touched in a mapping counts as memory of the process
        for as long as it is there, so that an epoch would end with all of the file.
        """
        import numpy as np

        assert self.offset is not None
        order: Any = "F" if self.is_column_major else "C"
        mapped = np.memmap(self.path, self._stored, "r", self.offset, self.shape, order)
        return self._tensor(np.array(mapped[which]))

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """Give all rows, some at a time, with the number of the first."""
        size = max(_CHUNK_BYTES // (self.num_bytes // self.shape[0]), 1)
        for first in range(0, self.shape[0], size):
            yield first, self.rows(slice(first, first + size))

    @property
    def _stored(self) -> np.dtype[Any]:
        import numpy as np

        return np.dtype("<u2" if self.dtype == "bfloat16" else self.dtype)

    def _tensor(self, array: np.ndarray[Any, Any]) -> Tensor:
        """Return a tensor of the dtype of the array, in this machine's byte order; int64 where torch can do little."""
        import numpy as np
        import torch

        if self.dtype == "bfloat16":
            return torch.from_numpy(array.astype("=i2", copy=False)).view(torch.bfloat16)
        is_rare = array.dtype.kind == "u" and array.dtype.itemsize > 1
        native = np.dtype(np.int64) if is_rare else array.dtype.newbyteorder("=")
        return torch.from_numpy(np.ascontiguousarray(array, dtype=native))


class Store(Protocol):
    """Some arrays, by name."""

    def names(self) -> list[str]:
        """Return the names of the arrays."""

    def find(self, name: str) -> StoredArray:
        """Return one of them, without reading its numbers."""


def find_arrays(path: Path, names: tuple[str, ...], faults: Faults) -> list[StoredArray | None]:
    """Return the arrays of these names; None and a fault for each that cannot be read.

    Raises:
        DataError: When the file cannot be opened, or is of no known kind.
    """
    store = _open(path, faults)
    known = store.names()
    found: list[StoredArray | None] = []
    for name in names:
        array = None
        if name not in known:
            faults.add(f"there is no array {name!r}", hint=did_you_mean(name, known))
        else:
            try:
                array = store.find(name)
            except _BROKEN as error:
                faults.add(f"the array {name!r} cannot be read: {error}", hint="save it again")
        found.append(array if array and array.check(faults) else None)
    return found


def _open(path: Path, faults: Faults) -> Store:
    """Return what is at a path, by its ending."""
    stores: dict[str, Callable[[Path], Store]] = {".npz": _Npz, ".safetensors": _Safetensors}
    if path.is_dir():
        return _Folder(path)
    if not path.exists():
        faults.stop("there is no such file", hint="a relative path starts at the folder of the file that names it")
    if not path.is_file():
        faults.stop("this is no regular file", hint="save the arrays in a file on disk first")
    make = stores.get(path.suffix.lower())
    if make is None:
        hint = "give an .npz or .safetensors file, or the folder of the .npy files"
        faults.stop(f"a file that ends in {path.suffix!r} is not known", hint=hint)
    try:
        return make(path)
    except _BROKEN as error:
        faults.stop(f"the file cannot be opened: {error}", hint="is it what its ending says? copy or save it again")


class _Folder:
    """A folder of ``.npy`` files."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        return sorted(path.stem for path in self._path.glob("*.npy") if path.is_file())

    def find(self, name: str) -> StoredArray:
        path = self._path / f"{name}.npy"
        with path.open("rb") as file:
            dtype, shape, is_column_major = _header(file)
            return StoredArray(path, name, dtype, shape, file.tell(), is_column_major)


class _Npz:
    """An ``.npz`` file: a zip archive of ``.npy`` files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with zipfile.ZipFile(path) as archive:
            self._names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]

    def names(self) -> list[str]:
        return self._names

    def find(self, name: str) -> StoredArray:
        with zipfile.ZipFile(self._path) as archive, archive.open(f"{name}.npy") as file:
            dtype, shape, _ = _header(file)
        return StoredArray(self._path, name, dtype, shape)


class _Safetensors:
    """A ``.safetensors`` file: eight bytes with the length of a JSON header, the header, the numbers.

    The library checks the header; it has no way to read some rows, so their place is taken from the header.

    The format: https://huggingface.co/docs/safetensors#format
    """

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                self._names: list[str] = list(file.keys())
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        self._path = path
        with path.open("rb") as raw:
            (length,) = struct.unpack("<Q", raw.read(8))
            self._header: dict[str, Any] = json.loads(raw.read(length))
            self._begin = raw.tell()

    def names(self) -> list[str]:
        return self._names

    def find(self, name: str) -> StoredArray:
        entry = self._header[name]
        if entry["dtype"] not in _SAFETENSORS:
            raise ValueError(f"its dtype {entry['dtype']} is not known here")
        offset = self._begin + entry["data_offsets"][0]
        return StoredArray(self._path, name, _SAFETENSORS[entry["dtype"]], tuple(entry["shape"]), offset)


def _header(file: IO[bytes]) -> tuple[str, tuple[int, ...], bool]:
    """Return dtype, shape and whether it is in Fortran order, from the header of an ``.npy`` file."""
    import numpy as np

    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version[0]}.{version[1]} of the format is for records, not for numbers")
    shape, is_column_major, dtype = read(file)
    return ("|V1" if dtype.fields else dtype.str), shape, is_column_major
