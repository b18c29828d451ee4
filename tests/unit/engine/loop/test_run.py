"""``Run``: the loop, its events for each outcome, its random numbers, its silence."""

from __future__ import annotations

import functools
import math
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from hookline import (
    ConfigError,
    ContractError,
    DataError,
    DataSource,
    NonFiniteError,
    Outcome,
    PluginError,
    Run,
    RunResult,
    TrainingError,
    hookimpl,
    load_config,
    train,
)
from hookline_plugins.callbacks.early_stopping import EarlyStopping

SMALL = {"train": {"epochs": 2, "batch_size": 4}, "data": {"num_examples": 8}}


@dataclass
class Recorder:
    """Records every event, and can raise in one of them."""

    name: str = ""
    events: list[str] = field(default_factory=list)
    raise_in: str = ""
    error: BaseException = field(default_factory=lambda: RuntimeError("out of paper"))

    def _note(self, event: str) -> None:
        self.events.append(f"{self.name}{event}")
        if event.partition(" ")[0] == self.raise_in:
            raise self.error

    @hookimpl
    def on_run_start(self, run: Run) -> None:
        self._note("run_start")

    @hookimpl
    def on_epoch_start(self, run: Run) -> None:
        self._note(f"epoch_start {run.epoch}")

    @hookimpl
    def on_step_end(self, run: Run, loss: Tensor) -> None:
        self._note(f"step_end {run.step}")

    @hookimpl
    def on_evaluation_end(self, run: Run, metrics: Mapping[str, float]) -> None:
        self._note("evaluation_end " + " ".join(metrics))

    @hookimpl
    def on_epoch_end(self, run: Run, metrics: Mapping[str, float]) -> None:
        self._note(f"epoch_end {run.epoch} " + " ".join(metrics))

    @hookimpl
    def on_run_error(self, run: Run, error: BaseException) -> None:
        self._note(f"run_error {type(error).__name__}")

    @hookimpl
    def on_run_end(self, run: Run, outcome: Outcome) -> None:
        self._note(f"run_end {outcome}")


def transcript(recorder: Recorder, *overrides: str, **plugins: Any) -> list[str]:
    train(load_config(SMALL, overrides, plugins={"callbacks.recorder": recorder, **plugins}))
    return recorder.events


EPOCH_1 = [
    "epoch_start 1",
    "step_end 1",
    "step_end 2",
    "evaluation_end train/loss",
    "epoch_end 1 train/running_loss train/loss",
]
EPOCH_2 = [
    "epoch_start 2",
    "step_end 3",
    "step_end 4",
    "evaluation_end train/loss",
    "epoch_end 2 train/running_loss train/loss",
]


# ---- the weights ----------------------------------------------------------------------------------------------------


def test_final_weights_are_bit_identical_to_those_of_a_hand_written_loop() -> None:
    run = Run(load_config())
    dataset = run.data.train
    assert isinstance(dataset, TensorDataset)
    features, targets = dataset.tensors
    model = nn.Linear(2, 1)
    model.load_state_dict(run.model.state_dict())
    orders = [run.batch_order(epoch) for epoch in (1, 2, 3)]

    loss_function = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    for order in orders:
        for rows in torch.split(order, 10):
            optimizer.zero_grad()
            loss = loss_function(model(features[rows]), targets[rows])
            loss.backward()
            optimizer.step()

    result = run.fit()
    for name, weight in model.state_dict().items():
        assert torch.equal(result.model.state_dict()[name], weight), name


def test_the_default_run_learns_the_true_weights() -> None:
    result = train()
    assert [row["true"] for row in result.summary["learned and true parameters"]] == [2.0, -3.4, 4.2]
    assert all(abs(float(row["error"] or 0)) < 0.01 for row in result.summary["learned and true parameters"])
    # The loss of the true weights: the variance of the noise, 0.01 squared.
    assert result.metrics["train/loss"] == pytest.approx(1e-4, rel=0.1)
    assert [sorted(row) for row in result.history] == [["train/loss", "train/running_loss"]] * 3


class Drawing(Dataset[Any]):
    """Items of two features and three targets, of which each is drawn."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.rand(2), torch.rand(3)


class Failing(Drawing):
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        raise OSError("the disk is gone")


class Sized(IterableDataset[Any]):
    """A stream that says how long it is, and can be read once."""

    def __init__(self) -> None:
        self.examples = iter([(torch.zeros(2), torch.zeros(1))] * 8)

    def __len__(self) -> int:
        return 8

    def __iter__(self) -> Iterator[Any]:
        return self.examples


ROWS = TensorDataset(torch.zeros(8, 2), torch.zeros(8, 3))
CLASSES = TensorDataset(torch.zeros(8, 2), torch.zeros(8, dtype=torch.int64))
IMAGES = TensorDataset(torch.zeros(8, 1, 4, 4), torch.zeros(8, 2))
TOKENS = TensorDataset(torch.zeros(8, 5, dtype=torch.int64), torch.zeros(8, 1))


@pytest.mark.parametrize(
    ("data", "sizes"),
    [
        (DataSource(ROWS), (2, 3)),
        (DataSource(Drawing()), (2, 3)),
        (DataSource(ROWS, out_features=3), (2, 3)),
        (DataSource(ROWS, in_features=7), (7, 3)),  # a size that is given is not corrected
        (DataSource(CLASSES), (2, None)),
        (DataSource(IMAGES), (None, 2)),
        (DataSource(TOKENS), (None, 1)),
        (DataSource(ROWS, collate=torch.utils.data.default_collate), (None, None)),
        (DataSource(Sized()), (None, None)),
    ],
)
def test_a_model_gets_the_sizes_that_the_first_example_has(
    data: DataSource, sizes: tuple[int | None, int | None]
) -> None:
    seen: list[tuple[int | None, int | None]] = []

    def model(data: DataSource) -> nn.Module:
        seen.append((data.in_features, data.out_features))
        raise ValueError("the sizes are all that is asked for")

    with pytest.raises(ValueError, match="all that is asked for"):
        Run(load_config(plugins={"data": data, "model": model}))
    assert seen == [sizes]


def test_a_look_at_the_sizes_draws_no_random_numbers_of_the_run() -> None:
    given = DataSource(Drawing(), in_features=2, out_features=3)
    states = [
        train({"train": {"epochs": 1, "batch_size": 4}}, plugins={"data": data})
        for data in (given, DataSource(Drawing()))
    ]
    assert states[0].history == states[1].history


def test_an_example_that_cannot_be_read_is_reported_as_such() -> None:
    with pytest.raises(DataError, match="OSError: the disk is gone"):
        Run(load_config(plugins={"data": DataSource(Failing()), "model": nn.Linear(2, 3)}))


@pytest.mark.parametrize("weights", [[1.5], [0.5, -1.0, 2.0, 3.0, -0.25]])
def test_any_number_of_features_is_learned(weights: list[float]) -> None:
    result = train({"data": {"true_w": weights}, "train": {"epochs": 6}})
    learned = [float(row["learned"] or 0) for row in result.summary["learned and true parameters"]]
    assert learned == pytest.approx([*weights, 4.2], abs=0.01)


def test_running_loss_is_the_mean_over_examples_also_with_a_ragged_last_batch() -> None:
    run = Run(
        load_config({"train": {"epochs": 1, "batch_size": 3}, "data": {"num_examples": 8}, "optimizer": {"lr": 0.0}})
    )
    result = run.fit()
    assert result.metrics["train/running_loss"] == pytest.approx(result.metrics["train/loss"], rel=1e-6)


def test_the_seed_decides_everything_and_each_part_of_it() -> None:
    first, again, other = (train(SMALL, {"train.seed": seed}) for seed in (7, 7, 8))
    assert weights_of(first) == weights_of(again)
    assert weights_of(first) != weights_of(other)


def test_float64_runs_in_float64() -> None:
    result = train(SMALL, {"train.dtype": "float64"})
    assert {p.dtype for p in result.model.parameters()} == {torch.float64}


def test_a_full_batch_is_one_step() -> None:
    assert train(SMALL, {"train.batch_size": "all"}).steps == 2


def test_no_epochs_is_a_run_that_takes_no_step() -> None:
    result = train(SMALL, {"train.epochs": 0})
    assert (result.outcome, result.steps, result.history, result.metrics) == ("completed", 0, (), {})


# ---- the events under each ending -----------------------------------------------------------------------------------


def test_transcript_of_a_completed_run() -> None:
    assert transcript(Recorder()) == ["run_start", *EPOCH_1, *EPOCH_2, "run_end completed"]


def test_transcript_of_a_run_without_evaluation() -> None:
    events = transcript(Recorder(), "train.evaluate=[]", "train.epochs=1")
    expected = ["run_start", "epoch_start 1", "step_end 1", "step_end 2", "epoch_end 1 train/running_loss"]
    assert events == [*expected, "run_end completed"]


class StopIn:
    """Requests a stop in one event."""

    def __init__(self, event: str) -> None:
        self._event = event

    @hookimpl
    def on_step_end(self, run: Run) -> None:
        if self._event == "step":
            run.request_stop("enough")

    @hookimpl
    def on_epoch_end(self, run: Run) -> None:
        if self._event == "epoch":
            run.request_stop("enough")


def test_transcript_of_a_run_that_a_plugin_stops_at_the_end_of_an_epoch() -> None:
    recorder = Recorder()
    events = transcript(recorder, **{"callbacks.stop": StopIn("epoch")})
    assert events == ["run_start", *EPOCH_1, "run_end stopped"]


def test_transcript_of_a_run_that_a_plugin_stops_in_a_step() -> None:
    recorder = Recorder()
    run = Run(load_config(SMALL, plugins={"callbacks.recorder": recorder, "callbacks.stop": StopIn("step")}))
    result = run.fit()
    assert (result.outcome, result.stop_reason, result.steps) == ("stopped", "enough", 1)
    step_2 = EPOCH_1.index("step_end 2")
    assert recorder.events == ["run_start", *EPOCH_1[:step_2], *EPOCH_1[step_2 + 1 :], "run_end stopped"]


def test_transcript_of_a_run_when_the_host_leaves_its_steps() -> None:
    recorder = Recorder()
    run = Run(load_config(SMALL, plugins={"callbacks.recorder": recorder}))
    steps = run.steps()
    assert next(steps).step == 1
    steps.close()  # type: ignore[attr-defined] # a generator
    assert recorder.events == ["run_start", "epoch_start 1", "step_end 1", "run_end stopped"]
    assert run.result().outcome == "stopped"


def test_transcript_of_an_interrupted_run() -> None:
    recorder = Recorder(raise_in="step_end", error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        transcript(recorder)
    expected = ["run_start", "epoch_start 1", "step_end 1", "run_error KeyboardInterrupt", "run_end interrupted"]
    assert recorder.events == expected


@pytest.mark.parametrize("event", ["epoch_start", "step_end", "evaluation_end", "epoch_end"])
def test_transcript_of_a_run_that_fails_in_an_event(event: str) -> None:
    recorder = Recorder(raise_in=event)
    with pytest.raises(RuntimeError, match="out of paper") as caught:
        transcript(recorder)
    until = next(number for number, entry in enumerate(EPOCH_1) if entry.startswith(event))
    expected = ["run_start", *EPOCH_1[: until + 1], "run_error RuntimeError", "run_end failed"]
    assert recorder.events == expected
    assert f"raised in hook 'on_{event}' of callback 'Recorder' (given from Python)" in caught.value.__notes__
    assert any(note.startswith("in epoch 1 of 2, after ") for note in caught.value.__notes__)


def test_a_run_that_fails_while_it_starts_ends_only_the_plugins_that_were_started() -> None:
    plugins = {
        "callbacks.first": Recorder("first "),
        "callbacks.second": Recorder("second ", raise_in="run_start"),
        "callbacks.third": Recorder("third "),
    }
    with pytest.raises(RuntimeError, match="out of paper") as caught:
        train(SMALL, plugins=plugins)
    assert plugins["callbacks.first"].events == [
        "first run_start",
        "first run_error RuntimeError",
        "first run_end failed",
    ]
    assert plugins["callbacks.second"].events == ["second run_start"]
    assert plugins["callbacks.third"].events == []
    assert "before the first epoch" in caught.value.__notes__


def test_a_failing_callback_neither_stops_others_from_closing_nor_hides_an_earlier_error() -> None:
    first = Recorder("first ", raise_in="step_end", error=ValueError("the first error"))
    second = Recorder("second ", raise_in="run_end", error=OSError("disk gone"))
    third = Recorder("third ", raise_in="run_error", error=KeyError("k"))
    with pytest.raises(ValueError, match="the first error") as caught:
        train(SMALL, plugins={"callbacks.a": first, "callbacks.b": second, "callbacks.c": third})
    for recorder in (first, second, third):
        assert recorder.events[-2:] == [f"{recorder.name}run_error ValueError", f"{recorder.name}run_end failed"]
    notes = "\n".join(caught.value.__notes__)
    assert "and then OSError: disk gone" in notes
    assert "and then KeyError: 'k'" in notes


def test_an_error_in_closing_is_raised_when_nothing_else_was() -> None:
    recorder = Recorder(raise_in="run_end", error=OSError("disk gone"))
    other = Recorder("other ")
    run = Run(load_config(SMALL, plugins={"callbacks.a": recorder, "callbacks.b": other}))
    with pytest.raises(OSError, match="disk gone"):
        run.fit()
    assert other.events[-1] == "other run_end completed"
    assert run.outcome == "failed"


@pytest.mark.parametrize("ending", [SystemExit(0), StopIteration(), GeneratorExit()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("event", ["run_start", "step_end", "epoch_end"])
def test_a_plugin_cannot_end_the_program_or_the_loop(ending: BaseException, event: str) -> None:
    run = Run(load_config(SMALL, plugins={"callbacks.recorder": Recorder(raise_in=event, error=ending)}))
    with pytest.raises(TrainingError, match=type(ending).__name__) as caught:
        run.fit()
    assert run.outcome == "failed"
    assert caught.value.hook == f"on_{event}"
    assert "request_stop" in str(caught.value)


def test_events_come_in_the_order_of_the_config() -> None:
    events: list[str] = []
    plugins = {f"callbacks.{name}": Recorder(f"{name} ", events) for name in ("b", "a", "c")}
    train(SMALL, {"train.epochs": 0}, plugins=plugins)
    assert events == [f"{name} {event}" for event in ("run_start", "run_end completed") for name in ("b", "a", "c")]


# ---- the host owns the loop -----------------------------------------------------------------------------------------


def test_steps_are_those_of_fit() -> None:
    stepped, fitted = Run(load_config(SMALL)), Run(load_config(SMALL))
    steps = list(stepped.steps())
    assert [(step.epoch, step.step) for step in steps] == [(1, 1), (1, 2), (2, 3), (2, 4)]
    assert all(step.loss.dim() == 0 and not step.loss.requires_grad for step in steps)
    assert weights_of(stepped.result()) == weights_of(fitted.fit())


def test_a_run_is_begun_only_once() -> None:
    run = Run(load_config(SMALL))
    run.fit()
    with pytest.raises(TrainingError, match="already begun"):
        run.fit()


def test_a_run_that_is_not_over_has_no_result() -> None:
    with pytest.raises(TrainingError, match="not over"):
        Run(load_config(SMALL)).result()


def test_a_complete_config_takes_no_overrides() -> None:
    with pytest.raises(TypeError, match="load_config"):
        train(load_config(SMALL), ["train.epochs=1"])


def test_a_run_takes_a_complete_config_alone() -> None:
    with pytest.raises(TypeError, match="not a dict: pass that to hookline"):
        Run(cast(Any, SMALL))


# ---- nothing global -------------------------------------------------------------------------------------------------


def dropout_model(data: DataSource) -> nn.Module:
    return nn.Sequential(nn.Linear(data.in_features or 0, 8), nn.Dropout(0.5), nn.Linear(8, 1))


def weights_of(result: RunResult) -> list[list[float]]:
    return [weight.flatten().tolist() for weight in result.model.state_dict().values()]


def dropout_run(seed: int) -> Run:
    return Run(load_config(SMALL, {"train.seed": seed, "data.num_examples": 40}, plugins={"model": dropout_model}))


def test_two_runs_interleaved_equal_the_same_two_run_apart() -> None:
    apart = [weights_of(dropout_run(seed).fit()) for seed in (1, 2)]
    runs = [dropout_run(seed) for seed in (1, 2)]
    loops = [run.steps() for run in runs]
    for pair in zip(*loops, strict=True):
        torch.rand(5)
        assert len(pair) == 2
    for loop in loops:
        assert next(loop, None) is None
    assert [weights_of(run.result()) for run in runs] == apart


def test_a_run_inside_another_changes_neither() -> None:
    apart = [weights_of(dropout_run(seed).fit()) for seed in (1, 2)]
    inner: list[list[list[float]]] = []

    class Nested:
        @hookimpl
        def on_epoch_start(self, run: Run) -> None:
            inner.append(weights_of(dropout_run(2).fit()))

    config = load_config(SMALL, {"train.seed": 1, "data.num_examples": 40}, plugins={"model": dropout_model})
    assert weights_of(train(config)) == apart[0]
    outer = Run(
        load_config(
            SMALL,
            {"train.seed": 1, "data.num_examples": 40},
            plugins={"model": dropout_model, "callbacks.nested": Nested()},
        )
    )
    assert weights_of(outer.fit()) == apart[0]
    assert inner == [apart[1]] * 2


def test_numbers_drawn_by_the_program_do_not_change_the_run() -> None:
    torch.manual_seed(1)
    first = weights_of(dropout_run(0).fit())
    torch.manual_seed(2)
    torch.rand(17)
    assert weights_of(dropout_run(0).fit()) == first


def snapshot() -> dict[str, Any]:
    import logging

    return {
        "torch rng": torch.get_rng_state().tolist(),
        "python rng": random.getstate(),
        "threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad": torch.is_grad_enabled(),
        "cwd": os.getcwd(),  # noqa: PTH109 - the value that must not change
        "environment": dict(os.environ),
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "logging": (logging.root.level, list(logging.root.handlers)),
        "warnings": list(warnings.filters),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook),
        "path": list(sys.path),
    }


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_is_silent_and_changes_nothing_global(fails: bool, capfd: pytest.CaptureFixture[str]) -> None:
    Run(load_config(SMALL))  # torch sets up some of it on first use
    before = snapshot()
    run = dropout_run(3)
    if fails:
        run = Run(load_config(SMALL, plugins={"callbacks.recorder": Recorder(raise_in="step_end")}))
        with pytest.raises(RuntimeError):
            run.fit()
    else:
        for _ in run.steps():
            assert snapshot() == before
    assert snapshot() == before
    assert capfd.readouterr() == ("", "")


def test_a_run_works_in_a_thread() -> None:
    expected = weights_of(train(SMALL))
    results: list[RunResult] = []
    thread = threading.Thread(target=lambda: results.append(train(SMALL)))
    thread.start()
    thread.join()
    assert weights_of(results[0]) == expected


# ---- broken promises, told before the first step --------------------------------------------------------------------


def pairs(features: Tensor, targets: Tensor) -> DataSource:
    return DataSource(TensorDataset(features, targets), in_features=2, out_features=1)


@pytest.mark.parametrize("loss", ["mse", "l1", "huber", "bce-with-logits"])
def test_a_target_that_would_be_broadcast_is_refused_by_name(loss: str) -> None:
    with pytest.raises(ContractError) as caught:
        Run(load_config({"loss": {"use": loss}}, plugins={"data": pairs(torch.zeros(8, 2), torch.zeros(8))}))
    for words in [f"loss {loss!r}", "prediction is [8, 1] float32", "target is [8] float32", "broadcast"]:
        assert words in str(caught.value)


def no_targets() -> DataSource:
    return DataSource(TensorDataset(torch.zeros(4, 2)), in_features=2, out_features=1)


def returns_text(data: DataSource) -> Any:
    return "net"


def forgot_to_return(data: DataSource) -> Any:
    nn.Linear(2, 1)


@pytest.mark.parametrize(
    ("plugins", "error", "words"),
    [
        ({"model": forgot_to_return}, ContractError, ["build_model", "returned nothing", "without a return"]),
        ({"model": returns_text}, ContractError, ["build_model", "returned a str", "must return a Module"]),
        ({"data": lambda run: [1, 2]}, ContractError, ["build_data", "returned a list", "DataSource"]),
        ({"optimizer": lambda params: (params,)}, ContractError, ["build_optimizer", "returned a tuple", "Optimizer"]),
        ({"model": lambda data: nn.Linear(5, 1)}, ContractError, ["fails on the first batch", "[10, 2] float32"]),
        ({"loss": lambda run: lambda p, t: (p - t) ** 2}, ContractError, ["[10, 1] float32", "scalar"]),
        ({"loss": lambda run: lambda p, t: (p - t).detach().mean()}, ContractError, ["depends on the prediction"]),
        (
            {"loss": lambda run: lambda p, t: (p - t).mean() * math.nan},
            NonFiniteError,
            ["first batch of the train split", "is nan, before any step"],
        ),
        ({"loss": lambda run: nn.NLLLoss()}, ContractError, ["given from Python", "target [10, 1] float32"]),
        ({"data": pairs(torch.zeros(0, 2), torch.zeros(0, 1))}, DataError, ["train split", "empty"]),
        ({"data": pairs(torch.full((4, 2), math.inf), torch.zeros(4, 1))}, DataError, ["has a non-finite input"]),
        (
            {"data": DataSource(TensorDataset(torch.zeros(4, 2)), in_features=2, out_features=1)},
            DataError,
            ["pairs (input, target)"],
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_component_that_breaks_its_contract_is_refused_when_the_run_is_built(
    plugins: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        Run(load_config({}, {"train.batch_size": 10}, plugins=plugins))
    for word in words:
        assert word in str(caught.value)


def test_a_loss_that_grows_beyond_all_bounds_ends_the_run() -> None:
    recorder = Recorder()
    with pytest.raises(
        NonFiniteError, match=r"the loss is (nan|inf) in step 4 \(epoch 1\), before the weights"
    ) as caught:
        train({"optimizer": {"lr": 1e6}}, plugins={"callbacks.recorder": recorder})
    assert caught.value.exit_code == 6
    assert recorder.events[-2:] == ["run_error NonFiniteError", "run_end failed"]


def test_a_metric_given_twice_is_an_error() -> None:
    class Twice:
        @hookimpl
        def build_metrics(self) -> dict[str, Any]:
            return {"accuracy": None}

    labels = DataSource(TensorDataset(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)), None, None, 2, 3)
    with pytest.raises(ContractError, match="'accuracy', which exists already"):
        Run(load_config({"loss": {"use": "cross-entropy"}}, plugins={"data": labels, "callbacks.twice": Twice()}))


# ---- other kinds of data, steps and models --------------------------------------------------------------------------


class Squares(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= 10:
            raise IndexError(index)
        x = torch.tensor([index / 10.0, 1.0])
        return x, x[:1] ** 2


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (Squares()[index] for index in range(10))


def test_a_map_style_dataset_trains_like_its_tensors() -> None:
    columns = zip(*(Squares()[index] for index in range(10)), strict=True)
    tensors = TensorDataset(*(torch.stack(column) for column in columns))
    results = [
        train(SMALL, plugins={"data": DataSource(dataset, in_features=2, out_features=1)})
        for dataset in (Squares(), tensors)
    ]
    assert weights_of(results[0]) == weights_of(results[1])


def test_a_stream_is_read_from_its_beginning_in_every_epoch() -> None:
    run = Run(load_config(SMALL, plugins={"data": DataSource(Stream(), in_features=2, out_features=1)}))
    assert run.steps_per_epoch is None
    assert run.fit().steps == 2 * 3


def test_a_stream_that_can_be_read_once_trains_for_one_epoch_on_every_example() -> None:
    class Once(Stream):
        def __init__(self) -> None:
            self.examples = super().__iter__()

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return self.examples

    once, again = (
        train(
            {"train": {"epochs": 1, "batch_size": 4}}, plugins={"data": DataSource(each, in_features=2, out_features=1)}
        )
        for each in (Once(), Stream())
    )
    assert (once.steps, weights_of(once)) == (3, weights_of(again))
    data = DataSource(Once(), in_features=2, out_features=1)
    with pytest.raises(DataError, match=r"the train split of .* yields no batch in epoch 2"):
        train({"train": {"epochs": 2}}, plugins={"data": data})


@pytest.mark.parametrize("hook", ["build_loss", "on_epoch_start"])
@pytest.mark.parametrize(
    "name", ["model", "optimizer", "step", "epoch", "outcome", "data", "config", "shared", "warnings", "learning_rate"]
)
def test_a_plugin_cannot_set_what_belongs_to_the_run(name: str, hook: str) -> None:
    class Sets:
        @hookimpl(wrapper=True)
        def build_loss(self, run: Run) -> Generator[None, Any, Any]:
            if hook == "build_loss":
                setattr(run, name, None)
            return (yield)

        @hookimpl
        def on_epoch_start(self, run: Run) -> None:
            setattr(run, name, None)

    with pytest.raises(AttributeError) as caught:
        train(SMALL, plugins={"callbacks.sets": Sets()})
    assert str(caught.value) == f"run.{name} cannot be set, only run.micro_batch_size and run.num_ahead can"
    assert f"raised in hook {hook!r} of callback 'Sets' (given from Python)" in caught.value.__notes__


class OwnStep:
    """Implements the step, for batches that are mappings."""

    @hookimpl
    def build_step(self, run: Run) -> Callable[[Any], Tensor]:
        def step(batch: dict[str, Tensor]) -> Tensor:
            run.optimizer.zero_grad()
            loss: Tensor = (run.model(batch["x"]) - batch["y"]).square().mean()
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated
            run.optimizer.step()
            return loss.detach()

        return step


class Mappings(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": torch.ones(2), "y": torch.ones(1)}


def test_a_plugin_that_implements_the_step_may_use_any_batches() -> None:
    plugins = {"data": DataSource(Mappings(), in_features=2, out_features=1), "callbacks.step": OwnStep()}
    result = train(SMALL, {"train.evaluate": []}, plugins=plugins)
    assert result.steps == 4


# ---- modes -----------------------------------------------------------------------------------------------------------


class Backbone(nn.Module):
    """A backbone with batch normalization, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        prediction: Tensor = self.head(self.backbone(inputs))
        return prediction


class FixesBackbone:
    """Puts the backbone into eval mode and freezes its weights when an epoch begins; undoes it in a later one."""

    def __init__(self, first_epoch: int, until: int = 100) -> None:
        self.first_epoch, self.until, self.modes = first_epoch, until, list[bool]()

    @hookimpl
    def on_epoch_start(self, run: Run) -> None:
        if run.epoch in (self.first_epoch, self.until):
            backbone = cast(Any, run.unwrapped_model).backbone
            backbone.train(mode=run.epoch == self.until)
            backbone.requires_grad_(requires_grad=run.epoch == self.until)

    @hookimpl
    def on_step_end(self, run: Run) -> None:
        model = cast(Any, run.unwrapped_model)
        self.modes.append(model.backbone[1].training)
        assert (model.training, model.head.training) == (True, True)


@pytest.mark.parametrize("every", [0, 2])
def test_modes_that_a_plugin_set_are_kept_over_evaluations_and_epochs(every: int) -> None:
    fixes = FixesBackbone(2, until=4)
    options = {"train": {"epochs": 4, "batch_size": 250, "evaluate_every_steps": every}}
    train(options, plugins={"model": Backbone(), "callbacks.fixes": fixes})
    assert fixes.modes == [True] * 4 + [False] * 8 + [True] * 4


@pytest.mark.parametrize("num_steps", [1, 5, 6, 8, 13])
def test_modes_that_a_plugin_set_are_part_of_the_state(num_steps: int) -> None:
    def begun() -> tuple[FixesBackbone, Run]:
        fixes = FixesBackbone(2, until=4)
        torch.manual_seed(0)
        options = {"train": {"epochs": 4, "batch_size": 250}}
        return fixes, Run(load_config(options, plugins={"model": Backbone(), "callbacks.fixes": fixes}))

    whole, first, (fixes, second) = begun()[1].fit(), begun()[1], begun()
    steps = first.steps()
    for _ in range(num_steps):
        next(steps)
    state = first.state_dict()
    second.load_state_dict(state)
    assert second.state_dict()["modes"] == state["modes"]
    assert weights_of(second.fit()) == weights_of(whole)
    assert fixes.modes == ([True] * 4 + [False] * 8 + [True] * 4)[num_steps:]


def test_modes_that_follow_from_the_config_are_not_part_of_the_state() -> None:
    class FixesAtStart:
        @hookimpl
        def on_run_start(self, run: Run) -> None:
            cast(Any, run.unwrapped_model).backbone.eval().requires_grad_(requires_grad=False)

    run = Run(load_config({"train": {"epochs": 1}}, plugins={"model": Backbone(), "callbacks.fixes": FixesAtStart()}))
    next(run.steps())
    assert run.state_dict()["modes"] == []


class Thaws:
    """Freezes the weights of the backbone when the run starts, and thaws them in the second epoch or with its state."""

    def __init__(self) -> None:
        self.is_done = False

    def _set(self, run: Run, *, trained: bool) -> None:
        cast(Any, run.unwrapped_model).backbone.requires_grad_(requires_grad=trained)

    @hookimpl
    def on_run_start(self, run: Run) -> None:
        self.run = run
        self._set(run, trained=False)

    @hookimpl
    def on_epoch_start(self, run: Run) -> None:
        if run.epoch == 2:
            self.is_done = True
            self._set(run, trained=True)

    def state_dict(self) -> dict[str, Any]:
        return {"is_done": self.is_done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.is_done = state["is_done"]
        if self.is_done:
            self._set(self.run, trained=True)


def test_a_plugin_may_restore_with_its_state_the_modes_that_it_set() -> None:
    def begun() -> Run:
        torch.manual_seed(0)
        options = {"train": {"epochs": 4, "batch_size": 250}}
        return Run(load_config(options, plugins={"model": Backbone(), "callbacks.thaws": Thaws()}))

    whole, first, second = begun().fit(), begun(), begun()
    second.load_state_dict(next(first.state_dict() for step in first.steps() if step.step == 9))
    assert weights_of(second.fit()) == weights_of(whole)


def test_a_model_that_is_in_eval_mode_as_a_whole_is_trained_in_training_mode() -> None:
    modes: list[bool] = []

    class Sets:
        @hookimpl
        def on_epoch_start(self, run: Run) -> None:
            modes.append(all(module.training for module in run.model.modules()))
            run.model.eval()

        @hookimpl
        def on_step_end(self, run: Run) -> None:
            modes.append(all(module.training for module in run.model.modules()))

    options = {"train": {"epochs": 2, "batch_size": "all"}}
    train(options, plugins={"model": Backbone().eval(), "callbacks.sets": Sets()})
    assert modes == [True] * 4


def test_a_loss_that_is_a_module_is_evaluated_in_eval_mode() -> None:
    class Noisy(nn.Module):
        """The squared error, ten times as large in training."""

        def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
            return (prediction - target).square().mean() * (10 if self.training else 1)

    model, config = nn.Linear(2, 1), {"train": {"epochs": 1, "batch_size": "all"}, "optimizer": {"lr": 1e-30}}
    metrics = train(config, plugins={"model": model, "loss": Noisy()}).metrics
    assert metrics["train/running_loss"] == pytest.approx(10 * metrics["train/loss"], rel=1e-6)


# ---- the last batch --------------------------------------------------------------------------------------------------


def examples(num: int) -> DataSource:
    inputs = torch.arange(2.0 * num).reshape(num, 2) / num
    return DataSource(TensorDataset(inputs, inputs[:, :1]), in_features=2, out_features=1)


@pytest.mark.parametrize(
    ("num", "options"),
    [(41, {"batch_size": 10}), (40, {"batch_size": 10, "micro_batch_size": 3}), (13, {"batch_size": 12})],
)
def test_the_smallest_batch_is_tried_in_training_mode_before_the_first_step(
    num: int, options: Mapping[str, Any]
) -> None:
    model: Any = Backbone()
    with pytest.raises(ContractError) as caught:
        Run(load_config({"train": options}, plugins={"data": examples(num), "model": model}))
    assert str(caught.value) == (
        "model 'Backbone' (given from Python) fails in training mode on 1 example, the smallest batch of the train "
        "split of data 'DataSource' (given from Python): ValueError: Expected more than 1 value per channel when "
        "training, got input size torch.Size([1, 4])\n"
        "  = set train.drop_last = true to leave out a smaller last batch, or change train.batch_size"
    )
    Run(load_config({"train": {"batch_size": 10}}, plugins={"data": examples(42), "model": model}))
    norm: Any = model.backbone[1]
    assert (norm.num_batches_tracked, norm.running_mean.tolist()) == (0, [0.0] * 4)


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_last_batch_is_left_out_if_it_is_smaller(is_stream: bool) -> None:
    sizes: list[int] = []

    class Sizes:
        @hookimpl(wrapper=True)
        def build_step(self) -> Generator[None, Any, Any]:
            step = yield

            def noted(batch: Any) -> Any:
                sizes.append(len(batch[0]))
                return step(batch)

            return noted

    data = DataSource(Stream(), in_features=2, out_features=1) if is_stream else examples(10)
    options = {"epochs": 2, "batch_size": 3, "drop_last": True}
    result = train({"train": options}, plugins={"data": data, "model": Backbone(), "callbacks.sizes": Sizes()})
    assert (result.steps, sizes) == (6, [3] * 6)


def test_another_example_is_left_out_in_each_epoch() -> None:
    run = Run(load_config({"train": {"batch_size": 3, "drop_last": True}}, plugins={"data": examples(10)}))
    whole = Run(load_config({"train": {"batch_size": 3}}, plugins={"data": examples(10)}))
    for epoch in (1, 2, 3):
        assert run.batch_order(epoch).tolist() == whole.batch_order(epoch).tolist()[:9]
    assert (run.steps_per_epoch, run.num_steps) == (3, 9)


class Doubled:
    """Wraps the step: every batch is used twice."""

    @hookimpl(wrapper=True)
    def build_step(self, run: Run) -> Any:
        step = yield
        return lambda batch: (step(batch), step(batch))[1]


def test_a_wrapper_of_the_default_step_gets_the_default_step() -> None:
    plain, doubled = train(SMALL), train(SMALL, plugins={"callbacks.doubled": Doubled()})
    assert doubled.metrics["train/loss"] < plain.metrics["train/loss"]


def test_a_lazy_module_gets_its_sizes_from_the_first_batch() -> None:
    result = train(SMALL, plugins={"model": lambda run: nn.LazyLinear(1)})
    assert result.outcome == "completed"


def test_batch_normalization_is_not_touched_by_the_trial_of_the_first_batch() -> None:
    run = Run(load_config(SMALL, plugins={"model": lambda data: nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))}))
    assert run.model.state_dict()["0.num_batches_tracked"].item() == 0


@pytest.mark.parametrize(
    "target",
    [nn.Linear(2, 1), lambda data: nn.Linear(data.in_features, 1), lambda: nn.Linear(2, 1)],
    ids=["a module", "a function of the data", "a function of nothing"],
)
def test_a_model_may_be_a_module_or_a_function(target: Any) -> None:
    assert train(SMALL, plugins={"model": target}).outcome == "completed"


def test_a_plain_torch_optimizer_is_a_plugin() -> None:
    run = Run(load_config(SMALL, plugins={"optimizer": torch.optim.Adagrad}))
    assert isinstance(run.optimizer, torch.optim.Adagrad)


def test_early_stopping_refuses_a_metric_that_the_run_does_not_measure() -> None:
    with pytest.raises(ConfigError, match="did you mean 'train/loss'"):
        train(SMALL, ["callbacks.early-stopping.monitor=train/los"])


def test_early_stopping_stops() -> None:
    result = train(
        SMALL,
        {
            "train.epochs": 50,
            "optimizer.lr": 0.0,
            "callbacks.early-stopping.monitor": "train/loss",
            "callbacks.early-stopping.patience": 2,
        },
    )
    assert (result.outcome, result.epochs) == ("stopped", 3)
    assert result.stop_reason == "train/loss did not improve for 2 epochs"


def test_try_step_leaves_no_events_behind() -> None:
    recorder = Recorder()
    step = next(Run(load_config(SMALL, plugins={"callbacks.recorder": recorder})).try_steps())
    assert math.isfinite(step.loss.item())
    assert recorder.events == []


@pytest.mark.parametrize(
    ("plugins", "owner"),
    [
        ({"callbacks.step": OwnStep()}, r"callback 'OwnStep' \(given from Python\)"),
        ({"optimizer": torch.optim.LBFGS}, "the optimizer LBFGS"),
    ],
    ids=["a plugin", "an optimizer with a closure"],
)
def test_a_step_that_does_not_split_batches_is_refused_with_micro_batches(plugins: Any, owner: str) -> None:
    config = {**SMALL, "train": {**SMALL["train"], "evaluate": [], "micro_batch_size": 2}}
    with pytest.raises(ConfigError, match=f"the step of {owner} does not split batches"):
        Run(load_config(config, plugins=plugins))


def test_a_step_of_a_plugin_can_declare_that_it_splits_batches() -> None:
    class Splits(OwnStep):
        @hookimpl
        def build_step(self, run: Run) -> Any:
            run.micro_batch_size = run.config.train.micro_batch_size
            return super().build_step(run)

    config = {**SMALL, "train": {**SMALL["train"], "evaluate": [], "micro_batch_size": 2}}
    assert Run(load_config(config, plugins={"callbacks.step": Splits()})).micro_batch_size == 2


class Rotation(nn.Module):
    """Rotates pairs of numbers by fixed angles, and multiplies them by complex weights."""

    rotation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rotation", torch.polar(torch.ones(1), torch.ones(1)))
        self.weight = nn.Parameter(torch.tensor([1.0 + 2.0j]))
        self.register_buffer("counts", torch.tensor([3]))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(inputs) * self.rotation * self.weight)[:, :1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_complex_tensors_keep_their_imaginary_part_in_the_precision_of_the_run(dtype: str) -> None:
    run = Run(load_config(SMALL, {"train.dtype": dtype}, plugins={"model": Rotation}))
    kinds = {name: value.dtype for name, value in run.model.state_dict().items()}
    wide = torch.complex64 if dtype == "float32" else torch.complex128
    assert kinds == {"rotation": wide, "weight": wide, "counts": torch.int64}
    assert run.model.state_dict()["rotation"].item() == pytest.approx(math.cos(1) + 1j * math.sin(1), abs=1e-7)
    x, y = 0.5, -2.0
    prediction = run.model(torch.tensor([[x, y]], dtype=getattr(torch, dtype)))
    expected = ((x + 1j * y) * (math.cos(1) + 1j * math.sin(1)) * (1 + 2j)).real
    assert prediction.item() == pytest.approx(expected, rel=1e-6)
    assert run.fit().outcome == "completed"


def other_models_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)


def optimizer_of_the_bias(model: nn.Linear) -> torch.optim.Optimizer:
    return torch.optim.SGD([model.bias], lr=0.1)


def optimizer_of_the_bias_twice(model: nn.Linear) -> torch.optim.Optimizer:
    with warnings.catch_warnings(action="ignore"):  # torch warns
        return torch.optim.SGD([model.bias, *model.parameters()], lr=0.1)


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (optimizer_of_the_bias_twice, "has 1 parameters more than once"),
        (other_models_optimizer, "2 parameters of another model"),
        (optimizer_of_the_bias, "lacks parameters of the model: weight"),
    ],
)
def test_an_optimizer_without_the_models_parameters_is_refused(optimizer: Any, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        Run(load_config(SMALL, plugins={"optimizer": optimizer}))


def test_frozen_parameters_need_no_optimizer() -> None:
    model = nn.Linear(2, 1)
    model.weight.requires_grad_(False)
    before = model.weight.clone()
    train(SMALL, plugins={"model": model, "optimizer": optimizer_of_the_bias})
    assert torch.equal(model.weight, before)


def test_a_loss_may_be_a_function_of_prediction_and_target() -> None:
    result = train(SMALL, plugins={"loss": nn.functional.mse_loss})
    assert weights_of(result) == weights_of(train(SMALL))


@dataclass
class Collects:
    """Collects words in a list that is an option."""

    words: list[str] = field(default_factory=list)

    @hookimpl
    def on_epoch_end(self, run: Run) -> None:
        self.words.append("again")


def test_changes_of_a_plugin_to_its_options_stay_in_its_run() -> None:
    config = load_config(SMALL, plugins={"callbacks.c": Collects})
    for _ in range(2):
        train(config)
        assert config.plugins[-1].options["words"] == config.settings["callbacks.c.words"].value == []


def test_options_of_a_class_given_from_python_can_be_set() -> None:
    config = load_config(SMALL, {"callbacks.c.words": ["a"]}, plugins={"callbacks.c": Collects})
    assert config.plugins[-1].options == {"words": ["a"]}
    with pytest.raises(ConfigError, match=r"unknown key 'model\.width'"):
        load_config(SMALL, {"model.width": 3}, plugins={"model": nn.Linear(2, 1)})


# ---- what the data, the model and the step can do wrong --------------------------------------------------------------


class Quits(nn.Module):
    """Tries to end the program in training."""

    def __init__(self, ending: BaseException) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.ending = ending

    def forward(self, inputs: Tensor) -> Any:
        if self.training:
            raise self.ending
        return self.layer(inputs)


@pytest.mark.parametrize("ending", [SystemExit(0), StopIteration(), GeneratorExit()], ids=lambda e: type(e).__name__)
def test_a_component_cannot_end_the_program_or_the_loop(ending: BaseException) -> None:
    run = Run(load_config(SMALL, plugins={"model": Quits(ending)}))
    with pytest.raises(TrainingError, match=type(ending).__name__) as caught:
        run.fit()
    assert (caught.value.epoch, caught.value.step, run.outcome) == (1, 0, "failed")


class Truncated(Squares):
    """Raises at one index."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == 7:
            raise EOFError("truncated file")
        return super().__getitem__(index)


class WithoutLength(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return None


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (Truncated(), ["example 7 of the train split of data 'DataSource'", "EOFError: truncated file"]),
        (WithoutLength(), ["the train split of data 'DataSource'", ", a WithoutLength, has no length"]),
        (None, ["a NoneType, has no length"]),
    ],
)
def test_a_dataset_that_fails_is_a_data_error_that_names_it(dataset: Any, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        train(SMALL, plugins={"data": DataSource(dataset, in_features=2, out_features=1)})
    for word in words:
        assert word in str(caught.value)


class StepThatGives:
    def __init__(self, value: Any) -> None:
        self._value = value

    @hookimpl
    def build_step(self) -> Any:
        return lambda batch: self._value


@pytest.mark.parametrize("value", [None, 0.5, torch.zeros(2), torch.zeros((), requires_grad=True)], ids=str)
def test_a_step_must_return_a_detached_scalar(value: Any) -> None:
    with pytest.raises(ContractError, match="the step returned"):
        list(Run(load_config(SMALL, plugins={"callbacks.step": StepThatGives(value)})).steps())


def test_a_validation_split_of_another_shape_is_refused_before_the_first_step() -> None:
    data = pairs(torch.zeros(8, 2), torch.zeros(8, 1))
    wrong = DataSource(data.train, TensorDataset(torch.zeros(8, 2), torch.zeros(8)), in_features=2, out_features=1)
    with pytest.raises(ContractError, match="would be broadcast"):
        Run(load_config(SMALL, plugins={"data": wrong}))


def test_a_custom_loss_that_would_broadcast_is_refused() -> None:
    def squares(prediction: Tensor, target: Tensor) -> Tensor:
        return ((prediction - target) ** 2).mean()

    with pytest.raises(ContractError, match="would be broadcast"):
        Run(load_config(SMALL, plugins={"loss": squares, "data": pairs(torch.randn(8, 2), torch.randn(8))}))


def test_a_custom_loss_that_reshapes_itself_is_accepted() -> None:
    def squares(prediction: Tensor, target: Tensor) -> Tensor:
        return ((prediction.squeeze(1) - target) ** 2).mean()

    assert (
        Run(load_config(SMALL, plugins={"loss": squares, "data": pairs(torch.randn(8, 2), torch.randn(8))})).fit().steps
        == 4
    )


def test_evaluation_of_batches_that_are_no_pairs_is_refused_at_once() -> None:
    plugins = {"data": DataSource(Mappings(), in_features=2, out_features=1), "callbacks.step": OwnStep()}
    with pytest.raises(DataError, match=r"train\.evaluate = \[\]"):
        Run(load_config(SMALL, plugins=plugins))


class Measures:
    def __init__(self, metrics: Any) -> None:
        self._metrics = metrics

    @hookimpl
    def build_metrics(self) -> Any:
        return self._metrics


@pytest.mark.parametrize(
    ("metrics", "words"), [({"loss": None}, "'loss', which exists already"), (None, "returned nothing")]
)
def test_metrics_must_have_names_of_their_own(metrics: Any, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        Run(load_config(SMALL, plugins={"callbacks.metrics": Measures(metrics)}))


def test_data_and_plugins_that_draw_random_numbers_draw_the_runs() -> None:
    def noise() -> DataSource:
        inputs = torch.randn(8, 2)
        return pairs(inputs, inputs.sum(1, keepdim=True))

    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(weights_of(train({"train": SMALL["train"]}, plugins={"data": noise})))
        assert torch.equal(torch.get_rng_state(), before)
    assert results[0] == results[1]


@pytest.mark.parametrize("without_gradients", [torch.no_grad, torch.inference_mode])
def test_a_program_that_has_switched_gradients_off_can_train(without_gradients: Callable[[], Any]) -> None:
    expected = weights_of(train(SMALL))
    with without_gradients():
        run = Run(load_config(SMALL))
        mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        for _ in run.steps():
            assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == mode
        assert weights_of(run.result()) == weights_of(train(SMALL)) == expected
    assert not any(parameter.is_inference() for parameter in run.model.parameters())


def test_a_model_without_anything_to_train_is_named() -> None:
    frozen = nn.Linear(2, 1).requires_grad_(False)
    with pytest.raises(ContractError, match=r"model 'Linear' .* no parameter requires a gradient"):
        Run(load_config(SMALL, plugins={"model": frozen}))


def test_a_loss_with_weights_has_the_runs_dtype() -> None:
    loss = nn.CrossEntropyLoss(weight=torch.ones(3))
    labels = DataSource(TensorDataset(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)), None, None, 2, 3)
    assert train(SMALL, {"train.dtype": "float64"}, plugins={"data": labels, "loss": loss}).outcome == "completed"


def test_an_object_given_as_an_option_is_the_object_that_the_plugin_gets() -> None:
    lock = threading.Lock()

    @dataclass
    class Holds:
        lock: Any = None

        @hookimpl
        def on_run_end(self, run: Run) -> None:
            run.report("lock", [{"same": self.lock is lock}])

    config = load_config({**SMALL, "callbacks": {"h": {"use": Holds, "lock": lock}}})
    assert train(config).summary["lock"] == [{"same": True}]


def test_one_callback_object_serves_two_runs() -> None:
    stopping = EarlyStopping(monitor="train/loss", patience=1)
    overrides = {"train.epochs": 50, "optimizer.lr": 0.0}
    assert [train(SMALL, overrides, plugins={"callbacks.s": stopping}).epochs for _ in range(2)] == [2, 2]


class WrapsWrongly:
    def __init__(self, how: str) -> None:
        self._how = how

    @hookimpl(wrapper=True)
    def build_model(self) -> Any:
        if self._how == "did not yield":
            return None
        model = yield
        if self._how == "yielded twice":
            yield
        return model if self._how != "returned nothing" else None


@pytest.mark.parametrize("how", ["did not yield", "yielded twice", "returned nothing"])
def test_a_wrapper_that_breaks_the_form_is_named(how: str) -> None:
    with pytest.raises(PluginError, match=rf"wrapper 'build_model' of callback 'WrapsWrongly' .* {how}"):
        Run(load_config(SMALL, plugins={"callbacks.w": WrapsWrongly(how)}))


def test_evaluation_goes_through_the_data_in_batches_of_their_own_size() -> None:
    sizes: list[int] = []

    class Sizes:
        def update(self, prediction: Tensor, target: Tensor) -> None:
            sizes.append(len(target))

        def compute(self) -> float:
            return 0.0

        def reset(self) -> None: ...

    plugins = {"callbacks.m": Measures({"n": Sizes()})}
    results = [train(SMALL, {"train.epochs": 1, "train.eval_batch_size": size}, plugins=plugins) for size in (3, 1024)]
    trial = [4]  # the first batch of the training
    assert sizes == [*trial, 3, 3, 2, *trial, 8]
    assert results[0].metrics["train/loss"] == pytest.approx(results[1].metrics["train/loss"])


# ---- warnings and observers ------------------------------------------------------------------------------------------


class Hears:
    """Records warnings."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @hookimpl
    def on_warning(self, run: Run, message: str) -> None:
        self.heard.append(message)
        assert run.warnings[-1] == message


def test_a_warning_reaches_every_plugin_and_the_result_and_the_run_continues() -> None:
    class Warns:
        @hookimpl
        def build_metrics(self, run: Run) -> dict[str, Any]:
            run.warn("while it is built")
            return {}

        @hookimpl
        def on_epoch_end(self, run: Run) -> None:
            run.warn(f"epoch {run.epoch}")

    hears = Hears()
    result = train(SMALL, plugins={"callbacks.warns": Warns(), "callbacks.hears": hears})
    assert result.outcome == "completed"
    assert result.warnings == ("while it is built", "epoch 1", "epoch 2")
    assert hears.heard == ["epoch 1", "epoch 2"]


def test_a_callback_that_is_tolerated_fails_without_ending_the_run() -> None:
    broken = Recorder(raise_in="epoch_end", error=ConnectionError("no route"))
    hears = Hears()
    plugins = {"callbacks.broken": broken, "callbacks.hears": hears}
    result = train(SMALL, {"callbacks.broken.on_error": "warn"}, plugins=plugins)
    assert result.outcome == "completed"
    assert result.warnings == tuple(hears.heard)
    assert (
        "callbacks.broken failed and is disabled for the rest of the run: ConnectionError: no route" in hears.heard[0]
    )
    assert broken.events == ["run_start", *EPOCH_1, "run_end completed"]


def test_a_callback_that_is_not_tolerated_ends_the_run() -> None:
    with pytest.raises(ConnectionError):
        train(SMALL, plugins={"callbacks.broken": Recorder(raise_in="epoch_end", error=ConnectionError())})


# ---- state -----------------------------------------------------------------------------------------------------------


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Examples with noise from torch's global generator."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.randn(3) + index, torch.tensor([float(index)])


class Counts:
    """Counts the steps, as state."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.num_steps = 0

    @hookimpl
    def on_run_start(self) -> None:
        self.log.append("start")
        self.num_steps = 0

    @hookimpl
    def on_step_end(self) -> None:
        self.num_steps += 1

    @hookimpl
    def on_run_end(self, run: Run) -> None:
        run.report("counted", [{"steps": self.num_steps}])

    def state_dict(self) -> dict[str, int]:
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.log.append("load")
        self.num_steps = state["num_steps"]


def stateful_run(overrides: Mapping[str, Any] | None = None) -> Run:
    """Return a run that depends on every kind of state: 3 epochs of 4 batches, the last one smaller."""
    data = DataSource(Augmented(), Augmented(), in_features=3, out_features=1)
    config = {
        "train": {"epochs": 3, "batch_size": 3, "evaluate": ["validation"]},
        "model": {"use": "mlp", "hidden": [8], "dropout": 0.5},
        "optimizer": {"use": "adam"},
        "callbacks": {"early-stopping": {"monitor": "validation/loss", "patience": 2}},
    }
    return Run(load_config(config, overrides or {}, plugins={"data": data, "callbacks.counts": Counts()}))


@pytest.fixture(scope="module")
def uninterrupted() -> RunResult:
    return stateful_run().fit()


@pytest.mark.parametrize("num_steps", [0, 1, 3, 4, 5, 8, 11, 12])
def test_a_run_that_loads_the_state_of_another_ends_with_the_same_bits(
    uninterrupted: RunResult, num_steps: int
) -> None:
    first = stateful_run()
    if num_steps:
        for step in first.steps():
            if step.step == num_steps:
                state = first.state_dict()
                break
    else:
        state = first.state_dict()
    torch.rand(5)
    second = stateful_run()
    second.load_state_dict(state)
    result = second.fit()
    assert result.history == uninterrupted.history
    assert weights_of(result) == weights_of(uninterrupted)
    assert result.summary == {"counted": [{"steps": 12}]}
    assert (result.steps, result.epochs, result.outcome) == (12, 3, "completed")


def test_a_run_can_be_interrupted_twice_in_one_epoch(uninterrupted: RunResult) -> None:
    state = None
    for stop in (5, 7):
        run = stateful_run()
        if state is not None:
            run.load_state_dict(state)
        for step in run.steps():
            if step.step == stop:
                state = run.state_dict()
                break
    assert state is not None
    run = stateful_run()
    run.load_state_dict(state)
    assert weights_of(run.fit()) == weights_of(uninterrupted)


def test_the_state_is_a_copy_that_the_run_no_longer_changes() -> None:
    run = stateful_run()
    states = [run.state_dict() for step in run.steps() if step.step in (2, 3)]
    first, second = (state["model"]["0.weight"] for state in states)
    assert not torch.equal(first, second)
    assert not torch.equal(second, run.model.state_dict()["0.weight"])


def test_a_plugin_gets_its_state_when_it_was_started() -> None:
    run = stateful_run()
    run.load_state_dict(stateful_run().state_dict())
    run.fit()
    counts = next(member.instance for member in run._loop.host.members if member.table == "callbacks.counts")
    assert isinstance(counts, Counts)
    assert counts.log == ["start", "load"]


def test_a_run_that_was_stopped_in_a_step_still_ends_its_epoch_when_resumed() -> None:
    class Stops:
        @hookimpl
        def on_step_end(self, run: Run) -> None:
            if run.step == 1:
                run.request_stop("enough")

    def stopping() -> tuple[Run, Recorder]:
        recorder = Recorder()
        return Run(load_config(SMALL, plugins={"callbacks.stops": Stops(), "callbacks.recorder": recorder})), recorder

    first, _ = stopping()
    next(first.steps())
    second, recorder = stopping()
    second.load_state_dict(first.state_dict())
    assert second.fit().outcome == "stopped"
    assert [event.partition(" ")[0] for event in recorder.events] == [
        "run_start",
        "evaluation_end",
        "epoch_end",
        "run_end",
    ]


def test_a_run_has_no_state_within_an_event() -> None:
    class Asks:
        @hookimpl
        def on_step_end(self, run: Run) -> None:
            run.state_dict()

    with pytest.raises(TrainingError, match="no state to save within a step or an event"):
        train(SMALL, plugins={"callbacks.asks": Asks()})


def test_a_state_is_loaded_before_the_first_step() -> None:
    run = Run(load_config(SMALL))
    state = run.state_dict()
    run.fit()
    with pytest.raises(TrainingError, match="the run has already begun"):
        run.load_state_dict(state)


def test_the_state_of_another_model_is_refused() -> None:
    other = Run(load_config(SMALL, plugins={"model": nn.Linear(2, 1, bias=False)}))
    with pytest.raises(ContractError, match="this state belongs to a different run: Error"):
        Run(load_config(SMALL)).load_state_dict(other.state_dict())


class AddsALayer:
    """Wraps the model in layers with weights and buffers."""

    @hookimpl(wrapper=True)
    def build_model(self) -> Any:
        model = yield
        return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), model)


def wrapped_run() -> Run:
    return Run(load_config(SMALL, plugins={"callbacks.layer": AddsALayer()}))


def test_the_state_separates_the_model_from_its_wrappers() -> None:
    state = wrapped_run().state_dict()
    assert list(state["model"]) == ["weight", "bias"]
    batch_norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert list(state["wrappers"]) == ["0.weight", "0.bias", *(f"1.{name}" for name in batch_norm)]
    assert not any(value.requires_grad for value in (*state["model"].values(), *state["wrappers"].values()))


def test_a_run_with_a_wrapper_that_has_weights_resumes_to_the_last_bit() -> None:
    whole = wrapped_run().fit()
    first, second = wrapped_run(), wrapped_run()
    second.load_state_dict(next(first.state_dict() for step in first.steps() if step.step == 3))
    result = second.fit()
    assert result.history == whole.history
    assert weights_of(result) == weights_of(whole)


def test_the_state_of_other_wrappers_is_refused() -> None:
    with pytest.raises(ContractError, match=r"the wrappers of the model differ in 0\.bias, 0\.weight, 1\.bias"):
        Run(load_config(SMALL)).load_state_dict(wrapped_run().state_dict())


def test_the_state_of_other_plugins_is_refused_with_their_tables() -> None:
    with_counts = Run(load_config(SMALL, plugins={"callbacks.counts": Counts()}))
    without = Run(load_config(SMALL))
    with pytest.raises(ContractError, match=r"the run has no 'callbacks\.counts' with a state"):
        without.load_state_dict(with_counts.state_dict())
    with pytest.raises(ContractError, match=r"there is no state for 'callbacks\.counts'"):
        with_counts.load_state_dict(without.state_dict())


# ---- how long, and when it is evaluated ------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_steps", "epochs"), [(1, 1), (2, 1), (3, 2), (4, 2), (9, 2)])
def test_a_run_is_complete_after_the_set_steps_and_ends_its_epoch(max_steps: int, epochs: int) -> None:
    recorder = Recorder()
    run = Run(load_config(SMALL, {"train.max_steps": max_steps}, plugins={"callbacks.recorder": recorder}))
    assert run.num_steps == min(max_steps, 4)
    result = run.fit()
    assert (result.outcome, result.steps, result.epochs) == ("completed", min(max_steps, 4), epochs)
    assert recorder.events[-2].startswith(f"epoch_end {epochs}")
    assert len(result.history) == epochs


def test_a_run_is_stopped_when_its_time_has_passed_and_has_the_reason() -> None:
    result = train(SMALL, {"train.epochs": 10**6, "train.max_time_s": 0.05})
    assert result.outcome == "stopped"
    assert result.stop_reason == "train.max_time_s = 0.05 has passed"
    assert 0 < result.steps < 10**6


def test_the_time_of_a_resumed_run_continues() -> None:
    first = Run(load_config(SMALL, {"train.max_time_s": 1000.0}))
    next(first.steps())
    state = first.state_dict()
    state["used_s"] = 1000.0
    second = Run(load_config(SMALL, {"train.max_time_s": 1000.0}))
    second.load_state_dict(state)
    assert second.fit().steps == 1


def evaluated_after(**train_options: int) -> list[str]:
    events: list[str] = []

    class Notes:
        @hookimpl
        def on_evaluation_start(self, run: Run) -> None:
            events.append(f"start {run.step}")

        @hookimpl
        def on_evaluation_end(self, run: Run) -> None:
            events.append(f"end {run.step}")

    config = {"train": {"epochs": 5, "batch_size": 4, **train_options}, "data": {"num_examples": 8}}
    train(config, plugins={"callbacks.notes": Notes()})
    assert events[::2] == [event.replace("end", "start") for event in events[1::2]]
    return [event.removeprefix("end ") for event in events[1::2]]


def test_evaluations_follow_the_set_epochs_and_the_last() -> None:
    assert evaluated_after(evaluate_every_epochs=2) == ["4", "8", "10"]
    assert evaluated_after(evaluate_every_epochs=0) == []
    assert evaluated_after(evaluate_every_epochs=2, max_steps=5) == ["4", "5"]


def test_evaluations_follow_the_set_steps_in_addition_to_those_of_epochs() -> None:
    assert evaluated_after(evaluate_every_epochs=0, evaluate_every_steps=3) == ["3", "6", "9"]
    assert evaluated_after(evaluate_every_epochs=5, evaluate_every_steps=5) == ["5", "10"]


def test_evaluating_in_mid_epoch_does_not_disturb_the_training() -> None:
    often = stateful_run({"train.evaluate_every_steps": 1}).fit()
    never = stateful_run({"train.evaluate_every_epochs": 0, "callbacks.early-stopping": "off"}).fit()
    assert weights_of(often) == weights_of(never)


# ---- the parts of a step ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 99])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(size: int) -> None:
    # 25 examples in batches of 10: the last batch is smaller, and so are the last parts of each.
    config = {"train": {"epochs": 4, "batch_size": 10, "dtype": "float64"}, "data": {"num_examples": 25}}
    whole, parts = train(config), train(config, {"train.micro_batch_size": size})
    assert whole.steps == parts.steps == 12
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        # 4 units in the last place of a float64 around 1.
        assert torch.allclose(one, other, rtol=4 * torch.finfo(torch.float64).eps, atol=1e-15)
    assert parts.metrics["train/running_loss"] == pytest.approx(whole.metrics["train/running_loss"], rel=1e-12)


def test_parts_as_large_as_the_batch_change_no_bit() -> None:
    assert weights_of(train(SMALL, {"train.micro_batch_size": 4})) == weights_of(train(SMALL))


def test_backward_and_update_are_wrapped_in_the_order_of_the_config_and_called_once_a_step() -> None:
    log: list[str] = []

    class Wraps:
        def __init__(self, name: str) -> None:
            self.name = name

        @hookimpl(wrapper=True)
        def build_backward(self) -> Any:
            backward = yield

            def logged(loss: Tensor) -> None:
                log.append(f"{self.name} backward")
                backward(loss)

            return logged

        @hookimpl(wrapper=True)
        def build_update(self) -> Any:
            update = yield

            def logged() -> None:
                log.append(f"{self.name} update")
                update()

            return logged

    plugins = {"callbacks.a": Wraps("a"), "callbacks.b": Wraps("b")}
    result = train(SMALL, {"train.max_steps": 1, "train.micro_batch_size": 2}, plugins=plugins)
    assert log == ["b backward", "a backward"] * 2 + ["b update", "a update"]
    assert weights_of(result) == weights_of(train(SMALL, {"train.max_steps": 1, "train.micro_batch_size": 2}))


def test_an_update_cannot_be_wrapped_where_the_optimizer_makes_several_in_a_step() -> None:
    class Wraps:
        @hookimpl(wrapper=True)
        def build_update(self) -> Any:
            return functools.partial((yield))

    with pytest.raises(ContractError, match="LBFGS updates the weights several times per step"):
        Run(load_config(SMALL, {"optimizer": "lbfgs"}, plugins={"callbacks.wraps": Wraps()}))


def test_an_optimizer_with_a_closure_refuses_an_update_that_a_plugin_builds() -> None:
    class Builds:
        @hookimpl
        def build_update(self) -> Callable[[], None]:
            return lambda: None

    with pytest.raises(ContractError, match="LBFGS updates the weights several times per step"):
        Run(load_config(SMALL, {"optimizer": "lbfgs"}, plugins={"callbacks.builds": Builds()}))


def test_the_unwrapped_model_is_the_one_that_the_model_plugin_built() -> None:
    class Wraps:
        @hookimpl(wrapper=True)
        def build_model(self) -> Any:
            model = yield
            return nn.Sequential(model)

    net = nn.Linear(2, 1)
    run = Run(load_config(SMALL, plugins={"model": net, "callbacks.wraps": Wraps()}))
    assert run.unwrapped_model is net
    assert isinstance(run.model, nn.Sequential)


def test_the_data_compare_the_learned_weights_of_a_wrapped_model() -> None:
    class Wraps:
        @hookimpl(wrapper=True)
        def build_model(self) -> Any:
            return nn.Sequential((yield))

    wrapped = train({"train": {"epochs": 1}}, plugins={"callbacks.wraps": Wraps()})
    assert wrapped.summary == train({"train": {"epochs": 1}}).summary


# ---- the order of examples -------------------------------------------------------------------------------------------


class OddOnly:
    """Uses only the examples with odd indices, in reverse."""

    def __init__(self, order: Callable[[int], Any] = lambda epoch: torch.arange(7, 0, -2)) -> None:
        self.order = order

    @hookimpl
    def build_order(self, run: Run, data: DataSource) -> Callable[[int], Any]:
        assert data is run.data
        return self.order


def test_a_plugin_orders_the_examples_and_the_batches_follow() -> None:
    run = Run(load_config(SMALL, plugins={"callbacks.order": OddOnly()}))
    assert run.batch_order(1).tolist() == [7, 5, 3, 1]
    assert run.steps_per_epoch == 1
    assert [run.batch_order(step.epoch).tolist() for step in run.steps()] == [[7, 5, 3, 1]] * 2


@pytest.mark.parametrize(
    "order",
    [
        lambda e: [1, 2],
        lambda e: torch.tensor([0.0]),
        lambda e: torch.tensor([8]),
        lambda e: torch.tensor([], dtype=torch.int64),
    ],
    ids=["list", "float", "beyond", "empty"],
)
def test_an_order_that_is_not_a_list_of_indices_is_an_error_of_the_data(order: Callable[[int], Any]) -> None:
    with pytest.raises(
        DataError, match=r"the order of the train split of data .* is not a list of indices of its 8 examples"
    ):
        Run(load_config(SMALL, plugins={"callbacks.order": OddOnly(order)}))


# ---- steps for trying a run out --------------------------------------------------------------------------------------


def test_trial_steps_are_those_of_the_run_epoch_after_epoch_without_end_and_without_events() -> None:
    recorder = Recorder()
    steps = Run(load_config(SMALL, plugins={"callbacks.recorder": recorder})).try_steps()
    tried = [next(steps) for _ in range(6)]
    assert [(step.epoch, step.step) for step in tried] == [(1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (3, 6)]
    assert recorder.events == []
    trained = [step.loss.item() for step in Run(load_config(SMALL)).steps()]
    assert [step.loss.item() for step in tried[:4]] == trained


def test_trial_steps_use_up_a_run_and_leave_the_global_random_generator_alone() -> None:
    run = Run(load_config(SMALL, {"model": {"use": "mlp", "dropout": 0.5}}))
    before = torch.get_rng_state()
    steps = run.try_steps()
    next(steps)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(TrainingError, match="the run has already begun"):
        run.fit()
