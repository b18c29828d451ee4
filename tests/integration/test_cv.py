"""The command ``cv``, in real processes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hookline import HooklineError
from hookline_plugins.commands.cross_validating.processes import run_jobs
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
    again = hookline("cv", "iris.toml", "--folds", "2", "--jobs", "2", "-o", "out.parquet", cwd=folder)
    assert again.stdout.splitlines()[4 - 2 :] == [*lines[4:-1], "wrote out.parquet: 150 rows"]
    document = json.loads(hookline("cv", "iris.toml", "--folds", "2", "--json", cwd=folder).stdout)
    assert [(one["run"], one["step"], one["examples"]) for one in document["folds"]] == [
        (name, 4, 75) for name in names
    ]
    accuracies = [one["metrics"]["accuracy"] for one in document["folds"]]
    assert document["mean"]["accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert hookline("cv", "iris.toml", "-o", "iris.toml", cwd=folder).returncode == 2


def test_a_command_that_fails_is_named_and_no_further_one_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    written = [["init", "-o", name, "--quiet"] for name in ("first.toml", "second.toml")]
    assert run_jobs([("fold 1/2", written[0]), ("fold 2/2", written[1])], 2) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.toml", "second.toml"]
    jobs = [("fold 1/2", ["train", "no.toml"]), ("fold 2/2", ["init", "-o", "third.toml"])]
    with pytest.raises(HooklineError, match="fold 1/2 failed: see above"):
        run_jobs(jobs, 1)
    assert not (tmp_path / "third.toml").exists()


def test_a_class_with_too_few_rows_is_an_error_before_anything_is_trained(hookline: Hookline, folder: Path) -> None:
    done = hookline("cv", "iris.toml", "--folds", "60", "--no-keep", cwd=folder)
    assert done.returncode == 4
    assert "has 3 values with fewer rows than the 60 folds: 'setosa' (50), 'versicolor' (50)" in done.stderr
    assert "= ask for fewer folds" in done.stderr
    assert not (folder / "runs").exists()
