"""Evaluation: from batches to the mean loss and the metrics of a split, without gradients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from hookline.engine.errors import ContractError, DataError
from hookline.engine.loop.memory import evaluating
from hookline.engine.loop.metrics import MAX_METRICS, metrics_of, numbers_of
from hookline.engine.loop.splits import SplitReader
from hookline.engine.loop.weighted_mean import WeightedMean, weight_of
from hookline.engine.plugin.makers import Makers
from hookline.engine.read_only import ReadOnly
from hookline.engine.reading.batch import Forward, count_examples
from hookline.engine.reading.batches import Batches
from hookline.engine.reading.failure import note_examples
from hookline.engine.rng import preserved_rng
from hookline.engine.view import Evaluated, Evaluation, Metric, RunView


def usual_evaluation(forward: Forward) -> Evaluation:
    """Return the evaluation of a model that predicts targets: the loss, its weight, and both for the metrics."""
    loss, weigh = forward.loss, weight_of(forward.loss)

    def evaluation(batch: Any) -> Evaluated:
        prediction, target, asked = forward(batch)
        weight = weigh(target) if weigh else len(target) if isinstance(target, Tensor) and target.dim() else None
        return Evaluated(loss(prediction, target, **asked), weight, prediction, target)

    return evaluation


def evaluate(
    batches: Iterable[Any],
    evaluation: Evaluation,
    parts: Iterable[Any],
    metrics: Mapping[str, Metric],
    where: str = "an evaluation",
    class_names: Sequence[str] = (),
) -> dict[str, float]:
    """Return ``loss`` and the other numbers, means over the batches by their weights, and each metric.

    Those ``parts`` that are modules are put into eval mode. Their modes and torch's global random generator are
    restored afterwards.

    Raises:
        DataError: When there is no batch, or no target that counts in the loss.
        ContractError: When the evaluation returns anything else, or a metric does not return numbers.
    """
    means = _measure(batches, evaluation, parts, metrics, where)
    if not means["loss"].weight:
        message = "there was no batch to evaluate, or none with a target that counts in the loss"
        raise DataError(message, hint="a stream must restart for each iteration")
    measured = {name: mean.compute() for name, mean in means.items()}
    for name, metric in metrics.items():
        measured |= numbers_of(name, metric.compute(), class_names)
    if len(measured) > MAX_METRICS:
        raise ContractError(f"the metrics are {len(measured):,} numbers, but at most {MAX_METRICS:,} are possible")
    return measured


def _measure(
    batches: Iterable[Any], evaluation: Evaluation, parts: Iterable[Any], metrics: Mapping[str, Metric], where: str
) -> dict[str, WeightedMean]:
    means, num_read = defaultdict(WeightedMean, loss=WeightedMean()), 0
    for metric in metrics.values():
        metric.reset()
    with torch.no_grad(), preserved_rng(), evaluation_mode(*parts):
        for batch in batches:
            num_examples = count_examples(batch)
            try:
                loss, weight, prediction, target, numbers = evaluation(batch)
                for name, number in (("loss", loss), *numbers.items()):
                    means[name].add(torch.as_tensor(number), num_examples if weight is None else weight)
                for metric in metrics.values():
                    metric.update(prediction, target)
            except Exception as error:
                note_examples(error, range(num_read, num_read + num_examples), where)
                raise
            num_read += num_examples
    return means


def evaluate_splits(
    run: RunView,
    read: SplitReader,
    splits: Mapping[str, Batches],
    evaluation: Evaluation,
    metrics: Mapping[str, Metric],
) -> Mapping[str, float]:
    """Return the loss and the metrics of every split that is evaluated, by names such as ``validation/loss``."""
    measured: dict[str, float] = {}
    for split, batches in splits.items():
        # Closed at once even if the model raises: the error refers to the frames that hold the stream.
        with closing(read(split, batches, 1)) as stream, evaluating(run, split, batches.num_examples):
            where, parts = f"the evaluation of the {split} split", (run.model, run.loss)
            numbers = evaluate(stream, evaluation, parts, metrics_of(split, metrics), where, run.data.class_names)
        measured |= {f"{split}/{name}": value for name, value in numbers.items()}
    return ReadOnly(measured)


def try_evaluation(
    split: str, batch: Any, evaluation: Evaluation, parts: Iterable[Any], metrics: Mapping[str, Metric], makers: Makers
) -> list[str]:
    """Measure one batch of a split, so that a metric that cannot be used is refused before the first step.

    Return the names of its numbers without those of the metrics.

    Raises:
        ContractError: When a metric does not return numbers.
        Exception: Any error of the evaluation or a metric.
    """
    metrics = metrics_of(split, metrics)
    names = list(_measure([batch], evaluation, parts, metrics, "the trial of the first batch"))
    for name, metric in metrics.items():
        # It may require more than one batch.
        with makers.attributing(metric), suppress(ArithmeticError, RuntimeError, ValueError):
            numbers_of(name, metric.compute())
    return names


@contextmanager
def evaluation_mode(*parts: Any) -> Iterator[None]:
    """Put those parts that are modules into eval mode; afterwards restore the mode of each of their modules."""
    training = [each for part in parts if isinstance(part, nn.Module) for each in part.modules() if each.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
