"""Evaluation: from batches to the mean loss and the metrics of a split, without gradients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hookline.engine.errors import ContractError, DataError
from hookline.engine.loop.memory import evaluating
from hookline.engine.loop.metrics import MAX_METRICS, metrics_of, numbers_of
from hookline.engine.loop.splits import SplitReader
from hookline.engine.loop.weighted_mean import WeightedMean, weight_of
from hookline.engine.plugin.makers import Makers
from hookline.engine.ranks import Parallel, Ranks
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
    ranks: Ranks = Ranks(),  # noqa: B008 - it has no state
    first: Callable[[], Any] | None = None,
) -> dict[str, float]:
    """Return ``loss`` and the other numbers, means over the batches by their weights, and each metric.

    Those ``parts`` that are modules are put into eval mode. Their modes and torch's global random generator are
    restored afterwards. With ``first``, which returns a batch, a rank that has no batch in the last round of all ranks
    evaluates another one and drops the result, because all must call the model together.

    Raises:
        DataError: When there is no batch, or no target that counts in the loss.
        ContractError: When the evaluation returns anything else, or a metric does not return numbers.
    """
    means = _measure(batches, evaluation, parts, metrics, where, ranks, first)
    if not means["loss"].sums()[1]:
        message = "there was no batch to evaluate, or none with a target that counts in the loss"
        raise DataError(message, hint="a stream must restart for each iteration")
    measured = {name: mean.compute() for name, mean in means.items()}
    for name, metric in metrics.items():
        measured |= numbers_of(name, metric.compute(), class_names)
    if len(measured) > MAX_METRICS:
        raise ContractError(f"the metrics are {len(measured):,} numbers, but at most {MAX_METRICS:,} are possible")
    return measured


def _measure(
    batches: Iterable[Any],
    evaluation: Evaluation,
    parts: Iterable[Any],
    metrics: Mapping[str, Metric],
    where: str,
    ranks: Ranks,
    first: Callable[[], Any] | None = None,
) -> dict[str, WeightedMean]:
    means, num_read = defaultdict(WeightedMean, loss=WeightedMean()), 0
    for metric in metrics.values():
        metric.reset()

    def evaluated(batch: Any) -> Any:
        num_examples = count_examples(batch)
        first = num_read + ranks.part_of(ranks.rank) * num_examples
        try:
            loss, weight, prediction, target, numbers = evaluation(batch)
        except Exception as error:
            note_examples(error, range(first, first + num_examples), where)
            raise
        answers = (prediction, target) if metrics else None
        return num_examples, num_examples if weight is None else weight, {"loss": loss, **numbers}, answers

    with torch.no_grad(), preserved_rng(), evaluation_mode(*parts):
        for num_examples, weight, numbers, answers in _in_order(ranks, iter(batches), evaluated, first):
            try:
                for name, number in numbers.items():
                    means[name].add(torch.as_tensor(number), weight)
                for metric in metrics.values():
                    metric.update(*answers)
            except Exception as error:
                note_examples(error, range(num_read, num_read + num_examples), where)
                raise
            num_read += num_examples
    return means


def _in_order(
    ranks: Ranks, batches: Iterator[Any], evaluated: Callable[[Any], Any], first: Callable[[], Any] | None
) -> Iterator[Any]:
    """Yield what all ranks have evaluated, each in turn, in the same order on each of them."""
    if ranks.world_size == 1:
        yield from map(evaluated, batches)
        return
    of_all: list[Any] = []
    batch: Any = None
    while None not in of_all:
        last, batch = batch, next(batches, None)
        if batch is None and first:
            evaluated(first() if last is None else last)
        gathered = ranks.gather(None if batch is None else evaluated(batch))
        of_all = [gathered[rank] for rank in ranks.first_readers]
        yield from (one for one in of_all if one is not None)


def evaluate_splits(
    run: RunView,
    read: SplitReader,
    splits: Mapping[str, Batches],
    evaluation: Evaluation,
    metrics: Mapping[str, Metric],
    parallel: Parallel,
) -> Mapping[str, float]:
    """Return the loss and the metrics of every split that is evaluated, by names such as ``validation/loss``."""
    measured: dict[str, float] = {}
    for split, batches in splits.items():
        # Closed at once even if the model raises: the error refers to the frames that hold the stream.
        share = run.ranks.share(in_turns=True)
        with closing(read(split, batches, share, 1)) as stream, evaluating(run, split, batches.num_examples):
            where, parts, of_split = (
                f"the evaluation of the {split} split",
                (run.model, run.loss),
                metrics_of(split, metrics),
            )
            first = partial(read.first, split, batches) if parallel.forwards_together else None
            numbers = evaluate(stream, evaluation, parts, of_split, where, run.data.class_names, run.ranks, first)
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
    names = list(_measure([batch], evaluation, parts, metrics, "the trial of the first batch", Ranks()))
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
