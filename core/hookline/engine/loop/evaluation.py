"""Evaluation: from batches to the mean loss and the metrics of a split, without gradients."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hookline.engine.data import Predictor
from hookline.engine.errors import ContractError, DataError, PluginError
from hookline.engine.loop.batch import Forward, brief, count_examples, on_cpu, placed, prediction_of, tensors_in
from hookline.engine.loop.batches import Batches
from hookline.engine.loop.memory import evaluating
from hookline.engine.loop.reading import note_examples
from hookline.engine.loop.rng import preserved_rng
from hookline.engine.loop.splits import SplitReader
from hookline.engine.plugin.host import Host
from hookline.engine.plugin.makers import Makers
from hookline.engine.plugin.plugin import Plugin
from hookline.engine.read_only import ReadOnly
from hookline.engine.view import Evaluated, Evaluation, LossFunction, Metric, RunView

_METHODS = ("reset", "update", "compute")
_FOLD = 1024
"""Number of values to collect before they are summed: one sum for many steps."""

_MAX_METRICS = 100_000
"""With more, the record of a run would exceed the size that is read."""


def weight_of(loss: LossFunction) -> Callable[[Tensor], Tensor] | None:
    """Return the function from the targets of a batch to the weight of its loss; None for the number of examples.

    It is the ``batch_weight`` of the loss. Two losses of torch without one are weighted means: each target counts as
    much as its class, and not at all if it is the ``ignore_index``.

    >>> weight = weight_of(nn.CrossEntropyLoss(torch.tensor([1.0, 20.0])))
    >>> weight(torch.tensor([0, 1, -100, 1]))
    tensor(41.)
    """
    of_torch = partial(_weight_of_classes, loss) if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) else None
    return getattr(loss, "batch_weight", of_torch)


def counted(loss: LossFunction) -> LossFunction:
    """Return a loss that is 0, with a gradient of 0, for a batch in which no target counts."""
    weigh = weight_of(loss)

    def counted_loss(prediction: Any, target: Any, **asked: Any) -> Tensor:
        value = loss(prediction, target, **asked)
        if value.is_cpu and math.isfinite(value.item()):
            return value  # on an accelerator, reading it would wait
        is_counted = weigh(target) > 0  # type: ignore[misc] # it is not None where this is returned
        for tensor in tensors_in(prediction):
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: gradient.where(is_counted, 0.0))  # type: ignore[no-untyped-call] # torch leaves it so
        return value.where(is_counted, 0.0)

    return counted_loss if weigh else loss


def _weight_of_classes(loss: nn.CrossEntropyLoss | nn.NLLLoss, target: Tensor) -> Tensor:
    if target.is_floating_point():  # probabilities, which torch weights by their number
        return target.new_full((), len(target))
    is_counted = target != loss.ignore_index
    if loss.weight is None:
        return is_counted.count_nonzero()
    return (loss.weight[target.where(is_counted, 0)] * is_counted).sum()


class WeightedMean:
    """The mean of scalar tensors, each weighted by a number of examples, or by a scalar tensor.

    Adding does not wait for the device: values are collected and summed many at a time, in float64.

    Example:
        >>> mean = WeightedMean()
        >>> mean.add(torch.tensor(1.0), 3)
        >>> mean.add(torch.tensor(5.0), 1)
        >>> mean.compute()
        2.0
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all values."""
        self._values: list[Tensor] = []
        self._weights: list[int | Tensor] = []
        self._sum: Tensor | float = 0.0
        self._weight: Tensor | float = 0.0

    @property
    def weight(self) -> float:
        """The sum of all weights; wait for the device if they are tensors."""
        return float(self._weight + sum(self._weights))

    def add(self, value: Tensor, weight: int | Tensor) -> None:
        """Add a value, a scalar of any floating dtype; with a weight of 0 it does not count, even if it is NaN."""
        self._values.append(value)
        self._weights.append(weight)
        if len(self._values) == _FOLD:
            self._fold()

    def state_dict(self) -> dict[str, Any]:
        """Return the values so far, such that the result after a resume is the same to the last bit."""
        values = torch.stack(self._values) if self._values else None
        sums = {"sum": float(self._sum), "weight": float(self._weight)}
        return {"values": values, "weights": _joined(self._weights), **sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by ``state_dict``."""
        self._values = [] if state["values"] is None else list(state["values"].clone())
        self._weights = list(state["weights"])
        self._sum, self._weight = state["sum"], state["weight"]

    def compute(self) -> float:
        """Return the mean, NaN without values; wait for the device."""
        self._fold()
        return float(self._sum / self._weight) if self._weight else float("nan")

    def _fold(self) -> None:
        if self._values:
            values = torch.stack(self._values).double()
            weights = torch.as_tensor(_joined(self._weights)).to(values)
            self._sum = self._sum + (values * weights).where(weights > 0, 0.0).sum()
            self._weight = self._weight + weights.sum()
            self._values, self._weights = [], []


def _joined(weights: list[Any]) -> Any:
    """Return tensors as one tensor; a copy of a list of numbers.

    >>> _joined([torch.tensor(2.5), torch.tensor(1.0)]), _joined([2, 1])
    (tensor([2.5000, 1.0000]), [2, 1])
    """
    return torch.stack(weights) if weights and isinstance(weights[0], Tensor) else list(weights)


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
    if len(measured) > _MAX_METRICS:
        raise ContractError(f"the metrics are {len(measured):,} numbers, but at most {_MAX_METRICS:,} are possible")
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


class EvaluatedWeights:
    """The weights that are evaluated, where they are not those that are trained.

    Args:
        sources: Plugins, each with the result of its ``build_evaluated_weights``.
    """

    def __init__(self, sources: Iterable[tuple[Plugin, Callable[[], Iterable[tuple[Tensor, Tensor]]]]] = ()) -> None:
        self._sources = tuple(sources)

    def __bool__(self) -> bool:
        return bool(self._sources)

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Load them into the model; afterwards restore the trained ones, to the last bit."""
        trained: list[tuple[Tensor, Tensor]] = []
        try:
            self._load(trained)
            yield
        finally:
            with torch.no_grad():
                for weight, value in reversed(trained):
                    weight.copy_(value)

    def keep(self) -> None:
        """Load them into the model, whose own weights they are from then on."""
        self._load([])
        self._sources = ()

    @torch.no_grad()
    def _load(self, trained: list[tuple[Tensor, Tensor]]) -> None:
        for plugin, values_of in self._sources:
            for weight, value in list(values_of()):
                if weight.shape != value.shape:
                    message = f"build_evaluated_weights of {plugin} gives {brief(value)} for a weight {brief(weight)}"
                    raise ContractError(message)
                trained.append((weight, weight.clone()))
                weight.copy_(value)


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


def metrics_of(split: str, metrics: Mapping[str, Metric]) -> Mapping[str, Metric]:
    """Return the metrics of a split: those without ``splits``, or with that one among them."""
    return {name: metric for name, metric in metrics.items() if split in (getattr(metric, "splits", None) or (split,))}


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


def numbers_of(name: str, value: Any, class_names: Sequence[str] = ()) -> dict[str, float]:
    """Return the numbers of a metric: one of its name, or those of a mapping, a vector or a matrix by their places.

    A place has the name of its class if there is one for each.

    >>> numbers_of("recall", torch.tensor([1.0, 0.5]), ["cat", "dog"])
    {'recall/cat': 1.0, 'recall/dog': 0.5}
    """
    try:
        return {name: float(value)}
    except (TypeError, ValueError, RuntimeError) as error:
        parts = value.tolist() if hasattr(value, "tolist") else value  # one transfer
        if isinstance(parts, list | tuple):
            places = class_names if len(class_names) == len(parts) else range(len(parts))
            parts = dict(zip(places, parts, strict=True))
        if not (isinstance(parts, Mapping) and parts):
            message = f"the metric {name!r} returned {brief(value)}, but must return numbers"
            raise ContractError(message, hint="one, or a mapping, a vector or a matrix of them") from error
    named = (numbers_of(f"{name}/{place}", part, class_names) for place, part in parts.items())
    return {full: number for numbers in named for full, number in numbers.items()}


def build_predictor(host: Host, run: RunView) -> Predictor:
    """Return the reader of new inputs for the model of a run.

    Raises:
        PluginError: When the data source has none.
        ContractError: When its hook returns anything else.
    """
    owner = host.owner("data")
    if not host.is_implemented("build_predictor"):
        hint = "its plugin needs a hook build_predictor; from Python, use the model itself: load_trained"
        raise PluginError(f"the data source {owner} reads no inputs to predict for", hint=hint)
    built: Predictor = host.first_result("build_predictor", run=run, data=run.data)
    if not (callable(getattr(built, "read", None)) and callable(getattr(built, "columns", None))):
        raise ContractError(
            f"build_predictor of {owner} returned {brief(built)}, but must return a Predictor",
            hint="an object with the methods read(path, batch_size) and columns(prediction)",
        )
    return built


def output_for(host: Host, run: RunView, inputs: Any) -> Any:
    """Return the predictions of the model for a batch of inputs as in training: on the CPU, without gradients."""
    inputs = placed(inputs, run.device, getattr(torch, run.config.train.dtype))
    forward = Forward(run.model, None, unwrapped=run.unwrapped_model)
    with torch.no_grad(), preserved_rng(), evaluation_mode(run.model), host.makers.attributing():
        return on_cpu(prediction_of(forward.output(inputs)))


def predicting(host: Host, run: RunView, weights: EvaluatedWeights) -> Callable[..., Any]:
    """Return the function from arrays or frames to their predictions, as the predictor of the data source makes them.

    It raises ``PluginError`` when the data source reads no arrays.
    """

    def predict(inputs: Any, **options: Any) -> Any:
        predictor: Any = build_predictor(host, run)
        if not hasattr(predictor, "predict"):
            hint = "pass a file to the predictions of load_trained, or prepared inputs to the model"
            raise PluginError(f"the data source {host.owner('data')} predicts for files, not for arrays", hint=hint)
        with weights.loaded():
            return predictor.predict(
                partial(output_for, host, run), inputs, run.config.train.eval_batch_size, **options
            )

    return predict


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


def build_metrics(host: Host, **arguments: Any) -> Mapping[str, Metric]:
    """Return the metrics of all plugins by name.

    Raises:
        ContractError: When a plugin returns anything but a mapping, or a name that exists already or is not valid text;
            or when there are too many.
    """
    metrics: dict[str, Metric] = {}
    for plugin, built in host.results("build_metrics", **arguments):
        if not isinstance(built, Mapping):
            raise ContractError(f"build_metrics of {plugin} returned {brief(built)}, but must return a mapping")
        for name, metric in built.items():
            if name in metrics or name in ("loss", "running_loss"):
                raise ContractError(f"{plugin} adds the metric {name!r}, which exists already")
            if missing := [method for method in _METHODS if not callable(getattr(metric, method, None))]:
                message = f"{plugin} adds the metric {name!r}, {brief(metric)} without a method {missing[0]!r}"
                raise ContractError(message, hint="a metric has reset(), update(prediction, target) and compute()")
            if not _is_text(name):
                raise ContractError(f"{plugin} adds the metric {name!r}, whose name is not text that a file can hold")
            metrics[name] = metric
        if len(metrics) > _MAX_METRICS:
            raise ContractError(
                f"with {plugin} there are {len(metrics):,} metrics, but at most {_MAX_METRICS:,} are possible"
            )
    return ReadOnly(metrics)


def _is_text(name: Any) -> bool:
    # Half of a surrogate pair, as in a file name that is not UTF-8, cannot be written.
    return isinstance(name, str) and name.encode(errors="ignore").decode() == name
