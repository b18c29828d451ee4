"""``hookline prove-resume``: real processes, really killed; a plugin that loses state is found and named."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Hookline = Callable[..., subprocess.CompletedProcess[str]]

FILE = """\
import hookline
import random
import torch
from hookline import DataSource, hookimpl


def change(run, factor):
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.mul_(1 + factor * 1e-6)


@hookline.plugin("callback", "counter")
class Counter:
    \"""Changes the weights by its number of calls, and does not save that number.\"""

    @hookimpl
    def on_run_start(self):
        self.calls = 0

    @hookimpl
    def on_step_end(self, run):
        self.calls += 1
        change(run, self.calls)


@hookline.plugin("callback", "liar")
class Liar(Counter):
    \"""Saves a wrong number of calls.\"""

    def state_dict(self):
        return {"calls": 0}

    def load_state_dict(self, state):
        self.calls = state["calls"]


@hookline.plugin("callback", "drawing")
class Drawing:
    \"""Draws from a generator that it does not save.\"""

    @hookimpl
    def on_run_start(self, run):
        self.rng = run.generator("drawing")

    @hookimpl
    def on_step_end(self, run):
        change(run, torch.rand((), generator=self.rng))


@hookline.plugin("callback", "dicing")
class Dicing:
    \"""Draws from Python's generator, which is not seeded.\"""

    @hookimpl
    def on_step_end(self, run):
        change(run, random.random())


@hookline.plugin("data", "unreadable")
class Unreadable(torch.utils.data.Dataset):
    \"""Has an example that cannot be read.\"""

    @hookimpl
    def build_data(self):
        return DataSource(self, in_features=1, out_features=1)

    def __len__(self):
        return 100

    def __getitem__(self, index):
        if index == 77:
            raise OSError("the disk is gone")
        return torch.ones(1), torch.ones(1)
"""
SMALL = ("train.epochs=2", "train.batch_size=50", "--every-steps", "4")
"""40 steps."""


@pytest.fixture
def prove(hookline: Hookline, tmp_path: Path) -> Hookline:
    """The command, for a small run that may use the plugins of a file."""
    (tmp_path / "mine.py").write_text(FILE)
    return lambda *words: hookline("prove-resume", "--plugin", "mine.py", *SMALL, *words)


def test_the_default_run_resumes_exactly_and_both_runs_are_saved(prove: Hookline, tmp_path: Path) -> None:
    done = prove("--kills", "3", "--seed", "1", "--keep", "proof")
    assert (done.returncode, done.stderr) == (0, "")
    verdict = re.search(
        r"^exact: 11 states with \d+ tensors and \d+ values in all, 2 lines of metrics and the final weights are the "
        r"same to the last bit after 3 kills \(after (\d+), (\d+), (\d+) steps\)$",
        done.stdout,
        re.MULTILINE,
    )
    assert verdict is not None, done.stdout
    steps = [int(step) for step in verdict.groups()]
    assert steps == sorted(steps)
    assert done.stdout.count(" killed after ") == 3
    assert "--seed 1" in done.stdout
    record = json.loads(next((tmp_path / "proof" / "killed").glob("0001-*/run.json")).read_text())
    # Really killed: only the last process could record its outcome.
    assert [attempt["outcome"] for attempt in record["attempts"]] == [None, None, None, "completed"]
    again = prove("--keep", "proof")
    assert again.returncode == 2
    assert "error: cannot create proof: File exists\n  = name a new folder with --keep\n" in again.stderr


def test_state_that_plugins_do_not_save_is_found_and_each_plugin_named(prove: Hookline) -> None:
    words = ("callbacks.first=counter", "callbacks.second=liar", "callbacks.third=drawing")
    done = prove("--kills", "1", "--seed", "2", "--json", *words)
    assert done.returncode == 5
    events = [json.loads(line) for line in done.stdout.splitlines()]
    verdict = next(event for event in events if event["event"] == "proof")
    assert (verdict["exact"], verdict["owner"], verdict["path"]) == (False, "callbacks.first", "model/weight")
    assert 0 < verdict["largest"] < 1e-2
    assert [sorted(kill) for kill in verdict["kills"]] == [["step", "what"]]
    first = (
        r"error: this run does not resume exactly\n\nthe first difference is in checkpoint step-0{9}\d{3}-epochs-\d: "
    )
    assert re.match(first + r"model/weight: \d of 2 values differ, at most by \S+\n", done.stderr), done.stderr
    counted = r"calls was (\d+) after \1 steps in the first run, and 0 in the second"
    assert re.search(rf"owner: callbacks\.first \(counter, mine\.py\): {counted}", done.stderr), done.stderr
    assert re.search(rf"or: callbacks\.second \(liar, mine\.py\): {counted}", done.stderr), done.stderr
    assert re.search(r"or: callbacks\.third \(drawing, mine\.py\): rng was state \w+ after", done.stderr), done.stderr
    assert "docs/how-to/ship-state.md" in done.stderr
    assert events[-1]["event"] == "error"


def test_a_run_that_is_not_repeatable_is_reported_as_such(prove: Hookline) -> None:
    done = prove("--kills", "1", "--seed", "4", "--quiet", "callbacks.mine=dicing")
    assert done.returncode == 5
    assert done.stderr.startswith("error: this run is not repeatable: two runs of it differ before either was")
    assert "owner: callbacks.mine (dicing, mine.py): it draws from Python's and NumPy's generators" in done.stderr


def test_a_run_that_fails_by_itself_fails_with_its_own_error(prove: Hookline) -> None:
    done = prove("--kills", "1", "data=unreadable", "train.max_time_s=60")
    assert done.returncode == 4
    assert "note: ignoring train.max_time_s = 60" in done.stderr
    assert "the run fails without interruption: example 77 of the train split" in done.stderr
    assert "OSError: the disk is gone" in done.stderr
