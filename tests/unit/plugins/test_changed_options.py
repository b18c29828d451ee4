"""A run that resumes with other options of a callback: they take effect, and no state of the old ones counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, lr_scheduler
from torch.utils.data import TensorDataset

from hookline import ConfigError, DataSource, Run, hookimpl, load_config

STEPS = 5  # in an epoch
EPOCHS = 4
MIDDLE = 2 * STEPS + 2  # within epoch 3


class Rates:
    """Records the learning rate and the momentum of each step."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    @hookimpl(tryfirst=True)
    def on_step_end(self, run: Run) -> None:
        group = run.optimizer.param_groups[0]
        self.seen.append((float(group["lr"]), group["momentum"]))


def run_of(callbacks: Mapping[str, Any], rates: Rates | None = None, lr: float = 0.05, **train: Any) -> Run:
    config = {
        "train": {"epochs": EPOCHS, "batch_size": 10, "dtype": "float64", **train},
        "data": {"num_examples": 10 * STEPS},
        "optimizer": {"use": "sgd", "lr": lr, "momentum": 0.5},
        "callbacks": callbacks,
    }
    return Run(load_config(config, plugins={"callbacks.rates": rates or Rates()}))


def halves(before: Callable[[Rates], Run], after: Callable[[Rates], Run], at: int = MIDDLE) -> tuple[Run, Rates]:
    """Take some steps of a run, and the rest of another with its state."""
    first = before(Rates())
    for step in first.steps():
        if step.step == at:
            state = first.state_dict()
            break
    rates = Rates()
    second = after(rates)
    second.load_state_dict(state)
    second.fit()
    return second, rates


# ---- lr-schedule ----------------------------------------------------------------------------------------------------

SCHEDULES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # Options and [train] of the first half, and of the second.
    "a longer run": ({}, {}, {}, {"epochs": 8}),
    "a longer run, by steps": ({"interval": "step"}, {}, {"interval": "step"}, {"epochs": 8}),
    "a shorter run": ({}, {}, {}, {"epochs": 3}),
    "gamma": (
        {"scheduler": "exponential", "arguments": {"gamma": 0.9}},
        {},
        {"scheduler": "exponential", "arguments": {"gamma": 0.5}},
        {},
    ),
    "milestones": (
        {"scheduler": "multi-step", "arguments": {"milestones": [1, 2]}},
        {},
        {"scheduler": "multi-step", "arguments": {"milestones": [3]}},
        {},
    ),
    "a longer one-cycle": (
        {"scheduler": "one-cycle", "arguments": {"max_lr": 0.2}},
        {},
        {"scheduler": "one-cycle", "arguments": {"max_lr": 0.2}},
        {"epochs": 8},
    ),
    "the maximum of one-cycle": (
        {"scheduler": "one-cycle", "arguments": {"max_lr": 0.2}, "interval": "step"},
        {},
        {"scheduler": "one-cycle", "arguments": {"max_lr": 0.4}, "interval": "step"},
        {},
    ),
    "from one-cycle to a cosine": (
        {"scheduler": "one-cycle", "arguments": {"max_lr": 0.2}, "interval": "step"},
        {},
        {"scheduler": "cosine-annealing"},
        {},
    ),
    "cyclic": (
        {"scheduler": "cyclic", "arguments": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 2}, "interval": "step"},
        {},
        {"scheduler": "cyclic", "arguments": {"base_lr": 0.02, "max_lr": 0.3, "step_size_up": 3}, "interval": "step"},
        {},
    ),
    "restarts": (
        {"scheduler": "cosine-annealing-warm-restarts", "arguments": {"T_0": 1}},
        {},
        {"scheduler": "cosine-annealing-warm-restarts", "arguments": {"T_0": 3}},
        {},
    ),
    "the interval": ({"interval": "epoch"}, {}, {"interval": "step"}, {}),
    "a longer warm-up": ({"warmup_steps": 3}, {}, {"warmup_steps": 16}, {}),
    "a shorter warm-up": ({"warmup_steps": 16}, {}, {"warmup_steps": 3}, {}),
    "phases": (
        {"phases": [{"scheduler": "linear", "length": 1}, {"scheduler": "cosine-annealing"}]},
        {},
        {"phases": [{"scheduler": "linear", "length": 2}, {"scheduler": "exponential", "arguments": {"gamma": 0.5}}]},
        {},
    ),
    "to phases": (
        {},
        {},
        {"phases": [{"scheduler": "linear", "length": 2}, {"scheduler": "exponential", "arguments": {"gamma": 0.5}}]},
        {},
    ),
}


@pytest.mark.parametrize("at", [1, MIDDLE, 2 * STEPS])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_schedule_is_that_of_an_uninterrupted_run_with_the_new_options(name: str, at: int) -> None:
    """The schedules of uninterrupted runs are compared with torch's own in the tests of ``lr-schedule``."""
    old, old_train, new, new_train = SCHEDULES[name]
    whole = Rates()
    run_of({"lr-schedule": new}, whole, **new_train).fit()
    _, rates = halves(
        lambda rates: run_of({"lr-schedule": old}, rates, **old_train),
        lambda rates: run_of({"lr-schedule": new}, rates, **new_train),
        at,
    )
    assert rates.seen == whole.seen[at:]


def test_the_cosine_over_a_longer_run_is_torchs_own_in_a_loop_by_hand() -> None:
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=0.05)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
    expected = []
    for _ in range(8):
        expected += [optimizer.param_groups[0]["lr"]] * STEPS
        optimizer.step()
        scheduler.step()
    _, rates = halves(
        lambda rates: run_of({"lr-schedule": {}}, rates),
        lambda rates: run_of({"lr-schedule": {}}, rates, epochs=8),
        EPOCHS * STEPS,
    )
    assert [rate for rate, _ in rates.seen] == expected[EPOCHS * STEPS :]
    assert min(expected[EPOCHS * STEPS :]) < 0.05 / 2


def test_with_another_batch_size_a_schedule_by_steps_ends_with_the_run() -> None:
    """12 steps of 10 examples; then 30 examples of epoch 3 are 2 steps of 20, and epoch 4 has 3."""
    run, rates = halves(
        lambda rates: run_of({"lr-schedule": {"interval": "step"}}, rates),
        lambda rates: run_of({"lr-schedule": {"interval": "step"}}, rates, batch_size=20),
    )
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=0.05)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=17)
    expected = []
    for _ in range(17):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert run.step == 17
    assert [rate for rate, _ in rates.seen] == expected[MIDDLE:]


def test_a_learning_rate_that_another_plugin_set_is_kept_while_the_schedule_is_the_same() -> None:
    class Halves:
        @hookimpl
        def on_step_end(self, run: Run) -> None:
            if run.step == 3:
                run.optimizer.param_groups[0]["lr"] /= 2

    def make(rates: Rates) -> Run:
        config = {
            "train": {"epochs": EPOCHS, "batch_size": 10},
            "data": {"num_examples": 10 * STEPS},
            "optimizer": {"use": "sgd", "lr": 0.05, "momentum": 0.5},
            "callbacks": {"lr-schedule": {}},
        }
        return Run(load_config(config, plugins={"callbacks.rates": rates, "callbacks.halves": Halves()}))

    whole = Rates()
    make(whole).fit()
    _, rates = halves(make, make)
    assert rates.seen == whole.seen[MIDDLE:]


PLATEAU = {"scheduler": "reduce-on-plateau", "monitor": "train/loss"}


def plateau(rates: Rates, lr: float = 0.05, monitor: str = "train/loss", **arguments: Any) -> Run:
    table = {
        **PLATEAU,
        "monitor": monitor,
        "arguments": {"patience": 0, "threshold": 1e6, "threshold_mode": "abs", **arguments},
    }
    return run_of({"lr-schedule": table}, rates, lr=lr, epochs=5)


def test_a_plateau_goes_on_from_its_learning_rate_with_the_new_factor() -> None:
    """With this threshold no epoch after the first is better: 0.05, 0.05, 0.025, then by a factor of 0.1."""
    _, rates = halves(lambda rates: plateau(rates, factor=0.5), lambda rates: plateau(rates, factor=0.1))
    found = [rate for rate, _ in rates.seen[STEPS - 2 :: STEPS]]
    assert found == pytest.approx([0.0025, 0.00025], rel=1e-12)
    assert rates.seen[0][0] == 0.025


def test_a_plateau_with_another_metric_forgets_the_best_of_the_old_one() -> None:
    _, rates = halves(plateau, lambda rates: plateau(rates, monitor="train/running_loss"))
    # 0.005 in epoch 3; its running loss is the first value of the new metric, and that of epoch 4 is not better.
    assert [rate for rate, _ in rates.seen[::STEPS][:1]] == pytest.approx([0.005])
    assert rates.seen[STEPS][0] == pytest.approx(0.005)
    assert rates.seen[-1][0] == pytest.approx(0.0005)


# ---- metrics that are followed --------------------------------------------------------------------------------------


class Scale(nn.Module):
    """One weight, the prediction."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.weight.expand(len(inputs), 1)


class Steps:
    """Adds one to the weight in each epoch of one step."""

    @hookimpl
    def build_step(self, run: Run) -> Callable[[Any], Tensor]:
        def step(_: Any) -> Tensor:
            with torch.no_grad():
                next(run.model.parameters()).add_(1.0)
            return torch.zeros(())

        return step


class TwoMetrics:
    """Measures ``up`` and ``down``: the weight, and its negative."""

    @hookimpl
    def build_metrics(self, run: Run) -> Mapping[str, Any]:
        class Weight:
            def __init__(self, sign: float) -> None:
                self.sign = sign

            def update(self, prediction: Tensor, target: Tensor) -> None:
                self.value = self.sign * float(prediction.mean())

            def compute(self) -> float:
                return self.value

            def reset(self) -> None: ...

        return {"up": Weight(1.0), "down": Weight(-1.0)}


class Saves:
    """Keeps the state at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.state: dict[str, Any] = {}

    @hookimpl
    def on_save_point(self, run: Run) -> None:
        if run.position == 0 and run.epoch == self.epoch and not self.state:
            self.state = run.state_dict()


def counting_run(callbacks: Mapping[str, Any], saves: Saves) -> Run:
    """A run whose weight is the number of the epoch, from 1."""
    dataset = TensorDataset(torch.zeros(2, 1), torch.zeros(2, 1))
    data = DataSource(dataset, dataset, in_features=1, out_features=1)
    plugins = {
        "data": lambda: data,
        "model": Scale,
        "callbacks.steps": Steps(),
        "callbacks.two": TwoMetrics(),
        "callbacks.saves": saves,
    }
    config = {"train": {"epochs": 6, "batch_size": 2, "evaluate": ["validation"]}, "callbacks": callbacks}
    return Run(load_config(config, plugins=plugins))


def counted(before: Mapping[str, Any], after: Mapping[str, Any], at: int = 3) -> Run:
    """Take some epochs of a run, and the rest of another with its state."""
    first = counting_run(before, saves := Saves(at))
    first.fit()
    second = counting_run(after, Saves(0))
    second.load_state_dict(saves.state)
    second.fit()
    return second


UP, DOWN = {"monitor": "validation/up"}, {"monitor": "validation/down"}


def test_early_stopping_with_another_metric_forgets_the_best_of_the_old_one() -> None:
    # "up" is worse in epochs 2 and 3; "down" falls in each epoch, so it never stops.
    run = counted({"early-stopping": {**UP, "patience": 3}}, {"early-stopping": {**DOWN, "patience": 3}})
    assert (run.stop_reason, run.step) == (None, 6)


def test_early_stopping_with_another_mode_forgets_the_best_of_the_old_one() -> None:
    run = counted(
        {"early-stopping": {**DOWN, "patience": 2}}, {"early-stopping": {**DOWN, "patience": 2, "mode": "max"}}
    )
    # -4 in epoch 4 is the first value of the new mode; -5 and -6 are worse.
    assert (run.stop_reason, run.step) == ("validation/down did not improve for 2 epochs", 6)


def test_early_stopping_with_other_patience_goes_on_counting() -> None:
    run = counted({"early-stopping": {**UP, "patience": 9}}, {"early-stopping": {**UP, "patience": 4}})
    # Epochs 2, 3, 4 and 5 are worse than epoch 1.
    assert (run.stop_reason, run.step) == ("validation/up did not improve for 4 epochs", 5)


def weight_of(run: Run) -> float:
    return next(run.model.parameters()).item()


def best_row(run: Run, metric: str) -> tuple[Any, ...]:
    (row,) = run.summary[f"best {metric}"]
    return row["value"], row["epoch"]


def test_the_best_value_of_another_metric_or_mode_does_not_count() -> None:
    run = counted({"best": {**UP, "restore": True}}, {"best": {**DOWN, "restore": True}})
    assert best_row(run, "validation/down") == (-6.0, 6)
    run = counted({"best": {**UP, "restore": True}}, {"best": {**UP, "mode": "max", "restore": True}})
    assert best_row(run, "validation/up") == (6.0, 6)
    run = counted({"best": {**UP, "restore": True}}, {"best": {**UP, "restore": True}})
    assert best_row(run, "validation/up") == (1.0, 1)
    assert weight_of(run) == 1.0


def test_best_values_whose_weights_were_not_kept_are_not_restored_and_not_reported() -> None:
    run = counted({"best": UP}, {"best": {**UP, "restore": True}})
    assert best_row(run, "validation/up") == (4.0, 4)
    assert weight_of(run) == 4.0
    assert [text for text in run.warnings if "were not kept" in text]


def test_weights_that_are_no_longer_wanted_are_not_restored() -> None:
    run = counted({"best": {**UP, "restore": True}}, {"best": UP})
    assert best_row(run, "validation/up") == (1.0, 1)
    assert weight_of(run) == 6.0


# ---- averaging ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"method": "swa"}, {"method": "swa"}, (1 + 2 + 3 + 4 + 5 + 6) / 6),
        ({"method": "swa", "start_epoch": 2}, {"method": "swa", "start_epoch": 5}, (5 + 6) / 2),
        ({"method": "swa", "start_epoch": 9}, {"method": "swa", "start_epoch": 5}, (5 + 6) / 2),
        ({"method": "swa", "start_epoch": 3}, {"method": "swa", "start_epoch": 2}, (3 + 4 + 5 + 6) / 4),
        ({"method": "ema", "decay": 0.5}, {"method": "swa"}, (4 + 5 + 6) / 3),
    ],
    ids=str,
)
def test_an_average_is_of_one_kind_and_of_the_epochs_that_the_options_say(
    before: dict[str, Any], after: dict[str, Any], expected: float
) -> None:
    run = counted({"averaging": before}, {"averaging": after})
    assert weight_of(run) == pytest.approx(expected, rel=1e-6)


def test_a_changed_decay_is_used_from_then_on() -> None:
    def make(decay: float, epochs: int) -> Run:
        return run_of({"averaging": {"method": "ema", "decay": decay}}, epochs=epochs)

    first = make(0.9, 3)
    for step in first.steps():
        if step.step == MIDDLE:
            state = first.state_dict()
            break
    average = {name: value.clone() for name, value in state["plugins"]["callbacks.averaging"]["average"].items()}
    run = make(0.25, 3)
    run.load_state_dict(state)
    raw = [{name: value.detach().clone() for name, value in run.model.named_parameters()} for _ in run.steps()]
    for weights in raw:
        average = {name: 0.25 * average[name] + 0.75 * weights[name] for name in average}
    for name, value in run.model.named_parameters():
        torch.testing.assert_close(value.detach(), average[name], rtol=1e-12, atol=0)


# ---- others ---------------------------------------------------------------------------------------------------------


def test_mixed_precision_in_another_type_begins_with_its_own_scale() -> None:
    def make(dtype: str) -> Run:
        return Run(load_config({"train": {"epochs": 2}, "callbacks": {"mixed-precision": {"dtype": dtype}}}))

    for before, after in (("bfloat16", "float16"), ("float16", "bfloat16")):
        first = make(before)
        for step in first.steps():
            if step.step == 5:
                state = first.state_dict()
                break
        second = make(after)
        second.load_state_dict(state)
        assert second.fit().outcome == "completed"


def test_options_that_cannot_be_are_refused_when_the_state_is_loaded() -> None:
    table = {"scheduler": "one-cycle", "arguments": {"max_lr": 0.2, "total_steps": 4}}
    with pytest.raises(ConfigError, match="'total_steps' = 4, but it takes 8 steps"):
        run_of({"lr-schedule": table}, epochs=8)
