"""Callbacks that follow a metric: refused at the start of a run that never measures it, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hookline import ConfigError, train
from hookline.runs import find_run
from hookline.runs.record import read_record
from hookline.trained import evaluate_run

NUM_STEPS = 4
"""Steps of a run: two epochs of two batches."""
FOLLOWING: dict[str, dict[str, Any]] = {
    "early-stopping": {"callbacks.early-stopping": {}},
    "best": {"callbacks.best": {}},
    "lr-schedule": {
        "callbacks.lr-schedule.scheduler": "reduce-on-plateau",
        "callbacks.lr-schedule.monitor": "validation/loss",
    },
    "checkpoint": {"callbacks.checkpoint.keep_best": 1},
    "run-folder": {"callbacks.run-folder.monitor": "validation/loss"},
}
"""The options with which each callback follows the loss of the validation split."""


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    table = tmp_path / "t.csv"
    table.write_text("x,y\n" + "".join(f"{number},{2 * number}\n" for number in range(16)))
    return {
        "train": {"epochs": 2, "batch_size": 4},
        "data": {"use": "csv", "path": str(table), "target": "y", "split": [0.5, 0.25, 0.25], "standardize": True},
        "callbacks": {"run-folder": {"parent": str(tmp_path)}, "checkpoint": {}},
    }


@pytest.mark.parametrize("name", FOLLOWING)
@pytest.mark.parametrize("every_steps", [0, NUM_STEPS + 1])
def test_a_metric_that_is_never_measured_is_refused_before_the_first_step(
    config: dict[str, Any], name: str, every_steps: int
) -> None:
    never = {"train.evaluate_every_epochs": 0, "train.evaluate_every_steps": every_steps}
    with pytest.raises(ConfigError) as caught:
        train(config, FOLLOWING[name] | never)
    assert str(caught.value) == (
        f"{name} monitors 'validation/loss', but this run never evaluates\n"
        "  = set train.evaluate_every_epochs, or monitor 'train/running_loss'"
    )


@pytest.mark.parametrize("name", FOLLOWING)
def test_a_metric_that_is_measured_once_is_followed(config: dict[str, Any], name: str) -> None:
    # The last epoch is always evaluated; the second kind of evaluation comes after the last step.
    for once in (
        {"train.evaluate_every_epochs": 9},
        {"train.evaluate_every_epochs": 0, "train.evaluate_every_steps": NUM_STEPS},
    ):
        assert train(config, FOLLOWING[name] | once).steps == NUM_STEPS


def test_a_run_folder_without_evaluations_compares_by_the_running_loss(config: dict[str, Any], tmp_path: Path) -> None:
    train(config, {"train.evaluate_every_epochs": 0})
    best = read_record(find_run("last", tmp_path)).best
    assert best is not None
    assert best.metric == "train/running_loss"


def test_a_run_folder_that_compares_by_an_unknown_metric_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="run-folder monitors 'validation/los', which this run does not measure"):
        train(config, {"callbacks.run-folder.monitor": "validation/los"})


@pytest.mark.parametrize("name", FOLLOWING)
def test_one_split_of_a_saved_run_is_evaluated_though_a_callback_followed_another(
    config: dict[str, Any], name: str, tmp_path: Path
) -> None:
    train(config, FOLLOWING[name])
    found = evaluate_run("last", splits=["test"], parent=tmp_path)
    assert list(found.metrics) == ["test/loss"]
    assert found.num_examples == {"test": 4}
