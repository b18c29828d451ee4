"""One plugin that a run names: imported, checked against the hooks, and made into an object with hooks.

Three things can stand behind a name:

- a **plugin class**, which has methods marked ``@hookimpl``: its instance is the plugin;
- a **plain class or function** that builds the component of its kind, such as an ``nn.Module`` subclass. Parameters
  named like the arguments of the kind's build hook (``run``, ``data``, ``model``, and ``params``, which is
  ``model.parameters()``) are supplied; the others are options;
- the **component itself**: a loss written as a function of ``prediction`` and ``target``; and from Python any finished
  component, such as a module, or an instance of a plugin class.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from hookline.engine import hookspecs
from hookline.engine.errors import Fault, PluginError, describe_error
from hookline.engine.plugin.catalog import Entry
from hookline.engine.plugin.hook_checks import HOOKS, MARK, hook_fault, signature_of
from hookline.engine.plugin.options import Option, options_of
from hookline.engine.plugin.requirements import check_fits
from hookline.engine.words import with_article

RESERVED = ("use", "on_error")
"""Keys of a plugin's table that are no options of the plugin."""

_SUPPLIED = {
    "data": ("run",),
    "model": ("run", "data"),
    "loss": ("run", "data"),
    "optimizer": ("run", "model", "params"),
    "callback": (),
}


@dataclass(frozen=True)
class Plugin:
    """What stands behind a name that a run uses.

    Attributes:
        kind: One of ``KINDS``.
        name: Its name in the config.
        target: The class or function to call, or the object itself.
        entry: Where it was found; None for an object given from Python.
        import_s: Seconds that its import took; what other plugins had imported before is not counted again.
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
        """The hooks that it has, wrappers included; for a plain class or function, the one that builds its kind."""
        members = _members(self.target)
        return tuple(hook for hook in HOOKS if hook in members) or (f"build_{self.kind}",)

    @cached_property
    def options(self) -> tuple[Option, ...]:
        """The options that a config can set; none for an object.

        Raises:
            PluginError: When its annotations or parameters do not make options.
        """
        if not is_called(self.kind, self.target):
            return ()
        try:
            options = options_of(self.target, () if has_hooks(self.target) else _SUPPLIED[self.kind])
        except (TypeError, ValueError) as error:
            raise self.error(f"{self} has options that cannot be read: {error}") from error
        if taken := [option.name for option in options if option.name in RESERVED]:
            raise self.error(f"{self} has an option {taken[0]!r}, which every plugin's table has", hint="rename it")
        return options

    def make(self, values: Mapping[str, Any]) -> object:
        """Return an object with hooks, made with the option ``values``.

        Raises:
            ValueError: When the plugin refuses the values.
            PluginError: When it cannot be made, or does not keep to the hooks.
        """
        if not has_hooks(self.target):
            return self._component_builder(values)
        self._check_hooks()
        return self._construct(values)

    def error(self, message: str, *, hint: str | None = None, faults: tuple[Fault, ...] = ()) -> PluginError:
        """Return a ``PluginError`` that names this plugin and its distribution."""
        if self.entry:
            return self.entry.error(message, hint=hint, faults=faults)
        return PluginError(message, plugin=f"{self.kind} {self.name!r}", hint=hint, faults=faults)

    def _construct(self, values: Mapping[str, Any]) -> object:
        if not inspect.isclass(self.target):
            return self.target
        try:
            return self.target(**values)
        except (ValueError, PluginError):
            raise
        except (Exception, SystemExit) as error:
            raise self.error(f"{self} cannot be made: {describe_error(error)}") from error

    def _component_builder(self, values: Mapping[str, Any]) -> object:
        """Return an object whose only hook builds the component, by calling the target or by handing it over."""
        if self.kind == "callback":
            hint = "a callback is a class whose methods are marked @hookimpl and named like hooks"
            raise self.error(f"{self} has no hooks", hint=hint)
        if self.entry and not callable(self.target):
            hint = "an entry point names a class or a function"
            raise self.error(f"{self} is {with_article(type(self.target).__name__)}, which is no plugin", hint=hint)
        if not is_called(self.kind, self.target):
            return _Builder(self.kind, lambda **_: self.target)
        wanted = inspect.signature(self.target).parameters
        return _Builder(self.kind, lambda **given: self.target(**{k: given[k] for k in given if k in wanted}, **values))

    def _check_hooks(self) -> None:
        members = _members(self.target)
        faults = [fault for name, member in members.items() if (fault := hook_fault(name, member))]
        build_hook = f"build_{self.kind}"
        if not faults and self.kind != "callback" and build_hook not in members:
            hint = f"give it a method {signature_of(build_hook)} marked @hookimpl"
            faults.append(Fault(f"it has no hook {build_hook!r}, which a {self.kind} plugin must have", hint=hint))
        if faults:
            raise self.error(f"{self} does not keep to the hooks", faults=tuple(faults))


class _Builder:
    """The plugin around a plain class, function or component: an object with the one hook that builds its kind."""

    def __init__(self, kind: str, make: Callable[..., Any]) -> None:
        hook = f"build_{kind}"

        # pluggy passes what the wrapped function names.
        @functools.wraps(getattr(hookspecs, hook))
        def build(*arguments: Any) -> Any:
            given = dict(zip(HOOKS[hook], arguments, strict=True))
            if "model" in given:
                given["params"] = given["model"].parameters()
            return make(**given)

        setattr(self, hook, hookspecs.hookimpl(build))


def load_plugin(entry: Entry) -> Plugin:
    """Import the plugin that ``entry`` declares.

    Raises:
        PluginError: When its distribution is not made for this Hookline, before the import; when the import fails,
            with the original error as its cause.
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
        hint = f"mend or uninstall {entry.distribution}, or name another {entry.kind} plugin"
        raise plugin.error(f"{plugin} cannot be imported: {describe_error(error)}", hint=hint) from error


def has_hooks(target: Any) -> bool:
    """Whether a class or an object has methods that are, or look like, hooks."""
    return any(name in HOOKS or hasattr(member, MARK) for name, member in _members(target).items())


def _members(target: Any) -> dict[str, Any]:
    # From the classes' own dictionaries: looking at an object must not run its properties.
    owner = target if inspect.isclass(target) else type(target)
    return {name: member for base in reversed(owner.__mro__) for name, member in vars(base).items()}


def combined(errors: Sequence[PluginError]) -> PluginError:
    """Return one error that tells all of ``errors``, of which there is at least one."""
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
    """Return what an error tells as faults, to be told beside others."""
    return (Fault(error.message, hint=error.hint), *error.faults)


def is_called(kind: str, target: Any) -> bool:
    """Whether a target is to be called with options; any other is the plugin or the component itself."""
    if inspect.isclass(target):
        return True
    # A function of a target is a loss, not a function that builds one.
    code = getattr(target, "__code__", None)
    is_loss = kind == "loss" and code is not None and "target" in code.co_varnames[: code.co_argcount]
    return inspect.isroutine(target) and not is_loss
