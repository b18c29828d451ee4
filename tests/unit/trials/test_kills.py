"""Kills of a proof: spread over the run, of every kind, drawn from a seed."""

from __future__ import annotations

import msgspec

from hookline.trials.proof.kills import Kill, choose_kills

MOMENTS = {
    "step": dict.fromkeys(range(100), 5),
    "event": dict.fromkeys(range(100), 2),
    "evaluation": {50: 4, 99: 4},
    "save": dict.fromkeys(range(10, 100, 10), 12),
}


def test_kills_are_of_every_kind_spread_over_the_run_and_drawn_from_the_seed() -> None:
    kills = choose_kills(MOMENTS, 5, seed=3, after=10, step_s=0.05)
    assert {kill.kind for kill in kills} == {"step", "event", "evaluation", "save", "clock"}
    steps = [kill.step for kill in kills]
    assert steps == sorted(steps)
    assert min(steps) >= 10
    assert max(steps) - min(steps) > 40
    assert all(0 <= kill.number < MOMENTS.get(kill.kind, {kill.step: 1})[kill.step] for kill in kills)
    assert all(0 <= kill.delay_s <= 0.5 for kill in kills)
    assert any(kill.delay_s > 0 for kill in kills)
    assert kills == choose_kills(MOMENTS, 5, seed=3, after=10, step_s=0.05)
    assert kills != choose_kills(MOMENTS, 5, seed=4, after=10, step_s=0.05)


def test_kills_fall_into_equal_parts_of_the_run() -> None:
    steps = [kill.step for kill in choose_kills({"step": MOMENTS["step"]}, 9, seed=0, after=9, step_s=0.1)]
    assert all(9 + 10 * number <= step <= 19 + 10 * number for number, step in enumerate(steps))


def test_a_kind_without_moments_is_left_out() -> None:
    kills = choose_kills({"step": {0: 1, 1: 1}}, 20, seed=0, after=5, step_s=0.1)
    assert {kill.kind for kill in kills} == {"step", "clock"}
    assert len(kills) == 20
    assert choose_kills({}, 3, seed=0, after=0, step_s=0.1) == []


def test_a_kill_survives_a_round_trip_through_json() -> None:
    kill = Kill("save", 3, 2)
    assert msgspec.json.decode(msgspec.json.encode(kill), type=Kill) == kill


def test_each_kill_of_several_ranks_hits_one_of_them_and_none_is_by_the_clock() -> None:
    kills = choose_kills(MOMENTS, 20, seed=3, after=10, step_s=0.05, num_ranks=3)
    assert {kill.kind for kill in kills} == {"step", "event", "evaluation", "save"}
    assert {kill.rank for kill in kills} == {0, 1, 2}
    assert {kill.number for kill in kills if kill.rank} == {0}  # the moments are those of rank 0
