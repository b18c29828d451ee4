"""The optimizers of torch by name: options, defaults, the same bits as torch, exact resume; Muon beside AdamW."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.utils.data import TensorDataset

from hookline import Catalog, ConfigError, DataSource, Run, hookimpl, load_config
from hookline_plugins.optimizers.joint_optimizer import JointOptimizer

CONFIG: dict[str, Any] = {
    "train": {"epochs": 2, "batch_size": 10},
    "data": {"num_examples": 40},
    "model": {"use": "mlp", "hidden": [4, 4]},
}
OTHER_DEFAULTS = {
    ("sgd", "lr"),
    ("lbfgs", "history_size"),
    ("lbfgs", "line_search_fn"),
    ("muon", "adjust_lr_fn"),
    ("adafactor", "eps"),
}
"""Defaults that differ from torch's; the docstrings of the plugins or the reference give the reason."""
OWN_OPTIONS = ("groups", "adamw_parameters", "adamw_lr", "adamw_betas", "adamw_weight_decay")
# Those of the package schedulefree are tested in test_schedule_free.py.
OF_TORCH = [entry for entry in Catalog.installed().of_kind("optimizer") if not entry.name.startswith("schedule-free")]
PLUGINS = {entry.name: entry.load() for entry in OF_TORCH}
DENSE = sorted(PLUGINS.keys() - {"sparse-adam"})


def run_with(optimizer: str, **options: Any) -> Run:
    return Run(load_config({**CONFIG, "optimizer": {"use": optimizer, **options}}))


def weights(model: nn.Module) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def train_by_hand(run: Run, *optimizers: optim.Optimizer) -> None:
    """Train the run's model on its batches with ``optimizers``."""
    dataset: Any = run.data.train
    inputs, targets = dataset.tensors
    for epoch in (1, 2):
        for rows in torch.split(run.batch_order(epoch), 10):
            loss = nn.functional.mse_loss(run.model(inputs[rows]), targets[rows])
            run.model.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated
            for optimizer in optimizers:
                optimizer.step()


def test_each_optimizer_of_torch_has_a_plugin() -> None:
    names = {name for name in optim.__all__ if name != "Optimizer" and isinstance(getattr(optim, name), type)}
    assert names <= {cls.__name__ for cls in PLUGINS.values()}


@pytest.mark.parametrize("name", PLUGINS)
def test_options_and_their_defaults_are_those_of_torch(name: str) -> None:
    cls = PLUGINS[name]
    known = inspect.signature(getattr(optim, cls.__name__)).parameters
    for field in fields(cls):
        if field.name not in OWN_OPTIONS:
            default = False if field.name == "fused" else known[field.name].default
            assert field.default == default or (name, field.name) in OTHER_DEFAULTS, (field.name, default)


@pytest.mark.parametrize("name", ["adadelta", "adafactor", "adagrad", "adamax", "asgd", "nadam", "radam", "rprop"])
def test_the_weights_are_bit_identical_to_those_of_a_hand_written_loop(name: str) -> None:
    expected = run_with(name)
    train_by_hand(expected, getattr(optim, PLUGINS[name].__name__)(expected.model.parameters()))
    result = run_with(name).fit()
    assert all(map(torch.equal, weights(result.model), weights(expected.model)))


@pytest.mark.parametrize("name", DENSE)
def test_a_resumed_run_ends_with_the_same_bits(name: str) -> None:
    whole = run_with(name).fit()
    first, second = run_with(name), run_with(name)
    second.load_state_dict(next(first.state_dict() for step in first.steps() if step.step == 3))
    assert all(map(torch.equal, weights(second.fit().model), weights(whole.model)))


def test_adafactor_takes_auto_in_a_group_too() -> None:
    group = {"parameters": ["*.bias"], "eps": ["auto", 0.01]}
    biases, rest = run_with("adafactor", eps=[1e-9, 0.02], groups=[group]).optimizer.param_groups
    assert (biases["eps"], rest["eps"]) == ((None, 0.01), (1e-9, 0.02))


# ---- sparse gradients -----------------------------------------------------------------------------------------------


class Words:
    """Eight words and a number for each."""

    @hookimpl
    def build_data(self) -> DataSource:
        words = torch.arange(8).repeat(4)
        return DataSource(train=TensorDataset(words, words[:, None].float()), in_features=1, out_features=1)


class Lookup(nn.Module):
    """The numbers of words, in a table with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 1, sparse=True)

    def forward(self, words: Tensor) -> Tensor:
        numbers: Tensor = self.table(words)
        return numbers


def test_sparse_adam_trains_an_embedding_with_sparse_gradients() -> None:
    tables: dict[str, Any] = {"train": {"epochs": 60, "batch_size": 4}, "optimizer": {"use": "sparse-adam", "lr": 0.2}}
    result = Run(load_config(tables, plugins={"data": Words(), "model": Lookup})).fit()
    learned = result.model.table.weight.detach().flatten()  # type: ignore[union-attr,operator]
    torch.testing.assert_close(learned, torch.arange(8.0), rtol=0, atol=0.1)


# ---- Muon -----------------------------------------------------------------------------------------------------------


def test_muon_updates_the_matrices_and_adamw_the_rest_as_two_optimizers_of_torch_do() -> None:
    expected = run_with("muon")
    matrices = [p for p in expected.model.parameters() if p.ndim == 2]
    rest = [p for p in expected.model.parameters() if p.ndim != 2]
    train_by_hand(expected, optim.Muon(matrices), optim.AdamW(rest))
    result = run_with("muon").fit()
    assert all(map(torch.equal, weights(result.model), weights(expected.model)))


def test_each_option_of_adamw_reaches_it() -> None:
    options = {"adamw_lr": 0.5, "adamw_betas": [0.5, 0.75], "adamw_weight_decay": 0.25}
    group = run_with("muon", **options).optimizer.param_groups[1]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.5, (0.5, 0.75), 0.25)


def names_for_muon(run: Run) -> set[str]:
    named = {id(parameter): name for name, parameter in run.model.named_parameters()}
    groups = [group for group in run.optimizer.param_groups if "ns_steps" in group]
    return {named[id(parameter)] for group in groups for parameter in group["params"]}


def test_adamw_updates_the_parameters_that_the_option_names() -> None:
    run = run_with("muon", adamw_parameters=["4.*"])
    assert names_for_muon(run) == {"0.weight", "2.weight"}


def test_adamw_updates_embeddings() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(8, 4), nn.Linear(4, 1, bias=False)

        def forward(self, words: Tensor) -> Tensor:
            numbers: Tensor = self.head(self.table(words))
            return numbers

    run = Run(load_config({"optimizer": "muon"}, plugins={"data": Words(), "model": Tagger}))
    assert names_for_muon(run) == {"head.weight"}


def test_a_schedule_changes_the_rates_of_both() -> None:
    run = Run(load_config({**CONFIG, "optimizer": {"use": "muon", "adamw_lr": 0.01}, "callbacks": {"lr-schedule": {}}}))
    run.fit()
    assert isinstance(run.optimizer, JointOptimizer)
    assert [group["lr"] for group in run.optimizer.param_groups] == [0.0, 0.0]


def test_a_model_without_other_parameters_needs_no_adamw() -> None:
    run = Run(load_config({"optimizer": "muon"}, plugins={"model": nn.Linear(2, 1, bias=False)}))
    assert isinstance(run.optimizer, optim.Muon)


@pytest.mark.parametrize(
    ("patterns", "message", "hint"),
    [
        (["haed.*"], "adamw_parameters: 'haed.*' matches no parameter", "known: '0.bias', '0.weight'"),
        (["*"], "no matrix is left for Muon", "use the optimizer 'adamw', or name fewer parameters"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(patterns: list[str], message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_with("muon", adamw_parameters=patterns)
    (fault,) = caught.value.faults
    assert fault.message == message
    assert str(fault.hint).startswith(hint)
