"""Commands that try out a run, in real processes: --overfit, --fast, lr-find, profile, and the model of check."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Hookline = Callable[..., subprocess.CompletedProcess[str]]

FILE = """\
import hookline
import torch
from hookline import DataSource, hookimpl

LIMIT = "callbacks.limit-examples.num_examples"


class Items(torch.utils.data.Dataset):
    def __init__(self, num_examples):
        self.num_examples = num_examples

    def __len__(self):
        return self.num_examples

    def __getitem__(self, index):
        return torch.tensor([index / 100]), torch.tensor([index / 50])


@hookline.plugin("data", "items")
def items():
    return DataSource(Items(400), Items(100), in_features=1, out_features=1)


@hookline.plugin("callback", "writer")
class Writer:
    \"""Records the events.\"""

    def _write(self, event):
        with open("events.txt", "a") as file:
            file.write(event + "\\n")

    @hookimpl
    def on_run_start(self):
        self._write("run start")

    @hookimpl
    def on_epoch_end(self, run, metrics):
        self._write(f"epoch end {run.step} {' '.join(metrics)}")

    @hookimpl
    def on_run_end(self, outcome):
        self._write(f"run end {outcome}")
"""


@pytest.fixture
def plugin_words(tmp_path: Path) -> list[str]:
    """Arguments of a run that reads its data item by item, with a callback that writes a file."""
    (tmp_path / "mine.py").write_text(FILE)
    return ["--plugin", "mine.py", "data=items", "callbacks.writer=writer"]


# ---- check -----------------------------------------------------------------------------------------------------------


def test_check_prints_the_modules_of_the_model(hookline: Hookline) -> None:
    done = hookline("check", "model=mlp", "model.hidden=[8]")
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "\nmodule   class       output   parameters  trainable\n"
        "(model)  Sequential  [10, 1]  33          33\n"
        "0        Linear      [10, 8]  24          24\n"
        "1        ReLU        [10, 8]  0           0\n"
        "2        Linear      [10, 1]  9           9\n"
        "\n33 of 33 parameters trainable, 132 bytes, and 0 bytes of buffers\n"
        "\n33 parameters, 100 steps per epoch, first loss "
    ) in done.stdout
    document = json.loads(hookline("check", "model=mlp", "--json").stdout)
    assert [module["parameters"] for module in document["modules"]] == [4417, 192, 0, 4160, 0, 65]
    assert document["num_parameters"] == document["num_trainable"] == 4417


def test_check_omits_most_of_a_very_deep_model_and_prints_the_number_omitted(hookline: Hookline) -> None:
    hidden = ",".join(["2"] * 500)
    done = hookline("check", "model=mlp", f"model.hidden=[{hidden}]")
    assert done.returncode == 0, done.stderr
    assert "\n... and 962 more modules\n" in done.stdout
    assert len(done.stdout.splitlines()) < 60
    assert hookline("check", "--quiet").stdout == ""


# ---- train --overfit, train --fast -----------------------------------------------------------------------------------


def test_a_model_overfits_a_few_examples_and_the_plan_shows_the_option(hookline: Hookline) -> None:
    done = hookline("train", "--overfit", "5", "train.epochs=60", "optimizer.lr=0.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "num_examples = 5 (--overfit)" in done.stdout
    assert 'evaluate = ["train"] (--overfit)' in done.stdout
    assert "epochs = 60 (command line)" in done.stdout
    losses = [float(row) for row in re.findall(r"^ +\d+/60 +[\d.e-]+ +([\d.e-]+) ", done.stdout, re.MULTILINE)]
    assert losses[-1] < losses[0] / 100
    assert "completed after 60 steps" in done.stdout
    assert "hookline train train.epochs=60 optimizer.lr=0.1  # train in full" in done.stdout


def test_a_fast_run_puts_a_few_batches_through_every_part(
    hookline: Hookline, tmp_path: Path, plugin_words: list[str]
) -> None:
    (tmp_path / "run.toml").write_text("[train]\nepochs = 100\nbatch_size = 4\n")
    done = hookline("train", "--fast", "--json", "run.toml", *plugin_words)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    settings = events[0]["settings"]
    assert (settings["train.epochs"]["value"], settings["train.epochs"]["origin"]) == (2, "--fast")
    assert settings["train.epochs"]["overrode"]["value"] == 100
    assert (
        settings["callbacks.limit-examples.num_examples"]["value"],
        settings["callbacks.limit-examples.num_examples"]["origin"],
    ) == (12, "--fast")
    metrics = "train/running_loss train/loss validation/loss"
    assert (tmp_path / "events.txt").read_text().splitlines() == [
        "run start",
        f"epoch end 3 {metrics}",
        f"epoch end 6 {metrics}",
        "run end completed",
    ]


def test_both_trials_at_once_are_refused(hookline: Hookline) -> None:
    done = hookline("train", "--fast", "--overfit", "5")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --overfit and --fast cannot be combined\n")


@pytest.mark.parametrize("trial", [("--fast",), ("--overfit", "5")])
def test_a_trial_cannot_be_named_because_it_is_not_saved(
    hookline: Hookline, tmp_path: Path, trial: tuple[str, ...]
) -> None:
    done = hookline("train", *trial, "--name", "mine")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --name cannot be combined with --fast or --overfit\n")
    assert not list(tmp_path.iterdir())


# ---- lr-find ---------------------------------------------------------------------------------------------------------


def test_a_learning_rate_is_found_and_nothing_is_written(
    hookline: Hookline, tmp_path: Path, plugin_words: list[str]
) -> None:
    words = [*plugin_words, "model=mlp"]
    done = hookline("lr-find", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "events.txt").exists()
    drawn = [line for line in done.stdout.splitlines() if re.match(r"[ \d.e+-]{10} \|", line)]
    assert len(drawn) == 12
    assert all(line.isascii() and len(line) <= 80 for line in drawn)
    assert re.search(r"^ended after \d+ steps: the loss diverged at ", done.stdout, re.MULTILINE)
    (suggested,) = re.findall(
        r"^suggestion: ([\d.e-]+), a tenth of .*, where the smoothed loss is lowest$", done.stdout, re.MULTILINE
    )
    assert hookline("lr-find", *words, "--quiet").stdout.strip() == suggested
    # A model can be trained with it.
    trained = hookline("train", *words, f"optimizer.lr={suggested}", "--json")
    assert json.loads(trained.stdout.splitlines()[-1])["outcome"] == "completed"


def test_the_points_of_a_search_are_printed_as_json(hookline: Hookline) -> None:
    done = hookline("lr-find", "--from", "1e-3", "--to", "1e-2", "--steps", "7", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    curve = json.loads(done.stdout)
    assert [set(point) for point in curve["points"]] == [{"lr", "loss", "smoothed"}] * 7
    assert (curve["points"][0]["lr"], curve["points"][-1]["lr"]) == pytest.approx((1e-3, 1e-2))
    assert curve["suggestion"] is None
    assert curve["ending"] == "the learning rate reached 0.01"


@pytest.mark.parametrize("words", [("--from", "1", "--to", "0.1"), ("--from", "0"), ("--to", "inf")])
def test_a_range_that_does_not_rise_is_an_error(hookline: Hookline, words: tuple[str, ...]) -> None:
    done = hookline("lr-find", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the learning rate cannot rise from ")


# ---- profile ---------------------------------------------------------------------------------------------------------


def test_a_profile_prints_parts_and_operations_and_writes_a_trace(hookline: Hookline, tmp_path: Path) -> None:
    done = hookline("profile", "model=mlp", "--steps", "5", "-o", "trace.json")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^5 steps in [\d.]+ s\npart +seconds +us/step +%\ndata ", done.stdout, re.MULTILINE)
    for part in ("forward and backward", "optimizer", "callbacks", "evaluation and the loop"):
        assert re.search(rf"^{part} +[\d.]+ +[\d.]+ +[\d.]+$", done.stdout, re.MULTILINE)
    assert re.search(r"^operation +calls +self CPU us/step$", done.stdout, re.MULTILINE)
    # Three layers forward, in each of five steps.
    assert re.search(r"^aten::addmm +15 ", done.stdout, re.MULTILINE)
    assert "wrote trace.json" in done.stdout
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_a_profile_is_printed_as_json_and_a_run_that_is_too_short_is_an_error(hookline: Hookline) -> None:
    found = json.loads(hookline("profile", "--steps", "2", "--json").stdout)
    assert found["num_steps"] == 2
    assert [set(row) for row in found["parts"]] == [{"part", "seconds", "us_per_step", "percent"}] * 5
    assert {"operation", "calls", "self_cpu_us", "self_device_us"} == set(found["operations"][0])
    done = hookline("profile", "train.batch_size=all", "--output", "trace.json")
    assert done.returncode == 2
    assert done.stderr == (
        "error: the run has 3 steps, but the profile needs 45: 5 to warm up, 20 to time and 20 to profile\n"
        "  = raise train.epochs or lower the number of steps to profile\n"
    )
