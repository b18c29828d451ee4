"""Training by several ranks of which each has a part of the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.fsdp

from hookline import CheckpointError, Run, RunView, hookimpl, resume
from hookline.engine import Ranks
from hookline.runs import read_checkpoint
from hookline.runs.disk.encoding import encode
from hookline.trained import load_trained
from rank_runs import data, run_of, same, weights
from several import in_ranks

FSDP: dict[str, Any] = {"use": "fsdp", "wrap": ["Linear"]}
ADAMW = {"use": "adamw", "lr": 0.01}


def is_equal(first: Any, second: Any) -> bool:
    """Return whether two states have equal values and bits."""
    (tree, tensors), (other_tree, others) = encode(first), encode(second)
    return bool(tree == other_tree) and same(tensors, others)


def both(ranks: Ranks, options: Mapping[str, Any], tables: Mapping[str, Any]) -> Any:
    """Train with shared out weights and with whole ones; return the weights and the last metrics of both."""
    runs = [run_of(ranks, **tables, parallel=parallel) for parallel in ({"use": "fsdp", **options}, "ddp")]
    for run in runs:
        run.fit()
    return [[ranks.whole(weights(run)), dict(run.history[-1])] for run in runs]


@pytest.mark.parametrize(("num", "optimizer"), [(41, {"use": "sgd", "lr": 0.1}), (47, ADAMW)], ids=["sgd", "adamw"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shared_out_weights_end_with_the_bits_of_whole_ones(dtype: str, num: int, optimizer: dict[str, Any]) -> None:
    tables = {"num": num, "optimizer": optimizer, "train": {"dtype": dtype}}
    for sharded, whole in in_ranks(2, lambda ranks: both(ranks, {"wrap": ["Linear"]}, tables)):
        assert is_equal(sharded, whole)


CALLBACKS = {"averaging": {"decay": 0.5}, "best": {"restore": True}}


def states(run: Run, steps: tuple[int, ...]) -> dict[int, Any]:
    """Take the steps of a run, and return its state after some of them."""
    return {step.step: run.ranks.whole(run.state_dict()) for step in run.steps() if step.step in steps}


def without_time(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name not in ("used_s", "random", "running", "ranks")}


def test_a_state_of_shared_out_weights_is_whole_and_resumes_to_the_last_bit() -> None:
    tables: dict[str, Any] = {"optimizer": ADAMW, "callbacks": CALLBACKS, "parallel": FSDP}

    def resumed(ranks: Ranks) -> Any:
        run = run_of(ranks, **tables)
        with pytest.raises(CheckpointError, match="shared out"):
            encode(run.model.state_dict())
        saved = states(run, (1, 5, 7, 10))
        encode(saved)
        ends = []
        for step in (1, 5, 7):
            run = run_of(ranks, **tables)
            run.load_state_dict(saved[step])
            ends.append(states(run, (10,))[10])
        return [is_equal(without_time(saved[10]), without_time(end)) for end in ends]

    assert in_ranks(2, resumed) == [[True] * 3] * 2


def components(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: state[name] for name in ("model", "wrappers", "loss", "optimizer")}


def test_a_state_goes_from_two_ranks_to_one_and_back_bit_for_bit() -> None:
    tables: dict[str, Any] = {"optimizer": ADAMW, "callbacks": CALLBACKS}

    def passed_on(ranks: Ranks) -> Any:
        first = states(run_of(ranks, **tables, parallel=FSDP), (4, 10))
        alone = run_of(None, **tables)
        alone.load_state_dict(first[4])
        found = [is_equal(components(alone.state_dict()), components(first[4]))]
        second = states(alone, (7,))[7]
        ends = [first[10]]
        for parallel in ({"use": "ddp"}, {"use": "fsdp"}):
            run = run_of(ranks, **tables, parallel=parallel)
            run.load_state_dict(second)
            found.append(is_equal(components(ranks.whole(run.state_dict())), components(second)))
            ends.append(states(run, (10,))[10])
        return [found, ends]

    for found, (first, *others) in in_ranks(2, passed_on):
        assert found == [True] * 3
        for other in others:  # rounding differs between one process and two
            torch.testing.assert_close(other["model"], first["model"], rtol=1e-4, atol=1e-6)
            for table, weights_of in (("callbacks.averaging", "average"), ("callbacks.best", "weights")):
                averages = (state["plugins"][table][weights_of] for state in (other, first))
                torch.testing.assert_close(*averages, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "tables"),
    [
        ({}, {"train": {"micro_batch_size": 2, "eval_batch_size": 100}}),  # a rank has no batch to evaluate
        ({}, {"callbacks": {"averaging": {"decay": 0.5}}}),
        ({}, {"callbacks": {"best": {"restore": True, "monitor": "train/running_loss", "mode": "max"}}}),
        ({}, {"callbacks": {"clip-gradients": {"max_value": 0.01}}}),
        ({"reshard_after_forward": False}, {}),
    ],
    ids=["micro-batches", "averaging", "best", "clip", "gathered"],
)
def test_shared_out_weights_have_the_bits_of_whole_ones_with(options: dict[str, Any], tables: dict[str, Any]) -> None:
    tables = {**tables, "train": {"epochs": 1, **tables.get("train", {})}}
    for sharded, whole in in_ranks(2, lambda ranks: both(ranks, options, tables)):
        assert is_equal(sharded, whole)


def test_the_norm_for_clipping_is_that_of_the_whole_gradient() -> None:
    tables: dict[str, Any] = {"train": {"dtype": "float64"}, "callbacks": {"clip-gradients": {"max_norm": 0.01}}}

    def trained(ranks: Ranks) -> Any:
        run = run_of(ranks, **tables, parallel=FSDP)
        run.fit()
        return ranks.whole(weights(run))

    alone = run_of(None, **tables)
    alone.fit()
    for sharded in in_ranks(2, trained):
        torch.testing.assert_close(sharded, weights(alone), rtol=1e-12, atol=1e-15)


def test_groups_of_ranks_train_as_all_ranks_do() -> None:
    def trained(ranks: Ranks) -> Any:
        groups = {"use": "fsdp", "data_parallel_shard_degree": 2, "data_parallel_replicate_degree": 2}
        run, whole = (run_of(ranks, parallel=use, train={"dtype": "float64"}) for use in (groups, {"use": "ddp"}))
        run.fit()
        whole.fit()
        again = run_of(ranks, parallel=groups, train={"dtype": "float64"})
        again.load_state_dict(run.state_dict())
        return [ranks.whole(weights(run)), weights(whole), ranks.whole(weights(again))]

    for sharded, whole, loaded in in_ranks(4, trained):
        torch.testing.assert_close(sharded, whole, rtol=1e-12, atol=1e-15)
        assert same(sharded, loaded)


class Poison:
    """Gradients with a NaN in the third step, on rank 1 alone."""

    @hookimpl(wrapper=True)
    def build_update(self, run: RunView) -> Generator[None, Any, Callable[[], None]]:
        update = yield

        def poisoned() -> None:
            if (run.step, run.ranks.rank) == (2, 1):
                gradient: Any = next(run.model.parameters()).grad
                gradient.to_local()[0] = math.nan
            update()

        return poisoned


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_all_ranks_refuse_a_gradient_that_is_bad_on_one_of_them(policy: str) -> None:
    def trained(ranks: Ranks) -> Any:
        train = {"non_finite": policy, "max_steps": 3}
        run = run_of(ranks, train=train, parallel=FSDP, plugins={"callbacks.poison": Poison()})
        weights_before = {}
        for step in run.steps():
            if step.step == 2:
                weights_before = ranks.whole(weights(run))
        return [run.warnings, same(weights_before, ranks.whole(weights(run)))]

    first, second = in_ranks(2, trained)
    problem = "the gradient of '0.weight' is not finite in step 3 (epoch 1)"
    if policy == "skip":
        assert first == second == [[f"{problem}: the step was skipped"], True]
    else:
        assert [first["error"], second["error"]] == ["NonFiniteError"] * 2
        assert problem in first["text"]
        assert problem in second["text"]


@pytest.mark.parametrize(
    ("parallel", "problem"),
    [
        ({"wrap": ["Linaer"]}, "'Linaer' is no class of a module in the model"),
        ({"data_parallel_shard_degree": 3}, "2 ranks cannot be 1 groups"),
        ({"cpu_offload": True}, "parallel.cpu_offload needs a GPU"),
        ({}, "'muon' (hookline 0.1.0) needs whole weights"),
    ],
)
def test_options_that_do_not_fit_are_refused(parallel: dict[str, Any], problem: str) -> None:
    optimizer = "sgd" if parallel else "muon"
    tables: dict[str, Any] = {"parallel": {"use": "fsdp", **parallel}, "optimizer": optimizer}
    first, second = in_ranks(2, lambda ranks: run_of(ranks, **tables).step)
    assert first["error"] == second["error"] == "ConfigError"
    assert problem in first["text"]


class AtRankZero:
    """Passes a batch through the model, or asks for the weights, on rank 0 alone."""

    ranks = "zero"

    def __init__(self, ask: Callable[[RunView], object]) -> None:
        self.ask = ask

    @hookimpl
    def on_evaluation_end(self, run: RunView) -> None:
        self.ask(run)


@pytest.mark.parametrize("ask", [lambda run: run.model(torch.ones(1, 5)), lambda run: run.ranks.whole(weights(run))])
def test_what_rank_zero_does_alone_ends_with_an_error_in_place_of_waiting(ask: Callable[[RunView], object]) -> None:
    plugins = {"callbacks.alone": AtRankZero(ask)}
    first, second = in_ranks(2, lambda ranks: run_of(ranks, parallel=FSDP, plugins=plugins).fit().metrics)
    assert first["error"] == "TrainingError"
    assert "only rank 0 has this plugin" in first["text"]
    assert second["error"] == "PeerError"


def test_the_files_of_a_run_have_whole_weights_that_any_number_of_ranks_reads(tmp_path: Path) -> None:
    callbacks = {"best": {"restore": True}, "run-folder": {"parent": str(tmp_path), "name": "it"}, "checkpoint": {}}
    plugins = {"data": data()}

    def trained(ranks: Ranks) -> Any:
        run = run_of(ranks, parallel=FSDP, callbacks=callbacks)
        run.fit()
        ranks.gather(None)  # rank 0 has written the files
        resumed = resume(tmp_path / "0001-it", {"train.epochs": 3}, plugins=plugins, ranks=ranks)
        loaded = ranks.whole(weights(resumed))
        resumed.fit()
        return [ranks.whole(weights(run)), loaded, ranks.whole(weights(resumed))]

    (best, loaded, resumed), second = in_ranks(2, trained)
    assert is_equal([best, loaded, resumed], second)
    saved = [read_checkpoint(path).state for path in (tmp_path / "0001-it/checkpoints").iterdir()]
    assert any(same(loaded, state["model"]) for state in saved if state["step"] == 10)
    assert same(resumed, load_trained(tmp_path / "0001-it", plugins=plugins).model.state_dict())
