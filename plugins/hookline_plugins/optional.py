"""Import of the optional packages, each of which is an extra."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from hookline import PluginError


def optional_package(name: str, needed_by: str, extra: str = "") -> ModuleType:
    """Return an optional package.

    Args:
        name: Name of the package.
        needed_by: Beginning of the error message: ``lora needs``.
        extra: Name of the extra, if it is another than that of the package.

    Raises:
        PluginError: When it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PluginError(f"{needed_by} {name}: {error}", hint=f"pip install 'hookline[{extra or name}]'") from error


def check_package(name: str, needed_by: str, extra: str = "") -> None:
    """Check that an optional package is installed, without importing it; the arguments are those above.

    Raises:
        PluginError: When it is not.
    """
    if importlib.util.find_spec(name) is None:
        raise PluginError(f"{needed_by} {name}: it is not installed", hint=f"pip install 'hookline[{extra or name}]'")
