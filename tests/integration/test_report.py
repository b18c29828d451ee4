"""``hookline report`` in real processes: the file, what is kept, what needs no torch, and a run without its plugins."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import modules_after, run, warm_program

Hookline = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Hookline]:
    """A folder with two runs, and the command ``hookline`` in this folder."""
    folder = tmp_path_factory.mktemp("report")

    def hookline(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return run([str(warm_program()), *words], cwd=folder, **environment)

    for rate in ("0.03", "0.1"):
        done = hookline("train", f"optimizer.lr={rate}", "train.epochs=1", "--quiet")
        assert done.returncode == 0, done.stderr
    return folder, hookline


def titles(page: Path) -> list[str]:
    data = re.search(r'id="hookline-sections">(.*?)</script>', page.read_text(), re.DOTALL)
    assert data is not None
    return [section["title"] for section in json.loads(data[1])]


def test_a_report_evaluates_once_and_needs_no_torch_the_next_time(place: tuple[Path, Hookline]) -> None:
    folder, hookline = place
    done = hookline("report", "1")
    assert (done.returncode, done.stdout) == (0, "wrote 0001-synthetic-linear-linear.html\n")
    assert done.stderr == "evaluating the model for the report, once\n"
    page = folder / "0001-synthetic-linear-linear.html"
    assert {"Config", "loss", "y: residuals, train", "Weights for y", "Train it again"} <= set(titles(page))
    code, modules = modules_after("report", "1", "-o", "again.html", cwd=folder)
    assert code == 0
    assert not {"torch", "polars", "rich"} & modules
    assert titles(folder / "again.html") == titles(page)


def test_a_report_without_evaluation_needs_no_torch_and_keeps_nothing(place: tuple[Path, Hookline]) -> None:
    folder, _ = place
    code, modules = modules_after("report", "2", "--no-evaluation", cwd=folder)
    assert code == 0
    assert "torch" not in modules
    assert "Metrics of the train split" not in titles(folder / "0002-synthetic-linear-linear.html")
    assert not list(folder.glob("runs/0002*/artifacts"))


def test_a_file_that_exists_is_replaced_only_with_force(place: tuple[Path, Hookline]) -> None:
    folder, hookline = place
    (folder / "mine.html").write_text("mine")
    done = hookline("report", "1", "2", "-o", "mine.html")
    assert done.returncode == 2
    assert "mine.html already exists" in done.stderr
    assert hookline("report", "1", "2", "-o", "mine.html", "--force").stdout == "wrote mine.html\n"
    assert {"Runs", "Differences", "Settings and results", "loss"} <= set(titles(folder / "mine.html"))


def test_json_prints_the_sections_and_writes_no_page(place: tuple[Path, Hookline]) -> None:
    folder, hookline = place
    before = set(folder.glob("*.html"))
    found: list[dict[str, Any]] = json.loads(hookline("report", "1", "2", "--json").stdout)
    assert found[0]["kind"] == "table"
    assert set(folder.glob("*.html")) == before


def test_open_shows_the_file_in_the_browser(place: tuple[Path, Hookline]) -> None:
    folder, hookline = place
    (folder / "bin").mkdir()
    browser = folder / "bin" / "xdg-open"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {folder}/new && mv {folder}/new {folder}/opened\n')
    browser.chmod(0o755)
    done = hookline("report", "2", "--no-evaluation", "-o", "o.html", "--open", PATH=f"{browser.parent}:/usr/bin:/bin")
    assert done.returncode == 0, done.stderr
    while not (folder / "opened").exists():  # the browser is not waited for
        time.sleep(0.01)
    assert (folder / "opened").read_text() == str(folder / "o.html")


def test_a_run_without_its_data_plugins_or_weights_has_a_report_with_a_note(
    place: tuple[Path, Hookline], tmp_path: Path
) -> None:
    folder, hookline = place
    lost = tmp_path / "runs" / "0001-lost"
    shutil.copytree(folder / "runs" / "0002-synthetic-linear-linear", lost)
    config = (lost / "config.toml").read_text()
    (lost / "config.toml").write_text(config.replace('use = "synthetic-linear"', 'use = "of-another-machine"'))
    done = hookline("report", str(lost), "-o", str(tmp_path / "lost.html"))
    assert done.returncode == 0
    assert "warning: the report lacks the evaluation: " in done.stderr
    assert "of-another-machine" in done.stderr
    assert {"No evaluation", "loss", "Config"} <= set(titles(tmp_path / "lost.html"))
    for name in ("metrics.jsonl", "log.txt", "config.toml", "model.safetensors"):
        (lost / name).unlink()
    done = hookline("report", str(lost), "-o", str(tmp_path / "empty.html"))
    assert done.returncode == 0
    assert "Result" in titles(tmp_path / "empty.html")


def test_a_run_that_is_not_there_is_an_error(place: tuple[Path, Hookline]) -> None:
    _, hookline = place
    done = hookline("report", "9")
    assert done.returncode == 2
    assert "there is no run '9'" in done.stderr


def test_the_importance_of_the_features_is_measured_when_asked_for_and_kept(place: tuple[Path, Hookline]) -> None:
    _, hookline = place
    measured = json.loads(hookline("importance", "2", "--json").stdout)
    found = json.loads(hookline("report", "2", "--importance", "--json").stdout)
    [shown] = [section for section in found if section["title"] == "Importance of the features"]
    assert shown["labels"] == [one["feature"] for one in measured["features"]]
    assert shown["values"] == [one["mean"] for one in measured["features"]]
    assert json.loads(hookline("report", "2", "--json").stdout) == found, "it is kept"
    done = hookline("report", "2", "--importance", "--no-evaluation")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--importance is for the evaluation of one run" in done.stderr
