"""The two runs of a proof compared: the first difference, and the plugin behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from hookline.runs.disk.checkpoint import write_checkpoint
from hookline.runs.record import RunRecord
from hookline.trials.proof.comparing import compare
from hookline.trials.proof.differences import Tally
from hookline.trials.proof.evidence import Evidence
from hookline.trials.proof.seen import OUTSIDE, Seen, seen_name
from hookline.trials.proof.verdict import Divergence, Proof

IDENTITY = {
    "plugins": {
        "model": {"name": "linear", "distribution": "hookline", "version": "0.1.0"},
        "callbacks.mine": {"name": "mine", "distribution": "mine.py", "version": None},
        "callbacks.keeper": {"name": "keeper", "distribution": "hookline", "version": "0.1.0"},
        "callbacks.average": {"name": "average", "distribution": "hookline", "version": "0.1.0"},
    }
}


def state(step: int, **changes: Any) -> dict[str, Any]:
    parts = {
        "step": step,
        "epoch": 1,
        "position": step,
        "used_s": 0.0,
        "warnings": [],
        "running": {"sum": 0.5},
        "random": {"cpu": torch.zeros(2, dtype=torch.uint8)},
        "model": {"weight": torch.full((2,), float(step))},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "plugins": {"callbacks.mine": {"calls": step}},
    }
    return parts | changes


class Traces:
    """Files of a proof: two runs of three states, the second of them killed once after its second state."""

    def __init__(self, folder: Path) -> None:
        self.whole, self.killed, self.seen = folder / "whole", folder / "killed", folder / "seen"
        self.seen.mkdir()
        self.begun = [(0, 0), (20, 0)]

    def leave(
        self,
        folder: Path,
        states: Sequence[Mapping[str, Any]],
        metrics: str = '{"step":30}\n',
        status: Any = "completed",
    ) -> None:
        (folder / "checkpoints").mkdir(parents=True)
        for one in states:
            write_checkpoint(folder / "checkpoints", one, run="r", identity=IDENTITY)
        (folder / "metrics.jsonl").write_text(metrics)
        (folder / "run.json").write_bytes(msgspec.json.encode(RunRecord(status=status, step=30, identity=IDENTITY)))

    def see(self, process: str, step: int, held: Any, *, is_resumed: bool = False, draws: Sequence[str] = ()) -> None:
        name = seen_name(process, (step, 0), is_resumed=is_resumed)
        (self.seen / name).write_bytes(msgspec.json.encode(Seen(step, 0, held, list(draws))))

    def compared(self) -> Proof:
        return compare(Evidence(self.whole, self.killed, self.seen, frozenset({"callbacks.keeper"}), self.begun))

    def divergence(self) -> Divergence:
        found = self.compared().divergence
        assert found is not None
        return found


@pytest.fixture
def traces(tmp_path: Path) -> Traces:
    return Traces(tmp_path)


STATES = [state(10), state(20), state(30)]


def test_two_runs_with_the_same_files_are_counted(traces: Traces) -> None:
    traces.leave(traces.whole, STATES)
    traces.leave(traces.killed, [state(step, used_s=1.0, warnings=["resumed"]) for step in (10, 20, 30)])
    # Of each: the two tensors have 4 values; step, epoch, position, sum, lr and calls are 6 more. Of the end: three.
    assert traces.compared() == Proof(3, 1, Tally(6, 3 * 10 + 3), None)


def test_a_difference_in_the_state_of_a_plugin_is_its_own(traces: Traces) -> None:
    traces.leave(traces.whole, STATES)
    traces.leave(traces.killed, [*STATES[:2], state(30, plugins={"callbacks.mine": {"calls": 10}})])
    found = traces.divergence()
    assert (found.where, found.first.path) == ("checkpoint step-000000000030-epochs-0", "plugins/callbacks.mine/calls")
    assert (found.first.largest, found.resumed_from, found.owner) == (20.0, 20, "callbacks.mine")
    text = str(found.error())
    assert "plugins/callbacks.mine/calls: 30 and 10" in text
    assert "resumed from step 20" in text
    assert "owner: callbacks.mine (mine, mine.py): the difference is in its state" in text
    assert "docs/how-to/ship-state.md" in text
    assert found.error().exit_code == 5


def test_contents_that_a_plugin_does_not_save_are_found_in_the_records(traces: Traces) -> None:
    traces.leave(traces.whole, STATES)
    traces.leave(traces.killed, [*STATES[:2], state(30, model={"weight": torch.zeros(2)})])
    clock, rest = {"started": "1.5"}, {"size": "3"}
    lost = {"callbacks.keeper": {"file": "a"}, "callbacks.average": {"n": "20"}}
    traces.see("whole", 10, {"callbacks.mine": {"calls": "10", **clock, **rest}})
    traces.see("whole", 20, {"callbacks.mine": {"calls": "20", **clock, **rest}, **lost})
    traces.see("0", 10, {"callbacks.mine": {"calls": "10", "started": "2.5", **rest}})
    traces.see("1", 20, {"callbacks.mine": {"calls": "0", "started": "9.5", **rest}}, is_resumed=True)
    found = traces.divergence()
    assert [(item.table, item.name, item.before, item.after, item.step) for item in found.lost] == [
        ("callbacks.mine", "calls", "20", "0", 20),
        ("callbacks.average", "n", "20", None, 20),
    ]
    text = str(found.error())
    assert "model/weight: 2 of 2 values differ, at most by 30" in text
    assert "owner: callbacks.mine (mine, mine.py): calls was 20 after 20 steps in the first run, and 0 in" in text
    assert (
        "or: callbacks.average (average, hookline 0.1.0): n was 20 after 20 steps in the first run, and nothing in"
        in text
    )


def test_a_difference_before_the_first_kill_means_that_the_run_is_not_repeatable(traces: Traces) -> None:
    traces.leave(traces.whole, STATES)
    traces.leave(traces.killed, [state(10, model={"weight": torch.zeros(2)}), *STATES[1:]])
    draws = ["callbacks.mine on_step_end"]
    traces.see("whole", 10, {OUTSIDE: {"random": "state a"}}, draws=draws)
    traces.see("0", 10, {OUTSIDE: {"random": "state b"}}, draws=draws)
    found = traces.divergence()
    assert found.is_before_kill
    assert found.owner == "callbacks.mine"
    text = str(found.error())
    assert "not repeatable" in text
    assert "it draws from Python's and NumPy's generators, which belong to no run: callbacks.mine on_step_end" in text


def test_a_generator_that_was_never_seeded_is_named(traces: Traces) -> None:
    traces.leave(traces.whole, STATES)
    traces.leave(traces.killed, [state(10, model={"weight": torch.zeros(2)}), *STATES[1:]])
    traces.see("whole", 10, {"callbacks.mine": {"rng": "state a", "started": "1.5"}})
    traces.see("0", 10, {"callbacks.mine": {"rng": "state b", "started": "2.5"}})
    assert [(item.table, item.name) for item in traces.divergence().lost] == [("callbacks.mine", "rng")]


def test_draws_from_a_generator_that_is_seeded_and_not_saved_are_named(traces: Traces) -> None:
    traces.leave(traces.whole, STATES)
    traces.leave(traces.killed, [*STATES[:2], state(30, model={"weight": torch.zeros(2)})])
    traces.see("whole", 20, {OUTSIDE: {"random": "state a"}}, draws=["callbacks.mine on_step_end"])
    traces.see("1", 20, {OUTSIDE: {"random": "state b"}}, is_resumed=True)
    assert traces.divergence().owner == "callbacks.mine"


def test_without_records_the_owner_is_that_of_the_state(traces: Traces) -> None:
    traces.leave(traces.whole, STATES)
    traces.leave(traces.killed, [*STATES[:2], state(30, random={"cpu": torch.ones(2, dtype=torch.uint8)})])
    found = traces.divergence()
    assert (found.first.path, found.owner) == ("random/cpu", None)
    assert "no plugin owns it" in str(found.error())


def test_causes_are_reported_before_their_consequences(traces: Traces) -> None:
    traces.leave(traces.whole, STATES)
    changes: dict[str, Any] = {"model": {"weight": torch.zeros(2)}, "random": {"cpu": torch.ones(2, dtype=torch.uint8)}}
    changes |= {"running": {"sum": 0.0}}
    changes |= {"plugins": {"callbacks.mine": {"calls": 0}}, "optimizer": {"state": {}, "param_groups": [{"lr": 0.2}]}}
    traces.leave(traces.killed, [*STATES[:2], state(30, **changes)])
    assert [found.keys[0] for found in traces.divergence().differences] == [
        "random",
        "model",
        "optimizer",
        "plugins",
        "running",
    ]


def test_a_state_that_only_one_run_has_is_a_difference(traces: Traces) -> None:
    traces.leave(traces.whole, STATES)
    traces.leave(traces.killed, STATES[:2])
    found = traces.divergence()
    assert found.where == "checkpoint step-000000000030-epochs-0"
    assert str(found.first) == "step: 30 and nothing"


@pytest.mark.parametrize(
    ("metrics", "status", "where", "path"),
    [
        ('{"step":31}\n', "completed", "metrics.jsonl", "line 1"),
        ('{"step":30}\n{"step":30}\n', "completed", "metrics.jsonl", "line 2"),
        ('{"step":30}\n', "stopped", "the end of the run", "status"),
    ],
)
def test_metrics_and_the_ends_of_the_runs_are_compared(
    metrics: str, status: str, where: str, path: str, traces: Traces
) -> None:
    traces.leave(traces.whole, STATES)
    traces.leave(traces.killed, STATES, metrics, status)
    found = traces.divergence()
    assert (found.where, found.first.path) == (where, path)
