"""Contents of objects as short texts."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hookline.trials.proof.inside import inside, inside_modules, outside_generators


class Holder:
    """Holds something."""

    def __init__(self, held: Any) -> None:
        self.held = held


class Slotted:
    __slots__ = ("count", "empty")

    def __init__(self, count: int) -> None:
        self.count = count


class Property:
    """Changes when its property is read."""

    def __init__(self) -> None:
        self.asked = 0

    @property
    def next(self) -> int:
        self.asked += 1
        return self.asked


def test_attributes_items_and_slots_have_a_place_each() -> None:
    held = {"rows": [{1: "a"}, (True, None)], "slots": Slotted(3)}
    assert inside(Holder(held)) == {
        "held['rows'][0][1]": "'a'",
        "held['rows'][1][0]": "True",
        "held['rows'][1][1]": "None",
        "held['slots'].count": "3",
    }


def counting() -> Callable[[], int]:
    count = 0

    def call() -> int:
        nonlocal count
        count += 1
        return count

    return call


def drawing() -> Generator[int]:
    drawn = 0
    while True:
        drawn += 1
        yield drawn


def test_variables_of_closures_and_generators_are_seen() -> None:
    call, numbers = counting(), drawing()
    call(), next(numbers), next(numbers)
    assert inside(call) == {"count": "1"}
    assert inside(Holder(numbers)) == {"held.drawn": "2"}


def test_a_bound_method_is_visited() -> None:
    assert inside(Holder(Slotted(1).__init__)) == {"held.count": "1"}  # type: ignore[misc] # any method will do


@pytest.mark.parametrize(
    ("held", "change"),
    [
        (torch.Generator().manual_seed(0), lambda generator: torch.rand(1, generator=generator)),
        (random.Random(0), lambda generator: generator.random()),
        (np.random.default_rng(0), lambda generator: generator.random()),
        (np.random.RandomState(0), lambda generator: generator.rand()),
        (itertools.count(), next),
        (torch.zeros(3, 2), lambda tensor: tensor[1].add_(1)),
        (torch.zeros(3, 2, dtype=torch.bfloat16), lambda tensor: tensor[1].add_(1)),
        (torch.zeros(1), lambda tensor: tensor.add_(1)),
        (np.zeros(3), lambda array: np.add(array, 1, out=array)),
        (nn.Linear(2, 1), lambda module: module.weight.data.add_(1)),
        ({1, 2}, lambda things: things.add(3)),
        (list(range(20)), lambda things: things.append(1)),
        (bytearray(b"ab"), lambda _: None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_changed_value_has_another_text(held: Any, change: Callable[[Any], object]) -> None:
    before = inside(Holder(held))
    assert inside(Holder(held)) == before
    change(held)
    assert (inside(Holder(held)) != before) == (not isinstance(held, bytearray))


def test_properties_are_not_called() -> None:
    holder = Property()
    assert inside(holder) == {"asked": "0"}
    assert holder.asked == 0


def test_objects_of_others_are_left_out_and_a_circle_ends() -> None:
    model, holder = nn.Linear(1, 1), Holder(None)
    holder.held = [holder, model, threading.Lock(), 3]
    assert inside(holder, besides=[model]) == {"held[3]": "3"}


def test_large_objects_are_visited_within_bounds() -> None:
    assert len(inside(Holder([[0] * 1000] * 3 + [list(range(20_000))]))) == 10_000
    deep: list[Any] = []
    for _ in range(2000):
        deep = [deep]
    assert inside(deep) == {}
    large = torch.zeros(3_000_000)
    before = inside(Holder(large))
    large += 1
    assert inside(Holder(large)) != before
    assert all(len(text) < 60 for text in inside(Holder("x" * 10_000)).values())


class Counting(nn.Module):
    """Counts its calls, in an attribute and in a non-persistent buffer."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.inner = nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(1), persistent=False)


def test_modules_show_contents_outside_their_state() -> None:
    assert inside_modules(nn.Sequential(Counting(), nn.Linear(1, 1))) == {
        "training": "True",
        "0.training": "True",
        "0.calls": "0",
        "0.seen": "0.0",
        "0.inner.training": "True",
        "0.inner.p": "0.5",
        "0.inner.inplace": "False",
        "1.training": "True",
        "1.in_features": "1",
        "1.out_features": "1",
    }


@pytest.fixture
def untouched() -> Iterator[None]:
    before = random.getstate(), np.random.get_state()
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])


@pytest.mark.usefixtures("untouched")
def test_a_draw_from_the_generators_of_python_and_numpy_shows() -> None:
    before = outside_generators()
    assert outside_generators() == before
    random.random()
    middle = outside_generators()
    assert {name for name in before if middle[name] != before[name]} == {"random"}
    np.random.rand()
    assert {name for name in before if outside_generators()[name] != middle[name]} == {"numpy.random"}
