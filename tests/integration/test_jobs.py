"""The jobs of the how-to guides: each is trained, resumed at any step, evaluated, exported, and stopped early.

The files are those of the pages, so what a reader copies is what is tested.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import torch

from hookline import Catalog, Run, load_config
from hookline.cli.commands.main import hookline
from hookline.cli.output import Output
from hookline.config import entries_of_file
from pages import blocks
from support import FIXTURES, ROOT


@dataclass(frozen=True)
class Job:
    """A page with a job.

    Attributes:
        page: Its name.
        config: The config of the job.
        files: Its plugin files.
        before: Words of the commands that come first.
        monitor: The metric by which weights are compared.
    """

    page: str
    config: str
    files: Sequence[str] = ()
    before: Sequence[Sequence[str]] = ()
    monitor: str = "validation/loss"


TEACHER = ["train", "distill.toml", "--quiet", "model=mlp", "loss=cross-entropy", "callbacks.run-folder.name=teacher"]
JOBS = [
    Job("train-with-several-inputs", "flowers.toml", ["flowers.py"]),
    Job("train-an-autoencoder", "vae.toml", ["vae.py"]),
    Job("train-a-gan", "gan.toml", ["gan.py"]),
    Job("distill-a-model", "distill.toml", ["distill.py"], before=[[*TEACHER, "train.epochs=1"]]),
    Job("train-on-pairs", "pairs.toml", ["pairs.py"]),
    Job("fine-tune-a-model", "finetune.toml", before=[["train", "pretrain.toml", "train.epochs=1", "--quiet"]]),
]


@pytest.fixture(params=JOBS, ids=lambda job: job.page)
def job(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """The files of a job, in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(FIXTURES / "iris" / "iris.csv", tmp_path)
    for block in blocks(ROOT / "docs" / "how-to" / f"{request.param.page}.md"):
        if block.file:
            block.place(tmp_path)
    for words in request.param.before:
        call(request.param, *words)
    return cast(Job, request.param)


def call(job: Job, *words: str) -> None:
    files = [word for file in job.files for word in ("--plugin", file)]
    hookline.main([words[0], *files, *words[1:]], standalone_mode=False, obj=Output())


def test_a_job_is_trained_stopped_evaluated_and_exported(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    monitored = [f"callbacks.{name}.monitor={job.monitor}" for name in ("best", "early-stopping")]
    # No evaluation is better than the first by 1e9, so the run stops after the second one.
    words = ["train.epochs=9", "callbacks.early-stopping.patience=1", "callbacks.early-stopping.min_delta=1e9"]
    call(job, "train", "--json", job.config, *monitored, *words, "callbacks.best.restore=true")
    ending = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ending["outcome"] == "stopped"
    (best,) = ending["summary"][f"best {job.monitor}"]
    history = [json.loads(line) for line in Path("runs/last/metrics.jsonl").read_text().splitlines()]
    values = [line[job.monitor] for line in history if job.monitor in line]
    assert len(values) == 2
    assert best["value"] == min(values)

    call(job, "eval", "--json", "last", "--split", "validation")
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["metrics"][job.monitor] == best["value"]

    call(job, "export", "--json", "last", "--to", "torch-export")
    assert json.loads(capsys.readouterr().out)["largest_difference"] <= 1e-5


def test_a_job_that_is_resumed_at_any_step_ends_with_the_same_bits(job: Job) -> None:
    catalog = Catalog.installed().with_entries([entry for file in job.files for entry in entries_of_file(file)])
    config = load_config(job.config, ["train.epochs=3"], catalog=catalog)
    whole, first, second = (Run(config) for _ in range(3))
    end = whole.fit()
    last = random.randrange(1, end.steps)  # another one each time
    for step in first.steps():
        if step.step == last:
            second.load_state_dict(first.state_dict())
            break
    assert second.fit().history == end.history, f"resumed after step {last}"
    assert second.result().summary == end.summary
    for name, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), f"{name}, resumed after step {last}"
