"""Import of the optional packages, each of which is an extra of the same name."""

from __future__ import annotations

import importlib
from types import ModuleType

from hookline import PluginError


def optional_package(name: str, needed_by: str) -> ModuleType:
    """Return an optional package.

    Args:
        name: Name of the package and of the extra.
        needed_by: Beginning of the error message: ``lora needs``.

    Raises:
        PluginError: When it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PluginError(f"{needed_by} {name}: {error}", hint=f"pip install 'hookline[{name}]'") from error
