"""What options of ``hookline train`` stand for that try a run out before it is trained in earnest."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from hookline.engine.config.layers import Origin
from hookline.engine.config.run_config import RunConfig, Setting
from hookline.engine.errors import ConfigError
from hookline.engine.train_options import TrainOptions

_OVERFIT_EPOCHS = 100
"""A few examples are learned by heart in so many steps, unless the learning rate is far too small."""
_FAST_EPOCHS = 2
"""Two, so that an epoch also follows another."""
_FAST_BATCHES = 3


def trial_config(config: RunConfig, overfit: int | None, *, is_fast: bool) -> RunConfig:
    """Return a config with the values of ``--overfit`` or ``--fast``; values from the command line take precedence.

    Args:
        config: The complete config.
        overfit: Number of examples to overfit, at least 1.
        is_fast: Run only a few batches through every part of the run.

    Raises:
        ConfigError: When both are requested.
    """
    settings = dict(config.settings)
    changed: dict[str, Any] = {}
    for option, values in trial_values(config.train, overfit, is_fast=is_fast).items():
        for key, value in values.items():
            before = settings[key]
            layer = before.origin.layer
            below = before.overrode if layer in ("default", "command line") else before
            setting = Setting(key, value, Origin(option), below)
            if layer == "command line":
                settings[key] = replace(before, overrode=setting)
            else:
                settings[key] = setting
                changed[key.removeprefix("train.")] = tuple(value) if isinstance(value, list) else value
    return replace(config, train=replace(config.train, **changed), settings=MappingProxyType(settings))


def trial_values(train: TrainOptions, overfit: int | None, *, is_fast: bool) -> dict[str, dict[str, Any]]:
    """Return the values that each option stands for, by dotted key, as ``load_config`` takes them.

    Args:
        train: The options of the loop without them.
        overfit: Number of examples to learn by heart, at least 1.
        is_fast: Whether a few batches are to go through every part of the run.

    Raises:
        ConfigError: When both are wanted.

    Example:
        >>> trial_values(TrainOptions(batch_size=10), None, is_fast=True)
        {'--fast': {'train.epochs': 2, 'train.max_examples': 30}}
    """
    if overfit and is_fast:
        hint = "--fast sees whether the run goes through, --overfit whether it can learn"
        raise ConfigError("--overfit and --fast cannot be had at once", hint=hint)
    if overfit:
        # The same examples are trained on and measured. Karpathy, "A Recipe for Training Neural Networks" (2019).
        values = {"train.epochs": _OVERFIT_EPOCHS, "train.max_examples": overfit, "train.evaluate": ["train"]}
        return {"--overfit": values}
    return {"--fast": _fast(train)} if is_fast else {}


def _fast(train: TrainOptions) -> dict[str, Any]:
    size = train.eval_batch_size if train.batch_size == "all" else _FAST_BATCHES * train.batch_size
    values = {"train.epochs": _FAST_EPOCHS, "train.max_examples": min(size, train.max_examples or size)}
    if train.evaluate_every_steps:
        values["train.evaluate_every_steps"] = min(train.evaluate_every_steps, _FAST_BATCHES)
    return values
