"""Differences of two states to the last bit."""

from __future__ import annotations

import struct
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hookline.trials.proof.differences import MISSING, Difference, Tally, differences, first_difference, tally

NAN = float("nan")
OTHER_NAN = struct.unpack("d", struct.pack("Q", 0x7FF8_0000_0000_0001))[0]


def state() -> dict[str, Any]:
    return {
        "model": OrderedDict(weight=torch.arange(6.0).reshape(2, 3), mask=torch.tensor([True, False])),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
        "random": {"cpu": torch.arange(5, dtype=torch.uint8), "numpy": np.arange(3.0)},
        "history": [{"loss": NAN}],
        "reason": None,
        "big": 2**80,
    }


def test_equal_states_have_no_difference_even_with_nan() -> None:
    assert first_difference(state(), state()) is None


def test_the_order_and_the_type_of_a_mapping_do_not_count() -> None:
    assert first_difference({"a": 1, "b": 2}, OrderedDict(b=2, a=1)) is None
    assert first_difference({"a": 1}, MappingProxyType({"a": 1})) is None


def test_the_first_difference_is_that_of_the_first_states_order() -> None:
    other = state()
    other["history"][0]["loss"] = 1.0
    other["optimizer"]["state"][0]["step"] += 1
    assert [found.path for found in differences(state(), other)] == ["optimizer/state/0/step", "history/0/loss"]
    found = first_difference(state(), other)
    assert found == Difference(("optimizer", "state", 0, "step"), torch.tensor(3.0), torch.tensor(4.0))
    assert str(found) == "optimizer/state/0/step: 3.0 and 4.0"


@pytest.mark.parametrize(
    ("first", "second", "how"),
    [
        (0.0, -0.0, "0.0 and -0.0"),
        (NAN, OTHER_NAN, "nan and nan"),
        (1, True, "1 and True"),
        (1, 1.0, "1 and 1.0"),
        (complex(0, 0.0), complex(0, -0.0), "0j and -0j"),
        ((1,), [1], "tuple of 1 and list of 1"),
        ("a", "a\x1b", r"'a' and 'a\x1b'"),
        (None, {}, "None and dict of 0"),
        (b"a", b"b", "b'a' and b'b'"),
        (np.float64(1), 1.0, "np.float64(1.0) and 1.0"),
        (torch.zeros(2), torch.zeros(2, 1), "float32 [2] and float32 [2, 1]"),
        (torch.zeros(2), torch.zeros(2).double(), "float32 [2] and float64 [2]"),
        (torch.zeros(2), np.zeros(2, dtype=np.float32), "0 of 2 values differ, at most by 0"),
        (torch.zeros(2), torch.tensor([0.0, -0.0]), "1 of 2 values differ, at most by 0"),
        (torch.zeros(3), torch.tensor([0.0, 0.25, NAN]), "2 of 3 values differ, at most by 0.25"),
        (torch.tensor([NAN]), torch.tensor([1.0]), "1 of 1 values differ"),
        (torch.ones(2).bfloat16(), torch.tensor([1.0, 2.0]).bfloat16(), "1 of 2 values differ, at most by 1"),
        (torch.tensor([1j]), torch.tensor([2j]), "1 of 1 values differ, at most by 1"),
        (np.zeros(2), np.ones(2), "2 of 2 values differ, at most by 1"),
        (torch.zeros(2), 0.0, "float32 [2] and 0.0"),
    ],
    ids=str,
)
def test_a_difference_in_a_bit_a_type_or_a_shape_is_found_and_described(first: Any, second: Any, how: str) -> None:
    found = first_difference({"x": first}, {"x": second})
    assert found is not None
    assert (found.path, found.how) == ("x", how)
    assert first_difference({"x": first}, {"x": first}) is None
    assert first_difference({"x": second}, {"x": second}) is None


def test_a_value_in_only_one_state_is_a_difference() -> None:
    assert first_difference([1, 2], [1]) == Difference((1,), 2, MISSING)
    assert str(first_difference({"a": {}}, {"a": {"b": 1}})) == "a/b: nothing and 1"
    assert first_difference({1: "a"}, {True: "a"}) == Difference((1,), "a", MISSING)


def test_a_view_of_a_tensor_is_compared_by_its_values() -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    assert first_difference(whole.T, whole.T.clone().contiguous()) is None
    assert first_difference(whole[:, 1], torch.tensor([1.0, 4.0])) is None
    assert first_difference(torch.zeros(0, 3), torch.zeros(0, 3)) is None
    assert first_difference(torch.zeros(0, 3), torch.zeros(3, 0)) is not None
    sparse = torch.eye(2).to_sparse()
    assert first_difference(sparse, sparse.clone()) is None


@pytest.mark.parametrize(
    ("first", "second", "largest"),
    [(1.0, 3.5, 2.5), (1, "a", None), (2**80, 1, None), (torch.tensor([1, 2]), torch.tensor([5, 2]), 4.0)],
)
def test_numbers_have_a_largest_difference(first: Any, second: Any, largest: float | None) -> None:
    assert Difference((), first, second).largest == largest


@given(st.binary(min_size=16, max_size=16), st.integers(0, 127))
def test_one_bit_in_a_tensor_is_found(data: bytes, bit: int) -> None:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    one, other = (torch.frombuffer(bytearray(part), dtype=torch.float32) for part in (data, changed))
    assert first_difference(one, one.clone()) is None
    found = first_difference(one, other)
    assert found is not None
    assert found.how.startswith("1 of 4 values differ")


def test_a_state_is_counted() -> None:
    assert tally(state()) == Tally(tensors=5, values=6 + 2 + 1 + 3 + 5 + 3 + 1 + 1 + 1)
    assert tally({}) == Tally(0, 0)
