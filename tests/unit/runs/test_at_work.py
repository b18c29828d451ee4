"""A run that is followed from outside: only what is new is read, and what may be there at any moment is survived."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hookline.runs import RunFolder
from hookline.runs.overview import at_work
from hookline.runs.overview.at_work import WatchedRun


def _append(path: Path, *rows: dict[str, Any]) -> None:
    with (path / "metrics.jsonl").open("a") as stream:
        stream.writelines(f"{json.dumps(row)}\n" for row in rows)


def test_only_appended_lines_are_read(tmp_path: Path) -> None:
    folder = RunFolder.claim(tmp_path, "mine")
    file = folder.path / "metrics.jsonl"
    _append(folder.path, {"epoch": 1, "step": 10, "loss": 4.0, "other": 7.0})
    followed = WatchedRun(folder.path)
    assert followed.look()
    assert not followed.look()
    # What was read before is read no second time: there it would be seen that it was exchanged.
    file.write_text(file.read_text().replace("7.0", "9.0"))
    _append(folder.path, {"epoch": 1, "step": 20, "loss": 3.0})
    assert followed.look()
    assert followed.values == {"loss": 3.0, "other": 7.0}
    assert (followed.step, followed.status) == (20, "running")
    folder.close()


def test_a_file_that_was_cut_off_torn_or_filled_with_anything_is_read_on(tmp_path: Path) -> None:
    folder = RunFolder.claim(tmp_path, "mine")
    folder.record.num_epochs = 3
    file = folder.path / "metrics.jsonl"
    followed = WatchedRun(folder.path)
    followed.look()
    assert (followed.step, followed.num_steps, followed.seconds_left, followed.shown_values()) == (0, None, None, {})
    file.write_bytes(b'\xff\n[1]\n{"epoch": "x", "step": 1}\n{"epoch": 1}\n{"epoch": 1, "step": 8, "train/runn')
    assert followed.look()
    assert followed.step == 0
    with file.open("a") as stream:
        stream.write('ing_loss": 1.5, "text": "x", "null": null}\n')
    followed.look()
    assert (followed.step, followed.values) == (8, {"train/running_loss": 1.5})
    assert followed.num_steps == 0  # the record on the disk still has no epochs
    folder.save()
    followed.look()
    assert followed.num_steps == 24
    file.write_bytes(b"")
    followed.look()
    _append(folder.path, {"epoch": 1, "step": 2, "loss": 5.0})
    followed.look()
    assert (followed.step, followed.values["loss"]) == (2, 5.0)
    folder.close()


def test_of_a_long_file_only_the_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_work, "_TAIL_BYTES", 100)
    folder = RunFolder.claim(tmp_path, "mine")
    folder.close()
    _append(folder.path, *({"epoch": 1, "step": step, f"m{step}": 1.0} for step in range(100, 200)))
    followed = WatchedRun(folder.path)
    followed.look()
    assert followed.step == 199
    assert list(followed.values) == ["m198", "m199"]  # of 37 bytes each, with a third that is not whole


def test_a_run_whose_program_is_gone_is_lost_and_a_removed_one_unreadable(tmp_path: Path) -> None:
    folder = RunFolder.claim(tmp_path, "mine")
    folder.close()
    followed = WatchedRun(folder.path)
    assert followed.look()
    assert followed.status == "lost"
    shutil.rmtree(folder.path)
    assert followed.look()
    assert followed.status == "unreadable"
