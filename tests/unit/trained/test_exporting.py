"""Exported models: their outputs are those of the model, or there is no file."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import io
import json
import shutil
import sys
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import hookline
import hookline.cli.commands.trained as commands
from hookline import (
    Catalog,
    CheckpointError,
    ConfigError,
    ContractError,
    DataError,
    DataSource,
    PluginError,
    load_config,
)
from hookline.config import entries_of_file
from hookline.runs import folder_of
from hookline.runs.disk.encoding import state_from_safetensors
from hookline.trained import (
    Exportable,
    RawInput,
    RawOutput,
    Trained,
    comparing,
    export_model,
    load_format,
    load_onnx,
    load_trained,
)
from support import compared, run, saved_folder

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
with_onnx = pytest.mark.skipif(not HAS_ONNX, reason="the extra onnx is not installed")


class Branches(nn.Module):
    """Takes a mapping; has a buffer, dropout and a normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        result: Tensor = self.last(self.drop(self.norm(inputs["a"]))) + inputs["b"].float().unsqueeze(1)
        return result


@hookline.plugin("model", "branches")
def branches() -> nn.Module:
    return Branches()


@hookline.plugin("model", "named-branches")
class NamedBranches(Branches):
    """Takes the same by name, and gives its prediction among others."""

    def forward(self, b: Tensor, a: Tensor) -> Any:  # type: ignore[override] # two arguments
        return {"hidden": a, "logits": super().forward({"a": a, "b": b})}

    @hookline.hookimpl
    def build_model(self) -> nn.Module:
        return self


class Pairs(torch.utils.data.Dataset[Any]):
    def __init__(self, num: int) -> None:
        self.num = num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Any:
        value = torch.tensor([1.0, 2.0, 3.0]) * index
        return {"a": value, "b": torch.tensor(index)}, value[:2]


@hookline.plugin("data", "pairs")
def pairs(num: int = 20, path: str = "") -> DataSource:
    if path:
        Path(path).read_text()
    return DataSource(Pairs(num), out_features=2)


@hookline.plugin("model", "stubborn")
class Stubborn(nn.Module):
    """Decides by its values, so it is not one program."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.layer(inputs)
        return result if result.sum() > 0 else -result


@hookline.plugin("model", "shaky")
class Shaky(nn.Module):
    """Returns a different output each time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.layer(inputs)
        return result + torch.rand(())


@hookline.plugin("data", "lone")
def lone() -> DataSource:
    return DataSource(TensorDataset(torch.ones(1, 2), torch.ones(1, 1)), in_features=2, out_features=1)


class Scaled(nn.Module):
    """A layer with a statistic and a weight in front of another module."""

    num_batches: Tensor

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.factor = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("num_batches", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.num_batches += 1
        result: Tensor = self.inner(inputs * self.factor) + self.num_batches
        return result


@hookline.plugin("callback", "scaled")
class Scales:
    """Puts a layer in front of the model."""

    @hookline.hookimpl(wrapper=True)
    def build_model(self) -> Generator[None, nn.Module, nn.Module]:
        return Scaled((yield))


def trained_with(parent: Path, **config: Any) -> Trained:
    catalog = Catalog.installed().with_entries(entries_of_file(__file__))
    tables = {"train": {"epochs": 1}, "callbacks": {"run-folder": {"parent": str(parent)}}, **config}
    run = hookline.Run(load_config(tables, catalog=catalog))
    run.fit()
    assert folder_of(run) is not None
    return load_trained(saved_folder(run).path, catalog=catalog)


WRAPPERS: dict[str, Any] = {
    "the only one": {"scaled": {}},
    "below one that is not part of the model": {"scaled": {}, "mixed-precision": {}},
    "above one that is not part of the model": {"mixed-precision": {}, "scaled": {}},
}


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # by torch 2.10 itself
@pytest.mark.parametrize("callbacks", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapper_that_belongs_to_the_model_is_evaluated_predicted_with_and_exported(
    tmp_path: Path, callbacks: dict[str, Any]
) -> None:
    trained = trained_with(
        tmp_path, callbacks={"run-folder": {"parent": str(tmp_path / "runs")}, **callbacks}, optimizer={"lr": 1e-4}
    )
    weights = load_file(trained.path / "model.safetensors")
    inputs = torch.tensor([[1.0, 2.0], [-3.0, 0.5]])
    (factor,) = (value for name, value in weights.items() if name.endswith("factor"))
    assert (factor.item() != 2, len(weights)) == (True, 4)
    expected = (inputs * factor) @ weights["weight"].T + weights["bias"] + 100
    torch.testing.assert_close(trained.output(inputs), expected, rtol=1e-2, atol=0)
    made = export_model(trained, "torch-export", tmp_path / "m.pt2")
    torch.testing.assert_close(torch.export.load(made.path).module()(inputs), expected, rtol=1e-2, atol=0)
    named = load_file(export_model(trained, "safetensors", tmp_path / "m.safetensors").path)
    assert torch.equal(named["factor"], factor)


def test_weights_are_exported_bit_by_bit_with_the_metadata_to_use_them(tmp_path: Path) -> None:
    trained = trained_with(tmp_path / "runs", model={"use": "mlp", "hidden": [4]})
    made = export_model(trained, "safetensors", tmp_path / "m.safetensors")
    assert (compared(made).largest_difference, compared(made).rtol, compared(made).atol) == (0, 0, 0)
    assert compared(made).inputs == "the first 16 training examples"
    weights = load_file(made.path)
    assert {name: value.tolist() for name, value in weights.items()} == {
        name: value.tolist() for name, value in trained.model.state_dict().items()
    }
    with safe_open(made.path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["run"] == "0001-synthetic-linear-mlp"
    assert json.loads(metadata["model"])["model.hidden"] == [4]
    assert json.loads(metadata["data"])["in_features"] == 2


class Extra(nn.Linear):
    """Multiplies by a number that its extra state holds, and by a weight of complex128."""

    def __init__(self) -> None:
        super().__init__(2, 1)
        self.factor = 3.0
        self.register_buffer("turn", torch.ones(1, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = super().forward(x) * self.factor
        return (output * self.get_buffer("turn")).real

    def get_extra_state(self) -> dict[str, Any]:
        return {"factor": self.factor}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.factor = state["factor"]


@hookline.plugin("model", "extra")
def extra() -> nn.Module:
    return Extra()


def test_weights_are_exported_with_what_is_no_plain_tensor(tmp_path: Path) -> None:
    trained = trained_with(tmp_path, model={"use": "extra"}, train={"epochs": 1, "dtype": "float64"})
    done = export_model(trained, "safetensors", tmp_path / "m.safetensors")
    assert compared(done).largest_difference == 0
    data = done.path.read_bytes()
    state = state_from_safetensors(data)
    assert state.keys() == {"weight", "bias", "turn", "_extra_state"}
    assert (state["_extra_state"], state["turn"].dtype) == ({"factor": 3.0}, torch.complex128)
    assert load_file(done.path)["extra_state/turn"].tolist() == [[1.0, 0.0]]  # for any reader


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # by torch 2.10 itself
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_program_has_the_outputs_of_the_model_for_any_number_of_examples(tmp_path: Path, dtype: str) -> None:
    trained = trained_with(
        tmp_path / "runs", model={"use": "mlp", "hidden": [4], "dropout": 0.5}, train={"epochs": 1, "dtype": dtype}
    )
    made = export_model(trained, "torch-export", tmp_path / "m.pt2")
    assert compared(made).largest_difference == 0
    program = torch.export.load(made.path).module()
    inputs = torch.randn(7, 2, dtype=getattr(torch, dtype))
    with torch.no_grad():
        assert torch.equal(program(inputs), trained.model(inputs))
        assert torch.equal(program(inputs[:1]), trained.model(inputs[:1]))


def test_a_model_of_several_inputs_is_exported_even_without_the_training_data(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    trained = trained_with(
        tmp_path / "runs", data={"use": "pairs", "path": str(tmp_path / "there")}, model={"use": "branches"}
    )
    made = export_model(trained, "torch-export", tmp_path / "a.pt2")
    assert compared(made).inputs == "the first 16 training examples"
    (tmp_path / "there").unlink()
    made = export_model(trained, "torch-export", tmp_path / "b.pt2")
    assert compared(made).inputs == "16 random examples, because the training data cannot be read"
    inputs = {"a": torch.randn(5, 3), "b": torch.arange(5)}
    with torch.no_grad():
        assert torch.equal(torch.export.load(made.path).module()(inputs), trained.model(inputs))


@pytest.mark.parametrize("to", ["safetensors", "torch-export", pytest.param("onnx", marks=with_onnx)])
def test_a_model_that_takes_its_inputs_by_name_is_exported_with_these_names(tmp_path: Path, to: str) -> None:
    trained = trained_with(tmp_path / "runs", data={"use": "pairs"}, model={"use": "named-branches"})
    inputs = {"a": torch.randn(5, 3), "b": torch.arange(5)}
    with torch.no_grad():
        expected = trained.model(**inputs)
    assert torch.equal(trained.output(inputs), expected["logits"])
    made = export_model(trained, to, tmp_path / f"m{load_format(to).made.suffix}")
    assert compared(made).largest_difference < 1e-5
    if to == "torch-export":
        got = torch.export.load(made.path).module()(**inputs)
        assert all(torch.allclose(got[name], value) for name, value in expected.items())


def test_one_example_is_enough_for_a_program_that_takes_any_number(tmp_path: Path) -> None:
    trained = trained_with(tmp_path / "runs", data={"use": "lone"})
    made = export_model(trained, "torch-export", tmp_path / "m.pt2")
    assert compared(made).num_examples == 2
    assert torch.export.load(made.path).module()(torch.ones(9, 2)).shape == (9, 1)


def test_a_model_that_cannot_be_exported_leaves_no_file_and_gives_a_hint(tmp_path: Path) -> None:
    trained = trained_with(tmp_path / "runs", model={"use": "stubborn"})
    with pytest.raises(ContractError, match=r"the model cannot be exported: .*\n.*--to safetensors"):
        export_model(trained, "torch-export", tmp_path / "m.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    export_model(trained, "safetensors", tmp_path / "m.safetensors")


def test_outputs_that_differ_too_much_are_an_error_and_leave_no_file(tmp_path: Path) -> None:
    trained = trained_with(tmp_path / "runs", model={"use": "shaky"})
    with pytest.raises(ContractError, match=r"differ from the model's by up to .*\n.*nothing was written"):
        export_model(trained, "safetensors", tmp_path / "m.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize(
    ("got", "expected", "is_close"),
    [
        (1.0, 1.0 + 1e-6, True),
        (1.0, 1.0 + 1e-4, False),
        (float("nan"), float("nan"), True),
        (float("nan"), 1.0, False),
        (1e9, 1e9 + 500.0, True),
    ],
)
def test_a_difference_is_measured_against_the_output(got: float, expected: float, is_close: bool) -> None:
    pair = torch.tensor([got], dtype=torch.float64), torch.tensor([expected], dtype=torch.float64)
    if is_close:
        assert comparing.difference(*pair, 1.3e-6, 1e-5) >= 0
        return
    with pytest.raises(ContractError, match="differ"):
        comparing.difference(*pair, 1.3e-6, 1e-5)


def test_an_unknown_format_and_an_existing_file_are_refused(tmp_path: Path) -> None:
    trained = trained_with(tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"no export plugin named 'onx' is installed\n.*did you mean 'onnx'"):
        export_model(trained, "onx", tmp_path / "m")
    (tmp_path / "m.safetensors").write_text("mine")
    with pytest.raises(ConfigError, match="already exists"):
        export_model(trained, "safetensors", tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").read_text() == "mine"
    export_model(trained, "safetensors", tmp_path / "m.safetensors", force=True)
    assert load_file(tmp_path / "m.safetensors")


def test_the_name_of_the_run_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert export_model(trained_with(tmp_path / "runs"), "safetensors").path == Path(
        "0001-synthetic-linear-linear.safetensors"
    )


@pytest.mark.skipif(HAS_ONNX, reason="the extra onnx is installed")
def test_without_the_extra_onnx_the_error_names_it(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"exporting to ONNX needs .*\n.*pip install 'hookline\[onnx\]'"):
        export_model(trained_with(tmp_path / "runs"), "onnx", tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


@with_onnx
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_onnx_file_has_the_outputs_of_the_model_for_any_number_of_examples(tmp_path: Path, dtype: str) -> None:
    import onnxruntime  # type: ignore[import-not-found,unused-ignore] # in an extra

    trained = trained_with(
        tmp_path / "runs", model={"use": "mlp", "hidden": [4], "dropout": 0.5}, train={"epochs": 1, "dtype": dtype}
    )
    made = export_model(trained, "onnx", tmp_path / "m.onnx")
    shutil.rmtree(tmp_path / "runs")
    session = onnxruntime.InferenceSession(made.path, providers=["CPUExecutionProvider"])
    for count in (1, 7):
        inputs = torch.randn(count, 2, dtype=getattr(torch, dtype))
        (got,) = session.run(["outputs"], {"inputs": inputs.numpy()})
        with torch.no_grad():
            assert torch.allclose(
                torch.from_numpy(got), trained.model(inputs), rtol=compared(made).rtol, atol=compared(made).atol
            )
    assert session.get_modelmeta().custom_metadata_map["run"] == "0001-synthetic-linear-mlp"


@with_onnx
def test_an_onnx_file_of_several_inputs_takes_them_in_their_order(tmp_path: Path) -> None:
    trained = trained_with(tmp_path / "runs", data={"use": "pairs"}, model={"use": "branches"})
    assert compared(export_model(trained, "onnx", tmp_path / "m.onnx")).largest_difference < 1e-5


# ---- raw inputs ------------------------------------------------------------------------------------------------------


def outputs_for(path: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the outputs of an exported file for NumPy arrays."""
    if path.suffix == ".onnx":
        return load_onnx(path).output(inputs)
    given = {name: torch.from_numpy(values) for name, values in inputs.items()}
    return {name: value.detach().numpy() for name, value in torch.export.load(path).module()(given).items()}


RAW_FORMATS = ["torch-export", pytest.param("onnx", marks=with_onnx)]


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # by torch 2.10 itself
@pytest.mark.parametrize("to", RAW_FORMATS)
def test_an_export_scales_the_rows_of_arrays_and_gives_predictions_in_their_units(tmp_path: Path, to: str) -> None:
    rows = np.random.default_rng(0).normal(100, 5, (40, 3)).astype("float32")
    numbers = 1000 * rows @ [1.0, 2.0, 3.0]
    data = hookline.from_arrays(rows, numbers, standardize=True, standardize_target=True)
    config = {"model": "linear", "train": {"epochs": 1}, "callbacks": {"run-folder": {"parent": str(tmp_path)}}}
    hookline.train(config, plugins={"data": data})
    trained = load_trained("last", parent=tmp_path)
    made = export_model(trained, to, tmp_path / f"m{load_format(to).made.suffix}")
    assert (compared(made).takes_raw, compared(made).inputs[:18]) == (True, "16 random examples")
    weights = load_file(trained.path / "model.safetensors")
    scaled = (rows - rows.mean(0, dtype="float64")) / rows.std(0, dtype="float64")
    predicted = scaled @ weights["weight"].numpy()[0] + weights["bias"].numpy()
    expected = predicted * numbers.std() + numbers.mean()
    np.testing.assert_allclose(outputs_for(made.path, {"inputs": rows})["predictions"][:, 0], expected, rtol=1e-6)
    if to == "onnx":
        np.savez(tmp_path / "new.npz", inputs=rows[:5])
        (columns,) = load_onnx(made.path).predictions(tmp_path / "new.npz")
        (same,) = trained.predictions(tmp_path / "new.npz")
        assert list(columns) == list(same) == ["predicted_0"]
        np.testing.assert_allclose(columns["predicted_0"], same["predicted_0"], rtol=1e-6)
    bare = export_model(trained, load_format(to, ["export.bare=true"]), tmp_path / f"bare{load_format(to).made.suffix}")
    assert not compared(bare).takes_raw
    if to == "onnx":
        with pytest.raises(CheckpointError, match="holds no preparation of its inputs"):
            load_onnx(bare.path)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # by torch 2.10 itself
@pytest.mark.parametrize(
    ("to", "task"), [("torch-export", "binary"), pytest.param("onnx", "classification", marks=with_onnx)]
)
def test_an_export_gives_the_class_and_the_probabilities(tmp_path: Path, to: str, task: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 2), dtype="uint8")
    data = hookline.from_arrays(pixels, np.where(pixels[:, 0] > 99, "bright", "dark"), task=task)
    loss = "bce-with-logits" if task == "binary" else "cross-entropy"
    config = {"loss": loss, "optimizer": {"lr": 1e-3}, "callbacks": {"run-folder": {"parent": str(tmp_path)}}}
    hookline.train(config, plugins={"data": data})
    trained = load_trained("last", parent=tmp_path)
    made = export_model(trained, to, tmp_path / f"m{load_format(to).made.suffix}")
    got = outputs_for(made.path, {"inputs": pixels})
    weights = load_file(trained.path / "model.safetensors")
    logits = pixels @ weights["weight"].numpy().T.astype("float64") + weights["bias"].numpy()
    logits = np.concatenate([np.zeros_like(logits), logits], axis=1) if task == "binary" else logits
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got["probabilities"], expected, rtol=1e-3, atol=1e-5)
    names = np.array(["bright", "dark"])
    label = got["label"] if to == "onnx" else names[got["label"]]
    assert label.tolist() == names[expected.argmax(axis=1)].tolist()


class Tokens:
    """A predictor of a third party whose `exportable` is wrong in one point."""

    def __init__(self, change: str) -> None:
        self.change = change

    def read(self, path: Path, batch_size: int) -> Any:
        raise NotImplementedError

    def columns(self, prediction: Tensor) -> Any:
        return {"sum": prediction[:, 0].tolist()}

    def exportable(self, model: nn.Module) -> Any:
        if self.change == "type":
            return model
        module = Doubling(model, "wrong" if self.change == "names" else "out", 3.0 if self.change == "values" else 2.0)
        column = "other" if self.change == "columns" else "sum"
        rows = torch.arange(8.0).reshape(4, 2)
        return Exportable(
            module,
            (RawInput("half", "float32", (2,)),),
            (RawOutput("out", (column,)),),
            lambda _: ({"half": rows / 2}, rows, "four rows"),
        )


class Doubling(nn.Module):
    def __init__(self, model: nn.Module, name: str, factor: float) -> None:
        super().__init__()
        self.model, self.name, self.factor = model, name, factor

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {self.name: self.model(inputs["half"] * self.factor)}


@hookline.plugin("data", "tokens")
@dataclasses.dataclass
class TokensData:
    change: str = ""

    @hookline.hookimpl
    def build_data(self) -> DataSource:
        return DataSource(TensorDataset(torch.randn(8, 2), torch.randn(8, 1)), in_features=2, out_features=1)

    @hookline.hookimpl
    def build_predictor(self) -> Any:
        return Tokens(self.change)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # by torch 2.10 itself
def test_any_data_source_can_offer_the_preparation_and_is_held_to_it(tmp_path: Path) -> None:
    trained = trained_with(tmp_path / "runs", data={"use": "tokens"})
    made = export_model(trained, "torch-export", tmp_path / "m.pt2")
    assert (compared(made).takes_raw, compared(made).inputs, compared(made).num_examples) == (True, "four rows", 4)
    extra = {"hookline.json": ""}
    module = torch.export.load(made.path, extra_files=extra).module()
    rows = torch.randn(3, 2)
    with torch.no_grad():
        torch.testing.assert_close(module({"half": rows})["out"], trained.model(rows * 2))
    metadata = json.loads(extra["hookline.json"])
    assert metadata["inputs"] == "raw"
    assert json.loads(metadata["description"])["inputs"][0]["shape"] == [2]
    for change, message in {
        "type": "must return an Exportable",
        "names": r"must return \['out'\]",
        "values": "differ from the model's by up to",
        "columns": r"gives the columns \['other'\], but predictions are \['sum'\]",
    }.items():
        trained.predictor.change = change  # type: ignore[attr-defined] # the predictor of this file
        with pytest.raises(ContractError, match=message):
            export_model(trained, "torch-export", tmp_path / "wrong.pt2")
    assert not (tmp_path / "wrong.pt2").exists()


@with_onnx
def test_a_file_that_is_no_model_of_hookline_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("no model")
    with pytest.raises(CheckpointError, match=r"m.onnx is not an ONNX model that can be run: "):
        load_onnx(tmp_path / "m.onnx")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_onnx(tmp_path / "there is none.onnx")


# ---- tables ----------------------------------------------------------------------------------------------------------

ROWS = [
    # Names of columns that are names inside a graph, and of an output.
    ("linear", "predictions", "größe m²", "sold", "y"),
    *(
        (
            "" if n % 5 == 0 else f"{n * 1.5}",
            ["red", "green", "", "1.0"][n % 4],
            f"{100 - n},5",
            "" if n == 7 else f"{n % 28 + 1}.02.{1960 + n} {n % 24:02}:30",
            f"{3000 + 100 * n}",
        )
        for n in range(1, 31)
    ),
]
TABLE: dict[str, Any] = {
    "use": "csv",
    "target": "y",
    "one_hot": ["predictions"],
    "dates": {"sold": "%d.%m.%Y %H:%M"},
    "missing": "mean",
    "unseen": "mean",
    "delimiter": ";",
    "decimal": ",",
    "standardize": True,
}


def table_file(folder: Path, *, label: bool = False) -> Path:
    """Write the rows with dots as decimal commas, and the target as a class if asked."""
    lines = [[cell.replace(".", ",") if place == 0 else cell for place, cell in enumerate(row)] for row in ROWS]
    for number, line in enumerate(lines[1:]):
        line[-1] = ("high" if number % 3 else "low") if label else line[-1]
    path = folder / "table.csv"
    path.write_text("".join(";".join(line) + "\n" for line in lines), encoding="utf-8")
    return path


def close(got: Any, expected: Any) -> None:
    """Check that two predictions are the same columns, with numbers that differ by at most 1e-5."""
    assert list(got) == list(expected)
    for name, values in expected.items():
        if isinstance(values[0], float):
            np.testing.assert_allclose(got[name], values, rtol=1e-5, atol=1e-7)
        else:
            assert list(got[name]) == list(values)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # by torch 2.10 itself
@pytest.mark.parametrize("to", RAW_FORMATS)
def test_an_export_of_a_table_predicts_from_its_columns_as_the_run_does(tmp_path: Path, to: str) -> None:
    path = table_file(tmp_path)
    trained = trained_with(
        tmp_path / "runs",
        data={**TABLE, "path": str(path), "standardize_target": True},
        model={"use": "mlp", "hidden": [3]},
    )
    made = export_model(trained, to, tmp_path / f"m{load_format(to).made.suffix}")
    assert (compared(made).takes_raw, compared(made).inputs) == (True, "16 rows of the training data")
    (expected,) = trained.predictions(path)
    if to == "onnx":
        (got,) = load_onnx(made.path).predictions(path)
        close(got, expected)
        assert [one.name for one in load_onnx(made.path).description.outputs] == ["predictions_"]
        return
    days = [
        (datetime(1960 + n, 2, n % 28 + 1, n % 24, 30, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC))
        / timedelta(days=1)
        for n in range(1, 31)
    ]
    inputs = {
        "linear": [float("nan") if n % 5 == 0 else n * 1.5 for n in range(1, 31)],
        "größe m²": [100.5 - n for n in range(1, 31)],
        "sold": [float("nan") if n == 7 else day for n, day in enumerate(days, start=1)],
    }
    given = {name: torch.tensor(values, dtype=torch.float64) for name, values in inputs.items()}
    given["predictions"] = torch.tensor([[3, 2, 0, 1][n % 4] for n in range(1, 31)])
    order = ["linear", "predictions", "größe m²", "sold"]
    with torch.no_grad():
        outputs = torch.export.load(made.path).module()({name: given[name] for name in order})
    np.testing.assert_allclose(outputs["predictions"][:, 0], expected["predicted_y"], rtol=1e-5)


@with_onnx
def test_an_exported_classifier_of_a_table_gives_texts_and_leaves_out_what_it_cannot_read(tmp_path: Path) -> None:
    path = table_file(tmp_path, label=True)
    trained = trained_with(
        tmp_path / "runs",
        data={**TABLE, "path": str(path), "task": "binary", "faulty": "empty"},
        loss="bce-with-logits",
        callbacks={"run-folder": {"parent": str(tmp_path / "runs")}, "averaging": {}, "scaled": {}},
    )
    path.unlink()
    made = export_model(trained, "onnx", tmp_path / "m.onnx")
    assert compared(made).inputs == "16 invented rows, because the training data cannot be read"
    new = tmp_path / "new.csv"
    rows = [
        "1,5;red;3;1.1.2000 01:00;7",
        "x;green;1;1.1.2000 01:00;8",
        "2;blue;;;9",
        '"-1";1;1e2;"29.2.2000 23:59";"a;b"',
    ]
    new.write_text("\n".join(["linear;predictions;größe m²;sold;id", *rows, ""]), encoding="utf-8")
    (expected,) = trained.predictions(new)
    (got,) = load_onnx(made.path).predictions(new)
    assert expected["predicted_y"][1] is None
    assert got["problem"] == expected["problem"]
    close(*[{name: [value for value in each[name] if value is not None] for name in each} for each in (got, expected)])


@with_onnx
def test_an_exported_table_reads_words_and_times_and_transforms_numbers(tmp_path: Path) -> None:
    rows = [f"{n**2},{n % 9},{n % 7:02}:{n:02},{'yes' if n % 3 else 'No'},{2 ** (n / 8)!r}" for n in range(1, 41)]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["area,rooms,from,paid,y", *rows, ""]))
    transforms = {"area": "normal", "rooms": "uniform", "y": "normal"}
    data = {"use": "csv", "path": str(path), "target": "y", "dates": {"from": "%R"}, "missing": "median"}
    trained = trained_with(tmp_path / "runs", data={**data, "transforms": transforms, "standardize_target": True})
    export_model(trained, "onnx", tmp_path / "m.onnx")
    new = tmp_path / "new.csv"
    new.write_text("area,rooms,from,paid\n-5,3.5,00:00,Yes\n77.5,-1,9:59,f\n1e9,99,23:59,1\n,,,\n400,8,08:20,no\n")
    (expected,) = trained.predictions(new)
    (got,) = load_onnx(tmp_path / "m.onnx").predictions(new)
    close(got, expected)
    new.write_text("area,rooms,from,paid\n1,1,8.5,maybe\n")
    with pytest.raises(DataError) as caught:
        list(load_onnx(tmp_path / "m.onnx").predictions(new))
    assert [fault.message for fault in caught.value.faults] == [
        "column 'from': '8.5' is not a time",
        "column 'paid': 'maybe' is none of the values of this column",
    ]


@with_onnx
def test_a_file_predicts_without_torch_and_with_the_words_of_the_command(tmp_path: Path) -> None:
    trained = trained_with(tmp_path / "runs", data={**TABLE, "path": str(table_file(tmp_path))})
    export_model(trained, "onnx", tmp_path / "m.onnx")
    words = ["predict", "m.onnx", "table.csv", "-o", "out.csv"]
    done = run([sys.executable, "-X", "importtime", "-m", "hookline", *words], cwd=tmp_path)
    assert done.stdout.splitlines()[-1:] == ["wrote out.csv: 30 rows"], done.stderr
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"numpy"} == {"torch", "polars", "hookline_plugins", "numpy"} & modules
    target = io.StringIO((tmp_path / "out.csv").read_text())
    (expected,) = trained.predictions(tmp_path / "table.csv")
    np.testing.assert_allclose(
        [float(row["predicted_y"]) for row in csv.DictReader(target)], expected["predicted_y"], 1e-5
    )


@pytest.mark.parametrize(("overrides", "checkpoint"), [(["data.missing=mean"], None), ([], "latest")])
def test_options_of_a_run_are_refused_for_a_file(overrides: list[str], checkpoint: str | None) -> None:
    with pytest.raises(ConfigError, match=r"(data.missing=mean|--checkpoint) is for a run, and m.onnx is a file"):
        commands._onnx_model(Path("m.onnx"), overrides, checkpoint)
