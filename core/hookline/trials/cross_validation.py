"""Cross-validation of a config: a run for each fold of the data, and its predictions for the rows left out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hookline.config.layers import Source
from hookline.config.loading import load_config
from hookline.config.plugins.catalog import Catalog
from hookline.engine.loop.run import Run
from hookline.engine.result import Shown
from hookline.trained.predicting import write_parts
from hookline.trials.folds.measuring import Measured, check_fold, measure_fold, train_fold
from hookline.trials.folds.planning import Fold, Load, Planned, plan


@dataclass(frozen=True)
class FoldResult:
    """The result of a fold.

    Attributes:
        fold: The fold: its ``repeat`` and ``number``, each from 1, its ``count`` and its ``seed``.
        path: The run folder; None if it was not kept.
        step: The number of steps of its run.
        num_examples: The number of examples that it was not trained on.
        metrics: The metrics of these examples, by name: ``loss``, ``accuracy``.
    """

    fold: Fold
    path: Path | None
    step: int
    num_examples: int
    metrics: Mapping[str, float]


class CrossValidation(Shown):
    """The result of a cross-validation.

    Attributes:
        folds: The result of each fold.
        mean: The mean of each metric over the folds.
        deviation: Its standard deviation, with the number of folds minus 1 in the denominator.
        predictions: Columns by name, with a row for each example and repeat, in the order of the data: ``repeat``,
            ``fold``, where the example comes from (``row``, its number in the data from 0; ``file`` of an image), the
            targets, and the predictions of the model that was not trained on it.
        warnings: Warnings about the weights and the data.
    """

    def __init__(self, found: Iterable[tuple[Fold, Measured]], *, is_kept: bool) -> None:
        pairs = list(found)
        self.folds = tuple(
            FoldResult(fold, one.path if is_kept else None, one.step, _num_examples(one), one.metrics)
            for fold, one in pairs
        )
        names = dict.fromkeys(name for fold in self.folds for name in fold.metrics)
        values = {name: [fold.metrics[name] for fold in self.folds if name in fold.metrics] for name in names}
        with np.errstate(all="ignore"):  # a metric may be infinite or undefined
            self.mean = {name: float(np.mean(numbers)) for name, numbers in values.items()}
            self.deviation = {
                name: float(np.std(numbers, ddof=1)) for name, numbers in values.items() if len(numbers) > 1
            }
        self.predictions = _together(pairs)
        self.warnings = tuple(dict.fromkeys(text for _, one in pairs for text in one.warnings))
        self._writers = pairs[0][1].writers

    def write(self, target: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the predictions to a CSV file, or another that the data source has a writer for, such as ``.parquet``.

        Raises:
            ConfigError: When the file exists, unless ``force``, or cannot be written.
        """
        write_parts(self._writers, lambda: iter([self.predictions]), Path(target), force=force)


class FoldPlan:
    """The folds of a cross-validation, to be trained in any order, and measured when all are.

    Args:
        load: Loads the config with further defaults and switches, as ``load_config`` takes them.
        folds: The number of parts into which the rows are divided.
        repeats: The number of divisions.
        parent: The folder of the runs.
        plugins: Objects by table, if the config has any.
        catalog: The plugins that may be used; default: the installed ones.
        is_kept: Whether the runs are kept, so that the result names their folders.

    Attributes:
        planned: The folds, each with its config and, if an earlier call has begun it, its run.
        parent: The folder of the runs.

    Raises:
        ConfigError: When the config is faulty, its data have no folds, or the folder has runs of another config.
    """

    def __init__(
        self,
        load: Load,
        *,
        folds: int = 5,
        repeats: int = 1,
        parent: str | os.PathLike[str],
        plugins: Mapping[str, Any] | None = None,
        catalog: Catalog | None = None,
        is_kept: bool = True,
    ) -> None:
        if folds < 2 or repeats < 1:
            raise ValueError(f"a cross-validation has at least 2 folds and 1 repeat, not {folds} and {repeats}")
        self.parent = Path(parent).absolute()
        self._catalog, self._plugins, self._is_kept = catalog or Catalog.installed(), plugins, is_kept
        self._load, self._counts = load, (folds, repeats)
        self.planned: list[Planned] = []
        self.look()

    def look(self) -> None:
        """Look again which folds have begun or are finished."""
        self.planned = plan(self._load, self._counts, self.parent, self._catalog)

    def check(self, target: str | os.PathLike[str] | None = None) -> None:
        """Read the data once, to find their faults, and whether a file with predictions can be written.

        Raises:
            DataError: With every fault of the data.
            ConfigError: When the file cannot be written.
        """
        check_fold(self.planned[0], Path(target) if target else None)

    def train(self, planned: Planned, train: Callable[[Run], object] = Run.fit) -> Path:
        """Train a fold with a function, from where it was left, unless it is finished; return its run folder."""
        return train_fold(planned, train, self._plugins, self._catalog)

    def result(self, paths: Sequence[str | os.PathLike[str]]) -> CrossValidation:
        """Measure the run of each fold, and return the result.

        Raises:
            DataError: When the data have changed since.
        """
        pairs = zip(self.planned, paths, strict=True)
        return CrossValidation(
            ((one.fold, measure_fold(one, Path(path))) for one, path in pairs), is_kept=self._is_kept
        )


def cross_validate(
    config: Source = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    folds: int = 5,
    repeats: int = 1,
    plugins: Mapping[str, Any] | None = None,
    parent: str | os.PathLike[str] | None = None,
    catalog: Catalog | None = None,
) -> CrossValidation:
    """Train a config once for each fold of its data, and measure each model on the rows that it was not trained on.

    Each row is left out once in each repeat. Everything that a data source computes from its rows, such as means,
    comes from the rows that a fold is trained on. Repeats differ in the seed of the division.

    Args:
        config: A TOML file's path, a mapping of the same form, or None for the defaults. The data source needs the
            options ``fold`` and ``fold_seed``.
        overrides: Values by dotted key that win over those of the config.
        folds: The number of parts into which the rows are divided.
        repeats: The number of divisions.
        plugins: Objects instead of named plugins, by table: ``{"data": data}``.
        parent: A folder to keep the runs in, from which the same call goes on after it was killed; None to keep none.
        catalog: The plugins that may be used; default: the installed ones.

    Raises:
        ConfigError: When the config is faulty, its data have no folds, or the folder has runs of another config.
        DataError: When the data are faulty, or have too few rows for the folds.
        TrainingError: When a run does not reach its end.
        HooklineError: As ``Run`` raises it.

    Example:
        >>> import numpy as np
        >>> from hookline import from_arrays
        >>> x = np.linspace(-1, 1, 60)
        >>> data = from_arrays(x, 2 * x + 1)
        >>> found = cross_validate({"train": {"epochs": 20}}, folds=3, plugins={"data": data})
        >>> found.mean["loss"] < 0.1, sorted(found.predictions["row"]) == list(range(60))
        (True, True)
    """
    load = partial(_loaded, config, overrides, plugins, catalog)
    with _folder(parent) as folder:
        counts: dict[str, Any] = {"folds": folds, "repeats": repeats}
        made = FoldPlan(load, **counts, parent=folder, plugins=plugins, catalog=catalog, is_kept=parent is not None)
        made.check()
        return made.result([made.train(one) for one in made.planned])


def _loaded(
    config: Source,
    overrides: Mapping[str, Any] | Sequence[str],
    plugins: Mapping[str, Any] | None,
    catalog: Catalog | None,
    defaults: Mapping[str, Any],
    switches: Mapping[str, Mapping[str, Any]],
) -> Any:
    return load_config(config, overrides, plugins=plugins, defaults=defaults, switches=switches, catalog=catalog)


@contextmanager
def _folder(parent: str | os.PathLike[str] | None) -> Iterator[Path]:
    if parent is not None:
        yield Path(parent)
        return
    with tempfile.TemporaryDirectory(prefix="hookline-folds-") as folder:
        yield Path(folder)


def _num_examples(one: Measured) -> int:
    return len(next(iter(one.origins.values())))


def _together(pairs: Sequence[tuple[Fold, Measured]]) -> dict[str, list[Any]]:
    """Return the columns of all folds, those of each repeat in the order of the data."""
    parts = []
    for fold, one in pairs:
        count = _num_examples(one)
        parts.append({"repeat": [fold.repeat] * count, "fold": [fold.number] * count, **one.origins, **one.columns})
    joined = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    keys = [*zip(joined["repeat"], *(joined[name] for name in pairs[0][1].origins), strict=True)]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return {name: [values[index] for index in order] for name, values in joined.items()}
