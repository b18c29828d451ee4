"""Configs: from TOML files, mappings and overrides to a complete ``RunConfig``. All load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookline.engine.door import lazy

if TYPE_CHECKING:
    from hookline.config.plugin_file import entries_of_file

_HOME = {"plugin_file": ("entries_of_file",)}

__all__ = ["entries_of_file"]

if not TYPE_CHECKING:
    __getattr__ = lazy(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
