"""Cross-validation: folds against a solution by NumPy, no leakage, resuming, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hookline
from hookline import ConfigError, DataError, Run, TrainingError, load_config
from hookline.runs import read_record
from hookline.trials import CrossValidation, FoldPlan, cross_validate
from support import ROOT

IRIS = ROOT / "tests" / "fixtures" / "iris" / "iris.csv"
FEATURES = ["sepal_length", "sepal_width", "petal_length"]


def table() -> list[dict[str, str]]:
    with IRIS.open(newline="") as file:
        return list(csv.DictReader(file))


def least_squares(folder: Path, **data: Any) -> dict[str, Any]:
    """Return a config whose model begins at the solution of the least-squares problem, and stays there."""
    own = {"use": "csv", "path": str(IRIS), "target": "petal_width", "features": FEATURES, **data}
    return {
        "train": {"dtype": "float64", "epochs": 1, "batch_size": "all", "evaluate": []},
        "data": own,
        "model": {"use": "linear", "start": "least-squares"},
        "optimizer": {"lr": 0.0},
        "callbacks": {"run-folder": {"parent": str(folder)}},
    }


def plan_of(config: dict[str, Any], parent: Path, folds: int) -> FoldPlan:
    return FoldPlan(
        lambda defaults, switches: load_config(config, defaults=defaults, switches=switches), parent=parent, folds=folds
    )


def test_each_fold_has_the_errors_of_a_regression_without_its_rows(tmp_path: Path) -> None:
    found = cross_validate(least_squares(tmp_path, standardize=True), folds=3, repeats=2)
    rows = table()
    x = np.array([[1.0, *(float(row[name]) for name in FEATURES)] for row in rows])
    y = np.array([float(row["petal_width"]) for row in rows])
    columns = {name: np.array(values) for name, values in found.predictions.items()}
    for result in found.folds:
        is_own = (columns["repeat"] == result.fold.repeat) & (columns["fold"] == result.fold.number)
        out = columns["row"][is_own]
        others = np.setdiff1d(np.arange(len(y)), out)
        weights, *_ = np.linalg.lstsq(x[others], y[others])
        np.testing.assert_allclose(columns["predicted_petal_width"][is_own], x[out] @ weights, rtol=1e-9)
        assert result.metrics["loss"] == pytest.approx(np.mean((x[out] @ weights - y[out]) ** 2), rel=1e-9)
        assert result.num_examples == len(out) == 50
        assert result.path is None
    assert not list(tmp_path.iterdir()), "no run is kept"
    losses = [result.metrics["loss"] for result in found.folds]
    assert found.mean["loss"] == pytest.approx(np.mean(losses))
    assert found.deviation["loss"] == pytest.approx(np.std(losses, ddof=1))
    for repeat in (1, 2):
        is_own = columns["repeat"] == repeat
        assert columns["row"][is_own].tolist() == list(range(150)), (
            "each row is left out once, in the order of the file"
        )
        np.testing.assert_array_equal(columns["target_petal_width"][is_own], y)
    assert columns["fold"][:150].tolist() != columns["fold"][150:].tolist(), "another seed divides the rows otherwise"


def test_nothing_is_computed_from_the_rows_left_out(tmp_path: Path) -> None:
    data = {"standardize": True, "standardize_target": True, "missing": "median", "split": [0.8, 0.2]}
    data |= {"fold": "2/3", "transforms": {"petal_length": "normal"}}
    first = Run(load_config(least_squares(tmp_path, **data))).data
    left_out = {*first.more_splits["fold"].origins([*range(50)])["row"]}  # type: ignore[attr-defined] # a fold has them
    rows = table()
    for number in left_out:
        rows[number] |= dict.fromkeys(FEATURES, "1e6") | {"petal_width": "-1e6"}
    rows[min(left_out)]["sepal_length"] = ""
    changed = tmp_path / "changed.csv"
    with changed.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    second = Run(load_config(least_squares(tmp_path, **data, path=str(changed)))).data
    assert second.kept == first.kept, "means, scales, medians and quantiles are those of the training rows"
    for split in ("train", "validation"):
        ours, theirs = (data.splits()[split].tensors for data in (first, second))  # type: ignore[attr-defined] # in memory
        assert all(one.equal(other) for one, other in zip(ours, theirs, strict=True))
    training = [float(row["sepal_length"]) for number, row in enumerate(table()) if number not in left_out]
    assert len(training) == 100 == len(first.train) + len(first.validation)  # type: ignore[arg-type] # they have lengths
    assert first.kept["mean"][0] != pytest.approx(np.mean([float(row["sepal_length"]) for row in table()]))


CLASSES: dict[str, Any] = {
    "train": {"epochs": 2, "batch_size": 30, "evaluate": []},
    "data": {"use": "csv", "path": str(IRIS), "target": "species", "task": "classification", "stratify": "species"},
    "model": {"use": "mlp", "hidden": [8]},
    "loss": {"use": "cross-entropy"},
    "optimizer": {"use": "adam", "lr": 0.05},
    "callbacks": {"checkpoint": {"every_steps": 1, "every_s": 0.0}},
}


@pytest.fixture(scope="module")
def reference() -> CrossValidation:
    return cross_validate(CLASSES, folds=2)


def test_a_stopped_cross_validation_goes_on_where_it_was_with_the_same_bits(
    tmp_path: Path, reference: CrossValidation
) -> None:
    def leave(run: Run) -> None:
        for step in run.steps():
            if step.step == 3:
                run.interrupt("enough")

    first, second = (plan := plan_of(CLASSES, tmp_path, folds=2)).planned
    plan.train(first)
    with pytest.raises(TrainingError, match="the run was interrupted") as caught:
        plan.train(second, leave)
    assert caught.value.__notes__ == ["in fold 2/2"]
    found = cross_validate(CLASSES, folds=2, parent=tmp_path)
    assert (found.predictions, found.mean) == (reference.predictions, reference.mean)
    again = cross_validate(CLASSES, folds=2, parent=tmp_path)
    assert again.predictions == found.predictions
    steps = [[attempt.step for attempt in read_record(str(fold.path)).attempts] for fold in again.folds]
    assert steps == [[6], [3, 6]], "a finished fold is not trained again"


def test_classes_have_their_shares_and_the_file_every_row(tmp_path: Path, reference: CrossValidation) -> None:
    target = tmp_path / "out.csv"
    reference.write(target)
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["target_species"] for row in rows] == [row["species"] for row in table()]
    assert {(row["fold"], row["target_species"]) for row in rows} == {
        (fold, name) for fold in "12" for name in ("setosa", "versicolor", "virginica")
    }
    hits = [row["predicted_species"] == row["target_species"] for row in rows]
    assert reference.mean["accuracy"] == pytest.approx(np.mean(hits)), "the folds are of equal size"
    with pytest.raises(ConfigError, match="already exists"):
        reference.write(target)


def test_a_folder_with_runs_of_another_config_or_of_other_data_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "iris.csv"
    data.write_text(IRIS.read_text())
    config = CLASSES | {"data": CLASSES["data"] | {"path": str(data)}}
    plan = plan_of(config, tmp_path / "runs", folds=2)
    paths = [plan.train(fold) for fold in plan.planned]
    with pytest.raises(ConfigError, match="holds runs of another config") as caught:
        cross_validate(config, ["optimizer.lr=0.1"], folds=2, parent=tmp_path / "runs")
    assert [fault.message for fault in caught.value.faults] == ["settings: optimizer.lr was 0.05, and is 0.1"]
    data.write_text(IRIS.read_text().replace("5.1", "5.2"))
    with pytest.raises(DataError, match="the data have changed since 0001-repeat-1-fold-1-of-2 was trained"):
        plan.result(paths)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["data=synthetic-linear"], ConfigError, "'synthetic-linear' .* has no options `fold` and `fold_seed`"),
        (["data.fold=1/5"], ConfigError, "data.fold is '1/5', but a cross-validation sets it itself"),
        (["callbacks.run-folder.parent=x"], ConfigError, "callbacks.run-folder.parent cannot be set"),
        (["data.stratify=", "data.group_by=species"], DataError, "the column 'species' has 3 values, fewer than the 5"),
    ],
)
def test_what_has_no_folds_is_refused_before_anything_is_trained(
    tmp_path: Path, overrides: list[str], error: type[Exception], message: str
) -> None:
    config = CLASSES | ({"data": {"use": "csv"}} if overrides[0].startswith("data=") else {})
    with pytest.raises(error, match=message):
        cross_validate(config, overrides, parent=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cross_validation_has_at_least_two_folds() -> None:
    with pytest.raises(ValueError, match="at least 2 folds and 1 repeat, not 1 and 1"):
        cross_validate(CLASSES, folds=1)


def test_given_arrays_are_cross_validated_with_the_options_of_a_config() -> None:
    x = np.random.default_rng(0).normal(size=(30, 2))
    data = hookline.from_arrays(x, ["a", "b", "b"] * 10, test=0.2)
    config = {"train": {"epochs": 1}, "loss": {"use": "cross-entropy"}}
    found = cross_validate(config, ["data.standardize=true"], folds=4, plugins={"data": data})
    assert sorted(map(len, [[f for f in found.predictions["fold"] if f == n] for n in (1, 2, 3, 4)])) == [6, 6, 6, 6]
    assert set(found.predictions["target"]) == {"a", "b"}
