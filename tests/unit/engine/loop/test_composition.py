"""Combinations of wrappers of the step and the model: each pair, and some triples.

A run with them completes, is deterministic, and can be resumed within an epoch.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hookline import Run, RunResult, hookimpl, load_config

CALLBACKS: dict[str, dict[str, Any]] = {
    "clip-gradients": {"max_norm": 0.5},
    "mixed-precision": {},
    "compile": {"backend": "eager"},
    "freeze": {"parameters": ["0.bias"]},
    "early-stopping": {"monitor": "train/loss", "patience": 1, "min_delta": 1.0},
}
MICRO_BATCHES = "micro_batch_size"
HALVING = "halve-micro-batches"
PARTS = (*CALLBACKS, MICRO_BATCHES)
TRIPLES = [
    ("clip-gradients", "mixed-precision", "compile"),
    ("compile", "mixed-precision", "clip-gradients"),
    ("mixed-precision", "freeze", MICRO_BATCHES),
    ("clip-gradients", "early-stopping", MICRO_BATCHES),
    PARTS,
    PARTS[::-1],
]
HALVED = [*((name, HALVING) for name in CALLBACKS), (*PARTS, HALVING)]
COMBINATIONS = [
    *itertools.permutations(CALLBACKS, 2),
    *((name, MICRO_BATCHES) for name in CALLBACKS),
    *TRIPLES,
    *HALVED,
]


@pytest.fixture(autouse=True)
def _forget_what_was_compiled() -> Iterator[None]:
    """torch counts compilations over all models of the process, and stops compiling after a few."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Short:
    """Has memory for two examples at once: the loss of more fails in a step, after the model has drawn its dropout."""

    @hookimpl(wrapper=True)
    def build_loss(self, run: Run) -> Generator[None, Any, Any]:
        loss = yield

        def short(prediction: Tensor, target: Tensor) -> Any:
            if run.model.training and len(prediction) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return loss(prediction, target)

        return short


def run_with(*parts: str) -> Run:
    config = {
        "train": {
            "epochs": 3,
            "batch_size": 8,
            MICRO_BATCHES: 3 if MICRO_BATCHES in parts else 0,
        },
        "data": {"num_examples": 20},
        "model": {"use": "mlp", "hidden": [4], "dropout": 0.25},
        "optimizer": {"use": "adam", "lr": 0.01},
        "callbacks": {name: CALLBACKS.get(name, {}) for name in parts if name != MICRO_BATCHES},
    }
    return Run(load_config(config, plugins={"callbacks.short": Short()} if HALVING in parts else {}))


def everything(run: Run, result: RunResult) -> dict[str, Any]:
    """Return the final state of a run."""
    weights = {name: weight.tolist() for name, weight in run.unwrapped_model.state_dict().items()}
    ended = (result.outcome, result.stop_reason, result.steps, result.history)
    return {"ended": ended, "weights": weights, "warnings": result.warnings}


def ended_with(run: Run) -> dict[str, Any]:
    return everything(run, run.fit())


@pytest.mark.parametrize("parts", COMBINATIONS, ids="+".join)
def test_parts_work_together_and_their_run_can_be_resumed(parts: tuple[str, ...]) -> None:
    whole = ended_with(run_with(*parts))
    assert whole["ended"][0] == ("stopped" if "early-stopping" in parts else "completed")
    assert ended_with(run_with(*parts)) == whole
    first, second = run_with(*parts), run_with(*parts)
    second.load_state_dict(next(first.state_dict() for step in first.steps() if step.step == 2))
    assert ended_with(second) == whole


@pytest.mark.parametrize("parts", HALVED, ids="+".join)
def test_a_run_that_halves_equals_one_with_small_micro_batches_with_any_wrappers(parts: tuple[str, ...]) -> None:
    halved, small = run_with(*parts), run_with(*parts[:-1])
    small.micro_batch_size = 2
    ended, expected = ended_with(halved), ended_with(small)
    assert (halved.micro_batch_size, len(ended.pop("warnings"))) == (2, 1 if MICRO_BATCHES in parts else 2)
    assert expected.pop("warnings") == ()
    assert ended == expected


@pytest.mark.parametrize("part", [part for part in PARTS if part != "early-stopping"])
def test_each_part_alone_changes_the_run(part: str) -> None:
    alone, without = ended_with(run_with(part)), ended_with(run_with())
    # The backend eager does not change the results of a model.
    assert (alone == without) == (part == "compile")


def test_freezing_works_with_all_other_parts() -> None:
    run = run_with(*PARTS)
    before = run.unwrapped_model.state_dict()["0.bias"].clone()
    run.fit()
    after = run.unwrapped_model.state_dict()
    assert torch.equal(after["0.bias"], before)
    assert not torch.equal(after["0.weight"], run_with(*PARTS).unwrapped_model.state_dict()["0.weight"])
