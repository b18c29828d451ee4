"""Arrays in files as the inputs of an exported model; nothing is unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hookline.engine.words import did_you_mean
from hookline.trained.exportable import Description, RawInput
from hookline.trained.raw.faults import Batch, Faults

_BROKEN = (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError)
"""Exceptions that reading a damaged file can raise."""


_HINT = "use an .npz or .safetensors file, or a folder of .npy files"


def read_arrays(path: Path, description: Description, batch_size: int) -> Iterator[Batch]:
    """Yield the rows of the arrays in an ``.npz`` or ``.safetensors`` file, or in a folder of ``.npy`` files.

    Raises:
        DataError: With every fault of the file.
    """
    faults = Faults(path)
    load, names = _opened(path, faults)
    arrays = {}
    for raw in description.inputs:
        if raw.name not in names:
            form = f"{raw.dtype} [N{''.join(f', {size}' for size in raw.shape)}]"
            hint = f"{_HINT} with {raw.name}, {form}; a run takes the files that it was trained on"
            faults.add(f"there is no array {raw.name!r}", hint=did_you_mean(raw.name, names) if names else hint)
            continue
        try:
            arrays[raw.name] = _as_input(load(raw.name), raw, faults)
        except _BROKEN as error:
            faults.add(f"the array {raw.name!r} cannot be read: {error}", hint="save it again")
    faults.check()
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        faults.stop(f"the arrays have different lengths: {lengths}")
    for first in range(0, next(iter(lengths.values())), batch_size):
        yield Batch({name: array[first : first + batch_size] for name, array in arrays.items()}, {}, {})


def _opened(path: Path, faults: Faults) -> tuple[Callable[[str], Any], list[str]]:
    """Return the function from a name to an array, and the names."""
    import numpy as np
    import safetensors

    if path.is_dir():
        return lambda name: np.load(path / f"{name}.npy", allow_pickle=False), [one.stem for one in path.glob("*.npy")]
    if not path.is_file():
        faults.stop("this is not a regular file" if path.exists() else "there is no such file")
    opened: dict[str, Callable[[], Any]] = {
        ".npz": lambda: np.load(path, allow_pickle=False),
        ".safetensors": lambda: safetensors.safe_open(path, framework="numpy"),
    }
    if path.suffix not in opened:
        faults.stop(f"files with the extension {path.suffix!r} are not supported", hint=_HINT)

    def load(name: str) -> Any:
        with opened[path.suffix]() as file:
            return file[name] if path.suffix == ".npz" else file.get_tensor(name)

    try:
        with opened[path.suffix]() as file:
            return load, list(file.keys())
    except (*_BROKEN, safetensors.SafetensorError) as error:
        faults.stop(f"the file cannot be opened: {error}", hint="copy or save it again")


def _as_input(array: Any, raw: RawInput, faults: Faults) -> Any:
    """Return an array as an input; add a fault if it has another shape or kind, or a number that is not finite."""
    import numpy as np

    if array.dtype.kind not in "fiub":
        faults.add(f"the array {raw.name!r} holds {array.dtype.name}, not numbers")
        return array
    if array.ndim == 1 and raw.shape == (1,):
        array = array[:, np.newaxis]
    if array.shape[1:] != raw.shape or not len(array):
        got = f"{list(array.shape[1:])}, but the model takes {list(raw.shape)}" if len(array) else "no rows"
        faults.add(f"inputs in the array {raw.name!r} have {'the shape ' * bool(len(array))}{got}")
        return array
    wanted = array.astype(raw.dtype)
    if not raw.dtype.startswith("float") and not (wanted == array).all():
        faults.add(f"the array {raw.name!r} holds {array.dtype.name}, but the model takes {raw.dtype}")
    elif bad := np.flatnonzero(~np.isfinite(wanted).reshape(len(wanted), -1).all(axis=1)).tolist():
        more = f" (the first of {len(bad):,} such rows)" if len(bad) > 1 else ""
        if not raw.fills_missing:
            faults.add(f"row {bad[0]} of the array {raw.name!r} is not finite{more}")
    return wanted
