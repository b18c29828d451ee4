"""Callback ``lora``: what is trained, what is saved, and the base that it belongs to."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hookline import (
    Catalog,
    CheckpointError,
    ConfigError,
    ContractError,
    PluginError,
    Run,
    hookimpl,
    load_config,
    resume,
)
from hookline.config import entries_of_file
from hookline.trained import evaluate_run, export_model, load_trained
from support import saved_folder

NET = '''
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

import hookline


@hookline.plugin("model", "net")
def net(data, file: Path):
    """A net with dropout and statistics, whose weights are in a file."""
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))
    model.load_state_dict(load_file(file), strict=False)
    return model
'''
ADAPTERS = {f"{layer}.lora_{part}.default.weight" for layer in "04" for part in "AB"}


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    (tmp_path / "net.py").write_text(NET)
    generator = torch.Generator().manual_seed(7)
    shapes = {"0.weight": (8, 2), "0.bias": (8,), "4.weight": (1, 8), "4.bias": (1,)}
    save_file({name: torch.randn(s, generator=generator) for name, s in shapes.items()}, tmp_path / "net.safetensors")
    return Catalog.installed().with_entries(entries_of_file(tmp_path / "net.py"))


def config(folder: Path, **lora: Any) -> dict[str, Any]:
    return {
        "train": {"epochs": 2, "batch_size": 4, "evaluate": ["train"]},
        "data": {"num_examples": 16},
        "model": {"use": "net", "file": str(folder / "net.safetensors")},
        "optimizer": {"use": "adamw", "lr": 0.05},
        "callbacks": {
            "run-folder": {"parent": str(folder / "runs"), "name": "job"},
            "checkpoint": {},
            "lora": {"targets": ["*"], "rank": 2, "alpha": 4.0, "dropout": 0.1, **lora},
        },
    }


def changed(run: Run) -> set[str]:
    """Return the names of the parameters that the run changes."""
    before = {name: p.detach().clone() for name, p in run.unwrapped_model.named_parameters()}
    run.fit()
    return {name for name, p in run.unwrapped_model.named_parameters() if not torch.equal(p, before[name])}


def spoil(folder: Path) -> None:
    """Change one weight of the base by one unit in the last place."""
    weights = load_file(folder / "net.safetensors")
    weights["4.weight"][0, 3] = torch.nextafter(weights["4.weight"][0, 3], torch.tensor(9.0))
    save_file(weights, folder / "net.safetensors")


# ---- what is trained ------------------------------------------------------------------------------------------------


def test_the_adapters_are_trained_and_the_parameters_that_are_named(tmp_path: Path, catalog: Catalog) -> None:
    run = Run(load_config(config(tmp_path, full=["1.*", "4.bias"]), catalog=catalog))
    assert changed(run) == {*ADAPTERS, "1.weight", "1.bias", "4.base_layer.bias"}


def test_an_adapted_layer_computes_the_formula_of_the_paper(tmp_path: Path, catalog: Catalog) -> None:
    run = Run(load_config(config(tmp_path, targets=["4"]), catalog=catalog))
    base = load_file(tmp_path / "net.safetensors")
    layer, inputs = run.unwrapped_model[4].eval(), torch.randn(5, 8)  # type: ignore[index] # it is an nn.Sequential
    plain = inputs @ base["4.weight"].T + base["4.bias"]
    torch.testing.assert_close(layer(inputs), plain)  # as it was built
    run.fit()
    a, b = (run.unwrapped_model.state_dict()[f"4.lora_{part}.default.weight"] for part in "AB")
    assert (a.shape, b.shape) == ((2, 8), (1, 2))
    torch.testing.assert_close(layer(inputs), plain + 4.0 / 2 * (inputs @ a.T @ b.T))


def test_patterns_without_a_match_are_reported_at_once(tmp_path: Path, catalog: Catalog) -> None:
    with pytest.raises(ConfigError) as caught:
        Run(load_config(config(tmp_path, targets=["2", "0"], full=["3.*"]), catalog=catalog))
    assert [fault.message for fault in caught.value.faults] == ["'2' matches no layer", "'3.*' matches no parameter"]
    assert caught.value.faults[0].hint == "known: '0', '4'"  # the others are no layers that can be adapted


# ---- what is saved --------------------------------------------------------------------------------------------------


def test_a_run_saves_what_it_trains_and_the_sum_of_the_rest(tmp_path: Path, catalog: Catalog) -> None:
    run = Run(load_config(config(tmp_path, full=["4.bias"]), catalog=catalog))
    run.fit()
    buffers = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    saved = load_file(saved_folder(run).path / "model.safetensors")
    assert saved.keys() == {*ADAPTERS, *buffers, "4.base_layer.bias", "left_out_sha256"}


def test_with_all_weights_saved_the_base_is_not_needed(tmp_path: Path, catalog: Catalog) -> None:
    run = Run(load_config(config(tmp_path, save="all"), catalog=catalog))
    run.fit()
    spoil(tmp_path)
    trained = load_trained(saved_folder(run).path, catalog=catalog)
    inputs = torch.randn(6, 2)
    torch.testing.assert_close(trained.output(inputs), run.model.eval()(inputs))


@pytest.mark.parametrize("save", ["trained", "all"])
@pytest.mark.parametrize("step", [1, 6])
def test_a_run_that_was_interrupted_ends_with_the_same_bits(
    tmp_path: Path, catalog: Catalog, step: int, save: str
) -> None:
    whole = Run(load_config(config(tmp_path, save=save), catalog=catalog))
    whole.fit()
    run = Run(load_config(config(tmp_path, save=save), catalog=catalog))
    for taken in run.steps():
        if taken.step == step:
            run.interrupt("test")
    again = resume(saved_folder(run).path, catalog=catalog)
    again.fit()
    pairs = zip(again.model.parameters(), whole.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert again.history == whole.history


def test_another_base_is_refused_by_all_that_use_the_run(tmp_path: Path, catalog: Catalog) -> None:
    run = Run(load_config(config(tmp_path), catalog=catalog))
    for step in run.steps():
        if step.step == 3:
            run.interrupt("test")
    path = saved_folder(run).path
    before = sorted(path.rglob("*"))
    spoil(tmp_path)
    for use in (resume, evaluate_run, load_trained):
        with pytest.raises(CheckpointError, match="built with other frozen weights"):
            use(path, catalog=catalog)
    assert sorted(path.rglob("*")) == before  # the checkpoints stay where they are


class Weights:
    """Loads other weights when the run begins, as no later use of the run does."""

    @hookimpl
    def on_run_start(self, run: Run, state: Mapping[str, Any] | None) -> None:
        if state is None:
            nn.init.ones_(run.unwrapped_model.get_parameter("0.base_layer.weight"))


@pytest.mark.parametrize("save", ["trained", "all"])
def test_weights_that_are_loaded_when_the_run_begins_are_saved_or_refused_before_the_second_step(
    tmp_path: Path, catalog: Catalog, save: str
) -> None:
    run = Run(load_config(config(tmp_path, save=save), catalog=catalog, plugins={"callbacks.weights": Weights()}))
    if save == "all":
        assert run.fit().outcome == "completed"
    else:
        with pytest.raises(CheckpointError, match="could not be loaded again") as caught:
            run.fit()
        assert "callbacks.lora.save = 'all'" in str(caught.value)
        assert run.step == 1


@pytest.mark.parametrize("save", ["trained", "all"])
def test_the_weights_of_init_from_are_saved_or_refused_at_once(tmp_path: Path, catalog: Catalog, save: str) -> None:
    values = config(tmp_path, save=save)
    start: dict[str, Any] = {"path": str(tmp_path / "other.safetensors"), "take": ["0.*"]}
    save_file({"0.weight": torch.full((8, 2), 0.5), "0.bias": torch.zeros(8)}, start["path"])
    values["callbacks"] = {"init-from": start, **values["callbacks"]}
    if save == "trained":
        with pytest.raises(ConfigError, match="init-from loads only when a run begins"):
            Run(load_config(values, catalog=catalog))
        return
    run = Run(load_config(values, catalog=catalog))
    run.fit()
    trained = load_trained(saved_folder(run).path, catalog=catalog)
    inputs = torch.randn(6, 2)
    torch.testing.assert_close(trained.output(inputs), run.model.eval()(inputs))
    assert torch.equal(run.model.state_dict()["0.base_layer.weight"], torch.full((8, 2), 0.5))


class Thaw:
    @hookimpl
    def on_epoch_start(self, run: Run) -> None:
        if run.epoch == 2:
            run.unwrapped_model.requires_grad_(True)


def test_weights_that_are_trained_later_are_refused_by_name(tmp_path: Path, catalog: Catalog) -> None:
    run = Run(load_config(config(tmp_path), catalog=catalog, plugins={"callbacks.thaw": Thaw()}))
    with pytest.raises(ContractError, match=r"that no checkpoint has: 0\.base_layer\.weight, 0\.base_layer\.bias"):
        run.fit()


# ---- what is used ---------------------------------------------------------------------------------------------------


def test_a_model_to_be_used_has_the_adapters_merged_into_its_weights(tmp_path: Path, catalog: Catalog) -> None:
    run = Run(load_config(config(tmp_path), catalog=catalog))
    run.fit()
    path, state = saved_folder(run).path, run.unwrapped_model.state_dict()
    assert evaluate_run(path, catalog=catalog).metrics["train/loss"] == run.history[-1]["train/loss"]
    trained = load_trained(path, catalog=catalog)
    base = load_file(tmp_path / "net.safetensors")
    merged: dict[str, Tensor] = trained.model.state_dict()
    assert (
        merged.keys()
        == nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), *[nn.Tanh()] * 2, nn.Linear(8, 1)).state_dict().keys()
    )
    for layer in "04":
        change = state[f"{layer}.lora_B.default.weight"] @ state[f"{layer}.lora_A.default.weight"]
        torch.testing.assert_close(merged[f"{layer}.weight"], base[f"{layer}.weight"] + 4.0 / 2 * change)
    inputs = torch.randn(6, 2)
    torch.testing.assert_close(trained.output(inputs), run.model.eval()(inputs))
    exported = load_file(export_model(trained, "safetensors", tmp_path / "out.safetensors").path)
    assert all(torch.equal(exported[name], value) for name, value in merged.items())


def test_without_peft_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(PluginError, match="lora needs peft") as caught:
        Run(load_config({"callbacks": {"lora": {"targets": ["*"]}}}))
    assert caught.value.hint == "pip install 'hookline[peft]'"
