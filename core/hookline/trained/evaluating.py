"""Evaluate a saved run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hookline.config.loading import load_config
from hookline.config.packed import is_bundle
from hookline.config.plugins.catalog import Catalog
from hookline.config.run_config import RunConfig
from hookline.engine.errors import ConfigError, DataError
from hookline.engine.loop.building import Site, build_for_evaluation
from hookline.engine.loop.run import Run
from hookline.engine.plugin.observer import Observer
from hookline.engine.ranks import Ranks
from hookline.runs.changes import identity_changes
from hookline.runs.folder import expect_saved_weights, saved_config
from hookline.runs.identity import identity_of
from hookline.runs.overview.search import find_run
from hookline.trained.weights import Weights, load_weights_into, read_weights, version_notes

USUAL_SPLITS = ("validation", "test", "train")
"""The splits to examine unless one is named: the first that the data have."""


@dataclass(frozen=True)
class Evaluation:
    """Results of evaluating the model of a run.

    Attributes:
        path: The run folder.
        weights: Origin of the weights: ``model.safetensors``, or the name of a checkpoint.
        step: Number of steps that they were trained for.
        num_examples: Number of examples of each evaluated split; None for a stream.
        metrics: The metrics, by split and name: ``validation/loss``.
        warnings: Warnings about the weights and the data.
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
    plugins: Mapping[str, Any] | None = None,
    splits: Sequence[str] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    parent: str | os.PathLike[str] = "runs",
    catalog: Catalog | None = None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Evaluate the model of a run on its data. No event is fired, and nothing is written.

    Args:
        run: Folder, number or name of the run.
        overrides: Values by dotted key that win over those of its config.
        plugins: Objects by table, if it was trained with objects: ``{"data": data}``.
        splits: The splits to evaluate; default: all splits of the data.
        checkpoint: ``latest`` or the folder of a checkpoint, instead of the final weights of the run.
        parent: Folder to search for runs by number or name.
        catalog: The plugins that may be used; default: the installed ones.
        ranks: The processes that evaluate it together, batches by turns; default: this one alone.

    Raises:
        CheckpointError: When there are no such weights, or they are damaged or belong to a different model.
        ConfigError: When the data lack a requested split.
        HooklineError: As ``Run`` raises it.
    """
    path = find_run(run, parent)
    switches = {"--split": {"train.evaluate": list(splits) or "all"}}
    config = load_config(saved_config(path), overrides, plugins=plugins, switches=switches, catalog=catalog)
    found = load_evaluated(path, config, checkpoint, ranks)
    check_evaluated(found.run, splits)
    metrics = dict(found.run.evaluate())
    evaluated = dict.fromkeys(name.partition("/")[0] for name in metrics)
    there = found.run.data.splits()
    sizes = {name: num_examples(there[name]) for name in evaluated}
    return Evaluation(path, found.weights.origin, found.weights.step, sizes, metrics, found.warnings)


class Evaluated(NamedTuple):
    """A run built for evaluations, with saved weights.

    Attributes:
        run: The run.
        site: Its components.
        weights: The weights.
        notes: Warnings about the weights and the versions.
        notes_on_data: Warnings about the data: they are not those of the training.
    """

    run: Run
    site: Site
    weights: Weights
    notes: tuple[str, ...]
    notes_on_data: tuple[str, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the weights and the data."""
        return (*self.notes, *self.run.warnings, *self.notes_on_data)


def load_evaluated(
    path: Path,
    config: RunConfig,
    checkpoint: str | os.PathLike[str] | None,
    ranks: Ranks | None = None,
    observers: Sequence[Observer] = (),
) -> Evaluated:
    """Build the run of a config for evaluations, with the weights of a run folder.

    Raises:
        CheckpointError: When there are no such weights, or they are damaged or belong to a different model.
        HooklineError: As ``Run`` raises it.
    """
    weights = read_weights(path, checkpoint)
    sites: list[Site] = []

    def build(site: Site) -> None:
        expect_saved_weights(site.run)
        build_for_evaluation(site)
        sites.append(site)

    try:
        run = Run(config, observers=observers, build=build, ranks=ranks)
    except DataError as error:
        if is_bundle(path):
            error.add_note("a bundle holds no data; name a file that you have: data.path=FILE")
        raise
    load_weights_into(run, weights, path)
    notes = (*weights.notes, *version_notes(path, weights, config))
    return Evaluated(run, sites[0], weights, notes, tuple(_notes_on_data(run, weights)))


def check_evaluated(run: Run, splits: Iterable[str]) -> None:
    """Check that splits are evaluated.

    Raises:
        ConfigError: When one is not.
    """
    there = run.data.splits()
    for name in splits:
        if f"{name}/loss" not in run.metric_names:
            is_stream = name in there
            message = f"the data have no split {name!r} that can be evaluated"
            message = f"the split {name!r} is a stream, which is not evaluated" if is_stream else message
            others = [other for other in there if other != name]
            raise ConfigError(message, hint=f"the data have {', '.join(others)}" if others else None)


# ---- notes and checks ------------------------------------------------------------------------------------------------


def _notes_on_data(run: Run, weights: Weights) -> list[str]:
    return [
        f"these are not the data that the run was trained with; values that the data source computes from data, "
        f"such as scales, come from these: {'; '.join(different)}"
        for different in [list(map(str, identity_changes(weights.identity, identity_of(run), ["data"])))]
        if different
    ]


def num_examples(dataset: Any) -> int | None:
    """Return the number of examples of a dataset; None for a stream."""
    try:
        return len(dataset)
    except TypeError:
        return None
