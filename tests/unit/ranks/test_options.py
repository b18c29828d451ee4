"""Options and callbacks on several ranks: they mean what they mean in one process, or are refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookline import NonFiniteError, RunView, hookimpl
from hookline.engine import Ranks
from rank_runs import by_hand, data, run_of, same, trained, weights
from several import in_ranks

FLOAT64 = {"dtype": "float64"}
SAME = 1e-11
"""Largest difference of float64 numbers around 1 that the order of sums explains, with room for 10 steps."""
LIKE_ONE_PROCESS: dict[str, dict[str, Any]] = {
    "clip-gradients": {"callbacks": {"clip-gradients": {"max_norm": 0.05}}},
    "clip-gradients by value": {"callbacks": {"clip-gradients": {"max_value": 0.01}}},
    "averaging": {"callbacks": {"averaging": {"decay": 0.5}}},
    "averaging of epochs": {"callbacks": {"averaging": {"method": "swa"}}},
    "lr-schedule": {"callbacks": {"lr-schedule": {"interval": "step", "warmup_steps": 3}}},
    "lr-schedule on a plateau": {
        "train": {"epochs": 4, "evaluate_every_steps": 2},
        "callbacks": {
            "lr-schedule": {
                "scheduler": "reduce-on-plateau",
                "monitor": "validation/loss",
                "arguments": {"patience": 0, "threshold": 0.9, "factor": 0.5},
            }
        },
    },
    "early-stopping": {"train": {"epochs": 9}, "callbacks": {"early-stopping": {"patience": 2, "min_delta": 10.0}}},
    "early-stopping within an epoch": {
        "train": {"epochs": 9, "evaluate_every_steps": 2},
        "callbacks": {"early-stopping": {"patience": 1, "min_delta": 10.0}},
    },
    "best": {
        "train": {"evaluate_every_steps": 2, "max_steps": 7},
        "optimizer": {"use": "sgd", "lr": 0.6},  # it diverges
        "callbacks": {"best": {"restore": True}},
    },
    "freeze": {"callbacks": {"freeze": {"parameters": ["0.*"]}}},
    "freeze, everything but a bias": {"callbacks": {"freeze": {"parameters": ["0.*", "2.weight"]}}},
    "limit-examples": {"callbacks": {"limit-examples": {"num_examples": 23}}},
    "weighted-sampling": {"num_classes": 3, "callbacks": {"weighted-sampling": {"num_samples": 31}}},
    "max_steps": {"train": {"max_steps": 7}},
    "max_time_s": {"train": {"max_time_s": 1e-9}},
    "epochs = 0": {"train": {"epochs": 0}},
    "muon": {"optimizer": {"use": "muon", "lr": 0.01}},
}


def outcome(ranks: Ranks | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that a run ends with."""
    train = {**FLOAT64, **options.get("train", {})}
    run = run_of(ranks, **{**options, "train": train})
    result = run.fit()
    return {
        "weights": {name: value.clone() for name, value in run.unwrapped_model.state_dict().items()},
        "outcome": result.outcome,
        "reason": run.stop_reason,
        "step": run.step,
        "history": [dict(metrics) for metrics in run.history],
        "summary": {title: [dict(row) for row in rows] for title, rows in run.summary.items()},
        "warnings": run.warnings,
    }


def is_close(first: Any, second: Any) -> bool:
    """Return whether two values of any nesting are the same up to rounding."""
    if isinstance(first, Tensor):
        return float((first - second).abs().max()) <= SAME
    if isinstance(first, float):
        return math.isclose(first, second, rel_tol=SAME, abs_tol=SAME) or (math.isnan(first) and math.isnan(second))
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(is_close(value, second[name]) for name, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(is_close, first, second))
    return bool(first == second)


def test_these_callbacks_and_options_do_the_same_on_several_ranks() -> None:
    def of_all(ranks: Ranks) -> Any:
        return {name: outcome(ranks, options) for name, options in LIKE_ONE_PROCESS.items()}

    first, second = in_ranks(2, of_all)
    assert "error" not in first, first
    for name, options in LIKE_ONE_PROCESS.items():
        alone = outcome(None, options)
        assert same(first[name]["weights"], second[name]["weights"]), name
        for part, value in alone.items():
            assert is_close(first[name][part], value), (name, part, first[name][part], value)
    assert first["early-stopping within an epoch"]["step"] == 4
    assert first["max_time_s"]["step"] == 0


MIXED: dict[str, dict[str, Any]] = {
    "bfloat16": {"callbacks": {"mixed-precision": {"dtype": "bfloat16"}}},
    "gradient-checkpointing": {"callbacks": {"gradient-checkpointing": {"modules": ["0", "1"]}}},
}


def test_these_callbacks_have_the_bits_of_one_process_that_takes_the_parts_in_turn() -> None:
    first, second = in_ranks(2, lambda ranks: {name: trained(ranks, **options) for name, options in MIXED.items()})
    assert "error" not in first, first
    for name, options in MIXED.items():
        assert same(first[name], second[name]), name
        assert same(first[name], by_hand(run_of(None, **options), 2)), name


def test_all_ranks_have_the_same_scale_of_float16() -> None:
    """One rank alone has gradients that are infinite in float16, and all skip the update."""

    def scales(ranks: Ranks) -> Any:
        def loss(prediction: Tensor, target: Tensor) -> Tensor:
            return (prediction - target).square().mean() * (100.0 if ranks.rank else 0.01)

        callbacks = {"mixed-precision": {"dtype": "float16"}, "try-first-batch": "off"}
        run = run_of(ranks, callbacks=callbacks, loss="own", plugins={"loss": lambda: loss}, optimizer="adamw")
        [mixed] = [member.instance for member in run.members if member.table == "callbacks.mixed-precision"]
        states = [mixed.state_dict() for _ in run.steps()]  # type: ignore[attr-defined]
        return [state["scale"]["scale"] for state in states], weights(run)

    first, second = in_ranks(2, scales)
    assert first[0] == second[0]
    assert same(first[1], second[1])
    assert first[0][0] == 2.0**15 > first[0][-1] == first[0][-2]


def test_a_loss_that_is_nan_ends_a_run_in_float16_too() -> None:
    options = of_marked(math.nan)
    options["callbacks"]["mixed-precision"] = {"dtype": "float16"}
    for result in in_ranks(2, lambda ranks: trained(ranks, **options)):
        assert result["error"] == "NonFiniteError", result
        assert "the loss is nan on rank" in result["text"]


class Marked:
    """A loss that is not finite for one example, with finite gradients if it is infinite."""

    def __init__(self, value: float, marked: int) -> None:
        self.value, self.target = value, data().train.tensors[1][marked]  # type: ignore[attr-defined]

    @hookimpl
    def build_loss(self) -> Any:
        def loss(prediction: Tensor, target: Tensor) -> Tensor:
            is_marked = (target == self.target.to(target)).any()
            return (prediction - target).square().mean() + torch.where(is_marked, self.value, 0.0)

        return loss


def of_marked(value: float, **train: Any) -> dict[str, Any]:
    """Return the options of a run with such a loss."""
    return {
        "train": {"evaluate_every_epochs": 0, "epochs": 1, **train},
        "callbacks": {"try-first-batch": "off"},
        "loss": "marked",
        "plugins": {"loss": Marked(value, 13)},
    }


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_on_one_rank_ends_all_with_its_rank_and_its_examples(value: float) -> None:
    def task(ranks: Ranks) -> Any:
        run = run_of(ranks, **of_marked(value))
        batches = [run.batch_order(1)[first : first + 10].tolist() for first in range(0, 47, 10)]
        try:
            run.fit()
        except NonFiniteError as error:
            return type(error).__name__, str(error), batches, [*error.indices], error.step

    first, second = in_ranks(2, task)
    assert first == second
    kind, text, batches, indices, step = first
    [(number, batch)] = [(number, batch) for number, batch in enumerate(batches) if 13 in batch]
    rank = int(batch.index(13) >= len(batch) // 2)
    assert (kind, step) == ("NonFiniteError", number + 1)
    assert f"the loss is {value} on rank {rank} in step {number + 1}" in text
    assert indices == batch[len(batch) * rank // 2 : len(batch) * (rank + 1) // 2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_is_skipped_by_all_ranks(value: float) -> None:
    options = of_marked(value, non_finite="skip", epochs=2, evaluate=[], evaluate_every_epochs=1)
    alone = outcome(None, options)
    first, second = in_ranks(2, lambda ranks: outcome(ranks, options))
    assert same(first["weights"], second["weights"])
    assert is_close(first["weights"], alone["weights"])
    assert is_close(first["history"], alone["history"])
    assert len(first["warnings"]) == len(alone["warnings"]) == 2


def test_a_loss_that_is_ignored_changes_no_gradient() -> None:
    """An infinite loss with finite gradients, up to the end of the epoch, whose mean loss is infinite."""

    def task(ranks: Ranks) -> Any:
        run = run_of(ranks, **of_marked(math.inf, non_finite="ignore", **FLOAT64))
        steps = run.steps()
        return [[next(steps).step, weights(run)] for _ in range(5)]

    alone, (first, second) = task(Ranks()), in_ranks(2, task)
    assert is_close(first, alone)
    assert all(same(one, other) for (_, one), (_, other) in zip(first, second, strict=True))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "fuse-steps": ({"callbacks": {"fuse-steps": {"size": 2}}}, "2 ranks sum their gradients in each step"),
    "halve-micro-batches": ({"callbacks": {"halve-micro-batches": {}}}, "halve-micro-batches cannot repeat a step"),
    "LBFGS": ({"optimizer": "closure", "plugins": {"optimizer": torch.optim.LBFGS}}, "LBFGS updates the weights"),
    "a step of a plugin": ({}, "cannot be taken by 2 ranks"),
    "no strategy": ({"parallel": "off"}, "needs a plugin that implements build_parallel"),
}


class OwnStep:
    """A step that knows nothing of other ranks."""

    @hookimpl
    def build_step(self) -> Any:
        return lambda batch: batch[0].sum()


@pytest.mark.parametrize("name", REFUSED)
def test_these_are_refused_before_anything_starts(name: str) -> None:
    options, text = REFUSED[name]
    if name == "a step of a plugin":
        options = {"callbacks": {"own": {}}, "plugins": {"callbacks.own": OwnStep()}}
    for result in in_ranks(2, lambda ranks: trained(ranks, **options)):
        assert result["error"] == "ConfigError", result
        assert text in result["text"]


def test_compile_gives_the_same_weights_and_evaluations() -> None:
    plain: dict[str, Any] = {"num": 40, "train": {"epochs": 1, "micro_batch_size": 3, "eval_batch_size": 40}}
    compiled = {**plain, "callbacks": {"compile": {"backend": "eager"}}}

    def task(ranks: Ranks) -> Any:
        return outcome(ranks, compiled), outcome(ranks, plain)

    (first, other), _ = in_ranks(2, task)
    assert is_close(first["weights"], other["weights"])
    assert is_close(first["history"], other["history"])


class Logs:
    """Logs numbers of its rank."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @hookimpl
    def on_step_end(self, run: RunView) -> None:
        rank = run.ranks.rank
        for reduce in ("mean", "sum", "max", "last"):
            run.log(reduce, 10.0 * run.step + rank, reduce=reduce)
        if rank:
            run.log("of rank 1", 1.0)

    @hookimpl
    def on_log(self, run: RunView, values: Mapping[str, float]) -> None:
        self.seen.append([run.step, dict(values)])


def test_logged_values_are_those_of_all_ranks() -> None:
    def task(ranks: Ranks) -> Any:
        logs = Logs()
        train = {"log_every_steps": 4, "epochs": 1}
        run = run_of(ranks, train=train, callbacks={"logs": {}}, plugins={"callbacks.logs": logs})
        run.fit()
        return logs.seen, dict(run.history[-1])

    first, second = in_ranks(2, task)
    assert first == second
    (step, values), (last_step, last) = first[0]
    assert (step, last_step) == (4, 5)
    assert values == {"mean": 25.5, "sum": 204.0, "max": 41.0, "last": 40.0, "of rank 1": 1.0}
    assert last == {"mean": 50.5, "sum": 101.0, "max": 51.0, "last": 50.0, "of rank 1": 1.0}
    assert first[1]["logged/mean"] == (25.5 * 4 + 50.5) / 5
    assert first[1]["logged/sum"] == 305.0


def test_telemetry_has_the_loss_and_the_norm_of_the_gradient_of_all_ranks() -> None:
    def task(ranks: Ranks) -> Any:
        logs = Logs()
        logs.on_step_end = None  # type: ignore[assignment]
        tables: dict[str, Any] = {"train": {"log_every_steps": 2, "epochs": 1, **FLOAT64}, "num": 40}
        run = run_of(ranks, callbacks={"telemetry": {}, "logs": {}}, plugins={"callbacks.logs": logs}, **tables)
        run.fit()
        return logs.seen

    alone = task(Ranks())
    first, second = in_ranks(2, task)
    assert [step for step, _ in alone] == [2, 4]
    for (_, values), (_, of_both), (_, of_other) in zip(alone, first, second, strict=True):
        assert values.keys() == of_both.keys()
        assert of_both == of_other
        for name in ("loss", "gradient_norm", "lr"):
            assert is_close(of_both[name], values[name])


class Unfreezes:
    """Trains a layer only from the second epoch on."""

    @hookimpl
    def on_epoch_start(self, run: RunView) -> None:
        first: Any = next(run.unwrapped_model.parameters())
        first.requires_grad_(run.epoch > 1)

    @hookimpl(wrapper=True)
    def build_model(self) -> Any:
        model: nn.Module = yield
        next(model.parameters()).requires_grad_(False)
        return model


def test_a_parameter_that_ddp_does_not_know_is_refused() -> None:
    options: dict[str, Any] = {"callbacks": {"late": {}}, "plugins": {"callbacks.late": Unfreezes()}}

    def task(ranks: Ranks) -> Any:
        run_of(ranks, **options).fit()

    for result in in_ranks(2, task):
        assert result["error"] == "ContractError", result
        assert "'0.weight' is trained only since the run began" in result["text"]
