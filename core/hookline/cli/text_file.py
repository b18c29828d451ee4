"""Text files that commands write: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from hookline.engine.errors import ConfigError
from hookline.trained.target_file import written_whole


def write_text_file(target: Path, text: str, *, force: bool) -> None:
    """Write a text file whole or not at all, and nothing behind a link, which someone else may have put there.

    Args:
        target: The file.
        text: Its content.
        force: Whether an existing file may be replaced.

    Raises:
        ConfigError: When the file cannot be written, exists, is a link or not a regular file.
    """
    if target.exists() and not target.is_file():
        raise ConfigError(f"{target} is not a regular file", hint="choose another name with -o")
    if target.is_symlink():
        raise ConfigError(f"{target} is a link", hint=f"name the file that it points to: -o {os.path.realpath(target)}")
    with written_whole(target, force=force) as new:
        new.write_text(text, encoding="utf-8")
