"""Callback ``lr-schedule``: the same learning rates as a hand-written loop with torch's own schedulers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer, lr_scheduler
from torch.utils.data import TensorDataset

from hookline import ConfigError, DataSource, Run, RunView, hookimpl, load_config
from hookline.engine import Evaluated
from hookline_plugins.callbacks.lr_schedule import LRSchedule

EPOCHS, STEPS_PER_EPOCH = 6, 4
NUM_STEPS = EPOCHS * STEPS_PER_EPOCH
Scheduler = Any

SCHEDULERS: list[tuple[str, dict[str, Any], Callable[[Optimizer, int], Scheduler]]] = [
    ("step", {"step_size": 2}, lambda o, n: lr_scheduler.StepLR(o, 2)),
    ("step", {"step_size": 3, "gamma": 0.3}, lambda o, n: lr_scheduler.StepLR(o, 3, 0.3)),
    ("multi-step", {"milestones": [2, 5]}, lambda o, n: lr_scheduler.MultiStepLR(o, [2, 5])),
    ("constant", {"factor": 0.5, "total_iters": 3}, lambda o, n: lr_scheduler.ConstantLR(o, 0.5, 3)),
    ("constant", {}, lambda o, n: lr_scheduler.ConstantLR(o)),
    ("linear", {"start_factor": 0.2, "total_iters": 4}, lambda o, n: lr_scheduler.LinearLR(o, 0.2, total_iters=4)),
    ("linear", {"start_factor": 1, "end_factor": 0}, lambda o, n: lr_scheduler.LinearLR(o, 1.0, 0.0, n)),
    ("exponential", {"gamma": 0.7}, lambda o, n: lr_scheduler.ExponentialLR(o, 0.7)),
    ("polynomial", {"power": 2}, lambda o, n: lr_scheduler.PolynomialLR(o, n, 2)),
    ("cosine-annealing", {}, lr_scheduler.CosineAnnealingLR),
    ("cosine-annealing", {"T_max": 4, "eta_min": 0.01}, lambda o, n: lr_scheduler.CosineAnnealingLR(o, 4, 0.01)),
    (
        "cosine-annealing-warm-restarts",
        {"T_0": 2, "T_mult": 2},
        lambda o, n: lr_scheduler.CosineAnnealingWarmRestarts(o, 2, 2),
    ),
    (
        "cyclic",
        {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3, "mode": "triangular2"},
        lambda o, n: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3, mode="triangular2"),
    ),
    (
        "cyclic",
        {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 2, "mode": "exp_range", "gamma": 0.9},
        lambda o, n: lr_scheduler.CyclicLR(o, 0.01, 0.1, 2, mode="exp_range", gamma=0.9),
    ),
    ("one-cycle", {"max_lr": 0.2}, lambda o, n: lr_scheduler.OneCycleLR(o, 0.2, n)),
]
EACH = pytest.mark.parametrize(
    ("name", "arguments", "make"), SCHEDULERS, ids=[f"{name}-{number}" for number, (name, *_) in enumerate(SCHEDULERS)]
)
BOTH = pytest.mark.parametrize("interval", ["epoch", "step"])


class Rates:
    """Records the learning rate and the momentum of each step."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    # First, because the schedule sets those of the next step in the same event.
    @hookimpl(tryfirst=True)
    def on_step_end(self, run: Run) -> None:
        group = run.optimizer.param_groups[0]
        self.seen.append((group["lr"], group["momentum"]))


def data() -> DataSource:
    inputs = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    return DataSource(TensorDataset(inputs, inputs.sum(1, keepdim=True)), in_features=3, out_features=1)


def optimizer(params: Any) -> Optimizer:
    return SGD(params, lr=0.05, momentum=0.9)


def scheduled(table: Mapping[str, Any], *others: object, **train: Any) -> tuple[Run, Rates]:
    rates = Rates()
    callbacks = {f"callbacks.other-{number}": other for number, other in enumerate((rates, *others))}
    source = {
        "train": {"epochs": EPOCHS, "batch_size": 4, **train},
        "callbacks": {"it": {"use": LRSchedule, **table}},
    }
    return Run(load_config(source, plugins={"data": data(), "optimizer": optimizer, **callbacks})), rates


def by_hand(make: Callable[[Optimizer, int], Scheduler], interval: str) -> list[tuple[float, float]]:
    model = nn.Linear(3, 1)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = make(optimizer, EPOCHS if interval == "epoch" else NUM_STEPS)
    seen = []
    for _ in range(EPOCHS):
        for _ in range(STEPS_PER_EPOCH):
            optimizer.step()
            seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
            if interval == "step":
                scheduler.step()
        if interval == "epoch":
            scheduler.step()
    return seen


@EACH
@BOTH
def test_the_learning_rates_are_those_of_torchs_own_scheduler_in_a_loop_by_hand(
    name: str, arguments: dict[str, Any], make: Callable[[Optimizer, int], Scheduler], interval: str
) -> None:
    run, rates = scheduled({"scheduler": name, "arguments": arguments, "interval": interval})
    run.fit()
    expected = by_hand(make, interval)
    assert rates.seen == expected
    assert len(set(expected)) > 1


def weights(run: Run) -> list[float]:
    return torch.cat([p.flatten() for p in run.model.parameters()]).tolist()


def resumed(make: Callable[[], tuple[Run, Rates]], at: int) -> tuple[Run, list[tuple[float, float]]]:
    first, before = make()
    for step in first.steps():
        if step.step == at:
            state = first.state_dict()
            break
    json.dumps(state["plugins"], allow_nan=False)
    second, after = make()
    second.load_state_dict(state)
    second.fit()
    return second, before.seen[:at] + after.seen


@EACH
@BOTH
def test_a_resumed_run_continues_with_the_same_bits(
    name: str, arguments: dict[str, Any], make: Callable[[Optimizer, int], Scheduler], interval: str
) -> None:
    table = {"scheduler": name, "arguments": arguments, "interval": interval, "warmup_steps": 7}
    whole, rates = scheduled(table)
    whole.fit()
    for at in (1, 4, 10):
        run, seen = resumed(lambda: scheduled(table), at)
        assert seen == rates.seen
        assert weights(run) == weights(whole)
        assert run.summary == whole.summary


# ---- plateau ---------------------------------------------------------------------------------------------------------

PLATEAU = {"scheduler": "reduce-on-plateau", "monitor": "train/loss", "arguments": {"patience": 1, "threshold": 0.2}}


def plateau_by_hand(values: list[float]) -> list[float]:
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=0.05)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, threshold=0.2)
    rates = []
    for value in values:
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(value)
    return rates


def test_a_plateau_lowers_the_learning_rate_as_torchs_own_scheduler_does() -> None:
    run, rates = scheduled(PLATEAU, epochs=12)
    result = run.fit()
    expected = plateau_by_hand([metrics["train/loss"] for metrics in result.history])
    assert [rate for rate, _ in rates.seen[::STEPS_PER_EPOCH]] == expected
    assert len(set(expected)) > 1


def test_a_plateau_waits_for_the_next_evaluation() -> None:
    run, rates = scheduled(PLATEAU, epochs=12, evaluate_every_epochs=2)
    result = run.fit()
    measured = [metrics["train/loss"] for metrics in result.history if "train/loss" in metrics]
    assert len(measured) == 6
    expected = plateau_by_hand(measured)
    # The first two epochs have the first rate, the next two the second, and so on.
    assert [rate for rate, _ in rates.seen[:: 2 * STEPS_PER_EPOCH]] == expected


def test_a_plateau_counts_each_evaluation_within_an_epoch_once() -> None:
    never_better = {**PLATEAU, "arguments": {"patience": 2, "threshold": 0.99}}
    run, rates = scheduled(never_better, epochs=2, evaluate_every_steps=2)
    run.fit()
    # Evaluations after steps 2, 4, 6 and 8; one at the end of an epoch comes twice, and counts once.
    assert [round(rate, 9) for rate, _ in rates.seen] == [0.05] * 8
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)


def test_a_plateau_follows_the_running_loss_without_an_evaluation() -> None:
    run, _ = scheduled({**PLATEAU, "monitor": "train/running_loss"}, epochs=12, evaluate=[])
    run.fit()
    assert run.optimizer.param_groups[0]["lr"] < 0.05


def test_a_plateau_follows_the_numbers_of_an_evaluation_of_a_plugin() -> None:
    class Scores:
        """Evaluates by a score of its own: 1, 2, 2, 2, 3 in the epochs."""

        @hookimpl
        def build_evaluation(self, run: RunView) -> Any:
            scores = (0.0, 1.0, 2.0, 2.0, 2.0, 3.0)  # the first one: the trial of the first batch
            return lambda batch: Evaluated(batch[1].mean(), numbers={"score": scores[run.epoch]})

    arguments = {"mode": "max", "patience": 0}
    plateau = {**PLATEAU, "monitor": "train/score", "arguments": arguments}
    run, rates = scheduled(plateau, Scores(), epochs=5)
    run.fit()
    # No better than before after the epochs 3 and 4.
    assert [rate for rate, _ in rates.seen[::STEPS_PER_EPOCH]] == pytest.approx([0.05, 0.05, 0.05, 0.005, 0.0005])


def test_a_resumed_plateau_continues_with_the_same_bits() -> None:
    whole, rates = scheduled(PLATEAU, epochs=8)
    whole.fit()
    for at in (1, 9, 20):
        run, seen = resumed(lambda: scheduled(PLATEAU, epochs=8), at)
        assert seen == rates.seen
        assert weights(run) == weights(whole)


def test_an_evaluation_does_not_count_again_when_a_run_resumes_at_the_end_of_its_epoch() -> None:
    never_better = {**PLATEAU, "arguments": {"patience": 2, "threshold": 0.99}}
    whole, rates = scheduled(never_better, epochs=4, evaluate_every_steps=2)
    whole.fit()
    assert resumed(lambda: scheduled(never_better, epochs=4, evaluate_every_steps=2), 4)[1] == rates.seen


# ---- warm-up and phases ----------------------------------------------------------------------------------------------


@BOTH
def test_the_warm_up_multiplies_the_scheduled_rate(interval: str) -> None:
    table = {"scheduler": "exponential", "arguments": {"gamma": 0.7}, "interval": interval}
    run, rates = scheduled({**table, "warmup_steps": 5, "warmup_factor": 0.1})
    run.fit()
    plain = by_hand(lambda o, n: lr_scheduler.ExponentialLR(o, 0.7), interval)
    factors = [0.1 + 0.9 * step / 5 for step in range(5)] + [1.0] * (NUM_STEPS - 5)
    assert [rate for rate, _ in rates.seen] == [rate * f for (rate, _), f in zip(plain, factors, strict=True)]


@BOTH
def test_phases_follow_each_other_as_torchs_sequence_has_them(interval: str) -> None:
    def sequence(optimizer: Optimizer, length: int) -> Scheduler:
        parts = [
            lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2),
            lr_scheduler.StepLR(optimizer, 1, 0.5),
            lr_scheduler.CosineAnnealingLR(optimizer, length - 4),
        ]
        return lr_scheduler.SequentialLR(optimizer, parts, [2, 4])

    phases: list[dict[str, Any]] = [
        {"scheduler": "linear", "arguments": {"start_factor": 0.1}, "length": 2},
        {"scheduler": "step", "arguments": {"step_size": 1, "gamma": 0.5}, "length": 2},
        {"scheduler": "cosine-annealing"},
    ]
    table = {"phases": phases, "interval": interval}
    run, rates = scheduled(table)
    run.fit()
    assert rates.seen == by_hand(sequence, interval)
    for at in (1, 6, 13):
        assert resumed(lambda: scheduled(table), at)[1] == rates.seen


def test_phases_are_tables_of_a_file(tmp_path: Any) -> None:
    lines = """
[callbacks.lr-schedule]
interval = "step"

[[callbacks.lr-schedule.phases]]
scheduler = "linear"
arguments = {start_factor = 0.1}
length = 5

[[callbacks.lr-schedule.phases]]
scheduler = "cosine-annealing"
"""
    (tmp_path / "run.toml").write_text(lines)
    choice = load_config(tmp_path / "run.toml").plugins[-1]
    assert [phase["scheduler"] for phase in choice.options["phases"]] == ["linear", "cosine-annealing"]


# ---- length, report, refusals ----------------------------------------------------------------------------------------


def test_the_length_of_the_run_is_limited_by_max_steps() -> None:
    run, _ = scheduled({"interval": "step"}, max_steps=10)
    run.fit()
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)
    epochs, _ = scheduled({}, max_steps=10)
    epochs.fit()
    assert epochs.optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)


def test_the_learning_rate_of_each_epoch_is_reported() -> None:
    run, rates = scheduled({})
    rows = run.fit().summary["learning rate at the end of epochs"]
    last = [rate for rate, _ in rates.seen[STEPS_PER_EPOCH - 1 :: STEPS_PER_EPOCH]]
    assert rows == [{"epoch": epoch, "lr": rate} for epoch, rate in enumerate(last, 1)]


def test_a_long_run_reports_evenly_spaced_epochs_and_the_last() -> None:
    run, _ = scheduled({}, epochs=41)
    rows = run.fit().summary["learning rate at the end of epochs"]
    assert [row["epoch"] for row in rows] == [*range(3, 40, 3), 41]


def test_each_parameter_group_has_its_own_learning_rate() -> None:
    def groups(model: nn.Linear) -> Optimizer:
        return SGD([{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.2}], lr=0.3)

    source = {"train": {"epochs": 2}, "callbacks": {"it": {"use": LRSchedule}}}
    rows = Run(load_config(source, plugins={"data": data(), "optimizer": groups})).fit().summary
    first = rows["learning rate at the end of epochs"][0]
    assert (first["lr 1"], first["lr 2"]) == (0.1, 0.2)


def test_a_learning_rate_that_is_a_tensor_stays_the_same_tensor() -> None:
    rate = torch.tensor(0.1)
    source = {"train": {"epochs": 2}, "callbacks": {"it": {"use": LRSchedule, "warmup_steps": 2}}}
    run = Run(
        load_config(source, plugins={"data": data(), "optimizer": lambda params: SGD(params, lr=rate, foreach=False)})
    )
    run.fit()
    assert run.optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0, abs=1e-7)


def test_a_skipped_first_update_causes_no_warning() -> None:
    class Refuses:
        @hookimpl(wrapper=True)
        def build_update(self, run: Run) -> Any:
            update = yield
            return lambda: update() if run.step else None

    source = {"train": {"epochs": 1}, "callbacks": {"it": {"use": LRSchedule, "interval": "step"}}}
    plugins = {"data": data(), "callbacks.refuses": Refuses()}
    assert Run(load_config(source, plugins=plugins)).fit().outcome == "completed"


@pytest.mark.parametrize("warmup_steps", [0, 5])
def test_steps_whose_update_was_skipped_do_not_count(warmup_steps: int) -> None:
    rates = []

    class Follows:
        @hookimpl(tryfirst=True)
        def on_step_end(self, run: Run) -> None:
            rates.append(run.optimizer.param_groups[0]["lr"])

    spoiled = torch.ones(40, 1)
    spoiled[[5, 17, 18]] = math.inf  # in steps 2 and 5
    inputs = TensorDataset(torch.ones(40, 1), spoiled)
    table = {"use": LRSchedule, "interval": "step", "scheduler": "exponential", "arguments": {"gamma": 0.5}}
    config = {
        "train": {"epochs": 1, "batch_size": 4, "shuffle": False, "non_finite": "skip", "evaluate": []},
        "callbacks": {"it": {**table, "warmup_steps": warmup_steps}},
    }

    plugins = {
        "data": DataSource(inputs, in_features=1),
        "model": nn.Linear(1, 1),
        "optimizer": lambda params: torch.optim.SGD(params, lr=1.0),
        "callbacks.follows": Follows(),
    }
    Run(load_config(config, plugins=plugins)).fit()
    updates = [0, 1, 1, 2, 3, 3, 4, 5, 6, 7]  # before each step
    factors = [min(1 / 3 + 2 / 3 * n / warmup_steps, 1) if warmup_steps else 1 for n in updates]
    assert rates == pytest.approx([0.5**n * factor for n, factor in zip(updates, factors, strict=True)])


def test_the_updates_that_mixed_precision_skips_do_not_count() -> None:
    inputs = torch.linspace(1, 2, 60).reshape(60, 1)
    source = DataSource(TensorDataset(inputs, 3000 * inputs), in_features=1)
    config = {
        "train": {"epochs": 1, "batch_size": 2, "evaluate": []},
        "callbacks": {
            "mixed-precision": {"dtype": "float16"},
            "it": {"use": LRSchedule, "interval": "step", "scheduler": "exponential", "arguments": {"gamma": 0.5}},
        },
    }
    optimizer = torch.optim.SGD
    model = nn.Linear(1, 1)
    run = Run(
        load_config(
            config, plugins={"data": source, "model": model, "optimizer": lambda params: optimizer(params, lr=1e-4)}
        )
    )
    run.fit()
    scale = run.state_dict()["plugins"]["callbacks.mixed-precision"]["scale"]["scale"]
    num_skipped = round(math.log2(2**16 / scale))
    assert num_skipped > 0
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 * 0.5 ** (30 - num_skipped), rel=1e-9, abs=0)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"scheduler": "cosine"}, "did you mean 'cosine-annealing'?"),
        ({"scheduler": "step", "arguments": {"step_siz": 1}}, "StepLR has no argument 'step_siz'; did you mean"),
        ({"scheduler": "step", "arguments": {"gamma": 0.1}}, "StepLR needs 'step_size'"),
        ({"scheduler": "step", "arguments": {"step_size": 1.5}}, "does not take step_size = 1.5: Expected `int`"),
        ({"scheduler": "exponential", "arguments": {"gamma": "a"}}, "does not take gamma = 'a'"),
        ({"scheduler": "cyclic", "arguments": {"base_lr": 1, "max_lr": 2, "scale_fn": "x"}}, "no argument 'scale_fn'"),
        ({"scheduler": "reduce-on-plateau"}, "`monitor` is required with"),
        ({"monitor": "train/loss"}, "and not allowed otherwise"),
        ({**PLATEAU, "interval": "step"}, "remove `interval`"),
        ({**PLATEAU, "monitor": "train/los"}, "did you mean 'train/loss'?"),
        ({**PLATEAU, "arguments": {"factor": 2.0}}, "ReduceLROnPlateau rejects its arguments: Factor should be < 1.0"),
        ({"scheduler": "one-cycle", "arguments": {"max_lr": 1, "total_steps": 5}}, "'total_steps' = 5, but it takes 6"),
        ({"phases": [{"scheduler": "step"}], "scheduler": "step"}, "give either `phases`, or `scheduler`"),
        ({"phases": [{"scheduler": "linear"}, {"scheduler": "constant"}]}, "phase 1 has length = None"),
        ({"phases": [{"scheduler": "linaer", "length": 1}]}, "did you mean 'linear'?"),
        ({"phases": [{"scheduler": "one-cycle"}]}, "it cannot be a phase; use it alone"),
        ({"phases": [{"scheduler": "linear", "lenght": 1}]}, "did you mean 'length'?"),
        ({"phases": [{"scheduler": "linear", "arguments": "x"}]}, "but expected a table"),
        ({"phases": [{"scheduler": "step", "arguments": {"gama": 1}}]}, "phase 1, `arguments`: torch's StepLR has no"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_arguments_that_torch_would_reject_are_refused_when_the_run_is_built(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        scheduled(table)
    assert words in str(caught.value)


def test_a_stream_without_end_needs_a_length() -> None:
    from torch.utils.data import IterableDataset

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([(torch.ones(3), torch.ones(1))] * 16)

    def over(table: Mapping[str, Any]) -> Run:
        source = {"train": {"epochs": 1}, "callbacks": {"it": {"use": LRSchedule, **table}}}
        return Run(load_config(source, plugins={"data": DataSource(Stream(), in_features=3, out_features=1)}))

    assert over({}).fit().outcome == "completed"
    with pytest.raises(ConfigError, match="'T_max', because the data have no length"):
        over({"interval": "step"})
    assert over({"interval": "step", "arguments": {"T_max": 9}}).fit().outcome == "completed"
