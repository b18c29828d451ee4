"""Callback ``freeze``: the parameters that it freezes, and patterns without a match."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hookline import ConfigError, ContractError, Run, load_config, train

CONFIG = {
    "train": {"epochs": 1},
    "data": {"num_examples": 20},
    "model": {"use": "mlp", "hidden": [4, 4]},
    "optimizer": {"use": "adamw", "lr": 0.1, "weight_decay": 0.1},
}


def freezing(*patterns: str, **callbacks: Any) -> dict[str, Any]:
    return {**CONFIG, "callbacks": {**callbacks, "freeze": {"parameters": list(patterns)}}}


def changed(run: Run) -> set[str]:
    """Return the names of the parameters that the run changes."""
    before: dict[str, Tensor] = {name: p.detach().clone() for name, p in run.unwrapped_model.named_parameters()}
    run.fit()
    return {name for name, p in run.unwrapped_model.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize(
    ("patterns", "trained"),
    [
        (["0.*"], {"2.weight", "2.bias", "4.weight", "4.bias"}),
        (["0.*", "2.weight"], {"2.bias", "4.weight", "4.bias"}),
        (["*.bias"], {"0.weight", "2.weight", "4.weight"}),
        (["?.weight", "4.bias"], {"0.bias", "2.bias"}),
    ],
)
def test_matching_parameters_are_frozen_and_the_rest_is_trained(patterns: list[str], trained: set[str]) -> None:
    assert changed(Run(load_config(freezing(*patterns)))) == trained


def test_names_are_those_of_the_model_even_inside_a_wrapper() -> None:
    config = freezing("0.*", **{"mixed-precision": {}})
    assert changed(Run(load_config(config))) == {"2.weight", "2.bias", "4.weight", "4.bias"}


def test_all_patterns_without_a_match_are_reported_at_once_with_the_nearest_names() -> None:
    with pytest.raises(ConfigError) as caught:
        Run(load_config(freezing("0.wieght", "4.*", "encoder.layers.*")))
    assert [(fault.message, fault.hint) for fault in caught.value.faults] == [
        ("'0.wieght' matches no parameter", "did you mean '0.weight'?"),
        (
            "'encoder.layers.*' matches no parameter",
            "known: '0.bias', '0.weight', '2.bias', '2.weight', '4.bias', '4.weight'",
        ),
    ]


def test_a_large_model_is_not_listed_as_a_whole() -> None:
    with pytest.raises(ConfigError) as caught:
        Run(load_config(freezing("encoder.*"), {"model.hidden": [2] * 20}))
    assert caught.value.faults[0].hint == (
        "the model has 42 parameters: '0.weight', '0.bias', '2.weight', '2.bias', '4.weight', '4.bias', '6.weight', "
        "'6.bias', '8.weight', '8.bias', ..."
    )


def test_a_model_that_is_frozen_as_a_whole_has_nothing_to_train() -> None:
    with pytest.raises(ContractError, match="nothing to train: no parameter requires a gradient"):
        Run(load_config(freezing("*")))


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 long"):
        train(freezing())
