"""Tests of mappings that cannot be changed, and of what they make up: configs and results."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

import hookline
from hookline import RunConfig, RunResult, RunView, hookimpl, load_config, train
from hookline.engine.read_only import ReadOnly


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


COPIES = pytest.mark.parametrize("copied", [pickled, copy.deepcopy, copy.copy])


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.__setitem__("a", 2),
        lambda it: it.__delitem__("a"),
        lambda it: it.__ior__({"b": 2}),
        lambda it: it.update(b=2),
        lambda it: it.setdefault("b", 2),
        lambda it: it.pop("a"),
        lambda it: it.popitem(),
        lambda it: it.clear(),
    ],
)
def test_a_read_only_mapping_refuses_every_change(change: Callable[[ReadOnly], object]) -> None:
    mapping = ReadOnly({"a": 1})
    with pytest.raises(TypeError, match="read-only"):
        change(mapping)
    assert mapping == {"a": 1}


@COPIES
def test_a_copy_of_a_read_only_mapping_is_one(copied: Callable[[Any], Any]) -> None:
    copy_of_it = copied(ReadOnly({"a": ReadOnly({"b": 1})}))
    assert copy_of_it == {"a": {"b": 1}}
    assert (type(copy_of_it), type(copy_of_it["a"])) == (ReadOnly, ReadOnly)


def test_a_read_only_mapping_joined_with_another_is_a_dict() -> None:
    joined = ReadOnly({"a": 1}) | {"b": 2}
    joined["c"] = 3
    assert joined == {"a": 1, "b": 2, "c": 3}


@COPIES
def test_a_config_can_be_copied_and_sent_elsewhere(copied: Callable[[Any], Any]) -> None:
    config = load_config({"optimizer": {"lr": 0.02}, "model": {"use": "mlp", "hidden": [4]}}, ["train.epochs=1"])
    train(config)  # nothing that a run leaves in it may stand in the way
    assert [choice.plugin.options for choice in config.plugins]
    again: RunConfig = copied(config)
    assert again == config
    assert str(again.settings["train.epochs"].origin) == "command line"
    assert train(again).history == train(config).history


def test_a_deep_copy_of_a_config_has_a_model_of_its_own() -> None:
    net = nn.Linear(2, 1)
    before = net.weight.clone()
    train(copy.deepcopy(load_config({"train": {"epochs": 1}}, plugins={"model": net})))
    assert torch.equal(net.weight, before)


@COPIES
def test_a_result_can_be_copied_and_sent_elsewhere(copied: Callable[[Any], Any]) -> None:
    result = train({"train": {"epochs": 2}})
    again: RunResult = copied(result)
    for name in ("outcome", "stop_reason", "epochs", "steps", "metrics", "history", "summary", "warnings"):
        assert getattr(again, name) == getattr(result, name), name
    weights = result.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in again.model.state_dict().items())


class Writer:
    """Writes the metrics that it gets in each event."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @hookimpl
    def on_evaluation_end(self, run: RunView, metrics: Any) -> None:
        self.lines.append(json.dumps(metrics))

    @hookimpl
    def on_epoch_end(self, run: RunView, metrics: Any) -> None:
        self.lines.append(msgspec.json.encode(metrics).decode())


def test_metrics_are_written_as_json_wherever_they_are_given() -> None:
    writer = Writer()
    result = train({"train": {"epochs": 2}}, plugins={"callbacks.writer": writer})
    assert json.loads(json.dumps(result.history)) == [dict(metrics) for metrics in result.history]
    assert json.loads(json.dumps(result.metrics)) == result.metrics == json.loads(writer.lines[-1])
    names = [list(json.loads(line)) for line in writer.lines]
    assert names == 2 * [["train/loss"], ["train/running_loss", "train/loss"]]


def test_the_version_is_that_of_the_distribution() -> None:
    assert hookline.__version__ == version("hookline")
