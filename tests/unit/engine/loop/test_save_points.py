"""Save points and interrupts: where the state of a run is available, and how a run ends early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hookline import Outcome, Run, TrainingError, hookimpl, load_config

SETTINGS: dict[str, Any] = {"train": {"epochs": 2, "evaluate": [], "device": "cpu"}, "data": {"num_examples": 30}}
STEPS = 3  # in an epoch


class Notes:
    """Records the position at each save point, and the events in between."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    @hookimpl
    def on_step_end(self, run: Run) -> None:
        self.events.append(f"step {run.step}")

    @hookimpl
    def on_epoch_end(self, run: Run) -> None:
        self.events.append(f"epoch {run.epoch}")

    @hookimpl
    def on_save_point(self, run: Run, is_last: bool) -> None:
        state = run.state_dict()
        self.events.append((state["epoch"], state["position"], is_last))

    @hookimpl
    def on_run_end(self, run: Run, outcome: Outcome) -> None:
        self.events.append(outcome)


class InterruptAt:
    """Interrupts the run in one event."""

    def __init__(self, event: str, step: int) -> None:
        self.event, self.step = event, step

    def _look(self, run: Run, event: str) -> None:
        if event == self.event and run.step == self.step:
            run.interrupt("SIGTERM")
            run.interrupt("a second reason, which is not the first")

    @hookimpl
    def on_step_end(self, run: Run) -> None:
        self._look(run, "on_step_end")

    @hookimpl(trylast=True)
    def on_save_point(self, run: Run) -> None:
        self._look(run, "on_save_point")

    @hookimpl
    def on_epoch_end(self, run: Run) -> None:
        self._look(run, "on_epoch_end")

    @hookimpl
    def on_evaluation_start(self, run: Run) -> None:
        self._look(run, "on_evaluation_start")


def noted(*others: object, **train: Any) -> tuple[Run, list[Any]]:
    notes = Notes()
    plugins = {f"callbacks.other-{number}": other for number, other in enumerate(others)}
    run = Run(
        load_config(
            SETTINGS, {f"train.{key}": value for key, value in train.items()}, plugins={"callbacks.n": notes, **plugins}
        )
    )
    run.fit()
    return run, notes.events


def test_there_is_a_save_point_after_each_step_each_epoch_and_at_the_end() -> None:
    _, events = noted()
    epoch = ["step 1", (1, 1, False), "step 2", (1, 2, False), "step 3", (1, 3, False), "epoch 1", (1, 0, False)]
    assert events[: len(epoch)] == epoch
    assert events[-4:] == ["epoch 2", (2, 0, False), (2, 0, True), "completed"]


def test_a_run_that_fails_has_no_last_save_point() -> None:
    class Failing:
        @hookimpl
        def on_step_end(self, run: Run) -> None:
            if run.step == 2:
                raise OSError("the disk is gone")

    notes = Notes()
    with pytest.raises(OSError, match="the disk is gone"):
        Run(load_config(SETTINGS, plugins={"callbacks.n": notes, "callbacks.failing": Failing()})).fit()
    assert notes.events == ["step 1", (1, 1, False), "step 2", "failed"]


@pytest.mark.parametrize("event", ["on_step_end", "on_save_point"])
@pytest.mark.parametrize("step", [1, 2, STEPS])
def test_an_interrupt_ends_the_run_after_the_step_and_leaves_the_epoch_open(event: str, step: int) -> None:
    run, events = noted(InterruptAt(event, step))
    assert (run.outcome, run.step, run.position, run.interrupt_reason) == ("interrupted", step, step, "SIGTERM")
    assert run.stop_reason is None
    assert "epoch 1" not in events
    assert events[-2:] == [(1, step, True), "interrupted"]


def test_an_interrupt_in_an_evaluation_within_an_epoch_lets_it_end_first() -> None:
    run, events = noted(InterruptAt("on_evaluation_start", 2), evaluate=["train"], evaluate_every_steps=2)
    assert (run.outcome, run.step, run.position) == ("interrupted", 2, 2)
    assert events[-2:] == [(1, 2, True), "interrupted"]


def test_an_interrupt_at_the_end_of_an_epoch_leaves_that_epoch_ended() -> None:
    run, events = noted(InterruptAt("on_epoch_end", STEPS))
    assert (run.outcome, run.epoch, run.position) == ("interrupted", 1, 0)
    assert events[-3:] == [(1, 0, False), (1, 0, True), "interrupted"]


def test_an_interrupt_at_the_end_of_the_last_epoch_comes_too_late() -> None:
    run, _ = noted(InterruptAt("on_epoch_end", 2 * STEPS))
    assert run.outcome == "completed"


def test_an_interrupt_before_the_first_step_takes_none() -> None:
    run = Run(load_config(SETTINGS))
    run.interrupt("SIGINT")
    result = run.fit()
    assert (result.outcome, result.steps, result.epochs) == ("interrupted", 0, 0)


def test_a_run_that_was_stopped_for_good_and_then_interrupted_ends_as_stopped() -> None:
    class Stopping:
        @hookimpl
        def on_epoch_end(self, run: Run) -> None:
            run.request_stop("good enough")
            run.interrupt("SIGTERM")

    run, _ = noted(Stopping())
    assert (run.outcome, run.epoch) == ("stopped", 1)


def test_the_state_of_an_interrupted_run_can_be_resumed() -> None:
    whole, _ = noted()
    first, _ = noted(InterruptAt("on_step_end", STEPS))
    second = Run(load_config(SETTINGS, plugins={"callbacks.n": Notes()}))
    second.load_state_dict({**first.state_dict(), "plugins": {}})
    second.fit()
    assert second.outcome == "completed"
    assert second.history == whole.history
    for one, other in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("event", ["on_run_start", "on_step_end", "on_epoch_end", "on_run_end"])
def test_no_other_event_has_a_state(event: str) -> None:
    def ask(run: Run) -> None:
        run.state_dict()

    class Asking:
        pass

    asking = Asking()
    setattr(Asking, event, hookimpl(lambda self, run: ask(run)))
    with pytest.raises(TrainingError, match="on_save_point"):
        Run(load_config(SETTINGS, plugins={"callbacks.asking": asking})).fit()


def test_the_random_numbers_of_a_save_point_are_those_of_the_run_at_work() -> None:
    states: list[torch.Tensor] = []

    class Keeping:
        @hookimpl
        def on_save_point(self, run: Run) -> None:
            states.append(run.state_dict()["random"]["cpu"])
            torch.rand(1)

    Run(load_config(SETTINGS, plugins={"callbacks.k": Keeping()})).fit()
    assert not torch.equal(states[0], states[1])


def test_a_run_is_evaluated_without_events_and_without_a_trace() -> None:
    notes = Notes()
    run = Run(load_config(SETTINGS, {"train.evaluate": ["train"]}, plugins={"callbacks.n": notes}))
    before = run.state_dict()
    numbers = run.evaluate()
    assert numbers.keys() == {"train/loss"}
    assert notes.events == []
    after = run.state_dict()
    assert torch.equal(before["random"]["cpu"], after["random"]["cpu"])
    assert before["evaluated"] == after["evaluated"]


def test_an_evaluation_at_a_save_point_leaves_the_random_numbers_of_the_state_alone() -> None:
    states: list[torch.Tensor] = []

    class Evaluating:
        @hookimpl
        def on_save_point(self, run: Run) -> None:
            before = run.state_dict()["random"]["cpu"]
            run.evaluate()
            states.append(run.state_dict()["random"]["cpu"])
            assert torch.equal(states[-1], before)
            torch.rand(1)

    Run(load_config(SETTINGS, {"train.evaluate": ["train"]}, plugins={"callbacks.e": Evaluating()})).fit()
    assert not torch.equal(states[0], states[1])


def test_a_checkpoint_is_announced_to_every_plugin() -> None:
    told: list[Any] = []

    class Saving:
        @hookimpl
        def on_save_point(self, run: Run, is_last: bool) -> None:
            if is_last:
                run.announce_checkpoint("where it is")

    class Listening:
        @hookimpl
        def on_checkpoint_saved(self, run: Run, path: Any) -> None:
            told.append((run.step, path))

    Run(load_config(SETTINGS, plugins={"callbacks.s": Saving(), "callbacks.l": Listening()})).fit()
    assert told == [(2 * STEPS, Path("where it is"))]
