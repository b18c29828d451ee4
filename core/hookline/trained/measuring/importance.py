"""Importance of the input features of a saved run, by permutation.

Method: L. Breiman, "Random Forests", Machine Learning 45 (2001), section 10. Shapes: ``B`` examples, ``I`` features.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hookline.config.loading import load_config
from hookline.config.plugins.catalog import Catalog
from hookline.engine.errors import ConfigError
from hookline.engine.loop.building import Site
from hookline.engine.loop.predicting import build_predictor
from hookline.engine.reading.batches import Batches
from hookline.engine.words import did_you_mean
from hookline.runs.folder import saved_config
from hookline.runs.overview.search import find_run
from hookline.trained.evaluating import USUAL_SPLITS, Evaluated, check_evaluated, load_evaluated
from hookline.trained.measuring.permuted import Feature, features_of, permuted


@dataclass(frozen=True)
class FeatureImportance:
    """The change of a metric when a feature is permuted.

    Attributes:
        feature: The name of the feature: of a column of the data, if the data source tells which its inputs stem from.
        changes: The metric with the feature permuted minus the metric without, for each repeat.
    """

    feature: str
    changes: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of the changes."""
        return math.fsum(self.changes) / len(self.changes)

    @property
    def std(self) -> float:
        """The standard deviation of the changes, with their number in the denominator."""
        return math.sqrt(math.fsum((change - self.mean) ** 2 for change in self.changes) / len(self.changes))


@dataclass(frozen=True)
class Importance:
    """The importance of each feature to the model of a run.

    Attributes:
        path: The run folder.
        weights: Origin of the weights: ``model.safetensors``, or the name of a checkpoint.
        step: Number of steps that they were trained for.
        metric: The metric that was measured, such as ``validation/loss``.
        value: Its value with no feature permuted.
        num_examples: Number of examples in the split.
        features: The features; those that change the metric most come first.
        warnings: Warnings about the weights and the data.
    """

    path: Path
    weights: str
    step: int
    metric: str
    value: float
    num_examples: int
    features: tuple[FeatureImportance, ...]
    warnings: tuple[str, ...]


def measure_importance(  # noqa: PLR0913 - an argument for each option
    run: str | os.PathLike[str],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    plugins: Mapping[str, Any] | None = None,
    split: str | None = None,
    metric: str = "loss",
    repeats: int = 5,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    parent: str | os.PathLike[str] = "runs",
    catalog: Catalog | None = None,
) -> Importance:
    """Measure how a metric changes when the values of one feature are exchanged between the examples of a split.

    The features are those of the inputs: the columns of a tensor ``[B, I]``, the entries of a mapping. If the predictor
    of the data source has an attribute ``feature_columns``, those that stem from one column of the data are permuted
    together. No event is fired, and nothing is written.

    Args:
        run: Folder, number or name of the run.
        overrides: Values by dotted key that win over those of its config.
        plugins: Objects by table, if it was trained with objects: ``{"data": data}``.
        split: The split; default: ``validation``, else ``test``, else ``train``.
        metric: The metric, without the name of the split.
        repeats: Number of permutations, the same for each feature; by default 5, as in scikit-learn.
        seed: Seed of the permutations.
        checkpoint: ``latest`` or the folder of a checkpoint, instead of the final weights of the run.
        parent: Folder to search for runs by number or name.
        catalog: The plugins that may be used; default: the installed ones.

    Raises:
        CheckpointError: When there are no such weights, or they are damaged or belong to a different model.
        ConfigError: When the data lack the split, or it has no such metric or no number of examples.
        HooklineError: As ``Run`` raises it.
    """
    path = find_run(run, parent)
    switches = {"--split": {"train.evaluate": [split] if split else list(USUAL_SPLITS)}}
    config = load_config(saved_config(path), overrides, plugins=plugins, switches=switches, catalog=catalog)
    found = load_evaluated(path, config, checkpoint)
    chosen = split or next(name for name in USUAL_SPLITS if name in found.run.data.splits())
    check_evaluated(found.run, [chosen])
    measured = _Measured(found, chosen, metric)
    value, features = _changes(measured, repeats, seed)
    weights, name = found.weights, f"{chosen}/{metric}"
    return Importance(path, weights.origin, weights.step, name, value, measured.num_examples, features, found.warnings)


def _changes(measured: _Measured, repeats: int, seed: int) -> tuple[float, tuple[FeatureImportance, ...]]:
    """Return the metric, and its changes by each feature, the largest first."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(measured.num_examples, generator=generator) for _ in range(repeats)]
    value = measured.value(None, None)
    features = [
        FeatureImportance(feature.name, tuple(measured.value(feature, order) - value for order in orders))
        for feature in measured.features()
    ]
    return value, tuple(sorted(features, key=lambda one: -abs(one.mean)))


class _Measured:
    """A metric of a split, measured with features permuted.

    Args:
        found: The run.
        split: The split.
        metric: The metric.
    """

    def __init__(self, found: Evaluated, split: str, metric: str) -> None:
        self._run, self._site, self._split, self._metric = found.run, found.site, split, metric
        self._dataset: Any = found.run.data.splits()[split]
        if not (hasattr(self._dataset, "__getitem__") and hasattr(self._dataset, "__len__")):
            hint = "name another split: --split NAME"
            raise ConfigError(f"the {split} split is a stream, whose examples cannot be permuted", hint=hint)
        self.num_examples = len(self._dataset)

    def features(self) -> list[Feature]:
        """Return the features of its inputs."""
        data = self._run.data
        inputs, _ = self._site.parts.forward.pair(self._dataset[0])
        return features_of(inputs, _columns(self._site) or data.feature_names)

    def value(self, feature: Feature | None, order: torch.Tensor | None) -> float:
        """Return the metric, with a feature in another order of the examples.

        Raises:
            ConfigError: When there is no such metric.
        """
        parts, data = self._site.parts, self._dataset
        dataset = data if feature is None or order is None else permuted(data, feature, order)
        size, name = self._run.config.train.eval_batch_size, f"{self._split} split"
        parts.evaluation_batches = {self._split: Batches(dataset, size, parts.workers, seed=None, name=name)}
        metrics = self._run.evaluate()
        if (full := f"{self._split}/{self._metric}") not in metrics:
            names = [one.partition("/")[2] for one in metrics]
            raise ConfigError(f"there is no metric {full!r}", hint=did_you_mean(self._metric, names))
        return metrics[full]


def _columns(site: Site) -> Any:
    """Return the columns of the data that the inputs stem from; None if the data source does not tell."""
    if not site.host.is_implemented("build_predictor"):
        return None
    return getattr(build_predictor(site.host, site.run), "feature_columns", None)
