"""Plugins that change the whole process: what an import changes is named, and the folder at work loses no run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hookline as door
from support import saved_folder

Hookline = Callable[..., subprocess.CompletedProcess[str]]

CHANGING = """\
import os, signal, sys
import hookline, torch

os.chdir("elsewhere")
os.umask(0o077)
torch.set_default_dtype(torch.float64)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)

@hookline.plugin("callback", "changing")
class Changing:
    @hookline.hookimpl
    def on_epoch_end(self, run):
        pass
"""
WANDERING = """\
import os
import hookline

class Wandering:
    def __init__(self):
        {init}
    @hookline.hookimpl(wrapper=True)
    def build_model(self, run):
        {build}
        return (yield)
    @hookline.hookimpl
    def on_run_start(self, run):
        {start}

hookline.plugin("callback", "wandering")(Wandering)
"""


def record_of(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("runs/0*/run.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_what_an_import_changes_for_the_whole_process_is_named_and_the_folder_set_back(
    hookline: Hookline, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "changing.py").write_text(CHANGING)
    words = ("--plugin", "changing.py", "callbacks.changing=changing")
    names = ("the current folder", "the umask", "a signal handler", "torch's default dtype")
    warnings = [f"the import of changing.py changes {name} for the whole process" for name in names]
    done = hookline("train", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert record_of(tmp_path)["warnings"] == warnings
    assert not list((tmp_path / "elsewhere").iterdir())
    done = hookline("check", *words)
    assert (done.returncode, done.stderr.splitlines()) == (0, [f"warning: {text}" for text in warnings])


def test_an_installed_plugin_is_named_with_its_distribution(hookline: Hookline, tmp_path: Path) -> None:
    package, metadata = tmp_path / "site" / "acme_dir", tmp_path / "site" / "acme_dir-1.0.dist-info"
    for folder in (package, metadata):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("import os\nos.chdir('/')\n\ndef cubic(prediction, target):\n    return 0\n")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-dir\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[hookline.loss]\ncubic = acme_dir:cubic\n")
    done = hookline("explain", "loss", "loss=cubic", PYTHONPATH=str(tmp_path / "site"))
    warning = "warning: the import of loss 'cubic' (acme-dir 1.0) changes the current folder for the whole process\n"
    assert (done.returncode, done.stderr) == (0, warning)


@pytest.mark.parametrize("place", ["init", "build", "start"])
def test_a_plugin_that_goes_to_another_folder_loses_no_run(place: str, hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "table.csv").write_text("a,b\n" + "".join(f"{n},{2 * n}\n" for n in range(20)))
    lines = dict.fromkeys(("init", "build", "start"), "pass") | {place: "os.chdir('elsewhere')"}
    (tmp_path / "wandering.py").write_text(WANDERING.format_map(lines))
    words = ("--plugin", "wandering.py", "callbacks.wandering=wandering", "data=csv", "data.path=data/table.csv")
    done = hookline("train", *words, "data.target=b", "callbacks.checkpoint.every_steps=5")
    assert (done.returncode, done.stderr) == (0, "")
    assert record_of(tmp_path)["status"] == "completed"
    assert not list((tmp_path / "elsewhere").iterdir())
    resumed = hookline("resume", "last", "--plugin", "wandering.py", "train.epochs=5")
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert (record_of(tmp_path)["status"], record_of(tmp_path)["epochs"]) == ("completed", 5)
    assert not list((tmp_path / "elsewhere").iterdir())


class Meddling:
    """Changes the process in a build hook, and another part of it in an event."""

    @door.hookimpl
    def build_model(self) -> nn.Module:
        os.chdir("elsewhere")
        os.umask(0o077)
        return nn.Linear(2, 1)

    @door.hookimpl
    def on_epoch_start(self) -> None:
        torch.set_num_threads(5)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_what_hooks_change_for_the_whole_process_is_named_in_an_embedded_run_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    threads, handler, mask = torch.get_num_threads(), signal.getsignal(signal.SIGHUP), os.umask(0o022)
    try:
        result = door.train({"train": {"epochs": 2}, "callbacks": {"run-folder": {}}}, plugins={"model": Meddling()})
    finally:
        torch.set_num_threads(threads)
        signal.signal(signal.SIGHUP, handler)
        os.umask(mask)
    named = [
        (text.partition(" was changed ")[0], text.partition("process ")[2].split(":")[0]) for text in result.warnings
    ]
    build, epoch = "while data, model and loss were built", "before the end of the first epoch"
    assert named == [
        ("the current folder", build),
        ("the umask", build),
        ("torch's number of threads", epoch),
        ("the handler of SIGHUP", epoch),
    ]
    assert record_of(tmp_path)["status"] == "completed"
    assert not list((tmp_path / "elsewhere").iterdir())
    assert door.train({"train": {"epochs": 1}}).warnings == ()


def test_a_program_that_goes_to_another_folder_between_two_steps_loses_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    callbacks = {"run-folder": {}, "checkpoint": {"every_steps": 1}}
    run = door.Run(door.load_config({"train": {"epochs": 1}, "data": {"num_examples": 50}, "callbacks": callbacks}))
    for step in run.steps():
        if step.step == 2:
            os.chdir("elsewhere")
    assert saved_folder(run).path.parent == tmp_path / "runs"
    assert record_of(tmp_path)["status"] == "completed"
    assert not list((tmp_path / "elsewhere").iterdir())
