"""Tests of observers of hook calls: the ledger of costs and the trace."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hookline import Run, hookimpl, train
from hookline.engine import Observer
from hookline.engine.view import Row
from hookline.trials import HookCall, HookTrace, Ledger

SMALL = {"train": {"epochs": 2, "batch_size": 4}, "data": {"num_examples": 8}}


class Slow:
    """Takes its time in some hooks."""

    @hookimpl
    def on_step_end(self) -> None:
        time.sleep(0.002)

    @hookimpl
    def on_epoch_end(self) -> None:
        time.sleep(0.004)


class SlowStep:
    """Takes its time around each step."""

    def __init__(self, seconds: float = 0.003) -> None:
        self.seconds = seconds

    @hookimpl(wrapper=True)
    def build_step(self) -> Generator[None, Any, Any]:
        inner = yield

        def step(batch: Any) -> Any:
            time.sleep(self.seconds)
            return inner(batch)

        return step


class Does:
    """Does something after each step."""

    def __init__(self, action: Callable[[Tensor], object]) -> None:
        self.action = action

    @hookimpl
    def on_step_end(self, loss: Tensor) -> None:
        self.action(loss)


def rows_of(ledger: Ledger) -> dict[tuple[str, str], Row]:
    return {(str(row["table"]), str(row["hook"])): row for row in ledger.rows()}


def ledger_with(**callbacks: object) -> tuple[Ledger, dict[tuple[str, str], Row]]:
    ledger = Ledger()
    train(SMALL, plugins={f"callbacks.{name}": plugin for name, plugin in callbacks.items()}, observers=[ledger])
    return ledger, rows_of(ledger)


# ---- ledger ----------------------------------------------------------------------------------------------------------


def test_a_ledger_has_each_hook_of_each_plugin_with_its_calls_and_its_time() -> None:
    ledger, rows = ledger_with(slow=Slow())
    assert ledger.num_steps == 4
    steps, epochs = rows["callbacks.slow", "on_step_end"], rows["callbacks.slow", "on_epoch_end"]
    assert (steps["calls"], epochs["calls"]) == (4, 2)
    assert isinstance(steps["seconds"], float)
    assert isinstance(steps["us_per_step"], float)
    assert steps["seconds"] >= 4 * 0.002
    assert steps["us_per_step"] == pytest.approx(steps["seconds"] / 4 * 1e6)
    assert steps["percent"] == pytest.approx(steps["seconds"] / ledger.loop_s * 100)
    assert [row["table"] for row in ledger.rows()[:3]].count("callbacks.slow") >= 1, "the dearest come first"


def test_the_time_of_hooks_is_not_the_loops() -> None:
    slow, _ = ledger_with(slow=Does(lambda _: time.sleep(0.05)))
    assert slow.loop_s < 0.2, "four steps without the 0.2 s that the hook slept"


def test_a_wrapper_of_the_step_is_measured_without_the_wrapped_call() -> None:
    # The first listed is the innermost. Its time is far above the noise of a busy machine.
    ledger, rows = ledger_with(inner=SlowStep(0.2), outer=SlowStep(0.003))
    inner, outer = (rows[f"callbacks.{name}", "each step"] for name in ("inner", "outer"))
    assert inner["calls"] == outer["calls"] == 4
    assert isinstance(inner["seconds"], float)
    assert isinstance(outer["seconds"], float)
    assert inner["seconds"] >= 4 * 0.2
    assert 4 * 0.003 <= outer["seconds"] < inner["seconds"] / 2
    assert ledger.loop_s > 0
    assert ("the loop", "each step") not in rows, "the step itself is the loop's"


def test_a_build_hook_has_no_share_of_a_step() -> None:
    _, rows = ledger_with()
    assert rows["model", "build_model"]["us_per_step"] is None
    assert rows["model", "build_model"]["calls"] == 1


@pytest.mark.parametrize("read", [lambda loss: loss.item(), float, bool, lambda loss: loss.reshape(1).nonzero()])
def test_a_hook_that_reads_a_tensor_would_make_an_accelerator_wait(read: Callable[[Tensor], object]) -> None:
    _, rows = ledger_with(reads=Does(read))
    assert rows["callbacks.reads", "on_step_end"]["synchronises"] is True


def test_a_hook_that_only_computes_does_not_wait() -> None:
    _, rows = ledger_with(computes=Does(lambda loss: (loss * 2 + 1).detach()))
    assert rows["callbacks.computes", "on_step_end"]["synchronises"] is False


@pytest.mark.parametrize(
    "draw",
    [
        lambda _: torch.rand(1),
        lambda _: random.random(),
        lambda _: np.random.rand(),
    ],
    ids=["torch", "python", "numpy"],
)
def test_a_hook_that_draws_from_a_global_generator_is_reported(draw: Callable[[Tensor], object]) -> None:
    _, rows = ledger_with(draws=Does(draw), still=Does(lambda _: torch.rand(1, generator=torch.Generator())))
    assert rows["callbacks.draws", "on_step_end"]["draws"] is True
    assert rows["callbacks.still", "on_step_end"]["draws"] is False


def test_a_ledger_changes_no_number_of_the_run() -> None:
    plugins = {"callbacks.slow": Does(lambda loss: loss.item()), "callbacks.step": SlowStep()}
    observed = train(SMALL, plugins=plugins, observers=[Ledger(), HookTrace(lambda _: None)])
    assert observed.history == train(SMALL, plugins=plugins).history


def test_a_run_that_fails_leaves_a_ledger_that_can_be_read() -> None:
    def fail(loss: Tensor) -> None:
        raise RuntimeError("no")

    ledger = Ledger()
    with pytest.raises(RuntimeError, match="no"):
        train(SMALL, plugins={"callbacks.fails": Does(fail)}, observers=[ledger])
    assert rows_of(ledger)["callbacks.fails", "on_step_end"]["calls"] == 1
    assert ledger.loop_s > 0


# ---- trace -----------------------------------------------------------------------------------------------------------


def test_a_trace_has_every_call_with_plugin_arguments_result_and_time() -> None:
    calls: list[HookCall] = []
    train(SMALL, {"train.epochs": 1}, plugins={"callbacks.slow": Slow()}, observers=[HookTrace(calls.append)])
    found = [(call.table, call.hook) for call in calls]
    assert found == [
        ("callbacks.try-first-batch", "build_data"),
        ("data", "build_data"),
        ("model", "build_model"),
        ("loss", "build_loss"),
        ("callbacks.try-first-batch", "on_model_built"),
        ("callbacks.try-first-batch", "build_optimizer (before)"),
        ("optimizer", "build_optimizer"),
        ("callbacks.try-first-batch", "build_optimizer (after)"),
        ("callbacks.try-first-batch", "build_step (before)"),
        ("callbacks.try-first-batch", "build_step (after)"),
        ("callbacks.try-first-batch", "on_run_start"),
        ("callbacks.slow", "on_step_end"),
        ("callbacks.slow", "on_step_end"),
        ("callbacks.try-first-batch", "on_epoch_end"),
        ("callbacks.slow", "on_epoch_end"),
        ("data", "on_run_end"),
    ]
    assert calls[2].plugin.startswith("model 'linear' (hookline ")
    assert (calls[2].arguments, calls[2].result, calls[2].error) == ({"data": "DataSource"}, "Linear", "")
    assert calls[11].seconds >= 0.002


def test_a_call_is_one_short_line() -> None:
    call = HookCall("model", "model 'x' (acme 1)", "build_model", {"data": "DataSource"}, "Linear", "", 0.0123)
    assert str(call) == "   12.300 ms  model  build_model(data=DataSource) -> Linear"
    failed = HookCall("model", "model 'x' (acme 1)", "on_step_end", {}, "", "ValueError: no", 0.0)
    assert str(failed) == "    0.000 ms  model  on_step_end() raised ValueError: no"


def test_a_trace_shows_short_values_and_errors() -> None:
    class Shows:
        @hookimpl
        def on_step_end(self, run: Run, loss: Tensor) -> None:
            run.request_stop("x" * 100)

        @hookimpl
        def on_epoch_end(self, metrics: Any) -> None:
            raise ValueError("two\nlines")

    calls: list[HookCall] = []
    with pytest.raises(ValueError, match="two"):
        train(SMALL, plugins={"callbacks.shows": Shows()}, observers=[HookTrace(calls.append)])
    by_hook = {call.hook: call for call in calls}
    assert by_hook["on_step_end"].arguments == {"run": "Run", "loss": "Tensor[]"}
    assert by_hook["on_epoch_end"].error == "ValueError: two lines"
    assert by_hook["on_epoch_end"].arguments["metrics"].startswith("{train/running_loss: ")
    assert by_hook["on_run_end"].arguments == {"run": "Run", "outcome": "'failed'"}


def test_a_wrapper_is_traced_in_two_halves_without_the_wrapped_call() -> None:
    calls: list[HookCall] = []
    train(SMALL, plugins={"callbacks.step": SlowStep()}, observers=[HookTrace(calls.append)])
    found = [(call.hook, call.result) for call in calls if call.table == "callbacks.step"]
    assert found == [("build_step (before)", ""), ("build_step (after)", "function")]


# ---- any observer ----------------------------------------------------------------------------------------------------


def test_an_observer_sees_the_start_and_the_end() -> None:
    class Counts(Observer):
        seen = ""

        def begin(self) -> None:
            self.seen += "begin "

        def end(self) -> None:
            self.seen += "end"

    observer = Counts()
    train(SMALL, observers=[observer])
    assert observer.seen == "begin end"


def test_an_observer_sees_the_batches_of_each_split() -> None:
    class Reads(Observer):
        def __init__(self) -> None:
            self.read: list[str] = []

        def reading(self, split: str, batches: Iterator[Any]) -> Iterator[Any]:
            for batch in batches:
                self.read.append(split)
                yield batch

    first, second = Reads(), Reads()
    train(SMALL, {"train.epochs": 1, "train.eval_batch_size": 8}, observers=[first, second])
    # The first batch is tried when the run is built; 2 steps and an evaluation follow.
    assert first.read == second.read == ["train"] * 4


def test_a_run_without_an_observer_calls_the_methods_of_its_plugins_directly() -> None:
    seen: list[str] = []

    class Looks:
        @hookimpl
        def on_epoch_end(self) -> None:
            import inspect

            seen.extend(frame.function for frame in inspect.stack())

    train(SMALL, {"train.epochs": 1}, plugins={"callbacks.looks": Looks()})
    assert "_observed" not in seen
    assert "on_epoch_end" in seen
