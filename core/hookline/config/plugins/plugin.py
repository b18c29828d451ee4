"""Plugins: import, check against the hook specification, and make an object with hooks.

A plugin is one of three things:

- a **plugin class**, which has methods marked ``@hookimpl``: its instance is used;
- a **plain class or function** that builds the component of its kind, such as an ``nn.Module`` subclass. Parameters
  named like the arguments of the kind's build hook (``run``, ``data``, ``model``, and ``params``, which is
  ``model.parameters()``) are supplied; the others are options;
- the **component itself**: a loss written as a function of ``prediction`` and ``target``; from Python also any finished
  component, such as a module, or an instance of a plugin class.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from hookline.config.plugins.catalog import EXPORT, Entry
from hookline.config.plugins.foreign_errors import describe_error
from hookline.config.plugins.hook_checks import hook_fault, signature_of
from hookline.config.plugins.options import Option, options_of
from hookline.config.plugins.renamed import with_new_names
from hookline.config.plugins.requirements import check_fits
from hookline.engine import hookspecs
from hookline.engine.errors import Fault, PluginError
from hookline.engine.plugin.hook_names import HOOKS, MARK
from hookline.engine.words import with_article

RESERVED = ("use", "on_error")
"""Keys of a plugin's table that are not options of the plugin."""

_SUPPLIED = {
    "data": ("run",),
    "model": ("run", "data"),
    "loss": ("run", "data"),
    "optimizer": ("run", "model", "params"),
    "parallel": ("run", "model"),
    "callback": (),
    EXPORT: (),
}


@dataclass(frozen=True)
class Plugin:
    """An imported plugin, or an object given from Python.

    Attributes:
        kind: One of ``KINDS``, or ``"export"``.
        name: Its name in the config.
        target: The class or function to call, or the object itself.
        entry: Its catalog entry; None for an object given from Python.
        import_s: Seconds that its import took; modules that other plugins imported before are not counted again.
    """

    kind: str
    name: str
    target: Any
    entry: Entry | None = None
    import_s: float = field(default=0.0, compare=False)

    def __str__(self) -> str:
        return str(self.entry) if self.entry else f"{self.kind} {self.name!r} (given from Python)"

    @property
    def hooks(self) -> tuple[str, ...]:
        """Its hooks, wrappers included; for a plain class or function, the build hook of its kind."""
        members = _members(self.target)
        return tuple(hook for hook in HOOKS if hook in members) or (f"build_{self.kind}",)

    @property
    def options(self) -> tuple[Option, ...]:
        """The options that a config can set; none for an object.

        Raises:
            PluginError: When its annotations or parameters cannot be options.
        """
        self._check_callback()
        if not is_called(self.kind, self.target):
            return ()
        try:
            options = options_of(self.target, () if has_hooks(self.target) else _SUPPLIED[self.kind])
        except Exception as error:
            raise self.error(f"{self} has options that cannot be read: {describe_error(error)}") from error
        if taken := [option.name for option in options if option.name in RESERVED]:
            raise self.error(f"{self} has an option {taken[0]!r}, a reserved key", hint="rename it")
        return options

    def make(self, values: Mapping[str, Any]) -> object:
        """Return an object with hooks, made with the option ``values``.

        Raises:
            ValueError: When the plugin refuses the values.
            PluginError: When it cannot be created, or does not match the hook specification.
        """
        self._check_callback()
        if not has_hooks(self.target):
            return self._component_builder(values)
        self._check_hooks()
        if not inspect.isclass(self.target):
            return with_new_names(self.target, str(self))
        return with_new_names(self.called(values), str(self))

    def called(self, values: Mapping[str, Any]) -> object:
        """Return the result of calling its class or function with the option ``values``.

        Raises:
            ValueError: When the plugin refuses the values.
            PluginError: When it fails otherwise.
        """
        try:
            return self.target(**values)
        except (ValueError, PluginError):
            raise
        except (Exception, SystemExit) as error:
            raise self.error(f"{self} cannot be created: {describe_error(error)}") from error

    def error(self, message: str, *, hint: str | None = None, faults: tuple[Fault, ...] = ()) -> PluginError:
        """Return a ``PluginError`` that names this plugin and its distribution."""
        if self.entry:
            return self.entry.error(message, hint=hint, faults=faults)
        return PluginError(message, plugin=f"{self.kind} {self.name!r}", hint=hint, faults=faults)

    def _component_builder(self, values: Mapping[str, Any]) -> object:
        """Return an object whose only hook returns the component: the target, or the result of calling it."""
        if self.entry and not callable(self.target):
            hint = "an entry point must name a class or a function"
            raise self.error(f"{self} is {with_article(type(self.target).__name__)}, not a plugin", hint=hint)
        if not is_called(self.kind, self.target):
            return _builder(self.kind, lambda **_: self.target)
        wanted = inspect.signature(self.target).parameters
        return _builder(self.kind, lambda **given: self.target(**{k: given[k] for k in given if k in wanted}, **values))

    def _check_callback(self) -> None:
        if self.kind == "callback" and not has_hooks(self.target):
            hint = "a callback is a class with methods that are named like hooks and marked @hookimpl"
            raise self.error(f"{self} has no hooks", hint=hint)

    def _check_hooks(self) -> None:
        members = _members(self.target)
        faults = [fault for name, member in members.items() if (fault := hook_fault(name, member))]
        build_hook = f"build_{self.kind}"
        if not faults and self.kind != "callback" and build_hook not in members:
            hint = f"add a method {signature_of(build_hook)} marked @hookimpl"
            faults.append(Fault(f"it has no hook {build_hook!r}, which a {self.kind} plugin must have", hint=hint))
        if faults:
            raise self.error(f"{self} does not match the hook specification", faults=tuple(faults))


def _builder(kind: str, make: Callable[..., Any]) -> object:
    """Return an object whose only hook, the build hook of a kind, calls ``make``."""
    hook = f"build_{kind}"

    # pluggy reads the argument names from the wrapped function.
    @functools.wraps(getattr(hookspecs, hook))
    def build(*arguments: Any) -> Any:
        given = dict(zip(HOOKS[hook], arguments, strict=True))
        if "model" in given:
            given["params"] = given["model"].parameters()
        return make(**given)

    return SimpleNamespace(**{hook: hookspecs.hookimpl(build)})


def load_plugin(entry: Entry) -> Plugin:
    """Import the plugin of a catalog entry.

    Raises:
        PluginError: When its distribution requires another version of Hookline, or the import fails.
    """
    check_fits(entry)
    start = time.perf_counter()
    try:
        target = entry.load()
        return Plugin(entry.kind, entry.name, target, entry, entry.import_s + time.perf_counter() - start)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        plugin = Plugin(entry.kind, entry.name, None, entry)
        hint = f"fix or uninstall {entry.distribution}, or name another {entry.kind} plugin"
        raise plugin.error(f"{plugin} cannot be imported: {describe_error(error)}", hint=hint) from error


def has_hooks(target: Any) -> bool:
    """Whether a class or an object has methods that are marked or named like hooks."""
    return any(name in HOOKS or hasattr(member, MARK) for name, member in _members(target).items())


def _members(target: Any) -> dict[str, Any]:
    # From the dictionaries of the classes, because getattr would run properties.
    owner = target if inspect.isclass(target) else type(target)
    return {name: member for base in reversed(owner.__mro__) for name, member in vars(base).items()}


def combined(errors: Sequence[PluginError]) -> PluginError:
    """Combine errors, at least one, into one."""
    first, *others = errors
    if not others:
        return first
    return PluginError(
        f"{len(errors)} plugins cannot be used",
        plugin=first.plugin,
        distribution=first.distribution,
        version=first.version,
        faults=tuple(dict.fromkeys(fault for error in errors for fault in as_faults(error))),
    )


def as_faults(error: PluginError) -> tuple[Fault, ...]:
    """Return an error as faults, to be reported together with others."""
    return (Fault(error.message, hint=error.hint), *error.faults)


def is_called(kind: str, target: Any) -> bool:
    """Whether a target is called with options; any other is the plugin or the component itself."""
    if inspect.isclass(target):
        return True
    # A function with a parameter "target" is a loss, not a function that builds one.
    code = getattr(target, "__code__", None)
    is_loss = kind == "loss" and code is not None and "target" in code.co_varnames[: code.co_argcount]
    return inspect.isroutine(target) and not is_loss
