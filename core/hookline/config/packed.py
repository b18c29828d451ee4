"""Bundles: one file with the files of a saved run that its model needs elsewhere, to be read without unpacking it.

A bundle is a zip archive without compression, so that no member is larger than the file. Its comment is the SHA-256
(FIPS 180-4) of all bytes before the comment, in hexadecimal digits. No name contains a folder; nothing is extracted.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hookline.engine.errors import CheckpointError

SUFFIX = ".zip"

MAX_BYTES = 2**32 - 2
"""Largest bundle: a larger archive needs the extension ZIP64."""

_MAX_MEMBERS, _MAX_DIRECTORY_BYTES = 16, 2**13
_DIGEST_BYTES = 64
_END = struct.Struct("<4s4H2LH")
"""The end record of a zip archive (PKWARE, APPNOTE.TXT 6.3.10, section 4.3.16)."""
_LOCATOR_BYTES = 20
_CHUNK_BYTES = 2**20


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Return whether a path names a file with the suffix of a bundle."""
    return os.fspath(path).endswith(SUFFIX) and os.path.isfile(path)  # noqa: PTH113 - pathlib raises for a long name


def check_bundle(path: Path) -> None:
    """Check that a bundle is whole: no byte of it was changed since it was written.

    Raises:
        CheckpointError: When it was, or the file is not a bundle.
    """
    try:
        with path.open("rb") as stream, _opened(stream):
            _check_digest(stream)
    except OSError as error:
        message = f"{path} is not a bundle, or is damaged: {error.strerror or error}"
        raise CheckpointError(message, hint="copy it again; hookline export RUN --to bundle writes one") from error


def read_member(stream: BinaryIO, name: str, max_bytes: int) -> bytes:
    """Return the contents of a file in a bundle.

    Raises:
        OSError: When there is none, it is larger than ``max_bytes``, or the bundle is damaged.
    """
    with _opened(stream) as members:
        if name not in members:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        size = members[name].file_size
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"it has {size} bytes, the limit is {max_bytes}", name)
        with zipfile.ZipFile(stream) as archive:
            return archive.read(members[name])


def _check_digest(stream: BinaryIO) -> None:
    left = os.fstat(stream.fileno()).st_size - _DIGEST_BYTES
    stream.seek(0)
    digest = hashlib.sha256()
    while data := stream.read(min(_CHUNK_BYTES, left)):
        digest.update(data)
        left -= len(data)
    if stream.read() != digest.hexdigest().encode():
        raise OSError(errno.EIO, "it does not match its checksum")


@contextmanager
def _opened(stream: BinaryIO) -> Iterator[dict[str, zipfile.ZipInfo]]:
    """Yield the members of a bundle by name, after a check of its form; its faults become an ``OSError``."""
    try:
        size = os.fstat(stream.fileno()).st_size
        _check_end(stream, size)
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
        for fault in _faults(members, size):
            raise OSError(errno.EIO, fault)
        yield {member.filename: member for member in members}
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, struct.error) as error:
        raise OSError(errno.EIO, f"it is not a zip archive that can be read: {error}") from error


def _check_end(stream: BinaryIO, size: int) -> None:
    """Check the end record, before the directory that it describes is read into memory."""
    place = size - _DIGEST_BYTES - _END.size
    if not _LOCATOR_BYTES <= place <= MAX_BYTES:
        raise OSError(errno.EIO, f"it has {size} bytes")
    stream.seek(place - _LOCATOR_BYTES)
    has_locator = stream.read(_LOCATOR_BYTES).startswith(b"PK\x06\x07")
    mark, _, _, _, num_members, directory_bytes, _, comment_bytes = _END.unpack(stream.read(_END.size))
    if has_locator or mark != b"PK\x05\x06" or comment_bytes != _DIGEST_BYTES:
        raise OSError(errno.EIO, "it does not end as a bundle does")
    if num_members > _MAX_MEMBERS or directory_bytes > _MAX_DIRECTORY_BYTES:
        raise OSError(errno.EIO, f"it has {num_members} files, described in {directory_bytes} bytes")


def _faults(members: list[zipfile.ZipInfo], size: int) -> Iterator[str]:
    for member in members:
        name = member.filename
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            yield f"the name {name!r} is not that of a file in it"
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            yield f"{name!r} is compressed or encrypted"
        if not member.file_size == member.compress_size <= size:
            yield f"{name!r} claims to have {member.file_size} bytes"
    yield from (
        f"it has {name!r} {count} times" for name, count in Counter(m.filename for m in members).items() if count > 1
    )
