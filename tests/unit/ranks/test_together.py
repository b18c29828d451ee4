"""Requests, warnings and collectives of several ranks: together, or refused."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch

from hookline import RunView, Secret, hookimpl, load_config
from hookline.cli.ranks import _values_of
from hookline.engine import Ranks
from rank_runs import run_of
from several import in_ranks


class Warns:
    """Warns on some ranks, and remembers the warnings that it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    @hookimpl
    def on_step_end(self, run: RunView) -> None:
        if run.step == 2:
            run.warn("on each rank")
        if run.step == 4 and run.ranks.rank:
            run.warn(f"only here: {run.ranks.rank}")

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        if run.ranks.rank == 1:
            run.warn("at the start")

    @hookimpl
    def on_warning(self, message: str) -> None:
        self.told.append(message)


def test_rank_0_tells_the_warnings_of_the_others_with_their_rank() -> None:
    def task(ranks: Ranks) -> Any:
        warns = Warns()
        run = run_of(ranks, train={"epochs": 1}, callbacks={"warns": {}}, plugins={"callbacks.warns": warns})
        run.fit()
        return run.warnings, warns.told

    (warnings, told), (own, _), _ = in_ranks(3, task)
    assert warnings == told == ["rank 1: at the start", "on each rank", "rank 1: only here: 1", "rank 2: only here: 2"]
    assert own == ["at the start", "on each rank", "only here: 1"]


class Fails:
    """Fails on rank 1."""

    @hookimpl
    def on_epoch_end(self, run: RunView) -> None:
        if run.ranks.rank == 1:
            raise ValueError("no")


def test_a_callback_that_is_tolerated_and_fails_on_another_rank_is_told_of() -> None:
    def task(ranks: Ranks) -> Any:
        options: dict[str, Any] = {"callbacks": {"fails": {"on_error": "warn"}}}
        run = run_of(ranks, train={"epochs": 1}, plugins={"callbacks.fails": Fails()}, **options)
        run.fit()
        return run.warnings

    first, _ = in_ranks(2, task)
    [text] = first
    assert text.startswith("rank 1: callbacks.fails failed and is disabled")


class OnRankZero:
    """Calls something that needs all ranks, on one of them."""

    ranks: ClassVar = "zero"

    def __init__(self, what: str) -> None:
        self.what = what

    @hookimpl
    def on_save_point(self, run: RunView) -> None:
        calls: dict[str, Any] = {
            "state_dict": run.state_dict,
            "evaluate": getattr(run, "evaluate", None),
            "gather": lambda: run.ranks.gather(1),
            "sum": lambda: run.ranks.sum([1.0]),
        }
        calls[self.what]()


@pytest.mark.parametrize("what", ["state_dict", "evaluate", "gather", "sum"])
def test_a_plugin_of_rank_0_cannot_call_what_needs_all_ranks(what: str) -> None:
    def task(ranks: Ranks) -> Any:
        plugins = {"callbacks.one": OnRankZero(what)}
        run_of(ranks, train={"epochs": 1}, callbacks={"one": {}}, plugins=plugins).fit()

    first, second = in_ranks(2, task)
    assert first["error"] == "TrainingError", first
    assert "'on_save_point' of callback 'OnRankZero'" in first["text"]
    assert "only rank 0 has this plugin" in first["text"]
    assert second["error"] == "PeerError", second


@pytest.mark.parametrize("what", ["state_dict", "evaluate", "gather", "sum"])
def test_a_tolerated_plugin_cannot_call_what_needs_all_ranks(what: str) -> None:
    """After an error on one rank, it would be disabled there alone, and the others would wait."""

    class OnEachRank(OnRankZero):
        ranks: ClassVar = "all"

    def task(ranks: Ranks) -> Any:
        options: dict[str, Any] = {"callbacks": {"one": {"on_error": "warn"}}}
        run_of(ranks, train={"epochs": 1}, plugins={"callbacks.one": OnEachRank(what)}, **options).fit()

    for result in in_ranks(2, task):
        assert result["error"] == "ConfigError", result
        assert "'callbacks.one.on_error' is 'warn', but 'on_save_point' of callback 'OnEachRank'" in result["text"]


def test_steps_are_not_tried_by_several_ranks() -> None:
    def task(ranks: Ranks) -> Any:
        next(run_of(ranks).try_steps())

    for result in in_ranks(2, task):
        assert result["error"] == "TrainingError", result
        assert "several ranks cannot try steps" in result["text"]


def test_a_plugin_of_rank_0_can_look_at_the_model() -> None:
    class Looks:
        ranks: ClassVar = "zero"

        @hookimpl
        def on_epoch_end(self, run: RunView) -> None:
            with torch.no_grad():
                run.report("prediction", [{"value": float(run.model(torch.ones(1, 5)))}])

    def task(ranks: Ranks) -> Any:
        run = run_of(ranks, callbacks={"looks": {}}, plugins={"callbacks.looks": Looks()})
        run.fit()
        return list(run.summary)

    assert in_ranks(2, task) == [["prediction"], []]


def test_a_stop_that_one_rank_requests_stops_all_in_the_same_step() -> None:
    class Stops:
        @hookimpl
        def on_step_end(self, run: RunView) -> None:
            if run.step == 3 and run.ranks.rank == 1:
                run.request_stop("enough")

    def task(ranks: Ranks) -> Any:
        plugins = {"callbacks.stops": Stops()}
        run = run_of(ranks, train={"epochs": 500}, callbacks={"stops": {}}, plugins=plugins)
        outcome = run.fit().outcome
        return outcome, run.stop_reason, run.step

    first, second = in_ranks(2, task)
    assert first == second
    assert first[:2] == ["stopped", "enough"] or first[:2] == ("stopped", "enough")
    assert first[2] < 2500


@dataclass
class Keyed:
    """A callback with a secret."""

    key: Secret = ""

    @hookimpl
    def on_run_start(self) -> None:
        """Do nothing."""


def test_ranks_tell_one_another_no_secrets_of_their_configs() -> None:
    """A message about different configs shows values of another rank, whose secrets this one could not remove."""

    config = load_config({"callbacks": {"keyed": {"key": "hunter2"}}}, plugins={"callbacks.keyed": Keyed})
    assert "hunter2" not in str(_values_of(config))


def test_ranks_meet_more_often_for_a_while_after_slow_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("hookline.ranks.process_group.time.perf_counter", lambda: now[0])

    def steps_between_meetings(ranks: Any) -> list[int]:
        """Return the numbers of steps up to each of five meetings: one slow step of 49 ms, then fast ones of 1 ms."""
        add_up = ranks.sum
        met: list[int] = []

        def slow_sum(values: Any) -> Any:
            met.append(step)
            now[0] += 0.01  # so that the meetings would take their share of the time only every 2.5 s
            return add_up(values)

        monkeypatch.setattr(ranks, "sum", slow_sum)
        step = 0
        while len(met) < 6:
            now[0] += 0.049 if step == 1 else 0.001
            ranks.meet(step)
            step += 1
        return [after - before for before, after in pairwise(met)]

    # Half a second at 49 ms, then at a half of that, and so on.
    assert in_ranks(2, steps_between_meetings) == [[1, 10, 20, 40, 81]] * 2
