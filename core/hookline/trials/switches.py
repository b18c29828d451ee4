"""Config values behind ``--overfit`` and ``--fast``, which try a run out before it is trained in earnest."""

from __future__ import annotations

from typing import Any

from hookline.config.plugins.catalog import Catalog
from hookline.config.run_config import RunConfig
from hookline.engine.errors import ConfigError


def trial_values(
    config: RunConfig, catalog: Catalog, overfit: int | None, *, is_fast: bool
) -> dict[str, dict[str, Any]]:
    """Return the values behind each option, by dotted key, as ``load_config`` takes them.

    Args:
        config: The config without them.
        catalog: The installed plugins; hookline's own distribution declares the values.
        overfit: Number of examples to overfit, at least 1.
        is_fast: Whether to put a few batches through every part of the run.

    Raises:
        ConfigError: When both are given.

    Example:
        >>> from hookline import load_config
        >>> trial_values(load_config(), Catalog.installed(), None, is_fast=True)
        {'--fast': {'train.epochs': 2, 'callbacks.limit-examples.num_examples': 30}}
    """
    if overfit and is_fast:
        hint = "--fast checks that every part of the run works, --overfit that the model can learn"
        raise ConfigError("--overfit and --fast cannot be combined", hint=hint)
    if overfit:
        return {"--overfit": catalog.default("overfit")(overfit)}
    return {"--fast": catalog.default("fast")(config)} if is_fast else {}
