"""The option ``groups`` of optimizers: the options of each parameter, and the errors for a bad group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hookline import ConfigError, Run, hookimpl, load_config
from hookline_plugins.optimizers.torch_optimizers import AdamW

CONFIG: dict[str, Any] = {
    "train": {"epochs": 2, "batch_size": 10},
    "data": {"num_examples": 40},
    "model": {"use": "mlp", "hidden": [4]},
}
NO_DECAY = {"parameters": ["*.bias"], "weight_decay": 0.0}
FIRST_LAYER = {"parameters": ["0.*"], "lr": 0.5}


def with_groups(*groups: dict[str, Any], optimizer: str = "adamw", **more: Any) -> Run:
    return Run(load_config({**CONFIG, "optimizer": {"use": optimizer, "groups": list(groups)}, **more}))


def names_of(run: Run) -> list[set[str]]:
    """Return the names of the parameters in each group."""
    named = {id(parameter): name for name, parameter in run.unwrapped_model.named_parameters()}
    return [{named[id(parameter)] for parameter in group["params"]} for group in run.optimizer.param_groups]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_the_first_matching_group_wins_and_the_rest_has_the_options_of_the_optimizer(optimizer: str) -> None:
    run = with_groups(NO_DECAY, FIRST_LAYER, optimizer=optimizer)
    assert names_of(run) == [{"0.bias", "2.bias"}, {"0.weight"}, {"2.weight"}]
    lr, weight_decay = run.optimizer.defaults["lr"], run.optimizer.defaults["weight_decay"]
    options = [(group["lr"], group["weight_decay"]) for group in run.optimizer.param_groups]
    assert options == [(lr, 0.0), (0.5, weight_decay), (lr, weight_decay)]


def test_the_weights_are_bit_identical_to_those_of_a_hand_written_loop() -> None:
    run = with_groups(NO_DECAY, FIRST_LAYER)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    model.load_state_dict(run.model.state_dict())
    groups: list[dict[str, Any]] = [
        {"params": [model[0].bias, model[2].bias], "weight_decay": 0.0},
        {"params": [model[0].weight], "lr": 0.5},
        {"params": [model[2].weight]},
    ]
    optimizer = torch.optim.AdamW(groups)
    dataset: Any = run.data.train
    inputs, targets = dataset.tensors
    for epoch in (1, 2):
        for rows in torch.split(run.batch_order(epoch), 10):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(inputs[rows]), targets[rows])
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated
            optimizer.step()
    result = run.fit()
    assert all(map(torch.equal, result.model.state_dict().values(), model.state_dict().values()))


def test_options_of_a_group_have_the_types_of_those_of_the_optimizer() -> None:
    group = with_groups({"parameters": ["*"], "lr": 1, "betas": [0, 0.5]}).optimizer.param_groups[0]
    assert repr((group["lr"], group["betas"])) == "(1.0, (0.0, 0.5))"


def test_without_groups_all_parameters_are_in_one() -> None:
    assert names_of(with_groups()) == [{"0.weight", "0.bias", "2.weight", "2.bias"}]


def test_groups_of_all_parameters_leave_no_empty_group() -> None:
    assert names_of(with_groups(NO_DECAY, {"parameters": ["*"], "lr": 0.5})) == [
        {"0.bias", "2.bias"},
        {"0.weight", "2.weight"},
    ]


def test_names_are_those_of_the_model_without_wrappers() -> None:
    callbacks = {"mixed-precision": {}, "compile": {"backend": "eager"}}
    assert names_of(with_groups(FIRST_LAYER, callbacks=callbacks)) == [{"0.weight", "0.bias"}, {"2.weight", "2.bias"}]


def test_parameters_that_a_wrapper_adds_are_matched_by_the_names_that_it_gives_them() -> None:
    class Scales:
        @hookimpl(wrapper=True)
        def build_model(self) -> Any:
            model = yield
            return nn.Sequential(nn.Linear(2, 2), model)

    config = {**CONFIG, "optimizer": {"use": "adamw", "groups": [FIRST_LAYER]}}
    run = Run(load_config(config, plugins={"callbacks.scales": Scales()}))
    assert [len(group["params"]) for group in run.optimizer.param_groups] == [4, 2]


def test_a_resumed_run_with_groups_ends_with_the_same_bits() -> None:
    whole = with_groups(NO_DECAY, FIRST_LAYER).fit()
    first, second = (with_groups(NO_DECAY, FIRST_LAYER) for _ in range(2))
    second.load_state_dict(next(first.state_dict() for step in first.steps() if step.step == 3))
    assert second.fit().history == whole.history


# ---- bad groups -----------------------------------------------------------------------------------------------------


def test_all_faults_of_options_are_reported_at_once() -> None:
    groups: list[dict[str, Any]] = [
        {"parameters": ["*.bias"], "weight_deacy": 0.0},
        {"lr": "fast"},
        {"parameters": ["0.*"], "betas": [0.9, 1.5]},
        {"parameters": []},
    ]
    with pytest.raises(ValueError, match="groups") as caught:
        AdamW(groups=tuple(groups))
    assert str(caught.value).split("; ") == [
        "groups[0]: unknown option 'weight_deacy', did you mean 'weight_decay'?",
        "groups[1]: 'parameters' is missing: a list of parameter names, or patterns such as '*.bias'",
        "groups[1]: lr is 'fast': Expected `float`, got `str`",
        "groups[2]: betas is [0.9, 1.5]: Expected `float` < 1.0 - at `$[1]`",
        "groups[3]: 'parameters' is missing: a list of parameter names, or patterns such as '*.bias'",
    ]


def test_an_option_of_another_optimizer_is_unknown() -> None:
    with pytest.raises(ConfigError, match="unknown option 'amsgrad', known: 'alpha', 'centered'"):
        with_groups({"parameters": ["*"], "amsgrad": True}, optimizer="rmsprop")


def test_the_options_of_a_group_must_be_compatible_with_those_of_the_optimizer() -> None:
    with pytest.raises(ConfigError, match=r"groups\[0\]: nesterov = true needs momentum > 0 and dampening = 0"):
        with_groups({"parameters": ["*.bias"], "nesterov": True}, optimizer="sgd")


def test_all_faults_of_names_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        with_groups({"parameters": ["0.wieght", "encoder.*"]}, {"parameters": ["0.*"]}, {"parameters": ["0.bias"]})
    assert [(fault.message, fault.hint) for fault in caught.value.faults] == [
        ("groups[0]: '0.wieght' matches no parameter", "did you mean '0.weight'?"),
        ("groups[0]: 'encoder.*' matches no parameter", "known: '0.bias', '0.weight', '2.bias', '2.weight'"),
        ("groups[2]: all of its parameters are in earlier groups", None),
    ]


# ---- in a config ----------------------------------------------------------------------------------------------------

TABLES = """\
[model]
use = "mlp"

[optimizer]
use = "adamw"

[[optimizer.groups]]
parameters = ["*.bias"]
weight_decay = 0.0

[[optimizer.groups]]
parameters = ["0.*"]
lr = 0.5
"""


def test_groups_are_an_array_of_tables_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(TABLES)
    config = load_config(path)
    assert config.settings["optimizer.groups"].value == [NO_DECAY, FIRST_LAYER]
    assert str(config.settings["optimizer.groups"].origin) == f"{path}:7"
    assert names_of(Run(config))[:2] == [{"0.bias", "2.bias", "4.bias"}, {"0.weight"}]


def test_groups_can_be_given_in_an_override() -> None:
    word = 'optimizer.groups=[{parameters=["*.bias"],weight_decay=0.0}]'
    run = Run(load_config(CONFIG, ["optimizer=adamw", word]))
    assert names_of(run) == [{"0.bias", "2.bias"}, {"0.weight", "2.weight"}]


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("[[optimizer.gruops]]", "unknown key 'optimizer.gruops'", 7),
        ("[optimizer.groups]", "'optimizer.groups': expected a list of tables, got {'parameters': ['*.bias']", 7),
    ],
)
def test_a_bad_array_of_tables_is_reported_with_its_line(tmp_path: Path, text: str, message: str, line: int) -> None:
    first = TABLES.partition('\n[[optimizer.groups]]\nparameters = ["0.*"]')[0]
    (tmp_path / "run.toml").write_text(first.replace("[[optimizer.groups]]", text))
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "run.toml")
    (fault,) = caught.value.faults
    assert fault.message.startswith(message)
    assert fault.location is not None
    assert fault.location.line == line
