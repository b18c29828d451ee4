"""The definition of a sweep: its config, its space and its settings, complete and checked before anything starts."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from hookline import ConfigError, Fault, Location
from hookline.cli import load_words
from hookline.config import options_of, read_table
from hookline.engine import did_you_mean
from hookline.runs import redacted_word, to_toml
from hookline_plugins.commands.sweeping.space import Candidate, Dimension, dimensions_of_table, split_space

if TYPE_CHECKING:
    from hookline import Catalog, RunConfig

Sampler = Literal["tpe", "random", "grid"]
TABLE, SPACE = "sweep", "space"
_MAX_FAULTS = 50


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """The settings of a sweep: the keys of the table ``[sweep]``, and options of the command."""

    trials: Annotated[int, Meta(ge=1, description="number of trials")] | None = None
    jobs: Annotated[int, Meta(ge=1, description="number of trials at the same time")] = 1
    sampler: Annotated[Sampler, Meta(description="how to choose values")] | None = None
    seed: Annotated[int, Meta(ge=0, description="seed of the choice of values")] = 0
    minimize: Annotated[tuple[str, ...], Meta(description="metrics to minimize")] = ()
    maximize: Annotated[tuple[str, ...], Meta(description="metrics to maximize")] = ()
    prune: Annotated[bool, Meta(description="end trials that are worse than the median of the earlier ones")] = False


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a sweep the same one when it goes on.

    Attributes:
        config: Path of the config file; None without one.
        folder: The folder in which it was started, where relative paths begin.
        overrides: The overrides of all trials, without secrets.
        space: The description of each option that is searched, by key.
        settings: Hash of the settings that all trials have in common.
        sampler: How values are chosen.
        seed: Seed of the choice.
        minimize: Metrics to minimize.
        maximize: Metrics to maximize; without any metric, the loss is minimized.
        prune: Whether trials are ended early.
    """

    config: str | None
    folder: str
    overrides: list[str]
    space: dict[str, str]
    settings: str
    sampler: Sampler
    seed: int
    minimize: list[str]
    maximize: list[str]
    prune: bool

    @property
    def words(self) -> list[str]:
        """The words of a command that defines it."""
        return [*([self.config] if self.config else []), *self.overrides, *(f"{k}={v}" for k, v in self.space.items())]

    def changes(self, other: Definition) -> list[Fault]:
        """Return how another definition differs."""
        ours, theirs = msgspec.to_builtins(self), msgspec.to_builtins(other)
        changed = [name for name in ours if ours[name] != theirs[name]]
        shown = [name for name in changed if name != "settings"]
        # The settings are those without the space, so another space always changes them.
        found = [Fault(f"{name}: {ours[name]!r} -> {theirs[name]!r}") for name in shown]
        return found or [Fault("settings of the config have changed") for _ in changed]


@dataclass(frozen=True)
class Sweep:
    """A sweep that can start.

    Attributes:
        definition: What is saved of it.
        dimensions: The options that are searched.
        integers: The keys of the ranges whose options take integers.
        overrides: The overrides of all trials.
        num_trials: Number of trials.
        num_jobs: Number of trials at the same time.
    """

    definition: Definition
    dimensions: tuple[Dimension, ...]
    integers: frozenset[str]
    overrides: tuple[str, ...]
    num_trials: int
    num_jobs: int


def define(words: Sequence[str], given: Mapping[str, Any], catalog: Catalog) -> Sweep:
    """Return the sweep that the words of a command and its options define.

    Args:
        words: The config file, overrides and dimensions.
        given: The options of the command that were given, which win over those of the table ``[sweep]``.
        catalog: The plugins that may be named.

    Raises:
        ConfigError: With every fault of the space, the settings and the config.
    """
    faults: list[Fault] = []
    has_config = bool(words) and ("=" not in words[0] or os.path.isfile(words[0]))  # noqa: PTH113 - any text
    config = words[0] if has_config else None
    overrides, in_words = split_space(words[1:] if has_config else words, faults)
    table, in_table = _read_table(config, faults) if config else ({}, [])
    keys = {one.key for one in in_words}
    dimensions = (*(one for one in in_table if one.key not in keys), *in_words)
    options = SweepOptions(**{**table, **given})
    if not dimensions and not faults:
        hint = f"add one, such as 'optimizer.lr=log(1e-4, 1e-1)', or write the table [{TABLE}.{SPACE}]"
        raise ConfigError("there is nothing to search: no option has a range or choices", hint=hint)
    sampler = options.sampler or ("grid" if all(one.values for one in dimensions) and not options.trials else "tpe")
    faults += _faults_of_options(options, sampler, dimensions)
    configs = _check(config, overrides, dimensions, catalog, faults)
    faults += _given_by_user(configs[0]) if configs else []
    _raise(faults)
    size = math.prod(len(one.values) for one in dimensions) if sampler == "grid" else options.trials or 0
    definition = Definition(
        config=os.path.abspath(config) if config else None,  # noqa: PTH100 - keeps links
        folder=str(Path.cwd()),
        overrides=[redacted_word(word) for word in overrides],
        space={one.key: one.text for one in dimensions},
        settings=_hash_of(configs[0], keys={one.key for one in dimensions}),
        sampler=sampler,
        seed=options.seed,
        minimize=list(options.minimize),
        maximize=list(options.maximize),
        prune=options.prune,
    )
    integers = frozenset(one.key for one in dimensions if one.numbers and _is_integer(configs, one))
    num_trials = min(size, options.trials or size)
    return Sweep(definition, dimensions, integers, tuple(overrides), num_trials, options.jobs)


def _read_table(config: str, faults: list[Fault]) -> tuple[dict[str, Any], list[Dimension]]:
    """Return the settings and the dimensions in the table ``[sweep]`` of a config."""
    known = {option.name: option for option in options_of(SweepOptions)}
    values: dict[str, Any] = {}
    in_space = []
    for item in read_table(config, TABLE):
        name = item.path[0] if item.path else ""
        if name == SPACE and len(item.path) > 1:
            in_space.append(replace(item, path=item.path[1:]))
        elif name in known and len(item.path) == 1:
            try:
                values[name] = known[name].convert(item.value, item.origin.folder)
            except ValueError as error:
                faults.append(Fault(f"'{TABLE}.{name}': {error}", item.origin.location))
        elif item.path and name != SPACE:
            hint = did_you_mean(name, [*known, SPACE]) or f"options to search belong into [{TABLE}.{SPACE}]"
            faults.append(Fault(f"unknown key {'.'.join((TABLE, *item.path))!r}", item.key_location, hint))
        else:
            label = f"{TABLE}.{SPACE}" if item.path else TABLE
            faults.append(Fault(f"{label!r}: expected a table, got {item.value!r}", item.location))
    return values, dimensions_of_table(in_space, faults)


def _faults_of_options(options: SweepOptions, sampler: Sampler, dimensions: Sequence[Dimension]) -> Iterator[Fault]:
    metrics = [*options.minimize, *options.maximize]
    if sampler == "grid":
        for one in dimensions:
            if not one.values:
                hint = "use choice(...) or range(...), or another sampler"
                yield Fault(f"{one.key!r}: a grid needs values that can be listed", one.place, hint)
    elif options.trials is None:
        yield Fault("the number of trials is missing", hint="add --trials N")
    if double := sorted({name for name in metrics if metrics.count(name) > 1}):
        yield Fault(f"the metric {double[0]!r} is an objective twice")
    if options.prune and len(metrics) > 1:
        yield Fault("trials with several objectives cannot be pruned", hint="name one objective, or omit --prune")


def _check(
    config: str | None, overrides: Sequence[str], dimensions: Sequence[Dimension], catalog: Catalog, faults: list[Fault]
) -> list[RunConfig]:
    """Return configs of trials that together have each candidate of each option; append every fault once.

    The candidates of an option are checked for each combination of the plugins that are searched.
    """
    searched = [one for one in dimensions if one.names_plugins]
    others = [one for one in dimensions if not one.names_plugins]
    configs: list[RunConfig] = []
    seen = {str(fault) for fault in faults}
    for plugins in itertools.product(*(one.candidates for one in searched)):
        for number in range(max((len(one.candidates) for one in others), default=1)):
            chosen = [one.candidates[min(number, len(one.candidates) - 1)] for one in others]
            pairs = [*zip(searched, plugins, strict=True), *zip(others, chosen, strict=True)]
            placed = {f"{dimension.key}={one.text}": (dimension, one) for dimension, one in pairs}
            try:
                configs.append(
                    load_words([*([config] if config else []), *overrides, *placed], catalog, _saved(catalog))
                )
            except ConfigError as error:
                if not error.faults:
                    raise
                for fault in error.faults:
                    moved = _moved(fault, placed)
                    faults += [] if str(moved) in seen else [moved]
                    seen.add(str(moved))
    return configs


def _given_by_user(config: RunConfig) -> list[Fault]:
    """Return a fault for each option that no file may set: a sweep goes on from its files, with its own table."""
    hint = "leave it out, or set what it needs in the environment"
    return [
        Fault(f"{key!r} cannot be set in a sweep, whose trials are started from files", setting.origin.location, hint)
        for choice in config.plugins
        for option in choice.plugin.options
        if option.is_from_user
        and (setting := config.settings[key := f"{choice.table}.{option.name}"]).origin.layer != "default"
    ]


def _saved(catalog: Catalog) -> dict[str, Any]:
    saved: dict[str, Any] = catalog.default("keep")
    return saved


def _moved(fault: Fault, placed: Mapping[str, tuple[Dimension, Candidate]]) -> Fault:
    """Return a fault with the place that a person wrote, if it is in a word that was made of a dimension."""
    where: Location | None = fault.location
    if where is None or where.text is None or where.text not in placed:
        return fault
    dimension, candidate = placed[where.text]
    return replace(fault, location=dimension.key_place if where.column is None else candidate.place)


def _raise(faults: Sequence[Fault]) -> None:
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        more = [Fault(f"and {len(faults) - _MAX_FAULTS} more")] if len(faults) > _MAX_FAULTS else []
        raise ConfigError(f"the sweep has {count}", faults=[*faults[:_MAX_FAULTS], *more])


def _hash_of(config: RunConfig, keys: set[str]) -> str:
    values = {key: to_toml(config.lasting(key)) for key in sorted(config.settings) if key not in keys}
    return hashlib.sha256(msgspec.json.encode(values)).hexdigest()


def _is_integer(configs: Sequence[RunConfig], dimension: Dimension) -> bool:
    """Return whether a range is of integers: its numbers, and the values that the option makes of them."""
    table, _, name = dimension.key.rpartition(".")
    for config in configs:
        options = next((choice.options for choice in config.plugins if choice.table == table), {})
        value = getattr(config.train, name, None) if table == "train" else options.get(name)
        if isinstance(value, float):
            return False
    return all(isinstance(number, int) for number in dimension.numbers)
