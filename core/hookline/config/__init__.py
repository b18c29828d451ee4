"""Configs: from TOML files, mappings and overrides to a complete ``RunConfig``. All load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookline.engine.door import lazy

if TYPE_CHECKING:
    from hookline.config.files import memory_bytes
    from hookline.config.layers import Item, read_table
    from hookline.config.plugins.catalog import KINDS, Entry
    from hookline.config.plugins.choice import PluginChoice
    from hookline.config.plugins.options import FromUser, options_of
    from hookline.config.plugins.plugin_file import entries_of_file
    from hookline.config.run_config import PluginRules

_HOME = {
    "files": ("memory_bytes",),
    "plugins.catalog": ("KINDS", "Entry"),
    "layers": ("Item", "read_table"),
    "plugins.choice": ("PluginChoice",),
    "plugins.options": ("FromUser", "options_of"),
    "plugins.plugin_file": ("entries_of_file",),
    "run_config": ("PluginRules",),
}

__all__ = [
    "KINDS",
    "Entry",
    "FromUser",
    "Item",
    "PluginChoice",
    "PluginRules",
    "entries_of_file",
    "memory_bytes",
    "options_of",
    "read_table",
]

if not TYPE_CHECKING:
    __getattr__ = lazy(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
