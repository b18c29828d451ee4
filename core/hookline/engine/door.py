"""Doors of packages: names that are imported from their modules on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence


def lazy(package: str, names: Mapping[str, Sequence[str]], modules: Collection[str] = ()) -> Callable[[str], object]:
    """Return the ``__getattr__`` of a package whose names are loaded on first use.

    Args:
        package: Name of the package.
        names: The names that each of its modules offers, by the module's name within the package.
        modules: Modules of the package that are themselves offered.
    """
    module_of = {name: module for module, offered in names.items() for name in offered}

    def load(name: str) -> object:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)

    return load
