"""Named splits: evaluated by name, each with its own metrics and at its own intervals; errors name those that exist."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hookline import ConfigError, DataSource, Run, RunView, hookimpl, load_config
from hookline.trained import evaluate_run
from support import saved_folder

X = torch.linspace(-1, 1, 40).unsqueeze(1)
SETS = {"hard": TensorDataset(X[:7], X[:7] * 3), "long": TensorDataset(X[30:], X[30:] - 2)}


def source() -> DataSource:
    """Return 20 examples to train on, in two steps an epoch, and three splits to evaluate."""
    train, validation = TensorDataset(X[:20], X[:20] * 2), TensorDataset(X[20:30], X[20:30] * 2)
    return DataSource(train, validation, in_features=1, out_features=1, task="regression", more_splits=SETS)


class Evaluations:
    """Records the splits of each evaluation, and of each epoch's metrics."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int, list[str]]] = []

    def _record(self, what: str, run: RunView, metrics: Mapping[str, float]) -> None:
        self.lines.append((what, run.step, [name.removesuffix("/loss") for name in metrics if name.endswith("/loss")]))

    @hookimpl
    def on_evaluation_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Record the splits."""
        self._record("evaluation", run, metrics)

    @hookimpl
    def on_epoch_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Record the splits."""
        self._record("epoch", run, metrics)


def made(overrides: Mapping[str, Any] | None = None, **plugins: Any) -> Run:
    config = {"train": {"epochs": 5, "batch_size": 10, "device": "cpu", "evaluate": ["validation", "long", "hard"]}}
    return Run(load_config(config, overrides or {}, plugins={"data": source(), **plugins}))


def test_named_splits_are_measured_like_the_others() -> None:
    run = made()
    result = run.fit()
    assert run.metric_names == ("train/running_loss", "validation/loss", "long/loss", "hard/loss")
    for name, dataset in SETS.items():
        x, y = dataset.tensors
        with torch.no_grad():
            expected = nn.functional.mse_loss(run.model(x), y).item()
        assert result.metrics[f"{name}/loss"] == pytest.approx(expected)


def test_all_splits_of_the_data_can_be_evaluated_by_one_word() -> None:
    run = made({"train.evaluate": "all"})
    assert [name.partition("/")[0] for name in run.metric_names[1:]] == ["train", "validation", "hard", "long"]


def test_a_split_is_measured_in_every_nth_evaluation_and_at_the_end() -> None:
    seen = Evaluations()
    made({"train.evaluate_every": {"long": 2, "hard": 3}}, **{"callbacks.seen": seen}).fit()
    whole = ["validation", "long", "hard"]
    per_epoch = [whole[:1], whole[:2], ["validation", "hard"], whole[:2], whole]
    expected = [(what, 2 * n, splits) for n, splits in enumerate(per_epoch, 1) for what in ("evaluation", "epoch")]
    assert seen.lines == expected


def test_an_evaluation_after_steps_counts_those_and_the_end_of_an_epoch_adds_what_is_missing() -> None:
    seen = Evaluations()
    overrides = {
        "train.evaluate": ["validation", "long"],
        "train.evaluate_every": {"long": 3},
        "train.evaluate_every_steps": 1,
        "train.epochs": 3,
    }
    made(overrides, **{"callbacks.seen": seen}).fit()
    assert seen.lines == [
        ("evaluation", 1, ["validation"]),
        ("evaluation", 2, ["validation"]),
        ("epoch", 2, ["validation"]),
        ("evaluation", 3, ["validation", "long"]),
        ("evaluation", 4, ["validation"]),
        ("epoch", 4, ["validation"]),
        ("evaluation", 5, ["validation"]),
        ("evaluation", 6, ["validation", "long"]),
        ("epoch", 6, ["validation", "long"]),
    ]
    seen.lines.clear()
    made({**overrides, "train.epochs": 1}, **{"callbacks.seen": seen}).fit()
    # The last epoch measures all splits, and the evaluation after its last step did not.
    assert seen.lines[1:] == [
        ("evaluation", 2, ["validation"]),
        ("evaluation", 2, ["validation", "long"]),
        ("epoch", 2, ["validation", "long"]),
    ]


def test_an_epoch_has_no_metrics_of_an_earlier_evaluation() -> None:
    result = made({"train.evaluate": ["hard"], "train.evaluate_every.hard": 4, "train.epochs": 6}).fit()
    assert ["hard/loss" in metrics for metrics in result.history] == [False, False, False, True, False, True]


def test_metrics_can_be_measured_in_some_splits_alone() -> None:
    overrides = {
        "callbacks.metrics": {"metrics": ["mae"], "splits": ["hard"]},
        "callbacks.more": {"use": "metrics", "metrics": ["r2"]},
    }
    run = made(overrides)
    names = {"validation": ["loss", "r2"], "long": ["loss", "r2"], "hard": ["loss", "mae", "r2"]}
    expected = [f"{split}/{name}" for split, measured in names.items() for name in measured]
    assert run.metric_names == ("train/running_loss", *expected)
    result = run.fit()
    assert set(result.metrics) == set(run.metric_names)
    with pytest.raises(ConfigError, match="callback 'metrics' names the split 'hart', which the data lack"):
        made({"callbacks.metrics": {"metrics": ["mae"], "splits": ["hart"]}})


@pytest.mark.parametrize(
    "overrides", [{"train.evaluate": ["validation", "lnog"]}, {"train.evaluate_every.lnog": 2}], ids=["list", "table"]
)
def test_an_unknown_split_is_refused_with_the_nearest_name(overrides: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        made(overrides)
    assert str(caught.value) == "the data have no split 'lnog' that can be evaluated\n  = did you mean 'long'?"


def test_a_usual_split_may_be_missing_from_the_data() -> None:
    assert [*made({"train.evaluate": ["test", "hard"]}).fit().metrics] == ["train/running_loss", "hard/loss"]


@pytest.mark.parametrize("name", ["", "a/b", "train", "logged"])
def test_a_name_that_cannot_be_that_of_a_split_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"the name '{name}' of a split"):
        DataSource(SETS["hard"], more_splits={name: SETS["hard"]})


def test_a_saved_run_is_evaluated_in_all_its_splits_or_in_one(tmp_path: Path) -> None:
    run = made({"callbacks.run-folder.parent": str(tmp_path), "train.evaluate": ["hard"]})
    result = run.fit()
    folder = saved_folder(run).path
    assert "hard/loss" in json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    found = evaluate_run(folder, plugins={"data": source()})
    assert found.num_examples == {"train": 20, "validation": 10, "hard": 7, "long": 10}
    assert found.metrics["hard/loss"] == pytest.approx(result.metrics["hard/loss"])
    alone = evaluate_run(folder, plugins={"data": source()}, splits=["long"])
    assert list(alone.metrics) == ["long/loss"]
    with pytest.raises(ConfigError) as caught:
        evaluate_run(folder, plugins={"data": source()}, splits=["hrad"])
    assert str(caught.value) == "the data have no split 'hrad' that can be evaluated\n  = did you mean 'hard'?"


def test_a_limit_of_examples_holds_for_named_splits() -> None:
    run = made({"callbacks.limit-examples.num_examples": 3})
    assert {name: len(dataset) for name, dataset in run.data.splits().items()} == dict.fromkeys(run.data.splits(), 3)  # type: ignore[arg-type] # map-style


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_resumed_run_measures_the_same_splits(step: int) -> None:
    overrides = {"train.evaluate_every": {"long": 2, "hard": 3}, "train.evaluate_every_steps": 1, "train.epochs": 3}
    run, resumed = made(overrides), made(overrides)
    for taken in run.steps():
        if taken.step == step:
            run.interrupt("the test")
    resumed.load_state_dict(run.state_dict())
    assert resumed.fit().history == made(overrides).fit().history
