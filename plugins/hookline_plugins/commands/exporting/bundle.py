"""Format ``bundle``: one file with which another machine evaluates and predicts."""

from __future__ import annotations

import functools
import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hookline import ContractError, HooklineError
from hookline.trained import call_model, load_trained, portable_files, subject_of

if TYPE_CHECKING:
    from hookline.trained import Comparison, Trained

_MAX_BYTES = 2**32 - 2**20
"""Larger archives need ZIP64, which a bundle does not use."""

_NO_DIGEST = b"0" * 64
_UNIX = 3


@dataclass(frozen=True)
class Bundle:
    """One file for another machine, which predicts and evaluates with it as with the run.

    It has weights, config, record and the description of the data, but none of the data. The same run gives the same
    bytes. It is read back, and its model compared bit by bit.
    """

    suffix: ClassVar[str] = ".zip"

    def export(self, trained: Trained, target: Path) -> Comparison:
        """Write the bundle, and compare the model that is loaded from it."""
        files = portable_files(trained)
        if (size := sum(map(len, files.values()))) > _MAX_BYTES:
            hint = "export a folder instead: --to hub-folder"
            raise ContractError(f"the run has {size:,} bytes, and a bundle at most {_MAX_BYTES:,}", hint=hint)
        _write(target, files)
        return compared_when_loaded(trained, target)


def compared_when_loaded(trained: Trained, path: Path) -> Comparison:
    """Load a model from what was written, and compare its outputs bit by bit.

    Raises:
        ContractError: When it cannot be loaded, or has other outputs.
    """
    try:
        again = load_trained(path.absolute())
    except HooklineError as error:
        message = str(error).replace(f"{path.absolute()}/", "")
        raise ContractError(
            f"the model cannot be loaded from the export alone: {message}", hint="such a run can be shared as --to onnx"
        ) from error
    return subject_of(trained, bare=True).compared(functools.partial(call_model, again.model))


def _write(path: Path, files: dict[str, bytes]) -> None:
    """Write a zip archive without compression and times, and the checksum of all that as its comment."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            member = zipfile.ZipInfo(name)  # of 1980-01-01
            member.create_system = _UNIX
            archive.writestr(member, files[name])
        archive.comment = _NO_DIGEST
    with path.open("rb+") as stream:
        digest = hashlib.sha256()
        left = path.stat().st_size - len(_NO_DIGEST)
        while left:
            data = stream.read(min(left, 2**20))
            digest.update(data)
            left -= len(data)
        stream.seek(-len(_NO_DIGEST), 2)
        stream.write(digest.hexdigest().encode())
