"""The callback ``metrics``: each metric against its formula in NumPy, over batches of any size."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from hookline import ConfigError, ContractError, DataSource, HooklineError, Metric, Run, load_config
from hookline.runs.record import read_record
from hookline.trained import evaluate_run
from hookline_plugins.metrics import classes as class_metrics
from hookline_plugins.metrics import regression as regression_metrics
from hookline_plugins.metrics.accuracy import Accuracy
from hookline_plugins.metrics.answers import Answers
from hookline_plugins.metrics.callback import Metrics
from support import saved_folder

Array = NDArray[Any]
SIZES = [[50], [1, 49], [7, 20, 23], [1] * 50]
BATCHED = pytest.mark.parametrize("sizes", SIZES, ids=["one", "ragged", "three", "single"])


def measured(metric: Metric, prediction: Tensor, target: Tensor, sizes: list[int]) -> float:
    """Return a metric over batches of these sizes, taken twice, with a reset between."""
    for _ in range(2):
        metric.reset()
        for p, t in zip(torch.split(prediction, sizes), torch.split(target, sizes), strict=True):
            metric.update(p, t)
    return float(metric.compute())


# ---- numbers ---------------------------------------------------------------------------------------------------------


def r2(y: Array, p: Array) -> float:
    columns = zip(y.reshape(len(y), -1).T, p.reshape(len(p), -1).T, strict=True)
    return float(np.mean([1 - ((a - b) ** 2).sum() / ((a - a.mean()) ** 2).sum() for a, b in columns]))


def explained(y: Array, p: Array) -> float:
    columns = zip(y.reshape(len(y), -1).T, p.reshape(len(p), -1).T, strict=True)
    return float(np.mean([1 - np.var(a - b) / np.var(a) for a, b in columns]))


REGRESSION: list[tuple[type[Any], Any]] = [
    (regression_metrics.MAE, lambda y, p: np.abs(y - p).mean()),
    (regression_metrics.MSE, lambda y, p: ((y - p) ** 2).mean()),
    (regression_metrics.RMSE, lambda y, p: np.sqrt(((y - p) ** 2).mean())),
    (regression_metrics.MaxError, lambda y, p: np.abs(y - p).max()),
    (regression_metrics.R2, r2),
    (regression_metrics.ExplainedVariance, explained),
]


@BATCHED
@pytest.mark.parametrize(("make", "formula"), REGRESSION, ids=[each.__name__ for each, _ in REGRESSION])
@pytest.mark.parametrize("shape", [(), (1,), (3,)], ids=["B", "B1", "BO"])
def test_a_metric_of_numbers_is_its_formula_over_all_examples(
    make: type[Any], formula: Any, shape: tuple[int, ...], sizes: list[int]
) -> None:
    generator = torch.Generator().manual_seed(1)
    # Far from 0, where the difference of a sum of squares and a squared sum would lose all digits.
    target = torch.randn(50, *shape, generator=generator, dtype=torch.float64) + 1e6
    prediction = target + torch.randn(50, *shape, generator=generator, dtype=torch.float64) * 0.5 + 0.3
    expected = formula(target.numpy(), prediction.numpy())
    assert measured(make(), prediction, target, sizes) == pytest.approx(expected, rel=1e-9)


def test_a_metric_of_numbers_has_the_value_computed_by_hand() -> None:
    # The example of scikit-learn's page: y = 3, -0.5, 2, 7 and p = 2.5, 0, 2, 8.
    target, prediction = torch.tensor([3, -0.5, 2, 7]), torch.tensor([2.5, 0, 2, 8])
    expected = [0.5, 0.375, 0.375**0.5, 1.0, 0.9486081370449679, 0.9571734475374732]
    found = [measured(make(), prediction, target, [3, 1]) for make, _ in REGRESSION]
    assert found == pytest.approx(expected, rel=1e-12)


def test_sums_are_in_float64() -> None:
    target = torch.zeros(1 << 20)
    prediction = torch.full_like(target, 0.1)
    value = measured(regression_metrics.MAE(), prediction, target, [1 << 16] * 16)
    assert value == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_a_column_of_predictions_is_not_broadcast_over_targets() -> None:
    target = torch.arange(4.0)
    assert measured(regression_metrics.MAE(), target.unsqueeze(1), target, [4]) == 0
    with pytest.raises(ContractError, match=r"the prediction is \[4, 2\] and the target \[4\]"):
        regression_metrics.MAE().update(torch.zeros(4, 2), target)


@pytest.mark.parametrize("make", [regression_metrics.R2, regression_metrics.ExplainedVariance])
def test_a_constant_target_has_no_explained_share(make: Any) -> None:
    for off in (0.0, 1.0):
        assert np.isnan(measured(make(), torch.ones(4) + off * torch.arange(4.0), torch.ones(4), [2, 2]))


@pytest.mark.parametrize("make", [make for make, _ in REGRESSION], ids=lambda make: make.__name__)
def test_a_prediction_that_is_nan_makes_the_metric_nan(make: Any) -> None:
    prediction = torch.tensor([1.0, float("nan"), 2.0])
    assert np.isnan(measured(make(), prediction, torch.arange(3.0), [1, 1, 1]))


# ---- classes ---------------------------------------------------------------------------------------------------------


def table_of(chosen: Array, actual: Array, label: int) -> tuple[int, int, int]:
    right = int(((chosen == label) & (actual == label)).sum())
    return right, int((chosen == label).sum()) - right, int((actual == label).sum()) - right


def quotient(a: float, b: float) -> float:
    return a / b if b else 0.0


def per_class(name: str, tp: int, fp: int, fn: int) -> float:
    precision, recall = quotient(tp, tp + fp), quotient(tp, tp + fn)
    return {"precision": precision, "recall": recall, "f1": quotient(2 * precision * recall, precision + recall)}[name]


def by_hand(name: str, chosen: Array, actual: Array) -> float:
    if name == "balanced_accuracy":
        return float(np.mean([(chosen[actual == label] == label).mean() for label in np.unique(actual)]))
    labels = np.union1d(chosen, actual)
    return float(np.mean([per_class(name, *table_of(chosen, actual, label)) for label in labels]))


CLASSES: list[tuple[str, Any]] = [
    ("balanced_accuracy", class_metrics.BalancedAccuracy),
    ("precision", class_metrics.Precision),
    ("recall", class_metrics.Recall),
    ("f1", class_metrics.F1),
]
EACH_CLASSES = pytest.mark.parametrize(("name", "make"), CLASSES, ids=[name for name, _ in CLASSES])


@BATCHED
@EACH_CLASSES
def test_a_metric_of_classes_is_its_formula_over_all_examples(name: str, make: Any, sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(2)
    # Class 4 occurs only in the predictions, class 5 only in the targets, class 6 nowhere.
    prediction = torch.randn(50, 7, generator=generator)
    prediction[:, 5:] = -100
    target = torch.randint(0, 4, (50,), generator=generator)
    target[:3] = 5
    chosen, actual = prediction.argmax(dim=1).numpy(), target.numpy()
    assert {4} <= set(chosen.tolist()) - set(actual.tolist())
    found = measured(make(), prediction, target, sizes)
    assert found == pytest.approx(by_hand(name, chosen, actual), rel=1e-12)


@BATCHED
@EACH_CLASSES
def test_a_binary_metric_is_that_of_class_one(name: str, make: Any, sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(3)
    prediction = torch.randn(50, 1, generator=generator)
    target = (torch.rand(50, 1, generator=generator) > 0.7).float()
    chosen, actual = (prediction > 0).int().numpy().ravel(), target.int().numpy().ravel()
    is_balanced = name == "balanced_accuracy"
    expected = by_hand(name, chosen, actual) if is_balanced else per_class(name, *table_of(chosen, actual, 1))
    assert measured(make(Answers(is_binary=True)), prediction, target, sizes) == pytest.approx(expected, rel=1e-12)


@EACH_CLASSES
def test_a_metric_of_classes_has_the_value_computed_by_hand(name: str, make: Any) -> None:
    # Class 0: tp 1, fp 1, fn 1. Class 1: tp 2, fp 1, fn 0. Class 2: tp 0, fp 0, fn 1.
    chosen, target = torch.tensor([0, 1, 0, 1, 1]), torch.tensor([0, 0, 2, 1, 1])
    expected = {
        "balanced_accuracy": (1 / 2 + 1 + 0) / 3,
        "precision": (1 / 2 + 2 / 3 + 0) / 3,
        "recall": (1 / 2 + 1 + 0) / 3,
        "f1": (1 / 2 + 4 / 5 + 0) / 3,
    }[name]
    prediction = nn.functional.one_hot(chosen, 3).float()
    assert measured(make(), prediction, target, [2, 3]) == pytest.approx(expected, rel=1e-12)


def test_each_pixel_counts() -> None:
    generator = torch.Generator().manual_seed(4)
    prediction, target = (
        torch.randn(4, 3, 2, 2, generator=generator),
        torch.randint(0, 3, (4, 2, 2), generator=generator),
    )
    flat = prediction.movedim(1, -1).reshape(-1, 3)
    for _, make in CLASSES:
        expected = measured(make(), flat, target.flatten(), [16])
        assert measured(make(), prediction, target, [1, 3]) == expected


@BATCHED
def test_accuracy_and_top_k_accuracy_count_examples(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(5)
    prediction, target = torch.randn(50, 6, generator=generator), torch.randint(0, 6, (50,), generator=generator)
    ranks = (-prediction.numpy()).argsort(axis=1)
    for k in (1, 2, 5):
        expected = np.mean([label in row[:k] for row, label in zip(ranks, target.tolist(), strict=True)])
        assert measured(class_metrics.TopKAccuracy(k), prediction, target, sizes) == expected
        if k == 1:
            assert measured(Accuracy(), prediction, target, sizes) == expected


ALL: list[Metric] = [
    *(make() for make, _ in REGRESSION),
    *(make() for _, make in CLASSES),
    class_metrics.TopKAccuracy(2),
    Accuracy(),
]


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: type(metric).__name__)
def test_without_a_batch_there_is_no_number(metric: Metric) -> None:
    metric.reset()
    assert np.isnan(metric.compute())


# ---- in a run --------------------------------------------------------------------------------------------------------


def data(kind: str) -> DataSource:
    inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    target = {
        "regression": inputs.sum(1, keepdim=True),
        "binary": (inputs.sum(1, keepdim=True) > 0).float(),
        "classification": torch.arange(20) % 3,
    }[kind]
    dataset = TensorDataset(inputs, target)
    return DataSource(dataset, dataset, in_features=3, out_features=3 if kind == "classification" else 1)


LOSSES = {"regression": "mse", "binary": "bce-with-logits", "classification": "cross-entropy"}


def run_of(kind: str, table: Mapping[str, Any], source: DataSource | None = None, **train: Any) -> Run:
    config = {
        "train": {"epochs": 1, "evaluate": ["validation"], **train},
        "loss": LOSSES[kind],
        "callbacks": {"it": {"use": Metrics, **table}},
    }
    return Run(load_config(config, plugins={"data": source or data(kind)}))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("regression", ["mae", "r2", "rmse"]),
        ("binary", ["accuracy", "balanced_accuracy", "f1", "precision", "recall"]),
        ("classification", ["accuracy", "balanced_accuracy", "f1"]),
    ],
)
def test_metrics_that_fit_the_data_are_measured_by_default(kind: str, names: list[str]) -> None:
    result = run_of(kind, {}).fit()
    found = {name.removeprefix("validation/") for name in result.metrics if name.startswith("validation/")}
    assert sorted(found - {"loss"}) == names


def test_the_size_of_the_batches_of_an_evaluation_does_not_matter() -> None:
    names = ["mae", "mse", "rmse", "r2", "max_error", "explained_variance"]
    first, other = (
        run_of("regression", {"metrics": names}, eval_batch_size=size, dtype="float64").fit() for size in (3, 1024)
    )
    assert dict(first.metrics) == pytest.approx(dict(other.metrics), rel=1e-12)
    assert first.metrics["validation/mse"] == pytest.approx(first.metrics["validation/loss"], rel=1e-12)
    assert set(names) <= {name.removeprefix("validation/") for name in first.metrics}


@pytest.mark.parametrize(
    ("kind", "table", "words"),
    [
        ("regression", {"metrics": ["f1"]}, ["'f1' is not for targets that are numbers", "available: mae, mse"]),
        ("classification", {"metrics": ["r2"]}, ["'r2' is not for targets that are class indices", "top_k_accuracy"]),
        ("binary", {"metrics": ["top_k_accuracy"]}, ["is not for targets that are 0 and 1", "balanced_accuracy"]),
        ("classification", {"metrics": ["top_k_accuracy"]}, ["top_k = 5 and 3 classes", "always 1", "smaller top_k"]),
        ("regression", {"metrics": ["rmes"]}, ["did you mean 'rmse'?"]),
        ("classification", {"metrics": ["accuracy"]}, ["'accuracy', which exists already"]),
    ],
)
def test_a_metric_that_does_not_fit_the_data_is_refused_when_the_run_is_built(
    kind: str, table: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(HooklineError) as caught:
        run_of(kind, table)
    for word in words:
        assert word in str(caught.value)


def test_the_type_of_the_targets_can_be_set() -> None:
    run = run_of("classification", {"metrics": ["top_k_accuracy"], "top_k": 2, "task": "classification"})
    assert 0 < run.fit().metrics["validation/top_k_accuracy"] <= 1
    run_of("regression", {"metrics": ["f1"], "task": "binary"})


class Drawn(Dataset[Any]):
    """Examples drawn when they are read."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.randn(3), torch.randn(1)


class Whole(Dataset[Any]):
    """Reads whole batches."""

    def __len__(self) -> int:
        return 8

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones(len(indices), 3), torch.ones(len(indices), 1)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(torch.ones(3), torch.ones(1))] * 8)


@pytest.mark.parametrize("dataset", [Drawn(), Whole(), Stream()], ids=lambda each: type(each).__name__)
def test_the_type_of_the_targets_is_inferred_for_every_form_of_data(dataset: Dataset[Any]) -> None:
    source = DataSource(dataset, dataset, in_features=3, out_features=1)
    assert run_of("regression", {"metrics": ["mae"]}, source).fit().metrics["validation/mae"] >= 0
    with pytest.raises(ContractError, match="'f1' is not for targets that are numbers"):
        run_of("regression", {"metrics": ["f1"]}, source)


def test_reading_an_example_does_not_change_the_random_numbers_of_the_build() -> None:
    def numbers_behind(callbacks: dict[str, Any]) -> list[float]:
        drawn: list[float] = []

        def optimizer(params: Any) -> torch.optim.Optimizer:
            drawn.append(torch.rand(()).item())
            return torch.optim.SGD(params, lr=0.1)

        source = DataSource(Drawn(), in_features=3, out_features=1)
        Run(load_config({"callbacks": callbacks}, plugins={"data": source, "optimizer": optimizer}))
        return drawn

    assert numbers_behind({"it": {"use": Metrics}}) == numbers_behind({})


# ---- the meaning of the targets --------------------------------------------------------------------------------------


def measured_in_a_run(targets: Tensor, loss: Any, table: Mapping[str, Any], **facts: Any) -> dict[str, float]:
    """Return the metrics of an untrained model, whose predictions are left in ``PREDICTIONS``."""
    inputs = torch.randn(len(targets), 3, generator=torch.Generator().manual_seed(9))
    width = 3 if facts.pop("is_wide", True) else 1
    source = DataSource(TensorDataset(inputs, targets), in_features=3, out_features=width, **facts)

    def net() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, width), nn.Sigmoid() if type(loss) is nn.BCELoss else nn.Identity())

    config = {"train": {"dtype": "float64", "eval_batch_size": 7}, "callbacks": {"it": {"use": Metrics, **table}}}
    named = {"loss": loss} if isinstance(loss, str) else {}
    plugins = {"data": source, "model": net} | ({} if named else {"loss": lambda: loss})
    run = Run(load_config({**config, **named}, plugins=plugins))
    with torch.no_grad():
        PREDICTIONS[0] = run.model(inputs.double())
    return dict(run.evaluate())


PREDICTIONS: list[Tensor] = [torch.empty(0)]
"""The predictions of the last model."""


def test_whole_numbers_are_numbers_with_a_loss_for_numbers() -> None:
    targets = torch.arange(-20, 20).reshape(40, 1)
    metrics = measured_in_a_run(targets, nn.MSELoss(), {}, is_wide=False)
    errors = (targets - PREDICTIONS[0]).numpy()
    assert sorted(metrics) == ["train/loss", "train/mae", "train/r2", "train/rmse"]
    assert metrics["train/rmse"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-12)


@pytest.mark.parametrize("smooth", [0.0, 0.3])
def test_one_hot_targets_and_probabilities_are_compared_by_their_largest_class(smooth: float) -> None:
    labels = torch.arange(40) % 3
    targets = nn.functional.one_hot(labels, 3) * (1 - smooth) + smooth / 3
    names = {"metrics": ["balanced_accuracy", "top_k_accuracy"], "top_k": 2}
    metrics = measured_in_a_run(targets.double(), "cross-entropy", names)
    chosen = PREDICTIONS[0].argmax(1)
    assert metrics["train/accuracy"] == (chosen == labels).sum().item() / 40
    expected = by_hand("balanced_accuracy", chosen.numpy(), labels.numpy())
    assert metrics["train/balanced_accuracy"] == pytest.approx(expected, rel=1e-12)
    worst = PREDICTIONS[0].argmin(1)
    assert metrics["train/top_k_accuracy"] == (worst != labels).sum().item() / 40


@pytest.mark.parametrize("loss", ["cross-entropy", nn.CrossEntropyLoss(), nn.CrossEntropyLoss(ignore_index=2)])
def test_targets_that_do_not_count_in_the_loss_do_not_count_in_metrics(loss: Any) -> None:
    ignored = getattr(loss, "ignore_index", -100)
    targets = torch.where(torch.arange(40) % 2 == 0, ignored, torch.arange(40) % 4 // 2)
    names = ["balanced_accuracy", "precision", "top_k_accuracy", *(["accuracy"] if loss != "cross-entropy" else [])]
    metrics = measured_in_a_run(targets, loss, {"metrics": names, "top_k": 2})
    counted = targets != ignored
    chosen, actual = PREDICTIONS[0].argmax(1)[counted], targets[counted]
    assert metrics["train/accuracy"] == (chosen == actual).sum().item() / 20
    assert metrics["train/precision"] == pytest.approx(by_hand("precision", chosen.numpy(), actual.numpy()), rel=1e-12)
    worst = PREDICTIONS[0].argmin(1)[counted]
    assert metrics["train/top_k_accuracy"] == (worst != actual).sum().item() / 20
    losses = -PREDICTIONS[0].log_softmax(1)[counted].gather(1, actual[:, None])
    assert metrics["train/loss"] == pytest.approx(losses.mean().item(), rel=1e-12)


def test_probabilities_are_compared_with_one_half_and_logits_with_0() -> None:
    targets = (torch.arange(40) % 3 == 0).double().reshape(40, 1)
    for loss, threshold in ((nn.BCELoss(), 0.5), (nn.BCEWithLogitsLoss(), 0.0)):
        metrics = measured_in_a_run(targets, loss, {"metrics": ["accuracy"]}, is_wide=False)
        assert metrics["train/accuracy"] == ((PREDICTIONS[0] > threshold) == (targets > 0.5)).sum().item() / 40


def squares(prediction: Tensor, target: Tensor) -> Tensor:
    return ((prediction - target) ** 2).mean()


def test_the_data_source_says_what_the_targets_are_if_the_loss_does_not() -> None:
    targets = torch.arange(40.0).reshape(40, 1)
    metrics = measured_in_a_run(targets, squares, {}, is_wide=False, task="regression")
    assert metrics["train/mae"] == pytest.approx((targets - PREDICTIONS[0]).abs().mean().item(), rel=1e-12)
    with pytest.raises(ContractError, match="neither the loss nor the data source") as caught:
        measured_in_a_run(targets, squares, {}, is_wide=False)
    assert "set `task`" in str(caught.value.hint)


def test_a_loss_of_ones_own_says_what_the_targets_are() -> None:
    def own(prediction: Tensor, target: Tensor) -> Tensor:
        return squares(prediction, target)

    own.task = "regression"  # type: ignore[attr-defined] # a function can have attributes
    assert "train/mae" in measured_in_a_run(torch.arange(40.0).reshape(40, 1), own, {}, is_wide=False, task="binary")


def test_numbers_that_are_no_class_indices_are_refused_by_name() -> None:
    metric = class_metrics.BalancedAccuracy()
    with pytest.raises(ContractError, match="the targets are -3 to 1, but class indices are 0 to 2"):
        metric.update(torch.zeros(3, 3), torch.tensor([-3, 0, 1]))


def test_metrics_of_numbers_are_in_the_units_of_the_data() -> None:
    targets = torch.arange(40.0).reshape(40, 1)
    table = {"metrics": ["mae", "rmse", "r2", "max_error"]}
    metrics = measured_in_a_run(targets, nn.MSELoss(), table, is_wide=False, unscale=lambda values: values * 100 + 7)
    errors = (targets - PREDICTIONS[0]).numpy() * 100
    assert metrics["train/mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-12)
    assert metrics["train/rmse"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-12)
    assert metrics["train/max_error"] == pytest.approx(np.abs(errors).max(), rel=1e-12)
    assert metrics["train/r2"] == pytest.approx(r2(targets.numpy() * 100, targets.numpy() * 100 - errors), rel=1e-9)
    assert metrics["train/loss"] == pytest.approx((errors**2).mean() / 1e4, rel=1e-12)


# ---- torchmetrics ----------------------------------------------------------------------------------------------------

HAS_TORCHMETRICS = importlib.util.find_spec("torchmetrics") is not None
WITH = pytest.mark.skipif(not HAS_TORCHMETRICS, reason="torchmetrics is not installed: pip install 'hookline[metrics]'")
MORE: list[tuple[str, str, dict[str, Any]]] = [
    ("binary", "BinaryAUROC", {}),
    ("binary", "BinaryAveragePrecision", {"thresholds": 50}),
    ("binary", "BinaryMatthewsCorrCoef", {}),
    ("binary", "BinarySpecificity", {"threshold": 0.4}),
    ("classification", "MulticlassAUROC", {"num_classes": 3}),
    ("classification", "MulticlassCohenKappa", {"num_classes": 3}),
    ("classification", "MulticlassCalibrationError", {"num_classes": 3}),
    ("classification", "MulticlassJaccardIndex", {"num_classes": 3}),
    ("regression", "PearsonCorrCoef", {}),
    ("regression", "SpearmanCorrCoef", {}),
    ("regression", "ConcordanceCorrCoef", {}),
    ("regression", "SymmetricMeanAbsolutePercentageError", {}),
    ("regression", "LogCoshError", {}),
]


@pytest.mark.skipif(HAS_TORCHMETRICS, reason="torchmetrics is installed")
def test_without_torchmetrics_the_error_names_the_extra() -> None:
    with pytest.raises(ConfigError, match=r"(?s)needs torchmetrics.*pip install 'hookline\[metrics\]'"):
        run_of("binary", {"torchmetrics": {"BinaryAUROC": {}}})


@WITH
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("kind", "name", "arguments"), MORE, ids=[name for _, name, _ in MORE])
def test_a_metric_of_torchmetrics_is_measured_over_all_examples(
    kind: str, name: str, arguments: dict[str, Any]
) -> None:
    results = [
        run_of(kind, {"metrics": [], "torchmetrics": {name: arguments}}, eval_batch_size=size).fit()
        for size in (3, 1024)
    ]
    first, other = (result.metrics[f"validation/{name}"] for result in results)
    assert np.isfinite(first)
    assert first == pytest.approx(other, rel=1e-4)


@WITH
@pytest.mark.filterwarnings("default")
def test_a_metric_of_torchmetrics_gets_the_answers_that_count_and_the_units_of_the_data() -> None:
    targets = torch.where(torch.arange(40) % 2 == 0, -100, torch.arange(40) % 3)
    table = {"metrics": ["f1"], "torchmetrics": {"MulticlassF1Score": {"num_classes": 3, "average": "macro"}}}
    for each in (targets, nn.functional.one_hot(torch.arange(40) % 3, 3).double()):
        metrics = measured_in_a_run(each, "cross-entropy", table)
        assert metrics["train/MulticlassF1Score"] == pytest.approx(metrics["train/f1"], rel=1e-4)
    table = {"metrics": ["mae"], "torchmetrics": {"MeanAbsoluteError": {}}}
    numbers = torch.arange(40.0).reshape(40, 1)
    metrics = measured_in_a_run(numbers, "mse", table, is_wide=False, unscale=lambda values: values * 100 + 7)
    assert metrics["train/MeanAbsoluteError"] == pytest.approx(metrics["train/mae"], rel=1e-4)


@WITH
@pytest.mark.filterwarnings("default")
def test_our_metrics_and_those_of_torchmetrics_agree() -> None:
    pairs = {
        "regression": {"mae": "MeanAbsoluteError", "mse": "MeanSquaredError", "r2": "R2Score"},
        "binary": {"f1": "BinaryF1Score", "precision": "BinaryPrecision", "recall": "BinaryRecall"},
    }
    for kind, names in pairs.items():
        table = {"metrics": list(names), "torchmetrics": {name: {} for name in names.values()}}
        metrics = run_of(kind, table).fit().metrics
        for ours, theirs in names.items():
            assert metrics[f"validation/{ours}"] == pytest.approx(metrics[f"validation/{theirs}"], rel=1e-4)


@WITH
@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"BinaryAUROCC": {}}, "did you mean 'BinaryAUROC'?"),
        ({"BinaryAUROC": {"treshold": 3}}, "has no argument 'treshold'"),
        ({"MulticlassAUROC": {}}, "MulticlassAUROC of torchmetrics rejects its arguments"),
    ],
)
def test_unknown_names_of_torchmetrics_are_refused_when_the_run_is_built(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_of("binary", {"torchmetrics": table})
    assert words in str(caught.value)


# ---- metrics of several numbers --------------------------------------------------------------------------------------


def test_the_confusion_matrix_counts_the_choices_for_each_class() -> None:
    logits, target = torch.randn(60, 3), torch.randint(-1, 3, (60,))
    metric = class_metrics.Confusion(Answers(ignore_index=-1))
    for p, t in zip(torch.split(logits, [7, 53]), torch.split(target, [7, 53]), strict=True):
        metric.update(p, t)
    expected = np.zeros((3, 3))
    for chosen, actual in zip(logits.argmax(1).tolist(), target.tolist(), strict=True):
        if actual >= 0:
            expected[actual, chosen] += 1
    assert np.array_equal(np.asarray(metric.compute()), expected)


class Animals:
    """Twelve cats, six dogs; the model of the test calls the first nine cats."""

    @staticmethod
    def source() -> DataSource:
        rows = torch.arange(18.0).unsqueeze(1)
        dataset = TensorDataset(rows, (rows.flatten() >= 12).long())
        names = {"class_names": ("cat", "dog"), "task": "classification"}
        return DataSource(dataset, dataset, in_features=1, out_features=2, **names)  # type: ignore[arg-type] # of many types


class ByRow(nn.Module):
    """Chooses the second class from the tenth row on, whatever it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), (x - 8.5) * self.scale.abs()], dim=1)


def run_of_animals(tmp_path: Path, **overrides: Any) -> Run:
    config = {
        "train": {"epochs": 2, "batch_size": 18, "evaluate": ["validation"]},
        "loss": {"use": "cross-entropy"},
        "optimizer": {"lr": 1e-6},
        "callbacks": {"metrics": {"metrics": ["f1", "confusion"]}, "run-folder": {"parent": str(tmp_path)}},
    }
    return Run(load_config(config, overrides, plugins={"data": Animals.source(), "model": ByRow()}))


def test_a_matrix_is_in_the_history_the_files_and_the_evaluation_of_a_saved_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    counts = {"cat/cat": 9.0, "cat/dog": 3.0, "dog/cat": 0.0, "dog/dog": 6.0}
    expected = {f"validation/confusion/{name}": value for name, value in counts.items()}
    following = {"callbacks.best": {"monitor": "validation/confusion/cat/dog"}}
    run = run_of_animals(tmp_path, **following, **{"callbacks.progress": {}})
    result = run.fit()
    assert {name: result.metrics[name] for name in expected} == expected
    assert result.summary["best validation/confusion/cat/dog"][0]["value"] == 3.0
    assert "4 numbers" in capsys.readouterr().out
    folder = saved_folder(run).path
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line).items() >= expected.items()
    assert read_record(folder).metrics.items() >= expected.items()
    again = evaluate_run(folder, plugins={"data": Animals.source(), "model": ByRow()})
    assert again.metrics.items() >= expected.items()


def test_a_number_that_a_metric_does_not_have_is_refused_after_the_first_evaluation(tmp_path: Path) -> None:
    run = run_of_animals(tmp_path, **{"callbacks.best.monitor": "validation/confusion/cat/dgo"})
    with pytest.raises(ConfigError) as caught:
        run.fit()
    assert str(caught.value) == (
        "best monitors 'validation/confusion/cat/dgo', which this run does not measure\n"
        "  = did you mean 'validation/confusion/cat/dog'?"
    )
    with pytest.raises(ConfigError, match="early-stopping monitors 'validation/accuracy/cat', which"):
        run_of_animals(tmp_path, **{"callbacks.early-stopping.monitor": "validation/accuracy/cat"}).fit()
