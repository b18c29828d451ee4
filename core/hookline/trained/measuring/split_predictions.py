"""Predictions of a trained model for a split of its own data, with the targets and the loss of each example.

Shapes: ``B`` examples in a batch, ``O`` targets, ``C`` classes.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hookline.config.loading import load_config
from hookline.config.plugins.catalog import Catalog
from hookline.engine.data import DataSource
from hookline.engine.errors import ConfigError, ContractError
from hookline.engine.loop.evaluation import evaluation_mode
from hookline.engine.loop.predicting import build_predictor
from hookline.engine.reading.batch import brief, count_examples, on_cpu
from hookline.engine.reading.failure import note_examples
from hookline.engine.rng import preserved_rng
from hookline.runs.folder import saved_config
from hookline.runs.overview.search import find_run
from hookline.trained.evaluating import Evaluated, check_evaluated, load_evaluated, num_examples
from hookline.trained.measuring.example_losses import ExampleLosses, Forwarded
from hookline.trained.model import check_columns
from hookline.trained.predicting import Columns, write_parts

_LOSS = "loss"


class SplitPredictions:
    """The predictions of a model for a split of the data that it was trained with.

    Attributes:
        path: The run folder.
        weights: Origin of the weights: ``model.safetensors``, or the name of a checkpoint.
        step: Number of steps that they were trained for.
        split: The split.
        num_examples: Number of its examples; None for a stream.
        warnings: Warnings about the weights and the data.
    """

    def __init__(self, path: Path, found: Evaluated, split: str, *, losses: bool, hardest_first: bool) -> None:
        self.path, self.weights, self.step = path, found.weights.origin, found.weights.step
        self.split, self.warnings = split, found.warnings
        self._site, self._is_sorted = found.site, hardest_first
        self._dataset: Any = found.run.data.splits()[split]
        self.num_examples = num_examples(self._dataset)
        self._losses = ExampleLosses(found.site) if losses else None

    @property
    def loss(self) -> float | None:
        """Mean loss of the examples that were read, each with its weight: that of an evaluation, up to rounding."""
        return self._losses.mean.compute() if self._losses else None

    @functools.cached_property
    def writers(self) -> Mapping[str, Any]:
        """Functions that write other files than CSV, by extension: those of the predictor of the data source."""
        return getattr(self._predictor, "writers", {})

    def predictions(self) -> Iterator[Columns]:
        """Yield columns by name, one batch at a time: origins, targets, predictions, ``loss`` and perhaps ``weight``.

        Sorted, they are one batch.

        Raises:
            ContractError: When the targets or predictions have no columns, or examples have no loss.
            DataError: When the split cannot be read.
        """
        parts = self._in_order()
        if not self._is_sorted:
            yield from parts
            return
        whole: dict[str, list[Any]] = {}
        for part in parts:
            for name, values in part.items():
                whole.setdefault(name, []).extend(values)
        losses = [math.nan if loss is None else loss for loss in whole[_LOSS]]
        order = sorted(range(len(losses)), key=lambda i: (math.isnan(losses[i]), -losses[i]))
        yield {name: [values[number] for number in order] for name, values in whole.items()}

    def write(self, target: str | os.PathLike[str], *, force: bool = False) -> int:
        """Write them to a CSV file, or another that the data source has a writer for; return the number of rows.

        Raises:
            ConfigError: When the file cannot be written, or exists and ``force`` is not given.
        """
        return write_parts(self.writers, self.predictions, Path(target), force=force)

    @functools.cached_property
    def _predictor(self) -> Any:
        """The predictor of the data source; None if it has none."""
        host = self._site.host
        return build_predictor(host, self._site.run) if host.is_implemented("build_predictor") else None

    def _in_order(self) -> Iterator[Columns]:
        parts = self._site.parts
        if self._losses:
            self._losses.mean.reset()
        first, names = 0, None
        with parts.workers, closing(parts.read(self.split, parts.evaluation_batches[self.split], None, 1)) as stream:
            while (columns := self._next(stream, first)) is not None:
                size = len(next(iter(columns.values())))
                check_columns(columns, names, size, str(self._site.host.owner("data")))
                first, names = first + size, list(columns)
                yield columns

    def _next(self, stream: Iterator[Any], first: int) -> Columns | None:
        parts, run, makers = self._site.parts, self._site.run, self._site.host.makers
        # Only while a batch is computed: a generator would change the process of its caller in between.
        with torch.no_grad(), preserved_rng(), evaluation_mode(run.model, run.loss), makers.attributing():
            batch = next(stream, None)
            if batch is None:
                return None
            indices = list(range(first, first + count_examples(batch)))
            try:
                forwarded = Forwarded.of(parts.forward, batch)
                losses = self._losses.columns(forwarded) if self._losses else {}
            except Exception as error:
                note_examples(error, range(first, first + len(indices)), f"the {self.split} split")
                raise
            target, prediction = on_cpu(forwarded.target), on_cpu(forwarded.prediction)
            _check_form(prediction, target)
            columns = {**target_columns(target, run.data), **self._predicted(prediction, target)}
            return {**self._origins(indices), **columns, **losses}

    def _origins(self, indices: list[int]) -> Mapping[str, Sequence[Any]]:
        # Several workers read the parts of a stream by turns.
        is_known = hasattr(self._dataset, "origins") and (
            self.num_examples is not None or not self._site.run.config.train.num_workers
        )
        found: Mapping[str, Sequence[Any]] = self._dataset.origins(indices) if is_known else {"example": indices}
        return found

    def _predicted(self, prediction: Any, target: Any) -> Mapping[str, Sequence[Any]]:
        if self._predictor is not None:
            columns: Mapping[str, Sequence[Any]] = self._predictor.columns(prediction)
            return columns
        if isinstance(prediction, Tensor) and not target.is_floating_point():
            prediction = prediction.argmax(1)  # the classes are the second dimension
        return target_columns(prediction, self._site.run.data, "predicted")


def predict_split(  # noqa: PLR0913 - an argument for each option
    run: str | os.PathLike[str],
    split: str,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    plugins: Mapping[str, Any] | None = None,
    losses: bool = True,
    hardest_first: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    parent: str | os.PathLike[str] = "runs",
    catalog: Catalog | None = None,
) -> SplitPredictions:
    """Prepare the predictions of a run for a split of its data, with targets and losses.

    The data source is built as in the training. No event is fired, and nothing is written.

    Args:
        run: Folder, number or name of the run.
        split: The split, such as ``test``.
        overrides: Values by dotted key that win over those of its config.
        plugins: Objects by table, if it was trained with objects: ``{"data": data}``.
        losses: Whether to compute the loss of each example.
        hardest_first: Whether to sort the examples by their loss, the largest first; otherwise they are in the order of
            the split, and one batch is in memory at a time.
        checkpoint: ``latest`` or the folder of a checkpoint, instead of the final weights of the run.
        parent: Folder to search for runs by number or name.
        catalog: The plugins that may be used; default: the installed ones.

    Raises:
        CheckpointError: When there are no such weights, or they are damaged or belong to a different model.
        ConfigError: When the data lack the split, or examples are to be sorted by a loss that is not computed.
        HooklineError: As ``Run`` raises it.
    """
    if hardest_first and not losses:
        raise ConfigError(
            "examples cannot be sorted by a loss that is left out", hint="leave out --no-loss, or losses=False"
        )
    path = find_run(run, parent)
    switches = {"--split": {"train.evaluate": [split]}}
    config = load_config(saved_config(path), overrides, plugins=plugins, switches=switches, catalog=catalog)
    found = load_evaluated(path, config, checkpoint)
    check_evaluated(found.run, [split])
    return SplitPredictions(path, found, split, losses=losses, hardest_first=hardest_first)


def target_columns(values: Any, data: DataSource, prefix: str = "target") -> dict[str, list[Any]]:
    """Return targets, or predictions of the same form, as columns in the units of the data.

    They are numbers or answers ``[B, O]`` or ``[B]``, or class indices ``[B]``. The columns are named after the
    targets: ``target_price``; ``target`` for classes without a name.

    >>> from torch.utils.data import TensorDataset
    >>> data = DataSource(TensorDataset(torch.zeros(2, 1)), target_names=("a", "b"))
    >>> target_columns(torch.tensor([[1.0, 2.0]]), data)
    {'target_a': [1.0], 'target_b': [2.0]}

    """
    names = data.target_names
    if not values.is_floating_point() and values.dim() == 1:
        texts = data.class_names
        found = [texts[one] if 0 <= one < len(texts) else one for one in values.tolist()]
        return {f"{prefix}_{names[0]}" if names else prefix: found}
    rows = values.double().reshape(len(values), -1)
    rows = data.unscale(rows) if data.unscale else rows
    columns = [_shortest(column) for column in rows.to(values.dtype).T] if prefix == "target" else rows.T.tolist()
    if data.task == "binary" and len(data.class_names) == 2:
        columns = [[data.class_names[int(one > 0.5)] for one in column] for column in columns]
    numbered = names if len(names) == len(columns) else [str(number) for number in range(len(columns))]
    return {f"{prefix}_{name}": column for name, column in zip(numbered, columns, strict=True)}


def _check_form(prediction: Any, target: Any) -> None:
    """Check that targets are ``[B]``, or ``[B, O]`` like the predictions, so that each has a row.

    Raises:
        ContractError: When they are not.
    """
    is_column = isinstance(target, Tensor) and target.dim() in (1, 2)
    if not is_column or (target.dim() == 2 and getattr(prediction, "shape", None) != target.shape):
        message = f"the targets of a batch are {brief(target)} and the predictions {brief(prediction)}"
        hint = "the examples of a split are rows if their targets are [B], or [B, O] like the predictions"
        raise ContractError(f"{message}, which are no columns of a table", hint=hint)


def _shortest(values: Tensor) -> list[float]:
    """Return numbers as they were written: 0.1 and not 0.10000000149, which float32 holds in its place."""
    return [float(str(value)) for value in values.numpy()]
