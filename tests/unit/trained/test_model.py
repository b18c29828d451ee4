"""Trained models: their weights are those of the run, and new inputs are read as its data were."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import hookline
from hookline import (
    Catalog,
    CheckpointError,
    ConfigError,
    ContractError,
    DataError,
    DataSource,
    PluginError,
    Run,
    load_config,
    resume,
)
from hookline.runs import AppendedFile, RunFolder, find_run, folder_of, identity_of, read_checkpoint
from hookline.runs.disk.data_file import KeptExample, from_kept, to_kept
from hookline.runs.folder import read_model
from hookline.runs.record import read_record
from hookline.trained import evaluate_run, export_model, load_trained, write_predictions
from hookline_plugins.data.tables.files import csv_records, reading
from support import saved_folder

HEAD = "area,rooms,color,note,price"
COLORS = ["red", "green", "blue"]


def rows(count: int, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    made = []
    for number in range(count):
        area, rooms, color = draw.uniform(20, 200), int(draw.integers(1, 7)), COLORS[number % 3]
        made.append(f"{area:.2f},{rooms},{color},n{number},{1000 * area + 5000 * rooms:.2f}")
    return made


def write_table(path: Path, lines: Sequence[str], head: str = HEAD) -> Path:
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def table(path: Path, **options: Any) -> dict[str, Any]:
    return {
        "use": "csv",
        "path": str(path),
        "target": "price",
        "features": ["area", "rooms", "color"],
        "one_hot": ["color"],
        "standardize": True,
        "standardize_target": True,
        "split": [0.7, 0.2, 0.1],
        **options,
    }


def trained_run(
    parent: Path, data: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, **tables: Any
) -> Run:
    config = {
        "train": {"epochs": 2, "eval_batch_size": 7},
        "data": dict(data),
        "callbacks": {"run-folder": {"parent": str(parent)}, "checkpoint": {}},
        **tables,
    }
    run = Run(load_config(config))
    run.fit()
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return trained_run(tmp_path / "runs", table(write_table(tmp_path / "houses.csv", rows(60))))


@pytest.fixture
def folder(run: Run) -> Path:
    assert folder_of(run) is not None
    return saved_folder(run).path


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def predicted(folder: Path, source: Path, **options: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for part in load_trained(folder, **options).predictions(source):
        for name, values in part.items():
            found.setdefault(name, []).extend(values)
    return found


# ---- paths -----------------------------------------------------------------------------------------------------------


class Place:
    """A path of another library."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.mark.parametrize("form", [str, Path, Place])
def test_whatever_takes_a_path_takes_text_and_any_path_like_object(
    run: Run, folder: Path, tmp_path: Path, form: Callable[[Path], Any]
) -> None:
    parent, rows_file, target = folder.parent, tmp_path / "houses.csv", tmp_path / "out.csv"
    (checkpoint,) = sorted(path for path in (folder / "checkpoints").iterdir() if path.is_dir())[-1:]
    trained = load_trained("last", parent=form(parent), checkpoint=form(checkpoint))
    assert trained.path == folder == find_run(form(folder)) == find_run("last", form(parent))
    assert evaluate_run(form(folder), parent=form(parent), checkpoint=form(checkpoint)).step == run.step
    assert sum(len(next(iter(part.values()))) for part in trained.predictions(form(rows_file))) == 60
    assert write_predictions(trained, form(rows_file), form(target)) == 60
    assert export_model(trained, "safetensors", form(tmp_path / "m.safetensors")).path == tmp_path / "m.safetensors"
    assert read_checkpoint(form(checkpoint)).path == checkpoint
    RunFolder.open(form(folder)).close()
    made = RunFolder.claim(form(tmp_path / "others"), "a")
    made.close()
    assert made.path == tmp_path / "others" / "0001-a"
    AppendedFile(form(tmp_path / "lines.txt")).close()
    again = resume("last", {"train.epochs": 3}, parent=form(parent))
    assert again.fit().epochs == 3


# ---- evaluation ------------------------------------------------------------------------------------------------------


def test_an_evaluation_gives_the_numbers_of_the_training_for_every_split_and_writes_nothing(
    run: Run, folder: Path
) -> None:
    before = hashes(folder)
    found = evaluate_run(folder)
    assert hashes(folder) == before
    last = run.history[-1]
    assert {name: found.metrics[name] for name in ("train/loss", "validation/loss")} == {
        name: last[name] for name in ("train/loss", "validation/loss")
    }
    assert found.num_examples == {"train": 42, "validation": 12, "test": 6}
    assert (found.weights, found.step, found.warnings) == ("model.safetensors", run.step, ())
    assert found.path == folder.resolve()


def test_a_single_split_can_be_evaluated_and_a_missing_one_is_refused(folder: Path, tmp_path: Path) -> None:
    assert set(evaluate_run(folder, splits=["test"]).metrics) == {"test/loss"}
    with pytest.raises(ConfigError, match=r"no split 'tset' that can be evaluated\n.*did you mean 'test'"):
        evaluate_run(folder, splits=["tset"])
    whole = trained_run(tmp_path / "runs", table(tmp_path / "houses.csv", split=[1.0]))
    assert folder_of(whole) is not None
    with pytest.raises(ConfigError, match="the data have no split 'test'"):
        evaluate_run(saved_folder(whole).path, splits=["train", "test"])


def test_data_other_than_the_training_data_are_a_warning(folder: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "houses.csv", rows(60, seed=1))
    (warning,) = evaluate_run(folder).warnings
    assert warning.startswith("these are not the data that the run was trained with")
    assert "train was" in warning


def test_no_callback_is_started_and_no_event_is_fired_by_an_evaluation(folder: Path, tmp_path: Path) -> None:
    evaluate_run(folder)
    assert [path.name for path in sorted((tmp_path / "runs").iterdir()) if path.is_dir() and not path.is_symlink()] == [
        folder.name
    ]


def test_weights_of_a_different_model_are_refused_with_every_difference(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="belongs to a different model") as caught:
        evaluate_run(folder, {"model.bias": False})
    assert [fault.message for fault in caught.value.faults] == ["bias is in the checkpoint, but not in the model"]


# ---- choice of the weights -------------------------------------------------------------------------------------------


def interrupted_run(tmp_path: Path, steps: int = 5) -> Run:
    config = {
        "data": table(write_table(tmp_path / "houses.csv", rows(60))),
        "callbacks": {"run-folder": {"parent": str(tmp_path / "runs")}, "checkpoint": {"every_steps": 2, "keep": 9}},
    }
    run = Run(load_config(config))
    for step in run.steps():
        if step.step == steps:
            run.interrupt("SIGINT")
    return run


def test_an_unfinished_run_uses_its_newest_valid_checkpoint_and_a_damaged_one_stays(tmp_path: Path) -> None:
    run = interrupted_run(tmp_path)
    assert folder_of(run) is not None
    path = saved_folder(run).path
    newest, older = sorted((path / "checkpoints").iterdir(), reverse=True)[:2]
    found = evaluate_run(path)
    assert (found.weights, found.step) == (newest.name, 5)
    assert found.warnings == (f"{path.name} is not finished (status: interrupted)",)
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "model.safetensors").write_bytes(content)
    before = hashes(path)
    found = evaluate_run(path)
    assert (found.weights, found.step) == (older.name, 4)
    assert "is damaged: model.safetensors" in found.warnings[1]
    assert hashes(path) == before


def test_a_checkpoint_is_chosen_by_name_or_folder_but_not_from_a_different_run(tmp_path: Path) -> None:
    run, other = interrupted_run(tmp_path), interrupted_run(tmp_path)
    assert folder_of(run) is not None
    assert folder_of(other) is not None
    path, name = saved_folder(run).path, "step-000000000002-epochs-0"
    weights = read_checkpoint(path / "checkpoints" / name).state["model"]
    for asked in (name, str(path / "checkpoints" / name)):
        trained = load_trained(path, checkpoint=asked)
        assert trained.step == 2
        assert torch.equal(trained.model.state_dict()["weight"], weights["weight"])
    with pytest.raises(CheckpointError, match="belongs to a different run"):
        load_trained(path, checkpoint=str(saved_folder(other).path / "checkpoints" / name))
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*\n.*did you mean 'step-0000"):
        load_trained(path, checkpoint="step-000000000002")


def test_the_newest_checkpoint_of_a_finished_run_is_latest(run: Run, folder: Path) -> None:
    trained = load_trained(folder, checkpoint="latest")
    assert trained.weights.startswith("step-")
    assert trained.warnings == ()
    assert torch.equal(trained.model.state_dict()["weight"], run.unwrapped_model.state_dict()["weight"])


def test_damaged_weights_are_found_and_the_error_gives_a_hint(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model.safetensors does not match its checksum\n.*--checkpoint latest"):
        load_trained(folder)
    assert load_trained(folder, checkpoint="latest").step


def test_a_run_without_any_weights_says_so(folder: Path, tmp_path: Path) -> None:
    run = interrupted_run(tmp_path)
    assert folder_of(run) is not None
    shutil.rmtree(saved_folder(run).path / "checkpoints")
    with pytest.raises(CheckpointError, match=r"has no valid checkpoint\n.*hookline resume"):
        load_trained(saved_folder(run).path)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self, num: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(num, num), nn.Linear(num, num)
        self.second.weight = self.first.weight
        self.last = nn.Linear(num, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.last(self.second(self.first(inputs)))
        return result


def test_tied_weights_are_saved_under_each_of_their_names(tmp_path: Path) -> None:
    run = Run(
        load_config(
            {"callbacks": {"run-folder": {"parent": str(tmp_path)}}, "train": {"epochs": 1}}, plugins={"model": Tied(2)}
        )
    )
    run.fit()
    weights = read_model(find_run("last", tmp_path))
    assert torch.equal(weights["second.weight"], weights["first.weight"])
    Tied(2).load_state_dict(weights)


class Scaled(nn.Module):
    """A loss with a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return ((prediction - target) ** 2).mean() * self.scale.exp()


@hookline.plugin("loss", "scaled")
def scaled() -> nn.Module:
    return Scaled()


@hookline.plugin("optimizer", "all-of-them")
class AllOfThem:
    """Updates the weights of the loss as well."""

    @hookline.hookimpl
    def build_optimizer(self, run: Run, model: nn.Module) -> torch.optim.Optimizer:
        assert isinstance(run.loss, nn.Module)
        return torch.optim.SGD([*model.parameters(), *run.loss.parameters()], lr=0.01)


def test_a_trained_loss_is_kept_with_the_final_weights(tmp_path: Path) -> None:
    catalog = Catalog.installed().with_entries(hookline.config.entries_of_file(__file__))
    tables = {"loss": {"use": "scaled"}, "optimizer": {"use": "all-of-them"}}
    config = {
        "train": {"epochs": 1},
        **tables,
        "callbacks": {"run-folder": {"parent": str(tmp_path)}, "checkpoint": {}},
    }
    run = Run(hookline.load_config(config, catalog=catalog))
    run.fit()
    assert folder_of(run) is not None
    path = saved_folder(run).path
    assert evaluate_run(path, catalog=catalog).metrics["train/loss"] == run.history[-1]["train/loss"]
    shutil.rmtree(path / "checkpoints")
    found = evaluate_run(path, catalog=catalog)
    assert (found.metrics["train/loss"], found.warnings) == (run.history[-1]["train/loss"], ())
    (checked,) = evaluate_run(path, catalog=catalog).metrics.values()
    inputs, targets = (tensor.numpy() for tensor in run.data.train.tensors)  # type: ignore[attr-defined] # a TensorDataset
    weights = {name: value.numpy() for name, value in read_model(path).items()}
    errors = inputs @ weights["weight"].T + weights["bias"] - targets
    assert checked == pytest.approx(np.mean(errors**2) * np.exp(weights["loss/scale"]), rel=1e-5)


class Counting(nn.Module):
    """Adds the number of its training batches and other values that no tensor of the state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.extra: dict[str, Any] = {"count": 0, "scale": (torch.tensor([2.0]), float("inf"))}

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        self.extra["count"] += self.training
        result: Tensor = ((prediction - target) ** 2).mean() * self.extra["scale"][0].sum() + self.extra["count"]
        return result

    def get_extra_state(self) -> dict[str, Any]:
        return self.extra

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.extra = state


@hookline.plugin("loss", "counting")
def counting() -> nn.Module:
    return Counting()


@hookline.plugin("model", "counting-model")
class CountingModel:
    """A linear model that adds a value of its extra state."""

    @hookline.hookimpl
    def build_model(self, data: DataSource) -> nn.Module:
        class Model(nn.Linear):
            """Keeps a number outside of its weights."""

            def get_extra_state(self) -> float:
                return 0.5

            def set_extra_state(self, state: float) -> None:
                assert state == 0.5

        return Model(2, 1)


def test_the_extra_state_of_modules_is_kept_with_the_final_weights(tmp_path: Path) -> None:
    catalog = Catalog.installed().with_entries(hookline.config.entries_of_file(__file__))
    tables = {"loss": {"use": "counting"}, "model": {"use": "counting-model"}}
    config = {"train": {"epochs": 2}, **tables, "callbacks": {"run-folder": {"parent": str(tmp_path)}}}
    run = Run(hookline.load_config(config, catalog=catalog))
    run.fit()
    path = saved_folder(run).path
    state = read_model(path)
    assert state.keys() == {"weight", "bias", "_extra_state", "loss/_extra_state"}
    extra = {"count": run.step, "scale": (torch.tensor([2.0]), float("inf"))}
    assert (state["_extra_state"], state["loss/_extra_state"]) == (0.5, extra)
    inputs, targets = run.data.train.tensors  # type: ignore[attr-defined] # a TensorDataset
    errors = inputs.numpy() @ state["weight"].numpy().T + state["bias"].numpy() - targets.numpy()
    found = evaluate_run(path, catalog=catalog)
    assert found.metrics["train/loss"] == pytest.approx(2 * np.mean(errors**2) + run.step, rel=1e-5)
    assert found.warnings == ()


# ---- predictions for tables ------------------------------------------------------------------------------------------


def test_predictions_are_those_of_the_model_to_the_last_bit_without_the_training_data(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    inputs = run.data.train.tensors[0]  # type: ignore[attr-defined] # the table's
    mean, scale = run.data.kept["target_mean"][0], run.data.kept["target_scale"][0]
    with torch.no_grad():
        expected = [run.model.eval()(batch.float()).double() * scale + mean for batch in inputs.split(7)]
    train_rows = [rows(60)[index] for index in hookline_rows(60)]
    source = write_table(tmp_path / "new.csv", [",".join(row.split(",")[:3]) for row in train_rows], "area,rooms,color")
    (tmp_path / "houses.csv").unlink()
    found = predicted(folder, source)
    assert list(found) == ["predicted_price"]
    assert found["predicted_price"] == torch.cat(expected).flatten().tolist()


def hookline_rows(count: int) -> list[int]:
    """Return the row numbers of the training split of 0.7."""
    from hookline_plugins.data.faults import Faults
    from hookline_plugins.data.splits import split_rows
    from hookline_plugins.data.tables.table import Table

    options = Table(Path("x"), "price", split=(0.7, 0.2, 0.1))
    found: list[int] = split_rows(count, options, None, Faults(Path("x")))["train"].tolist()
    return found


def test_the_scales_are_those_of_the_training_and_not_of_the_new_rows(folder: Path, tmp_path: Path) -> None:
    source = write_table(tmp_path / "new.csv", rows(60))
    together = predicted(folder, source)["predicted_price"]
    one = predicted(folder, write_table(tmp_path / "one.csv", rows(60)[5:6]))["predicted_price"]
    assert one[0] == pytest.approx(together[5], rel=1e-6)
    assert len(set(together)) == 60


@pytest.mark.parametrize("piece_bytes", [40, 100, 2**22])
def test_a_file_read_in_pieces_gives_the_same_predictions_as_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    lines = rows(40)
    lines[3] = lines[3].replace("n3", '"a note, and\na line ""more"""')
    source = write_table(tmp_path / "new.csv", [*lines[:20], "", *lines[20:]])
    whole = predicted(folder, source)
    monkeypatch.setattr(csv_records, "_PIECE_BYTES", piece_bytes)
    assert predicted(folder, source) == whole
    assert len(whole["predicted_price"]) == 40


def test_columns_in_another_order_and_windows_line_ends_are_read_alike(folder: Path, tmp_path: Path) -> None:
    source = write_table(tmp_path / "new.csv", rows(10))
    pl.read_csv(source).select("price", "color", "note", "rooms", "area").write_csv(
        tmp_path / "other.csv", line_terminator="\r\n"
    )
    other = predicted(folder, tmp_path / "other.csv")
    assert other["predicted_price"] == predicted(folder, source)["predicted_price"]


def test_parquet_in_and_out_gives_the_same_as_csv(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_table(tmp_path / "new.csv", rows(30))
    pl.read_csv(source).write_parquet(tmp_path / "new.parquet")
    monkeypatch.setattr(reading, "_PIECE_ROWS", 8)
    trained = load_trained(folder)
    assert write_predictions(trained, tmp_path / "new.parquet", tmp_path / "out.parquet") == 30
    assert write_predictions(trained, source, tmp_path / "out.csv") == 30
    assert pl.read_parquet(tmp_path / "out.parquet").equals(pl.read_csv(tmp_path / "out.csv"))
    found = pl.read_csv(tmp_path / "out.csv").to_dict(as_series=False)
    assert found["predicted_price"] == predicted(folder, source)["predicted_price"]


@pytest.mark.parametrize("piece_bytes", [30, 2**22])
def test_every_fault_of_new_rows_is_reported_with_its_line_wherever_the_pieces_end(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(csv_records, "_PIECE_BYTES", piece_bytes)
    lines = ["1,2,red,5", ",3,pink,5", "4,a,red,5", '5,6,"blue",5', "7,8", "9,9,green,5", "1,z,red,5"]
    source = write_table(tmp_path / "new.csv", lines, "area,rooms,color,colour")
    with pytest.raises(DataError) as caught:
        write_predictions(load_trained(folder), source, tmp_path / "out.csv")
    found = {(fault.message, fault.location.line if fault.location else None) for fault in caught.value.faults}
    assert found == {
        ("column 'area': the cell is empty", 3),
        ("column 'color': 'pink' was not in the training data", 3),
        ("column 'rooms': 'a' is not a number", 4),
        ("the row has 2 fields, the header has 4", 6),
        ("column 'rooms': 'z' is not a number", 8),
    }
    assert caught.value.exit_code == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["houses.csv", "new.csv", "runs"]


def test_misspelt_and_missing_columns_are_reported_with_the_nearest_name(folder: Path, tmp_path: Path) -> None:
    source = write_table(tmp_path / "new.csv", ["1,2,red"], "Area,rooms,colors")
    with pytest.raises(DataError) as caught:
        predicted(folder, source)
    assert [(fault.message, fault.hint) for fault in caught.value.faults] == [
        ("there is no column 'area', a feature of the model", "did you mean 'Area'?"),
        ("there is no column 'color', a feature of the model", "did you mean 'colors'?"),
    ]


@pytest.mark.parametrize("name", ["new.csv", "new.parquet"])
def test_a_file_without_rows_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    frame = pl.DataFrame({"area": [1.0], "rooms": [2], "color": ["red"]}).clear()
    frame.write_parquet(tmp_path / name) if name.endswith("t") else frame.write_csv(tmp_path / name)
    with pytest.raises(DataError, match="there are no rows"):
        predicted(folder, tmp_path / name)


def test_a_missing_cell_is_filled_with_the_mean_of_the_training(tmp_path: Path) -> None:
    lines = [*rows(40), ",3,red,x,1000.00"]
    run = trained_run(tmp_path / "runs", table(write_table(tmp_path / "a.csv", lines), missing="mean"))
    assert folder_of(run) is not None
    head = "area,rooms,color"
    empty = predicted(saved_folder(run).path, write_table(tmp_path / "new.csv", [",,red"], head))
    mean = run.data.kept["fill"]
    filled = predicted(
        saved_folder(run).path, write_table(tmp_path / "new.csv", [f"{mean[0]!r},{mean[1]!r},red"], head)
    )
    assert empty == filled


NEW_ROWS = ["r1,50,3,red", "r2,,3,red", "r3,50,3,pink", "r4,x,3,red", "r5,50,3", "r6,50,3,green"]


@pytest.mark.parametrize("piece_bytes", [20, 2**22])
def test_columns_that_are_no_features_stand_beside_the_predictions(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    lines = [f"r{number:03},{row}" for number, row in enumerate(rows(25))]
    source = write_table(tmp_path / "new.csv", lines, f"id,{HEAD}")
    monkeypatch.setattr(csv_records, "_PIECE_BYTES", piece_bytes)
    found = predicted(folder, source)
    assert list(found) == ["id", "note", "price", "predicted_price"]
    assert found["id"] == [f"r{number:03}" for number in range(25)]
    assert found["price"] == [row.split(",")[-1] for row in rows(25)]
    plain = predicted(folder, write_table(tmp_path / "plain.csv", rows(25)))
    assert found["predicted_price"] == plain["predicted_price"]


def test_a_column_with_the_name_of_a_prediction_is_refused(folder: Path, tmp_path: Path) -> None:
    source = write_table(tmp_path / "new.csv", ["1,2,red,5"], "area,rooms,color,predicted_price")
    with pytest.raises(DataError, match="'predicted_price' has the name of a result"):
        predicted(folder, source)


def test_missing_cells_and_unseen_categories_are_filled_in_by_an_override(
    folder: Path, run: Run, tmp_path: Path
) -> None:
    source = write_table(tmp_path / "new.csv", [",3,red", "50,3,pink", "50,3,"], "area,rooms,color")
    with pytest.raises(DataError, match="2 faults") as caught:
        predicted(folder, write_table(tmp_path / "bad.csv", [",3,red", "50,3,pink"], "area,rooms,color"))
    assert "set `missing` to 'mean'" in str(caught.value)
    assert "set `unseen` to 'mean'" in str(caught.value)
    found = predicted(folder, source, overrides={"data.missing": "mean", "data.unseen": "mean"})["predicted_price"]
    kept, layer = run.data.kept, run.model
    fill, mean, scale = (torch.tensor(kept[name], dtype=torch.float64) for name in ("fill", "mean", "scale"))
    inputs = fill.repeat(3, 1)
    inputs[0, 1:] = torch.tensor([3.0, *(float(color == "red") for color in sorted(COLORS))])
    inputs[1:, :2] = torch.tensor([50.0, 3.0])
    with torch.no_grad():
        scaled = layer(((inputs - mean) / scale).float()).double().flatten()
    expected = scaled * kept["target_scale"][0] + kept["target_mean"][0]
    assert found == pytest.approx(expected.tolist(), rel=1e-6)
    assert found[1] == found[2]


@pytest.mark.parametrize("piece_bytes", [20, 2**22])
def test_faulty_rows_are_reported_and_left_empty_if_asked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    source = write_table(tmp_path / "new.csv", NEW_ROWS, "id,area,rooms,color")
    good = predicted(folder, write_table(tmp_path / "good.csv", ["50,3,red", "50,3,green"], "area,rooms,color"))
    monkeypatch.setattr(csv_records, "_PIECE_BYTES", piece_bytes)
    found = predicted(folder, source, overrides={"data.faulty": "empty"})
    assert found["id"] == [f"r{number}" for number in range(1, 7)]
    first, second = good["predicted_price"]
    assert found["predicted_price"] == [pytest.approx(first), None, None, None, None, pytest.approx(second)]
    assert found["problem"] == [
        None,
        "column 'area': the cell is empty",
        "column 'color': 'pink' was not in the training data",
        "column 'area': 'x' is not a number",
        "the row has 3 fields, the header has 4",
        None,
    ]
    for name in ("out.parquet", "out.csv"):
        trained = load_trained(folder, {"data.faulty": "empty"})
        assert write_predictions(trained, source, tmp_path / name) == 6
    assert pl.read_parquet(tmp_path / "out.parquet")["predicted_price"].null_count() == 4
    assert pl.read_csv(tmp_path / "out.csv").equals(pl.read_parquet(tmp_path / "out.parquet"))


def test_a_file_with_another_delimiter_is_named_as_that(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(write_table(path, rows(20)).read_text().replace(",", ";"))
    run = trained_run(tmp_path / "runs", table(path, delimiter=";"))
    assert folder_of(run) is not None
    with pytest.raises(DataError, match="delimited by ',', not by ';'; set `delimiter` to ','"):
        predicted(saved_folder(run).path, write_table(tmp_path / "new.csv", rows(3)))


def test_categories_of_whole_numbers_are_recognized_in_any_spelling(tmp_path: Path) -> None:
    lines = [f"{number % 3}.0,{number}" for number in range(20)]
    data = {"use": "csv", "path": str(write_table(tmp_path / "a.csv", lines, "k,y")), "target": "y", "one_hot": ["k"]}
    run = trained_run(tmp_path / "runs", data)
    assert run.data.feature_names == ("k=0", "k=1", "k=2")
    assert folder_of(run) is not None
    path = saved_folder(run).path
    as_texts = predicted(path, write_table(tmp_path / "new.csv", ["1", "2.0"], "k"))
    pl.DataFrame({"k": [1.0, 2.0]}).write_parquet(tmp_path / "new.parquet")
    assert predicted(path, tmp_path / "new.parquet") == as_texts
    with pytest.raises(DataError, match=r"'1.5' was not in the training data"):
        predicted(path, write_table(tmp_path / "bad.csv", ["1.5"], "k"))


def test_dates_of_new_rows_are_read_as_in_training(tmp_path: Path) -> None:
    lines = [f"2024-01-{number:02},{number}" for number in range(1, 31)]
    path = write_table(tmp_path / "a.csv", lines, "day,y")
    model = {"use": "linear", "start": "least-squares"}
    data = {"use": "csv", "path": str(path), "target": "y", "dates": {"day": "%Y-%m-%d"}, "standardize": True}
    run = trained_run(tmp_path / "runs", data, {}, model=model, train={"epochs": 0, "dtype": "float64"})
    assert folder_of(run) is not None
    source = write_table(tmp_path / "new.csv", ["2024-01-05", "2024-01-20"], "day")
    assert predicted(saved_folder(run).path, source)["predicted_y"] == pytest.approx([5, 20], rel=1e-6)
    with pytest.raises(DataError, match=r"'5\.1\.2024' is not a date"):
        predicted(saved_folder(run).path, write_table(tmp_path / "bad.csv", ["5.1.2024"], "day"))


@pytest.mark.parametrize("task", ["classification", "binary"])
def test_classes_are_named_and_have_probabilities(tmp_path: Path, task: str) -> None:
    names = COLORS if task == "classification" else ["no", "yes"]
    lines = [f"{number % 7},{number},{names[number % len(names)]}" for number in range(30)]
    data = {
        "use": "csv",
        "path": str(write_table(tmp_path / "a.csv", lines, "a,b,kind")),
        "target": "kind",
        "task": task,
        "standardize": True,
    }
    loss = "cross-entropy" if task == "classification" else "bce-with-logits"
    run = trained_run(tmp_path / "runs", data, loss=loss)
    assert folder_of(run) is not None
    found = predicted(saved_folder(run).path, tmp_path / "a.csv")
    assert list(found) == ["kind", "predicted_kind", *(f"probability_{name}" for name in sorted(names))]
    chances = torch.tensor([found[f"probability_{name}"] for name in sorted(names)], dtype=torch.float64)
    assert torch.allclose(chances.sum(0), torch.ones(30, dtype=torch.float64), rtol=0, atol=1e-15)
    assert found["predicted_kind"] == [sorted(names)[index] for index in chances.argmax(0).tolist()]
    with torch.no_grad():
        logits = run.model.eval()(run.data.train.tensors[0].float()).double()  # type: ignore[attr-defined]
    expected = logits.softmax(1).T if task == "classification" else torch.cat([-logits, logits], 1).sigmoid().T
    assert torch.allclose(chances, expected, rtol=1e-6, atol=0)


def test_one_hot_names_that_begin_alike_keep_their_own_categories(tmp_path: Path) -> None:
    lines = [f"{'x' if number % 2 else 'b=y'},{'p' if number % 3 else 'q'},{number}" for number in range(20)]
    data = {
        "use": "csv",
        "path": str(write_table(tmp_path / "a.csv", lines, "a,a=b,y")),
        "target": "y",
        "one_hot": ["a", "a=b"],
    }
    run = trained_run(tmp_path / "runs", data)
    assert run.data.kept["features"] == [["a", ["b=y", "x"]], ["a=b", ["p", "q"]]]
    assert folder_of(run) is not None
    assert len(predicted(saved_folder(run).path, tmp_path / "a.csv")["predicted_y"]) == 20


# ---- predictions for arrays ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["npz", "folder"])
def test_arrays_are_predicted_for_without_targets(tmp_path: Path, form: str) -> None:
    inputs = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    np.savez(tmp_path / "train.npz", inputs=inputs, targets=np.arange(30) % 3)
    data = {"use": "arrays", "path": str(tmp_path / "train.npz")}
    run = trained_run(tmp_path / "runs", data, loss="cross-entropy")
    assert folder_of(run) is not None
    if form == "npz":
        np.savez(tmp_path / "new.npz", inputs=inputs)
    else:
        (tmp_path / "new").mkdir()
        np.save(tmp_path / "new" / "inputs.npy", inputs)
    source = tmp_path / ("new.npz" if form == "npz" else "new")
    (tmp_path / "train.npz").unlink()
    found = predicted(saved_folder(run).path, source)
    assert list(found) == ["predicted", "probability_0", "probability_1", "probability_2"]
    with torch.no_grad():
        logits = run.model.eval()(torch.from_numpy(inputs)).double()
    assert found["predicted"] == [str(index) for index in logits.argmax(1).tolist()]


def test_arrays_of_another_shape_or_with_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    inputs = np.zeros((30, 4), dtype=np.float32)
    np.savez(tmp_path / "train.npz", inputs=inputs, targets=inputs[:, 0])
    run = trained_run(tmp_path / "runs", {"use": "arrays", "path": str(tmp_path / "train.npz")})
    assert folder_of(run) is not None
    np.savez(tmp_path / "new.npz", inputs=inputs[:, :3])
    with pytest.raises(DataError, match=r"have the shape \[3\], but the model was trained on \[4\]"):
        predicted(saved_folder(run).path, tmp_path / "new.npz")
    inputs[5, 1] = np.nan
    np.savez(tmp_path / "new.npz", inputs=inputs)
    with pytest.raises(DataError, match="row 5 of the array 'inputs' is not finite"):
        predicted(saved_folder(run).path, tmp_path / "new.npz")
    np.savez(tmp_path / "new.npz", inputs=np.zeros((3, 4), dtype=np.int64))
    with pytest.raises(DataError, match="holds int64, but the model was trained on floating-point numbers"):
        predicted(saved_folder(run).path, tmp_path / "new.npz")


def test_other_data_in_a_mapped_file_have_another_fingerprint(tmp_path: Path) -> None:
    def fingerprint(inputs: np.ndarray[Any, Any]) -> str:
        np.save(tmp_path / "inputs.npy", inputs)
        np.save(tmp_path / "targets.npy", np.zeros(len(inputs), dtype=np.float32))
        run = Run(
            load_config({"data": {"use": "arrays", "path": str(tmp_path), "memory_map": True, "split": [0.5, 0.5]}})
        )
        content = identity_of(run)["data"]["train"]["content"]
        assert isinstance(content, str)
        return content

    inputs = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    first = fingerprint(inputs)
    assert fingerprint(inputs) == first
    assert fingerprint(inputs[::-1].copy()) != first
    assert fingerprint(inputs.astype(np.float64)) != first


# ---- predictors of plugins -------------------------------------------------------------------------------------------


def test_a_data_source_that_reads_no_inputs_is_named(tmp_path: Path) -> None:
    run = trained_run(tmp_path, {"use": "synthetic-linear"})
    assert folder_of(run) is not None
    trained = load_trained(saved_folder(run).path)
    assert torch.equal(trained.output(torch.zeros(1, 2)), run.unwrapped_model.state_dict()["bias"][None])
    message = r"the data source data 'synthetic-linear' \(hookline 0.1.0\) reads no inputs to predict for"
    with pytest.raises(PluginError, match=message):
        list(trained.predictions(tmp_path / "x.csv"))


class Lines:
    """Reads numbers, one per line; some scales spoil its results."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def read(self, path: Path, batch_size: int) -> Iterator[Tensor]:
        numbers = torch.tensor([float(line) for line in path.read_text().splitlines()])
        for first in range(0, len(numbers), batch_size):
            yield (numbers[first : first + batch_size] / self.scale).unsqueeze(1)

    def columns(self, prediction: Tensor) -> Mapping[str, Sequence[float]]:
        values = (prediction.flatten() * self.scale).tolist()
        if self.scale == 3:
            return {"y": values[:1]}
        return {f"y{len(values)}" if self.scale == 5 else "y": values}


@hookline.plugin("data", "lines")
class LineData:
    """A data source with a predictor."""

    def __init__(self, scale: float = 2.0) -> None:
        self.scale = scale

    @hookline.hookimpl
    def build_data(self) -> DataSource:
        values = torch.arange(20.0).unsqueeze(1) / self.scale
        return DataSource(TensorDataset(values, 2 * values), in_features=1, out_features=1, kept={"scale": self.scale})

    @hookline.hookimpl
    def build_predictor(self, data: DataSource) -> Any:
        return None if self.scale == 7 else Lines(data.kept["scale"])


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (2, None),
        (3, "returned 1 values for 7 inputs in the column 'y'"),
        (5, r"returned the columns \['y2'\] after \['y7'\]"),
        (7, "returned nothing, but must return a Predictor"),
    ],
)
def test_the_predictor_of_a_plugin_is_used_and_checked(tmp_path: Path, scale: int, message: str | None) -> None:
    catalog = Catalog.installed().with_entries(hookline.config.entries_of_file(__file__))
    config = {
        "train": {"epochs": 1, "eval_batch_size": 7},
        "data": {"use": "lines", "scale": float(scale)},
        "callbacks": {"run-folder": {"parent": str(tmp_path)}},
    }
    run = Run(hookline.load_config(config, catalog=catalog))
    run.fit()
    assert folder_of(run) is not None
    (tmp_path / "new.txt").write_text("\n".join(map(str, range(9))))
    trained = load_trained(saved_folder(run).path, catalog=catalog)
    if message:
        with pytest.raises(ContractError, match=message):
            list(trained.predictions(tmp_path / "new.txt"))
        return
    weight, bias = (value.item() for value in run.unwrapped_model.parameters())
    expected = [(number / 2 * weight + bias) * 2 for number in range(9)]
    parts = list(trained.predictions(tmp_path / "new.txt"))
    assert [len(part["y"]) for part in parts] == [7, 2]
    assert [value for part in parts for value in part["y"]] == pytest.approx(expected, rel=1e-5)


# ---- the output file -------------------------------------------------------------------------------------------------


def test_an_existing_file_is_overwritten_only_with_force(folder: Path, tmp_path: Path) -> None:
    source, target = write_table(tmp_path / "new.csv", rows(3)), tmp_path / "out.csv"
    target.write_text("mine")
    trained = load_trained(folder)
    with pytest.raises(ConfigError, match=r"already exists\n.*--force"):
        write_predictions(trained, source, target)
    assert target.read_text() == "mine"
    assert write_predictions(trained, source, target, force=True) == 3
    assert target.read_text().startswith("note,price,predicted_price\n")
    with pytest.raises(ConfigError, match="is the input, and cannot be overwritten"):
        write_predictions(trained, source, source, force=True)
    with pytest.raises(ConfigError, match="is a folder"):
        write_predictions(trained, source, tmp_path, force=True)
    with pytest.raises(ConfigError, match="there is no folder"):
        write_predictions(trained, source, tmp_path / "none" / "out.csv")
    with pytest.raises(ConfigError, match=r"ends in '.xlsx' cannot be written.*\n.*known: '.csv', '.parquet'"):
        write_predictions(trained, source, tmp_path / "out.xlsx")


def test_a_file_that_another_program_makes_meanwhile_stays(folder: Path, tmp_path: Path) -> None:
    trained, target = load_trained(folder), tmp_path / "out.csv"
    columns = trained.predictor.columns

    def make_file(prediction: Any) -> Any:
        target.write_text("theirs")
        return columns(prediction)

    trained.predictor.columns = make_file  # type: ignore[method-assign] # stands for the other program
    with pytest.raises(ConfigError, match="already exists"):
        write_predictions(trained, write_table(tmp_path / "new.csv", rows(3)), target)
    assert target.read_text() == "theirs"
    assert not list(tmp_path.glob(".tmp-*"))


# ---- facts about the data --------------------------------------------------------------------------------------------


class Items(Dataset[Any]):
    """Draws when it is read."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return {"a": torch.rand(2, 3), "b": [torch.zeros((), dtype=torch.int64)]}, torch.rand(1)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("a stream is not started for its form")


def test_the_form_of_an_example_is_saved_without_its_values_and_no_number_is_drawn() -> None:
    state = torch.get_rng_state()
    text = to_kept(DataSource(Items(), in_features=4, class_names=("é", "b")))
    assert torch.equal(torch.get_rng_state(), state)
    back = from_kept(text)
    inputs, target = back.train[0]
    assert inputs["a"].shape == (2, 3)
    assert inputs["b"][0].dtype == torch.int64
    assert target.shape == (1,)
    assert not inputs["a"].any()
    assert (back.in_features, back.out_features, back.class_names) == (4, None, ("é", "b"))
    assert to_kept(back) == text


@pytest.mark.parametrize("dataset", [Stream(), [("text", 1)]], ids=["stream", "text"])
def test_an_example_whose_form_cannot_be_saved_is_an_error_only_when_it_is_read(dataset: Any) -> None:
    back = from_kept(to_kept(DataSource(dataset, in_features=4)))
    assert isinstance(back.train, KeptExample)
    with pytest.raises(DataError, match="the training data are not available"):
        _ = back.train[0]


def test_facts_that_cannot_be_saved_are_refused_when_the_run_starts(tmp_path: Path) -> None:
    @hookline.plugin("data", "keeps-tensors")
    class KeepsTensors:
        @hookline.hookimpl
        def build_data(self) -> DataSource:
            return DataSource(
                TensorDataset(torch.zeros(4, 1), torch.zeros(4, 1)),
                in_features=1,
                out_features=1,
                kept={"mean": torch.zeros(1)},
            )

    run = Run(load_config({"callbacks": {"run-folder": {"parent": str(tmp_path)}}}, plugins={"data": KeepsTensors()}))
    with pytest.raises(CheckpointError, match="contains tensors: kept/mean"):
        run.fit()
    assert run.step == 0


FACTS = {
    "format": 1,
    "in_features": 1,
    "out_features": 1,
    "feature_names": [],
    "target_names": [],
    "class_names": [],
    "kept": {},
}


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b"{}",
        b'{"format":2}',
        b'{"format":1}',
        json.dumps({**FACTS, "example": [{"dtype": "load", "shape": [1]}]}).encode(),
        json.dumps({**FACTS, "example": 7}).encode(),
    ],
)
def test_a_file_that_describes_no_data_is_refused(text: bytes) -> None:
    with pytest.raises(CheckpointError):
        from_kept(text)


def test_a_size_that_a_file_declares_takes_no_memory() -> None:
    form = {"dtype": "float64", "shape": [2**15, 2**15]}
    back = from_kept(json.dumps({**FACTS, "example": form}).encode())
    assert back.train[0].shape == (2**15, 2**15)
    form = {"dtype": "float64", "shape": [2**20, 2**20]}
    with pytest.raises(CheckpointError, match="too large"):
        from_kept(json.dumps({**FACTS, "example": form}).encode())


def test_a_changed_data_file_is_found(folder: Path) -> None:
    path = folder / "data.json"
    assert read_record(folder).data is not None
    path.write_text(path.read_text().replace("mean", "meen"))
    with pytest.raises(CheckpointError, match=r"data.json does not match its checksum"):
        load_trained(folder)
