"""Removing runs and checkpoints while someone puts links in the place of their folders."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hookline import CheckpointError, ConfigError
from hookline.runs import RunFolder
from hookline.runs.disk.checkpoint import prune, write_checkpoint
from hookline.runs.disk.durable_files import AppendedFile, remove_folder
from hookline.runs.disk.occupancy import hold
from hookline.runs.removal import remove_run
from reliability.layer import Layer, under_files

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="folders have no descriptors there")


def _state(step: int) -> dict[str, object]:
    return {"step": step, "epoch": 1, "position": 0, "model": {}}


def _run(parent: Path) -> Path:
    """Return the folder of a run with checkpoints and artifacts."""
    folder = RunFolder.claim(parent, "mine")
    for step in (10, 20, 30):
        write_checkpoint(folder.checkpoints, _state(step), run=folder.record.run)
    (folder.artifacts / "deep").mkdir()
    (folder.artifacts / "deep" / "plot.txt").write_text("x")
    folder.save()
    folder.close()
    return folder.path


def _copy_outside(path: Path, outside: Path) -> dict[Path, bytes]:
    """Make a folder like ``path`` that belongs to someone else; return its files."""
    shutil.copytree(path, outside)
    return _files(outside)


def _files(folder: Path) -> dict[Path, bytes]:
    return {found: found.read_bytes() for found in folder.rglob("*") if found.is_file()}


@contextmanager
def _swapping(at: int, name: Path, outside: Path) -> Iterator[Layer]:
    """Put a link to ``outside`` in the place of a folder before the given operation on files."""

    def swap(_name: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # it was removed before
            name.rename(name.with_name("aside"))
            name.symlink_to(outside, target_is_directory=True)

    with under_files(Layer(at, swap)) as layer:
        yield layer


def _num_operations(path: Path) -> int:
    with under_files(Layer()) as layer:
        remove_run(path)
    return len(layer.calls)


@pytest.mark.parametrize("swapped", ["", "checkpoints", "checkpoints/step-000000000010-epochs-1", "artifacts"])
def test_a_link_in_the_place_of_a_folder_is_not_followed_whenever_it_appears(tmp_path: Path, swapped: str) -> None:
    num_operations = _num_operations(_run(tmp_path / "count"))
    assert num_operations > 40
    for at in range(1, num_operations + 1, 1 if not swapped else 3):
        parent, outside = tmp_path / f"{at}", tmp_path / f"outside-{at}"
        path = _run(parent)
        before = _copy_outside(path / swapped, outside)
        with _swapping(at, path / swapped, outside), contextlib.suppress(ConfigError):
            remove_run(path)
        assert _files(outside) == before, f"swapped at operation {at}"


@pytest.mark.parametrize("swapped", ["checkpoints", "checkpoints/step-000000000010-epochs-1"])
def test_old_checkpoints_are_not_removed_through_a_link(tmp_path: Path, swapped: str) -> None:
    for at in range(1, 40, 2):
        path, outside = _run(tmp_path / f"{at}"), tmp_path / f"outside-{at}"
        before = _copy_outside(path / swapped, outside)
        run = RunFolder.open(path)
        with _swapping(at, path / swapped, outside), contextlib.suppress(OSError):
            prune(path / "checkpoints", run=run.record.run, keep=1, best=lambda _: None, keep_best=0)
        run.close()
        assert _files(outside) == before, f"swapped at operation {at}"


@pytest.mark.parametrize("swapped", ["", "checkpoints"])
def test_a_run_writes_nothing_through_a_link(tmp_path: Path, swapped: str) -> None:
    path, outside = _run(tmp_path), tmp_path / "outside"
    before = _copy_outside(path / swapped, outside)
    run = RunFolder.open(path)
    save = functools.partial(run.write_checkpoint, _state(40), metrics={}, identity={}) if swapped else run.save
    with _swapping(1, path / swapped, outside), pytest.raises(CheckpointError):
        save()
    run.close()
    assert _files(outside) == before


def test_a_lock_with_a_second_name_is_held_and_not_written(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    os.link(tmp_path / "precious", tmp_path / ".lock")
    hold(tmp_path).close()
    assert (tmp_path / "precious").read_text() == "precious"


def test_lines_are_not_written_into_a_file_with_a_second_name(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    os.link(tmp_path / "precious", tmp_path / "metrics.jsonl")
    with pytest.raises(OSError, match="hard link"):
        AppendedFile(tmp_path / "metrics.jsonl", 0)
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_folder_of_many_levels_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    (folder / "/".join("abcdefghij" * 5)).mkdir(parents=True)
    remove_folder(folder)
    assert list(tmp_path.iterdir()) == []
