"""A glance at a run: what a list of thousands shows of each."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from hookline.runs import Attempt, BestValue, RunFolder, glance_at
from hookline.runs.overview.notes import change_note, change_tags

BEGAN = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder.claim(tmp_path, "csv-mlp")
    record = folder.record
    record.epochs, record.num_epochs, record.step, record.time_s = 2, 3, 200, 0.5
    record.best, record.metrics = BestValue("loss", "min", 0.25, 2, 200), {"loss": 0.5}
    record.identity = {"settings": {"optimizer.lr": 0.03, "model.hidden": [8, 8]}}
    record.attempts = [Attempt(BEGAN, ["hookline", "train"], "far", 7, 0, 200)]
    folder.save()
    return folder


def test_a_glance_has_what_the_record_and_the_notes_say(folder: RunFolder) -> None:
    change_tags(folder.path, ["good"])
    change_note(folder.path, "the one")
    glance = glance_at(str(folder.path))
    assert (glance.status, glance.epochs, glance.num_epochs, glance.step, glance.time_s) == ("running", 2, 3, 200, 0.5)
    assert (glance.started, glance.metrics, glance.best) == (
        BEGAN,
        {"loss": 0.5},
        BestValue("loss", "min", 0.25, 2, 200),
    )
    assert (glance.tags, glance.note, glance.problem) == (["good"], "the one", "")
    assert glance.settings() == {"optimizer.lr": 0.03, "model.hidden": [8, 8]}
    folder.close()
    assert glance_at(folder.path).status == "lost", "no program works in it"


def test_the_glance_at_a_damaged_run_says_so(folder: RunFolder) -> None:
    folder.close()
    (folder.path / "notes.json").write_text("[")
    glance = glance_at(folder.path)
    assert (glance.status, glance.step) == ("lost", 200)
    assert "notes.json" in glance.problem
    assert glance.settings() == {"optimizer.lr": 0.03, "model.hidden": [8, 8]}
    (folder.path / "run.json").write_text('{"run": "')
    glance = glance_at(folder.path)
    assert glance.status == "unreadable"
    assert "run.json cannot be read" in glance.problem
    assert glance.settings() == {}


def test_settings_that_are_no_table_are_none(folder: RunFolder) -> None:
    folder.record.identity = {"settings": [1]}
    folder.save()
    folder.close()
    assert glance_at(folder.path).settings() == {}
