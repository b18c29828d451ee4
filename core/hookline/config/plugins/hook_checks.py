"""Checks of a plugin class against the hook specification."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any, NamedTuple

from hookline.engine import hookspecs
from hookline.engine.errors import Fault, Location
from hookline.engine.plugin.hook_call import WRAPPER_FORM
from hookline.engine.plugin.hook_names import HOOKS, MARK
from hookline.engine.words import did_you_mean


class Renamed(NamedTuple):
    """A renamed argument of a hook: its new name, and the versions that introduce it and refuse the old one."""

    new: str
    since: str
    removed_in: str


RENAMED: dict[str, dict[str, Renamed]] = {}
"""Old names of arguments by hook, which plugins may still use for one minor release."""

WRAPPABLE = tuple(
    name for name in HOOKS if getattr(getattr(hookspecs, name), f"{hookspecs.PROJECT}_spec")["firstresult"]
)
"""The hooks that can have wrappers: those with one result."""


def hook_fault(name: str, member: Any) -> Fault | None:
    """Return the fault of a member of a plugin class, with its place, if it has one."""
    fault = _fault(name, member)
    code = getattr(inspect.unwrap(member), "__code__", None) if fault else None
    return replace(fault, location=Location(code.co_filename, code.co_firstlineno)) if fault and code else fault


def _fault(name: str, member: Any) -> Fault | None:
    # A static or class method has the mark itself, or its function has it.
    mark = getattr(member, MARK, None) or getattr(getattr(member, "__func__", None), MARK, None)
    if mark is None:
        # None disables a hook of a base class.
        if name in HOOKS and member is not None:
            return Fault(
                f"its method {name!r} is named like a hook but not marked",
                hint="mark it with @hookimpl, above any other decorator",
            )
        return None
    if mark["specname"] not in (None, name):
        return Fault(f"its method {name!r} has specname = {mark['specname']!r}", hint="name the method like its hook")
    if name not in HOOKS:
        if mark["optionalhook"]:  # of another version of Hookline
            return None
        hint = did_you_mean(name, HOOKS)
        return Fault(f"its method {name!r} is marked @hookimpl, but there is no such hook", hint=hint)
    return _kind_fault(name, member, is_wrapper=mark["wrapper"]) or _argument_fault(name, member)


def _kind_fault(name: str, member: Any, *, is_wrapper: bool) -> Fault | None:
    if not inspect.isfunction(member):
        return Fault(f"its hook {name!r} is not a plain method", hint="write it as def, with self")
    if inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member):
        return Fault(f"its hook {name!r} is async, so it would never run", hint="write it as def")
    if is_wrapper and name not in WRAPPABLE:
        return Fault(f"its hook {name!r} cannot be a wrapper", hint=f"only these can: {', '.join(WRAPPABLE)}")
    if is_wrapper and not inspect.isgeneratorfunction(member):
        return Fault(f"its wrapper {name!r} has no yield", hint=WRAPPER_FORM)
    if not is_wrapper and inspect.isgeneratorfunction(member):
        return Fault(f"its hook {name!r} has a yield, so it would never run", hint="is it @hookimpl(wrapper=True)?")
    return None


def _argument_fault(name: str, member: Any) -> Fault | None:
    given = list(inspect.signature(member).parameters.values())
    parameters = given[1:]
    if not given or given[0].name in HOOKS[name]:
        return Fault(f"its hook {name!r} lacks the argument 'self'", hint=f"write it as {signature_of(name)}")
    known = (*HOOKS[name], *RENAMED.get(name, ()))
    if forms := [f"{p.name!r} ({p.kind.description})" for p in given if p.kind is not p.POSITIONAL_OR_KEYWORD]:
        hint = f"write it as {signature_of(name)}; if these are a decorator's, it needs functools.wraps"
        return Fault(f"its hook {name!r} takes {', '.join(forms)}, but only plain arguments can be given", hint=hint)
    if unknown := [p.name for p in parameters if p.name not in known]:
        message = f"its hook {name!r} takes {', '.join(map(repr, unknown))}, which the hook does not provide"
        return Fault(message, hint=f"the hook is {signature_of(name)}; leave out arguments that you do not need")
    if optional := [p.name for p in parameters if p.default is not inspect.Parameter.empty]:
        message = f"its hook {name!r} has a default for {', '.join(map(repr, optional))}, so pluggy would not pass it"
        return Fault(message, hint="remove the default")
    return None


def signature_of(hook: str) -> str:
    """Return the signature of a hook as a plugin declares it."""
    return f"{hook}({', '.join(('self', *HOOKS[hook]))})"
