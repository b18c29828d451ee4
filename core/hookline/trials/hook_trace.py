"""``HookTrace``: reports each call of a hook as it happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hookline.engine.errors import error_text
from hookline.engine.plugin.observer import Observer
from hookline.trials.short_texts import cut

if TYPE_CHECKING:
    from hookline.engine.plugin.member import Member


# ---- trace -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HookCall:
    """One call of a hook, as text.

    Attributes:
        table: The plugin's table in the config.
        plugin: The plugin, with its distribution.
        hook: The hook.
        arguments: Its arguments by name, abbreviated.
        result: Its result, abbreviated; empty for None.
        error: The exception that it raised, abbreviated; empty for none.
        seconds: Its duration.
    """

    table: str
    plugin: str
    hook: str
    arguments: Mapping[str, str]
    result: str
    error: str
    seconds: float

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        result = f" -> {self.result}" if self.result else ""
        error = f" raised {self.error}" if self.error else ""
        return f"{self.seconds * 1e3:9.3f} ms  {self.table}  {self.hook}({arguments}){result}{error}"


class HookTrace(Observer):
    """Reports every call of a hook when it has returned.

    Args:
        tell: Called with each ``HookCall``.

    Example:
        >>> from hookline import Run, load_config
        >>> calls = []
        >>> config = load_config({"train": {"epochs": 0}, "callbacks": {"try-first-batch": "off"}})
        >>> _ = Run(config, observers=[HookTrace(calls.append)]).fit()
        >>> [call.hook for call in calls]
        ['build_data', 'build_model', 'build_loss', 'build_optimizer', 'on_run_end']
    """

    def __init__(self, tell: Callable[[HookCall], None]) -> None:
        self._tell = tell

    def call(self, member: Member, hook: str, run: Callable[[], Any], arguments: Mapping[str, Any]) -> Any:
        """Call a hook, and report it."""
        given = {name: _short(value) for name, value in arguments.items()}
        start = time.perf_counter()
        returned, error = "", ""
        try:
            result = run()
            returned = "" if result is None else _short(result)
        except BaseException as raised:
            error = _line(error_text(raised))
            raise
        else:
            return result
        finally:
            seconds = time.perf_counter() - start
            self._tell(HookCall(member.table, str(member.plugin), hook, given, returned, error, seconds))


def _short(value: Any) -> str:
    """Return a value as one short line."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str | int | None):
        return _line(repr(value))
    if isinstance(value, Mapping):
        return _line("{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items()) + "}")
    if isinstance(value, Sequence):
        return _line("[" + ", ".join(map(_short, value)) + "]")
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__}{list(value.shape)}"
    return _line(error_text(value)) if isinstance(value, BaseException) else type(value).__name__


def _line(text: str) -> str:
    return cut(" ".join(text.split()))
