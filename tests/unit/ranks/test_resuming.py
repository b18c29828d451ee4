"""Resuming on several ranks: the same bits on the same number, and the same state on another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from hookline import Run, RunView, hookimpl
from hookline.engine import Ranks
from rank_runs import (
    Items,
    Stream,
    StreamWithState,
    inexact_steps,
    is_equal,
    resumable,
    run_of,
    same,
    source,
    weights,
)
from several import in_ranks


def test_a_run_of_two_ranks_resumes_exactly_within_an_interval_an_epoch_and_between_them() -> None:
    for result in in_ranks(2, lambda ranks: inexact_steps(ranks, range(1, 61, 13), "ddp")):
        assert "error" not in result, result
        wrong, num_logged = result
        assert wrong == []
        assert num_logged == 60 // 7 + 12 - 60 // 35  # each interval, and each epoch that does not end with one


@pytest.mark.parametrize("kind", [Items, Stream, StreamWithState])
def test_a_run_on_other_data_resumes_exactly_within_an_epoch(kind: type[Any]) -> None:
    def new(ranks: Ranks) -> Run:
        return run_of(ranks, train={"num_workers": int(kind is Items)}, plugins={"data": source(kind)})

    def task(ranks: Ranks) -> Any:
        run = new(ranks)
        [state] = [ranks.gather(run.state_dict())[0] for step in run.steps() if step.step == 7]
        resumed = new(ranks)
        resumed.load_state_dict(state)
        resumed.fit()
        return weights(run), weights(resumed)

    for result in in_ranks(2, task):
        assert "error" not in result, result
        assert same(*result)


def test_a_state_is_loaded_to_the_last_bit_by_any_number_of_ranks() -> None:
    """From 2 ranks to 1 and back, within an epoch."""

    def begun(ranks: Ranks) -> Any:
        run, _ = resumable(ranks)
        return next(run.state_dict() for step in run.steps() if step.step == 8)

    def resumed(state: Mapping[str, Any]) -> Any:
        def task(ranks: Ranks) -> Any:
            run, _ = resumable(ranks)
            run.load_state_dict(state)
            run.interrupt("to look at it")  # its plugins load their states, and no step is taken
            assert run.fit().outcome == "interrupted"
            return run.state_dict(), run.batch_order(2).tolist(), [run.batch_indices(step) for step in (9, 10, 11)]

        return task

    state, _ = in_ranks(2, begun)
    [(alone, *order)] = in_ranks(1, resumed(state))
    (first, *order_of_two), (second, *order_of_other) = in_ranks(2, resumed(alone))
    assert order == order_of_two == order_of_other
    parts = (
        "model",
        "evaluated_weights",
        "optimizer",
        "plugins",
        "history",
        "step",
        "position",
        "examples",
        "evaluated",
    )
    for part in parts:
        assert is_equal(state[part], alone[part]), part
        assert is_equal(state[part], first[part]), part
        assert is_equal(state[part], second[part]), part
    # Rank 0 has what was measured so far, and the others begin anew.
    assert [one["running"]["weight"] for one in first["ranks"]] == [alone["running"]["weight"], 0.0]
    assert [len(one["logged"][0]) for one in first["ranks"]] == [1, 0]


def test_what_is_frozen_in_a_run_is_frozen_after_a_resume_by_another_number_of_ranks() -> None:
    class FreezesLate:
        @hookimpl
        def on_step_end(self, run: RunView) -> None:
            if run.step == 5:
                run.unwrapped_model[0].eval()  # type: ignore[index]

    def task(state: Mapping[str, Any] | None) -> Any:
        def of_ranks(ranks: Ranks) -> Any:
            run = run_of(ranks, callbacks={"late": {}}, plugins={"callbacks.late": FreezesLate()})
            if state:
                run.load_state_dict(state)
            steps = run.steps()
            step = next(steps)
            while not state and step.step < 6:
                step = next(steps)
            return run.state_dict(), run.unwrapped_model[0].training, run.unwrapped_model[2].training  # type: ignore[index]

        return of_ranks

    (state, *modes), _ = in_ranks(2, task(None))
    assert modes == [False, True]
    [(_, *resumed)] = in_ranks(1, task(state))
    assert resumed == modes
    (again, *resumed), _ = in_ranks(2, task(state))
    assert resumed == modes
    assert same(again["model"], again["model"])
