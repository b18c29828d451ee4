"""What every plugin of a kind must do, over all the default plugins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hookline import Catalog, DataSource, Entry, Run, load_config
from hookline.config_text import commented_toml, option_lines
from hookline.loader import load_plugin
from support import FIXTURES

CATALOG = Catalog.installed()
REQUIRED = {"csv": {"path": str(FIXTURES / "nist" / "norris.csv"), "target": "y"}}


def of_kind(kind: str) -> pytest.MarkDecorator:
    entries = [entry for entry in CATALOG.of_kind(kind) if entry.distribution == "hookline"]
    return pytest.mark.parametrize("entry", entries, ids=lambda entry: entry.name)


ALL = pytest.mark.parametrize(
    "entry",
    [entry for entry in CATALOG.entries if entry.distribution == "hookline"],
    ids=lambda e: f"{e.kind}-{e.name}",
)


def config_naming(entry: Entry) -> dict[str, Any]:
    table = {"use": entry.name, **REQUIRED.get(entry.name, {})}
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


# ---- all kinds ------------------------------------------------------------------------------------------------------


@ALL
def test_every_option_has_a_meaning_and_a_default_that_its_own_type_takes(entry: Entry) -> None:
    for option in load_plugin(entry).options:
        assert option.description, option.name
        if not option.is_required:
            schema = option.schema()
            jsonschema.Draft7Validator.check_schema(schema)
            jsonschema.Draft7Validator(schema).validate(schema["default"])
            assert option.convert(schema["default"], Path()) == option.default


@ALL
def test_every_plugin_says_what_it_is(entry: Entry) -> None:
    assert len((load_plugin(entry).target.__doc__ or "").split()) > 4


@ALL
def test_the_lines_to_paste_are_a_config(entry: Entry, tmp_path: Path) -> None:
    label = "callbacks.it" if entry.kind == "callback" else entry.kind
    lines = option_lines(label, entry.name, load_plugin(entry).options)
    required = REQUIRED.get(entry.name, {})
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


# ---- data -----------------------------------------------------------------------------------------------------------


@of_kind("data")
def test_data_are_the_same_for_the_same_seed_and_leave_the_global_generator_alone(entry: Entry) -> None:
    before = torch.get_rng_state()
    first, second = (Run(config_naming(entry)).data for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.splits().keys() == second.splits().keys()
    for name, dataset in first.splits().items():
        other = second.splits()[name]
        assert isinstance(dataset, TensorDataset)
        assert isinstance(other, TensorDataset)
        assert all(torch.equal(a, b) for a, b in zip(dataset.tensors, other.tensors, strict=True))


@of_kind("data")
def test_data_say_their_sizes(entry: Entry) -> None:
    data = Run(config_naming(entry)).data
    inputs, target = data.train[0]
    assert inputs.shape == (data.in_features,)
    assert target.shape == (data.out_features,)
    assert len(data.feature_names) == data.in_features
    assert len(data.target_names) == data.out_features


# ---- models ---------------------------------------------------------------------------------------------------------


def model_of(entry: Entry, seed: int = 0) -> nn.Module:
    return Run(config_naming(entry), {"train.seed": seed}, plugins={"data": regression()}).model


@of_kind("model")
def test_a_model_maps_inputs_to_outputs_and_gives_every_parameter_a_finite_gradient(entry: Entry) -> None:
    model = model_of(entry)
    prediction = model(torch.ones(5, 3))
    assert prediction.shape == (5, 1)
    prediction.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@of_kind("model")
def test_a_model_has_the_same_weights_for_the_same_seed_and_others_for_another(entry: Entry) -> None:
    first, again, other = (torch.cat([p.flatten() for p in model_of(entry, s).parameters()]) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@of_kind("model")
def test_a_model_takes_up_the_state_of_another(entry: Entry) -> None:
    first, second = model_of(entry, 0), model_of(entry, 1)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.eval()(torch.ones(2, 3)), second.eval()(torch.ones(2, 3)))


# ---- losses ---------------------------------------------------------------------------------------------------------


@of_kind("loss")
def test_a_loss_is_a_differentiable_mean_that_is_least_at_the_target(entry: Entry) -> None:
    data = classes(4) if entry.name == "cross-entropy" else regression()
    run = Run(config_naming(entry), plugins={"data": data})
    generator = torch.Generator().manual_seed(0)
    if entry.name == "cross-entropy":
        target = torch.arange(8) % 4
        best = nn.functional.one_hot(target, 4) * 20.0
    elif entry.name == "bce-with-logits":
        target = (torch.arange(8) % 2).float().unsqueeze(1)
        best = (target - 0.5) * 40
    else:
        target = best = torch.randn(8, 1, generator=generator)
    prediction = torch.randn(best.shape, generator=generator, requires_grad=True)
    loss = run.loss(prediction, target)
    loss.backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated
    assert loss.dim() == 0
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()
    assert 0 <= run.loss(best, target).item() < 1e-6 < loss.item()
    halves = [run.loss(prediction[part], target[part]).item() for part in (slice(0, 4), slice(4, 8))]
    assert loss.item() == pytest.approx(sum(halves) / 2, rel=1e-5)


# ---- optimizers -----------------------------------------------------------------------------------------------------


@of_kind("optimizer")
def test_an_optimizer_lowers_a_quadratic(entry: Entry) -> None:
    config = {**config_naming(entry), "train": {"epochs": 20, "batch_size": "all"}}
    first_loss = Run(config, plugins={"data": regression()}).try_step()
    last_loss = Run(config, plugins={"data": regression()}).fit().metrics["train/loss"]
    assert last_loss < first_loss


@of_kind("optimizer")
def test_every_option_of_an_optimizer_reaches_torch(entry: Entry) -> None:
    optimizer = Run(config_naming(entry), plugins={"data": regression()}).optimizer
    options = {option.name: option.default for option in load_plugin(entry).options}
    assert type(optimizer) is getattr(torch.optim, load_plugin(entry).target.__name__)
    for name, value in options.items():
        assert optimizer.param_groups[0][name] == value


# ---- callbacks ------------------------------------------------------------------------------------------------------


@of_kind("callback")
def test_a_callback_changes_neither_the_weights_nor_the_random_numbers(entry: Entry) -> None:
    plugins = {"data": regression(), "model": nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))}
    start = {name: value.clone() for name, value in plugins["model"].state_dict().items()}  # type: ignore[attr-defined]

    def final(config: dict[str, Any]) -> list[float]:
        plugins["model"].load_state_dict(start)  # type: ignore[attr-defined] # a module
        result = Run(config, {"train.evaluate": ["train"]}, plugins=plugins).fit()
        return torch.cat([p.detach().flatten() for p in result.model.parameters()]).tolist()

    monitor = {"monitor": "train/loss"} if entry.name == "early-stopping" else {}
    table = {"use": entry.name, **monitor}
    assert final({"callbacks": {"it": table}}) == final({})
