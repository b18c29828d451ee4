"""New folder with files, written whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from hookline.engine.errors import Fault


def folder_faults(folder: Path) -> list[Fault]:
    """Return the reasons why new files cannot be written to a folder; it must be missing or empty."""
    hint = "choose another folder with --dir"
    if folder.is_symlink():  # someone else may have put it there
        return [Fault(f"{folder} is a link", hint=hint)]
    if folder.is_dir():
        return [Fault(f"the folder {folder} is not empty", hint=hint)] if any(folder.iterdir()) else []
    return [Fault(f"{folder} already exists and is not a folder", hint=hint)] if folder.exists() else []


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Write files by their paths into a folder that is missing or empty; an error leaves nothing behind.

    Raises:
        OSError: When they cannot be written.
    """
    folder = folder.resolve()
    # The closest existing parent: one rename then puts everything below it in place.
    place = next(path for path in (folder, *folder.parents) if path.exists())
    with tempfile.TemporaryDirectory(dir=place, prefix=".hookline-new-") as temporary:
        draft = Path(temporary)
        for name, text in files.items():
            path = draft / folder.relative_to(place) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        for path in list(draft.iterdir()):
            path.rename(place / path.name)
