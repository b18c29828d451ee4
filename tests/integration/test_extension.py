"""Other people's distributions, really built, really installed."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest

from hookline import Catalog, RunResult, load_config, train
from hookline.config import entries_of_file
from support import Environment, run

ACME = ["data=noisy-sine", "model=bumps", "loss=log-cosh", "optimizer=sign-sgd", "callbacks.best-epoch.use=best-epoch"]


def test_installed_plugins_are_listed_with_their_distribution(extended: Environment) -> None:
    done = extended.hookline("plugins", "--json")
    listed = {(e["kind"], e["name"]): (e["distribution"], e["version"]) for e in json.loads(done.stdout)}
    for kind, name in [
        ("data", "noisy-sine"),
        ("model", "bumps"),
        ("loss", "log-cosh"),
        ("optimizer", "sign-sgd"),
        ("callback", "best-epoch"),
        ("callback", "compiled"),
    ]:
        assert listed[kind, name] == ("acme-plugins", "1.2.0")
    assert listed["model", "broken"] == ("acme-broken", "0.3.1")


def test_a_run_is_made_of_one_foreign_plugin_of_each_kind(extended: Environment, tmp_path: Path) -> None:
    done = extended.hookline("train", *ACME, "loss.scale=2.0", "optimizer.lr=0.02", "train.epochs=30", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "bumps (acme-plugins 1.2.0), command line" in done.stdout
    assert "best epoch" in done.stdout
    last_row = next(line for line in done.stdout.splitlines() if line.strip().startswith("30/30"))
    assert float(last_row.split()[2]) < 0.02, "the sine is learned"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_foreign_wrapper_changes_nothing_but_how_the_model_runs(extended: Environment) -> None:
    def final_loss(*words: str) -> float:
        done = extended.hookline("train", "--json", "model=linear", "train.epochs=2", *words)
        assert done.returncode == 0, done.stderr
        events = [json.loads(line) for line in done.stdout.splitlines()]
        loss = [e for e in events if e["event"] == "epoch_end"][-1]["metrics"]["train/loss"]
        return float(loss)

    assert final_loss("callbacks.compiled.backend=eager") == pytest.approx(final_loss(), rel=1e-5)


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("plugins",),
        ("show", "model", "linear"),
        ("explain", "model"),
        ("check",),
        ("train", "train.epochs=1"),
        ("schema",),
        ("init", "-o", "new.toml"),
        ("version",),
        ("completion", "bash"),
    ],
    ids=lambda words: words[0],
)
def test_a_broken_plugin_does_not_hurt_a_command_that_does_not_name_it(
    extended: Environment, tmp_path: Path, words: tuple[str, ...]
) -> None:
    done = extended.hookline(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["train", "check"])
def test_a_run_that_names_a_broken_plugin_says_whose_it_is_and_why(extended: Environment, command: str) -> None:
    done = extended.hookline(command, "model=broken")
    assert done.returncode == 3
    for words in ["model 'broken'", "acme-broken 0.3.1", "ImportError", "libacme.so.7 is not there", "acme_broken/"]:
        assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_plugin_and_a_fault_of_the_config_are_told_together(extended: Environment) -> None:
    done = extended.hookline("train", "model=broken", "optimizer.rl=0.1")
    assert done.returncode == 2
    assert "libacme.so.7" in done.stderr
    assert "did you mean 'lr'?" in done.stderr


def test_a_name_that_two_distributions_offer_is_an_error_only_for_a_run_that_names_it(extended: Environment) -> None:
    assert extended.hookline("check", "model=linear").returncode == 0
    done = extended.hookline("check", "model=mlp")
    assert done.returncode == 3
    for words in ["acme-rival 2.0.0", "hookline 0.1.0", "'acme-rival/mlp'", "'hookline/mlp'"]:
        assert words in done.stderr


@pytest.mark.parametrize("name", ["acme-rival/mlp", "hookline/mlp"])
def test_a_qualified_name_is_never_ambiguous(extended: Environment, name: str) -> None:
    done = extended.hookline("check", f"model={name}")
    assert done.returncode == 0, done.stderr


def test_a_misspelt_option_of_a_plain_class_gets_the_nearest_name(extended: Environment) -> None:
    done = extended.hookline("check", "optimizer=sign-sgd", "optimizer.Lr=0.1")
    assert done.returncode == 2
    assert "did you mean 'lr'?" in done.stderr


OTHER_PROCESS = """
import pickle, sys
from pathlib import Path
from hookline import train
from hookline.config import entries_of_file

if sys.argv[1:]:
    entries_of_file(sys.argv[1])
result = train(pickle.loads(Path("config.pickle").read_bytes()))
Path("result.pickle").write_bytes(pickle.dumps(result))
"""
PLUGIN_FILE = """
import torch
import hookline

@hookline.plugin("model", "net")
def net(width: int = 2):
    return torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.Linear(width, 1))
"""


@pytest.mark.parametrize("of_file", [False, True])
def test_a_config_is_sent_to_another_process_and_its_result_comes_back(of_file: bool, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(PLUGIN_FILE)
    catalog = Catalog.installed().with_entries(entries_of_file(tmp_path / "net.py")) if of_file else None
    values = {"train.epochs": 2, "model": "net" if of_file else "mlp"}
    config = load_config(None, values, catalog=catalog)
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(config))
    words = ["net.py"] if of_file else []
    done = run([sys.executable, "-c", OTHER_PROCESS, *words], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    result = pickle.loads((tmp_path / "result.pickle").read_bytes())
    assert isinstance(result, RunResult)
    # The same kernels on the same machine.
    assert result.history == train(config).history
