"""Any state is restored to the last bit; any checkpoint is read or refused, even one forged with valid checksums."""

from __future__ import annotations

import json
import math
import shutil
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hookline import CheckpointError
from hookline.runs.disk.checkpoint import Checkpoint, read_checkpoint, read_manifest, write_checkpoint
from hookline.runs.disk.encoding import decode, encode, from_json, from_safetensors, to_json, to_safetensors
from reliability.fuzz_targets import TARGETS, check_error, good_checkpoint, only_in, rehash, rehash_manifest
from support import HANG_S

# Each example rewrites its files, so they can share a folder.
quick = settings(
    derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# ---- what comes back -------------------------------------------------------------------------------------------------

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool, torch.uint8]
DTYPES += [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]
DTYPES += [torch.float8_e4m3fn, torch.float8_e5m2]
SHAPES = st.lists(st.integers(0, 3), max_size=4).map(tuple)
NUMPY_TYPES = [">f8", "<f4", "f2", "c8", "?", "u1", "i1", ">i2", "u2", "i4", ">u4", "i8", "u8"]


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Draw tensors of any dtype, shape and bits, some of them views or transposed."""
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(SHAPES)
    size = math.prod(shape) * dtype.itemsize
    bits = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype is torch.bool:
        bits = bytearray(byte % 2 for byte in bits)
    flat = torch.frombuffer(bits, dtype=dtype).clone() if bits else torch.empty(0, dtype=dtype)
    tensor = flat.reshape(shape)
    if tensor.dim() > 1 and draw(st.booleans()):
        tensor = tensor.transpose(0, 1)
    if tensor.dim() and tensor.shape[0] > 1 and draw(st.booleans()):
        tensor = tensor[1:]
    return tensor


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """Draw arrays of any type, shape and bits, some of them views or in Fortran order."""
    dtype, shape = np.dtype(draw(st.sampled_from(NUMPY_TYPES))), draw(SHAPES)
    size = math.prod(shape) * dtype.itemsize
    bits = draw(st.binary(min_size=size, max_size=size))
    if dtype.kind == "b":
        bits = bytes(byte % 2 for byte in bits)
    array = np.frombuffer(bits, dtype=dtype).reshape(shape)
    order = draw(st.sampled_from(["as it is", "backwards", "by columns"]))
    if order == "backwards" and array.ndim:
        return array[::-1]
    return np.asfortranarray(array) if order == "by columns" else array


KEYS = st.text(max_size=3) | st.integers() | st.booleans() | st.sampled_from(["$tensor", "$map", "a/b", ""]) | st.none()
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
    | tensors() | arrays()
)  # fmt: skip
STATES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS | st.tuples(st.integers(), st.text(max_size=2)), inner, max_size=3)
    ),
    max_leaves=10,
)


def form(value: Any) -> Any:
    """Return a form of a value that is equal only for the same types and bits."""
    if isinstance(value, Tensor):
        flat = value.detach().contiguous().reshape(-1)
        return (
            "tensor",
            value.dtype,
            tuple(value.shape),
            flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"",
        )
    if isinstance(value, np.ndarray):
        native = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("=")))
        return "array", native.dtype.str, value.shape, native.tobytes()
    if isinstance(value, dict):
        return [(form(key), form(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [form(item) for item in value]
    return type(value), struct.pack("<d", value) if isinstance(value, float) and not math.isnan(value) else repr(value)


@quick
@given(state=STATES)
def test_any_nested_state_is_restored_to_the_last_bit(state: Any) -> None:
    tree, held = encode({"state": state})
    again = decode(from_json(to_json(tree)), from_safetensors(to_safetensors(held)))
    assert form(again) == form({"state": state})


@quick
@given(tensor=tensors(), other=tensors())
def test_tensors_that_share_memory_are_restored_with_their_values(tensor: Tensor, other: Tensor) -> None:
    flat = tensor.reshape(-1)
    state = {"whole": tensor, "again": tensor, "half": flat[: len(flat) // 2], "view": tensor[None], "other": other}
    tree, held = encode(state)
    assert form(decode(from_json(to_json(tree)), from_safetensors(to_safetensors(held)))) == form(state)


def test_arrays_in_another_order_are_not_taken_for_each_other() -> None:
    # Each is copied for the state; if a copy were freed, the next one could have the same address.
    state = {str(number): np.asfortranarray(np.full((40, 50), number)) for number in range(20)}
    tree, held = encode(state)
    assert [int(array[0, 0]) for array in decode(tree, held).values()] == list(range(20))


def test_a_tensor_and_its_conjugate_lie_at_one_place_and_are_two() -> None:
    number = torch.tensor([1 + 2j])
    state = {"number": number, "conjugate": number.conj(), "imaginary": number.conj().imag, "real": number.real}
    tree, held = encode(state)
    again = decode(tree, from_safetensors(to_safetensors(held)))
    assert {name: value.item() for name, value in again.items()} == {
        "number": 1 + 2j,
        "conjugate": 1 - 2j,
        "imaginary": -2.0,
        "real": 1.0,
    }


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_numbers_that_no_file_can_hold_are_refused_when_they_are_named() -> None:
    with pytest.raises(CheckpointError, match=r"w is a tensor of dtype torch.complex32"):
        encode({"w": torch.zeros(2, dtype=torch.complex32)})


@pytest.mark.parametrize("value", [torch.tensor([1 + 2j], dtype=torch.complex128), np.array([1 + 2j], dtype="c16")])
def test_pairs_of_doubles_keep_their_kind(value: Any) -> None:
    tree, held = encode({"w": value})
    again = decode(tree, from_safetensors(to_safetensors(held)))["w"]
    assert type(again) is type(value)
    assert (again.dtype, again.tolist()) == (value.dtype, [1 + 2j])


def test_the_one_name_that_no_tensor_can_have_in_a_file_is_another_there() -> None:
    state = {"__metadata__": torch.ones(1), "model": {"__metadata__": torch.zeros(1)}}
    tree, held = encode(state)
    assert form(decode(tree, from_safetensors(to_safetensors(held)))) == form(state)


@settings(quick, max_examples=15)
@given(state=STATES, metrics=st.dictionaries(st.text(max_size=5), st.floats(), max_size=3))
def test_any_state_is_unchanged_in_its_checkpoint(state: Any, metrics: dict[str, float], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "c", ignore_errors=True)
    (tmp_path / "c").mkdir()
    whole = {"model": {"w": torch.ones(2)}, "own": state, "step": 3, "epoch": 1, "position": 3}
    path = write_checkpoint(tmp_path / "c", whole, run="r", metrics=metrics)
    checkpoint = read_checkpoint(path)
    assert form(checkpoint.state) == form(whole)
    # Non-finite numbers are null in JSON.
    assert checkpoint.manifest.metrics == {k: v if math.isfinite(v) else None for k, v in metrics.items()}


# ---- what was forged -------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from([2**63, -1, 2**64, 1e308]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(TARGETS["state"].words) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


def mutated(name: str) -> st.SearchStrategy[bytes]:
    """Return the seeds of the fuzzer with bytes changed, removed or inserted."""

    def change(seed: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
        data = bytearray(seed)
        for place, length, put in changes:
            start = int(place * len(data))
            data[start : start + length] = put
        return bytes(data)

    words = st.sampled_from([word.encode() for word in TARGETS[name].words])
    one = st.tuples(st.floats(0, 1), st.integers(0, 3), words | st.binary(max_size=3))
    return st.builds(change, st.sampled_from(TARGETS[name].seeds), st.lists(one, max_size=4))


@pytest.mark.parametrize("name", ["manifest", "checkpoint", "state", "tensors", "kept"])
def test_the_bytes_that_the_fuzzer_begins_with_hold(name: str, tmp_path: Path) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].fuzz(seed, tmp_path)


@quick
@given(data=mutated("manifest"))
def test_a_forged_manifest_is_read_or_refused(data: bytes, tmp_path: Path) -> None:
    TARGETS["manifest"].fuzz(data, tmp_path)


@quick
@given(data=mutated("checkpoint"))
def test_a_forged_checkpoint_is_read_or_refused(data: bytes, tmp_path: Path) -> None:
    TARGETS["checkpoint"].fuzz(data, tmp_path)


@settings(quick, max_examples=200)
@given(data=mutated("state") | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_json_is_a_state_that_comes_back_or_refused(data: bytes, tmp_path: Path) -> None:
    TARGETS["state"].fuzz(data, tmp_path)


@settings(quick, max_examples=200)
@given(data=mutated("tensors"))
def test_any_bytes_are_tensors_or_refused(data: bytes, tmp_path: Path) -> None:
    TARGETS["tensors"].fuzz(data, tmp_path)


@quick
@given(data=mutated("kept"))
def test_anything_kept_of_data_is_read_or_refused(data: bytes, tmp_path: Path) -> None:
    TARGETS["kept"].fuzz(data, tmp_path)


# ---- what it declares ------------------------------------------------------------------------------------------------


def refused(read: Callable[[], object], folder: Path, *, most_bytes: int = 2**22) -> CheckpointError:
    """Return the error of a refusal, which must take little time and memory."""
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        with only_in(folder), pytest.raises(CheckpointError) as caught:
            read()
        assert time.perf_counter() - begin < HANG_S
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()
    check_error(caught.value)
    return caught.value


def forged(folder: Path, name: str, data: bytes) -> Path:
    path = good_checkpoint(folder)
    (path / name).write_bytes(data)
    rehash(path)
    return path


def safetensors_of(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


ONE = '{"dtype":"%s","shape":%s,"data_offsets":%s}'
HEADERS = {
    "shape of 2**60": ONE % ("F32", [2**60], [0, 8]),
    "overflowing product": ONE % ("F32", [2**33, 2**33], [0, 8]),
    "product that wraps to 8": ONE % ("U8", [2**61 + 1, 8], [0, 8]),
    "negative shape": ONE % ("F32", [-2], [0, 8]),
    "shape of fractions": ONE % ("F32", [0.5, 4], [0, 8]),
    "unknown dtype": ONE % ("OBJECT", [2], [0, 8]),
    "offsets backwards": ONE % ("F32", [2], [8, 0]),
    "offsets beyond the end": ONE % ("F32", [2], [8, 16]),
    "offsets of 2**63": ONE % ("F32", [2], [2**63, 2**63 + 8]),
    "empty shape that no dimension holds": ONE % ("F32", [0, 2**63], [0, 0]),
}


@pytest.mark.parametrize("form", HEADERS.values(), ids=HEADERS)
def test_a_header_that_declares_missing_data_is_refused(form: str, tmp_path: Path) -> None:
    path = forged(tmp_path, "state.safetensors", safetensors_of(f'{{"t":{form}}}'.encode(), bytes(8)))
    assert "cannot be read: it is not a valid safetensors file" in str(refused(lambda: read_checkpoint(path), tmp_path))


def test_a_header_of_a_hundred_megabytes_is_not_waited_for(tmp_path: Path) -> None:
    for length in (10**8, 2**63, 2**64 - 1):
        path = forged(tmp_path, "model.safetensors", struct.pack("<Q", length) + b"{}")
        refused(lambda path=path: read_checkpoint(path), tmp_path)  # type: ignore[misc]


def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    one, two = ONE % ("F32", [1], [0, 4]), ONE % ("F32", [1], [4, 8])
    path = forged(tmp_path, "state.safetensors", safetensors_of(f'{{"t":{one},"t":{two}}}'.encode(), bytes(8)))
    refused(lambda: read_checkpoint(path), tmp_path)


DEEP = {
    "lists": b"[" * 10**5 + b"]" * 10**5,
    "tables": b'{"a":' * 10**5 + b"1" + b"}" * 10**5,
    "tuples": b'{"$tuple":[' * 900 + b"]}" * 900,
    "open": b"[" * 10**5,
    "digits": b"9" * 5000,
    "exponent": b"1e999",
    "a large float": b'{"$float":' + b"9" * 400 + b"}",
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("name", ["state.json", "manifest.json"])
def test_json_that_is_too_deep_or_too_large_is_refused(text: bytes, name: str, tmp_path: Path) -> None:
    if name == "state.json":
        path = forged(tmp_path, name, text)
    else:
        path = good_checkpoint(tmp_path)
        (path / name).write_bytes(b'{"format":1,"identity":' + text + b"}")
        rehash_manifest(path)
    refused(lambda: read_checkpoint(path), tmp_path)


@pytest.mark.parametrize("size", ["1152921504606846976", "-1", "9" * 30, "9" * 5000, "0.5", '"8"', "null", "true"])
def test_a_manifest_that_declares_a_size_that_no_file_has_is_refused(size: str, tmp_path: Path) -> None:
    path = good_checkpoint(tmp_path)
    text = (path / "manifest.json").read_text()
    number = json.loads(text)["files"]["state.json"]["size"]
    (path / "manifest.json").write_text(text.replace(f'"size":{number},', f'"size":{size},'))
    rehash_manifest(path)
    refused(lambda: read_checkpoint(path), tmp_path)


@pytest.mark.parametrize("text", ["\x1b]0;pwned\x07", "\x9b31m", "\u202e", "a\nb", "\x00"])
def test_text_of_a_manifest_cannot_control_a_terminal(text: str, tmp_path: Path) -> None:
    path = good_checkpoint(tmp_path)
    manifest = json.loads((path / "manifest.json").read_bytes())
    for key in (text, "run", "time"):
        (path / "manifest.json").write_text(json.dumps({**manifest, key: [text]}))
        rehash_manifest(path)
        refused(lambda: read_manifest(path), tmp_path)


@pytest.mark.parametrize("tree", ["[]", "1", '"x"', "null", '{"$tuple":[]}', '{"$map":[]}'])
def test_a_state_that_is_not_a_table_is_refused(tree: str, tmp_path: Path) -> None:
    path = forged(tmp_path, "state.json", tree.encode())
    try:
        found = read_checkpoint(path)
    except CheckpointError as error:
        check_error(error)
    else:
        assert isinstance(found, Checkpoint)
        assert found.state == {}
