"""Files that are far larger than they look, and records that hold far more than anyone can read."""

from __future__ import annotations

import io
import json
import os
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from hookline import Catalog, ConfigError, DataError
from hookline.config import memory_bytes
from hookline.config.files import read_file
from hookline.runs.curves import metric_names, read_curves
from hookline.runs.disk.durable_files import AppendedFile
from hookline_plugins.data.arrays.source import Arrays
from hookline_plugins.data.faults import Faults
from reliability.fuzz_targets import GOOD_RECORD, printed, run_command, run_folder

LARGE = 10 * 2**30
LINE = b'{"epoch":1,"step":10,"train/loss":0.5}\n'

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files have no holes everywhere")


@contextmanager
def _quickly() -> Iterator[None]:
    """Assert that something takes no processor time to speak of: ten gigabytes take seconds."""
    begin = time.process_time()
    yield
    assert time.process_time() - begin < 2


def _sparse(path: Path, begin: bytes = b"", end: bytes = b"") -> Path:
    """Make a file of ten gigabytes that takes no space."""
    with path.open("wb") as stream:
        stream.write(begin)
        stream.truncate(LARGE - len(end))
        stream.seek(0, os.SEEK_END)
        stream.write(end)
    return path


def test_a_sparse_file_of_lines_is_opened_at_once(tmp_path: Path) -> None:
    path = _sparse(tmp_path / "log.txt", LINE)
    with _quickly():
        lines = AppendedFile(path)
        lines.append("new")
        lines.close()
    with path.open("rb") as stream:
        stream.seek(-5, os.SEEK_END)
        assert stream.read() == b"\nnew\n"
    with _quickly():
        lines = AppendedFile(path, len(LINE))
        lines.close()
    assert path.read_bytes() == LINE


def test_the_metrics_around_a_hole_are_read(tmp_path: Path) -> None:
    last = LINE.replace(b"10", b"20").replace(b"0.5", b"0.25")
    path = run_folder(tmp_path)
    _sparse(path / "metrics.jsonl", LINE, b"\n" + last)
    with _quickly():
        assert metric_names(path) == ["train/loss"]
        (curve,) = read_curves(path, ["train/loss"])
    assert curve.points == [(10, 0.5), (20, 0.25)]
    _sparse(path / "metrics.jsonl", LINE)
    with _quickly():
        (curve,) = read_curves(path, ["train/loss"])
    assert curve.points == [(10, 0.5)]


def test_too_many_metrics_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = run_folder(tmp_path)
    (path / "run.json").write_bytes(GOOD_RECORD)
    row = {"epoch": 1, "step": 1, **{f"{number}/loss": 0.5 for number in range(20_000)}}
    (path / "metrics.jsonl").write_text(f"{json.dumps(row)}\n" * 20)
    with _quickly(), pytest.raises(ConfigError, match="too many curves to tell apart: 20000"):
        run_command("runs", "plot", "1", "--runs", str(tmp_path / "runs"))


@pytest.mark.parametrize("words", [("show", "1"), ("diff", "1", "2"), ("list",)])
def test_what_a_person_reads_of_a_record_of_megabytes_is_bounded(tmp_path: Path, words: tuple[str, ...]) -> None:
    path = run_folder(tmp_path)
    long = "x" * 2**20
    record = json.loads(GOOD_RECORD)
    record |= {"git": long, "warnings": [long] * 3, "metrics": {f"{long}{number}": 0.5 for number in range(3)}}
    record["identity"] = {"settings": {f"a.{number}": number for number in range(100_000)} | {"b": long}}
    (path / "run.json").write_text(json.dumps(record))
    shown = printed(lambda: run_command("runs", *words, "--runs", str(tmp_path / "runs")))
    assert len(shown) < 2**18


def test_a_file_larger_than_the_memory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    with path.open("wb") as stream:
        stream.truncate(memory_bytes() + 1)
    with _quickly(), pytest.raises(OSError, match="do not fit into memory"):
        read_file(path, 2**62)


def test_an_array_that_only_its_archive_can_hold_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    shape = (memory_bytes() // 8 + 1, 1)
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("x", "y"):
            archive.writestr(f"{name}.npy", header.getvalue() + bytes(2**20))
    with _quickly(), pytest.raises(DataError) as caught:
        Arrays(path=tmp_path / "bomb.npz", inputs="x", targets="y").build_data()
    assert "need" in str(caught.value)
    assert "the memory has" in str(caught.value)


def test_rows_that_the_memory_cannot_hold_are_refused() -> None:
    faults = Faults(Path("t.parquet"))
    faults.check_memory(memory_bytes(), "few rows")
    with pytest.raises(DataError, match="200,000,000 rows need"):
        faults.check_memory(memory_bytes() + 1, "200,000,000 rows")


def test_metadata_that_are_a_pipe_are_named_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "strange-1.0.dist-info"
    folder.mkdir()
    os.mkfifo(folder / "entry_points.txt")
    monkeypatch.syspath_prepend(tmp_path)
    (problem,) = Catalog.installed().problems
    assert "strange-1.0.dist-info are damaged" in problem
    assert "it is not a regular file" in problem
