"""Wrapping of hook methods: errors name their plugin, wrappers are checked, observers see each call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from hookline.engine.errors import TrainingError, text_of
from hookline.engine.plugin.hook_names import HOOKS
from hookline.engine.plugin.member import Member, Plugin, is_wrapper
from hookline.engine.plugin.observer import Observer

WRAPPER_FORM = "write result = yield, then return the result or a replacement"
"""Hint for a wrapper of another form."""
_ENDINGS = (SystemExit, GeneratorExit, StopIteration)


def guarded(
    method: Callable[..., Any], member: Member, hook: str, observers: Sequence[Observer] = ()
) -> Callable[..., Any]:
    """Wrap a hook's ``method`` so that its errors name plugin and hook, and ``observers`` see each call."""
    names = tuple(inspect.signature(method).parameters)
    observed = functools.partial(_observed, observers, member)

    def run_observed(*arguments: Any) -> Any:
        call_method = functools.partial(method, *arguments)
        named = dict(zip(names, arguments, strict=True))
        result = call_method() if member.is_core else observed(hook, call_method, named)
        return _built(observers, member, hook, result, is_wrapper=False)

    run = run_observed if observers else method

    @functools.wraps(method)
    def call(*arguments: Any) -> Any:
        try:
            return run(*arguments)
        except _ENDINGS as error:
            raise ending_error(error, (member.plugin, hook), "in hook") from error
        except BaseException as error:
            _attribute(error, member, hook)
            raise

    @functools.wraps(method)
    def wrap(*arguments: Any) -> Any:
        try:
            result = yield from _driven(method(*arguments), member.plugin, hook, observed)
            return _built(observers, member, hook, result, is_wrapper=True)
        except SystemExit as error:
            raise ending_error(error, (member.plugin, hook), "in hook") from error
        except Exception as error:
            _attribute(error, member, hook)
            raise

    return wrap if is_wrapper(method) else call


def _observed(
    observers: Sequence[Observer],
    member: Member,
    hook: str,
    run: Callable[[], Any],
    arguments: Mapping[str, Any] | None = None,
) -> Any:
    for observer in observers:
        run = functools.partial(observer.call, member, hook, run, arguments or {})
    return run()


def _built(observers: Sequence[Observer], member: Member, hook: str, result: Any, *, is_wrapper: bool) -> Any:
    for observer in observers:
        result = observer.built(member, hook, result, is_wrapper=is_wrapper)
    return result


def _driven(
    wrapper: Generator[Any, Any, Any], plugin: Plugin, hook: str, observed: Callable[..., Any]
) -> Generator[Any, Any, Any]:
    """Drive a wrapper's generator as pluggy does; errors about its form name the plugin."""

    def begin() -> None:
        try:
            next(wrapper)
        except StopIteration:
            raise plugin.error(f"wrapper {hook!r} of {plugin} did not yield", hint=WRAPPER_FORM) from None

    def finish() -> Any:
        try:
            advance()
        except StopIteration as end:
            if end.value is None and inner is not None:
                raise plugin.error(f"wrapper {hook!r} of {plugin} returned nothing", hint=WRAPPER_FORM) from None
            return end.value
        raise plugin.error(f"wrapper {hook!r} of {plugin} yielded twice", hint=WRAPPER_FORM)

    observed(f"{hook} (before)", begin)
    advance: Callable[[], Any]
    try:
        inner = yield
        advance = functools.partial(wrapper.send, inner)
    except BaseException as error:  # noqa: BLE001 - the wrapper may handle any error
        inner = None
        advance = functools.partial(wrapper.throw, error)
    return observed(f"{hook} (after)", finish)


def _attribute(error: BaseException, member: Member, hook: str) -> None:
    """Add a note with plugin and hook to an error, unless it names a plugin, or was raised by the core."""
    if not (member.is_core or is_attributed(error)):
        error.add_note(f"raised in {'hook' if hook in HOOKS else 'method'} {hook!r} of {member.plugin}")


def is_attributed(error: BaseException) -> bool:
    """Whether an error names a plugin, itself or in a note."""
    notes = getattr(error, "__notes__", ())
    return bool(getattr(error, "plugin", None)) or any(note.startswith("raised in ") for note in notes)


def ending_error(
    error: BaseException, maker: tuple[Plugin, str | None] | None, place: str = "in an object made by hook"
) -> TrainingError:
    """Return the error for an exception that would end the program or another's loop; None: its maker is unknown."""
    plugin, hook = maker or (None, None)
    message = f"{plugin or 'a component'} raised {type(error).__name__}({text_of(error)})"
    hint = "to end a run early, call run.request_stop(reason)"
    where = f" {place} {hook!r}" if hook else ""
    return TrainingError(message + where, plugin=str(plugin) if plugin else None, hook=hook, hint=hint)
