"""Output files and folders: written whole or not at all, and never over an existing one unless that is allowed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hookline.config.files import reason
from hookline.engine.errors import ConfigError
from hookline.runs.disk.durable_files import beside, make_folder, move_folder, remove_folder, sync_folder


def check_target(
    target: str | os.PathLike[str],
    *,
    force: bool,
    source: str | os.PathLike[str] | None = None,
    is_folder: bool = False,
) -> None:
    """Raise if a file or a folder cannot be written, before any work is done for it.

    Args:
        target: The file or folder.
        force: Whether an existing one may be replaced.
        source: A file that must not be overwritten.
        is_folder: Whether the target is a folder.

    Raises:
        ConfigError: When it exists, is the source, or its parent folder is missing.
    """
    target, source = Path(target), Path(source) if source else None
    if source and target.exists() and source.exists() and target.samefile(source):
        raise ConfigError(f"{target} is the input, and cannot be overwritten", hint="choose another name with -o")
    if os.path.lexists(target):
        if target.is_dir() != is_folder or (is_folder and target.is_symlink()):
            is_what, named = ("is not a folder", "a folder") if is_folder else ("is a folder", "a file")
            raise ConfigError(f"{target} {is_what}", hint=f"name {named} with -o")
        if not force:
            raise _taken(target)
    if not target.parent.is_dir():
        raise ConfigError(f"there is no folder {target.parent}", hint="create it, or choose another name with -o")


@contextmanager
def written_whole(target: str | os.PathLike[str], *, force: bool) -> Iterator[Path]:
    """Yield a path next to ``target`` to write to; then flush the file to disk and rename it to ``target``.

    When an error is raised meanwhile, no file is left.

    Raises:
        ConfigError: When it cannot be written, or another program has created it meanwhile.
    """
    target = Path(target)
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


@contextmanager
def folder_written_whole(target: str | os.PathLike[str], *, force: bool) -> Iterator[Path]:
    """Yield a new folder next to ``target`` to fill; then flush its files to disk and rename it to ``target``.

    With ``force``, it takes the place of a folder that has no other names in it than the new one. When an error is
    raised meanwhile, no folder is left, and an existing one is as it was.

    Raises:
        ConfigError: When it cannot be written, or an existing one may not be replaced.
    """
    target = Path(target)
    new = beside(target)
    try:
        make_folder(new)
        yield new
        for path in new.rglob("*"):
            (sync_folder if path.is_dir() else _flush)(path)
        sync_folder(new)
        if os.path.lexists(target):
            _check_replaceable(target, new, force=force)
            remove_folder(target)
        move_folder(new, target)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {reason(error)}", hint="choose another name with -o") from error
    finally:
        if new.exists():
            remove_folder(new)


def _check_replaceable(target: Path, new: Path, *, force: bool) -> None:
    if not force:
        raise _taken(target)
    if others := sorted({path.name for path in target.iterdir()} - {path.name for path in new.iterdir()}):
        message = f"{target} is not replaced: it also holds {', '.join(map(repr, others[:3]))}"
        raise ConfigError(message, hint="choose another name with -o, or remove the folder yourself")


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
