"""The random numbers of a run: named streams, separate from those of the program."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from hookline.engine.rng import RandomState, derive_seed, make_generator, preserved_rng


class OopsError(Exception):
    """The error raised within a context."""


def draw(generator: torch.Generator | None = None) -> list[float]:
    numbers: list[float] = torch.rand(4, generator=generator).tolist()
    return numbers


def state() -> Tensor:
    return torch.get_rng_state()


@pytest.fixture(autouse=True)
def _seeded_while_a_test_runs() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        yield


# ---- streams ---------------------------------------------------------------------------------------------------------


def test_a_seed_depends_on_the_runs_seed_and_on_every_name() -> None:
    names: list[tuple[int, tuple[str | int, ...]]] = [
        (seed, streams)
        for seed in (0, 1, 2**70)
        for streams in [(), ("order",), ("order", 1), ("order", 2), ("order", "1"), ("order1",), (1, "order")]
    ]
    seeds = [derive_seed(seed, *streams) for seed, streams in names]
    assert len(set(seeds)) == len(names)
    assert seeds == [derive_seed(seed, *streams) for seed, streams in names]


def test_a_seed_is_valid_for_torch() -> None:
    for seed in range(200):
        assert 0 <= derive_seed(seed, "x") < 2**63
        torch.Generator().manual_seed(derive_seed(seed, "x"))


def test_seeds_are_the_same_in_every_process_and_release() -> None:
    assert derive_seed(0, "order", 1) == 7021862330116196507


def test_a_generator_repeats_its_stream_and_differs_from_other_streams() -> None:
    assert draw(make_generator(0, "data")) == draw(make_generator(0, "data"))
    streams = [draw(make_generator(0, "data")), draw(make_generator(0, "order")), draw(make_generator(1, "data"))]
    assert all(one != other for one, other in itertools.combinations(streams, 2))


def test_close_seeds_give_unrelated_numbers() -> None:
    draws = torch.stack([torch.randn(2000, generator=make_generator(seed, "x")) for seed in range(4)])
    correlations = torch.corrcoef(draws) - torch.eye(4)
    assert correlations.abs().max() < 0.1


def test_making_a_generator_leaves_the_global_one_alone() -> None:
    before = state()
    draw(make_generator(0, "data"))
    assert torch.equal(state(), before)


# ---- the global generator --------------------------------------------------------------------------------------------


def test_a_random_state_is_swapped_in_and_out_again() -> None:
    outside = state()
    random = RandomState(0, "train")
    with random.active():
        inside = draw()
        assert not torch.equal(state(), outside)
    assert torch.equal(state(), outside)
    torch.manual_seed(derive_seed(0, "train"))
    assert inside == draw()


def test_a_random_state_continues_whatever_the_program_draws() -> None:
    random, undisturbed = RandomState(0, "train"), RandomState(0, "train")
    with undisturbed.active():
        expected = [draw(), draw(), draw()]
    got = []
    for _ in range(3):
        draw()
        with random.active():
            got.append(draw())
    assert got == expected


def test_the_program_around_never_notices_a_random_state() -> None:
    expected = [draw(), draw()]
    torch.manual_seed(99)
    first = draw()
    with RandomState(0).active():
        draw()
    assert [first, draw()] == expected


def test_random_states_are_swapped_out_after_an_error_and_advance() -> None:
    outside = state()
    random, whole = RandomState(0), RandomState(0)
    drawn: list[list[float]] = []

    def draw_and_fail() -> None:
        with random.active():
            drawn.append(draw())
            raise OopsError

    with pytest.raises(OopsError):
        draw_and_fail()
    assert torch.equal(state(), outside)
    with random.active():
        drawn.append(draw())
    with whole.active():
        assert [draw(), draw()] == drawn


def test_one_random_state_inside_another_does_not_disturb_it() -> None:
    outer, alone = RandomState(0, "outer"), RandomState(0, "outer")
    with alone.active():
        expected = [draw(), draw()]
    outside = state()
    with outer.active():
        first = draw()
        with RandomState(0, "inner").active():
            inner = draw()
        second = draw()
    assert [first, second] == expected
    assert inner not in expected
    assert torch.equal(state(), outside)


@pytest.mark.parametrize("fails", [False, True])
def test_a_preserved_generator_is_restored(fails: bool) -> None:
    def draw_a_lot() -> None:
        with preserved_rng():
            torch.rand(100)
            torch.manual_seed(1)
            if fails:
                raise OopsError

    before = state()
    with pytest.raises(OopsError) if fails else nullcontext():
        draw_a_lot()
    assert torch.equal(state(), before)
