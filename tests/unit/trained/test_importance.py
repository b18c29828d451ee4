"""``measure_importance``: the change of a metric when a feature is permuted; grouped columns, any form of inputs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import hookline
from hookline import ConfigError, DataSource
from hookline.trained import Importance, evaluate_run, load_trained, measure_importance
from hookline.trained.measuring.permuted import features_of, permuted
from hookline_plugins.data.tables.table import Table

COLORS = ("red", "green", "blue")
NUM = 60


@pytest.fixture(scope="module")
def house_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray[Any, Any]]:
    """A run of a least-squares fit with two numbers, a category and noise; and its rows."""
    folder = tmp_path_factory.mktemp("importance")
    rng = random.Random(0)
    rows = [(rng.uniform(0, 9), rng.uniform(-1, 1), rng.randrange(3), rng.gauss(0, 1)) for _ in range(NUM)]
    lines = [f"{x!r},{z!r},{COLORS[c]},{3 * x - z + 5 * c + e!r}" for x, z, c, e in rows]
    (folder / "t.csv").write_text("\n".join(["x,z,color,price", *lines, ""]))
    data = {"use": "csv", "path": str(folder / "t.csv"), "target": "price", "one_hot": ["color"]}
    config = {
        "train": {"epochs": 1, "dtype": "float64", "eval_batch_size": 17},
        "data": {**data, "standardize": True, "standardize_target": True},
        "model": {"use": "linear", "start": "least-squares"},
        "optimizer": {"use": "sgd", "lr": 1e-9},
        "callbacks": {"run-folder": {"parent": str(folder)}, "metrics": {"metrics": ["rmse"]}},
    }
    hookline.train(config)
    return next(folder.glob("0001*")), np.array(rows)


def fitted(rows: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the inputs, the targets and the least-squares coefficients, in the units of the file."""
    x, z, c, e = rows.T
    inputs = np.stack([x, z, *(c == k for k in range(3))], axis=1)
    y = 3 * x - z + 5 * c + e
    return inputs, y, np.linalg.lstsq(inputs, y, rcond=None)[0]


def test_the_changes_are_those_of_a_loop_written_out(house_run: tuple[Path, Any]) -> None:
    path, rows = house_run
    inputs, y, weights = fitted(rows)

    def rmse(values: np.ndarray[Any, Any]) -> float:
        return float(np.sqrt(((values @ weights - y) ** 2).mean()))

    generator = torch.Generator().manual_seed(7)
    orders = [torch.randperm(NUM, generator=generator).numpy() for _ in range(3)]
    expected: dict[str, list[float]] = {}
    for name, columns in {"x": [0], "z": [1], "color": [2, 3, 4]}.items():
        expected[name] = []
        for order in orders:
            changed = inputs.copy()
            changed[:, columns] = inputs[order][:, columns]
            expected[name].append(rmse(changed) - rmse(inputs))
    found = measure_importance(path, metric="rmse", repeats=3, seed=7)
    assert (found.metric, found.num_examples) == ("train/rmse", NUM)
    assert found.value == pytest.approx(rmse(inputs), rel=1e-6)
    assert found.value == evaluate_run(path).metrics["train/rmse"]
    assert [one.feature for one in found.features] == ["x", "color", "z"]  # by their change
    for one in found.features:
        assert one.changes == pytest.approx(expected[one.feature], rel=1e-5, abs=1e-6)
        assert one.mean == pytest.approx(np.mean(expected[one.feature]), rel=1e-5, abs=1e-6)
        assert one.std == pytest.approx(np.std(expected[one.feature]), rel=1e-5, abs=1e-6)


def test_the_importance_is_that_of_scikit_learn(house_run: tuple[Path, Any]) -> None:
    inspection = pytest.importorskip("sklearn.inspection", reason="scikit-learn is not installed")
    linear = pytest.importorskip("sklearn.linear_model")
    path, rows = house_run
    inputs, y, _ = fitted(rows)
    model = linear.LinearRegression(fit_intercept=False).fit(inputs, y)
    theirs = inspection.permutation_importance(
        model, inputs, y, scoring="neg_mean_squared_error", n_repeats=100, random_state=0
    )
    ours = {one.feature: one for one in measure_importance(path, repeats=100).features}
    scale = y.var()  # the loss is that of the standardized target
    for number, name in enumerate(["x", "z"]):
        error = np.hypot(theirs.importances_std[number], ours[name].std * scale) / np.sqrt(100)
        # Both are means of 100 permutations: five standard errors.
        assert ours[name].mean * scale == pytest.approx(theirs.importances_mean[number], abs=5 * error)
        assert ours[name].std * scale == pytest.approx(theirs.importances_std[number], rel=0.3)


def test_a_split_a_seed_and_a_metric_can_be_chosen(house_run: tuple[Path, Any]) -> None:
    path, _ = house_run
    words = ["data.split=[0.5, 0.5]"]
    first, again, other = (measure_importance(path, words, repeats=2, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert (first.metric, first.num_examples) == ("validation/loss", 30)
    assert "these are not the data that the run was trained with" in " ".join(first.warnings)
    with pytest.raises(ConfigError, match="there is no metric 'train/rsme'") as caught:
        measure_importance(path, metric="rsme")
    assert "rmse" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="have no split 'test'"):
        measure_importance(path, split="test")


# ---- inputs of any form ----------------------------------------------------------------------------------------------


def test_features_of_any_form() -> None:
    def places(inputs: Any, columns: Any = ()) -> dict[str, Any]:
        return {one.name: dict(one.places) for one in features_of(inputs, columns)}

    assert places(torch.zeros(2)) == {"0": {"": [0]}, "1": {"": [1]}}
    assert places(torch.zeros(3, 8, 8), ["a"]) == {"inputs": {"": None}}
    assert places((torch.zeros(2), torch.zeros(2))) == {"inputs": {"": None}}
    entries = {"numbers": torch.zeros(3), "codes": torch.zeros(1), "image": torch.zeros(2, 2)}
    assert places(entries) == {"numbers": {"numbers": None}, "codes": {"codes": None}, "image": {"image": None}}
    # A column that is a number and an indicator of its missing cells, and one with a code.
    assert places(entries, {"numbers": ["age", "size", "age"], "codes": ["kind"]}) == {
        "age": {"numbers": [0, 2]},
        "size": {"numbers": [1]},
        "kind": {"codes": [0]},
        "image": {"image": None},
    }


class Named(Dataset[Any]):
    """Examples that are mappings, from tensors; only one at a time."""

    def __init__(self, parts: dict[str, Tensor]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts["labels"])

    def __getitem__(self, index: int) -> Any:
        return {name: part[index] for name, part in self.parts.items()}


class Gathering(Named):
    """The same, in whole batches."""

    def gather(self, indices: Tensor) -> Any:
        return {name: part[indices] for name, part in self.parts.items()}


class Listing(Named):
    """The same, all examples of a batch at once."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (first.sum(1, keepdim=True) + 10 * second.sum(1, keepdim=True)) * self.scale


@pytest.mark.parametrize("kind", [Named, Gathering, Listing])
def test_the_entries_of_a_mapping_are_permuted(tmp_path: Path, kind: type[Named]) -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(20, 2, generator=generator), torch.randn(20, 3, generator=generator)
    with torch.no_grad():
        labels = Sum()(first, second)
    data = DataSource(kind({"first": first, "second": second, "labels": labels}))
    plugins = {"data": data, "model": Sum()}
    config = {
        "train": {"epochs": 1, "eval_batch_size": 6},
        "optimizer": {"use": "sgd", "lr": 1e-9},
        "callbacks": {"run-folder": {"parent": str(tmp_path)}},
    }
    hookline.train(config, plugins=plugins)
    found = measure_importance(next(tmp_path.glob("0001*")), plugins=plugins, repeats=2, seed=3)
    generator = torch.Generator().manual_seed(3)
    orders = [torch.randperm(20, generator=generator) for _ in range(2)]
    expected = {
        "second": [100 * (second.sum(1) - second[order].sum(1)).square().mean() for order in orders],
        "first": [(first.sum(1) - first[order].sum(1)).square().mean() for order in orders],
    }
    assert {one.feature: one.changes for one in found.features} == {
        name: pytest.approx([float(value) for value in values], rel=1e-4) for name, values in expected.items()
    }


def test_a_permuted_dataset_leaves_the_original_and_the_targets_as_they_are() -> None:
    inputs, targets, order = torch.arange(8.0).reshape(4, 2), torch.arange(4), torch.tensor([1, 0, 3, 2])
    (_, second) = features_of(inputs[0])
    changed: Any = permuted(TensorDataset(inputs, targets), second, order)
    assert changed.tensors[0].tolist() == [[0, 3], [2, 1], [4, 7], [6, 5]]
    assert changed.tensors[1].equal(targets)
    assert inputs.flatten().tolist() == list(range(8))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from ((torch.ones(1), torch.ones(1)) for _ in range(8))


def test_a_stream_cannot_be_permuted(tmp_path: Path) -> None:
    plugins = {"data": DataSource(TensorDataset(torch.ones(8, 1), torch.ones(8, 1)), Stream())}
    hookline.train({"callbacks": {"run-folder": {"parent": str(tmp_path)}}}, plugins=plugins)
    with pytest.raises(ConfigError, match="the validation split is a stream"):
        measure_importance(next(tmp_path.glob("0001*")), plugins=plugins)


def test_dates_and_categories_are_permuted_as_columns(tmp_path: Path) -> None:
    lines = [f"2024-{1 + n % 12:02}-{1 + n:02},{COLORS[n % 3]},{n}" for n in range(20)]
    (tmp_path / "t.csv").write_text("\n".join(["day,color,y", *lines, ""]))
    data = {"use": "csv", "path": str(tmp_path / "t.csv"), "target": "y", "one_hot": ["color"]}
    config = {
        "data": {**data, "dates": {"day": "%Y-%m-%d"}, "standardize": True},
        "callbacks": {"run-folder": {"parent": str(tmp_path / "runs")}},
    }
    hookline.train(config)
    path = next((tmp_path / "runs").glob("0001*"))
    found: Importance = measure_importance(path, repeats=1)
    assert {one.feature for one in found.features} == {"day", "color"}
    assert list(load_trained(path).predictor.feature_columns) == ["day"] * 6 + ["color"] * 3  # type: ignore[attr-defined]
    table = Table(tmp_path / "t.csv", "y", one_hot=("color",), dates={"day": "%Y-%m-%d"}, categories="codes")
    built: Any = table.build_data()
    columns = table.build_predictor(built).feature_columns  # type: ignore[attr-defined]
    assert {one.name: dict(one.places) for one in features_of(built.train[0][0], columns)} == {
        "day": {"numbers": [0, 1, 2, 3, 4, 5]},
        "color": {"categories": [0]},
    }


@pytest.mark.parametrize("categories", ["one-hot", "codes"])
def test_times_rare_categories_and_flags_belong_to_their_columns(tmp_path: Path, categories: str) -> None:
    lines = [f"{n % 24:02}:30,{COLORS[n % 2] if n else 'rare'},{n or ''},{n}" for n in range(20)]
    (tmp_path / "t.csv").write_text("\n".join(["at,color,size,y", *lines, ""]))
    ways: dict[str, Any] = {"missing": "mean", "missing_flags": True, "min_frequency": 2.0, "categories": categories}
    table = Table(tmp_path / "t.csv", "y", one_hot=("color",), dates={"at": "%H:%M"}, **ways)
    built: Any = table.build_data()
    columns = table.build_predictor(built).feature_columns  # type: ignore[attr-defined]
    found = {one.name: dict(one.places) for one in features_of(built.train[0][0], columns)}
    numbers = {"at": {"": [0]}, "color": {"": [1, 2, 3]}, "size": {"": [4, 5]}}
    codes = {"at": {"numbers": [0]}, "color": {"categories": [0]}, "size": {"numbers": [1, 2]}}
    assert found == (codes if categories == "codes" else numbers)
