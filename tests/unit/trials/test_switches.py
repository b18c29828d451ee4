"""Config values behind --overfit and --fast."""

from __future__ import annotations

import pytest

from hookline import ConfigError, RunConfig, load_config, train
from hookline.engine import TrainOptions
from hookline.trials.switches import trial_values


def config_of(overfit: int | None = None, *words: str, is_fast: bool = False) -> RunConfig:
    plain = load_config({"train": {"epochs": 50}}, words)
    return load_config({"train": {"epochs": 50}}, words, switches=trial_values(plain.train, overfit, is_fast=is_fast))


def test_without_either_there_is_nothing() -> None:
    assert trial_values(TrainOptions(), None, is_fast=False) == {}


def test_a_model_memorizes_a_few_examples_and_is_evaluated_on_them() -> None:
    config = config_of(8, "model=mlp", "optimizer=adam", "optimizer.lr=0.01")
    result = train(config)
    assert set(result.metrics) == {"train/running_loss", "train/loss"}
    assert result.metrics["train/loss"] < result.history[0]["train/loss"] / 100
    assert result.steps == 100


@pytest.mark.parametrize(
    ("options", "num_examples"),
    [
        (TrainOptions(batch_size=4), 12),
        (TrainOptions(batch_size="all", eval_batch_size=64), 64),
        (TrainOptions(batch_size=4, max_examples=5), 5),
        (TrainOptions(batch_size=4, max_examples=500), 12),
    ],
)
def test_a_fast_run_has_three_batches_in_each_of_two_epochs(options: TrainOptions, num_examples: int) -> None:
    values = {"train.epochs": 2, "train.max_examples": num_examples}
    assert trial_values(options, None, is_fast=True) == {"--fast": values}


def test_a_fast_run_evaluates_between_steps_if_the_run_does() -> None:
    for every, expected in ((500, 3), (2, 2)):
        values = trial_values(TrainOptions(evaluate_every_steps=every), None, is_fast=True)["--fast"]
        assert values["train.evaluate_every_steps"] == expected


def test_the_values_have_the_option_as_their_origin_and_win_over_the_file() -> None:
    setting = config_of(is_fast=True).settings["train.epochs"]
    assert (setting.value, str(setting.origin)) == (2, "--fast")
    assert setting.overrode is not None
    assert setting.overrode.value == 50


def test_overrides_win() -> None:
    config = config_of(8, "train.epochs=7")
    assert (config.train.epochs, config.train.max_examples) == (7, 8)
    assert str(config.settings["train.epochs"].origin) == "command line"


def test_both_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match="--overfit and --fast cannot be combined"):
        trial_values(TrainOptions(), 8, is_fast=True)
