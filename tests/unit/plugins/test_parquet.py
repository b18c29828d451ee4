"""The data source ``parquet``: the same examples as ``csv``, in windows, from any row on; faults; predictions."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from hookline import DataError, DataSource, Run, load_config
from hookline_plugins.data.parquet.stream import BlockStream
from hookline_plugins.data.parquet.survey import Moments

NUM = 200
BLOCK, WINDOW = 16, 3
WHOLE = 4 * WINDOW * BLOCK


def frame() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    start = datetime(2024, 2, 27)  # noqa: DTZ001 - files hold such dates
    return pl.DataFrame(
        {
            "a": rng.normal(5, 3, NUM),
            "gap": [None if row % 9 == 0 else float("nan") if row % 9 == 1 else float(row) for row in range(NUM)],
            "color": [None if row == 5 else ("red", "green", "blue")[int(rng.integers(3))] for row in range(NUM)],
            "code": rng.integers(7, 10, NUM),
            "when": [start + timedelta(hours=int(hour)) for hour in rng.integers(0, 90, NUM)],
            "flag": rng.integers(0, 2, NUM).astype(bool),
            "y": rng.normal(-2, 5, NUM),
            "kind": rng.choice(["no", "yes"], NUM),
            "at": [time(int(hour), 30) for hour in rng.integers(0, 24, NUM)],
            "clock": [None if row == 7 else f"{row % 24:02}:{row % 60:02}" for row in range(NUM)],
        }
    )


FEATURES = ["a", "gap", "color", "code", "when", "flag", "at", "clock"]
COLUMNS: dict[str, Any] = {
    "features": FEATURES,
    "one_hot": ["color", "code"],
    "dates": {"when": "%Y-%m-%d", "at": "%H:%M", "clock": "%H:%M"},
    "missing": "mean",
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of two files."""
    folder = tmp_path / "rows"
    folder.mkdir()
    frame()[:90].write_parquet(folder / "first.parquet")
    frame()[90:].write_parquet(folder / "second.parquet", row_group_size=32)
    return folder


def new_run(path: Path, train: Mapping[str, Any] | None = None, **options: Any) -> Run:
    data = {"use": "parquet", "path": str(path), "target": "y", "block_rows": BLOCK, "window": WINDOW, **options}
    losses = {"classification": "cross-entropy", "binary": "bce-with-logits"}
    config: dict[str, Any] = {"train": {"epochs": 2, "batch_size": 10, **(train or {})}, "data": data}
    # The files are read when a test reads them.
    config |= {"loss": losses.get(options.get("task", ""), "mse"), "callbacks": {"try-first-batch": "off"}}
    return Run(load_config(config))


def stream_of(data: DataSource, name: str = "train") -> BlockStream:
    return cast(BlockStream, data.splits()[name])


def batches(stream: BlockStream, epoch: int, size: int = 10, row: int = 0) -> list[tuple[Tensor, Tensor]]:
    stream.set_epoch(epoch)
    stream.load_state_dict({"row": row})
    return list(stream.batches(size))


def rows_of(read: list[tuple[Tensor, Tensor]]) -> list[int]:
    """Return the numbers of the rows, which the test has as targets."""
    return [int(number) for _, targets in read for number in targets.flatten()]


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """A file whose target is the number of the row."""
    path = tmp_path / "numbered.parquet"
    pl.DataFrame({"x": [row / 2 for row in range(WHOLE)], "y": list(range(WHOLE))}).write_parquet(path)
    return path


@pytest.mark.parametrize(("target", "task"), [("y", "regression"), ("kind", "classification"), ("kind", "binary")])
def test_the_examples_are_those_of_the_source_csv(files: Path, target: str, task: str) -> None:
    scaled = {"standardize": True, "standardize_target": task == "regression"}
    options = {"target": target, "task": task, **COLUMNS, **scaled}
    data = new_run(files, {"dtype": "float64", "shuffle": False}, **options).data
    whole = files.parent / "whole.parquet"
    frame().write_parquet(whole)
    loss = {"classification": "cross-entropy", "binary": "bce-with-logits", "regression": "mse"}[task]
    config = {"data": {"use": "csv", "path": str(whole), **options}, "train": {"dtype": "float64"}, "loss": loss}
    expected = Run(load_config(config)).data
    inputs, targets = (torch.cat(parts) for parts in zip(*batches(stream_of(data), 1), strict=True))
    assert data.feature_names == expected.feature_names
    assert (data.class_names, data.out_features) == (expected.class_names, expected.out_features)
    # Days since 1970 are ten thousand times their deviation, and lose as many digits.
    torch.testing.assert_close(inputs, cast(Any, expected.train).tensors[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(targets, cast(Any, expected.train).tensors[1], rtol=1e-12, atol=1e-12)
    for name in ("fill", "mean", "scale", "target_mean", "target_scale"):
        np.testing.assert_allclose(data.kept[name], expected.kept[name], rtol=1e-10)


def test_an_epoch_is_a_permutation_of_blocks_and_of_the_rows_in_each_window(numbered: Path) -> None:
    stream = stream_of(new_run(numbered).data)
    first, again, second = (rows_of(batches(stream, epoch)) for epoch in (1, 1, 2))
    assert first == again != second
    for order in (first, second):
        assert sorted(order) == list(range(WHOLE))
        windows = [order[begin : begin + WINDOW * BLOCK] for begin in range(0, WHOLE, WINDOW * BLOCK)]
        assert all(len({row // BLOCK for row in window}) == WINDOW for window in windows)
        assert all(window != sorted(window) for window in windows)
    other = stream_of(new_run(numbered, {"seed": 1}).data)
    assert rows_of(batches(other, 1)) != first
    ordered = stream_of(new_run(numbered, {"shuffle": False}).data)
    assert rows_of(batches(ordered, 2)) == list(range(WHOLE))


def test_it_begins_at_any_row_and_reads_only_what_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for part in range(0, NUM, BLOCK):
        rows = list(range(part, min(part + BLOCK, NUM)))
        pl.DataFrame({"x": rows, "y": rows}).write_parquet(folder / f"{part:03}.parquet")
    stream = stream_of(new_run(folder).data)
    whole = rows_of(batches(stream, 3, size=7))
    start = 2 * WINDOW * BLOCK + 7 * 2  # in the third window, or the fourth with the small block before it
    for row in {row // BLOCK * BLOCK for row in whole[: WINDOW * BLOCK - 8]}:
        (folder / f"{row:03}.parquet").unlink()
    assert rows_of(batches(stream, 3, size=7, row=start)) == whole[start:]
    with pytest.raises(DataError, match="cannot be used"):
        batches(stream, 3)


def test_workers_share_the_blocks(numbered: Path) -> None:
    stream = stream_of(new_run(numbered).data)
    shares = [rows_of(batches(stream.shard(worker, 3), 1)) for worker in range(3)]
    assert sorted(row for share in shares for row in share) == list(range(WHOLE))
    with pytest.raises(DataError, match="workers that are forked cannot read"):
        new_run(numbered, {"num_workers": 1})


def test_a_run_resumes_in_the_middle_of_an_epoch_to_the_last_bit(files: Path) -> None:
    options: dict[str, Any] = {**COLUMNS, "standardize": True, "split": [0.8, 0.2]}
    whole = new_run(files, **options)
    whole.fit()
    for number in (7, 20):
        interrupted = new_run(files, **options)
        for step in interrupted.steps():
            if step.step == number:
                state = interrupted.state_dict()
                break
        resumed = new_run(files, **options)
        resumed.load_state_dict(state)
        resumed.fit()
        assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


def test_splits_are_blocks_or_files_of_their_own(numbered: Path, files: Path) -> None:
    data = new_run(numbered, split=[0.6, 0.2, 0.2]).data
    parts = {name: rows_of(batches(stream_of(data, name), 1)) for name in data.splits()}
    assert sorted(row for part in parts.values() for row in part) == list(range(WHOLE))
    assert parts["validation"] == sorted(parts["validation"])
    assert {len({row // BLOCK for row in parts[name]}) for name in ("validation", "test")} <= {2, 3}
    # Means are those of the training split.
    mean = new_run(numbered, split=[0.6, 0.2, 0.2], standardize_target=True).data.kept["target_mean"]
    assert mean == [pytest.approx(np.mean(parts["train"]))]
    data = new_run(files / "first.parquet", validation=str(files / "sec*.parquet"), features=["a"]).data
    assert [len(torch.cat([b[1] for b in batches(stream_of(data, name), 1)])) for name in data.splits()] == [90, 110]


def rewrite(path: Path, content: bytes) -> None:
    """Write a file, and keep the time of its last change."""
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(("target", "task"), [("y", "regression"), ("kind", "classification")])
def test_files_that_have_not_changed_are_measured_once(files: Path, target: str, task: str) -> None:
    options: dict[str, Any] = {"target": target, "task": task, **COLUMNS, "standardize": True}
    options["one_hot"] = ["color", "code", "flag"]
    first = new_run(files, **options).data
    for path in files.iterdir():  # nothing but the footer can be read any more
        content = path.read_bytes()
        size = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        rewrite(path, b"PAR1" + bytes(size - 4) + content[size:])
    again = new_run(files, **options).data
    assert (again.kept, again.class_names, again.out_features) == (first.kept, first.class_names, first.out_features)
    assert stream_of(again).fingerprint() == stream_of(first).fingerprint()
    for changed in ({"features": ["a"], "one_hot": [], "dates": {}}, {"block_rows": 17}, {"split": [0.5, 0.5]}):
        with pytest.raises(DataError, match="the Parquet file cannot be read"):
            new_run(files, **options | changed)
    os.utime(files / "first.parquet")
    with pytest.raises(DataError, match="the Parquet file cannot be read"):
        new_run(files, **options)


def test_files_that_have_changed_are_measured_again(files: Path) -> None:
    options: dict[str, Any] = {"features": ["a"], "standardize_target": True}
    (before,) = new_run(files, **options).data.kept["target_mean"]
    size = (files / "first.parquet").stat().st_size
    changed = io.BytesIO()
    frame()[:90].with_columns(pl.col("y") + 1).write_parquet(changed)
    rewrite(files / "first.parquet", changed.getvalue())
    assert (files / "first.parquet").stat().st_size == size, "only its footer tells"
    (after,) = new_run(files, **options).data.kept["target_mean"]
    assert after == pytest.approx(before + 90 / NUM, rel=1e-12)


def test_categories_that_json_does_not_have_are_measured_each_time(files: Path) -> None:
    options: dict[str, Any] = {"features": ["when"], "one_hot": ["when"]}
    first, again = (new_run(files, **options).data for _ in range(2))
    assert first.kept == again.kept


def test_every_fault_is_found_at_once(files: Path, tmp_path: Path) -> None:
    bad = frame()[90:].with_columns(
        pl.when(pl.int_range(110) == 60).then(float("inf")).otherwise(pl.col("a")).alias("a")
    )
    bad.with_columns(pl.lit(None, pl.Float64).alias("y")).write_parquet(files / "second.parquet")
    with pytest.raises(DataError) as raised:
        new_run(files, features=["a", "gap"])
    found = [f"{Path(cast(Any, fault.location).source).name}: {fault.message}" for fault in raised.value.faults]
    assert sorted(found) == [
        "first.parquet: row 1, column 'gap': the cell is empty (the first of 46 such cells)",
        "second.parquet: row 1, column 'y': the cell is empty (the first of 110 such cells)",
        "second.parquet: row 61, column 'a': the number is not finite",
    ]
    with pytest.raises(DataError, match=r"(?s)column 'color' holds values of type String.*column 'when' holds values"):
        new_run(files, features=["color", "when"])
    with pytest.raises(DataError, match="there is no column 'aa', which `features` names"):
        new_run(files, features=["aa"])
    frame().select("a", "y").write_parquet(files / "third.parquet")
    with pytest.raises(DataError, match=r"(?s)column 'kind' is missing, but in first.parquet it is String.*third"):
        new_run(files, features=["a"])
    for path, message in ((tmp_path / "none", "no such file"), (tmp_path / "*.parquet", "there is no Parquet file")):
        with pytest.raises(DataError, match=message):
            new_run(path)
    with pytest.raises(DataError, match=r"the validation split is empty: 0.1 of 1 block"):
        new_run(files / "first.parquet", features=["a"], split=[0.9, 0.1], block_rows=1000)


def test_a_trained_model_predicts_for_new_rows(files: Path, tmp_path: Path) -> None:
    run = new_run(files, **COLUMNS, standardize=True, standardize_target=True)
    result = run.fit()
    new = frame()[:20]
    made = result.predict(new)
    stream = stream_of(new_run(files, {"shuffle": False}, **COLUMNS, standardize=True, standardize_target=True).data)
    inputs = torch.cat([inputs for inputs, _ in batches(stream, 1)])[:20]
    (mean,), (scale,) = run.data.kept["target_mean"], run.data.kept["target_scale"]
    expected = run.model(inputs).detach().double().squeeze(1).numpy() * scale + mean
    np.testing.assert_allclose(made, expected, rtol=1e-6)
    shutil.rmtree(tmp_path / "rows")  # they are not needed


def test_moments_of_blocks_are_those_of_all_rows() -> None:
    values = np.random.default_rng(0).normal(1e6, 1, (1000, 2))
    moments = Moments(2)
    for part in np.split(values, [1, 1, 17, 600]):
        if len(part):
            squares = ((part - part.mean(0)) ** 2).sum(0)
            moments.add(np.array([[len(part)] * 2, part.mean(0), squares, part.min(0), part.max(0)]))
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-14)
    np.testing.assert_allclose(np.sqrt(moments.squares / 1000), values.std(0), rtol=1e-9)
