"""Evaluate a kept run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hookline.engine.config.loading import load_config
from hookline.engine.errors import ConfigError
from hookline.engine.loop.run import Run
from hookline.engine.plugin.catalog import Catalog
from hookline.engine.train_options import Split
from hookline.engine.words import did_you_mean
from hookline.runs.changes import identity_changes
from hookline.runs.folder import CONFIG
from hookline.runs.search import find_run
from hookline.trained.weights import Weights, load_weights_into, read_weights

_SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Evaluation:
    """How good the model of a run is.

    Attributes:
        path: The run folder.
        weights: Where the weights are from: ``model.safetensors``, or the name of a checkpoint.
        step: Number of steps before them.
        num_examples: Number of examples of each split that was evaluated; None for a stream.
        metrics: The numbers, by split and name: ``validation/loss``.
        warnings: What should be known of them.
    """

    path: Path
    weights: str
    step: int
    num_examples: Mapping[str, int | None]
    metrics: Mapping[str, float]
    warnings: tuple[str, ...]


def evaluate_run(
    run: str | os.PathLike[str],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    splits: Sequence[str] = (),
    checkpoint: str | None = None,
    parent: Path = Path("runs"),
    catalog: Catalog | None = None,
) -> Evaluation:
    """Return how good the model of a run is on its data. No event is fired, and nothing is written.

    Args:
        run: Its folder, its number or its name.
        overrides: Values by dotted key that win over those of its config.
        splits: The splits to evaluate; default: all that the data have.
        checkpoint: ``latest`` or the folder of a checkpoint, in the place of the weights that the run ended with.
        parent: Where runs are looked for by number or name.
        catalog: The plugins that may be named; default: those installed.

    Raises:
        CheckpointError: When there are no such weights, or they are damaged or those of another model.
        ConfigError: When the data lack a split that is asked for.
        HooklineError: As ``Run`` does.
    """
    path = find_run(os.fspath(run), parent)
    if unknown := [name for name in splits if name not in _SPLITS]:
        raise ConfigError(f"there is no split {unknown[0]!r}", hint=did_you_mean(unknown[0], _SPLITS))
    wanted = list(splits or _SPLITS)
    switches = {"--split": {"train.evaluate": wanted}}
    config = load_config(path / CONFIG, overrides, switches=switches, catalog=catalog)
    weights = read_weights(path, checkpoint)
    built = Run(config)
    there = built.data.splits()
    if missing := [name for name in splits if f"{name}/loss" not in built.metric_names]:
        hint = f"it has {', '.join(there)}"
        raise ConfigError(f"the data have no split {missing[0]!r} that can be evaluated", hint=hint)
    notes = [*load_weights_into(built, weights, path), *_notes_on_data(built, weights)]
    metrics = dict(built.evaluate())
    evaluated = dict.fromkeys(name.partition("/")[0] for name in metrics)
    sizes = {name: _num_examples(there[name]) for name in evaluated}
    return Evaluation(path, weights.origin, weights.step, sizes, metrics, (*weights.notes, *built.warnings, *notes))


# ---- notes and checks ------------------------------------------------------------------------------------------------


def _notes_on_data(run: Run, weights: Weights) -> list[str]:
    return [
        f"these are not the data that the run was trained with, and what the data source learns of data, such as "
        f"scales, it learned of these: {'; '.join(different)}"
        for different in [list(map(str, identity_changes(weights.identity, run.identity, ["data"])))]
        if different
    ]


def _num_examples(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:
        return None
