"""``train``: from the source of a config to the result of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hookline.config.layers import Source
from hookline.config.loading import as_config
from hookline.config.run_config import RunConfig
from hookline.engine.loop.run import Run
from hookline.engine.plugin.observer import Observer
from hookline.engine.result import RunResult


def train(
    config: RunConfig | Source = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    plugins: Mapping[str, Any] | None = None,
    observers: Sequence[Observer] = (),
) -> RunResult:
    """Train a model: create a run, take all its steps, and return its result.

    Prints and writes nothing, and changes nothing global.

    Args:
        config: A TOML file's path, a mapping of the same form, a ``RunConfig``, or None for the defaults.
        overrides: Values by dotted key that override those of the config; not with a ``RunConfig``.
        plugins: Objects instead of named plugins, by table: ``{"model": net}``; not with a ``RunConfig``.
        observers: Observers of every hook call, such as a ``Ledger``.

    Raises:
        HooklineError: Of the class for the problem.
        Exception: Any error of a plugin or a component, with notes that name the place.

    Example:
        >>> train({"optimizer": {"lr": 0.1}}, {"train.epochs": 1}).outcome
        'completed'
    """
    return Run(as_config(config, overrides, plugins=plugins), observers=observers).fit()
