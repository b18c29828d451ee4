"""The list of runs of the dashboard: what is read, and what is said to have changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hookline import ConfigError
from hookline.runs import BestValue, RunFolder
from hookline_plugins.commands.dashboard import index as module
from hookline_plugins.commands.dashboard.index import Index

Make = Callable[..., RunFolder]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(label: str = "csv-mlp", **values: Any) -> RunFolder:
        folder = RunFolder.claim(tmp_path / "runs", label)
        values = {"status": "completed", "metrics": {"loss": 0.5}, "best": BestValue("loss", "min", 0.5, 1, 1)} | values
        for name, value in values.items():
            setattr(folder.record, name, value)
        folder.save()
        folder.close()
        return folder

    return made


@pytest.fixture
def index(tmp_path: Path) -> Index:
    (tmp_path / "runs").mkdir()
    return Index(tmp_path / "runs")


def names(changes: module.Changes) -> list[str]:
    return [row["name"] for row in changes.rows]


def test_only_what_changed_is_said_again(index: Index, make: Make) -> None:
    make()
    second = make()
    first = index.changes(0, [])
    assert (first.is_whole, names(first)) == (True, ["0001-csv-mlp", "0002-csv-mlp"])
    nothing = index.changes(first.version, [])
    assert (nothing.is_whole, names(nothing)) == (False, [])
    make()
    third = index.changes(nothing.version, [])
    assert (third.is_whole, names(third)) == (False, ["0003-csv-mlp"])
    shutil.rmtree(second.path)
    rest = index.changes(third.version, [])
    assert (rest.is_whole, names(rest)) == (True, ["0001-csv-mlp", "0003-csv-mlp"])
    assert index.changes(third.version + 10**9, []).is_whole, "it is the version of another server"


def test_a_run_at_work_is_looked_at_each_time(index: Index, make: Make, tmp_path: Path) -> None:
    make()
    folder = RunFolder.claim(tmp_path / "runs", "csv-mlp")
    before = index.changes(0, [])
    assert [row["status"] for row in before.rows] == ["completed", "running"]
    folder.record.step = 100
    folder.save()
    after = index.changes(before.version, [])
    assert [(row["name"], row["step"]) for row in after.rows] == [("0002-csv-mlp", 100)]
    folder.close()
    assert [row["status"] for row in index.changes(after.version, []).rows] == ["lost"]


def test_all_others_are_looked_at_from_time_to_time(index: Index, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make()
    first = index.changes(0, [])
    monkeypatch.setattr(module, "_SURVEY_S", 1e9)
    (folder.path / "notes.json").write_text('{"tags":["good"],"note":"n","format":1}')
    assert names(index.changes(first.version, [])) == []
    monkeypatch.setattr(module, "_SURVEY_S", 0.0)
    (row,) = index.changes(first.version, []).rows
    assert (row["tags"], row["note"]) == (["good"], "n")


def test_columns_show_settings_and_metrics(index: Index, make: Make) -> None:
    for rate in (0.1, 0.2):
        make(identity={"settings": {"optimizer.lr": rate, "model.hidden": [8, 8], "train.seed": 2**60}})
    make(identity={"settings": {"optimizer.lr": 0.1, "model.hidden": [8, 8], "train.seed": 2**60, "loss.x": 1}})
    keys = ["optimizer.lr", "model.hidden", "metric:loss", "train.seed", "none"]
    assert index.changes(0, keys).rows[1]["cells"] == [0.2, "[8, 8]", 0.5, str(2**60), None]
    columns = index.columns()
    assert columns["metrics"] == ["loss"]
    assert [one["name"] for one in columns["settings"] if one["varies"]] == ["loss.x", "optimizer.lr"]


def test_a_run_is_found_by_the_name_that_the_list_shows_and_by_nothing_else(index: Index, make: Make) -> None:
    folder = make()
    (index.folder / "0007-link").symlink_to(folder.path)
    (index.folder / "other").mkdir()
    assert names(index.changes(0, [])) == ["0001-csv-mlp"]
    assert index.path_of("0001-csv-mlp") == folder.path
    for name in ("", ".", "..", "1", "last", "other", "0007-link", "../runs/0001-csv-mlp", str(folder.path)):
        assert index.path_of(name) is None


def test_a_folder_that_cannot_be_read_is_an_error_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot read the folder of runs"):
        Index(tmp_path / "file").changes(0, [])
