"""Whether runs are measured on the same examples: by the options of their data, or by the targets that are read.

Shapes: ``N`` examples of a split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hookline.config.plugins.choice import PluginChoice
from hookline.config.run_config import RunConfig
from hookline.engine.data import DataSource
from hookline.engine.loop.building import Site
from hookline.engine.plugin.member import Member
from hookline.engine.plugin.observer import Observer

_WITHOUT_EFFECT = (
    "epochs",
    "evaluate",
    "evaluate_every",
    "evaluate_every_epochs",
    "evaluate_every_steps",
    "log_every_steps",
    "max_steps",
    "max_time_s",
    "micro_batch_size",
    "non_finite",
)
"""Options of ``[train]`` on which no data source can depend: they are about the steps and the evaluations."""
_USED = ("build_order", "build_model", "build_loss", "build_metrics", "build_evaluation", "on_model_built")
"""Hooks of an evaluation: a data source that has one of them may need what its ``build_data`` has found."""

_KEPT = "leaderboard/targets"
_MAX_VALUES = 2**22
"""Number of target values that are compared: 32 MiB."""
_TOLERANCE = 1e-5
"""Relative difference of targets that were scaled and scaled back in float32, with a margin."""


def data_key(config: RunConfig) -> str | None:
    """Return a text that is equal for configs with equal data sources; None if one cannot serve another run."""
    choice = next(choice for choice in config.plugins if choice.table == "data")
    return None if any(hook in choice.plugin.hooks for hook in _USED) else _key(config, [choice])


def examples_key(config: RunConfig) -> str:
    """Return a text that is equal for configs with equal examples: those of the data source, with all wrappers."""
    return _key(config, [choice for choice in config.plugins if "build_data" in choice.plugin.hooks])


def _key(config: RunConfig, choices: Sequence[PluginChoice]) -> str:
    without_effect = [f"train.{name}" for name in _WITHOUT_EFFECT]
    tables = ("train.", *(f"{choice.table}." for choice in choices))
    keys = [key for key in config.settings if key.startswith(tables) and key not in without_effect]
    plugins = [(one.table, str(one.plugin), None if one.plugin.entry else id(one.plugin.target)) for one in choices]
    return repr((plugins, [(key, config.lasting(key)) for key in sorted(keys)]))


class SharedData(Observer):
    """Lets several runs have the data source of the first one; wrappers of other plugins are called for each run."""

    def __init__(self) -> None:
        self._data: Any = None

    def call(self, member: Member, hook: str, run: Callable[[], Any], arguments: Mapping[str, Any]) -> Any:  # noqa: ARG002 - those of ``run``
        """Call a hook, unless it would build the data source again."""
        if (member.table, hook) != ("data", "build_data"):
            return run()
        self._data = run() if self._data is None else self._data
        return self._data


class Examples:
    """The examples of a split, as an evaluation has read them: their targets, and where they come from.

    Attributes:
        key: The key of the config.
        targets: Their targets as the loss gets them; None if they are no single tensor of a bounded size.
        in_units: The targets in the units of the data.
        origins: Columns that say where they come from; None if the dataset does not.
    """

    def __init__(self, key: str, data: DataSource, split: str, targets: Tensor | None) -> None:
        self.key, self.targets = key, targets
        unscale = data.unscale or (lambda values: values)
        self.in_units = None if targets is None else unscale(targets.double()) if data.unscale else targets
        dataset: Any = data.splits()[split]
        has_origins = hasattr(dataset, "origins") and hasattr(dataset, "__len__")
        self.origins = dataset.origins(list(range(len(dataset)))) if has_origins else None

    def are_same(self, other: Examples) -> bool:
        """Return whether these are the examples of another run."""
        if self.key == other.key:
            return True
        if None not in (self.origins, other.origins) and self.origins != other.origins:
            return False
        return _are_close(self.in_units, other.in_units)

    def are_scaled_alike(self, other: Examples) -> bool:
        """Return whether the loss of another run gets the same targets."""
        return self.key == other.key or _are_close(self.targets, other.targets)


def _are_close(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None or one.shape != other.shape:
        return False
    scale = float(one.abs().max()) if one.numel() else 0.0
    return torch.allclose(one.double(), other.double(), rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True)


def evaluate_and_keep(site: Site, split: str) -> tuple[dict[str, float], Tensor | None]:
    """Evaluate a built run; return its metrics without the name of the split, and the targets that were read."""
    kept, parts = _Targets(), site.parts
    measured, run = parts.metrics, site.run
    parts.metrics = {**measured, _KEPT: kept}
    try:
        evaluable: Any = run
        found = {name.removeprefix(f"{split}/"): value for name, value in evaluable.evaluate().items()}
    finally:
        parts.metrics = measured
    found.pop(_KEPT)
    return found, kept.joined()


class _Targets:
    """A metric that keeps the targets, as long as there is room."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._batches: list[Tensor] = []
        self._room = _MAX_VALUES

    def update(self, prediction: Any, target: Any) -> None:  # noqa: ARG002 - a metric gets both
        """Keep the targets of a batch."""
        self._room -= target.numel() if isinstance(target, Tensor) else self._room + 1
        if self._room >= 0:
            self._batches.append(target.cpu())

    def compute(self) -> float:
        """Return a number, which nobody reads."""
        return 0.0

    def joined(self) -> Tensor | None:
        """Return all targets as one tensor; None if there are none, or too many, or they have no common form."""
        if self._room < 0 or not self._batches:
            return None
        try:
            return torch.cat(self._batches)
        except RuntimeError:  # batches of texts of several lengths
            return None
