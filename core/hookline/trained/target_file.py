"""Output files: written whole or not at all, and never over an existing file unless that is allowed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hookline.config.files import reason
from hookline.engine.errors import ConfigError
from hookline.runs.disk.durable_files import beside, sync_folder


def check_target(target: Path, *, force: bool, source: Path | None = None) -> None:
    """Raise if a file cannot be written, before any work is done for it.

    Args:
        target: The file.
        force: Whether an existing file may be replaced.
        source: A file that must not be overwritten.

    Raises:
        ConfigError: When it exists, is the source, or its folder is missing.
    """
    if source and target.exists() and source.exists() and target.samefile(source):
        raise ConfigError(f"{target} is the input, and cannot be overwritten", hint="choose another name with -o")
    if os.path.lexists(target):
        if target.is_dir():
            raise ConfigError(f"{target} is a folder", hint="name a file with -o")
        if not force:
            raise _taken(target)
    if not target.parent.is_dir():
        raise ConfigError(f"there is no folder {target.parent}", hint="create it, or choose another name with -o")


@contextmanager
def written_whole(target: Path, *, force: bool) -> Iterator[Path]:
    """Yield a path next to ``target`` to write to; then flush the file to disk and rename it to ``target``.

    When an error is raised meanwhile, no file is left.

    Raises:
        ConfigError: When it cannot be written, or another program has created it meanwhile.
    """
    # Libraries choose the format by the suffix.
    new = Path(f"{beside(target)}{target.suffix}")
    try:
        yield new
        _flush(new)
        if force:
            new.replace(target)
        else:
            _take_free_name(new, target)
        sync_folder(target.parent)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {reason(error)}", hint="choose another name with -o") from error
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _take_free_name(new: Path, target: Path) -> None:
    """Rename a file unless the name is taken: a hard link fails then, where a rename would overwrite."""
    try:
        target.hardlink_to(new)
    except FileExistsError as error:
        raise _taken(target) from error
    except OSError:
        # Not every file system has hard links.
        if os.path.lexists(target):
            raise _taken(target) from None
        new.rename(target)


def _taken(target: Path) -> ConfigError:
    return ConfigError(f"{target} already exists", hint="choose another name with -o, or overwrite it with --force")
