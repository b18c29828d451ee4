"""The data source ``arrays``: reading at once and row by row, and the errors for bad files."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import TensorDataset

from hookline import ConfigError, DataError, DataSource, Run, load_config
from hookline_plugins.data.arrays import source as plugin
from hookline_plugins.data.arrays.mapped_rows import MappedRows
from hookline_plugins.data.arrays.source import Arrays

NUM = 20
INPUTS = np.arange(NUM * 3, dtype=np.float32).reshape(NUM, 3)
TARGETS = INPUTS.sum(1) / 10


def write_folder(folder: Path, arrays: Mapping[str, Any]) -> Path:
    path = folder / "arrays"
    path.mkdir()
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array, allow_pickle=True)
    return path


def write_npz(folder: Path, arrays: Mapping[str, Any]) -> Path:
    path = folder / "arrays.npz"
    np.savez_compressed(path, **arrays)
    return path


def write_safetensors(folder: Path, arrays: Mapping[str, Any]) -> Path:
    path = folder / "arrays.safetensors"
    save_file({name: torch.as_tensor(array).clone() for name, array in arrays.items()}, path)
    return path


Writer = Callable[[Path, Mapping[str, Any]], Path]
WRITERS: list[Writer] = [write_folder, write_npz, write_safetensors]
MAPPABLE: list[Writer] = [write_folder, write_safetensors]


def read(path: Path, **options: Any) -> DataSource:
    return Arrays(path, **options).build_data()


def contents(data: DataSource, name: str = "train") -> tuple[Tensor, Tensor]:
    """Return all inputs and targets of a split."""
    dataset: Any = data.splits()[name]
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[0], dataset.tensors[1]
    inputs, targets = dataset.gather(torch.arange(len(dataset)))
    return inputs, targets


def faults_of(path: Path, **options: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(path, **options)
    assert caught.value.exit_code == 4
    return [fault.message for fault in caught.value.faults]


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", WRITERS)
def test_a_regression_is_read_from_every_kind_of_file(write: Writer, tmp_path: Path) -> None:
    data = read(write(tmp_path, {"inputs": INPUTS, "targets": TARGETS}))
    inputs, targets = contents(data)
    assert torch.equal(inputs, torch.from_numpy(INPUTS))
    assert torch.equal(targets, torch.from_numpy(TARGETS).unsqueeze(1))
    assert (data.in_features, data.out_features) == (3, 1)
    assert isinstance(data.train, TensorDataset)


@pytest.mark.parametrize("write", MAPPABLE)
@pytest.mark.parametrize("targets", [TARGETS, np.stack([TARGETS, TARGETS], 1), np.arange(NUM) % 4])
def test_a_mapped_file_gives_the_same_examples_as_one_in_memory(write: Writer, targets: Any, tmp_path: Path) -> None:
    path = write(tmp_path, {"inputs": INPUTS, "targets": targets})
    for split in [(1.0,), (0.5, 0.25, 0.25)]:
        mapped, loaded = (read(path, memory_map=is_mapped, split=split) for is_mapped in (True, False))
        assert isinstance(mapped.train, MappedRows)
        assert (mapped.in_features, mapped.out_features) == (loaded.in_features, loaded.out_features)
        for name in loaded.splits():
            for one, other in zip(contents(mapped, name), contents(loaded, name), strict=True):
                assert torch.equal(one, other)
                assert one.dtype == other.dtype


def test_integers_are_class_indices_and_the_largest_gives_the_number_of_classes(tmp_path: Path) -> None:
    classes = (np.arange(NUM) % 4).astype(np.uint8).reshape(NUM, 1)
    data = read(write_npz(tmp_path, {"inputs": INPUTS, "targets": classes}))
    _, targets = contents(data)
    assert (targets.dtype, list(targets.shape), data.out_features) == (torch.int64, [NUM], 4)
    assert targets.tolist() == classes.flatten().tolist()


def test_integers_are_numbers_when_the_task_says_so(tmp_path: Path) -> None:
    path = write_npz(tmp_path, {"inputs": INPUTS, "targets": np.arange(NUM)})
    _, targets = contents(read(path, task="regression"))
    assert (targets.dtype, list(targets.shape)) == (torch.float64, [NUM, 1])


@pytest.mark.parametrize(
    ("shape", "in_features", "expected"), [((NUM,), 1, [NUM, 1]), ((NUM, 2, 4, 4), None, [NUM, 2, 4, 4])]
)
def test_inputs_may_have_any_shape(
    shape: tuple[int, ...], in_features: int, expected: list[int], tmp_path: Path
) -> None:
    data = read(write_npz(tmp_path, {"inputs": np.zeros(shape, np.float32), "targets": TARGETS}))
    assert (data.in_features, list(contents(data)[0].shape)) == (in_features, expected)


@pytest.mark.parametrize("write", [write_folder, write_npz])
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2", "|u1", "<u2", ">i4", "<i8", "|b1", "<u4"])
def test_numbers_of_every_dtype_are_read_unchanged(write: Writer, dtype: str, tmp_path: Path) -> None:
    inputs = (INPUTS % 2).astype(dtype)
    path = write(tmp_path, {"inputs": inputs, "targets": TARGETS})
    for is_mapped in {False, write is write_folder}:
        got, _ = contents(read(path, memory_map=is_mapped))
        assert got.tolist() == inputs.tolist()
        assert got.is_floating_point() == (inputs.dtype.kind == "f")
        got, _ = contents(read(path, memory_map=is_mapped, float_inputs=True))
        assert got.is_floating_point()


@pytest.mark.parametrize("is_mapped", [False, True])
def test_bfloat16_is_read(is_mapped: bool, tmp_path: Path) -> None:
    inputs = torch.from_numpy(INPUTS).bfloat16()
    path = write_safetensors(tmp_path, {"inputs": inputs, "targets": TARGETS})
    assert torch.equal(contents(read(path, memory_map=is_mapped))[0], inputs)


@pytest.mark.parametrize("is_mapped", [False, True])
def test_an_array_in_fortran_order_is_read(is_mapped: bool, tmp_path: Path) -> None:
    path = write_folder(tmp_path, {"inputs": np.asfortranarray(INPUTS), "targets": TARGETS})
    assert contents(read(path, memory_map=is_mapped))[0].tolist() == INPUTS.tolist()


def test_the_names_of_the_arrays_are_options(tmp_path: Path) -> None:
    path = write_folder(tmp_path, {"x": INPUTS, "y": TARGETS, "z": TARGETS})
    assert len(contents(read(path, inputs="x", targets="y"))[0]) == NUM


def test_large_arrays_stay_in_their_file_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_folder(tmp_path, {"inputs": INPUTS, "targets": TARGETS})
    packed = write_npz(tmp_path, {"inputs": INPUTS, "targets": TARGETS})
    assert not isinstance(read(path).train, MappedRows)
    monkeypatch.setattr(plugin, "_LARGE_BYTES", INPUTS.nbytes)
    assert isinstance(read(path).train, MappedRows)
    assert not isinstance(read(path, memory_map=False).train, MappedRows)
    assert not isinstance(read(packed).train, MappedRows)


def test_a_mapped_file_has_a_length_and_an_end(tmp_path: Path) -> None:
    path = write_folder(tmp_path, {"inputs": INPUTS, "targets": TARGETS})
    dataset: Any = read(path, memory_map=True, split=(0.8, 0.2)).validation
    assert len(dataset) == 4
    assert torch.equal(dataset[3][0], dataset.gather(torch.tensor([3]))[0][0])
    with pytest.raises(IndexError):
        dataset[4]


@pytest.mark.parametrize("write", WRITERS)
def test_tensors_that_were_read_can_be_written_to(write: Writer, tmp_path: Path) -> None:
    path = write(tmp_path, {"inputs": INPUTS, "targets": TARGETS})
    for is_mapped in {False, write in MAPPABLE}:
        contents(read(path, memory_map=is_mapped))[0].zero_()
        assert contents(read(path, memory_map=is_mapped))[0].sum() > 0


# ---- splits ----------------------------------------------------------------------------------------------------------


def test_the_splits_are_those_of_a_table(tmp_path: Path) -> None:
    path = write_npz(tmp_path, {"inputs": np.arange(NUM, dtype=np.float32), "targets": TARGETS})
    data = read(path, split=(0.5, 0.3, 0.2), split_seed=7)
    rows = {name: contents(data, name)[0].flatten().int().tolist() for name in data.splits()}
    assert {name: len(each) for name, each in rows.items()} == {"train": 10, "validation": 6, "test": 4}
    assert sorted(itertools.chain(*rows.values())) == list(range(NUM))
    assert all(each == sorted(each) for each in rows.values())
    other = read(path, split=(0.5, 0.3, 0.2), split_seed=8)
    assert contents(other)[0].tolist() != contents(data)[0].tolist()


def test_fractions_must_sum_to_one() -> None:
    with pytest.raises(ConfigError, match=r"must sum to 1, not 0\.9"):
        Run(load_config({"data": {"use": "arrays", "path": "x.npz", "split": [0.5, 0.4]}}))


# ---- bad files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", WRITERS)
def test_all_faults_are_reported_at_once(write: Writer, tmp_path: Path) -> None:
    inputs = INPUTS.copy()
    inputs[[4, 7, 9], 1] = [np.nan, np.inf, -np.inf]
    path = write(tmp_path, {"inputs": inputs, "targets": np.arange(NUM - 1) - 2})
    assert faults_of(path, memory_map=False, split=(0.99, 0.01)) == [
        "row 0 of the array 'targets' is -2, not a class index",
        "row 4 of the array 'inputs' is not finite (the first of 3 such rows)",
        "there are 20 inputs but 19 targets",
    ]


@pytest.mark.parametrize("is_mapped", [False, True])
def test_a_target_that_is_not_finite_is_found_before_the_first_step(
    is_mapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hookline_plugins.data.arrays.files._CHUNK_BYTES", 24)
    targets = TARGETS.copy()
    targets[[17, 19]] = np.nan
    path = write_folder(tmp_path, {"inputs": INPUTS, "targets": targets})
    assert faults_of(path, memory_map=is_mapped) == [
        "row 17 of the array 'targets' is not finite (the first of 2 such rows)"
    ]


def test_an_input_of_a_mapped_file_that_is_not_finite_is_named_when_it_is_read(tmp_path: Path) -> None:
    inputs = INPUTS.copy()
    inputs[17] = np.nan
    path = write_folder(tmp_path, {"inputs": inputs, "targets": TARGETS})
    config = {
        "train": {"shuffle": False, "evaluate": []},
        "data": {"use": "arrays", "path": str(path), "memory_map": True},
    }
    with pytest.raises(DataError) as caught:
        Run(load_config(config)).fit()
    words = "examples 10, 11, 12, 13, 14, 15, 16, 17 and 2 more of the train split of data 'arrays' (hookline 0.1.0)"
    assert str(caught.value).startswith(
        f"{words} cannot be read as a batch: row 17 of the array 'inputs' is not finite"
    )


class Marks:
    """Leaves a mark when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("write", [write_folder, write_npz])
def test_python_objects_are_refused_and_never_unpickled(write: Writer, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    objects = np.array([Marks(mark)] * NUM, dtype=object)
    path = write(tmp_path, {"inputs": objects, "targets": TARGETS})
    for memory_map in ("auto", write is write_folder):
        assert faults_of(path, memory_map=memory_map) == ["the array 'inputs' holds Python objects"]
    assert not mark.exists()


@pytest.mark.parametrize("name", ["arrays.npz", "arrays.safetensors", "arrays/inputs.npy"])
def test_a_pickle_under_another_name_is_refused_and_never_unpickled(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    write_folder(tmp_path, {"targets": TARGETS})
    (tmp_path / name).write_bytes(pickle.dumps(Marks(mark)))
    path = tmp_path / name.partition("/")[0]
    (message,) = faults_of(path)
    assert "cannot be opened" in message or "the array 'inputs' cannot be read" in message
    assert not mark.exists()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.array(["a"] * NUM), "the array 'inputs' holds text"),
        (np.zeros(NUM, "M8[s]"), "the array 'inputs' holds dates"),
        (np.zeros((NUM, 2), complex), "the array 'inputs' holds numbers of type complex128"),
        (np.zeros((NUM, 2), [("a", "f4")]), "the array 'inputs' holds records"),
        (np.zeros((0, 2)), "the array 'inputs' has no rows: its shape is [0, 2]"),
        (np.zeros(()), "the array 'inputs' has no rows: its shape is []"),
    ],
)
@pytest.mark.parametrize("write", [write_folder, write_npz])
def test_an_array_that_does_not_hold_numbers_is_refused(
    write: Writer, inputs: Any, message: str, tmp_path: Path
) -> None:
    assert faults_of(write(tmp_path, {"inputs": inputs, "targets": TARGETS})) == [message]


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        (np.zeros((NUM, 2), int), {}, "the targets are integers of shape [20, 2]"),
        (TARGETS, {"task": "classification"}, "the array 'targets' holds float32, not integers"),
        (np.zeros((NUM, 2, 2)), {}, "the targets have the shape [20, 2, 2], not [N] or [N, O]"),
        (np.full(NUM, 10**9), {}, "row 0 of the array 'targets' is 1000000000, not a class index"),
    ],
)
def test_targets_that_fit_no_task_are_refused(targets: Any, options: Any, message: str, tmp_path: Path) -> None:
    assert faults_of(write_npz(tmp_path, {"inputs": INPUTS, "targets": targets}), **options) == [message]


@pytest.mark.parametrize("write", WRITERS)
def test_unknown_names_are_reported_with_the_nearest(write: Writer, tmp_path: Path) -> None:
    path = write(tmp_path, {"input": INPUTS, "labels": TARGETS})
    with pytest.raises(DataError) as caught:
        read(path)
    assert [(fault.message, fault.hint) for fault in caught.value.faults] == [
        ("there is no array 'inputs'", "did you mean 'input'?"),
        ("there is no array 'targets'", "known: 'input', 'labels'"),
    ]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9])
def test_a_truncated_file_is_refused(write: Writer, share: float, tmp_path: Path) -> None:
    path = write(tmp_path, {"inputs": np.random.default_rng(0).random((500, 3)), "targets": np.zeros(500)})
    file = path / "inputs.npy" if path.is_dir() else path
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    (message, *_) = faults_of(path)
    assert any(word in message for word in ("truncated", "cannot be opened", "cannot be read"))


def test_a_flipped_byte_in_an_archive_is_found(tmp_path: Path) -> None:
    path = write_npz(tmp_path, {"inputs": np.random.default_rng(0).random((500, 3)), "targets": np.zeros(500)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "the array 'inputs' cannot be read" in faults_of(path)[0]


def test_a_safetensors_file_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lies.safetensors"
    header = json.dumps({"inputs": {"dtype": "F32", "shape": [2**40, 4], "data_offsets": [0, 16]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    assert "the file cannot be opened" in faults_of(path)[0]


def test_a_path_that_is_not_a_file_of_arrays_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "table.csv").write_text("1,2\n")
    assert faults_of(tmp_path / "pipe.npz") == ["this is not a regular file"]
    assert faults_of(tmp_path / "absent.npz") == ["there is no such file"]
    assert faults_of(tmp_path / "table.csv") == ["files with the extension '.csv' are not supported"]
    assert faults_of(tmp_path) == ["there is no array 'inputs'", "there is no array 'targets'"]


def test_an_archive_cannot_be_mapped(tmp_path: Path) -> None:
    path = write_npz(tmp_path, {"inputs": INPUTS, "targets": TARGETS})
    assert faults_of(path, memory_map=True) == [
        "the array 'inputs' is in an archive and cannot be mapped",
        "the array 'targets' is in an archive and cannot be mapped",
    ]


def test_inputs_and_targets_are_two_arrays() -> None:
    with pytest.raises(ConfigError, match="`inputs` and `targets` both name the array 'targets'"):
        Run(load_config({"data": {"use": "arrays", "path": "x.npz", "inputs": "targets"}}))


def test_a_split_without_rows_is_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path, {"inputs": INPUTS, "targets": TARGETS})
    assert faults_of(path, split=(0.99, 0.01)) == ["the validation split is empty: 0.01 of 20 rows"]


# ---- runs ------------------------------------------------------------------------------------------------------------


def run_of(path: Path, **train: Any) -> Run:
    config = {
        "train": {"epochs": 3, "batch_size": 6, **train},
        "data": {"use": "arrays", "path": str(path), "memory_map": True, "split": [0.8, 0.2]},
        "model": {"use": "mlp", "hidden": [4], "dropout": 0.5},
        "loss": "cross-entropy",
    }
    return Run(load_config(config))


def bits(run: Run) -> list[Any]:
    return [*(weight.tolist() for weight in run.model.state_dict().values()), *map(dict, run.history)]


def test_a_run_over_a_mapped_file_resumes_with_workers_to_the_same_bits(tmp_path: Path) -> None:
    path = write_folder(tmp_path, {"inputs": INPUTS / 60, "targets": np.arange(NUM) % 3})
    whole = run_of(path)
    whole.fit()
    first = run_of(path)
    for step in first.steps():
        if step.step == 4:
            state = first.state_dict()
            break
    second = run_of(path, num_workers=2)
    second.load_state_dict(state)
    second.fit()
    assert bits(second) == bits(whole)
