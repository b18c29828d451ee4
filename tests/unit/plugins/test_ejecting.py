"""Scripts of runs: the same bits, readable, without Hookline; and every reason why there is none."""

from __future__ import annotations

import functools
import importlib.util
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hookline import Catalog, ConfigError, Run, hookimpl, load_config
from hookline.config import entries_of_file
from hookline.engine.reading import batches as engine_batches
from hookline.runs import identity_of
from hookline.trained import Snippet, only_watches
from hookline_plugins.commands.ejecting import job
from hookline_plugins.commands.ejecting.checking import differences_of
from hookline_plugins.commands.ejecting.pasting import pasted
from hookline_plugins.commands.ejecting.text import call
from hookline_plugins.commands.ejecting.writing import Ejected, script_of
from support import FIXTURES

NET = '''
from __future__ import annotations

from typing import TYPE_CHECKING

import hookline
import torch
from torch import nn

if TYPE_CHECKING:
    from hookline import DataSource
    from torch import Tensor

UNUSED = 1
SCALE = 0.5


def bent(values: Tensor) -> Tensor:
    # A gentle bend.
    return torch.tanh(SCALE * values)


@hookline.plugin("model", "net")
class Net(nn.Module):
    """Two layers."""

    def __init__(self, data: DataSource, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(data.in_features, width)
        self.last = nn.Linear(width, data.out_features)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(bent(self.first(inputs)))


@hookline.plugin("loss", "cubic")
def cubic(prediction, target):
    """Mean of the cubed errors."""
    return (prediction - target).abs().pow(3).mean()


@hookline.plugin("model", "tied")
def tied(data):
    """Uses Hookline inside."""
    return hookline.nothing(data)
'''
IRIS = {"use": "csv", "path": str(FIXTURES / "iris" / "iris.csv"), "target": "species", "task": "classification"}
NORRIS = {"use": "csv", "path": str(FIXTURES / "nist" / "norris.csv"), "target": "y", "standardize": True}
CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "adam": {"optimizer.use": "adam"},
    "adamw_schedule": {
        "optimizer.use": "adamw",
        "callbacks.lr-schedule.interval": "step",
        "callbacks.lr-schedule.warmup_steps": 5,
    },
    "clipping": {"optimizer.momentum": 0.9, "callbacks.clip-gradients.max_norm": 1.0},
    "ema": {"callbacks.averaging.decay": 0.9, "train.epochs": 3, "callbacks.averaging.start_epoch": 2},
    "swa": {"callbacks.averaging.method": "swa", "callbacks.freeze.parameters": ["bias"]},
    "bfloat16": {"model.use": "mlp", "optimizer.use": "adam", "callbacks.mixed-precision.dtype": "bfloat16"},
    "table": {"data": NORRIS, "model.use": "mlp", "model.hidden": [8], "model.dropout": 0.2, "loss.use": "huber"},
    "few": {"callbacks.limit-examples.num_examples": 33, "train.batch_size": "all"},
    "micro_batches": {"train.micro_batch_size": 4, "model.use": "mlp", "train.drop_last": True, "train.batch_size": 30},
    "classes": {
        "data": IRIS | {"stratify": "species", "split": [0.8, 0.2]},
        "loss.use": "cross-entropy",
        "model.use": "mlp",
        "train.epochs": 8,
        "optimizer.lr": 1e-9,
        "callbacks.early-stopping.monitor": "validation/accuracy",
        "callbacks.early-stopping.mode": "max",
        "callbacks.early-stopping.patience": 2,
    },
    "pasted_model": {"model.use": "net", "model.width": 4},
    "pasted_loss": {"loss.use": "cubic", "optimizer.lr": 1e-4},
    "phases": {
        "train": {"dtype": "float64", "max_steps": 25, "evaluate_every_epochs": 2, "shuffle": False, "epochs": 4},
        "callbacks.lr-schedule.phases": [{"scheduler": "linear", "length": 1}, {"scheduler": "cosine-annealing"}],
    },
    "plateau": {
        "optimizer.lr": 0.5,
        "train.epochs": 4,
        "callbacks.lr-schedule.scheduler": "reduce-on-plateau",
        "callbacks.lr-schedule.monitor": "train/loss",
        "callbacks.lr-schedule.arguments.patience": 0,
    },
}
SHORT = {"train.epochs": 2, "data.num_examples": 105}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    file = tmp_path_factory.mktemp("plugin") / "net.py"
    file.write_text(NET)
    return Catalog.installed().with_entries(entries_of_file(file))


def run_of(catalog: Catalog, values: Mapping[str, Any], **plugins: Any) -> Run:
    short = {} if "data" in values else SHORT
    tables = {key: value for key, value in values.items() if isinstance(value, dict) and "." not in key}
    overrides = {key: value for key, value in {**short, **values}.items() if key not in tables}
    for name in tables.get("train", ()):
        overrides.pop(f"train.{name}", None)
    return Run(load_config(tables, overrides, plugins=plugins, catalog=catalog))


def ejected(run: Run) -> Ejected:
    return script_of(run, "0001-run", [], identity_of(run))


@functools.cache
def ejected_config(catalog: Catalog, name: str) -> Ejected:
    return ejected(run_of(catalog, CONFIGS[name]))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_script_trains_with_the_same_bits_as_its_run(name: str, catalog: Catalog, tmp_path: Path) -> None:
    assert differences_of(ejected_config(catalog, name), run_of(catalog, CONFIGS[name]), tmp_path / "script.py") == []


def test_scripts_are_short_formatted_and_without_hookline(catalog: Catalog, tmp_path: Path) -> None:
    for name in CONFIGS:
        text = ejected_config(catalog, name).text
        (tmp_path / f"{name}.py").write_text(text)
        assert 40 <= text.count("\n") <= 120, name
        assert not re.search(r"^\s*(import|from) hookline", text, re.MULTILINE), name
    if importlib.util.find_spec("ruff"):
        for words in (("check",), ("format", "--diff")):
            command = [sys.executable, "-m", "ruff", *words, "--isolated", str(tmp_path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout


def test_large_data_are_gathered_in_the_pieces_of_the_run(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert job._PIECE_BYTES == engine_batches._GATHERED_BYTES
    monkeypatch.setattr(job, "_PIECE_BYTES", 500)
    monkeypatch.setattr(engine_batches, "_GATHERED_BYTES", 500)
    values = {"train.eval_batch_size": 16}
    script = ejected(run_of(catalog, values))
    assert "PIECE = 41\n" in script.text  # an example is three numbers, 12 bytes
    assert differences_of(script, run_of(catalog, values), tmp_path / "large.py") == []


def test_a_changed_script_differs_at_its_first_other_step(catalog: Catalog, tmp_path: Path) -> None:
    script = ejected_config(catalog, "default")
    changed = Ejected(script.text.replace("lr=0.03", "lr=0.031"), script.job, script.left_out)
    # The loss of the first step is computed before the first update.
    [found] = differences_of(changed, run_of(catalog, {}), tmp_path / "script.py")
    assert found.startswith("step 2: the loss is ")


class Unknown:
    """Has no script."""

    @hookimpl
    def on_step_end(self) -> None:
        pass


class Watching:
    """Watches."""

    script = only_watches

    @hookimpl
    def on_step_end(self) -> None:
        pass


class Wordy:
    """Returns a text."""

    @hookimpl
    def on_step_end(self) -> None:
        pass

    def script(self, run: Any) -> Any:
        return "pass"


def test_every_part_without_a_script_is_named_at_once(catalog: Catalog) -> None:
    values = {
        "model.use": "tied",
        "loss.use": "cross-entropy",
        "data": IRIS,
        "loss.weight": [1.0, 2.0, 3.0],
        "optimizer.groups": [{"parameters": ["*"], "lr": 0.1}],
        "train.evaluate_every_steps": 5,
        "train.non_finite": "skip",
        "callbacks.mixed-precision.dtype": "float16",
    }
    del values["model.use"]
    run = run_of(catalog, values, **{"callbacks.mine": Unknown(), "callbacks.text": Wordy()})
    with pytest.raises(ConfigError) as caught:
        ejected(run)
    text = "\n".join(str(fault) for fault in caught.value.faults)
    for part in (
        "train.evaluate_every_steps",
        "train.non_finite",
        "loss: the weight of a batch is not the number of its examples",
        "loss 'cross-entropy' (hookline 0.1.0): weight has no script",
        "optimizer 'sgd' (hookline 0.1.0): its option groups has no script",
        "callbacks.mixed-precision: callback 'mixed-precision' (hookline 0.1.0): dtype = 'float16' has no script",
        "callback 'Unknown' (given from Python): it has no script",
        "its script returned a str, but must return a Snippet",
    ):
        assert part in text
    assert len(caught.value.faults) == 8


def test_a_plugin_that_only_watches_is_left_out_and_named(catalog: Catalog) -> None:
    values = {"callbacks.limit-examples.num_examples": 33}  # its effect is in the data
    script = ejected(run_of(catalog, values, **{"callbacks.mine": Watching()}))
    assert script.left_out == ("callbacks.try-first-batch", "callbacks.mine")
    assert "Left out, because they change no number: try-first-batch, mine." in " ".join(script.text.split())


class Named:
    """Defines a name of another plugin."""

    @hookimpl
    def on_step_end(self) -> None:
        pass

    def script(self, run: Any) -> Snippet:
        return Snippet(setup="average = None", evaluated="model", monitors="validation/loss")


def test_parts_that_do_not_fit_together_are_refused(catalog: Catalog) -> None:
    with pytest.raises(ConfigError) as caught:
        ejected(run_of(catalog, {"callbacks.averaging.decay": 0.9}, **{"callbacks.mine": Named()}))
    assert [fault.message for fault in caught.value.faults] == [
        "callbacks.mine and callbacks.averaging both set `evaluated` of the script",
        "callbacks.mine and callbacks.averaging both define 'average' in the script",
        "callbacks.mine follows 'validation/loss', which the script does not measure",
    ]


def test_a_class_is_pasted_with_what_it_uses_and_without_types_of_hookline(catalog: Catalog) -> None:
    found = pasted(catalog.find("model", "net").load())
    assert found.imports[0] == "from __future__ import annotations"
    assert {*found.imports[1:]} == {"import torch", "from torch import nn", "from torch import Tensor"}
    source = NET[NET.index("SCALE") : NET.index('@hookline.plugin("loss"')].strip()
    mark = '@hookline.plugin("model", "net")\n'
    assert found.definitions == source.replace(mark, "").replace("data: DataSource", "data")


def test_code_that_uses_hookline_is_not_pasted(catalog: Catalog) -> None:
    with pytest.raises(ConfigError, match="its code uses hookline of Hookline"):
        pasted(catalog.find("model", "tied").load())


def test_a_plain_plugin_of_a_distribution_is_imported_and_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--target",
        str(tmp_path / "site"),
    ]
    subprocess.run([sys.executable, "-m", "pip", *words, str(FIXTURES / "acme_plain")], check=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    installed = Catalog.installed()
    run = run_of(installed, {"model.use": "plain"})
    script = ejected(run)
    assert "from acme_plain import plain\n" in script.text
    assert '"acme-plain==1.0.0"' in script.text
    assert f'acme-plain" = "{identity_of(run)["code"]["acme-plain"]["sha256"]}"' in script.text
    assert differences_of(script, run_of(installed, {"model.use": "plain"}), tmp_path / "script.py") == []


def test_a_long_call_has_a_line_for_each_argument() -> None:
    assert call("f", "x" * 80) == f"f(x{'x' * 79})"
    assert call("f", "x" * 82) == f"f(\n    {'x' * 82},\n)"
