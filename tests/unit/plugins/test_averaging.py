"""Callback ``averaging``: evaluations see the average, and training is unaffected."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import TensorDataset

from hookline import DataSource, Outcome, Run, hookimpl, load_config
from hookline_plugins.weights.averaging import Averaging

EMA = {"method": "ema", "decay": 0.8}
SWA = {"method": "swa", "start_epoch": 2}
STEPS_PER_EPOCH = 3
Weights = dict[str, Tensor]


def data() -> DataSource:
    inputs = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    dataset = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    return DataSource(dataset, dataset, in_features=3, out_features=1)


class Net(nn.Module):
    """Layers with every kind of buffer: running statistics, a counter, and a mask of infinities."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.2)
        self.line = nn.Linear(3, 1)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, inputs: Tensor) -> Any:
        return self.line(self.drop(self.norm(inputs)))


def weights(model: nn.Module) -> Weights:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Eyes:
    """Records the weights that each event sees."""

    def __init__(self) -> None:
        self.steps: list[Weights] = []
        self.evaluated: list[Weights] = []
        self.epochs: list[Weights] = []
        self.before_end: Weights = {}

    @hookimpl
    def on_step_end(self, run: Run) -> None:
        self.steps.append(weights(run.unwrapped_model))

    @hookimpl
    def on_evaluation_end(self, run: Run) -> None:
        self.evaluated.append(weights(run.unwrapped_model))

    @hookimpl
    def on_epoch_end(self, run: Run) -> None:
        self.epochs.append(weights(run.unwrapped_model))


def averaged_run(options: Mapping[str, Any] | None, *, eyes: Any = None, plugins: Any = None, **train: Any) -> Run:
    callbacks: dict[str, Any] = {} if options is None else {"averaging": {"use": Averaging, **options}}
    source = {
        "train": {"epochs": 4, "batch_size": 4, "evaluate": ["validation"], **train},
        "optimizer": {"use": "adam", "lr": 0.05},
        "callbacks": callbacks,
    }
    extra = {"callbacks.eyes": eyes or Eyes(), **(plugins or {})}
    return Run(load_config(source, plugins={"data": data(), "model": lambda data: Net(), **extra}))


def trained(options: Mapping[str, Any] | None, **arguments: Any) -> tuple[Run, Eyes]:
    eyes = Eyes()
    run = averaged_run(options, eyes=eyes, **arguments)
    run.fit()
    return run, eyes


BOTH = pytest.mark.parametrize("options", [EMA, SWA], ids=["ema", "swa"])


@BOTH
def test_the_training_is_bit_identical_with_and_without_it(options: dict[str, Any]) -> None:
    _, plain = trained(None)
    raw, observed = trained({**options, "at_end": "raw"}, evaluate_every_steps=2)
    assert len(plain.steps) == len(observed.steps) == 12
    assert all(map(same, plain.steps, observed.steps))
    assert all(map(same, plain.epochs, observed.epochs))
    assert same(weights(raw.model), plain.steps[-1])


def ema_by_hand(steps: list[Weights]) -> Weights:
    """Return torch's own average of the same weights; counters and masks are those of the last step."""
    live, averaged = Net(), AveragedModel(Net(), multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)  # type: ignore[no-untyped-call]
    for each in steps:
        live.load_state_dict(each)
        averaged.update_parameters(live)
    counted = {name: steps[-1][name] for name in ("norm.num_batches_tracked", "mask")}
    return {**weights(averaged.module), **counted}


def test_ema_is_that_of_torchs_averaged_model() -> None:
    run, eyes = trained(EMA)
    for epoch in range(1, 5):
        assert same(eyes.evaluated[epoch - 1], ema_by_hand(eyes.steps[: epoch * STEPS_PER_EPOCH]))
    assert same(weights(run.model), ema_by_hand(eyes.steps))
    assert not same(weights(run.model), eyes.steps[-1])


def test_ema_is_the_recurrence_in_float64() -> None:
    run, eyes = trained(EMA, dtype="float64")
    expected = eyes.steps[0]["line.weight"]
    for each in eyes.steps[1:]:
        expected = 0.8 * expected + 0.2 * each["line.weight"]
    torch.testing.assert_close(run.model.state_dict()["line.weight"], expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", ["line.weight", "norm.running_mean", "norm.running_var"])
def test_swa_is_the_mean_of_the_epochs_ends_from_its_first_epoch_on(name: str) -> None:
    run, eyes = trained(SWA, dtype="float64")
    ends = [eyes.steps[epoch * STEPS_PER_EPOCH - 1][name] for epoch in (1, 2, 3, 4)]
    expected = [ends[0], ends[1], (ends[1] + ends[2]) / 2, (ends[1] + ends[2] + ends[3]) / 3]
    for seen, wanted in zip(eyes.evaluated, expected, strict=True):
        torch.testing.assert_close(seen[name], wanted, rtol=1e-13, atol=1e-15)
    assert torch.equal(run.model.state_dict()[name], eyes.evaluated[-1][name])


def test_buffers_without_finite_numbers_are_copied_from_the_model() -> None:
    for options in (EMA, SWA):
        run, eyes = trained(options)
        for name in ("norm.num_batches_tracked", "mask"):
            assert torch.equal(run.model.state_dict()[name], eyes.steps[-1][name])


@BOTH
def test_the_metrics_are_those_of_the_averaged_weights(options: dict[str, Any]) -> None:
    run, eyes = trained(options)
    again = averaged_run(None, epochs=0)
    again.model.load_state_dict(eyes.evaluated[-1])
    again.model.eval()
    inputs, targets = again.data.train[:]
    assert again.loss(again.model(inputs), targets).item() == pytest.approx(run.history[-1]["validation/loss"])
    raw, _ = trained(None)
    assert raw.history[-1]["validation/loss"] != run.history[-1]["validation/loss"]


def test_an_evaluation_within_an_epoch_sees_the_mean_with_the_current_weights() -> None:
    _, eyes = trained({"method": "swa"}, epochs=2, evaluate_every_steps=2, dtype="float64")
    # After steps 2, 3 (end of epoch 1), 4, and 6 twice (once within, once at the end of epoch 2).
    name = "line.weight"
    first, now = eyes.steps[2][name], eyes.steps[3][name]
    assert torch.equal(eyes.evaluated[0][name], eyes.steps[1][name])
    torch.testing.assert_close(eyes.evaluated[2][name], (first + now) / 2, rtol=1e-13, atol=0)


@BOTH
@pytest.mark.parametrize("at", [1, 3, 4, 7, 12])
def test_a_resumed_run_ends_with_the_same_bits(options: dict[str, Any], at: int) -> None:
    whole, _ = trained(options)
    first = averaged_run(options)
    for step in first.steps():
        if step.step == at:
            state = first.state_dict()
            break
    second = averaged_run(options)
    second.load_state_dict(state)
    second.fit()
    assert second.history == whole.history
    assert same(weights(second.model), weights(whole.model))


def test_a_run_that_the_program_leaves_keeps_its_own_weights_and_can_be_resumed() -> None:
    whole, _ = trained(EMA)
    left = averaged_run(EMA)
    for step in left.steps():
        if step.step == 5:
            break
    second = averaged_run(EMA)
    second.load_state_dict(left.state_dict())
    second.fit()
    assert same(weights(second.model), weights(whole.model))


class Wrapped(nn.Module):
    """A wrapper that changes the names of the weights, as compiling does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self._orig_mod = inner

    def forward(self, inputs: Tensor) -> Any:
        return self._orig_mod(inputs)


class Wraps:
    @hookimpl(wrapper=True)
    def build_model(self) -> Generator[None, nn.Module, nn.Module]:
        return Wrapped((yield))


@BOTH
def test_a_wrapped_model_has_the_same_average_under_the_same_names(options: dict[str, Any]) -> None:
    plain, _ = trained(options)
    run, _ = trained(options, plugins={"callbacks.wraps": Wraps()})
    assert isinstance(run.model, Wrapped)
    assert run.history == plain.history
    assert same(weights(run.unwrapped_model), weights(plain.model))
    averaging = next(member.instance for member in run._loop.host.members if member.table == "callbacks.averaging")
    assert isinstance(averaging, Averaging)
    assert not [name for name in averaging.state_dict()["average"] if "_orig_mod" in name]


def test_the_weights_of_a_wrapper_are_averaged_and_kept() -> None:
    class Shifted(Wrapped):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__(inner)
            self.shift = nn.Parameter(torch.zeros(()))

        def forward(self, inputs: Tensor) -> Any:
            return self._orig_mod(inputs) + self.shift

    class Shifts:
        def __init__(self) -> None:
            self.seen: list[Tensor] = []

        @hookimpl(wrapper=True)
        def build_model(self) -> Generator[None, nn.Module, nn.Module]:
            return Shifted((yield))

        @hookimpl
        def on_step_end(self, run: Run) -> None:
            self.seen.append(run.model.state_dict()["shift"].clone())

    shifts = Shifts()
    run, _ = trained(EMA, plugins={"callbacks.shifts": shifts}, dtype="float64")
    expected = shifts.seen[0]
    for each in shifts.seen[1:]:
        expected = 0.8 * expected + 0.2 * each
    torch.testing.assert_close(run.model.state_dict()["shift"], expected, rtol=1e-13, atol=0)


class FailsIn:
    def __init__(self, event: str) -> None:
        self.event = event
        self.at_end: Weights = {}

    @hookimpl
    def on_evaluation_start(self) -> None:
        if self.event == "on_evaluation_start":
            raise RuntimeError("no evaluation")

    @hookimpl
    def on_evaluation_end(self) -> None:
        if self.event == "on_evaluation_end":
            raise RuntimeError("no evaluation")

    @hookimpl
    def on_run_end(self, run: Run, outcome: Outcome) -> None:
        assert outcome == "failed"
        self.at_end = weights(run.model)


@BOTH
@pytest.mark.parametrize("event", ["on_evaluation_start", "on_evaluation_end"])
def test_a_failed_evaluation_leaves_the_trained_weights(options: dict[str, Any], event: str) -> None:
    eyes, fails = Eyes(), FailsIn(event)
    run = averaged_run({**options, "start_epoch": 1}, eyes=eyes, plugins={"callbacks.fails": fails})
    with pytest.raises(RuntimeError, match="no evaluation"):
        run.fit()
    assert same(fails.at_end, eyes.steps[-1])
    assert same(weights(run.model), eyes.steps[-1])


def test_only_updates_count_and_not_the_steps_that_accumulate() -> None:
    class EverySecond:
        @hookimpl(wrapper=True)
        def build_update(self, run: Run) -> Generator[None, Callable[[], None], Callable[[], None]]:
            update = yield
            return lambda: update() if run.step % 2 else None

    run, eyes = trained(EMA, plugins={"callbacks.second": EverySecond()}, dtype="float64")
    expected = eyes.steps[1]["line.weight"]
    for each in eyes.steps[3::2]:
        expected = 0.8 * expected + 0.2 * each["line.weight"]
    torch.testing.assert_close(run.model.state_dict()["line.weight"], expected, rtol=1e-13, atol=0)


def test_the_optimizer_is_not_followed_after_the_run() -> None:
    run, _ = trained(EMA)
    assert not run.optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start_epoch": 9, "decay": 0.5}, "averaging starts at epoch 9, but the run has 4"),
        ({"decay": 0.99}, "spans about 100 updates, but the run has 12 steps"),
    ],
)
def test_an_average_over_too_few_updates_causes_a_warning(options: dict[str, Any], words: str) -> None:
    run, _ = trained(options)
    assert [message for message in run.warnings if words in message]
    assert not trained(EMA)[0].warnings
