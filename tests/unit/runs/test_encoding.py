"""A state comes back from JSON and tensors unchanged, to the last bit, and nothing in them runs."""

from __future__ import annotations

import json
import math
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hookline.engine.errors import CheckpointError
from hookline.runs.disk.encoding import decode, encode, from_json, from_safetensors, to_json, to_safetensors


def back(state: Any) -> Any:
    tree, tensors = encode(state)
    return decode(from_json(to_json(tree)), from_safetensors(to_safetensors(tensors)))


def header_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


# ---- what comes back ------------------------------------------------------------------------------------------------

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
STATES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.sampled_from(["$tensor", "$map"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=200)
@given(STATES)
def test_every_plain_value_comes_back_unchanged(state: Any) -> None:
    # repr tells True from 1, -0.0 from 0.0, and NaN from nothing else.
    assert repr(back({"state": state})) == repr({"state": state})


def test_the_edges_of_numbers_come_back() -> None:
    whole = [2**63 - 1, -(2**63), 2**63, -(2**200)]
    assert back(whole) == whole
    floats = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, -math.inf]
    assert [struct.pack("<d", number) for number in back(floats)] == [struct.pack("<d", number) for number in floats]


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.bool, torch.uint8),
        *(torch.complex128, torch.int8, torch.int16, torch.int32, torch.int64),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3)], ids=str)
def test_every_kind_of_tensor_comes_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.arange(math.prod(shape)).reshape(shape).to(dtype)
    kept = back({"t": tensor})["t"]
    assert (kept.dtype, kept.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(kept, tensor)


def test_complex128_keeps_both_parts_whatever_its_form() -> None:
    whole = torch.complex(torch.arange(6.0, dtype=torch.float64), torch.tensor([1e-300] * 6, dtype=torch.float64))
    kept = back({"a": whole, "tied": whole, "conj": whole.conj(), "part": whole[::2], "array": whole.numpy()})
    for name, expected in {"a": whole, "tied": whole, "conj": whole.conj(), "part": whole[::2]}.items():
        assert torch.equal(kept[name], expected)
    assert kept["array"].dtype == np.complex128
    assert (kept["array"] == whole.numpy()).all()


def test_not_a_number_keeps_its_bits_in_a_tensor() -> None:
    bits = torch.tensor([0x7FC00001, 0x7F800001 - 2**32 + 2**32], dtype=torch.int64).to(torch.int32)
    assert torch.equal(back({"t": bits.view(torch.float32)})["t"].view(torch.int32), bits)


def test_parts_of_tensors_and_transposed_ones_come_back_with_their_own_values() -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    kept = back(
        {"row": whole[1], "column": whole[:, 1], "transposed": whole.T, "negative": whole.to(torch.cfloat).conj()}
    )
    assert torch.equal(kept["row"], whole[1])
    assert torch.equal(kept["column"], whole[:, 1])
    assert torch.equal(kept["transposed"], whole.T)
    assert torch.equal(kept["negative"], whole.to(torch.cfloat))


def test_arrays_of_numpy_come_back_as_arrays() -> None:
    arrays = {"a": np.arange(3, dtype=np.int16), "b": np.array([[1.5]]), "big": np.array([1, 2], dtype=">i4")}
    kept = back(arrays)
    assert all(isinstance(kept[name], np.ndarray) and (kept[name] == arrays[name]).all() for name in arrays)


def test_tied_weights_are_written_once() -> None:
    tied = torch.ones(1000)
    _, tensors = encode({"first": tied, "second": tied, "other": torch.ones(1000)})
    assert list(tensors) == ["first", "other"]


def test_two_names_that_would_be_one_stay_two() -> None:
    state = {"a/b": torch.tensor(1), "a": {"b": torch.tensor(2)}, 1: torch.tensor(3), "1": torch.tensor(4)}
    kept = back({"s": state})["s"]
    assert [int(kept["a/b"]), int(kept["a"]["b"]), int(kept[1]), int(kept["1"])] == [1, 2, 3, 4]


def test_a_text_that_names_code_is_a_text() -> None:
    texts = {"_target_": "os.system", "class_path": "builtins.exec", "auto_map": {"AutoModel": "x--y.Z"}, "$eval": "1"}
    assert back(texts) == texts


# ---- what is refused ------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """A tuple that would come back as a plain one."""

    a: int
    b: int


class Thing:
    """An object that only pickle could save."""


def test_everything_that_cannot_be_saved_is_named_at_once() -> None:
    state = {"a": {"b": [1, Thing()]}, "f": len, "s": {1, 2}, "sparse": torch.eye(2).to_sparse(), "ok": 1}
    with pytest.raises(CheckpointError) as caught:
        encode(state)
    for words in ("a/b/1 is of type", "Thing", "f is of type", "s is of type builtins.set", "sparse is a tensor"):
        assert words in caught.value.message
    assert "ok" not in caught.value.message


@pytest.mark.parametrize(
    "value",
    [
        np.array([Thing()], dtype=object),
        np.array(["text"]),
        np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]),
        Pair(1, 2),
        torch.empty(2, device="meta"),
        1j,
        range(3),
        "\udcff",
        {"\udcff": 1},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_would_come_back_as_something_else_is_refused(value: Any) -> None:
    with pytest.raises(CheckpointError, match="cannot be saved"):
        encode({"value": value})


@pytest.mark.parametrize(
    "tree",
    [
        {"$pickle": "gASV"},
        {"$tensor": "missing"},
        {"$tensor": {}},
        {"$tensor": None},
        {"$array": 1},
        {"$array": "half"},
        {"$array": {}},
        {"$complex": "half"},
        {"$complex": {}},
        {"$tuple": 3},
        {"$map": [[1]]},
        {"$map": [[[1], 2]]},
        {"$map": {"a": 1}},
        {"$int": "no"},
        {"$int": 3},
        {"$float": []},
        {"$bytes": "no base 64"},
        {"$bytes": 7},
        {"$eval": "__import__('os').system('true')"},
    ],
    ids=json.dumps,
)
def test_values_that_are_not_a_state_are_refused(tree: Any) -> None:
    with pytest.raises(CheckpointError, match="not a state"):
        decode({"deep": [tree]}, {"half": torch.ones(2, dtype=torch.bfloat16)})


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b'{"a": NaN}', b"1 2", b'"\xed\xa0\x80"'])
def test_invalid_json_is_refused(text: bytes) -> None:
    with pytest.raises(CheckpointError, match="not valid JSON"):
        from_json(text)


def test_values_nested_a_hundred_thousand_deep_are_refused() -> None:
    for text in (b"[" * 10**5 + b"]" * 10**5, b'{"a":' * 10**5 + b"1" + b"}" * 10**5):
        with pytest.raises(CheckpointError):
            decode(from_json(text), {})


def test_a_state_nested_without_end_is_refused() -> None:
    state: dict[str, Any] = {}
    state["again"] = state
    with pytest.raises(CheckpointError, match="too deep"):
        encode(state)


HUGE = {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}
BAD_TENSORS: dict[str, bytes] = {
    "empty": b"",
    "shorter than its length": b"\x01\x00",
    "a pickle": b"\x80\x04\x95" + b"\x00" * 40 + b".",
    "a zip archive": b"PK\x03\x04" + b"\x00" * 60,
    "a shape of 2**60": header_of({"t": HUGE}),
    "a product that overflows": header_of(
        {"t": {"dtype": "F32", "shape": [2**33, 2**33], "data_offsets": [0, 4]}}, b"1234"
    ),
    "a negative shape": header_of({"t": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
    "a shape that is not its bytes": header_of({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
    "an unknown type": header_of({"t": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "a range beyond the end": header_of({"t": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"1234"),
    "a range backwards": header_of({"t": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"1234"),
    "ranges that overlap": header_of(
        {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in ("a", "b")}, b"1234"
    ),
    "bytes of nobody": header_of({"t": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12345678"),
    "a header of 2**63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "a header of 100 MB": struct.pack("<Q", 10**8) + b"{}",
    "a header nested without end": header_of(b'{"a":' * 10**5 + b"1" + b"}" * 10**5),
    "a header that is a list": header_of([]),
    "a header that is not UTF-8": header_of(b"\xff" * 8),
}


@pytest.mark.parametrize("data", BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_invalid_tensors_are_refused_before_memory_is_allocated(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="not a valid safetensors file"):
            from_safetensors(data)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damaged_tensors_are_read_or_refused_and_nothing_else_happens(data: st.DataObject) -> None:
    good = to_safetensors({"weight": torch.arange(4.0), "bias": torch.ones(1, dtype=torch.int64)})
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    _read_or_refused(lambda: from_safetensors(bytes(damaged)))


TAGS = ["$tensor", "$array", "$complex", "$tuple", "$map", "$int", "$float", "$bytes", "a"]


@settings(deadline=None, max_examples=300)
@given(
    st.recursive(
        PLAIN.filter(lambda value: not isinstance(value, bytes)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TAGS), inner, max_size=2),
        max_leaves=12,
    )
)
def test_any_json_is_a_state_or_refused(tree: Any) -> None:
    _read_or_refused(lambda: decode(tree, {}))


def _read_or_refused(read: Callable[[], Any]) -> None:
    try:
        read()
    except CheckpointError:
        return


def test_what_is_encoded_is_a_copy_where_a_part_would_change_with_the_whole() -> None:
    whole = torch.zeros(4)
    _, tensors = encode({"part": whole[:2]})
    kept: Tensor = tensors["part"]
    whole += 1
    assert kept.tolist() == [0, 0]
