"""Checks of a plugin class against the hook specification."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from hookline.engine import hookspecs
from hookline.engine.errors import Fault
from hookline.engine.words import did_you_mean

HOOKS: Mapping[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(spec).parameters)
    for name, spec in vars(hookspecs).items()
    if hasattr(spec, f"{hookspecs.PROJECT}_spec")
}
"""Every hook with the names of its arguments."""

WRAPPABLE = tuple(name for name in HOOKS if name.startswith("build_") and name != "build_metrics")
"""The hooks that a wrapper can go around: those with one result."""

MARK = f"{hookspecs.PROJECT}_impl"
"""The attribute by which pluggy's ``@hookimpl`` marks a method."""


def hook_fault(name: str, member: Any) -> Fault | None:
    """Return what is wrong with a member of a plugin class, if anything is."""
    # A static or class method bears the mark itself, or its function does.
    mark = getattr(member, MARK, None) or getattr(getattr(member, "__func__", None), MARK, None)
    if mark is None:
        # None switches off a hook of a base class.
        if name in HOOKS and member is not None:
            return Fault(f"its method {name!r} is named like a hook but not marked", hint="mark it with @hookimpl")
        return None
    if name not in HOOKS:
        hint = did_you_mean(name, HOOKS)
        return Fault(f"its method {name!r} is marked @hookimpl, but there is no such hook", hint=hint)
    return _kind_fault(name, member, is_wrapper=mark["wrapper"]) or _argument_fault(name, member)


def _kind_fault(name: str, member: Any, *, is_wrapper: bool) -> Fault | None:
    if not inspect.isfunction(member):
        return Fault(f"its hook {name!r} is no plain method", hint="write it as def, with self")
    if inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member):
        return Fault(f"its hook {name!r} is async, so nothing would run it", hint="write it as def")
    if is_wrapper and name not in WRAPPABLE:
        return Fault(f"its hook {name!r} cannot be a wrapper", hint=f"wrappers are for {', '.join(WRAPPABLE)}")
    if is_wrapper and not inspect.isgeneratorfunction(member):
        return Fault(f"its wrapper {name!r} has no yield", hint="result = yield, then return the result or another")
    if not is_wrapper and inspect.isgeneratorfunction(member):
        return Fault(f"its hook {name!r} has a yield, so nothing would run it", hint="is it @hookimpl(wrapper=True)?")
    return None


def _argument_fault(name: str, member: Any) -> Fault | None:
    parameters = list(inspect.signature(member).parameters.values())[1:]
    known = (*HOOKS[name], *hookspecs.RENAMED.get(name, ()))
    if strange := [p.name for p in parameters if p.name not in known or p.kind is not p.POSITIONAL_OR_KEYWORD]:
        message = f"its hook {name!r} takes {', '.join(map(repr, strange))}, which the hook does not give"
        return Fault(message, hint=f"the hook is {signature_of(name)}; leave out what you do not need")
    if optional := [p.name for p in parameters if p.default is not inspect.Parameter.empty]:
        message = f"its hook {name!r} has a default for {', '.join(map(repr, optional))}, so it would never be given"
        return Fault(message, hint="take the default away")
    return None


def signature_of(hook: str) -> str:
    """Return the signature of a hook as a plugin writes it."""
    return f"{hook}({', '.join(('self', *HOOKS[hook]))})"
