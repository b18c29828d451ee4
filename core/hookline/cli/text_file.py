"""Text files that commands write: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from hookline.engine.errors import ConfigError
from hookline.trained.target_file import written_whole


def write_text_file(target: Path, text: str, *, force: bool) -> None:
    """Write a text file whole or not at all; if ``target`` is a link, write the file that it points to.

    Args:
        target: The file.
        text: Its content.
        force: Whether an existing file may be replaced.

    Raises:
        ConfigError: When the file cannot be written, exists, or is not a regular file.
    """
    if target.exists() and not target.is_file():
        raise ConfigError(f"{target} is not a regular file", hint="choose another name with -o")
    path = Path(os.path.realpath(target)) if target.is_symlink() else target
    with written_whole(path, force=force) as new:
        new.write_text(text, encoding="utf-8")
