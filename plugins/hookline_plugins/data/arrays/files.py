"""Arrays in ``.npz``, ``.npy`` and ``.safetensors`` files: names, dtypes, shapes and rows.

Nothing is ever unpickled: an array of Python objects is recognized by its header and refused.

Shapes: ``N`` rows in an array, ``B`` rows read at once.
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
from hookline_plugins.data.faults import NO_FILE_HINT, Faults
from hookline_plugins.data.splits import Key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from torch import Tensor


_CHUNK_BYTES = 2**24
"""Bytes of an array to check at a time."""

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
"""The format's names of dtypes, and NumPy's; NumPy has no bfloat16."""

_WORDS = {"O": "Python objects", "U": "text", "S": "bytes", "M": "dates", "m": "durations", "V": "records"}
_BROKEN = (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError)
"""Exceptions that reading a damaged file can raise."""


@dataclass(frozen=True)
class StoredArray:
    """An array in a file.

    Attributes:
        path: The file.
        name: The name of the array.
        dtype: NumPy's name of the dtype with its byte order, such as ``<f4``; or ``bfloat16``.
        shape: The shape, ``[N, ...]``.
        offset: Position of the first number in the file; None for an array in an archive.
        is_column_major: True if the first index changes fastest (Fortran order).
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int | None = None
    is_column_major: bool = False

    @property
    def num_bytes(self) -> int:
        """Size of the numbers in bytes."""
        return math.prod(self.shape) * self._stored.itemsize

    @property
    def dtype_name(self) -> str:
        """Name of the dtype without byte order, such as ``float32``."""
        return self.dtype if self.dtype == "bfloat16" else self._stored.name

    @property
    def kind(self) -> str:
        """NumPy's kind of the dtype: ``f`` floating point, ``i`` and ``u`` integers, ``b`` booleans, or refused."""
        if self.dtype == "bfloat16":
            return "f"
        kind = self._stored.kind
        return "longdouble" if kind == "f" and self._stored.itemsize > 8 else kind

    def check(self, faults: Faults) -> bool:
        """Return whether the array can be read; if not, add a fault."""
        where = Location(str(self.path))
        if self.kind not in "fiub":
            what = _WORDS.get(self.kind, f"numbers of type {self.dtype_name}")
            hint = "save it as numbers: nothing is unpickled" if self.kind == "O" else "save it as integers or float32"
            faults.add(f"the array {self.name!r} holds {what}", location=where, hint=hint)
            return False
        if not self.shape or 0 in self.shape:
            faults.add(f"the array {self.name!r} has no rows: its shape is {list(self.shape)}", location=where)
            return False
        if self.offset is None:
            faults.check_memory(self.num_bytes, f"the {self.shape[0]:,} rows of the array {self.name!r}")
        if self.offset is not None and (size := self.path.stat().st_size) < self.offset + self.num_bytes:
            missing = self.offset + self.num_bytes - size
            message = f"the file is truncated: {missing:,} bytes of the array {self.name!r} are missing"
            faults.add(message, location=where, hint="copy or save it again")
            return False
        return True

    def load(self) -> Tensor:
        """Return the whole array.

        Raises:
            OSError, ValueError: If the file is damaged.
        """
        return self._tensor(self.values())

    def values(self) -> np.ndarray[Any, Any]:
        """Return the whole array as NumPy reads it, which may hold text.

        Raises:
            OSError, ValueError: If the file is damaged.
        """
        if self.offset is not None:
            return self._rows(slice(None))
        import numpy as np

        with np.load(self.path, allow_pickle=False) as file:
            found: np.ndarray[Any, Any] = file[self.name]
            return found

    def rows(self, which: slice | np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
        """Return some rows, ``[B, ...]``, without reading the others.

        The file is mapped for this call only. Pages read through a mapping count as memory of the process until it is
        closed, so that by the end of an epoch the whole file would count.
        """
        return self._tensor(self._rows(which))

    def _rows(self, which: slice | np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, Any]:
        import numpy as np

        assert self.offset is not None
        order: Any = "F" if self.is_column_major else "C"
        return np.array(np.memmap(self.path, self._stored, "r", self.offset, self.shape, order)[which])

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield all rows in chunks, each with the number of its first row."""
        size = max(_CHUNK_BYTES // (self.num_bytes // self.shape[0]), 1)
        for first in range(0, self.shape[0], size):
            yield first, self.rows(slice(first, first + size))

    @property
    def _stored(self) -> np.dtype[Any]:
        import numpy as np

        return np.dtype("<u2" if self.dtype == "bfloat16" else self.dtype)

    def _tensor(self, array: np.ndarray[Any, Any]) -> Tensor:
        """Return a tensor of the array's dtype in native byte order; int64 for dtypes that torch barely supports."""
        import numpy as np
        import torch

        if self.dtype == "bfloat16":
            return torch.from_numpy(array.astype("=i2", copy=False)).view(torch.bfloat16)
        is_rare = array.dtype.kind == "u" and array.dtype.itemsize > 1
        native = np.dtype(np.int64) if is_rare else array.dtype.newbyteorder("=")
        return torch.from_numpy(np.ascontiguousarray(array, dtype=native))


class Store(Protocol):
    """Arrays by name."""

    def names(self) -> list[str]:
        """Return the names of the arrays."""

    def find(self, name: str) -> StoredArray:
        """Return an array without reading its numbers."""


def find_arrays(path: Path, names: tuple[str, ...], faults: Faults) -> list[StoredArray | None]:
    """Return the arrays with these names; for each that cannot be read, return None and add a fault.

    Raises:
        DataError: If the file cannot be opened or is of an unknown format.
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


def read_key(path: Path, name: str, num_rows: int, faults: Faults) -> Key | None:
    """Return the array ``[N]`` that decides on the splits: numbers, text or dates; None, with a fault, if it cannot.

    Raises:
        DataError: If the file cannot be opened or is of an unknown format.
    """
    import numpy as np
    import torch

    store = _open(path, faults)
    if name not in (known := store.names()):
        faults.add(f"there is no array {name!r}", hint=did_you_mean(name, known))
        return None
    try:
        values = store.find(name).values()
    except _BROKEN as error:
        faults.add(f"the array {name!r} cannot be read: {error}", hint="save it again")
        return None
    if values.dtype.kind not in "fiubUSM" or values.shape not in ((num_rows,), (num_rows, 1)):
        what = f"holds {values.dtype} of shape {list(values.shape)}, but decides on the splits of {num_rows:,} rows"
        faults.add(f"the array {name!r} {what}", hint="save a number, a text or a date for each row")
        return None
    values = values.reshape(-1)
    if values.dtype.kind == "S":
        values = values.astype("U")
    if len(missing := np.flatnonzero(values != values)):  # noqa: PLR0124 - only NaN and NaT differ from themselves
        faults.add(f"row {missing[0]} of the array {name!r} is missing", hint="rows count from 0; fill it in")
    found, codes = np.unique(values, return_inverse=True)
    return Key(name, torch.from_numpy(codes), list(map(str, found.tolist())))


def _open(path: Path, faults: Faults) -> Store:
    """Open the arrays at a path; its extension gives the format."""
    stores: dict[str, Callable[[Path], Store]] = {".npz": _Npz, ".safetensors": _Safetensors}
    if path.is_dir():
        return _Folder(path)
    if not path.exists():
        faults.stop("there is no such file", hint=NO_FILE_HINT)
    if not path.is_file():
        faults.stop("this is not a regular file", hint="save the arrays to a file on disk first")
    make = stores.get(path.suffix.lower())
    if make is None:
        hint = "use an .npz or .safetensors file, or a folder of .npy files"
        faults.stop(f"files with the extension {path.suffix!r} are not supported", hint=hint)
    try:
        return make(path)
    except _BROKEN as error:
        hint = "check that its content matches its extension; copy or save it again"
        faults.stop(f"the file cannot be opened: {error}", hint=hint)


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
    """A ``.safetensors`` file: the length of a JSON header in eight bytes, the header, the numbers.

    The library checks the header. It cannot read single rows, so their offsets are taken from the header here.

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
            raise ValueError(f"its dtype {entry['dtype']} is not supported")
        offset = self._begin + entry["data_offsets"][0]
        return StoredArray(self._path, name, _SAFETENSORS[entry["dtype"]], tuple(entry["shape"]), offset)


def _header(file: IO[bytes]) -> tuple[str, tuple[int, ...], bool]:
    """Read the header of an ``.npy`` file; return the dtype, the shape, and True for Fortran order."""
    import numpy as np

    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version[0]}.{version[1]} of the format is for records, not numbers")
    shape, is_column_major, dtype = read(file)
    return ("|V1" if dtype.fields else dtype.str), shape, is_column_major
