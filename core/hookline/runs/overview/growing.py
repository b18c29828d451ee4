"""Read a file that a run appends to, such as ``log.txt``, from where an earlier reading ended."""

from __future__ import annotations

import os
from pathlib import Path

from hookline.config.files import CHUNK_BYTES, NO_LINKS, NO_WAITING, check_regular, reason
from hookline.engine.errors import ConfigError

_SEAM_BYTES = 256
"""Number of bytes before an offset that are compared, to notice a file that was cut off and has grown again."""


class GrowingFile:
    """A file of a run folder, read piece by piece as it grows.

    Attributes:
        path: Its path.
        offset: Number of bytes read so far.
    """

    def __init__(self, path: str | os.PathLike[str], offset: int = 0) -> None:
        self.path = Path(path)
        self.offset = offset
        self._seam = b""

    def read(self, max_bytes: int = CHUNK_BYTES) -> tuple[bytes, bool]:
        """Return the next bytes, and whether they are the first of a file that was replaced or cut off since.

        There are none where nothing was added, and where the file is missing.

        Raises:
            ConfigError: When it cannot be read, is a link or not a regular file.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | NO_LINKS | NO_WAITING)
        except FileNotFoundError:
            return b"", self._starts_anew()
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {reason(error)}") from error
        try:
            return self._read(descriptor, max_bytes)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {reason(error)}") from error
        finally:
            os.close(descriptor)

    def skip_to_end(self, max_bytes: int) -> None:
        """Go to the last ``max_bytes`` of the file, unless it has been read beyond them; a missing file has none."""
        try:
            size = os.lstat(self.path).st_size
        except OSError:
            return
        if self.offset < size - max_bytes:
            self.offset, self._seam = size - max_bytes, b""

    def _read(self, descriptor: int, max_bytes: int) -> tuple[bytes, bool]:
        status = os.fstat(descriptor)
        check_regular(status, self.path)
        is_new = False
        # The descriptor then stands at the offset.
        os.lseek(descriptor, min(self.offset - len(self._seam), status.st_size), os.SEEK_SET)
        if status.st_size < self.offset or os.read(descriptor, len(self._seam)) != self._seam:
            is_new = self._starts_anew()
            os.lseek(descriptor, 0, os.SEEK_SET)
        data = os.read(descriptor, max_bytes)
        self.offset += len(data)
        self._seam = (self._seam + data)[-_SEAM_BYTES:]
        return data, is_new

    def _starts_anew(self) -> bool:
        was_read = self.offset > 0
        self.offset, self._seam = 0, b""
        return was_read
