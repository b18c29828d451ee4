"""What is reported is what is kept: the weights that were evaluated, at the end of a run and in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hookline import Run, hookimpl, load_config
from hookline.runs import read_checkpoint
from hookline.runs.disk.checkpoint import checkpoints_in
from hookline.trained import evaluate_run, load_trained
from support import saved_folder


class Halved:
    """Evaluates the model with half of its weights, which it also has at the end."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def _halve(self, run: Run) -> None:
        self.kept = [parameter.detach().clone() for parameter in run.model.parameters()]
        with torch.no_grad():
            for parameter in run.model.parameters():
                parameter.mul_(0.5)

    @hookimpl
    def on_evaluation_start(self, run: Run) -> None:
        self._halve(run)

    @hookimpl
    def on_evaluation_end(self, run: Run) -> None:
        with torch.no_grad():
            for parameter, value in zip(run.model.parameters(), self.kept, strict=True):
                parameter.copy_(value)

    @hookimpl(tryfirst=True)
    def on_run_end(self, run: Run) -> None:
        self._halve(run)


BEST = {"monitor": "train/loss", "mode": "max", "restore": True}  # the best is not the last


@pytest.mark.parametrize("names", [("halved", "best"), ("best", "halved")], ids=" before ".join)
def test_the_weights_that_best_restores_have_the_value_that_it_reports(names: tuple[str, str]) -> None:
    tables = {"best": {"use": "best", **BEST}, "halved": {}}
    config = {"train": {"epochs": 3}, "callbacks": {name: tables[name] for name in names if name == "best"}}
    plugins: dict[str, Any] = {"callbacks.halved": Halved()}
    if names[0] == "halved":
        from hookline_plugins.callbacks.best import Best

        config["callbacks"] = {}
        plugins["callbacks.best"] = Best(**BEST)
    run = Run(config, plugins=plugins)
    assert [member.table for member in run.members][-2:] == [f"callbacks.{name}" for name in names]
    run.fit()
    (row,) = run.summary["best train/loss"]
    assert row["epoch"] == 1
    assert run.evaluate()["train/loss"] == row["value"]


@pytest.mark.parametrize("names", [("averaging", "best"), ("best", "averaging")], ids=" before ".join)
def test_the_order_of_best_and_averaging_does_not_matter(names: tuple[str, str]) -> None:
    tables: dict[str, dict[str, Any]] = {"averaging": {"decay": 0.95}, "best": BEST}
    run = Run({"train": {"epochs": 3}, "callbacks": {name: tables[name] for name in names}})
    run.fit()
    (row,) = run.summary["best train/loss"]
    assert run.evaluate()["train/loss"] == row["value"]
    learned = {row["parameter"]: row["learned"] for row in run.summary["learned and true parameters"]}
    assert learned["b"] == pytest.approx(run.unwrapped_model.bias.item())  # type: ignore[union-attr,operator] # a line


def saved(parent: Path, averaging: Mapping[str, Any]) -> Path:
    callbacks = {
        "averaging": averaging,
        "run-folder": {"parent": str(parent), "name": "job"},
        "checkpoint": {"every_epochs": 1, "keep": 9},
    }
    run = Run(load_config({"train": {"epochs": 3}, "optimizer": {"lr": 0.003}, "callbacks": callbacks}))
    run.fit()
    return saved_folder(run).path


@pytest.mark.parametrize("method", ["ema", "swa"])
def test_a_checkpoint_has_the_metrics_that_its_evaluation_gives(tmp_path: Path, method: str) -> None:
    path = saved(tmp_path, {"method": method, "decay": 0.99})
    for checkpoint in checkpoints_in(path / "checkpoints"):
        reported = read_checkpoint(checkpoint).manifest.metrics["train/loss"]
        found = evaluate_run(path, checkpoint=checkpoint.name, splits=["train"])
        assert found.metrics["train/loss"] == reported


def test_the_model_of_a_checkpoint_is_the_average_unless_the_trained_weights_are_wanted(tmp_path: Path) -> None:
    path = saved(tmp_path, {"decay": 0.99})
    newest = read_checkpoint(checkpoints_in(path / "checkpoints")[0]).state
    average = newest["plugins"]["callbacks.averaging"]["average"]
    for overrides, expected in (
        ({}, average["weight"]),
        ({"callbacks.averaging.at_end": "raw"}, newest["model"]["weight"]),
        ({"callbacks.averaging": "off"}, newest["model"]["weight"]),
    ):
        found = load_trained(path, overrides, checkpoint="latest").model.state_dict()["weight"]
        assert torch.equal(found, expected), overrides
    assert not torch.equal(average["weight"], newest["model"]["weight"])
