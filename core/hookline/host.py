"""The plugins of one run: a pluggy manager of its own, in which only what the run names is registered.

Order is the config's. pluggy calls what was registered last first, and makes the wrapper registered last the outermost;
so each plugin is registered in two halves: its plain hooks from the last plugin to the first, its wrappers from the
first to the last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pluggy

from hookline import hookspecs
from hookline.config import RunConfig
from hookline.errors import ConfigError, Fault, PluginError, TrainingError
from hookline.loader import HOOKS, MARK, Plugin, as_faults, combined
from hookline.options import copied

_ENDINGS = (SystemExit, GeneratorExit, StopIteration)


@dataclass(frozen=True, eq=False)
class Member:
    """A plugin at work in a run.

    Attributes:
        label: Its table in the config: ``model``, ``callbacks.best``.
        plugin: What was imported, and from where.
        instance: The object with the hooks.
    """

    label: str
    plugin: Plugin
    instance: object


class _Half:
    """Some hooks of one plugin. pluggy compares what it registers, and objects of this class are never equal."""

    def __init__(self, member: Member, hooks: Mapping[str, Callable[..., Any]]) -> None:
        self.member = member
        vars(self).update(hooks)


class Host:
    """The plugins of one run, ready to be called.

    Args:
        members: The plugins in the order of the config.
        base: The core's own hooks, asked after all plugins.
    """

    def __init__(self, members: Sequence[Member], base: object) -> None:
        self.members = tuple(members)
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._manager.register(base)
        hooks = {member.label: _guarded_hooks(member) for member in members}
        for member in reversed(self.members):
            plain = {name: method for name, method in hooks[member.label].items() if not _is_wrapper(method)}
            self._manager.register(_Half(member, plain), f"{member.label} (hooks)")
        for member in self.members:
            wrappers = {name: method for name, method in hooks[member.label].items() if _is_wrapper(method)}
            self._manager.register(_Half(member, wrappers), f"{member.label} (wrappers)")
        self._manager.check_pending()
        starters = [half.member for half, _ in self._each("on_run_start", {})]
        self._started = [member for member in members if member not in starters]

    @classmethod
    def open(cls, config: RunConfig, base: object) -> Host:
        """Make every plugin that ``config`` chose.

        Raises:
            ConfigError: When plugins refuse the values of their options; carries every refusal.
            PluginError: When a plugin cannot be made or does not keep to the hooks.
        """
        members: list[Member] = []
        refusals: list[Fault] = []
        broken: list[PluginError] = []
        for choice in config.plugins:
            try:
                # A copy, so that what a plugin does to its options stays in this run.
                instance = choice.plugin.make(copied(choice.options))
                members.append(Member(choice.label, choice.plugin, instance))
            except ValueError as error:
                refusals.append(Fault(f"{choice.plugin}: {error}", choice.location))
            except PluginError as error:
                broken.append(error)
        if refusals:
            refusals += [fault for error in broken for fault in as_faults(error)]
            raise ConfigError("the plugins refuse some options", faults=refusals)
        if broken:
            raise combined(broken)
        return cls(members, base)

    def caller(self, hook: str) -> Callable[..., Any] | None:
        """Return what calls ``hook`` on every plugin that has it; None when none has."""
        relay = getattr(self._manager.hook, hook)
        return relay if relay.get_hookimpls() else None

    def call(self, hook: str, **arguments: Any) -> Any:
        """Call ``hook`` on every plugin that has it; return the first result of a build hook."""
        return getattr(self._manager.hook, hook)(**arguments)

    def is_implemented(self, hook: str) -> bool:
        """Whether some plugin implements ``hook`` itself, not as a wrapper."""
        return any(True for _ in self._each(hook, {}))

    def owner(self, kind: str) -> Plugin:
        """Return the plugin that the config names for ``kind``, which must be a kind with one plugin."""
        return next(member.plugin for member in self.members if member.label == kind)

    def collect(self, hook: str, **arguments: Any) -> Iterator[tuple[Plugin, Any]]:
        """Call ``hook`` on one plugin after the other; give each plugin with its result."""
        for half, call in self._each(hook, arguments):
            yield half.member.plugin, call()

    def start(self, **arguments: Any) -> None:
        """Call ``on_run_start`` on one plugin after the other, and remember who was started."""
        for half, call in self._each("on_run_start", arguments):
            call()
            self._started.append(half.member)

    def close(self, hook: str, **arguments: Any) -> list[BaseException]:
        """Call ``hook`` on every plugin that was started, whatever the others do; return what they raised."""
        errors: list[BaseException] = []
        for half, call in self._each(hook, arguments):
            if half.member in self._started:
                try:
                    call()
                except BaseException as error:  # noqa: BLE001 - an interrupt, too, must not keep others from closing
                    errors.append(error)
        return errors

    def _each(self, hook: str, arguments: Mapping[str, Any]) -> Iterator[tuple[_Half, Callable[[], Any]]]:
        """Give every implementation of ``hook`` that is no wrapper, in pluggy's order, ready to be called."""
        for impl in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            if isinstance(impl.plugin, _Half) and not impl.wrapper:
                values = [arguments.get(name) for name in impl.argnames]
                yield impl.plugin, functools.partial(impl.function, *values)


def _guarded_hooks(member: Member) -> dict[str, Callable[..., Any]]:
    # An instance switches one of its hooks off by setting it to None.
    found: dict[str, Any] = {name: getattr(member.instance, name, None) for name in HOOKS}
    marked = {name: method for name, method in found.items() if hasattr(method, MARK)}
    return {name: _guard(method, member.plugin, name) for name, method in marked.items()}


def _is_wrapper(method: Callable[..., Any]) -> bool:
    # The other form, hookwrapper=True, is refused when the plugin is made.
    return bool(getattr(method, MARK)["wrapper"])


def _guard(method: Callable[..., Any], plugin: Plugin, hook: str) -> Callable[..., Any]:
    """Return ``method`` such that what it raises says where it comes from."""

    @functools.wraps(method)
    def call(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except _ENDINGS as error:
            raise _attempt(error, plugin, hook) from error
        except Exception as error:
            _attribute(error, plugin, hook)
            raise

    @functools.wraps(method)
    def wrap(*arguments: Any) -> Any:
        try:
            return (yield from _driven(method(*arguments), plugin, hook))
        except SystemExit as error:
            raise _attempt(error, plugin, hook) from error
        except Exception as error:
            _attribute(error, plugin, hook)
            raise

    return wrap if _is_wrapper(method) else call


def _driven(wrapper: Generator[Any, Any, Any], plugin: Plugin, hook: str) -> Generator[Any, Any, Any]:
    """Drive a wrapper's generator as pluggy would, but say whose it is when it does not keep to the form."""
    form = "result = yield, then return the result or another"
    try:
        next(wrapper)
    except StopIteration:
        raise plugin.error(f"wrapper {hook!r} of {plugin} did not yield", hint=form) from None
    advance: Callable[[], Any]
    try:
        inner = yield
        advance = functools.partial(wrapper.send, inner)
    except BaseException as error:  # noqa: BLE001 - whatever went wrong inside is the wrapper's to see
        inner = None
        advance = functools.partial(wrapper.throw, error)
    try:
        advance()
    except StopIteration as end:
        if end.value is None and inner is not None:
            raise plugin.error(f"wrapper {hook!r} of {plugin} returned nothing", hint=form) from None
        return end.value
    raise plugin.error(f"wrapper {hook!r} of {plugin} yielded twice", hint=form)


def _attribute(error: Exception, plugin: Plugin, hook: str) -> None:
    """Note on an error which plugin raised it; what a wrapper lets through has its note already."""
    if not any(note.startswith("raised in hook ") for note in getattr(error, "__notes__", ())):
        error.add_note(f"raised in hook {hook!r} of {plugin}")


def _attempt(error: BaseException, plugin: Plugin, hook: str) -> TrainingError:
    """Return the error for a plugin that tried to end the program, or a loop that is not its own."""
    message = f"{plugin} raised {type(error).__name__}({error}) in hook {hook!r}"
    hint = "to end a run early, call run.request_stop(reason)"
    return TrainingError(message, plugin=str(plugin), hook=hook, hint=hint)
