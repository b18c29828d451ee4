"""Find the plugin that made the object or function in which an error was raised.

What a build hook returned is called long after the hook, which therefore never sees its errors. Nothing is put around
it, so that a step costs nothing: the frames of an error's traceback are compared with what the plugins made.
"""

from __future__ import annotations

import ast
import functools
import linecache
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import accumulate, islice
from types import FrameType
from typing import Any

from hookline.engine.data import DataSource
from hookline.engine.plugin.hook_call import ending_error, is_attributed
from hookline.engine.plugin.hook_names import HOOKS
from hookline.engine.plugin.member import Member, Plugin
from hookline.engine.plugin.observer import Observer

Maker = tuple[Plugin, str | None]
"""The plugin that made an object, and its hook; None for the plugin's own object."""
_LIBRARIES = ("torch.", "hookline.engine.")
"""Modules whose code any plugin uses."""


class Makers(Observer):
    """The makers of objects and functions, the core among them.

    Args:
        check: Called with each result of a build hook: plugin, hook, result; raises ``ContractError`` to refuse it.

    Attributes:
        first: The first result of each build hook, before any wrapper.
    """

    def __init__(self, check: Callable[[Plugin, str, Any], None]) -> None:
        self._check = check
        self.first: dict[str, Any] = {}
        self._made: dict[Any, Maker | None] = {}
        self._modules: dict[str, Plugin | None] = {}  # None: several plugins have objects of the module
        self._kept: list[Any] = []  # an identity is unique only as long as its object exists

    def built(self, member: Member, hook: str, result: Any, *, is_wrapper: bool) -> Any:  # noqa: ARG002 - a wrapper is a maker, too
        """Record the result of a build hook, unless there is none."""
        if result is not None:
            self._check(member.plugin, hook, result)
            self.first.setdefault(hook, result)
            self.add(member, hook, result)
        return result

    def add(self, member: Member, hook: str | None, made: Any) -> None:
        """Record an object of a plugin, with the datasets of a data source or the values of a mapping."""
        self._kept.append(made)
        parts = made.splits() | {"collate": made.collate} if isinstance(made, DataSource) else made
        for part in (made, *(parts.values() if isinstance(parts, Mapping) else ())):
            if part is not None:  # a wrapper may return what it got
                self._made.setdefault(_key(part), None if member.is_core else (member.plugin, hook))
                module = str(getattr(part, "__module__", None))
                if not member.is_core and self._modules.setdefault(module, member.plugin) is not member.plugin:
                    self._modules[module] = None

    def of(self, error: BaseException) -> Maker | None:
        """Return the maker of the innermost object in the traceback of an error, or else of its cause.

        Code of C leaves no frame: it is found by the call in the innermost one. Classes that nobody made, such as a
        function of autograd, are found by their module, if it is that of one plugin.
        """
        found: Maker | None = None
        beside: Plugin | None = None
        for frame, _ in traceback.walk_tb(error.__traceback__):
            module = str(frame.f_globals.get("__name__"))
            beside = beside if module.startswith(_LIBRARIES) else self._modules.get(module, beside)
            if key := next((key for key in _keys(frame) if key in self._made), None):
                found = self._made[key]
                in_hook = next((name for name in frame.f_code.co_qualname.split(".") if name in HOOKS), None)
                found = found and (found[0], found[1] or in_hook)
        called = next((made for part in _called(error) if (made := self._made.get(_key(part)))), None)
        found = found or called or ((beside, None) if beside else None)
        return found or (self.of(error.__cause__) if error.__cause__ else None)

    def attribute(self, error: BaseException, made: Any = None) -> None:
        """Add a note with plugin and hook to an error of an object, by default of that in its traceback."""
        if maker := self._made.get(_key(made)) or self.of(error):
            plugin, hook = maker
            if not is_attributed(error):
                error.add_note(f"raised in {f'an object made by hook {hook!r} of ' if hook else ''}{plugin}")

    @contextmanager
    def attributing(self, made: Any = None) -> Iterator[None]:
        """Attribute errors of an object, by default of those in their tracebacks.

        Raises:
            TrainingError: When it tries to end the program.
        """
        try:
            yield
        except SystemExit as error:
            raise ending_error(error, self.of(error)) from error
        except Exception as error:
            self.attribute(error, made)
            raise


def _key(part: Any) -> Any:
    """Return the key of an object: a function or class has that of all its code."""
    function = part.func if isinstance(part, functools.partial) else part
    module, name = (getattr(function, attribute, None) for attribute in ("__module__", "__qualname__"))
    return (module, name) if isinstance(module, str) and isinstance(name, str) else id(part)


def _called(error: BaseException) -> list[Any]:
    """Return the object whose call in the innermost frame raised, and those of which it is an attribute, if known."""
    trace: Any = error.__traceback__
    with suppress(Exception):  # the source may be missing, or the call of another form
        while trace.tb_next:
            trace = trace.tb_next
        frame, code = trace.tb_frame, trace.tb_frame.f_code
        first, last, start, end = next(islice(code.co_positions(), trace.tb_lasti // 2, None))
        lines = [line.encode() for line in linecache.getlines(code.co_filename)[first - 1 : last]]
        lines[-1] = lines[-1][:end]
        call: Any = ast.parse(b"".join(lines)[start:], mode="eval").body
        name, *attributes = ast.unparse(call.func).split(".")
        return list(accumulate(attributes, getattr, initial={**frame.f_globals, **frame.f_locals}[name]))[::-1]
    return []


def _keys(frame: FrameType) -> Iterator[Any]:
    """Yield the keys of the code in a frame: its object, its function, and the functions and classes around that."""
    code, names = frame.f_code, frame.f_code.co_qualname.split(".")
    is_method = code.co_argcount and names[-2:-1] not in ([], ["<locals>"])
    yield id(frame.f_locals.get(code.co_varnames[0] if is_method else "self"))
    for size in range(len(names), 0, -1):
        yield frame.f_globals.get("__name__"), ".".join(names[:size])
