"""A run that is interrupted and resumed from its files ends with the same bits as an uninterrupted one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import hookline
from hookline import Catalog, Run, load_config
from hookline.config import entries_of_file
from hookline.runs import folder_of
from support import saved_folder

PLUGINS = '''
import torch
from torch.utils.data import Dataset, IterableDataset
import random
import numpy as np
import hookline
from hookline import DataSource, hookimpl


class Augmented(Dataset):
    """Draws from all three global generators whenever an item is read."""

    def __init__(self, n):
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(n, 3, generator=generator)
        self.y = self.x.sum(1, keepdim=True)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        noise = torch.rand(3) + random.random() + float(np.random.rand())
        return self.x[index] + 0.01 * noise, self.y[index]


@hookline.plugin("data", "augmented")
class AugmentedData:
    @hookimpl
    def build_data(self, run):
        return DataSource(Augmented(25), Augmented(10), in_features=3, out_features=1)


@hookline.plugin("callback", "counter")
class Counter:
    """Has a state of many types, and changes the weights by it."""

    def __init__(self):
        self.seen = {1: torch.zeros(2), "big": 2**80, "pair": (1, float("inf")), "bytes": b"x", "array": np.zeros(3)}
        self.generator = random.Random(3)

    @hookimpl
    def on_step_end(self, run, loss):
        run.log("losses", loss)
        run.log("largest", loss.double() ** 0.5, reduce="max")
        run.log("steps", run.step, reduce="last")
        self.seen[1] += self.generator.random()
        self.seen["array"] += 1
        with torch.no_grad():
            next(run.model.parameters()).add_(self.seen[1].sum().to(torch.float32) * 1e-4)

    def state_dict(self):
        return {"seen": self.seen, "generator": self.generator.getstate()}

    def load_state_dict(self, state):
        self.seen = state["seen"]
        self.generator.setstate(state["generator"])
'''

BASE: dict[str, Any] = {
    "train": {"epochs": 3, "batch_size": 7, "device": "cpu", "log_every_steps": 3},
    "data": {"use": "augmented"},
    "model": {"use": "mlp", "hidden": [8], "dropout": 0.3},
    "optimizer": {"use": "adamw"},
    "callbacks": {"counter": {}, "run-folder": {}, "checkpoint": {"keep": 100}},
}

CASES: dict[str, dict[str, Any]] = {
    "dropout, augmentation, adamw and a plugin's own state": {},
    "two workers": {"train.num_workers": 2},
    "accumulation": {"train.micro_batch_size": 3},
    "evaluations within an epoch": {"train.evaluate_every_steps": 2},
    "a schedule with warm-up by step": {"callbacks.lr-schedule": {"interval": "step", "warmup_steps": 3}},
    "a moving average": {"callbacks.averaging": {"decay": 0.5}},
    "early stopping": {"callbacks.early-stopping": {"monitor": "validation/loss", "patience": 1, "min_delta": 10.0}},
    "mixed precision": {"callbacks.mixed-precision": {}},
    "momentum and clipped gradients": {"optimizer": "sgd", "callbacks.clip-gradients": {"max_norm": 0.1}},
    "a limit of steps": {"train.max_steps": 10},
    "the best weights": {"callbacks.best": {"restore": True}, "train.evaluate_every_steps": 3},
    "the default data": {"data": "synthetic-linear", "data.num_examples": 25, "train.epochs": 2},
}
STEPS_PER_EPOCH = 4


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    file = tmp_path_factory.mktemp("plugins") / "exact.py"
    file.write_text(PLUGINS)
    return Catalog.installed().with_entries(entries_of_file(file))


def make(parent: Path, overrides: dict[str, Any], catalog: Catalog) -> Run:
    config = load_config(BASE, {"callbacks.run-folder.parent": str(parent), **overrides}, catalog=catalog)
    return Run(config)


def interrupted_after(run: Run, step: int) -> Path:
    """Take steps up to ``step``, and interrupt the run there."""
    for taken in run.steps():
        if taken.step == step:
            run.interrupt("the test")
    assert folder_of(run) is not None
    return saved_folder(run).path


def kept(path: Path) -> dict[str, bytes]:
    """Return the files of a run whose bytes must be equal: weights, metrics, the last state."""
    last = max((path / "checkpoints").iterdir())
    # The state does not depend on time: used_s is 0 without a time limit.
    files = [path / "model.safetensors", path / "metrics.jsonl"]
    files += [last / name for name in ("model.safetensors", "state.safetensors", "state.json")]
    return {f"{file.parent.name if file.parent != path else ''}/{file.name}": file.read_bytes() for file in files}


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_a_run_that_is_interrupted_at_any_place_ends_as_if_it_had_not_been(
    overrides: dict[str, Any], catalog: Catalog, tmp_path: Path
) -> None:
    whole = make(tmp_path, overrides, catalog)
    whole.fit()
    assert folder_of(whole) is not None
    expected = kept(saved_folder(whole).path)
    # Before and after the last batch of an epoch, within an epoch, and at the last steps of the run.
    for steps in ([2], [STEPS_PER_EPOCH - 1, STEPS_PER_EPOCH], [5, 6, 7], [whole.step - 1], [whole.step]):
        assert kept(through(steps, overrides, catalog, tmp_path)) == expected, steps


def through(steps: Sequence[int], overrides: dict[str, Any], catalog: Catalog, parent: Path) -> Path:
    """Return the folder of a run that was interrupted after each of the steps and then completed."""
    path = interrupted_after(make(parent, overrides, catalog), steps[0])
    for step in steps[1:]:
        interrupted_after(hookline.resume(path, catalog=catalog), step)
    last = hookline.resume(path, catalog=catalog)
    assert not last.warnings
    assert last.step == steps[-1]
    last.fit()
    return path


def test_no_batch_is_read_to_skip_it(catalog: Catalog, tmp_path: Path) -> None:
    path = interrupted_after(make(tmp_path, {}, catalog), 3)
    resumed = hookline.resume(path, catalog=catalog)
    read: list[int] = []
    dataset: Any = resumed.data.train
    original = type(dataset).__getitem__

    class Counting(type(dataset)):  # type: ignore[misc] # a class that is known only at run time
        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return original(self, index)

    dataset.__class__ = Counting
    next(resumed.steps())
    assert sorted(read) == sorted(resumed.batch_order(1)[21:28].tolist())
