"""The plan of a cross-validation: its folds, the config of each, and the runs of earlier calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hookline.config.plugins.catalog import Catalog
from hookline.config.run_config import RunConfig
from hookline.engine.errors import ConfigError, Fault
from hookline.runs.changes import identity_changes
from hookline.runs.folder import CONFIG
from hookline.runs.identity import settings_of
from hookline.runs.names import label_of, run_names
from hookline.runs.record import RunRecord, read_record
from hookline.runs.resuming import NEUTRAL

_FOLD, _SEED = "data.fold", "data.fold_seed"
_OPTION = "--folds"

Load = Callable[[Mapping[str, Any], Mapping[str, Mapping[str, Any]]], RunConfig]
"""Loads a config with further defaults and switches, as ``load_config`` takes them."""


@dataclass(frozen=True)
class Fold:
    """One fold: the part of the rows that a run is validated on.

    Attributes:
        repeat: The number of the division of the rows, from 1.
        number: The number of the part, from 1.
        count: The number of parts.
        seed: The seed of the division.
    """

    repeat: int
    number: int
    count: int
    seed: int

    def __str__(self) -> str:
        return f"fold {self.number}/{self.count}" + (f" of repeat {self.repeat}" if self.repeat > 1 else "")

    @property
    def label(self) -> str:
        """The name of the run, after its number."""
        return f"repeat-{self.repeat}-fold-{self.number}-of-{self.count}"

    @property
    def values(self) -> dict[str, Any]:
        """The values of the config that divide the rows."""
        return {_FOLD: f"{self.number}/{self.count}", _SEED: self.seed}


@dataclass(frozen=True)
class Planned:
    """A fold with its config, and its run if it has begun.

    Attributes:
        fold: The fold.
        config: The config of its run.
        path: The run folder; None before it has begun.
        is_finished: Whether it has its final weights.
        values: The values of the config that are its own.
    """

    fold: Fold
    config: RunConfig
    path: Path | None
    is_finished: bool
    values: dict[str, Any]


def plan(load: Load, counts: tuple[int, int], parent: Path, catalog: Catalog) -> list[Planned]:
    """Return the folds of a cross-validation in their order.

    Args:
        load: Loads the config.
        counts: The number of folds and of repeats.
        parent: The folder of the runs.
        catalog: The plugins that may be used.

    Raises:
        ConfigError: When the config is faulty, its data have no folds, or the folder has runs of another config.
    """
    defaults = catalog.default("keep")
    config = load(defaults, {})
    _check_data(config)
    first_seed = config.settings[_SEED].value
    folds = [
        Fold(repeat, number, counts[0], first_seed + repeat - 1)
        for repeat in range(1, counts[1] + 1)
        for number in range(1, counts[0] + 1)
    ]
    planned = []
    for fold in folds:
        own = catalog.default("fold")(parent, fold.label)
        values = {**fold.values, **own}
        config = load(defaults, {_OPTION: values})
        _check_values(config, values)
        path = _begun(parent, fold)
        record = read_record(path) if path else None
        if record:
            _check_same(record, config, (*NEUTRAL, *own), parent)
        planned.append(Planned(fold, config, path, _is_finished(record), values))
    return planned


def _is_finished(record: RunRecord | None) -> bool:
    return record is not None and record.status in ("completed", "stopped") and record.model is not None


def _check_data(config: RunConfig) -> None:
    """Refuse a data source without folds, or whose inputs cannot be predicted."""
    plugin = next(choice.plugin for choice in config.plugins if choice.table == "data")
    if not {_FOLD, _SEED} <= config.settings.keys():
        hint = "use one that has them, such as one that reads a table or arrays; they are on the page about its options"
        raise ConfigError(f"the data source {plugin} has no options `fold` and `fold_seed`", hint=hint)
    if "build_predictor" not in plugin.hooks:
        raise ConfigError(f"the data source {plugin} names no predictions: it has no hook build_predictor")
    if given := config.settings[_FOLD].value:
        raise ConfigError(f"{_FOLD} is {given!r}, but a cross-validation sets it itself", hint="leave it out")


def _check_values(config: RunConfig, values: Mapping[str, Any]) -> None:
    if fixed := [key for key, value in values.items() if config.settings[key].value != value]:
        faults = [Fault(f"{key} cannot be set: a cross-validation sets it for each fold") for key in fixed]
        raise ConfigError("the overrides do not fit a cross-validation", hint="leave them out", faults=faults)


def _begun(parent: Path, fold: Fold) -> Path | None:
    """Return the newest run of a fold that has its config."""
    names = [name for name in run_names(parent) if label_of(name) == fold.label]
    return next((parent / name for name in reversed(names) if (parent / name / CONFIG).exists()), None)


def _check_same(record: RunRecord, config: RunConfig, free: tuple[str, ...], parent: Path) -> None:
    """Refuse a run with other settings than those of a config, but for some that are free."""
    before = record.identity.get("settings")
    if not before:  # it was killed before it wrote them
        return
    changes = identity_changes({"settings": before}, {"settings": settings_of(config)}, ["settings"])
    if faults := [Fault(str(change)) for change in changes if change.key not in free]:
        hint = "choose another folder for the runs, or the same values as before"
        raise ConfigError(f"{parent} holds runs of another config", hint=hint, faults=faults)
