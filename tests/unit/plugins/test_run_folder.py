"""Callback ``run-folder``: every file of the folder, and files that cannot be written."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch
from torch.utils.data import TensorDataset

from hookline import (
    CheckpointError,
    ConfigError,
    DataSource,
    NonFiniteError,
    Run,
    RunView,
    hookimpl,
    load_config,
    resume,
)
from hookline.runs import RunFolder, folder_of, give_command, give_folder
from hookline.runs.folder import read_data
from hookline.runs.record import RunRecord, read_record
from hookline.runs.redaction import REDACTED
from support import saved_folder


def make(folder: Path, options: Mapping[str, Any] | None = None, *, epochs: int = 2, **callbacks: Any) -> Run:
    """Return a small run with the callback's ``options``, and other callbacks."""
    config = {
        "train": {"epochs": epochs, "device": "cpu"},
        "data": {"num_examples": 100},
        "callbacks": {"run-folder": {"parent": str(folder / "runs"), **(options or {})}},
    }
    return Run(load_config(config, plugins={f"callbacks.{name}": callback for name, callback in callbacks.items()}))


def path_of(run: Run) -> Path:
    assert folder_of(run)
    return saved_folder(run).path


def record_of(run: Run) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((path_of(run) / "run.json").read_text())
    return record


def lines_of(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path_of(run) / "metrics.jsonl").read_text().splitlines()]


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
        return {"infinite": self}

    def update(self, prediction: torch.Tensor, target: torch.Tensor) -> None: ...

    def compute(self) -> float:
        return float("inf")

    def reset(self) -> None: ...


# ---- name -----------------------------------------------------------------------------------------------------------


def test_a_folder_is_numbered_and_named_after_data_and_model(tmp_path: Path) -> None:
    runs = [make(tmp_path, epochs=0) for _ in range(2)]
    for run in runs:
        run.fit()
    assert [path_of(run).name for run in runs] == ["0001-synthetic-linear-linear", "0002-synthetic-linear-linear"]
    assert (tmp_path / "runs" / "last").readlink() == Path("0002-synthetic-linear-linear")


def test_objects_with_any_name_give_a_valid_folder_name(tmp_path: Path) -> None:
    def wild_net(data: Any) -> torch.nn.Module:
        return torch.nn.Linear(2, 1)

    wild_net.__name__ = wild_net.__qualname__ = "../Wild Net/\x07é"
    config = {"train": {"epochs": 0}, "callbacks": {"run-folder": {"parent": str(tmp_path)}}}
    run = Run(load_config(config, plugins={"model": wild_net}))
    run.fit()
    assert path_of(run).parent == tmp_path
    assert path_of(run).name.startswith("0001-synthetic-linear-")
    assert path_of(run).name.isascii()


def test_a_name_can_be_given(tmp_path: Path) -> None:
    run = make(tmp_path, {"name": "try.this_1"}, epochs=0)
    run.fit()
    assert path_of(run).name == "0001-try.this_1"


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "last", "best", "con", "x" * 101, "a b", "a\n"])
def test_an_invalid_name_is_refused_with_the_valid_form(tmp_path: Path, name: str) -> None:
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
        Run(load_config(config)).fit()


# ---- record ---------------------------------------------------------------------------------------------------------


def test_a_finished_run_has_all_its_files_and_nothing_else(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.fit()
    files = {".lock", "config.toml", "data.json", "log.txt", "metrics.jsonl", "model.safetensors", "run.json"}
    assert {path.name for path in path_of(run).iterdir()} == files
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {path_of(run).name, "last", ".lock"}


def test_the_record_describes_a_completed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/train.py", "the words of another program"])
    run = make(tmp_path)
    give_command(run, ["hookline", "train", "--fast", "callbacks.upload.token=1234"])
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
    assert attempt["command"] == ["hookline", "train", "--fast", f"callbacks.upload.token={REDACTED}"]
    assert (attempt["from_step"], attempt["step"], attempt["outcome"]) == (0, 20, "completed")
    assert attempt["error"] is None
    assert attempt["pid"] == os.getpid()
    assert datetime.fromisoformat(attempt["started"]) <= datetime.fromisoformat(attempt["ended"])
    assert record["identity"]["settings"]["data.num_examples"] == 100
    assert record["identity"]["plugins"]["model"]["name"] == "linear"


def test_the_record_has_the_status_running_from_the_start(tmp_path: Path) -> None:
    run = make(tmp_path)
    steps = run.steps()
    next(steps)
    record = record_of(run)
    assert (record["status"], record["attempts"][0]["outcome"], record["model"]) == ("running", None, None)
    steps.close()  # type: ignore[attr-defined] # an iterator that is a generator
    assert record_of(run)["status"] == "stopped"


def test_an_interrupted_run_is_recorded_without_weights(tmp_path: Path) -> None:
    run = make(tmp_path)
    for step in run.steps():
        if step.step == 13:
            run.interrupt("SIGTERM")
    record = record_of(run)
    assert (record["status"], record["step"], record["epochs"], record["model"]) == ("interrupted", 13, 1, None)
    assert not (path_of(run) / "model.safetensors").exists()
    assert "interrupted after 13 steps" in (path_of(run) / "log.txt").read_text()


class Reports:
    """Reports a table at the end of a run."""

    @hookimpl
    def on_run_end(self, run: Run) -> None:
        rows: list[Any] = [
            {"layer": "a\x1b", "norm": 0.5, "shape": "(2, 3)"},
            {"layer": "b", "norm": float("nan")},
        ] * 100
        run.report("norms of layers", rows)


def test_tables_that_plugins_report_are_in_the_record(tmp_path: Path) -> None:
    run = make(tmp_path, reports=Reports())
    run.fit()
    rows = record_of(run)["summary"]["norms of layers"]
    assert rows[:2] == [{"layer": "a\x1b", "norm": 0.5, "shape": "(2, 3)"}, {"layer": "b", "norm": None}]
    assert len(rows) == 100
    assert [row["parameter"] for row in record_of(run)["summary"]["learned and true parameters"]] == ["w1", "w2", "b"]


def test_another_metric_can_be_watched(tmp_path: Path) -> None:
    run = make(tmp_path, {"monitor": "train/running_loss", "mode": "max"})
    result = run.fit()
    best = record_of(run)["best"]
    assert (best["metric"], best["mode"], best["epoch"]) == ("train/running_loss", "max", 1)
    assert best["value"] == result.history[0]["train/running_loss"]


def test_a_run_that_measures_nothing_watches_the_running_loss(tmp_path: Path) -> None:
    config = {"train": {"evaluate": [], "epochs": 1}, "callbacks": {"run-folder": {"parent": str(tmp_path)}}}
    run = Run(load_config(config))
    run.fit()
    assert record_of(run)["best"]["metric"] == "train/running_loss"


def test_the_commit_of_the_working_folder_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path, epochs=0)
    monkeypatch.chdir(tmp_path)
    run.fit()
    assert record_of(run)["git"] is None
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("0123456789" * 4 + "\n")
    run = make(tmp_path, epochs=0)
    run.fit()
    assert record_of(run)["git"] == "0123456789" * 4


# ---- config, metrics, log, weights ----------------------------------------------------------------------------------


def test_the_config_is_complete_and_means_the_same(tmp_path: Path) -> None:
    run = make(tmp_path, epochs=1)
    run.fit()
    text = (path_of(run) / "config.toml").read_text()
    assert "lr = 0.03                     # default of optimizer 'sgd' (hookline 0.1.0)" in text
    again = load_config(path_of(run) / "config.toml")
    assert again.train == run.config.train
    plugins: Any = run.config.plugins
    assert [choice.options for choice in again.plugins] == [choice.options for choice in plugins]


def test_there_is_a_line_for_each_epoch_and_each_evaluation_within_one(tmp_path: Path) -> None:
    config = {
        "train": {"epochs": 2, "evaluate_every_steps": 40, "evaluate_every_epochs": 2},
        "callbacks": {"run-folder": {"parent": str(tmp_path)}},
    }
    run = Run(load_config(config))
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
    run = make(tmp_path, epochs=1, infinite=NotANumber())
    run.fit()
    assert lines_of(run)[0]["train/infinite"] is None
    assert "NaN" not in (path_of(run) / "run.json").read_text()
    assert record_of(run)["metrics"]["train/infinite"] is None


def test_the_log_has_the_output_and_the_warnings(tmp_path: Path) -> None:
    class Warns:
        @hookimpl
        def on_epoch_end(self, run: Run) -> None:
            run.warn(f"epoch {run.epoch} \x1b[31mred")

    run = make(tmp_path, warns=Warns())
    run.fit()
    log = (path_of(run) / "log.txt").read_text()
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


def test_the_final_weights_are_saved_under_the_names_of_the_model(tmp_path: Path) -> None:
    run = make(tmp_path)
    model = run.fit().model
    weights = safetensors.torch.load_file(path_of(run) / "model.safetensors")
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert record_of(run)["model"]["size"] == (path_of(run) / "model.safetensors").stat().st_size


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
    run = Run(load_config(config, plugins={"callbacks.upload": Upload}))
    run.fit()
    files = [path for path in path_of(run).rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path.name for path in files if b"1234" in path.read_bytes()] == []


@pytest.mark.parametrize("secret", ["2026", "seed", "1234", "completed"])
def test_a_secret_that_occurs_by_chance_leaves_numbers_times_and_keys_as_they_are(
    secret: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Upload:
        """Has a secret, and tells it."""

        def __init__(self, token: str = "") -> None:
            self.token = token

        @hookimpl
        def on_run_start(self, run: Run) -> None:
            run.warn(f"cannot log in as <{self.token}>")

        @hookimpl
        def build_data(self) -> DataSource:
            dataset = TensorDataset(torch.zeros(4, 2), torch.zeros(4, 1))
            kept = {"seed": 12345.5, "token": [self.token], "pair": (2**70, self.token)}
            return DataSource(dataset, in_features=2, out_features=1, task="regression", kept=kept)

    config = {
        "train": {"epochs": 1, "seed": 12345},
        "callbacks": {"run-folder": {"parent": str(tmp_path)}, "upload": {"token": secret}, "json-lines": {}},
    }
    run = Run(load_config(config, plugins={"data": Upload(secret), "callbacks.upload": Upload}))
    before = datetime.now(UTC)
    run.fit()
    record = read_record(path_of(run))
    assert (record.seed, record.status, record.attempts[0].outcome) == (12345, "completed", "completed")
    assert before <= record.attempts[0].started <= datetime.now(UTC)
    assert f"cannot log in as <{REDACTED}>" in record.warnings
    assert read_data(path_of(run)).kept == {"seed": 12345.5, "token": [REDACTED], "pair": (2**70, REDACTED)}
    first, *lines = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["event"], first["seed"]) == ("run_start", 12345)
    assert {"event": "warning", "message": f"cannot log in as <{REDACTED}>"} in lines


def test_between_two_writes_the_record_is_that_of_the_file(tmp_path: Path) -> None:
    seen: list[tuple[RunRecord, RunRecord]] = []

    class Watch:
        """Compares the record with its file after each epoch."""

        @hookimpl(trylast=True)
        def on_epoch_end(self, run: Run) -> None:
            run.warn(f"epoch {run.epoch}")
            seen.append((msgspec.structs.replace(saved_folder(run).record), read_record(path_of(run))))

    run = make(tmp_path, epochs=3, watch=Watch())
    run.fit()
    assert len(seen) == 3
    for record, written in seen:
        assert (record.epochs, record.warnings, record.metrics) == (written.epochs, written.warnings, written.metrics)
    record = read_record(path_of(run))
    assert (record.epochs, record.warnings) == (3, ["epoch 1", "epoch 2", "epoch 3"])


# ---- a failure ------------------------------------------------------------------------------------------------------


def test_a_failure_is_recorded_with_its_details(tmp_path: Path) -> None:
    run = make(tmp_path, fails=Fails())
    with pytest.raises(ValueError, match="no"):
        run.fit()
    record = record_of(run)
    assert record["status"] == record["attempts"][0]["outcome"] == "failed"
    assert record["attempts"][0]["error"].startswith("ValueError: no")
    assert "\x1b" not in record["attempts"][0]["error"]
    known = json.loads((path_of(run) / "debug" / "error.json").read_text())
    assert known["error"].startswith("ValueError: no")
    assert (known["epoch"], known["step"], known["seed"]) == (1, 3, 0)
    assert any("on_step_end" in note for note in known["notes"])
    traceback = (path_of(run) / "debug" / "traceback.txt").read_text()
    assert "Traceback (most recent call last)" in traceback
    assert "test_run_folder.py" in traceback
    assert "Traceback" in (path_of(run) / "log.txt").read_text()


def test_the_examples_of_a_non_finite_batch_are_recorded(tmp_path: Path) -> None:
    config = {"optimizer": {"lr": 1e30}, "callbacks": {"run-folder": {"parent": str(tmp_path)}}}
    run = Run(load_config(config))
    with pytest.raises(NonFiniteError, match="its examples are"):
        run.fit()
    known = json.loads((path_of(run) / "debug" / "error.json").read_text())
    assert len(known["indices"]) == 10
    assert "learning rate" in known["hint"]


def test_a_completed_run_has_no_debug_folder(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.fit()
    assert not (path_of(run) / "debug").exists()


class InTheWay:
    """Puts a file where a folder belongs."""

    def __init__(self, name: str) -> None:
        self.name = name

    @hookimpl
    def on_epoch_start(self, run: Run) -> None:
        (path_of(run) / self.name).write_text("in the way")


def test_a_debug_folder_that_cannot_be_made_hides_no_error(tmp_path: Path) -> None:
    run = make(tmp_path, way=InTheWay("debug"), fails=Fails())
    with pytest.raises(ValueError, match="no"):
        run.fit()
    assert any("the debug folder of the run cannot be written" in text for text in run.warnings)
    assert record_of(run)["status"] == "failed"


class NoRoom:
    """Limits the size of files while an epoch ends: the system refuses writes, as on a full disk."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    @hookimpl(tryfirst=True)
    def on_epoch_end(self, run: Run) -> None:
        if run.epoch == self.epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))


class Room:
    """Removes the limit."""

    @hookimpl(trylast=True)
    def on_epoch_end(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    @hookimpl(tryfirst=True)
    def on_run_end(self) -> None:
        self.on_epoch_end()


def test_lines_that_cannot_be_written_cause_one_warning_and_are_written_later(tmp_path: Path) -> None:
    run = make(tmp_path, epochs=4, no_room=NoRoom(2), room=Room())
    result = run.fit()
    assert result.outcome == "completed"
    assert [text.partition(" of the run cannot be written")[0] for text in result.warnings] == [
        "the metrics",
        "the log",
    ]
    assert "File too large" in result.warnings[0]
    assert [line["epoch"] for line in lines_of(run)] == [1, 2, 3, 4]
    log = (path_of(run) / "log.txt").read_text()
    assert all(f"{epoch}/4" in log for epoch in range(1, 5))


def test_weights_that_cannot_be_written_are_an_error_that_says_where(tmp_path: Path) -> None:
    class Folder:
        @hookimpl
        def on_epoch_end(self, run: Run) -> None:
            (path_of(run) / "model.safetensors").mkdir(exist_ok=True)

    run = make(tmp_path, way=Folder())
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be written") as caught:
        run.fit()
    assert caught.value.hint
    assert run.outcome == "failed"


# ---- a resumed run --------------------------------------------------------------------------------------------------


def interrupted(tmp_path: Path, **options: Any) -> Run:
    config = {
        "train": {"epochs": 3, "device": "cpu"},
        "data": {"num_examples": 100},
        "callbacks": {"run-folder": {"parent": str(tmp_path), "name": "it"}, "checkpoint": {"every_s": 0}, **options},
    }
    run = Run(load_config(config))
    for step in run.steps():
        if step.step == 15:
            run.interrupt("SIGINT")
    return run


def test_a_resumed_run_adds_an_attempt_and_its_lines(tmp_path: Path) -> None:
    first = interrupted(tmp_path)
    second = resume(path_of(first))
    second.fit()
    assert path_of(second) == path_of(first)
    record = record_of(second)
    assert record["status"] == "completed"
    assert [(a["from_step"], a["step"], a["outcome"]) for a in record["attempts"]] == [
        (0, 15, "interrupted"),
        (15, 30, "completed"),
    ]
    assert record["attempts"][1]["changes"] == []
    assert [line["step"] for line in lines_of(second)] == [10, 20, 30]
    assert "interrupted after 15 steps" in (path_of(first) / "log.txt").read_text()
    assert "completed after 30 steps" in (path_of(first) / "log.txt").read_text()


def test_lines_after_the_checkpoint_do_not_appear_twice(tmp_path: Path) -> None:
    first = interrupted(tmp_path)
    with (path_of(first) / "metrics.jsonl").open("a") as stream:
        stream.write('{"epoch":2,"step":20,"train/loss":9.0}\n{"epoch":3,"st')
    second = resume(path_of(first))
    second.fit()
    assert [line["step"] for line in lines_of(second)] == [10, 20, 30]


def test_lines_of_logged_values_stay_when_the_metrics_are_written_again(tmp_path: Path) -> None:
    """Step 20 has three lines: of an interval, of an evaluation, of an epoch; only the last one is changed."""

    class Logging:
        @hookimpl
        def on_step_end(self, run: RunView) -> None:
            run.log("number", run.step)

    def made() -> Run:
        train = {"epochs": 3, "evaluate_every_steps": 4, "log_every_steps": 4}
        callbacks = {"run-folder": {"parent": str(tmp_path)}}
        config = {"train": train, "data": {"num_examples": 100}, "callbacks": callbacks}
        return Run(load_config(config, plugins={"callbacks.logging": Logging()}))

    run = made()
    for step in run.steps():
        if step.step == 22:
            run.interrupt("test")
    path = path_of(run) / "metrics.jsonl"
    there = path.read_bytes()
    keys = [list(json.loads(line)) for line in there.splitlines() if json.loads(line)["step"] == 20]
    measured = ["train/loss"]
    expected = [["number"], measured, ["train/running_loss", *measured, "logged/number"]]
    assert keys == [["epoch", "step", *names] for names in expected]
    means = [json.loads(line).get("number") for line in there.splitlines()]
    assert [mean for mean in means if mean is not None] == [2.5, 6.5, 9.5, 11.5, 14.5, 18.5]
    path.write_bytes(there.replace(b'"step":20,"train/running_loss":', b'"step":20,"mine":1,"train/running_loss":'))
    again = made()
    state = run.state_dict()
    give_folder(again, RunFolder.open(path_of(run)))
    again.load_state_dict(state)
    again.fit()
    (warning,) = again.warnings
    assert "metrics.jsonl is not as this run wrote it" in warning
    assert "missing" not in warning
    assert path.read_bytes().startswith(there)


@pytest.mark.parametrize("damage", ["emptied", "shortened", "removed", "CRLF", "edited"])
def test_metrics_that_something_else_changed_are_written_again(tmp_path: Path, damage: str) -> None:
    """Ten steps an epoch, an evaluation after every fourth step: two lines of step 20."""

    def made(parent: Path) -> Run:
        callbacks = {"run-folder": {"parent": str(parent)}, "checkpoint": {}}
        train = {"epochs": 3, "evaluate_every_steps": 4}
        return Run(load_config({"train": train, "data": {"num_examples": 100}, "callbacks": callbacks}))

    whole, run = made(tmp_path / "whole"), made(tmp_path / "runs")
    whole.fit()
    for step in run.steps():
        if step.step == 25:
            run.interrupt("test")
    path = path_of(run) / "metrics.jsonl"
    there = path.read_bytes()
    changed = {
        "emptied": b"",
        "shortened": there[:-30],
        "CRLF": there.replace(b"\n", b"\r\n"),
        "edited": there.replace(b'"epoch":1,"step":10,', b'"epoch":1,"step":10,"mine":1,'),
    }
    assert all(data != there for data in changed.values())
    path.unlink() if damage == "removed" else path.write_bytes(changed[damage])
    again = resume(path_of(run))
    again.fit()
    (warning,) = again.warnings
    assert "metrics.jsonl is not as this run wrote it" in warning
    # The history has the lines of epochs, and those of steps 28 and 30 are written after the resume.
    lost = {"emptied": (4, 8, 12, 16, 20, 24), "removed": (4, 8, 12, 16, 20, 24), "shortened": (24,)}.get(damage, ())
    assert ("may be missing" in warning) == bool(lost)
    is_lost = [line["step"] in lost and "train/running_loss" not in line for line in lines_of(whole)]
    assert lines_of(again) == [line for line, gone in zip(lines_of(whole), is_lost, strict=True) if not gone]
    assert b"\r" not in path.read_bytes()


def test_changes_are_in_the_record_and_in_the_config(tmp_path: Path) -> None:
    first = interrupted(tmp_path)
    second = resume(path_of(first), ["train.epochs=4", "optimizer.lr=0.001"])
    assert second.optimizer.param_groups[0]["lr"] == 0.001
    second.fit()
    (change,) = record_of(second)["attempts"][1]["changes"]
    assert "train.epochs was 3, and is 4" in change
    assert "optimizer.lr was 0.03, and is 0.001" in change
    assert load_config(path_of(second) / "config.toml").train.epochs == 4
    assert record_of(second)["num_epochs"] == record_of(second)["epochs"] == 4


def test_an_unchanged_option_of_the_optimizer_comes_from_its_state(tmp_path: Path) -> None:
    schedule = {"lr-schedule": {"scheduler": "exponential", "arguments": {"gamma": 0.5}}}
    first = interrupted(tmp_path, **schedule)
    second = resume(path_of(first), ["optimizer.weight_decay=0.1"])
    assert second.optimizer.param_groups[0]["weight_decay"] == 0.1
    assert second.optimizer.param_groups[0]["lr"] == first.optimizer.param_groups[0]["lr"] == 0.015
    assert folder_of(second)
    saved_folder(second).close()


def test_another_optimizer_is_refused_with_what_its_state_lacks(tmp_path: Path) -> None:
    first = interrupted(tmp_path)
    with pytest.raises(CheckpointError, match="a different optimizer") as caught:
        resume(path_of(first), ["optimizer=adam"])
    assert "betas" in caught.value.faults[0].message
    second = resume(path_of(first))  # the folder was given back
    assert folder_of(second)
    saved_folder(second).close()
