"""Lazy loading of the names that a door offers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence


def lazy(package: str, names: Mapping[str, Sequence[str]], modules: Collection[str] = ()) -> Callable[[str], object]:
    """Return a ``__getattr__`` that loads the names of a package on first use.

    Args:
        package: Name of the package.
        names: The offered names by module, relative to the package.
        modules: Modules of the package that are offered themselves.
    """
    module_of = {name: module for module, offered in names.items() for name in offered}

    def load(name: str) -> object:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)

    return load
