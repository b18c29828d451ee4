"""What a type checker sees of Hookline: mypy, in strict mode and with no other settings, as anybody may run it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hookline import Run, hookimpl, load_config
from hookline.engine.plugin.hook_names import HOOKS
from support import MYPY_CACHE

HERE = Path(__file__).parent


def check_types(program: Path) -> str:
    """Return what mypy says to a program of somebody who has installed Hookline."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={MYPY_CACHE}", program.name]
    done = subprocess.run(command, cwd=program.parent, capture_output=True, text=True, check=False, timeout=600)
    assert done.stderr == ""
    return done.stdout.strip()


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("program", ["plugin_author.py", "public_door.py"])
def test_a_program_against_the_public_door_passes_the_strict_type_check(program: str) -> None:
    assert check_types(HERE / program) == "Success: no issues found in 1 source file"


MISTAKES = {
    "hookline.trian()": 'Module has no attribute "trian"',
    "hookline.train(plugin={})": 'Unexpected keyword argument "plugin" for "train"',
    "hookline.train().metrcis": '"RunResult" has no attribute "metrcis"',
    "_number: int = hookline.train()": 'expression has type "RunResult", variable has type "int"',
    "_metric: hookline.Metric = object()": 'expression has type "object", variable has type "Metric"',
    "hookline.DataSource()": 'Missing positional argument "train" in call to "DataSource"',
}


def test_mistakes_against_the_public_door_are_seen_by_the_type_check(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("\n".join(["import hookline", *MISTAKES]))
    seen = {int(line.split(":")[1]): line for line in check_types(program).splitlines() if ": error: " in line}
    told = [seen.get(number, "nothing") for number in range(2, 2 + len(MISTAKES))]
    assert [error for error, line in zip(MISTAKES.values(), told, strict=True) if error not in line] == []


def test_the_plugins_of_the_type_check_make_a_run_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    author = load("plugin_author", monkeypatch)
    diary, averaged = author.Diary(), author.Averaged()
    plugins: dict[str, Any] = {
        "data": author.Circles(),
        "model": author.Perceptron(),
        "loss": author.Hinge(),
        "optimizer": author.SignSGD(),
        "callbacks.averaged": averaged,
        "callbacks.scaled": author.Scaled(),
        "callbacks.careful": author.Careful(),
        "callbacks.diary": diary,
    }
    result = Run(load_config({"train": {"epochs": 5, "batch_size": "all"}}, plugins=plugins)).fit()
    assert result.outcome == "completed"
    assert result.history[-1]["train/loss"] < result.history[0]["train/loss"]
    assert result.metrics["train/largest"] > 0
    assert diary.lines[:3] == ["64 examples of 64", "5 epochs of 1 steps", "epoch 1"]
    assert diary.lines[3].startswith("first loss ")
    assert result.summary["diary"][-1] == {"line": len(diary.lines), "text": "completed"}
    difference = next(averaged.average.parameters()) - next(result.model.parameters())
    assert difference.abs().max() > 0


def test_a_plain_module_of_the_type_check_is_a_model_too(monkeypatch: pytest.MonkeyPatch) -> None:
    author = load("plugin_author", monkeypatch)
    result = Run(load_config({"train": {"epochs": 1}}, plugins={"model": author.PlainNet})).fit()
    assert isinstance(result.model, author.PlainNet)


def test_the_plugins_of_the_type_check_implement_every_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = [value for value in vars(load("plugin_author", monkeypatch)).values() if isinstance(value, type)]
    mark = next(iter(vars(hookimpl(lambda: None))))
    implemented = {name for cls in classes for name, member in vars(cls).items() if hasattr(member, mark)}
    assert implemented == set(HOOKS)


def test_the_program_of_an_embedder_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    door = load("public_door", monkeypatch)
    checks = [value for name, value in vars(door).items() if name.startswith("check_")]
    assert len(checks) == 7
    for check in checks:
        check()
