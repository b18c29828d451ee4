"""Files in the user's folder for caches: named by all that they depend on, written once, never changed."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def cache_folder(name: str) -> Path:
    """Return the folder ``hookline/NAME`` in the user's folder for caches.

    Source: the XDG Base Directory Specification; on Windows it is ``%LOCALAPPDATA%``.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return Path(base or Path.home() / ".cache") / "hookline" / name


@contextmanager
def first_of_its_name(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file, which gets its name when it is complete and on the disk, unless the name is taken by then.

    So two programs that write the same file at once both use the first.

    Raises:
        OSError: If it cannot be written.
    """
    new = path.with_name(f".tmp-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(new)
        except FileExistsError:
            pass
        except OSError:  # not every file system has hard links
            new.replace(path)
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
