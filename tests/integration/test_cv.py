"""The command ``cv``, in real processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support import ROOT

Hookline = Callable[..., subprocess.CompletedProcess[str]]

CONFIG = f"""\
train = {{epochs = 2, batch_size = 50}}
model = {{use = "linear"}}
loss = {{use = "cross-entropy"}}
optimizer = {{use = "sgd", lr = 0.1}}

[data]
use = "csv"
path = '{ROOT / "tests" / "fixtures" / "iris" / "iris.csv"}'
target = "species"
task = "classification"
stratify = "species"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "iris.toml").write_text(CONFIG)
    return tmp_path


def test_each_fold_is_a_run_and_the_same_command_trains_none_again(hookline: Hookline, folder: Path) -> None:
    done = hookline("cv", "iris.toml", "--folds", "2", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:3] == ["2 folds", "fold 1/2: training", "fold 2/2: training"]
    assert lines[4].split() == ["fold", "examples", "loss", "accuracy"]
    assert [line.split()[0] for line in lines[5:9]] == ["fold", "fold", "mean", "deviation"]
    assert lines[-2:] == ["saved in runs/cv-iris", "wrote runs/cv-iris/out-of-fold.csv: 150 rows"]
    names = ["0001-repeat-1-fold-1-of-2", "0002-repeat-1-fold-2-of-2"]
    assert sorted(path.name for path in (folder / "runs" / "cv-iris").glob("0*")) == names
    again = hookline("cv", "iris.toml", "--folds", "2", "-o", "out.parquet", cwd=folder)
    assert again.stdout.splitlines()[4 - 2 :] == [*lines[4:-1], "wrote out.parquet: 150 rows"]
    document = json.loads(hookline("cv", "iris.toml", "--folds", "2", "--json", cwd=folder).stdout)
    assert [(one["run"], one["step"], one["examples"]) for one in document["folds"]] == [
        (name, 4, 75) for name in names
    ]
    accuracies = [one["metrics"]["accuracy"] for one in document["folds"]]
    assert document["mean"]["accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert hookline("cv", "iris.toml", "-o", "iris.toml", cwd=folder).returncode == 2


def test_processes_that_train_at_the_same_time_find_the_same_numbers(hookline: Hookline, folder: Path) -> None:
    words = ("cv", "iris.toml", "--folds", "2", "--json", "train.epochs=1", "--no-keep")
    one = hookline(*words, cwd=folder)
    two = hookline(*words, "--jobs", "2", "-o", "out.csv", cwd=folder)
    assert two.stderr == one.stderr == ""
    first, second = (json.loads(done.stdout) for done in (one, two))
    assert first["folds"] == second["folds"]
    assert second["runs"] is None
    assert not (folder / "runs").exists()
    with (folder / "out.csv").open(newline="") as file:
        assert [int(row["row"]) for row in csv.DictReader(file)] == list(range(150))


def test_a_signal_ends_all_processes_and_the_command_goes_on_later(folder: Path) -> None:
    words = [sys.executable, "-m", "hookline", "cv", "iris.toml", "--folds", "2", "--jobs", "2", "train.epochs=100000"]
    words += ["train.evaluate=[]", "callbacks.checkpoint.every_s=0.1"]
    with subprocess.Popen(words, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        runs = folder / "runs" / "cv-iris"
        while len(list(runs.glob("*/checkpoints/*"))) < 2 and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    records = [json.loads((run / "run.json").read_text()) for run in runs.glob("0*")]
    assert [record["status"] for record in records] == ["interrupted", "interrupted"]


def test_a_class_with_too_few_rows_is_an_error_before_anything_is_trained(hookline: Hookline, folder: Path) -> None:
    done = hookline("cv", "iris.toml", "--folds", "60", cwd=folder)
    assert done.returncode == 4
    assert "has 3 values with fewer rows than the 60 folds: 'setosa' (50), 'versicolor' (50)" in done.stderr
    assert "= ask for fewer folds" in done.stderr
    assert not (folder / "runs").exists()
