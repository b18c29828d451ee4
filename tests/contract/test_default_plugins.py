"""The default plugins beyond the contract of their kinds, which test_conformance.py checks."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hookline import Catalog, ConfigError, DataSource, Run, load_config
from hookline.config import Entry
from hookline.config.plugins.plugin import load_plugin
from hookline.runs.config_text import commented_toml, option_lines
from support import FIXTURES

CATALOG = Catalog.installed()
REQUIRED: dict[str, dict[str, Any]] = {
    "prune": {"folder": "/sweeps/lr", "trial": 0},
    "csv": {"path": str(FIXTURES / "nist" / "norris.csv"), "target": "y"},
    "arrays": {"path": str(FIXTURES / "iris" / "iris.npz")},
    "hugging-face": {
        "path": str(FIXTURES / "iris" / "iris.csv"),
        "inputs": ["sepal_length", "petal_length"],
        "target": "species",
    },
    "parquet": {"path": str(FIXTURES / "nist" / "norris.parquet"), "target": "y", "block_rows": 8, "window": 2},
    "images": {"path": str(FIXTURES)},
    "corpus": {"path": str(FIXTURES / "iris" / "README.md")},
    "texts": {"path": str(FIXTURES / "sentences" / "sentences.csv")},
    "clip-gradients": {"max_norm": 1.0},
    "freeze": {"parameters": ["weight"]},
    "gradient-checkpointing": {"modules": ["line"]},
    "init-from": {"run": 1},
    "lora": {"targets": ["*"]},
    "limit-examples": {"num_examples": 12},
    "transformers": {"task": "sequence-classification", "architecture": "bert"},
}


def of_kind(kind: str) -> pytest.MarkDecorator:
    """Return the parameters of a test of a kind; those that need other data or a package have tests of their own."""
    own = [entry for entry in CATALOG.of_kind(kind) if entry.distribution == "hookline"]
    entries = [entry for entry in own if entry.name not in ("transformers", "bag-of-tokens", "gpt")]
    return pytest.mark.parametrize("entry", entries, ids=lambda entry: entry.name)


ALL = pytest.mark.parametrize(
    "entry",
    [entry for entry in CATALOG.entries if entry.distribution == "hookline"],
    ids=lambda e: f"{e.kind}-{e.name}",
)


def required_of(entry: Entry) -> dict[str, Any]:
    return {} if entry.kind == "loss" else REQUIRED.get(entry.name, {})


def config_naming(entry: Entry) -> dict[str, Any]:
    table = {"use": entry.name, **required_of(entry)}
    return {"callbacks": {"it": table}} if entry.kind == "callback" else {entry.kind: table}


def regression(num_examples: int = 20) -> DataSource:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_examples, 3, generator=generator)
    return DataSource(TensorDataset(inputs, inputs.sum(1, keepdim=True)), in_features=3, out_features=1)


def classes(num_classes: int) -> DataSource:
    source = regression()
    target = torch.arange(20) % num_classes
    dataset = TensorDataset(source.train[:][0], target)
    return DataSource(dataset, in_features=3, out_features=num_classes)


def pictures() -> DataSource:
    images = torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return DataSource(TensorDataset(images, images.mean((2, 3))), out_features=1)


# ---- all kinds ------------------------------------------------------------------------------------------------------


@ALL
def test_the_lines_to_paste_are_a_config(entry: Entry, tmp_path: Path) -> None:
    label = "callbacks.it" if entry.kind == "callback" else entry.kind
    lines = option_lines(label, entry.name, load_plugin(entry).options)
    required = required_of(entry)
    lines += [f"{name} = {json.dumps(value)}" for name, value in required.items()]
    (tmp_path / "run.toml").write_text("\n".join(lines))
    assert load_config(tmp_path / "run.toml").settings[f"{label}.use"].value == entry.name


@ALL
def test_a_config_written_as_text_is_the_same_config(entry: Entry, tmp_path: Path) -> None:
    config = load_config(config_naming(entry))
    (tmp_path / "run.toml").write_text(commented_toml(config))
    again = load_config(tmp_path / "run.toml")
    assert again.train == config.train
    assert [choice.options for choice in again.plugins] == [choice.options for choice in config.plugins]


# ---- models ---------------------------------------------------------------------------------------------------------


def model_of(entry: Entry, seed: int) -> nn.Module:
    data = pictures() if entry.name == "cnn" else regression()
    return Run(load_config(config_naming(entry), {"train.seed": seed}, plugins={"data": data})).model


@of_kind("model")
def test_a_model_has_other_weights_for_another_seed(entry: Entry) -> None:
    first, other = (torch.cat([p.flatten() for p in model_of(entry, seed).parameters()]) for seed in (0, 1))
    assert not torch.equal(first, other)


# ---- losses ---------------------------------------------------------------------------------------------------------


LEAST_AT_THE_TARGET = ("mse", "l1", "huber", "smooth-l1", "cross-entropy", "bce-with-logits")


@pytest.mark.parametrize("name", LEAST_AT_THE_TARGET)
def test_a_loss_is_least_at_the_target(name: str) -> None:
    data = classes(4) if name == "cross-entropy" else regression()
    run = Run(load_config({"loss": name}, plugins={"data": data}))
    generator = torch.Generator().manual_seed(0)
    if name == "cross-entropy":
        target = torch.arange(8) % 4
        best = nn.functional.one_hot(target, 4) * 20.0
    elif name == "bce-with-logits":
        target = (torch.arange(8) % 2).float().unsqueeze(1)
        best = (target - 0.5) * 40
    else:
        target = best = torch.randn(8, 1, generator=generator)
    prediction = torch.randn(best.shape, generator=generator)
    assert 0 <= run.loss(best, target).item() < 1e-6 < run.loss(prediction, target).item()


# ---- optimizers -----------------------------------------------------------------------------------------------------


NOT_TORCHS = ("groups", "adamw_parameters", "adamw_lr", "adamw_betas", "adamw_weight_decay")
# None lets torch choose how to update; False would rule out more.
GIVEN_TO_TORCH: dict[tuple[str, str], Any] = {
    ("adafactor", "eps"): (None, 0.001),
    **{(name, "fused"): None for name in ("sgd", "adam", "adamw", "adagrad")},
}


@pytest.mark.parametrize(
    "entry",
    [e for e in CATALOG.of_kind("optimizer") if e.distribution == "hookline" and "schedule-free" not in e.name],
    ids=lambda entry: entry.name,
)
def test_every_option_of_an_optimizer_reaches_torch(entry: Entry) -> None:
    model = nn.Linear(3, 1, bias=False)  # a matrix, so that Muon needs no second optimizer
    optimizer = Run(load_config(config_naming(entry), plugins={"data": regression(), "model": model})).optimizer
    plugin = load_plugin(entry)
    options = {option.name: option.default for option in plugin.options if option.name not in NOT_TORCHS}
    assert type(optimizer) is getattr(torch.optim, plugin.target.__name__)
    for name, value in options.items():
        assert optimizer.param_groups[0][name] == GIVEN_TO_TORCH.get((entry.name, name), value)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.5}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sgd_updates_many_weights_at_once_with_the_result_of_torchs_default(
    options: dict[str, float], dtype: str
) -> None:
    layers = [*(nn.Linear(3, 3) for _ in range(9)), nn.Linear(3, 1)]
    updated = []
    for use_default in (False, True):
        model = nn.Sequential(*copy.deepcopy(layers))
        config = {"train": {"epochs": 2, "batch_size": 4, "dtype": dtype}, "optimizer": options}
        run = Run(load_config(config, plugins={"data": regression(), "model": model}))
        assert [group["foreach"] for group in run.optimizer.param_groups] == [True]
        if use_default:
            run.optimizer.param_groups[0]["foreach"] = None
        run.fit()
        updated.append(list(model.parameters()))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*updated, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True},
        {"fused": True},
        {"groups": [{"parameters": ["*.bias"], "lr": 0.1}]},
    ],
    ids=str,
)
def test_sgd_updates_weights_at_once_only_if_that_needs_no_memory(options: dict[str, Any]) -> None:
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(9)], nn.Linear(3, 1))
    many = Run(load_config({"optimizer": options}, plugins={"data": regression(), "model": model}))
    few = Run(load_config({}, plugins={"data": regression()}))
    assert not any(group["foreach"] for run in (many, few) for group in run.optimizer.param_groups)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(10, 1), (1, 1), (7, 3), (4, 2, 5), (0, 1), ()], ids=str)
def test_the_mean_squared_error_is_torchs_to_the_last_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    prediction, target = torch.randn(shape, dtype=dtype, requires_grad=True), torch.randn(shape, dtype=dtype)
    loss = Run(load_config()).loss
    assert isinstance(loss, nn.MSELoss)
    results = []
    for function in (loss, nn.MSELoss()):
        value = function(prediction, target)
        (gradient,) = torch.autograd.grad(value, prediction)
        results.append(torch.cat([value.detach().reshape(1), gradient.reshape(-1)]).view(torch.uint8).tolist())
    assert results[0] == results[1]


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_another_reduction_of_the_squared_error_is_torchs(reduction: str) -> None:
    make: Any = type(Run(load_config()).loss)
    loss = make(reduction=reduction)
    prediction, target = torch.rand(4, 2), torch.rand(4, 2)
    assert torch.equal(loss(prediction, target), nn.MSELoss(reduction=reduction)(prediction, target))


def test_the_mean_squared_error_can_be_traced() -> None:
    traced = torch.fx.symbolic_trace(Run(load_config()).loss)
    prediction, target = torch.rand(4, 2), torch.rand(4, 2)
    assert torch.equal(traced(prediction, target), nn.functional.mse_loss(prediction, target))


def test_the_mean_squared_error_of_different_shapes_is_torchs_with_its_warning() -> None:
    prediction, target = torch.ones(4, 1), torch.arange(4.0)
    with pytest.warns(UserWarning, match="broadcasting"):
        assert Run(load_config()).loss(prediction, target) == 1.5


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_fused_optimizer_is_fused_in_all_groups_and_moves_the_weights_alike(name: str) -> None:
    groups = [{"parameters": ["bias"], "lr": 0.02}]
    plain, fused = (
        Run(load_config({"optimizer": {"use": name, "fused": fused, "groups": groups}})) for fused in (False, True)
    )
    assert [group.get("fused") for group in fused.optimizer.param_groups] == [True, True]
    plain.fit()
    fused.fit()
    for one, other in zip(plain.model.parameters(), fused.model.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-4)


def test_a_group_cannot_choose_how_it_is_updated() -> None:
    with pytest.raises(ConfigError, match="unknown option 'fused'"):
        Run(
            load_config(
                {"optimizer": {"use": "adam", "fused": True, "groups": [{"parameters": ["bias"], "fused": False}]}}
            )
        )
