"""The callback ``run-folder``: every file of the folder, and what happens when one cannot be written."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hookline import CheckpointError, ConfigError, NonFiniteError, Run, hookimpl, load_config, resume
from hookline.runs import folder_of
from hookline.runs.redaction import REDACTED
from support import saved_folder


def make(folder: Path, options: Mapping[str, Any] | None = None, *, epochs: int = 2, **callbacks: Any) -> Run:
    """Return a small run with the callback's ``options``, and other callbacks."""
    config = {
        "train": {"epochs": epochs, "device": "cpu"},
        "data": {"num_examples": 100},
        "callbacks": {"run-folder": {"parent": str(folder / "runs"), **(options or {})}},
    }
    return Run(config, plugins={f"callbacks.{name}": callback for name, callback in callbacks.items()})


def kept(run: Run) -> Path:
    assert folder_of(run)
    return saved_folder(run).path


def record_of(run: Run) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((kept(run) / "run.json").read_text())
    return record


def lines_of(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (kept(run) / "metrics.jsonl").read_text().splitlines()]


class Fails:
    """Fails in its third step."""

    @hookimpl
    def on_step_end(self, run: Run) -> None:
        if run.step == 3:
            raise ValueError("no \x1b[31m\nmore")


class NotANumber:
    """A metric that is not a number."""

    @hookimpl
    def build_metrics(self) -> Mapping[str, Any]:
        return {"strange": self}

    def update(self, prediction: torch.Tensor, target: torch.Tensor) -> None: ...

    def compute(self) -> float:
        return float("inf")

    def reset(self) -> None: ...


# ---- name -----------------------------------------------------------------------------------------------------------


def test_a_folder_is_numbered_and_named_after_data_and_model(tmp_path: Path) -> None:
    runs = [make(tmp_path, epochs=0) for _ in range(2)]
    for run in runs:
        run.fit()
    assert [kept(run).name for run in runs] == ["0001-synthetic-linear-linear", "0002-synthetic-linear-linear"]
    assert (tmp_path / "runs" / "last").readlink() == Path("0002-synthetic-linear-linear")


def test_objects_of_any_name_make_a_name_of_a_folder(tmp_path: Path) -> None:
    def wild_net(data: Any) -> torch.nn.Module:
        return torch.nn.Linear(2, 1)

    wild_net.__name__ = wild_net.__qualname__ = "../Wild Net/\x07é"
    config = {"train": {"epochs": 0}, "callbacks": {"run-folder": {"parent": str(tmp_path)}}}
    run = Run(config, plugins={"model": wild_net})
    run.fit()
    assert kept(run).parent == tmp_path
    assert kept(run).name.startswith("0001-synthetic-linear-")
    assert kept(run).name.isascii()


def test_a_name_can_be_given(tmp_path: Path) -> None:
    run = make(tmp_path, {"name": "try.this_1"}, epochs=0)
    run.fit()
    assert kept(run).name == "0001-try.this_1"


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "last", "best", "con", "x" * 101, "a b", "a\n"])
def test_a_name_that_is_none_is_refused_with_what_it_may_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is not a valid run name") as caught:
        make(tmp_path, {"name": name}, epochs=0).fit()
    assert "1 to 100" in str(caught.value.hint)
    assert not (tmp_path / "runs").exists()


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(ConfigError, match="cannot make a run folder in"):
        make(tmp_path, epochs=0).fit()


def test_a_run_that_has_a_folder_gets_no_other(tmp_path: Path) -> None:
    config = {"callbacks": {"run-folder": {"parent": str(tmp_path)}, "more": {"use": "run-folder"}}}
    with pytest.raises(ConfigError, match=r"callbacks\.run-folder and callbacks\.more"):
        Run(config).fit()


# ---- record ---------------------------------------------------------------------------------------------------------


def test_a_finished_run_has_all_its_files_and_nothing_else(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.fit()
    files = {".lock", "config.toml", "data.json", "log.txt", "metrics.jsonl", "model.safetensors", "run.json"}
    assert {path.name for path in kept(run).iterdir()} == files
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {kept(run).name, "last", ".lock"}


def test_the_record_says_what_became_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/train.py", "--fast", "callbacks.upload.token=1234"])
    run = make(tmp_path)
    result = run.fit()
    record = record_of(run)
    assert record["status"] == "completed"
    assert (record["epochs"], record["num_epochs"], record["step"], record["seed"]) == (2, 2, 20, 0)
    assert record["metrics"] == dict(result.metrics)
    best = min(range(2), key=lambda index: result.history[index]["train/loss"])
    assert record["best"] == {
        "metric": "train/loss",
        "mode": "min",
        "value": result.history[best]["train/loss"],
        "epoch": best + 1,
        "step": 10 * (best + 1),
    }
    assert 0 < record["time_s"] < 60
    (attempt,) = record["attempts"]
    assert attempt["command"] == ["train.py", "--fast", f"callbacks.upload.token={REDACTED}"]
    assert (attempt["from_step"], attempt["step"], attempt["outcome"]) == (0, 20, "completed")
    assert attempt["error"] is None
    assert attempt["pid"] == os.getpid()
    assert datetime.fromisoformat(attempt["started"]) <= datetime.fromisoformat(attempt["ended"])
    assert record["identity"]["settings"]["data.num_examples"] == 100
    assert record["identity"]["plugins"]["model"]["name"] == "linear"


def test_the_record_says_that_the_run_is_at_work_from_its_first_moment(tmp_path: Path) -> None:
    run = make(tmp_path)
    steps = run.steps()
    next(steps)
    record = record_of(run)
    assert (record["status"], record["attempts"][0]["outcome"], record["model"]) == ("running", None, None)
    steps.close()  # type: ignore[attr-defined] # an iterator that is a generator
    assert record_of(run)["status"] == "stopped"


def test_a_run_that_was_interrupted_has_no_weights_and_says_so(tmp_path: Path) -> None:
    run = make(tmp_path)
    for step in run.steps():
        if step.step == 13:
            run.interrupt("SIGTERM")
    record = record_of(run)
    assert (record["status"], record["step"], record["epochs"], record["model"]) == ("interrupted", 13, 1, None)
    assert not (kept(run) / "model.safetensors").exists()
    assert "interrupted after 13 steps" in (kept(run) / "log.txt").read_text()


def test_another_metric_can_be_watched(tmp_path: Path) -> None:
    run = make(tmp_path, {"monitor": "train/running_loss", "mode": "max"})
    result = run.fit()
    best = record_of(run)["best"]
    assert (best["metric"], best["mode"], best["epoch"]) == ("train/running_loss", "max", 1)
    assert best["value"] == result.history[0]["train/running_loss"]


def test_a_run_that_measures_nothing_watches_the_running_loss(tmp_path: Path) -> None:
    config = {"train": {"evaluate": [], "epochs": 1}, "callbacks": {"run-folder": {"parent": str(tmp_path)}}}
    run = Run(config)
    run.fit()
    assert record_of(run)["best"]["metric"] == "train/running_loss"


def test_the_commit_of_the_folder_at_work_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path, epochs=0)
    monkeypatch.chdir(tmp_path)
    run.fit()
    assert record_of(run)["git"] is None
    monkeypatch.chdir(Path(__file__).parent)
    run = make(tmp_path, epochs=0)
    run.fit()
    commit = record_of(run)["git"]
    assert commit is None or len(commit.removesuffix("-dirty")) == 40


# ---- config, metrics, log, weights ----------------------------------------------------------------------------------


def test_the_config_is_complete_and_means_the_same(tmp_path: Path) -> None:
    run = make(tmp_path, epochs=1)
    run.fit()
    text = (kept(run) / "config.toml").read_text()
    assert "lr = 0.03                     # default of optimizer 'sgd' (hookline 0.1.0)" in text
    again = load_config(kept(run) / "config.toml")
    assert again.train == run.config.train
    assert [choice.options for choice in again.plugins] == [choice.options for choice in run.config.plugins]


def test_there_is_a_line_for_each_epoch_and_each_evaluation_within_one(tmp_path: Path) -> None:
    config = {
        "train": {"epochs": 2, "evaluate_every_steps": 40, "evaluate_every_epochs": 2},
        "callbacks": {"run-folder": {"parent": str(tmp_path)}},
    }
    run = Run(config)
    result = run.fit()
    lines = lines_of(run)
    assert [(line["epoch"], line["step"]) for line in lines] == [
        (1, 40),
        (1, 80),
        (1, 100),
        (2, 120),
        (2, 160),
        (2, 200),
        (2, 200),
    ]
    assert {name: value for name, value in lines[-1].items() if name not in ("epoch", "step")} == dict(result.metrics)


def test_a_number_that_is_not_finite_is_null(tmp_path: Path) -> None:
    run = make(tmp_path, epochs=1, strange=NotANumber())
    run.fit()
    assert lines_of(run)[0]["train/strange"] is None
    assert "NaN" not in (kept(run) / "run.json").read_text()
    assert record_of(run)["metrics"]["train/strange"] is None


def test_the_log_has_what_was_shown_and_what_was_wrong(tmp_path: Path) -> None:
    class Warns:
        @hookimpl
        def on_epoch_end(self, run: Run) -> None:
            run.warn(f"epoch {run.epoch} \x1b[31mred")

    run = make(tmp_path, warns=Warns())
    run.fit()
    log = (kept(run) / "log.txt").read_text()
    for text in (
        "train/running_loss",
        "1/2",
        "2/2",
        "warning: epoch 2 \\x1b[31mred",
        "learned and true",
        "completed after",
    ):
        assert text in log
    assert "\x1b" not in log
    assert record_of(run)["warnings"] == run.warnings


def test_the_weights_are_those_of_the_end_under_the_names_of_the_model(tmp_path: Path) -> None:
    run = make(tmp_path)
    model = run.fit().model
    weights = safetensors.torch.load_file(kept(run) / "model.safetensors")
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert record_of(run)["model"]["size"] == (kept(run) / "model.safetensors").stat().st_size


def test_secrets_are_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Upload:
        """Has a secret."""

        def __init__(self, token: str = "", url: str = "") -> None:
            self.token, self.url = token, url

        @hookimpl
        def on_epoch_end(self) -> None: ...

    monkeypatch.setattr(sys, "argv", ["train.py", "callbacks.upload.token=tok-1234", "--url=a://me:pass-1234@h"])
    config = {
        "train": {"epochs": 1},
        "callbacks": {
            "run-folder": {"parent": str(tmp_path)},
            "checkpoint": {},
            "upload": {"token": "tok-1234", "url": "a://me:pass-1234@h"},
        },
    }
    run = Run(config, plugins={"callbacks.upload": Upload})
    run.fit()
    files = [path for path in kept(run).rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path.name for path in files if b"1234" in path.read_bytes()] == []


# ---- a failure ------------------------------------------------------------------------------------------------------


def test_what_is_known_of_a_failure_is_kept(tmp_path: Path) -> None:
    run = make(tmp_path, fails=Fails())
    with pytest.raises(ValueError, match="no"):
        run.fit()
    record = record_of(run)
    assert record["status"] == record["attempts"][0]["outcome"] == "failed"
    assert record["attempts"][0]["error"].startswith("ValueError: no")
    assert "\x1b" not in record["attempts"][0]["error"]
    known = json.loads((kept(run) / "debug" / "error.json").read_text())
    assert known["error"].startswith("ValueError: no")
    assert (known["epoch"], known["step"], known["seed"]) == (1, 3, 0)
    assert any("on_step_end" in note for note in known["notes"])
    traceback = (kept(run) / "debug" / "traceback.txt").read_text()
    assert "Traceback (most recent call last)" in traceback
    assert "test_run_folder.py" in traceback
    assert "Traceback" in (kept(run) / "log.txt").read_text()


def test_the_examples_of_a_batch_that_is_not_finite_are_kept(tmp_path: Path) -> None:
    config = {"optimizer": {"lr": 1e30}, "callbacks": {"run-folder": {"parent": str(tmp_path)}}}
    run = Run(config)
    with pytest.raises(NonFiniteError, match="its examples are"):
        run.fit()
    known = json.loads((kept(run) / "debug" / "error.json").read_text())
    assert len(known["indices"]) == 10
    assert "learning rate" in known["hint"]


def test_a_run_that_goes_well_has_no_debug_folder(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.fit()
    assert not (kept(run) / "debug").exists()


class InTheWay:
    """Puts a file where a folder is to be."""

    def __init__(self, name: str) -> None:
        self.name = name

    @hookimpl
    def on_epoch_start(self, run: Run) -> None:
        (kept(run) / self.name).write_text("in the way")


def test_a_debug_folder_that_cannot_be_made_hides_no_error(tmp_path: Path) -> None:
    run = make(tmp_path, way=InTheWay("debug"), fails=Fails())
    with pytest.raises(ValueError, match="no"):
        run.fit()
    assert any("the debug folder of the run cannot be written" in text for text in run.warnings)
    assert record_of(run)["status"] == "failed"


class NoRoom:
    """Lets no file grow beyond some bytes while an epoch ends: the system refuses, as on a full disk."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    @hookimpl(tryfirst=True)
    def on_epoch_end(self, run: Run) -> None:
        if run.epoch == self.epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))


class Room:
    """Takes the limit away."""

    @hookimpl(trylast=True)
    def on_epoch_end(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    @hookimpl(tryfirst=True)
    def on_run_end(self) -> None:
        self.on_epoch_end()


def test_lines_that_cannot_be_written_are_told_once_and_written_later(tmp_path: Path) -> None:
    run = make(tmp_path, epochs=4, no_room=NoRoom(2), room=Room())
    result = run.fit()
    assert result.outcome == "completed"
    assert [text.partition(" of the run cannot be written")[0] for text in result.warnings] == [
        "the metrics",
        "the log",
    ]
    assert "File too large" in result.warnings[0]
    assert [line["epoch"] for line in lines_of(run)] == [1, 2, 3, 4]
    log = (kept(run) / "log.txt").read_text()
    assert all(f"{epoch}/4" in log for epoch in range(1, 5))


def test_weights_that_cannot_be_written_are_an_error_that_says_where(tmp_path: Path) -> None:
    class Folder:
        @hookimpl
        def on_epoch_end(self, run: Run) -> None:
            (kept(run) / "model.safetensors").mkdir(exist_ok=True)

    run = make(tmp_path, way=Folder())
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be written") as caught:
        run.fit()
    assert caught.value.hint
    assert run.outcome == "failed"


# ---- a run that goes on ---------------------------------------------------------------------------------------------


def interrupted(tmp_path: Path, **options: Any) -> Run:
    config = {
        "train": {"epochs": 3, "device": "cpu"},
        "data": {"num_examples": 100},
        "callbacks": {"run-folder": {"parent": str(tmp_path), "name": "it"}, "checkpoint": {"every_s": 0}, **options},
    }
    run = Run(config)
    for step in run.steps():
        if step.step == 15:
            run.interrupt("SIGINT")
    return run


def test_a_run_that_goes_on_adds_an_attempt_and_its_lines(tmp_path: Path) -> None:
    first = interrupted(tmp_path)
    second = resume(kept(first))
    second.fit()
    assert kept(second) == kept(first)
    record = record_of(second)
    assert record["status"] == "completed"
    assert [(a["from_step"], a["step"], a["outcome"]) for a in record["attempts"]] == [
        (0, 15, "interrupted"),
        (15, 30, "completed"),
    ]
    assert record["attempts"][1]["changes"] == []
    assert [line["step"] for line in lines_of(second)] == [10, 20, 30]
    assert "interrupted after 15 steps" in (kept(first) / "log.txt").read_text()
    assert "completed after 30 steps" in (kept(first) / "log.txt").read_text()


def test_lines_from_behind_the_checkpoint_are_not_there_twice(tmp_path: Path) -> None:
    first = interrupted(tmp_path)
    with (kept(first) / "metrics.jsonl").open("a") as stream:
        stream.write('{"epoch":2,"step":20,"train/loss":9.0}\n{"epoch":3,"st')
    second = resume(kept(first))
    second.fit()
    assert [line["step"] for line in lines_of(second)] == [10, 20, 30]


def test_what_was_changed_stands_in_the_record_and_in_the_config(tmp_path: Path) -> None:
    first = interrupted(tmp_path)
    second = resume(kept(first), ["train.epochs=4", "optimizer.lr=0.001"])
    assert second.optimizer.param_groups[0]["lr"] == 0.001
    second.fit()
    (change,) = record_of(second)["attempts"][1]["changes"]
    assert "train.epochs was 3, and is 4" in change
    assert "optimizer.lr was 0.03, and is 0.001" in change
    assert load_config(kept(second) / "config.toml").train.epochs == 4
    assert record_of(second)["num_epochs"] == record_of(second)["epochs"] == 4


def test_an_option_of_the_optimizer_that_was_not_changed_is_that_of_its_state(tmp_path: Path) -> None:
    schedule = {"lr-schedule": {"scheduler": "exponential", "arguments": {"gamma": 0.5}}}
    first = interrupted(tmp_path, **schedule)
    second = resume(kept(first), ["optimizer.weight_decay=0.1"])
    assert second.optimizer.param_groups[0]["weight_decay"] == 0.1
    assert second.optimizer.param_groups[0]["lr"] == first.optimizer.param_groups[0]["lr"] == 0.015
    assert folder_of(second)
    saved_folder(second).close()


def test_another_optimizer_is_refused_with_what_its_state_lacks(tmp_path: Path) -> None:
    first = interrupted(tmp_path)
    with pytest.raises(CheckpointError, match="a different optimizer") as caught:
        resume(kept(first), ["optimizer=adam"])
    assert "betas" in caught.value.faults[0].message
    second = resume(kept(first))  # the folder was given back
    assert folder_of(second)
    saved_folder(second).close()
