"""``predict_split``: predictions for a split of the run's own data, with targets and the loss of each example."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import hookline
from hookline import ConfigError, ContractError, DataSource
from hookline.trained import evaluate_run, predict_split

NUM = 40


def rows_of(path: Path, split: str, **options: Any) -> dict[str, list[Any]]:
    whole: dict[str, list[Any]] = {}
    for part in predict_split(path, split, **options).predictions():
        for name, values in part.items():
            whole.setdefault(name, []).extend(values)
    return whole


def trained(folder: Path, config: Mapping[str, Any], plugins: Mapping[str, Any] | None = None) -> Path:
    callbacks = {"run-folder": {"parent": str(folder)}, **config.get("callbacks", {})}
    hookline.train({"train": {"epochs": 1}, **config, "callbacks": callbacks}, plugins=plugins)
    return max(folder.glob("0*"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table whose first column is the number of its row, with an empty target in row 3 and classes a, b, c."""
    path = tmp_path_factory.mktemp("split") / "t.csv"
    rng = random.Random(0)
    lines = [f"{n},{'' if n == 3 else 1000 + n / 10},{'abc'[n % 3]},{rng.gauss(0, 1)}" for n in range(NUM)]
    path.write_text("\n".join(["n,y,kind,x", *lines, ""]))
    return path


def test_rows_targets_and_losses_are_those_of_the_file(table: Path, tmp_path: Path) -> None:
    data = {"use": "csv", "path": str(table), "target": "y", "features": ["x"], "missing": "drop", "split": [0.5, 0.5]}
    scaled = {"standardize": True, "standardize_target": True}
    path = trained(tmp_path, {"data": {**data, **scaled}, "train": {"epochs": 1, "eval_batch_size": 7}})
    found = rows_of(path, "validation")
    assert list(found) == ["row", "target_y", "predicted_y", "loss"]
    lines = list(csv.DictReader(table.read_text().splitlines()))
    assert [lines[row]["n"] for row in found["row"]] == [str(row) for row in found["row"]]
    assert found["target_y"] == [float(lines[row]["y"]) for row in found["row"]]
    assert 3 not in found["row"]
    train = np.array([1000 + row / 10 for row in range(NUM) if row not in {3, *found["row"]}])
    errors = (np.array(found["target_y"]) - np.array(found["predicted_y"])) / train.std()
    assert np.allclose(found["loss"], errors**2, rtol=1e-3)
    mean = evaluate_run(path, splits=["validation"]).metrics["validation/loss"]
    assert math.isclose(np.mean(found["loss"]), mean, rel_tol=1e-6)


def test_the_hardest_examples_are_first_and_a_file_holds_the_same(table: Path, tmp_path: Path) -> None:
    data = {"use": "csv", "path": str(table), "target": "y", "features": ["x"], "missing": "drop"}
    path = trained(tmp_path, {"data": data})
    in_order = rows_of(path, "train")
    found = predict_split(path, "train", hardest_first=True)
    assert found.write(tmp_path / "p.csv") == NUM - 1
    lines = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    losses = [float(line["loss"]) for line in lines]
    assert losses == sorted(in_order["loss"], reverse=True)
    assert sorted(int(line["row"]) for line in lines) == in_order["row"]
    assert found.loss is not None
    assert math.isclose(found.loss, sum(losses) / len(losses), rel_tol=1e-9)


def test_of_weighted_classes_the_weighted_mean_of_the_losses_is_the_loss(table: Path, tmp_path: Path) -> None:
    data = {"use": "csv", "path": str(table), "target": "kind", "task": "classification", "features": ["x"]}
    weights = [1.0, 20.0, 5.0]
    path = trained(tmp_path, {"data": data, "loss": {"use": "cross-entropy", "weight": weights}})
    found = rows_of(path, "train")
    assert list(found) == [
        "row",
        "target_kind",
        "predicted_kind",
        *(f"probability_{c}" for c in "abc"),
        "loss",
        "weight",
    ]
    assert found["target_kind"] == ["abc"[row % 3] for row in found["row"]]
    assert found["weight"] == [weights["abc".index(name)] for name in found["target_kind"]]
    right = [found[f"probability_{name}"][number] for number, name in enumerate(found["target_kind"])]
    assert np.allclose(found["loss"], -np.log(right), rtol=1e-5)
    mean = np.average(found["loss"], weights=found["weight"])
    assert math.isclose(mean, evaluate_run(path).metrics["train/loss"], rel_tol=1e-6)


def test_a_target_that_does_not_count_has_no_loss(tmp_path: Path) -> None:
    targets = torch.tensor([0, 1, -100, 1])
    data = DataSource(TensorDataset(torch.randn(4, 3), targets), in_features=3, out_features=2, task="classification")
    path = trained(tmp_path, {"loss": "cross-entropy"}, {"data": data})
    found = rows_of(path, "train", plugins={"data": data}, hardest_first=True)
    assert list(found) == ["example", "target", "predicted", "loss"]
    assert (found["example"][-1], found["loss"][-1]) == (2, None)
    losses = [loss for loss in found["loss"] if loss is not None]
    mean = evaluate_run(path, plugins={"data": data}).metrics["train/loss"]
    assert math.isclose(sum(losses) / 3, mean, rel_tol=1e-6)


class Inputs(Dataset[Any]):
    """Examples whose inputs are a mapping."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        return {"a": torch.tensor([float(index)]), "b": torch.tensor([1.0])}, torch.tensor([1.0, float(index)])

    def origins(self, indices: list[int]) -> dict[str, list[str]]:
        return {"name": [f"example-{index}" for index in indices]}


class OwnLoss(nn.Module):
    """A model of named inputs that computes its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, a: Tensor, b: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.layer(torch.cat([a, b], dim=1))
        return {"logits": logits, "loss": (logits - labels).abs().mean()}


def test_inputs_by_name_several_targets_and_a_loss_of_the_model(tmp_path: Path) -> None:
    data = DataSource(Inputs(), in_features=None, out_features=2, target_names=("u", "v"))
    plugins = {"data": data, "model": OwnLoss()}
    path = trained(tmp_path, {"loss": "model-loss"}, plugins)
    found = rows_of(path, "train", plugins=plugins)
    assert list(found) == ["name", "target_u", "target_v", "predicted_u", "predicted_v", "loss", "weight"]
    assert found["name"] == [f"example-{index}" for index in range(5)]
    assert found["target_v"] == [0.0, 1.0, 2.0, 3.0, 4.0]
    errors = [[abs(found[f"predicted_{n}"][i] - found[f"target_{n}"][i]) for n in "uv"] for i in range(5)]
    assert np.allclose(found["loss"], np.mean(errors, axis=1), rtol=1e-5)


def contrastive(prediction: Tensor, target: Tensor) -> Tensor:
    """Return a loss that compares each example with the others."""
    return (prediction - prediction.mean(0) + target).square().mean()


def test_a_loss_that_depends_on_the_whole_batch_is_refused_by_name(tmp_path: Path) -> None:
    path = trained(tmp_path, {"callbacks": {"try-first-batch": "off"}}, {"loss": contrastive})
    with pytest.raises(
        ContractError, match=r"loss 'contrastive'.* is no loss of single examples: that of a batch"
    ) as caught:
        rows_of(path, "train", plugins={"loss": contrastive})
    assert "--no-loss" in str(caught.value.hint)
    found = rows_of(path, "train", plugins={"loss": contrastive}, losses=False)
    assert list(found) == ["example", "target_y", "predicted_y"]


class Stream(IterableDataset[Any]):
    """A stream of four examples."""

    def __iter__(self) -> Any:
        for number in range(4):
            yield torch.tensor([float(number)]), torch.tensor([2.0 * number])


def test_a_stream_is_numbered_in_its_order(tmp_path: Path) -> None:
    data = DataSource(TensorDataset(torch.ones(8, 1), torch.ones(8, 1)), test=Stream(), in_features=1, out_features=1)
    path = trained(tmp_path, {"train": {"epochs": 1, "eval_batch_size": 3}}, {"data": data})
    with pytest.raises(ConfigError, match="the data have no split 'validation'"):
        predict_split(path, "validation", plugins={"data": data})
    found = rows_of(path, "test", plugins={"data": data})
    assert (found["example"], found["target_0"]) == ([0, 1, 2, 3], [0.0, 2.0, 4.0, 6.0])


def test_a_training_split_that_is_a_stream_is_not_evaluated(tmp_path: Path) -> None:
    data = DataSource(Stream(), in_features=1, out_features=1)
    path = trained(tmp_path, {}, {"data": data})
    with pytest.raises(ConfigError, match="the split 'train' is a stream, which is not evaluated"):
        predict_split(path, "train", plugins={"data": data})


def test_targets_that_are_no_columns_are_refused(tmp_path: Path) -> None:
    images = TensorDataset(torch.ones(4, 1, 2, 2), torch.ones(4, 1, 2, 2))
    data = DataSource(images)
    path = trained(tmp_path, {}, {"data": data, "model": nn.Conv2d(1, 1, 1)})
    with pytest.raises(ContractError, match=r"the targets of a batch are \[4, 1, 2, 2\] float32"):
        rows_of(path, "train", plugins={"data": data, "model": nn.Conv2d(1, 1, 1)})


def test_a_split_that_the_data_lack_and_an_order_without_losses_are_errors(tmp_path: Path) -> None:
    path = trained(tmp_path, {})
    with pytest.raises(ConfigError, match="the data have no split 'test'"):
        predict_split(path, "test")
    with pytest.raises(ConfigError, match="cannot be sorted by a loss that is left out"):
        predict_split(path, "train", losses=False, hardest_first=True)
