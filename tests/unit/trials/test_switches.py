"""Config values behind --overfit and --fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from hookline import Catalog, ConfigError, RunConfig, load_config, train
from hookline.trials.switches import trial_values

LIMIT = "callbacks.limit-examples.num_examples"
CATALOG = Catalog.installed()


def values_of(options: Mapping[str, Any], overfit: int | None = None, *, is_fast: bool = False) -> Mapping[str, Any]:
    return trial_values(load_config({}, options), CATALOG, overfit, is_fast=is_fast)


def config_of(overfit: int | None = None, *words: str, is_fast: bool = False) -> RunConfig:
    plain = load_config({"train": {"epochs": 50}}, words)
    values = trial_values(plain, CATALOG, overfit, is_fast=is_fast)
    return load_config({"train": {"epochs": 50}}, words, switches=values)


def test_without_either_there_is_nothing() -> None:
    assert values_of({}) == {}


def test_a_model_memorizes_a_few_examples_and_is_evaluated_on_them() -> None:
    config = config_of(8, "model=mlp", "optimizer=adam", "optimizer.lr=0.01")
    result = train(config)
    assert set(result.metrics) == {"train/running_loss", "train/loss"}
    assert result.metrics["train/loss"] < result.history[0]["train/loss"] / 100
    assert result.steps == 100


@pytest.mark.parametrize(
    ("options", "num_examples"),
    [
        ({"train.batch_size": 4}, 12),
        ({"train.batch_size": "all", "train.eval_batch_size": 64}, 64),
        ({"train.batch_size": 4, LIMIT: 5}, 5),
        ({"train.batch_size": 4, LIMIT: 500}, 12),
    ],
)
def test_a_fast_run_has_three_batches_in_each_of_two_epochs(options: Mapping[str, Any], num_examples: int) -> None:
    assert values_of(options, is_fast=True) == {"--fast": {"train.epochs": 2, LIMIT: num_examples}}


def test_a_fast_run_evaluates_between_steps_if_the_run_does() -> None:
    for every, expected in ((500, 3), (2, 2)):
        values = values_of({"train.evaluate_every_steps": every}, is_fast=True)["--fast"]
        assert values["train.evaluate_every_steps"] == expected


def test_the_values_have_the_option_as_their_origin_and_win_over_the_file() -> None:
    setting = config_of(is_fast=True).settings["train.epochs"]
    assert (setting.value, str(setting.origin)) == (2, "--fast")
    assert setting.overrode is not None
    assert setting.overrode.value == 50


def test_overrides_win() -> None:
    config = config_of(8, "train.epochs=7")
    assert (config.train.epochs, config.settings[LIMIT].value) == (7, 8)
    assert str(config.settings["train.epochs"].origin) == "command line"


def test_both_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match="--overfit and --fast cannot be combined"):
        values_of({}, 3, is_fast=True)
