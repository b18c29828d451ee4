"""Exported models: their outputs are those of the model, or there is no file."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import hookline
from hookline import Catalog, ConfigError, ContractError, DataSource, PluginError, load_config
from hookline.config import entries_of_file
from hookline.runs import folder_of
from hookline.runs.disk.encoding import state_from_safetensors
from hookline.trained import Trained, export_model, exporting, load_trained
from support import saved_folder

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
    assert (made.largest_difference, made.rtol, made.atol) == (0, 0, 0)
    assert made.inputs == "the first 16 training examples"
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
    assert done.largest_difference == 0
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
    assert made.largest_difference == 0
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
    assert made.inputs == "the first 16 training examples"
    (tmp_path / "there").unlink()
    made = export_model(trained, "torch-export", tmp_path / "b.pt2")
    assert made.inputs == "16 random examples, because the training data cannot be read"
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
    made = export_model(trained, to, tmp_path / f"m{exporting.ENDINGS[to]}")
    assert made.largest_difference < 1e-5
    if to == "torch-export":
        got = torch.export.load(made.path).module()(**inputs)
        assert all(torch.allclose(got[name], value) for name, value in expected.items())


def test_one_example_is_enough_for_a_program_that_takes_any_number(tmp_path: Path) -> None:
    trained = trained_with(tmp_path / "runs", data={"use": "lone"})
    made = export_model(trained, "torch-export", tmp_path / "m.pt2")
    assert made.num_examples == 2
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
        assert exporting._difference(*pair, 1.3e-6, 1e-5) >= 0
        return
    with pytest.raises(ContractError, match="differ"):
        exporting._difference(*pair, 1.3e-6, 1e-5)


def test_an_unknown_format_and_an_existing_file_are_refused(tmp_path: Path) -> None:
    trained = trained_with(tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"there is no format 'onx'\n.*did you mean 'onnx'"):
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
            assert torch.allclose(torch.from_numpy(got), trained.model(inputs), rtol=made.rtol, atol=made.atol)
    assert session.get_modelmeta().custom_metadata_map["run"] == "0001-synthetic-linear-mlp"


@with_onnx
def test_an_onnx_file_of_several_inputs_takes_them_in_their_order(tmp_path: Path) -> None:
    trained = trained_with(tmp_path / "runs", data={"use": "pairs"}, model={"use": "branches"})
    assert export_model(trained, "onnx", tmp_path / "m.onnx").largest_difference < 1e-5
