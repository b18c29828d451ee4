"""Callback ``early-stopping``: the evaluations that it counts. Its refusals are in test_run.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from hookline import Run, load_config
from hookline_plugins.callbacks.early_stopping import EarlyStopping

SMALL = {"train": {"epochs": 50, "batch_size": 4}, "data": {"num_examples": 8}, "optimizer": {"lr": 0.0}}


def stopped(table: Mapping[str, Any], **train: Any) -> Run:
    options = {f"train.{name}": value for name, value in train.items()}
    options |= {f"callbacks.early-stopping.{name}": value for name, value in table.items()}
    return Run(load_config(SMALL, {"callbacks.early-stopping.monitor": "train/loss", **options}))


def test_it_waits_for_the_next_evaluation() -> None:
    result = stopped({"patience": 2}, evaluate_every_epochs=3).fit()
    # Epochs 3 (the first), 6 and 9.
    assert (result.outcome, result.epochs) == ("stopped", 9)
    assert result.stop_reason == "train/loss did not improve for 2 evaluations"


def test_evaluations_within_an_epoch_count_and_none_counts_twice() -> None:
    # Two steps make an epoch: the evaluations after steps 2, 4 and 6 come again at the end of their epoch.
    result = stopped({"patience": 2}, evaluate_every_steps=2).fit()
    assert (result.outcome, result.steps) == ("stopped", 6)
    result = stopped({"patience": 2}, evaluate_every_steps=1).fit()
    assert (result.outcome, result.steps) == ("stopped", 3)


def test_the_running_loss_counts_in_each_epoch_without_an_evaluation() -> None:
    result = stopped({"monitor": "train/running_loss", "patience": 1, "min_delta": 1e9}, evaluate=[]).fit()
    assert (result.epochs, result.stop_reason) == (2, "train/running_loss did not improve for 1 epoch")


@pytest.mark.parametrize("at", [0, 1, 3, 5])
def test_a_resumed_run_stops_at_the_same_step(at: int) -> None:
    first = stopped({"patience": 2})
    state = first.state_dict()
    for step in first.steps() if at else ():
        if step.step == at:
            state = first.state_dict()
            break
    json.dumps(state["plugins"], allow_nan=False)
    second = stopped({"patience": 2})
    second.load_state_dict(state)
    assert second.fit().steps == 6


def test_an_evaluation_does_not_count_again_when_a_run_resumes_at_the_end_of_its_epoch() -> None:
    first = stopped({"patience": 2}, evaluate_every_steps=2)
    for step in first.steps():
        if step.step == 4:
            state = first.state_dict()
            break
    second = stopped({"patience": 2}, evaluate_every_steps=2)
    second.load_state_dict(state)
    assert second.fit().steps == 6


def test_a_non_finite_metric_is_never_better() -> None:
    class Nothing:
        step, epoch = 0, 0

    seen = EarlyStopping(monitor="m")._seen
    run: Any = Nothing()
    found = []
    for value in (float("nan"), 2.0, float("nan"), 1.0, float("-inf")):
        run.step += 1
        found.append(seen.update(run, {"m": value}))
    assert found == [False, True, False, True, False]
