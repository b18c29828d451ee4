"""The run of a fold: its training, and the metrics and predictions for the rows that it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from hookline.config.plugins.catalog import Catalog
from hookline.engine.data import DataSource
from hookline.engine.errors import ContractError, DataError, Fault, TrainingError
from hookline.engine.loop.building import Site, build_data
from hookline.engine.loop.predicting import build_predictor
from hookline.engine.loop.run import Run
from hookline.runs.changes import identity_changes
from hookline.runs.folder import folder_of
from hookline.runs.identity import identity_of
from hookline.runs.resuming import resume
from hookline.trained.collecting import evaluated_split
from hookline.trained.evaluating import load_evaluated
from hookline.trained.measuring.split_predictions import target_columns
from hookline.trained.predicting import Writer, writer_for
from hookline.trials.folds.planning import Planned

_SPLIT = "fold"
"""The split of the rows that are left out."""


class Measured(NamedTuple):
    """The result of a fold.

    Attributes:
        path: The run folder.
        step: The number of steps of its run.
        metrics: The metrics of the rows it was not trained on, by name: ``loss``, ``accuracy``.
        origins: Columns by name that say where these examples come from, such as ``row``.
        columns: Columns by name with their targets and predictions.
        writers: Ways to write other files than CSV, by extension.
        warnings: Warnings about the weights and the data.
    """

    path: Path
    step: int
    metrics: Mapping[str, float]
    origins: Mapping[str, Sequence[Any]]
    columns: Mapping[str, Sequence[Any]]
    writers: Mapping[str, Writer]
    warnings: tuple[str, ...]


def check_fold(planned: Planned, target: Path | None) -> None:
    """Read the data of a fold, to find every fault of them before anything is trained.

    Args:
        planned: The fold.
        target: The file of the predictions, which must have a known format.

    Raises:
        DataError: When the data cannot be used, or do not number their rows.
        ConfigError: When the file cannot be written.
    """
    sites: list[Site] = []

    def build(site: Site) -> None:
        build_data(site)
        sites.append(site)

    run = Run(planned.config, build=build)
    _origins_of(run.data)
    if target:
        writer_for(getattr(build_predictor(sites[0].host, run), "writers", {}), target)


def train_fold(
    planned: Planned, train: Callable[[Run], object], plugins: Mapping[str, Any] | None, catalog: Catalog
) -> Path:
    """Train the run of a fold unless it is finished, from where an earlier call has left it; return its folder.

    Raises:
        TrainingError: When it does not reach its end.
        Exception: As the run raises it, with a note that names the fold.
    """
    if planned.path and planned.is_finished:
        return planned.path
    try:
        run = _resumed(planned, plugins, catalog) if planned.path else Run(planned.config)
        train(run)
        return _finished(run)
    except Exception as error:
        error.add_note(f"in {planned.fold}")
        raise


def _resumed(planned: Planned, plugins: Mapping[str, Any] | None, catalog: Catalog) -> Run:
    """Return the run of a fold, resumed; a saved config lacks the options of objects, so they are given again."""
    settings = planned.config.settings.items()
    tables = tuple(f"{table}." for table in plugins or ())
    options = {key: one.value for key, one in settings if key.startswith(tables) and not key.endswith(".use")}
    assert planned.path is not None, "the run has begun"
    return resume(planned.path, options, plugins=plugins, catalog=catalog)


def _finished(run: Run) -> Path:
    if run.outcome not in ("completed", "stopped"):
        raise TrainingError(f"the run was {run.outcome or 'left'}", hint="the same call goes on from here")
    folder = folder_of(run)
    assert folder is not None, "the plan has one"
    return folder.path


def measure_fold(planned: Planned, path: Path) -> Measured:
    """Evaluate the final weights of the run of a fold on the rows that it was not trained on.

    Raises:
        DataError: When the data have changed since it was trained.
        ContractError: When its evaluation gives no predictions.
    """
    config = replace(planned.config, train=replace(planned.config.train, evaluate=(_SPLIT,)))
    found = load_evaluated(path, config, None)
    run, site = found.run, found.site
    if changed := list(identity_changes(found.weights.identity, identity_of(run), ["data"])):
        hint = "restore the data, or choose another folder for the runs"
        faults = [Fault(str(change)) for change in changed]
        raise DataError(f"the data have changed since {path.name} was trained", hint=hint, faults=faults)
    evaluated = evaluated_split(site, _SPLIT, math.inf)
    if evaluated is None or not isinstance(evaluated.prediction, Tensor):
        raise ContractError("the evaluation of this run gives no predictions, or not as one tensor")
    predictor = build_predictor(site.host, run)
    columns = {**target_columns(evaluated.target, run.data), **predictor.columns(evaluated.prediction)}
    metrics = {name: float(number) for name, number in evaluated.numbers.items()}
    writers = getattr(predictor, "writers", {})
    return Measured(path, found.weights.step, metrics, _origins_of(run.data), columns, writers, found.warnings)


def _origins_of(data: DataSource) -> dict[str, Sequence[Any]]:
    """Return columns that say where the examples of the fold come from, such as ``row``.

    Raises:
        DataError: When its dataset does not know.
    """
    dataset: Any = data.splits().get(_SPLIT)
    if not hasattr(dataset, "origins"):
        hint = "a data source with folds gives it one; leave out callbacks that replace the data"
        raise DataError(f"there is no split {_SPLIT!r} whose dataset has a method `origins`", hint=hint)
    return dict(dataset.origins(list(range(len(dataset)))))
