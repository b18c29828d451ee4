"""Callbacks that write or read files, on several ranks: rank 0 writes for all, and each reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import TensorDataset

from hookline import DataSource, Run, load_config
from hookline.engine import Ranks
from hookline.runs.resuming import resume
from rank_runs import data, run_of, same, trained, weights
from several import in_ranks


def images() -> DataSource:
    """Return 20 grey images of 4 times 4 pixels in three classes."""
    generator = torch.Generator().manual_seed(3)
    dataset = TensorDataset(torch.rand(20, 1, 4, 4, generator=generator), torch.arange(20) % 3)
    return DataSource(dataset, dataset, in_features=16, out_features=3)


def of_files(folder: Path, ranks: Ranks | None, **callbacks: Any) -> Run:
    """Return a run that writes a folder."""
    kept = {"run-folder": {"parent": str(folder), "name": "job"}, "checkpoint": {"every_steps": 4}}
    return run_of(ranks, train={"epochs": 4}, callbacks={**kept, **callbacks})


def test_init_from_gives_all_ranks_the_weights_of_a_file(tmp_path: Path) -> None:
    start = {name: torch.full_like(value, 0.25) for name, value in weights(run_of(None)).items()}
    save_file(start, tmp_path / "start.safetensors")
    options: dict[str, Any] = {
        "callbacks": {"init-from": {"path": str(tmp_path / "start.safetensors")}},
        "train": {"epochs": 0},
    }
    first, second = in_ranks(2, lambda ranks: trained(ranks, **options))
    assert same(first, start)
    assert same(second, start)


def test_worst_images_are_those_of_all_ranks_and_drawn_once(tmp_path: Path) -> None:
    pytest.importorskip("PIL")

    def task(folder: Path) -> Any:
        def of_ranks(ranks: Ranks) -> Any:
            config: dict[str, Any] = {
                "train": {"epochs": 1, "batch_size": 10, "eval_batch_size": 3},
                "model": "flat",
                "loss": "cross-entropy",
                "parallel": "ddp",
                "callbacks": {"run-folder": {"parent": str(folder)}, "worst-images": {"count": 4}},
            }
            model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
            run = Run(load_config(config, plugins={"data": images(), "model": lambda: model}), ranks=ranks)
            run.fit()
            return run.history[-1]["validation/worst_error"], [str(path) for path in folder.glob("*/artifacts/*")]

        return of_ranks

    (error, files), (error_of_other, _) = in_ranks(2, task(tmp_path))
    assert error == error_of_other
    assert [Path(path).name for path in files] == ["worst-validation.png"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_samples_are_the_same_on_all_ranks(tmp_path: Path, strategy: str) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat. the dog sat on the log. " * 4)
    corpus = {"use": "corpus", "path": str(tmp_path / "text.txt"), "context": 8, "split": [0.8, 0.2]}
    config: dict[str, Any] = {
        "train": {"epochs": 1, "batch_size": 8, "evaluate": ["validation"]},
        "data": {**corpus, "cache": str(tmp_path / "cache"), "tokenizer": "characters"},
        "model": {"use": "gpt", "layers": 1, "heads": 2, "width": 16, "dropout": 0.2},
        "loss": {"use": "cross-entropy"},
        "optimizer": {"use": "adamw", "lr": 0.01},
        "parallel": strategy,
        "callbacks": {"samples": {"prompts": ["the "], "new_tokens": 5}},
    }
    Run(load_config(config))  # it writes the cache

    def task(ranks: Ranks) -> Any:
        run = Run(load_config(config), ranks=ranks)
        run.fit()
        return ranks.whole(weights(run)), dict(run.summary)

    (first, summary), (second, other_summary) = in_ranks(2, task)
    assert same(first, second)
    assert [*summary] == ["samples at step 3"]
    assert summary == other_summary


def interrupted(ranks: Ranks, folder: Path, step: int) -> Any:
    """Begin a run, or resume it, until it is interrupted around a step; return its position and warnings."""
    found = sorted(folder.glob("*-job"))
    # The ranks look before rank 0 makes the folder.
    [is_there, *_] = ranks.gather(bool(found))
    run = resume(found[0], plugins={"data": data()}, ranks=ranks) if is_there else of_files(folder, ranks)
    for taken in run.steps():
        if taken.step == step and ranks.rank == 0:
            run.interrupt("enough")
    return run.outcome, run.step, run.warnings


def test_a_run_that_is_resumed_by_another_number_of_ranks_says_so(tmp_path: Path) -> None:
    first, _ = in_ranks(2, lambda ranks: interrupted(ranks, tmp_path, 3))
    assert first[0] == "interrupted"
    [(outcome, step, warnings)] = in_ranks(1, lambda ranks: interrupted(ranks, tmp_path, first[1] + 1))
    assert outcome == "interrupted"
    assert step > first[1]
    assert "the number of ranks was 2, and is 1: the state and the order of the examples are the same" in warnings[0]
    (outcome, _, warnings), (of_other, _, _) = in_ranks(2, lambda ranks: interrupted(ranks, tmp_path, 10**6))
    assert outcome == of_other == "completed"
    assert sum("the number of ranks was 1, and is 2" in text for text in warnings) == 1
    [folder] = tmp_path.glob("*-job")
    assert load_file(folder / "model.safetensors").keys() == weights(run_of(None)).keys()
