"""A leaderboard: saved runs evaluated on one split, the best first.

Runs are ranked only against runs that were measured on the same examples, all of them or none on the data of their
training: a number on other examples, or on examples that a model was perhaps trained with, says nothing about the rest.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from hookline.config.loading import load_config
from hookline.config.plugins.catalog import Catalog
from hookline.config.run_config import RunConfig
from hookline.engine.errors import ConfigError, HooklineError
from hookline.engine.words import did_you_mean
from hookline.runs.folder import saved_config
from hookline.runs.identity import identity_of
from hookline.runs.overview.columns import differing_settings
from hookline.runs.overview.search import find_run
from hookline.runs.record import read_record
from hookline.trained.evaluating import USUAL_SPLITS, Evaluated, check_evaluated, load_evaluated, num_examples
from hookline.trained.measuring.sameness import Examples, SharedData, data_key, evaluate_and_keep, examples_key

_MODES = {"min": False, "max": True}


@dataclass(frozen=True)
class BoardRow:
    """One run of a leaderboard.

    Attributes:
        path: The run folder.
        weights: Origin of the weights: ``model.safetensors``, or the name of a checkpoint.
        step: Number of steps that they were trained for.
        num_examples: Number of examples of the split; None for a stream.
        metrics: The loss and the metrics, without the name of the split.
        settings: The settings of the run by key.
        group: Number of the group of runs that were measured on the same examples, from 1, the largest first.
        rank: Place in its group, from 1; None without a value to sort by.
    """

    path: Path
    weights: str
    step: int
    num_examples: int | None
    metrics: Mapping[str, float]
    settings: Mapping[str, Any]
    group: int = 1
    rank: int | None = None


@dataclass(frozen=True)
class Board:
    """A leaderboard.

    Attributes:
        split: The split.
        sort: The metric that the runs are sorted by.
        higher_is_better: Whether a larger value of it is better.
        rows: The runs that were evaluated, group by group, the best first.
        options: The keys of the settings in which they differ, without those of callbacks that show or save a run.
        failed: The runs that could not be evaluated, each with its error.
        warnings: Warnings about the runs, each with the names of those that it is about.
    """

    split: str
    sort: str
    higher_is_better: bool
    rows: tuple[BoardRow, ...]
    options: tuple[str, ...]
    failed: Mapping[Path, Exception]
    warnings: tuple[str, ...]


def compare_runs(
    runs: Sequence[str | os.PathLike[str]],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    plugins: Mapping[str, Any] | None = None,
    split: str | None = None,
    sort: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    parent: str | os.PathLike[str] = "runs",
    catalog: Catalog | None = None,
) -> Board:
    """Evaluate several runs on one split, and sort them by a metric.

    Runs with equal options of their data share one data source, which is read once. Those that are measured on other
    examples are ranked apart, with a warning. A run that cannot be evaluated does not prevent the others. No event is
    fired, and nothing is written.

    Args:
        runs: Folders, numbers or names of the runs.
        overrides: Values by dotted key that win over those of each config.
        plugins: Objects by table, if they were trained with objects: ``{"data": data}``.
        split: The split; default: ``validation``, else ``test``, else ``train``, whichever all runs have.
        sort: The metric to sort by, such as ``accuracy``; ``NAME:min`` or ``NAME:max`` for one that does not say which
            values are better. Default: the loss, or, if the losses of the runs differ, the first metric of all of them.
        checkpoint: ``latest`` or the name of a checkpoint, instead of the final weights of each run.
        parent: Folder to search for runs by number or name.
        catalog: The plugins that may be used; default: the installed ones.

    Raises:
        ConfigError: When no evaluated run has the metric, or it does not say which values are better.
    """
    failed: dict[Path, Exception] = {}
    paths = list(_found(runs, parent, failed))
    split = split or _usual_split(paths)
    switches = {"--split": {"train.evaluate": [split]}}
    configs: dict[Path, RunConfig] = {}
    for path in paths:
        try:
            configs[path] = load_config(
                saved_config(path), overrides, plugins=plugins, switches=switches, catalog=catalog
            )
        except Exception as error:  # noqa: BLE001 - it is reported, and the others are evaluated
            failed[path] = error
    measured = list(_measured(configs, split, checkpoint, failed))
    if not measured:
        return Board(split, sort or "loss", False, (), (), failed, ())
    groups = _groups_of(measured)
    chosen, is_higher = _sort_of(sort, groups, split)
    rows = tuple(_ranked(groups, chosen, is_higher=is_higher))
    ignored = tuple(f"{table}." for table in (catalog or Catalog.installed()).watching_tables())
    options = [key for key in differing_settings([row.settings for row in rows]) if not key.startswith(ignored)]
    warnings = (*_own_warnings(measured), *_warnings(groups, split, chosen))
    return Board(split, chosen, is_higher, rows, tuple(options), failed, warnings)


class _Measured(NamedTuple):
    """A run that was evaluated.

    Attributes:
        row: Its row.
        examples: The examples on which it was measured.
        directions: Whether a larger value is better, for each metric that says so.
        warnings: Warnings about its weights and data.
        is_own: Whether these data are those of its training.
        trained_with: The options of the data that were others in its training.
    """

    row: BoardRow
    examples: Examples
    directions: Mapping[str, bool]
    warnings: Sequence[str]
    is_own: bool
    trained_with: Sequence[str]


# ---- evaluation ------------------------------------------------------------------------------------------------------


def _found(
    runs: Sequence[str | os.PathLike[str]], parent: str | os.PathLike[str], failed: dict[Path, Exception]
) -> dict[Path, None]:
    found: dict[Path, None] = {}
    for run in runs:
        try:
            path = find_run(run, parent)
            read_record(path)
            found[path] = None
        except HooklineError as error:
            failed[Path(run)] = error
    return found


def _usual_split(paths: Sequence[Path]) -> str:
    """Return the first of the usual splits that all runs have."""
    known = [read_record(path).identity.get("data", {}) for path in paths]
    there = (name for name in USUAL_SPLITS if all(name in data for data in known))
    return next(there, USUAL_SPLITS[-1])


def _measured(
    configs: Mapping[Path, RunConfig],
    split: str,
    checkpoint: str | os.PathLike[str] | None,
    failed: dict[Path, Exception],
) -> Iterator[_Measured]:
    """Evaluate the runs, those of the same data one after another, so that only one data source is in memory."""
    keys = {path: data_key(config) for path, config in configs.items()}
    for key in dict.fromkeys(keys.values()):
        shared = SharedData()
        for path in [path for path in configs if keys[path] == key]:
            observers = [] if key is None else [shared]
            try:
                found = load_evaluated(path, configs[path], checkpoint, observers=observers)
                check_evaluated(found.run, [split])
                yield _evaluated(path, configs[path], found, split)
            except Exception as error:  # noqa: BLE001 - it is reported, and the others are evaluated
                failed[path] = error


def _evaluated(path: Path, config: RunConfig, found: Evaluated, split: str) -> _Measured:
    metrics, targets = evaluate_and_keep(found.site, split)
    said = {name: getattr(metric, "higher_is_better", None) for name, metric in found.site.parts.metrics.items()}
    directions = {name: bool(value) for name, value in said.items() if value is not None}
    data, settings = found.run.data, identity_of(found.run)["settings"]
    size = num_examples(data.splits()[split])
    row = BoardRow(path, found.weights.origin, found.weights.step, size, metrics, settings)
    examples = Examples(examples_key(config), data, split, targets)
    before = found.weights.identity.get("settings") or {}
    trained_with = [
        f"{key} = {before[key]!r}" for key in differing_settings([before, settings]) if key in before and _is_data(key)
    ]
    is_own = not found.notes_on_data
    return _Measured(row, examples, {"loss": False, **directions}, found.warnings, is_own, trained_with)


# ---- ranks -----------------------------------------------------------------------------------------------------------


def _groups_of(measured: Sequence[_Measured]) -> list[list[_Measured]]:
    """Return the runs by the examples on which they were measured, the largest group first."""
    groups: list[list[_Measured]] = []
    for one in measured:
        same = (group for group in groups if _are_comparable(one, group[0]))
        if (group := next(same, None)) is not None:
            group.append(one)
        else:
            groups.append([one])
    return sorted(groups, key=lambda group: -len(group))


def _are_comparable(one: _Measured, other: _Measured) -> bool:
    return one.is_own == other.is_own and one.examples.are_same(other.examples)


def _ranked(groups: Sequence[Sequence[_Measured]], sort: str, *, is_higher: bool) -> Iterator[BoardRow]:
    for number, group in enumerate(groups, 1):
        values = [one.row.metrics.get(sort, math.nan) for one in group]
        # A value that is not a number is no place: such runs come last.
        order = sorted(range(len(group)), key=lambda i: (math.isnan(values[i]), -values[i] if is_higher else values[i]))
        for rank, place in enumerate(order, 1):
            yield replace(group[place].row, group=number, rank=None if math.isnan(values[place]) else rank)


def _sort_of(sort: str | None, groups: Sequence[Sequence[_Measured]], split: str) -> tuple[str, bool]:
    """Return the metric to sort by, and whether a larger value is better."""
    measured = [one for group in groups for one in group]
    directions = {name: value for one in measured for name, value in one.directions.items()}
    if sort is None:
        shared = [name for name in directions if all(name in one.row.metrics for one in measured)]
        others = [name for name in shared if name != "loss"] if any(map(_loss_options, groups)) else []
        sort = (others or ["loss"])[0]
        return sort, directions[sort]
    name, _, mode = sort.removeprefix(f"{split}/").rpartition(":")
    if mode not in _MODES or not name:
        name, mode = sort.removeprefix(f"{split}/"), ""
    known = dict.fromkeys(name for one in measured for name in one.row.metrics)
    if name not in known:
        raise ConfigError(f"no run has the metric {name!r} of the {split} split", hint=did_you_mean(name, known))
    whole = name.partition("/")[0]
    if not mode and whole not in directions:
        message = f"the metric {name!r} does not say whether larger values are better"
        raise ConfigError(message, hint=f"say it: --sort {name}:max or --sort {name}:min")
    return name, _MODES[mode] if mode else directions[whole]


# ---- warnings --------------------------------------------------------------------------------------------------------


def _own_warnings(measured: Sequence[_Measured]) -> Iterator[str]:
    """Yield each warning about single runs once, with the names of the runs."""
    texts: dict[str, list[str]] = {}
    for one in measured:
        for text in one.warnings:
            texts.setdefault(text, []).append(one.row.path.name)
    for text, names in texts.items():
        yield text if text.startswith(names[0]) else f"{', '.join(names)}: {text}"


def _warnings(groups: Sequence[Sequence[_Measured]], split: str, sort: str) -> Iterator[str]:
    if len(groups) > 1:
        lines = [f"\n  group {number}: {_described(group, groups)}" for number, group in enumerate(groups, 1)]
        what = f"the runs are not measured on the same examples of the {split} split, so each group is ranked by itself"
        yield "".join([what, *lines])
    differing = list(dict.fromkeys(key for group in groups for key in _loss_options(group)))
    if differing and sort == "loss":
        yield f"the losses of the runs are not the same, so they cannot be compared ({', '.join(differing)})"


def _described(group: Sequence[_Measured], groups: Sequence[Sequence[_Measured]]) -> str:
    """Return the runs of a group with the options of the data in which the groups differ."""
    keys = filter(_is_data, differing_settings([one[0].row.settings for one in groups]))
    options = [f"{key} = {value!r}" for key in keys if (value := group[0].row.settings.get(key)) is not None]
    foreign = []
    if not group[0].is_own:
        trained = "".join(
            f", with {text}" for text in dict.fromkeys(text for one in group for text in one.trained_with)
        )
        foreign = [f"trained on other data{trained}: examples of the training may be among these"]
    names = ", ".join(one.row.path.name for one in group)
    return f"{names} ({'; '.join([*options, *foreign])})" if options or foreign else names


def _is_data(key: str) -> bool:
    return key.startswith("data.")


def _loss_options(group: Sequence[_Measured]) -> list[str]:
    """Return the settings that make the losses of runs incomparable."""
    settings = [{k: v for k, v in one.row.settings.items() if k.startswith("loss.")} for one in group]
    scaled = [] if all(one.examples.are_scaled_alike(group[0].examples) for one in group) else ["the scale of targets"]
    return [*differing_settings(settings), *scaled]
