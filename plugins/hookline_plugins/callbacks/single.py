"""Callbacks that a run can have but once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hookline import ConfigError

if TYPE_CHECKING:
    from hookline import RunView


def check_single(run: RunView, plugin: Any) -> None:
    """Check that a run has no second callback of the class of ``plugin``.

    Raises:
        ConfigError: When it has; names the tables of all.
    """
    cls = type(plugin)
    labels = [
        choice.table
        for choice in run.config.plugins
        if choice.plugin.target is cls or isinstance(choice.plugin.target, cls)
    ]
    if len(labels) > 1:
        hint = "leave one, or switch the others off: callbacks.NAME=off"
        raise ConfigError(f"{' and '.join(labels)} would work in the same files: a run can have one of them", hint=hint)
