"""Modules that a command imports: only those that it needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support import modules_after, run


def plugin_modules(modules: set[str]) -> set[str]:
    # The folders of the kinds, the tables of defaults and the default hooks are not plugins.
    names = {name for name in modules if name.startswith("hookline_plugins.")}
    return (
        names
        - {name.rpartition(".")[0] for name in names}
        - {"hookline_plugins.defaults", "hookline_plugins.default_hooks"}
    )


@pytest.mark.parametrize(
    ("words", "code", "plugins"),
    [
        (("--help",), 0, set()),
        (("--version",), 0, set()),
        (("version",), 0, set()),
        (("plugins",), 0, set()),
        (("plugins", "--json"), 0, set()),
        (("train", "--help"), 0, set()),
        (("completion", "bash"), 0, set()),
        (("runs",), 0, set()),
        (("runs", "show", "1"), 2, set()),
        (("resume", "1"), 2, set()),
        (("show", "model", "mlp"), 0, {"hookline_plugins.models.mlp", "hookline_plugins.models.sizes"}),
        (("show", "model", "mlb"), 2, set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_that_trains_nothing_imports_no_torch_and_no_other_plugin(
    words: tuple[str, ...], code: int, plugins: set[str], tmp_path: Path
) -> None:
    got, modules = modules_after(*words, cwd=tmp_path)
    assert got == code
    assert not {"torch", "numpy", "rich", "polars"} & modules
    assert plugin_modules(modules) == plugins


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("explain", "optimizer.lr"), 0),
        (("check", "optimizer.rate=1"), 2),
        (("train", "train.epochs=x"), 2),
        (("check", "data=csv"), 2),
        (("train", "no-such-file.toml"), 2),
        (("init",), 0),
        (("schema",), 0),
        (("eval", "7"), 2),
        (("predict", "7", "x.csv"), 2),
        (("export", "7", "--to", "onnx"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_config_is_read_and_judged_without_torch(words: tuple[str, ...], code: int, tmp_path: Path) -> None:
    got, modules = modules_after(*words, cwd=tmp_path)
    assert got == code
    assert not {"torch", "numpy", "rich", "polars"} & modules


def test_only_the_plugins_that_a_run_names_are_imported(tmp_path: Path) -> None:
    _, modules = modules_after("explain", "model", "model=mlp", cwd=tmp_path)
    # The run that train would train, with the callbacks that show and save it.
    expected = {"data.synthetic", "models.mlp", "models.sizes", "losses.regression", "losses.torch_loss"}
    expected |= {"optimizers.torch_optimizers", "optimizers.parameter_groups"}
    expected |= {f"callbacks.{name}" for name in ("progress", "run_folder", "checkpoint", "try_first_batch")}
    parts = ("display", "event_text", "fitting", "metrics_file", "monitoring", "process_watch", "single")
    expected |= {f"callback_parts.{name}" for name in parts}
    assert plugin_modules(modules) == {f"hookline_plugins.{name}" for name in expected}


@pytest.mark.parametrize("command", ["train", "check"])
def test_a_command_that_compiles_nothing_does_not_load_the_compiler(command: str, tmp_path: Path) -> None:
    code, modules = modules_after(command, cwd=tmp_path)
    assert code == 0
    assert "torch.optim" in modules
    # True of torch 2.10 to 2.15; other versions import it with the optimizer until their source has been read.
    assert "torch._dynamo" not in modules


def test_importing_the_door_imports_neither_torch_nor_click_nor_a_plugin() -> None:
    program = "import sys, hookline; print(sorted(sys.modules))"
    done = run([sys.executable, "-c", program])
    for name in ("torch", "click", "pluggy", "msgspec", "rich", "hookline_plugins", "tomli"):
        assert repr(name) not in done.stdout


def test_the_folders_of_the_repository_are_not_packages() -> None:
    # Nor in the tests themselves, which also run the examples of every module.
    assert not [name for name in sys.modules if name.partition(".")[0] in ("core", "plugins")]
    _, modules = modules_after("check", "train.epochs=1", cwd=Path(__file__).parents[2])
    assert not [name for name in modules if name.partition(".")[0] in ("core", "plugins")]
    assert "torch" in modules, "this command does build a run"
