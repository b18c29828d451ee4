"""A check for callbacks that a run can have only once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hookline import ConfigError

if TYPE_CHECKING:
    from hookline import RunView


def check_single(run: RunView, plugin: Any, reason: str = "would write the same files") -> None:
    """Check that a run has no second callback of the class of ``plugin``.

    Args:
        run: The run.
        plugin: The callback.
        reason: Why two of them are one too many.

    Raises:
        ConfigError: When it has; names their tables.
    """
    cls = type(plugin)
    labels = [
        choice.table
        for choice in run.config.plugins
        if choice.plugin.target is cls or isinstance(choice.plugin.target, cls)
    ]
    if len(labels) > 1:
        hint = "keep one and switch the others off: callbacks.NAME=off"
        raise ConfigError(f"{' and '.join(labels)} {reason}: a run can have only one", hint=hint)
