"""Evaluation by several ranks: the same bits for any number of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookline import DataSource, RunView, hookimpl
from hookline.engine import Evaluated, Ranks
from rank_runs import Stream, run_of, source
from several import in_ranks

NUMBERS = ["mae", "mse", "rmse", "r2", "max_error", "explained_variance"]
CLASSES = ["balanced_accuracy", "precision", "recall", "f1", "confusion", "top_k_accuracy", "perplexity"]


class Normalized(nn.Module):
    """A model with batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class OwnEvaluation:
    """An evaluation of a plugin, with a number of its own."""

    @hookimpl
    def build_evaluation(self, run: RunView) -> Any:
        def evaluation(batch: Any) -> Evaluated:
            inputs, target = batch
            error = run.unwrapped_model(inputs) - target
            return Evaluated(error.abs().mean(), None, error, target, {"bias": error.mean()})

        return evaluation


class Counting:
    """A metric of another plugin that is a module: torchmetrics would add up the sums of all ranks."""

    @hookimpl
    def build_metrics(self, run: RunView, data: DataSource) -> Any:
        import torchmetrics

        class Total(torchmetrics.SumMetric):
            def update(self, prediction: Tensor, target: Tensor) -> None:  # type: ignore[override]
                super().update(target - prediction)

        return {"total": Total()}


CASES: dict[str, dict[str, Any]] = {
    "numbers": {"callbacks": {"metrics": {"metrics": NUMBERS}}, "train": {"eval_batch_size": 5}},
    "classes": {
        "num_classes": 3,
        "callbacks": {"metrics": {"metrics": CLASSES, "top_k": 2}},
        "train": {"eval_batch_size": 5},
    },
    "weights": {
        "num_classes": 3,
        "loss": {"use": "cross-entropy", "weight": [1.0, 5.0, 0.25]},
        "train": {"eval_batch_size": 7},
    },
    "fewer batches than ranks": {"callbacks": {"metrics": {"metrics": NUMBERS}}},
    "a stream": {"plugins": {"data": source(Stream)}, "train": {"evaluate": ["train"], "eval_batch_size": 4}},
    "an evaluation of a plugin": {"plugins": {"callbacks.own": OwnEvaluation()}, "callbacks": {"own": {}}},
}


def evaluated(ranks: Ranks, **options: Any) -> dict[str, float]:
    return dict(run_of(ranks, **options).evaluate())


def test_an_evaluation_has_the_same_bits_for_any_number_of_ranks() -> None:
    def of_all(ranks: Ranks) -> Any:
        return {name: evaluated(ranks, **options) for name, options in CASES.items()}

    alone = of_all(Ranks())
    assert alone["numbers"].keys() >= {f"validation/{name}" for name in ("loss", *NUMBERS)}
    assert "validation/bias" in alone["an evaluation of a plugin"]
    for num in (2, 3):
        assert in_ranks(num, of_all) == [alone] * num


def test_metrics_of_torchmetrics_have_the_same_bits_for_any_number_of_ranks() -> None:
    pytest.importorskip("torchmetrics")
    names = {"MulticlassAUROC": {"num_classes": 3}, "MulticlassCohenKappa": {"num_classes": 3}}
    callbacks = {"metrics": {"torchmetrics": names}, "counting": {}}
    options: dict[str, Any] = {
        "num_classes": 3,
        "loss": "cross-entropy",
        "callbacks": {"metrics": callbacks["metrics"]},
        "train": {"eval_batch_size": 5},
    }
    of_numbers: dict[str, Any] = {
        "callbacks": {"metrics": {"torchmetrics": {"PearsonCorrCoef": {}, "MeanAbsoluteError": {}}}, "counting": {}},
        "plugins": {"callbacks.counting": Counting()},
        "train": {"eval_batch_size": 5},
    }

    def of_all(ranks: Ranks) -> Any:
        return [evaluated(ranks, **options), evaluated(ranks, **of_numbers)]

    alone = of_all(Ranks())
    assert "validation/total" in alone[1]
    for num in (2, 3):
        assert in_ranks(num, of_all) == [alone] * num


def test_evaluations_within_epochs_and_saves_use_the_statistics_of_rank_0() -> None:
    options: dict[str, Any] = {
        "model": "normalized",
        "plugins": {"model": Normalized},
        "train": {"evaluate_every_steps": 3, "eval_batch_size": 10},
    }

    def task(ranks: Ranks) -> Any:
        run = run_of(ranks, **options)
        seen = []
        for step in run.steps():
            own = run.unwrapped_model.layers[1].running_mean.clone()  # type: ignore[index, union-attr]
            seen.append([step.step, own, dict(run._loop.progress.evaluated)])
        saved = run.state_dict()["model"]["layers.1.running_mean"]
        return seen, saved, [dict(metrics) for metrics in run.history]

    (first, saved, history), (second, saved_by_other, history_of_other) = in_ranks(2, task)
    assert history == history_of_other
    assert torch.equal(saved, saved_by_other)
    for (step, own, metrics), (_, of_other, metrics_of_other) in zip(first, second, strict=True):
        assert metrics == metrics_of_other
        # Between two evaluations they differ: each rank has seen other examples.
        assert torch.equal(own, of_other) == (step % 3 == 0)
