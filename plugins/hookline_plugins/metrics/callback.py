"""Callback ``metrics``: further metrics in each evaluation."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from hookline import ConfigError, ContractError, DataSource, hookimpl
from hookline.engine import did_you_mean
from hookline.trained import only_watches
from hookline_plugins.metrics import classes, regression
from hookline_plugins.metrics.accuracy import Accuracy
from hookline_plugins.metrics.answers import Answers, Task, answers_of, task_of
from hookline_plugins.metrics.perplexity import Perplexity

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import Metric, RunView


_Name = Literal[
    "mae",
    "mse",
    "rmse",
    "r2",
    "max_error",
    "explained_variance",
    "accuracy",
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "confusion",
    "top_k_accuracy",
    "perplexity",
]
_Arguments = dict[str, bool | int | float | str | list[int | float]]

_OF_NUMBERS: Mapping[str, Callable[..., Metric]] = {
    "mae": regression.MAE,
    "mse": regression.MSE,
    "rmse": regression.RMSE,
    "r2": regression.R2,
    "max_error": regression.MaxError,
    "explained_variance": regression.ExplainedVariance,
}
_OF_CLASSES: Mapping[str, Callable[..., Metric]] = {
    "accuracy": Accuracy,
    "balanced_accuracy": classes.BalancedAccuracy,
    "precision": classes.Precision,
    "recall": classes.Recall,
    "f1": classes.F1,
    "confusion": classes.Confusion,
}
_IN_WORDS = {"regression": "numbers", "classification": "class indices", "binary": "0 and 1"}
_FITTING: Mapping[str, tuple[str, ...]] = {
    "regression": ("mae", "rmse", "r2"),
    "classification": ("balanced_accuracy", "f1"),
    "binary": ("balanced_accuracy", "precision", "recall", "f1"),
}
"""Metrics measured with ``metrics = "auto"``."""


@dataclass
class Metrics:
    """Metrics in each evaluation: Hookline's own, in plain torch, and those of torchmetrics.

    A metric is computed over all examples of a split. Hookline's own are described in the modules ``regression`` and
    ``classes``; those of torchmetrics need the extra ``hookline[metrics]``, and are reported under the name of their
    class. The default of ``top_k`` is that of O. Russakovsky et al., "ImageNet Large Scale Visual Recognition
    Challenge", https://arxiv.org/abs/1409.0575.
    """

    script = only_watches

    metrics: (
        Annotated[tuple[_Name, ...], Meta(description="metrics to measure; 'auto' chooses a few that fit the data")]
        | (Literal["auto"])
    ) = "auto"
    top_k: Annotated[int, Meta(ge=1, description="number of classes that 'top_k_accuracy' considers")] = 5
    torchmetrics: Annotated[
        dict[str, _Arguments], Meta(description="metrics of torchmetrics: class names, each with a table of arguments")
    ] = field(default_factory=dict)
    splits: Annotated[
        tuple[str, ...], Meta(description="splits to measure them in; empty: all that are evaluated")
    ] = ()
    task: Annotated[
        Task | Literal["auto"],
        Meta(description="meaning of the targets; 'auto': as the loss, or else the data source, declares"),
    ] = "auto"

    @hookimpl
    def build_metrics(self, run: RunView, data: DataSource) -> dict[str, Metric]:
        """Build the metrics; refuse those that do not fit the data."""
        task = self._task(run, data)
        names = _FITTING[task] if self.metrics == "auto" else self.metrics
        known = self._known(task, answers_of(run.loss, task), data)
        built: dict[str, Any] = {name: self._own(name, task, known, data) for name in names}
        built |= {name: self._of_torchmetrics(name, task, run, data) for name in self.torchmetrics}
        if unknown := {*self.splits} - {*data.splits(), "train", "validation", "test"}:
            hint = did_you_mean(min(unknown), data.splits())
            raise ConfigError(f"callback 'metrics' names the split {min(unknown)!r}, which the data lack", hint=hint)
        for metric in built.values():
            metric.splits = self.splits
        return built

    def _task(self, run: RunView, data: DataSource) -> Task:
        task = task_of(run.loss, data) if self.task == "auto" else self.task
        if task is None:
            message = "neither the loss nor the data source of this run declares the meaning of the targets"
            hint = "set `task` of callback 'metrics', or `task` of the loss or the DataSource"
            raise ContractError(message, hint=hint)
        return task

    def _own(self, name: str, task: Task, known: Mapping[str, Callable[[], Metric]], data: DataSource) -> Metric:
        if name not in known:
            message = f"the metric {name!r} is not for targets that are {_IN_WORDS[task]}"
            hint = f"available: {', '.join(known)}; if the targets are something else, set `task`"
            raise ContractError(message, hint=hint)
        if name == "top_k_accuracy" and data.out_features is not None and self.top_k >= data.out_features:
            message = f"with top_k = {self.top_k} and {data.out_features} classes, 'top_k_accuracy' is always 1"
            raise ContractError(message, hint="set a smaller top_k")
        return known[name]()

    def _known(self, task: Task, answers: Answers, data: DataSource) -> dict[str, Callable[[], Metric]]:
        if task == "regression":
            return {name: functools.partial(make, data.unscale) for name, make in _OF_NUMBERS.items()}
        of_classes: dict[str, Callable[[], Metric]] = {
            name: functools.partial(make, answers) for name, make in _OF_CLASSES.items()
        }
        top_k = functools.partial(classes.TopKAccuracy, self.top_k, answers)
        perplexity = functools.partial(Perplexity, answers)
        return of_classes if task == "binary" else {**of_classes, "top_k_accuracy": top_k, "perplexity": perplexity}

    def _of_torchmetrics(self, name: str, task: Task, run: RunView, data: DataSource) -> Metric:
        metric = _made(name, self.torchmetrics[name]).to(run.device)
        metric.distributed_available_fn = bool  # False: each rank has the predictions of all
        return _Torchmetric(metric, task, answers_of(run.loss, task), data.unscale)


# ---- torchmetrics ---------------------------------------------------------------------------------------------------


class _Torchmetric:
    """Adapter of a metric of torchmetrics to the predictions and targets of a run.

    Binary metrics, and those for a single number, take ``[B]`` where a run has ``[B, 1]``. Those for classes get only
    the answers that count, with class indices. Numbers are in the units of the data.
    """

    def __init__(self, metric: Any, task: Task, answers: Answers, unscale: Callable[[Tensor], Tensor] | None) -> None:
        self._metric, self.higher_is_better = metric, metric.higher_is_better
        self._task = task
        self._answers = answers
        self._unscale = unscale or (lambda values: values)
        self._is_binary = type(metric).__name__.startswith("Binary")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch."""
        if self._task == "classification":
            prediction, target = self._answers.rows(prediction, target)
        elif self._task == "regression":
            prediction, target = self._unscale(prediction), self._unscale(target)
        if self._is_binary or (self._task == "regression" and target[0].numel() == 1):
            prediction, target = prediction.flatten(), target.flatten()
        self._metric.update(prediction, target.long() if self._is_binary else target)

    def compute(self) -> Any:
        """Return the metric over all batches."""
        return self._metric.compute()

    def reset(self) -> None:
        """Discard all batches."""
        self._metric.reset()


def _made(name: str, arguments: Mapping[str, Any]) -> Any:
    found = _torchmetrics()
    if name not in found:
        raise ConfigError(
            f"torchmetrics has no metric {name!r} for classification or regression", hint=did_you_mean(name, found)
        )
    parameters = inspect.signature(found[name]).parameters
    if unknown := sorted(arguments.keys() - parameters.keys()):
        hint = did_you_mean(unknown[0], [each for each in parameters if each != "kwargs"])
        raise ConfigError(f"{name} of torchmetrics has no argument {unknown[0]!r}", hint=hint)
    try:
        return found[name](**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} of torchmetrics rejects its arguments: {error}") from error


def _torchmetrics() -> dict[str, Callable[..., Any]]:
    """Return the metric classes of torchmetrics for classification and regression, by name."""
    try:
        base: type = importlib.import_module("torchmetrics").Metric
        domains = [importlib.import_module(f"torchmetrics.{name}") for name in ("classification", "regression")]
    except ImportError as error:
        hint = "pip install 'hookline[metrics]'"
        raise ConfigError("`torchmetrics` of callback 'metrics' needs torchmetrics installed", hint=hint) from error
    return {
        name: member
        for domain in domains
        for name, member in vars(domain).items()
        if inspect.isclass(member) and issubclass(member, base)
    }
