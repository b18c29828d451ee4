"""Arguments of hooks by deprecated names: they still work, with a warning."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from hookline.config.plugins.hook_checks import RENAMED
from hookline.engine import hookspecs
from hookline.engine.plugin.hook_names import HOOKS, MARK

_Instance = TypeVar("_Instance")


def with_new_names(instance: _Instance, plugin: str) -> _Instance:
    """Let the hooks of an object that take arguments by old names be called with the new ones; return the object.

    Such a hook warns in each run in which it is called.
    """
    for hook, renamed in RENAMED.items():
        method = getattr(instance, hook, None)
        if method is not None and renamed.keys() & inspect.signature(method).parameters.keys():
            # Not by setattr, which a frozen dataclass refuses.
            object.__setattr__(instance, hook, _renaming(method, hook, plugin))
    return instance


def _renaming(method: Callable[..., Any], hook: str, plugin: str) -> Callable[..., Any]:
    """Wrap a method that takes arguments of its hook by old names so that it takes the new ones."""
    renamed = RENAMED[hook]
    new_names = {name: renamed[name].new if name in renamed else name for name in inspect.signature(method).parameters}
    warnings = [
        f"{plugin} takes {old!r} in hook {hook!r}, which was renamed to {renamed[old].new!r} in {renamed[old].since}; "
        f"the old name is refused from {renamed[old].removed_in} on"
        for old in new_names
        if old in renamed
    ]

    # pluggy reads the argument names from the wrapped function.
    @functools.wraps(getattr(hookspecs, hook))
    def call(*arguments: Any) -> Any:
        given = dict(zip(HOOKS[hook], arguments, strict=True))
        for warning in warnings:
            if warning not in given["run"].warnings:
                given["run"].warn(warning)
        return method(**{name: given[new] for name, new in new_names.items()})

    setattr(call, MARK, getattr(method, MARK))
    return call
