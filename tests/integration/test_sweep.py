"""The command ``hookline sweep``: trials as runs, results, and sweeps and trials that are killed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hookline.runs import read_record, run_names

Hookline = Callable[..., subprocess.CompletedProcess[str]]

WORDS = ("optimizer.lr=log(1e-3, 1e-1)", "train.batch_size=choice(10, 20)", "data.num_examples=100")
STRIKE = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
from hookline import hookimpl, plugin


@plugin("callback", "strike")
@dataclass
class Strike:
    '''Once, at the end of an epoch of a trial, send a signal to a process.'''

    trial: str
    to_sweep: bool
    signal: str

    @hookimpl
    def on_epoch_end(self, run):
        from hookline.runs import folder_of

        mark = Path("struck")
        if run.epoch == 2 and folder_of(run).path.name.endswith(self.trial) and not mark.exists():
            mark.touch()
            os.kill(os.getppid() if self.to_sweep else os.getpid(), getattr(signal, self.signal))
"""


def shown(hookline: Hookline, folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(hookline("sweep", "show", folder, "--json").stdout)
    return found


def test_every_fault_is_told_before_anything_starts(hookline: Hookline, tmp_path: Path) -> None:
    refused = hookline("sweep", "optimizer.lr=log(0, 1)", "train.epoch=1,2", "--trials", "3")
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: the sweep has 2 faults\n"
        "\n"
        "'optimizer.lr': 0 has no logarithm\n"
        "  --> command line\n"
        "   | optimizer.lr=log(0, 1)\n"
        "   |                  ^\n"
        "  = use numbers > 0, or uniform\n"
        "\n"
        "unknown key 'train.epoch': the loop has no such option\n"
        "  --> command line\n"
        "   | train.epoch=1,2\n"
        "   | ^^^^^^^^^^^\n"
        "  = did you mean 'epochs'?\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_config_with_a_table_for_sweeps_trains(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[train]\nepochs = 1\n[sweep]\ntrials = 3\n")
    assert hookline("train", "run.toml", "--quiet").returncode == 0
    assert json.loads(hookline("schema").stdout)["properties"]["sweep"] == {"type": "object"}
    refused = hookline("train", "run.toml", "sweep.trials=5")
    assert "unknown table 'sweep'" in refused.stderr
    (tmp_path / "wrong.toml").write_text("[swep]\ntrials = 3\n")
    refused = hookline("train", "wrong.toml")
    assert refused.returncode == 2
    assert "unknown table 'swep'" in refused.stderr
    assert "did you mean 'sweep'?" in refused.stderr


def test_a_missing_package_is_an_error_that_says_what_to_install(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "optuna.py").write_text("raise ImportError('not here')")
    (tmp_path / "sweeps" / "sweep").mkdir(parents=True)
    (tmp_path / "sweeps" / "sweep" / "journal.log").touch()
    refused = hookline("sweep", "show", "sweeps/sweep", PYTHONPATH=str(tmp_path))
    assert refused.returncode == 3
    assert refused.stderr == "error: a sweep needs optuna: not here\n  = pip install 'hookline[sweep]'\n"


def test_trials_are_runs_and_the_best_can_be_trained_again(hookline: Hookline, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the extra sweep is not installed")
    done = hookline("sweep", *WORDS, "--trials", "3", "--jobs", "2", "--folder", "lr")
    assert (done.returncode, done.stderr) == (0, "")
    found = shown(hookline, "lr")
    assert [trial["number"] for trial in found["trials"]] == [0, 1, 2]
    for trial in found["trials"]:
        record = read_record(trial["run"])
        assert trial["state"] == "complete"
        assert trial["values"] == {"loss": record.metrics["train/loss"]}
        assert f"optimizer.lr={trial['params']['optimizer.lr']}" in record.attempts[0].command
        assert json.loads(Path(trial["run"], "notes.json").read_text())["tags"] == ["lr"]
    [best] = found["best"]
    assert best["values"]["loss"] == min(trial["values"]["loss"] for trial in found["trials"])
    assert f"best: trial {best['number']}, loss = " in done.stdout

    # The first trial, and the best in its place.
    assert hookline("sweep", "show", "lr", "-o", "best.toml", "--trial", "0").returncode == 0
    assert f"lr = {found['trials'][0]['params']['optimizer.lr']} " in (tmp_path / "best.toml").read_text()
    written = hookline("sweep", "show", "lr", "-o", "best.toml", "--force")
    assert written.stdout.splitlines()[-1] == f"wrote best.toml: the config of trial {best['number']}"
    assert hookline("train", "best.toml", "--quiet").returncode == 0
    [again] = run_names(tmp_path / "runs")
    assert again == "0001-synthetic-linear-linear"
    assert read_record(tmp_path / "runs" / again).metrics["train/loss"] == best["values"]["loss"]

    # The same command goes on, which is nothing, and with one more trial that one.
    assert hookline("sweep", "run", *WORDS, "--trials", "3", "--folder", "lr", "--sampler", "tpe").returncode == 0
    assert shown(hookline, "lr") == found
    more = hookline("sweep", "--resume", "lr", "--trials", "4", "--json")
    assert [json.loads(line)["event"] for line in more.stdout.splitlines()] == ["trial", "sweep"]
    assert shown(hookline, "lr")["trials"][:3] == found["trials"]


@pytest.mark.parametrize(
    ("target", "name", "code"),
    [("false", "SIGKILL", 0), ("true", "SIGKILL", -9), ("true", "SIGINT", 130)],
    ids=["a trial is killed", "the sweep is killed", "Ctrl-C"],
)
def test_a_sweep_goes_on_after_a_signal_with_each_trial_once(
    hookline: Hookline, tmp_path: Path, target: str, name: str, code: int
) -> None:
    pytest.importorskip("optuna", reason="the extra sweep is not installed")
    (tmp_path / "strike.py").write_text(STRIKE)
    strike = (
        "callbacks.strike.trial=trial-1",
        f"callbacks.strike.to_sweep={target}",
        f"callbacks.strike.signal={name}",
    )
    words = (*WORDS, *strike, "callbacks.checkpoint.every_epochs=1", "--trials", "3", "--plugin", "strike.py")
    struck = hookline("sweep", *words)
    assert struck.returncode == (128 - code if code < 0 else code)
    if code > 0:
        go_on = "go on with: hookline sweep --resume sweeps/sweep --plugin strike.py"
        assert struck.stderr == f"interrupted: 1 of 3 trials are done, 1 unfinished; {go_on}\n"
    if code:
        assert hookline("sweep", *words).returncode == 0
    found = shown(hookline, "sweeps/sweep")
    assert [(trial["number"], trial["state"]) for trial in found["trials"]] == [(n, "complete") for n in range(3)]
    assert len(run_names(tmp_path / "sweeps" / "sweep")) == 3
    # A killed sweep leaves its trial to its end, and the next one waits for it; otherwise it is resumed.
    attempts = read_record(found["trials"][1]["run"]).attempts
    assert [attempt.from_step for attempt in attempts] == ([0] if code == -9 else [0, attempts[-1].from_step])
    assert attempts[-1].from_step > 0 or code == -9


def test_a_sweep_ends_when_its_first_trial_cannot_work(hookline: Hookline, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the extra sweep is not installed")
    failed = hookline("sweep", *WORDS, "--trials", "3", "--minimize", "validation/accuracy", "--prune")
    assert failed.returncode == 1
    assert "trial 0 failed: " in failed.stderr
    assert "'validation/accuracy', which this run does not measure" in failed.stderr


def test_a_trial_that_diverges_is_a_failed_one_and_the_sweep_goes_on(hookline: Hookline) -> None:
    pytest.importorskip("optuna", reason="the extra sweep is not installed")
    done = hookline("sweep", "optimizer.lr=1e30,0.01", "--folder", "lr", "--maximize", "train/loss")
    assert done.returncode == 0
    [first, second] = shown(hookline, "lr")["trials"]
    assert (first["state"], second["state"]) == ("fail", "complete")
    assert first["error"].startswith("NonFiniteError: ")


def test_the_folder_of_a_sweep_may_have_any_name(hookline: Hookline) -> None:
    pytest.importorskip("optuna", reason="the extra sweep is not installed")
    name = """it's "here\\ä"""
    done = hookline("sweep", "optimizer.lr=0.1,0.01", "train.epochs=1", "--prune", "--folder", name)
    assert done.returncode == 0, done.stderr
    assert [one["state"] for one in shown(hookline, name)["trials"]] == ["complete", "complete"]


def test_two_programs_do_not_work_on_one_sweep(hookline: Hookline, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the extra sweep is not installed")
    from filelock import lock_descriptor

    (tmp_path / "lr").mkdir()
    with (tmp_path / "lr" / ".sweep-lock").open("w") as file:
        assert lock_descriptor(file.fileno(), blocking=False)
        refused = hookline("sweep", *WORDS, "--trials", "3", "--folder", "lr")
    assert refused.returncode == 7
    assert "another program works on the sweep in lr" in refused.stderr
