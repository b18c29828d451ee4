"""Config values behind ``--overfit`` and ``--fast``, which try a run out before it is trained in earnest."""

from __future__ import annotations

from typing import Any

from hookline.engine.errors import ConfigError
from hookline.engine.train_options import TrainOptions

_OVERFIT_EPOCHS = 100
"""Enough to memorize a few examples, unless the learning rate is far too small."""
_FAST_EPOCHS = 2
"""Two, so that one epoch follows another."""
_FAST_BATCHES = 3


def trial_values(train: TrainOptions, overfit: int | None, *, is_fast: bool) -> dict[str, dict[str, Any]]:
    """Return the values behind each option, by dotted key, as ``load_config`` takes them.

    Args:
        train: The options of the loop without them.
        overfit: Number of examples to memorize, at least 1.
        is_fast: Whether to put a few batches through every part of the run.

    Raises:
        ConfigError: When both are given.

    Example:
        >>> trial_values(TrainOptions(batch_size=10), None, is_fast=True)
        {'--fast': {'train.epochs': 2, 'train.max_examples': 30}}
    """
    if overfit and is_fast:
        hint = "--fast checks that every part of the run works, --overfit that the model can learn"
        raise ConfigError("--overfit and --fast cannot be combined", hint=hint)
    if overfit:
        # Train on and evaluate the same examples. Karpathy, "A Recipe for Training Neural Networks" (2019).
        values = {"train.epochs": _OVERFIT_EPOCHS, "train.max_examples": overfit, "train.evaluate": ["train"]}
        return {"--overfit": values}
    return {"--fast": _fast(train)} if is_fast else {}


def _fast(train: TrainOptions) -> dict[str, Any]:
    size = train.eval_batch_size if train.batch_size == "all" else _FAST_BATCHES * train.batch_size
    values = {"train.epochs": _FAST_EPOCHS, "train.max_examples": min(size, train.max_examples or size)}
    if train.evaluate_every_steps:
        values["train.evaluate_every_steps"] = min(train.evaluate_every_steps, _FAST_BATCHES)
    return values
