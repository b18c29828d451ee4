"""Arguments of hooks by deprecated names: they still work, with a warning."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from hookline.engine import hookspecs
from hookline.engine.plugin.hook_checks import HOOKS, MARK, RENAMED
from hookline.engine.plugin.plugin import Plugin


def old_arguments(method: Callable[..., Any], plugin: Plugin, hook: str) -> list[str]:
    """Return a warning for each argument of a hook that a plugin takes by a deprecated name."""
    renamed = RENAMED.get(hook, {})
    return [
        f"{plugin} takes {name!r} in hook {hook!r}, which was renamed to {renamed[name].new!r} in "
        f"{renamed[name].since}; the old name is refused from {renamed[name].removed_in} on"
        for name in inspect.signature(method).parameters
        if name in renamed
    ]


def with_new_names(method: Callable[..., Any], hook: str) -> Callable[..., Any]:
    """Wrap a method that takes arguments of its hook by old names so that it takes the new ones."""
    renamed = RENAMED.get(hook, {})
    new_names = {name: renamed[name].new if name in renamed else name for name in inspect.signature(method).parameters}
    if not renamed.keys() & new_names.keys():
        return method

    # pluggy reads the argument names from the wrapped function.
    @functools.wraps(getattr(hookspecs, hook))
    def call(*arguments: Any) -> Any:
        return method(**{name: arguments[HOOKS[hook].index(new)] for name, new in new_names.items()})

    setattr(call, MARK, getattr(method, MARK))
    return call
