"""The callbacks for trackers: each point once whatever is killed, and a failure costs a warning and nothing else."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import re
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from hookline import Catalog, PluginError, Run, RunView, hookimpl, load_config
from hookline.runs import read_checkpoint
from hookline.testing.parts import changed_generators, generator_states
from hookline.trials.switches import trial_values
from hookline_plugins.callbacks.trackers.points import Job, Point, Sent
from hookline_plugins.callbacks.trackers.sender import Sender
from hookline_plugins.defaults import proving
from support import FIXTURES, run, warm_program
from trackers import KILLER

PACKAGES = FIXTURES / "trackers"


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the package of a tracker installed."""
    monkeypatch.syspath_prepend(PACKAGES)
    monkeypatch.setenv("PYTHONPATH", str(PACKAGES))


def config_of(folder: Path, overrides: Mapping[str, Any] | None = None, at: str = "", **plugins: Any) -> Any:
    """Return the config of a run of 12 steps with a point after each third step and each epoch of six."""
    source = {
        "train": {"epochs": 2, "batch_size": 10, "log_every_steps": 3, "device": "cpu", "seed": 7},
        "data": {"num_examples": 60},
        "callbacks": {
            "run-folder": {"parent": str(folder / "runs")},
            "checkpoint": {"every_steps": 4},
            "telemetry": {"speed": False, "memory": False},
            "mlflow": {"at": f"{at}{folder / 'store'}"},
        },
    }
    return load_config(source, overrides or {}, plugins={f"callbacks.{name}": each for name, each in plugins.items()})


def calls(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "store").read_text().splitlines()]


def sent(folder: Path) -> list[tuple[str, int, float]]:
    """Return what the store has: name, step and value."""
    metrics = [metric for call in calls(folder) for metric in call.get("metrics", ())]
    return [(name, step, value) for name, value, _, step in metrics]


def logged(folder: Path) -> list[tuple[str, int, float]]:
    """Return the same of ``metrics.jsonl``."""
    lines = map(json.loads, (folder / "runs" / "last" / "metrics.jsonl").read_text().splitlines())
    return [(name, line["step"], value) for line in lines for name, value in line.items() if name != "step"]


@pytest.mark.usefixtures("packages")
def test_a_tracker_gets_the_settings_the_points_and_the_outcome(tmp_path: Path) -> None:
    options = {"callbacks.mlflow.tags": ["first"], "callbacks.mlflow.notes": "a note", "callbacks.mlflow.weights": True}
    Run(config_of(tmp_path, options)).fit()
    assert sent(tmp_path) == logged(tmp_path)
    assert [step for name, step, _ in sent(tmp_path) if name == "epoch"] == [3, 6, 6, 9, 12, 12]
    first, *rest = calls(tmp_path)
    assert first["name"] == "0001-synthetic-linear-linear"
    assert first["made"].items() >= {"first": "", "mlflow.note.content": "a note"}.items()
    assert first["made"]["hookline.torch"] == torch.__version__
    params = dict(param for call in rest for param in call.get("params", ()))
    assert params["data.num_examples"] == "60"
    assert params["optimizer.lr"] == str(load_config().settings["optimizer.lr"].value)
    [artifact] = (call for call in rest if "artifact" in call)
    weights = tmp_path / "runs" / "last" / "model.safetensors"
    assert artifact == {"artifact": str(weights.resolve()), "size": weights.stat().st_size}
    assert rest[-1] == {"status": "FINISHED"}


def test_a_run_that_is_killed_three_times_has_each_point_once(tmp_path: Path) -> None:
    (tmp_path / "killer.py").write_text(KILLER)
    options = [
        "train.epochs=2",
        "data.num_examples=60",
        "train.log_every_steps=3",
        "callbacks.checkpoint.every_steps=4",
    ]
    options += ["train.evaluate_every_steps=4", "callbacks.telemetry={speed=false, memory=false}"]
    options += [f"callbacks.mlflow.at={tmp_path / 'store'}"]

    def attempt(*words: str) -> int:
        command = [str(warm_program()), *words, "--plugin", "killer.py"]
        return run(command, cwd=tmp_path, PYTHONPATH=str(PACKAGES)).returncode

    # Before any checkpoint; when the store has the point of step 3, which the checkpoint of step 4 does not know; and
    # as soon as another point may be sent.
    assert attempt("train", *options, "callbacks.killer.at=2") == 137
    assert attempt("resume", "last", "callbacks.killer.at=7", "callbacks.killer.sent=1") == 137
    assert attempt("resume", "last", "callbacks.killer.at=9", "callbacks.killer.sent=0") == 137
    assert attempt("resume", "last", "callbacks.killer.at=0") == 0
    assert sent(tmp_path) == logged(tmp_path)
    whole = {"train.seed": 0, "train.evaluate_every_steps": 4, "callbacks.mlflow": "off"}
    Run(config_of(tmp_path / "whole", whole)).fit()
    assert sent(tmp_path) == logged(tmp_path / "whole")
    assert sum("made" in call for call in calls(tmp_path)) == 1


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("how", ["raise", "exit", "hang"])
def test_a_tracker_that_fails_or_hangs_costs_a_warning(tmp_path: Path, how: str) -> None:
    random.seed(1)
    before = generator_states()
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    hook, threads = sys.excepthook, threading.active_count()
    tracked = Run(config_of(tmp_path, {"callbacks.mlflow.timeout_s": 1.5}, at=f"{how}:"))
    result = tracked.fit()
    assert result.outcome == "completed"
    why = {"raise": "ConnectionError: no route to https://me:<not written>@host", "exit": "its process ended"}
    why["hang"] = "no answer in 1.5 s"
    again = (
        "mlflow: 6 points were not sent; to send them: hookline runs export 0001-synthetic-linear-linear --to mlflow"
    )
    assert list(result.warnings) == [f"mlflow failed, and the run continues: {why[how]}", again]
    assert not changed_generators(before)
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert (sys.excepthook, threading.active_count()) == (hook, threads)
    plain = Run(config_of(tmp_path, {"callbacks.mlflow": "off"}))
    plain.fit()
    assert torch.equal(_weights(tracked), _weights(plain))


def _weights(run: Run) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(run.model.parameters())


@pytest.mark.usefixtures("packages")
def test_what_was_not_sent_is_sent_when_the_tracker_is_back(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()  # in the place of the file

    class Mender:
        """Removes the obstacle in the last step, once a job has failed."""

        @hookimpl
        def on_step_end(self, run: RunView) -> None:
            if run.step == 12:
                tracker: Any = next(each.instance for each in run.members if each.table == "callbacks.mlflow")
                while not tracker._sender._is_failing:
                    pass
                (tmp_path / "store").rmdir()

    result = Run(config_of(tmp_path, mender=Mender())).fit()
    assert [text.partition(":")[0] for text in result.warnings] == ["mlflow failed, and the run continues"]
    assert sent(tmp_path) == logged(tmp_path)


class Failure:
    """Fails in a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    @hookimpl
    def on_step_end(self, run: RunView) -> None:
        if run.step == self.step:
            raise RuntimeError("on purpose")


@pytest.mark.usefixtures("packages")
def test_a_failed_run_leaves_out_what_it_will_measure_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        Run(config_of(tmp_path, failure=Failure(11))).fit()
    # Its last checkpoint is that of step 8.
    assert sent(tmp_path) == [point for point in logged(tmp_path) if point[1] <= 8]
    assert calls(tmp_path)[-2:] == [{"tag": ["hookline.outcome", "failed"]}, {"status": "FAILED"}]


@pytest.mark.usefixtures("packages")
def test_a_live_tracker_gets_points_that_no_checkpoint_has(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        Run(config_of(tmp_path, {"callbacks.mlflow.when": "live"}, failure=Failure(11))).fit()
    assert sent(tmp_path) == logged(tmp_path)
    assert sent(tmp_path)[-1][1] == 9


@pytest.mark.usefixtures("packages")
def test_a_state_has_what_the_tracker_may_lack_and_no_more(tmp_path: Path) -> None:
    Run(config_of(tmp_path, {"callbacks.checkpoint.every_steps": 12})).fit()
    [path] = (tmp_path / "runs" / "last" / "checkpoints").glob("step*-epochs-2")
    state: Any = read_checkpoint(path).state["plugins"]["callbacks.mlflow"]
    assert [(epoch, step) for epoch, step, _, _ in state["points"]] == [
        (1, 3),
        (1, 6),
        (1, 6),
        (2, 9),
        (2, 12),
        (2, 12),
    ]
    assert state["first"] == 0


def test_a_tracker_gets_no_secrets(tmp_path: Path) -> None:
    (tmp_path / "upload.py").write_text(
        "import hookline\n\n@hookline.plugin('callback', 'upload')\nclass Upload:\n"
        "    def __init__(self, token: hookline.Secret = ''):\n        self.token = token\n\n"
        "    @hookline.hookimpl\n    def on_run_start(self):\n        pass\n"
    )
    words = ["train.epochs=0", f"callbacks.mlflow.at={tmp_path / 'store'}", "callbacks.upload.token=hunter2hunter2"]
    (tmp_path / "killer.py").write_text(KILLER)
    command = [str(warm_program()), "train", *words, "--plugin", "killer.py", "--plugin", "upload.py"]
    done = run(command, cwd=tmp_path, PYTHONPATH=str(PACKAGES))
    assert done.returncode == 0, done.stderr
    assert "callbacks.upload.token" in (tmp_path / "store").read_text()
    assert "hunter2" not in (tmp_path / "store").read_text()


@pytest.mark.usefixtures("packages")
def test_a_sender_waits_for_that_of_an_attempt_that_was_killed(tmp_path: Path) -> None:
    about = Sent("abc", "mine", {}, {})
    options = {"at": str(tmp_path / "store"), "experiment": "x"}

    def make_job(points: list[Point], first: int, is_last: bool) -> Job:
        return Job("mlflow", options, about, first, points, lock=str(tmp_path / "lock"))

    def num_left() -> int:
        sender = Sender(make_job, least=1, pause_s=1.0, timeout_s=2.0)
        sender.load(0, [Point(1, 1, 0.0, {"loss": 1.0})])
        return sender.close()

    with FileLock(tmp_path / "lock"):
        assert num_left() == 1
        assert not (tmp_path / "store").exists()
    assert num_left() == 0
    assert sent(tmp_path) == [("epoch", 1, 1), ("loss", 1, 1.0)]


@pytest.mark.usefixtures("packages")
def test_a_trial_and_a_proof_send_nothing(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    for overfit, is_fast in ((5, False), (None, True)):
        [values] = trial_values(config, Catalog.installed(), overfit, is_fast=is_fast).values()
        assert values["callbacks.mlflow"] == "off"
    assert proving(config, tmp_path, 1)["callbacks.mlflow"] == "off"


def test_a_missing_package_is_an_error_that_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PluginError, match="the callback mlflow needs mlflow: it is not installed") as caught:
        Run(config_of(tmp_path)).fit()
    assert caught.value.hint == "pip install 'hookline[mlflow]'"


EXPORT = """
import json, sys
sys.argv = ["hookline", "runs", "export", *{words!r}]
from hookline.cli import main
try:
    main()
finally:
    assert "torch" not in sys.modules
"""


def export(folder: Path, *words: str) -> Any:
    command = [sys.executable, "-c", EXPORT.format(words=words)]
    return run(command, cwd=folder, PYTHONPATH=str(PACKAGES))


def test_a_saved_run_is_exported_once_and_without_torch(tmp_path: Path) -> None:
    Run(config_of(tmp_path, {"callbacks.mlflow": "off"})).fit()
    there = ("last", "--to", "mlflow", f"at={tmp_path / 'store'}")
    expected = logged(tmp_path)
    with (tmp_path / "runs" / "last" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "step": 12, "bad": null, "name": "x"}\n{"epoch": 3}\nno line\n')
    done = export(tmp_path, *there, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "run": str((tmp_path / "runs" / "last").resolve()),
        "to": "mlflow",
        "points": 7,
    }
    *before, epoch, bad = sent(tmp_path)
    assert before == expected
    assert (epoch, bad[:2], math.isnan(bad[2])) == (("epoch", 12, 2), ("bad", 12), True)
    assert calls(tmp_path)[-1] == {"status": "FINISHED"}
    params = dict(param for call in calls(tmp_path) for param in call.get("params", ()))
    assert params["data.num_examples"] == "60"
    name = "0001-synthetic-linear-linear"
    assert export(tmp_path, *there).stdout == f"sent {name} to mlflow: 7 points\n"
    assert [*before, epoch] == sent(tmp_path)[:-1]


def test_a_run_that_was_killed_is_exported_as_such_and_one_at_work_not(tmp_path: Path) -> None:
    steps: Any = Run(config_of(tmp_path, {"callbacks.mlflow": "off"})).steps()
    next(steps)
    words = ("last", "--to", "mlflow", f"at={tmp_path / 'store'}")
    done = export(tmp_path, *words)
    assert (done.returncode, done.stderr) == (
        2,
        "error: 0001-synthetic-linear-linear is still running\n  = export it when it has ended\n",
    )
    record = tmp_path / "runs" / "last" / "run.json"
    running = record.read_text()
    steps.close()
    record.write_text(running)
    assert export(tmp_path, *words).returncode == 0
    assert calls(tmp_path)[-2:] == [{"tag": ["hookline.outcome", "killed"]}, {"status": "KILLED"}]


def test_a_run_that_cannot_be_exported_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    Run(config_of(tmp_path, {"callbacks.mlflow": "off"})).fit()
    done = export(tmp_path, "last", "--to", "progress")
    assert done.returncode == 2
    assert re.search(r"callback 'progress' \(hookline \S+\) does not export runs", done.stderr)
    done = export(tmp_path, "last", "--to", "mlflow", "at=raise:x")
    message = (
        "* imported\nerror: mlflow cannot take the run: ConnectionError: no route to https://me:<not written>@host\n"
    )
    assert (done.returncode, done.stderr) == (3, message)
