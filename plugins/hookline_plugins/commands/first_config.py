"""Config of a first run, which ``hookline init`` writes for a data file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookline import ConfigError
from hookline_plugins.data.images.starter import from_images
from hookline_plugins.data.tables.starting.starter import Starter, from_table
from hookline_plugins.data.text.starting import from_text, is_text

if TYPE_CHECKING:
    from pathlib import Path


def from_file(path: Path, folder: Path, target: str | None = None, task: str | None = None) -> Starter:
    """Return a config in ``folder`` that trains on a text, a folder of texts or of images, or a table.

    Args:
        path: The file or folder.
        folder: The folder of the config.
        target: The column of a table to predict, if it is not to be chosen.
        task: ``regression`` or ``classification``, if it is not to be chosen.

    Raises:
        DataError: If the file cannot be used; carries every fault.
        ConfigError: If a text is given a target or a task.
        PluginError: If a package that reads the data is not installed.
    """
    if not is_text(path):
        make = from_images if path.is_dir() else from_table
        return make(path, folder, target, task)
    if target or task:
        hint = "name a CSV or Parquet file, or leave them out"
        raise ConfigError(f"--target and --task are for tables, but {path.name} is a text", hint=hint)
    return from_text(path, folder)
