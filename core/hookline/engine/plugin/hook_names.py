"""The hooks by name, with the names of their arguments, and the mark of the methods that implement them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from hookline.engine import hookspecs

HOOKS: Mapping[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(spec).parameters)
    for name, spec in vars(hookspecs).items()
    if hasattr(spec, f"{hookspecs.PROJECT}_spec")
}
"""Names of the arguments of each hook."""

MARK = f"{hookspecs.PROJECT}_impl"
"""The attribute with which pluggy's ``@hookimpl`` marks a method."""
