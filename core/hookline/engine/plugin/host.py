"""The plugins of one run, registered in a pluggy manager that belongs to this run alone.

The order is that of the config. pluggy calls the hooks registered last first, and makes the wrapper registered last the
outermost. So each plugin is registered in two halves: plain hooks from the last plugin to the first, wrappers from the
first to the last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pluggy

from hookline.engine import hookspecs
from hookline.engine.errors import HooklineError, error_text
from hookline.engine.plugin.hook_call import guarded
from hookline.engine.plugin.hook_names import HOOKS, MARK
from hookline.engine.plugin.makers import Makers
from hookline.engine.plugin.member import Member, Plugin, is_wrapper
from hookline.engine.plugin.observer import Observer
from hookline.engine.plugin.plugin_states import PluginStates

_CLOSING = ("on_run_error", "on_run_end")
_DISABLED = " and is disabled for the rest of the run"
_CONSEQUENCE = {"on_run_end": " while it was closed"}


class _Half:
    """Some hooks of a plugin. pluggy compares registered objects, and those of this class are never equal."""

    def __init__(self, member: Member, hooks: Mapping[str, Callable[..., Any]]) -> None:
        vars(self).update(hooks, member=member)

    def __dir__(self) -> list[str]:  # pluggy looks at each name, and those of ``object`` are most
        return list(vars(self))


class Host:
    """The plugins of one run and the mechanism that calls their hooks.

    Args:
        members: The plugins in the order of the config; then the core, whose hooks are called after theirs.
        warn: Called with each warning.
        observers: Observers of every call.
        check: Called with each result of a build hook: plugin, hook, result; raises ``ContractError`` to refuse it.

    Attributes:
        members: The plugins.
        makers: The plugins by what they made.
        states: The states of the plugins.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        warn: Callable[[str], None] | None = None,
        observers: Sequence[Observer] = (),
        check: Callable[[Plugin, str, Any], None] | None = None,
    ) -> None:
        self.members = tuple(member for member in members if not member.is_core)
        for observer in observers:
            observer.meet(self.members)
        self._warn = warn or (lambda _: None)
        self._observers = observers
        self._failed: set[Member] = set()
        self.makers = Makers(check or (lambda *_: None))
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        for member in reversed(members):
            self._register(member, "hooks", lambda method: not is_wrapper(method))
        for member in members:
            self._register(member, "wrappers", is_wrapper)
        self._manager.check_pending()
        self.states = PluginStates(self.members, self._failed)
        starters = [member for member, _ in self._each("on_run_start", {})]
        self._started = [member for member in members if member not in starters]

    def _register(self, member: Member, part: str, is_wanted: Callable[[Callable[..., Any]], bool]) -> None:
        for made in (member.instance, type(member.instance)):
            self.makers.add(member, None, made)
        hooks = {name: self._guarded(hook, member, name) for name, hook in _hooks_of(member).items() if is_wanted(hook)}
        self._manager.register(_Half(member, hooks), f"{member.table} ({part})")

    def _guarded(self, method: Callable[..., Any], member: Member, hook: str) -> Callable[..., Any]:
        is_build = hook.startswith("build_")
        call = guarded(method, member, hook, (self.makers, *self._observers) if is_build else self._observers)
        if not member.is_tolerated:
            return call

        @functools.wraps(call)
        def tolerated(*arguments: Any) -> Any:
            if member in self._failed and hook not in _CLOSING:
                return
            try:
                call(*arguments)
            except Exception as error:  # noqa: BLE001 - the config tolerates any error of this callback
                self._failed.add(member)
                self._warn(f"{member.table} failed{_CONSEQUENCE.get(hook, _DISABLED)}: {_in_one_line(error)}")

        return tolerated

    def caller(self, hook: str) -> Callable[..., Any] | None:
        """Return a function that calls the event ``hook`` on every plugin that has it; None if none has.

        It is meant for each step: it omits pluggy's handling of results and wrappers.
        """
        calls = [(impl.function, impl.argnames) for impl in self._impls(hook)]

        def call(**arguments: Any) -> None:
            for function, names in calls:
                function(*map(arguments.__getitem__, names))

        return call if calls else None

    def notify(self, hook: str, **arguments: Any) -> None:
        """Call the event ``hook`` on every plugin that has it."""
        getattr(self._manager.hook, hook)(**arguments)

    def first_result(self, hook: str, **arguments: Any) -> Any:
        """Call the build hook ``hook`` and return the first result, with all wrappers around it."""
        return getattr(self._manager.hook, hook)(**arguments)

    def order(self, hook: str) -> list[tuple[Member, bool]]:
        """Return the plugins with ``hook`` in the order of the calls, the outermost wrapper first.

        Each comes with a flag that is True for a wrapper.
        """
        return [(impl.plugin.member, impl.wrapper) for impl in self._impls(hook) if impl.plugin.member in self.members]

    def is_implemented(self, hook: str) -> bool:
        """Whether a plugin implements ``hook`` other than as a wrapper."""
        return any(True for _ in self._each(hook, {}))

    def owner(self, kind: str) -> Plugin:
        """Return the plugin of a ``kind`` of which a run has exactly one."""
        plugin: Plugin = next(member.plugin for member in self.members if member.table == kind)
        return plugin

    def results(self, hook: str, **arguments: Any) -> Iterator[tuple[Plugin, Any]]:
        """Call ``hook`` on each plugin in turn; yield the plugin with its result."""
        for member, call in self._each(hook, arguments):
            yield member.plugin, call()

    def notify_started(self, hook: str, **arguments: Any) -> None:
        """Call ``hook`` on every started plugin."""
        for member, call in self._each(hook, arguments):
            if member in self._started:
                call()

    def start(self, **arguments: Any) -> None:
        """Call ``on_run_start`` on each plugin in turn."""
        for member, call in self._each("on_run_start", arguments):
            call()
            if member not in self._failed:
                self._started.append(member)

    def load_states(self) -> None:
        """Load the states of the plugins, in the reverse order of their start.

        Raises:
            ContractError: When a plugin cannot load its state.
        """
        starters = [member for member, _ in self._each("on_run_start", {})]
        # The run folder starts first, so it is only written to once every other plugin has accepted its state.
        self.states.load([*(member for member in self.members if member not in starters), *reversed(starters)])

    def close_each(self, hook: str, **arguments: Any) -> list[BaseException]:
        """Call ``hook`` on every started plugin, even after errors; return the errors."""
        errors: list[BaseException] = []
        for member, call in self._each(hook, arguments):
            if member in self._started:
                try:
                    call()
                except BaseException as error:  # noqa: BLE001 - even an interrupt must not keep other plugins from closing
                    errors.append(error)
        return errors

    def _each(self, hook: str, arguments: Mapping[str, Any]) -> Iterator[tuple[Member, Callable[[], Any]]]:
        """Yield each implementation of ``hook`` except wrappers, in pluggy's order, with a function that calls it."""
        for impl in self._impls(hook):
            if impl.plugin.member in self.members and not impl.wrapper:
                given = {"state": self.states.of(impl.plugin.member), **arguments}
                yield impl.plugin.member, functools.partial(impl.function, *map(given.get, impl.argnames))

    def _impls(self, hook: str) -> Iterator[Any]:
        """Yield the implementations of ``hook`` in the order of the calls."""
        yield from reversed(getattr(self._manager.hook, hook).get_hookimpls())


def _in_one_line(error: Exception) -> str:
    text = error.message if isinstance(error, HooklineError) else error_text(error)
    return " ".join([text, *(f"({note})" for note in getattr(error, "__notes__", ()))])


def _hooks_of(member: Member) -> dict[str, Callable[..., Any]]:
    # An instance disables one of its hooks by setting it to None.
    found: dict[str, Any] = {name: getattr(member.instance, name, None) for name in HOOKS}
    return {name: method for name, method in found.items() if hasattr(method, MARK)}
