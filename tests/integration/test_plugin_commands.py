"""The commands and options about plugins: files, rules, locks, order, cost."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support import run

Hookline = Callable[..., subprocess.CompletedProcess[str]]

FILE = '''\
from collections.abc import Generator

import hookline
import torch
from hookline import hookimpl
from torch import nn


@hookline.plugin("model", "net")
class Net(nn.Module):
    """A small net."""

    def __init__(self, data, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(data.in_features, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, inputs):
        return self.layers(inputs)


@hookline.plugin("callback", "flaky")
class Flaky:
    """Loses its network in the third step."""

    @hookimpl
    def on_step_end(self, run, loss):
        torch.rand(1)
        if run.step == 3:
            raise ConnectionError("no route")


@hookline.plugin("callback", "half-step")
class HalfStep:
    """Does nothing around each step."""

    @hookimpl(wrapper=True)
    def build_step(self, run):
        step = yield
        return lambda batch: step(batch)
'''


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(FILE)
    return path


# ---- plugins list ----------------------------------------------------------------------------------------------------


def test_plugins_shows_which_are_active_in_a_run_and_imports_none(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("model = 'mlp'\n[callbacks.early-stopping]\n")
    done = hookline("plugins", "run.toml", "loss=huber", "--json")
    assert done.returncode == 0, done.stderr
    active = {(e["kind"], e["name"]) for e in json.loads(done.stdout) if e["state"] == ["active"]}
    assert active == {
        ("data", "synthetic-linear"),
        ("model", "mlp"),
        ("loss", "huber"),
        ("optimizer", "sgd"),
        ("callback", "early-stopping"),
        ("callback", "try-first-batch"),
        ("callback", "progress"),
        ("callback", "run-folder"),
        ("callback", "checkpoint"),
    }


def test_plugins_of_a_kind_have_the_columns_that_the_head_names(hookline: Hookline) -> None:
    done = hookline("plugins", "model", "model=mlp", "--deny", "HOOKLINE")
    head, *rows = done.stdout.splitlines()
    mlp = next(row for row in rows if row.split()[1:2] == ["mlp"])
    assert head.split() == ["kind", "name", "distribution", "version", "origin", "state"]
    assert mlp.split()[0] == "model"
    assert "hookline_plugins.models.mlp:MLP" in mlp
    assert mlp.endswith("blocked by --deny")


def test_plugins_without_a_subcommand_is_plugins_list(hookline: Hookline) -> None:
    assert hookline("plugins", "list", "data").stdout == hookline("plugins", "data").stdout


def test_an_unknown_kind_gets_the_nearest_as_a_hint(hookline: Hookline) -> None:
    done = hookline("plugins", "modle")
    assert done.returncode == 2
    assert "'modle' is neither a kind of plugin nor a config file\n  = did you mean 'model'?" in done.stderr


def test_the_order_of_a_run_lists_the_plugins_called_for_each_hook(hookline: Hookline, net: Path) -> None:
    words = ["--plugin", "net.py", "callbacks.half.use=half-step", "callbacks.early-stopping.monitor=train/loss"]
    done = hookline("plugins", "--order", *words)
    assert done.returncode == 0, done.stderr
    assert (
        "build_step\n"
        "  callbacks.try-first-batch  callback 'try-first-batch' (hookline 0.1.0), wrapper\n"
        "  callbacks.early-stopping   callback 'early-stopping' (hookline 0.1.0), wrapper\n"
        "  callbacks.half             callback 'half-step' (net.py), wrapper\n"
        "  the loop                   its own step\n"
    ) in done.stdout
    assert "build_order\n  -\n" in done.stdout
    order = json.loads(hookline("plugins", "--order", *words, "--json").stdout)
    assert order["build_model"] == [
        {"table": "model", "plugin": "model 'linear' (hookline 0.1.0)", "is_wrapper": False}
    ]
    assert [call["table"] for call in order["on_run_start"]] == [
        "callbacks.try-first-batch",  # it requests to be first, and so does the next
        "callbacks.run-folder",
        "callbacks.progress",
        "callbacks.checkpoint",
        "callbacks.early-stopping",
    ]


# ---- plugins of a file -----------------------------------------------------------------------------------------------


def test_a_plugin_of_a_file_trains_and_is_shown_with_its_file(hookline: Hookline, net: Path) -> None:
    done = hookline("train", "--plugin", "./net.py", "model=net", "model.width=4", "train.epochs=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "model                      net (./net.py), command line\n" in done.stdout
    assert "hookline train --plugin ./net.py model=net model.width=4 train.epochs=2" in done.stdout


def test_a_config_cannot_name_a_file(hookline: Hookline, net: Path) -> None:
    done = hookline("check", "model=net")
    assert done.returncode == 2
    assert "no model plugin named 'net' is installed" in done.stderr
    for name in ("./net.py/net", "net.py", "net:Net"):
        assert hookline("check", f"model={name}").returncode == 2


def test_show_describes_a_plugin_of_a_file(hookline: Hookline, net: Path) -> None:
    done = hookline("show", "model", "net", "--plugin", "net.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("model 'net' (net.py): net.py:Net\n\nA small net.\n")
    assert 'use = "net"\n# width = 8' in done.stdout


def test_faults_of_the_arguments_are_reported_by_commands_that_import_nothing(hookline: Hookline) -> None:
    for command in ("lock", "plugins"):
        done = hookline(command, "lodel=x", "model=typo")
        assert done.returncode == 2
        assert "unknown table 'lodel'" in done.stderr
        assert "no model plugin named 'typo' is installed" in done.stderr
    assert "omit 'model'" in hookline("plugins", "--order", "model").stderr


def test_a_file_that_is_named_twice_counts_once(hookline: Hookline, net: Path) -> None:
    done = hookline("plugins", "model", "--plugin", "net.py", "--plugin", "./net.py", "model=net", "--quiet")
    assert [line.split()[-1] for line in done.stdout.splitlines() if " net " in line] == ["active"]


# ---- calls and costs of plugins --------------------------------------------------------------------------------------


def test_a_tolerated_callback_that_fails_is_disabled_with_a_warning_and_the_ledger_shows_its_calls(
    hookline: Hookline, net: Path
) -> None:
    words = ["callbacks.flaky.on_error=warn", "callbacks.half.use=half-step", "train.epochs=1"]
    done = hookline("train", "--plugin", "net.py", "--ledger", *words)
    assert (done.returncode, done.stderr) == (0, "")
    warning = "callbacks.flaky failed and is disabled for the rest of the run: ConnectionError: no route"
    assert f"warning: {warning}" in done.stdout
    ledger = done.stdout.partition("hooks, in addition to")[2]
    rows = {tuple(line.split()[:2]): line.split() for line in ledger.splitlines() if line.startswith("callbacks.")}
    assert rows["callbacks.flaky", "on_step_end"][2] == "3"
    assert rows["callbacks.flaky", "on_step_end"][-1] == "yes", "it drew from torch's generator"
    assert rows["callbacks.half", "each"][3] == "100"
    assert "imports, seconds" in ledger
    quiet = hookline("train", "--plugin", "net.py", "--quiet", *words)
    assert (quiet.returncode, quiet.stdout) == (0, "")
    assert quiet.stderr.startswith(f"warning: {warning}")


def test_the_json_of_a_run_has_warnings_ledger_and_each_call_of_a_hook(hookline: Hookline, net: Path) -> None:
    words = ["--plugin", "net.py", "--ledger", "--trace-hooks", "callbacks.flaky.on_error=warn", "train.epochs=1"]
    done = hookline("train", "--json", *words)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    by_kind = {event["event"]: event for event in events}
    assert by_kind["plan"]["code"].keys() == {"hookline", "net.py"}
    lines = f"{hashlib.sha256(net.read_bytes()).hexdigest()}  net.py\n"
    assert by_kind["plan"]["code"]["net.py"] == {
        "version": "",
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
    }
    assert "no route" in by_kind["warning"]["message"]
    assert by_kind["ledger"]["num_steps"] == 100
    assert {"table", "hook", "calls", "seconds", "us_per_step", "percent", "synchronises", "draws"} == (
        by_kind["ledger"]["hooks"][0].keys()
    )
    assert by_kind["ledger"]["import_s"].keys() >= {"model", "callbacks.flaky"}
    traced = [event for event in events if event["event"] == "hook"]
    assert traced[0]["hook"] == "build_data"
    assert [call["error"] for call in traced if call["error"]] == ["ConnectionError: no route"]


def test_a_trace_prints_each_call_on_standard_error(hookline: Hookline) -> None:
    done = hookline("train", "--trace-hooks", "train.epochs=1")
    assert done.returncode == 0
    told = [line.split(" ms  ")[1] for line in done.stderr.splitlines()]
    assert told[1:3] == ["data  build_data(run=Run) -> DataSource", "model  build_model(data=DataSource) -> Linear"]
    assert told[-1] == "callbacks.progress  on_run_end(run=Run, outcome='completed')"


# ---- locks -----------------------------------------------------------------------------------------------------------


def test_a_lock_rejects_a_file_that_changed_and_warns_of_it_without_the_option(
    hookline: Hookline, net: Path, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text("model = 'net'\n[train]\nepochs = 0\n")
    words = ["--plugin", "net.py", "run.toml"]
    locked = hookline("lock", *words)
    assert (locked.returncode, locked.stderr) == (0, "")
    assert locked.stdout.startswith("wrote run.lock: hookline, net.py with ")
    same = hookline("train", "--locked", "run.lock", *words)
    assert (same.returncode, same.stderr) == (0, "")
    net.write_text(FILE + "print('imported')\n")
    refused = hookline("train", "--locked", "run.lock", *words)
    assert (refused.returncode, refused.stdout) == (3, ""), "it was not imported"
    assert "net.py differs from the lock\n\nnet.py was changed" in refused.stderr
    net.write_text(FILE + "# changed\n")
    warned = hookline("train", *words)
    assert warned.returncode == 0
    assert warned.stderr == "warning: net.py was changed (run.lock)\n"
    again = hookline("lock", *words, "--json")
    assert json.loads(again.stdout) == {"path": "run.lock", "changes": ["net.py was changed"]}


def test_a_lock_can_be_written_elsewhere_but_not_into_a_missing_folder(hookline: Hookline, tmp_path: Path) -> None:
    assert hookline("lock", "-o", "mine.lock").stdout.startswith("wrote mine.lock: hookline with ")
    assert (
        "hookline/engine/loop/run.py"
        in json.loads((tmp_path / "mine.lock").read_text())["distributions"]["hookline"]["files"]
    )
    done = hookline("lock", "--output", "no/such/folder.lock")
    assert done.returncode == 2
    assert "no/such/folder.lock cannot be written: No such file or directory" in done.stderr


def test_a_lock_that_cannot_be_written_leaves_the_old_one(hookline: Hookline, tmp_path: Path) -> None:
    assert hookline("lock").returncode == 0
    before = (tmp_path / "hookline.lock").read_bytes()
    # No file may become larger than 1024 bytes, and the lock is.
    program = str(Path(sys.executable).parent / "hookline")
    done = run(["bash", "-c", 'ulimit -f 1 && exec "$@"', "bash", program, "lock", "model=mlp"], cwd=tmp_path)
    assert done.returncode == 2
    expected = "error: hookline.lock cannot be written: File too large (EFBIG)\n  = choose another name with -o\n"
    assert done.stderr == expected
    assert (tmp_path / "hookline.lock").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["hookline.lock"]


# ---- rules -----------------------------------------------------------------------------------------------------------


def test_rules_of_the_command_line_and_of_the_config_both_hold(hookline: Hookline, net: Path) -> None:
    denied = hookline("check", "--plugin", "net.py", "model=net", "--deny", "net.py")
    assert denied.returncode == 3
    assert "net.py may not be used: --deny forbids it" in denied.stderr
    allowed = hookline("check", "--allow", "acme", "--quiet")
    assert (allowed.returncode, allowed.stdout) == (0, "")
    required = hookline("check", 'plugins.require=["no-such-distribution>=1"]')
    assert required.returncode == 3
    assert "but no-such-distribution is not installed" in required.stderr


# ---- plugins check ---------------------------------------------------------------------------------------------------

SOUND = '''\
from dataclasses import dataclass
from typing import Annotated

import hookline
from hookline import hookimpl
from msgspec import Meta


@hookline.plugin("loss", "power")
@dataclass
class Power:
    """The mean of a power of the error."""

    exponent: Annotated[int, Meta(ge=1)] = 2

    @hookimpl
    def build_loss(self):
        return lambda prediction, target: (prediction - target).abs().pow(self.exponent).mean()
'''

HOSTILE = '''\
import os
import time

import hookline
from hookline import hookimpl


class Base:
    """Does harm when it is created."""

    @hookimpl
    def on_run_end(self): ...


@hookline.plugin("callback", "sleeps")
class Sleeps(Base):
    def __init__(self):
        time.sleep(1000)


@hookline.plugin("callback", "crashes")
class Crashes(Base):
    def __init__(self):
        os._exit(3)


@hookline.plugin("callback", "needs")
class Needs(Base):
    """Has a required option."""

    def __init__(self, room: str): ...
'''


def test_a_plugin_is_checked_in_a_separate_process_with_its_own_options(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "sound.py").write_text(SOUND.replace("Meta(ge=1)", "Meta(ge=1, description='the power')"))
    done = hookline("plugins", "check", "loss", "power", "exponent=4", "--plugin", "sound.py")
    assert done.returncode == 0, done.stderr
    head, row, *_ = done.stdout.splitlines()
    assert head.split() == ["kind", "name", "from", "import", "s", "hooks", "options", "checks", "result"]
    assert row.split()[:3] == ["loss", "power", "sound.py"]
    assert row.split()[-1] == "passed"
    assert int(row.split()[-2]) >= 10


def test_a_plugin_that_breaks_its_contract_fails_with_rule_and_advice(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "sound.py").write_text(SOUND)
    done = hookline("plugins", "check", "loss", "power", "exponent=4", "--plugin", "sound.py", "--json")
    assert done.returncode == 3
    assert "error: 1 of 1 plugins failed\n\nloss 'power' (sound.py): options_described\n  rule: " in done.stderr
    assert "no description: exponent" in done.stderr
    checked, error = done.stdout.split("\n]\n")
    (found,) = json.loads(checked + "]")
    assert (found["name"], found["hooks"], found["options"]) == ("power", ["build_loss"], ["exponent"])
    assert "options_described" in found["failures"][0]
    assert json.loads(error)["type"] == "PluginError"


PECULIAR = '''
import torch
from torch import nn
from torch.utils.data import TensorDataset

import hookline


@hookline.plugin("data", "squares")
def squares(side: int = 8):
    """Noise of 8 by 8."""
    noise = torch.randn(16, 1, side, side, generator=torch.Generator().manual_seed(0))
    return hookline.DataSource(TensorDataset(noise, torch.arange(16) % 4), out_features=4)


@hookline.plugin("model", "net")
class Net(nn.Module):
    """A convolution for images of 8 by 8."""

    def __init__(self, data):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, data.out_features))

    def forward(self, inputs):
        if inputs.shape[-1] != 8:
            raise ValueError("these are no images of 8 by 8:\\nthe side is %d" % inputs.shape[-1])
        return self.layers(inputs)


@hookline.plugin("loss", "power-error")
def power_error(exponent: float = 2.0):
    """The mean of the absolute errors, each raised to a power."""
    return lambda prediction, target: (prediction - target).abs().pow(exponent).mean()


power_error.__hookline_expected_failures__ = {"options_described": "the name says it"}
'''


def test_a_plugin_is_checked_with_the_data_of_a_data_plugin(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "peculiar.py").write_text(PECULIAR)
    words = ("plugins", "check", "model", "net", "--plugin", "peculiar.py")
    alone = hookline(*words)
    assert alone.returncode == 3
    assert "no run can be built" in alone.stderr
    done = hookline(*words, "data=squares")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].endswith("passed")
    wrong = hookline(*words, "data=squares", "data.side=9")
    assert wrong.returncode == 3
    # The whole text of the error, not its first line alone.
    assert "these are no images of 8 by 8:\n" in wrong.stderr
    assert "the side is 9" in wrong.stderr
    unusable = hookline(*words, "data=squares", "data.side=-1")
    assert unusable.returncode == 3
    assert "the data of data 'squares' (peculiar.py) cannot be used: RuntimeError: " in unusable.stderr
    unknown = hookline(*words, "data=sqaures")
    assert unknown.returncode == 3
    assert "did you mean 'squares'?" in unknown.stderr


def test_failures_that_a_plugin_declares_are_noted_with_their_reasons(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "peculiar.py").write_text(PECULIAR)
    words = ("plugins", "check", "loss", "power-error", "--plugin", "peculiar.py")
    done = hookline(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "loss power-error: options_described fails, as expected: the name says it" in done.stdout
    (tmp_path / "peculiar.py").write_text(PECULIAR.replace('"options_described":', '"options_descibed":'))
    wrong = hookline(*words)
    assert wrong.returncode == 3
    assert "did you mean 'options_described'?" in wrong.stderr


def test_a_plugin_that_hangs_or_crashes_does_not_affect_the_others(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "hostile.py").write_text(HOSTILE)
    done = hookline("plugins", "check", "callback", "sleeps", "--timeout", "12", "--plugin", "hostile.py", "--quiet")
    assert done.returncode == 3
    assert "callback 'sleeps' (hostile.py): it did not finish within 12 s; it was in File " in done.stderr
    assert 'hostile.py", line 18 in __init__' in done.stderr
    crashed = hookline("plugins", "check", "callback", "crashes", "--plugin", "hostile.py")
    assert crashed.returncode == 3
    assert "callback 'crashes' (hostile.py): its process exited with code 3" in crashed.stderr


def test_the_check_of_a_plugin_with_required_options_names_them(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "hostile.py").write_text(HOSTILE)
    done = hookline("plugins", "check", "callback", "needs", "--plugin", "hostile.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].endswith("imported")
    assert "callback needs: its contract was not checked: give its options, room=..." in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "no plugin to check"),
        (("model",), "no plugin to check"),
        (("model", "mlp", "--all"), "no plugin to check"),
        (("model", "mpl"), "no model plugin named 'mpl' is installed\n  = did you mean 'mlp'?"),
        (("model", "mlp", "hidden"), "'hidden' is not an override"),
    ],
)
def test_words_that_name_nothing_to_check_are_refused(hookline: Hookline, words: tuple[str, ...], told: str) -> None:
    done = hookline("plugins", "check", *words)
    assert done.returncode == 2
    assert told in done.stderr
