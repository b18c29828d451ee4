"""The schedule-free optimizers: the steps and averages are those of the package itself; resume is exact."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import itertools
import sys
from typing import Any

import pytest
import torch
from torch import nn

from hookline import Catalog, ConfigError, PluginError, Run, load_config
from hookline.config.plugins.plugin import load_plugin

HAS_PACKAGE = importlib.util.find_spec("schedulefree") is not None
WITH = pytest.mark.skipif(not HAS_PACKAGE, reason="schedulefree is not installed: pip install 'hookline[schedulefree]'")
OPTIONS: dict[str, dict[str, Any]] = {
    "schedule-free-sgd": {"lr": 0.5, "momentum": 0.8, "warmup_steps": 3, "weight_decay": 0.01},
    "schedule-free-adamw": {"lr": 0.05, "betas": (0.8, 0.99), "warmup_steps": 3, "r": 1.0},
    "schedule-free-radam": {"lr": 0.05, "weight_decay": 0.01},
}
NAMES = pytest.mark.parametrize("name", OPTIONS)


def plugin_of(name: str) -> Any:
    return load_plugin(Catalog.installed().find("optimizer", name))


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))


def make_run(name: str, *overrides: str, **options: Any) -> Run:
    config = {
        "train": {"epochs": 2, "batch_size": 10, "shuffle": False},
        "data": {"num_examples": 60},
        "optimizer": {"use": name, **OPTIONS[name], **options},
    }
    return Run(load_config(config, overrides, plugins={"model": net}))


def weights(model: nn.Module) -> list[list[float]]:
    return [parameter.flatten().tolist() for parameter in model.parameters()]


@WITH
@NAMES
def test_the_options_are_those_of_the_package_with_its_defaults(name: str) -> None:
    plugin = plugin_of(name)
    cls = getattr(importlib.import_module("schedulefree"), plugin.target.__name__)
    theirs = {
        key: p.default for key, p in inspect.signature(cls).parameters.items() if key not in ("params", "foreach")
    }
    ours = {option.name: option.default for option in plugin.options if option.name != "groups"}
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in ours.items()} == theirs


@WITH
@NAMES
def test_the_steps_and_the_evaluations_are_those_of_a_loop_written_out(name: str) -> None:
    run = make_run(name)
    model = copy.deepcopy(run.model)
    optimizer = getattr(importlib.import_module("schedulefree"), plugin_of(name).target.__name__)(
        model.parameters(), **OPTIONS[name]
    )
    inputs, targets = run.data.train[:]
    for step in run.steps():
        optimizer.train()
        start = (step.step - 1) * 10 % 60
        loss = nn.functional.mse_loss(model(inputs[start : start + 10]), targets[start : start + 10])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves it so
        optimizer.step()
        assert weights(run.model) == weights(model)  # y
        if step.step % 6 == 0:
            trained = copy.deepcopy(model.state_dict())
            optimizer.eval()
            with torch.no_grad():
                expected = float(nn.functional.mse_loss(model(inputs), targets))
            assert run.evaluate()["train/loss"] == pytest.approx(expected, rel=1e-6)
            averaged = weights(model)  # x
            model.load_state_dict(trained)  # the package's own way back rounds
            optimizer.param_groups[0]["train_mode"] = True
    assert run.history[-1]["train/loss"] == pytest.approx(expected, rel=1e-6)
    assert weights(run.model) == averaged  # the run is complete


@WITH
@NAMES
@pytest.mark.parametrize("at", [0, 1, 5, 8])
def test_a_resumed_run_ends_with_the_same_bits(name: str, at: int) -> None:
    whole, first, second = (make_run(name) for _ in range(3))
    whole.fit()
    for _ in itertools.islice(first.steps(), at):
        pass
    second.load_state_dict(first.state_dict())
    second.fit()
    assert weights(second.model) == weights(whole.model)
    assert second.history == whole.history


@WITH
def test_frozen_parameters_and_groups_have_averages_of_their_own() -> None:
    groups = [{"parameters": ["0.*"], "lr": 0.1, "betas": (0.5, 0.99)}]
    run = make_run("schedule-free-adamw", "callbacks.freeze.parameters=['2.bias']", groups=groups)
    for _ in itertools.islice(run.steps(), 5):
        pass
    plugin: Any = next(member.instance for member in run.members if member.table == "optimizer")
    averages = {id(weight): value for weight, value in plugin.build_evaluated_weights(run)()}
    named = dict(run.model.named_parameters())
    assert averages.keys() == {id(named[name]) for name in ("0.weight", "0.bias", "2.weight")}
    for name, beta in (("0.weight", 0.5), ("2.weight", 0.8)):
        y, z = named[name].detach(), run.optimizer.state[named[name]]["z"]
        torch.testing.assert_close((1 - beta) * z + beta * averages[id(named[name])], y)
    with pytest.raises(ConfigError, match="unknown option 'momentum'"):
        make_run("schedule-free-adamw", groups=[{"parameters": ["0.*"], "momentum": 0.1}])


@NAMES
def test_without_the_package_the_error_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(PluginError, match="need the package schedulefree") as caught:
        make_run(name)
    assert caught.value.hint == "pip install 'hookline[schedulefree]'"
