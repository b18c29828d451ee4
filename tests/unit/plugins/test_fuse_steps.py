"""Callback ``fuse-steps``: blocks in the loop, and refused runs; the blocks themselves are tested in ``test_block``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hookline import ConfigError, ContractError, DataSource, NonFiniteError, Run, TrainingError, hookimpl, load_config
from hookline.shortcuts import block
from hookline.trials import Ledger, lr_find, profile
from hookline_plugins.steps.fuse_steps import FuseSteps

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a compiler for C++")
ignores_torch = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")


@pytest.fixture(autouse=True)
def _uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Capture graphs as usual, but run them with torch's operations: the C++ compiler takes seconds."""
    monkeypatch.setattr(block, "_BACKEND", "eager")
    yield
    torch.compiler.reset()


def in_blocks(size: int) -> dict[str, Any]:
    """Return the callbacks of a run that takes blocks of ``size`` steps."""
    return {"fuse-steps": {"size": size}} if size > 1 else {}


def run_of(size: int, *overrides: str, plugins: Mapping[str, Any] | None = None, **tables: Any) -> Run:
    """Return a run with 11 batches in an epoch, the last of which is smaller."""
    train = {"epochs": 2, "batch_size": 8, "dtype": "float64", **tables.pop("train", {})}
    callbacks = {**in_blocks(size), **tables.pop("callbacks", {})}
    config = {"train": train, "data": {"num_examples": 84}, "callbacks": callbacks, **tables}
    return Run(load_config(config, overrides, plugins=plugins or {}))


class Steps:
    """Records each step as it is reported."""

    allows_fused_steps = True

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.ahead: list[int] = []
        self.weights: list[list[float]] = []

    @hookimpl
    def on_step_end(self, run: Run, loss: Tensor) -> None:
        assert run.step == len(self.losses) + 1
        self.losses.append(loss.item())
        self.ahead.append(run.num_ahead)
        self.weights.append([weight for p in run.model.parameters() for weight in p.flatten().tolist()])


def ahead_of(size: int, *overrides: str, **tables: Any) -> list[int]:
    """Return for each step the number of steps that the weights were ahead."""
    steps = Steps()
    run_of(size, *overrides, plugins={"callbacks.steps": steps}, **tables).fit()
    return steps.ahead


def numbers(run: Run) -> dict[str, Any]:
    """Return the state of a run, for comparison up to rounding."""
    state = run.state_dict()
    kept = [
        {name: torch.as_tensor(one) for name, one in entry.items()} for entry in state["optimizer"]["state"].values()
    ]
    gradients = [None if p.grad is None else p.grad.clone() for p in run.model.parameters()]
    return {"model": dict(state["model"]), "kept": kept, "gradients": gradients, "history": state["history"]}


def assert_same(ours: Run, theirs: Run, rtol: float) -> None:
    assert (ours.epoch, ours.step, ours.outcome, ours.stop_reason) == (
        theirs.epoch,
        theirs.step,
        theirs.outcome,
        theirs.stop_reason,
    )
    torch.testing.assert_close(numbers(ours), numbers(theirs), rtol=rtol, atol=rtol / 10, check_dtype=True)


# ---- the same numbers ------------------------------------------------------------------------------------------------

MODELS: dict[str, Any] = {"linear": {}, "mlp": {"model": {"use": "mlp", "hidden": [4], "activation": "tanh"}}}
OPTIMIZERS: dict[str, Any] = {
    "momentum": {"use": "sgd", "momentum": 0.9, "nesterov": True},
    "adamw": {"use": "adamw", "lr": 0.01, "groups": [{"parameters": ["*bias"], "weight_decay": 0.0}]},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_a_run_in_blocks_ends_as_one_in_single_steps(model: str, optimizer: str, dtype: str) -> None:
    tables = {**MODELS[model], "optimizer": OPTIMIZERS[optimizer]}
    steps, same = Steps(), Steps()
    ours = run_of(4, f"train.dtype={dtype}", plugins={"callbacks.steps": steps}, **tables)
    theirs = run_of(1, f"train.dtype={dtype}", plugins={"callbacks.steps": same}, **tables)
    ours.fit()
    theirs.fit()
    rtol = {"float32": 1e-4, "float64": 1e-10}[dtype]
    assert_same(ours, theirs, rtol)
    assert steps.losses == pytest.approx(same.losses, rel=rtol)
    # The first step creates the state of the optimizer; an epoch has 10 full batches and a smaller one.
    assert steps.ahead == [0, *[3, 2, 1, 0] * 2, 0, 0, *[3, 2, 1, 0] * 2, 0, 0, 0]


@needs_compiler
@ignores_torch
@pytest.mark.parametrize(
    ("model", "optimizer", "dtype"), [("linear", "momentum", "float64"), ("mlp", "adamw", "float32")]
)
def test_compiled_blocks_end_as_single_steps(
    monkeypatch: pytest.MonkeyPatch, model: str, optimizer: str, dtype: str
) -> None:
    monkeypatch.setattr(block, "_BACKEND", "inductor")
    tables = {**MODELS[model], "optimizer": OPTIMIZERS[optimizer]}
    ours, theirs = (run_of(size, f"train.dtype={dtype}", **tables) for size in (2, 1))
    ours.fit()
    theirs.fit()
    assert_same(ours, theirs, {"float32": 1e-4, "float64": 1e-10}[dtype])


def test_an_evaluation_and_the_end_of_the_run_are_ends_of_blocks() -> None:
    # Evaluations after 5, 10 and 15 steps; the 11th batch is smaller; the run ends after 17 steps.
    of_five = [2, 1, 0, 0, 0]
    assert ahead_of(3, train={"evaluate_every_steps": 5, "max_steps": 17}) == [*of_five * 2, 0, 2, 1, 0, 0, 0, 0]


def test_weights_are_those_after_the_block_in_each_of_its_steps() -> None:
    steps, single = Steps(), Steps()
    run_of(5, plugins={"callbacks.steps": steps}).fit()
    run_of(1, plugins={"callbacks.steps": single}).fit()
    for number in range(5):
        assert steps.weights[number] == pytest.approx(single.weights[4], rel=1e-10)


# ---- where a run may end ---------------------------------------------------------------------------------------------


class Stop(Steps):
    """Requests a stop after a step."""

    @hookimpl
    def on_step_end(self, run: Run, loss: Tensor) -> None:
        super().on_step_end(run, loss)
        if run.step == 2:
            run.request_stop("enough")


def test_a_stop_requested_within_a_block_takes_effect_at_its_end() -> None:
    stop = Stop()
    run = run_of(5, plugins={"callbacks.stop": stop})
    result = run.fit()
    assert (result.outcome, result.stop_reason, result.steps) == ("stopped", "enough", 5)
    assert stop.ahead == [4, 3, 2, 1, 0]


class Slow(Steps):
    """Passes a time limit of less than 0.2 s within the first block."""

    @hookimpl
    def on_step_end(self, run: Run, loss: Tensor) -> None:
        super().on_step_end(run, loss)
        if run.step == 2:
            time.sleep(0.2)


def test_a_time_limit_takes_effect_at_the_end_of_a_block() -> None:
    assert run_of(5, "train.max_time_s=0.1", plugins={"callbacks.slow": Slow()}).fit().steps == 5


def test_a_time_limit_that_has_passed_at_the_start_leaves_no_block_to_take() -> None:
    assert run_of(5, "train.max_time_s=1e-9").fit().steps == 0


def test_a_run_has_no_state_within_a_block_and_the_hint_says_when() -> None:
    run = run_of(4)
    steps = run.steps()
    next(steps)
    assert run.num_ahead == 3
    with pytest.raises(TrainingError, match="within a block: the weights are 3 steps ahead") as caught:
        run.state_dict()
    assert "run.num_ahead is 0" in (caught.value.hint or "")
    for _ in range(3):
        next(steps)
    assert (run.num_ahead, run.state_dict()["step"]) == (0, 4)


def test_a_run_that_is_resumed_at_the_end_of_a_block_ends_with_the_same_bits() -> None:
    tables = {"optimizer": OPTIMIZERS["momentum"]}
    whole = run_of(4, **tables)
    states = [whole.state_dict() for step in whole.steps() if step.step in (5, 15)]
    for state in states:
        again = run_of(4, **tables)
        again.load_state_dict(state)
        again.fit()
        assert_same(again, whole, 0.0)


class Fails(Steps):
    @hookimpl
    def on_step_end(self, run: Run, loss: Tensor) -> None:
        if run.step == 2:
            raise RuntimeError("no")


def test_an_error_within_a_block_notes_that_the_weights_are_ahead() -> None:
    with pytest.raises(RuntimeError) as caught:
        run_of(5, plugins={"callbacks.fails": Fails()}).fit()
    assert caught.value.__notes__[-1] == "in epoch 1 of 2, after 2 steps, with weights that are 3 steps ahead"


# ---- numbers that are not finite -------------------------------------------------------------------------------------


class WithBadExample:
    """Has an infinite target."""

    @hookimpl
    def build_data(self) -> DataSource:
        features = torch.linspace(-1, 1, 96, dtype=torch.float64).reshape(48, 2)
        targets = features.sum(1, keepdim=True)
        targets[13] = torch.inf
        dataset = torch.utils.data.TensorDataset(features, targets)
        return DataSource(train=dataset, in_features=2, out_features=1)


def bad_run(size: int, non_finite: str, seed: int = 0) -> tuple[Run, Steps]:
    steps = Steps()
    train = {"evaluate": [], "batch_size": 4, "non_finite": non_finite, "epochs": 1, "seed": seed}
    plugins = {"data": WithBadExample(), "callbacks.steps": steps}
    config: Any = {"train": {**train, "dtype": "float64"}, "callbacks": in_blocks(size)}
    return Run(load_config(config, plugins=plugins)), steps


def test_a_number_that_is_not_finite_fails_in_its_step_with_the_weights_before_it() -> None:
    (ours, steps), (theirs, same) = bad_run(6, "fail", seed=1), bad_run(1, "fail", seed=1)
    errors = []
    for run in (ours, theirs):
        with pytest.raises(NonFiniteError) as caught:
            run.fit()
        errors.append(caught.value)
    assert (errors[0].message, errors[0].step, errors[0].indices) == (
        errors[1].message,
        errors[1].step,
        errors[1].indices,
    )
    assert errors[0].step not in (None, 1, 7)  # within a block
    assert 13 in errors[0].indices
    assert steps.losses == pytest.approx(same.losses, rel=1e-12)
    torch.testing.assert_close(dict(ours.model.state_dict()), dict(theirs.model.state_dict()), rtol=1e-12, atol=1e-14)


def test_only_the_bad_step_is_skipped() -> None:
    (ours, steps), (theirs, same) = bad_run(6, "skip"), bad_run(1, "skip")
    assert ours.fit().warnings == theirs.fit().warnings
    assert steps.losses == pytest.approx(same.losses, rel=1e-12)
    assert len(ours.warnings) == 1
    assert sorted(steps.ahead, reverse=True) == [5, 4, 3, 2, 1, *[0] * 7]  # one of the two blocks


def test_nothing_is_checked_with_ignore() -> None:
    run, steps = bad_run(6, "ignore")
    with pytest.raises(NonFiniteError, match=r"train/running_loss is (nan|inf)"):
        run.fit()
    assert steps.ahead == [5, 4, 3, 2, 1, 0] * 2


def test_skips_with_good_blocks_between_are_not_in_a_row() -> None:
    run, _ = bad_run(6, "skip")
    run.finite_guard._num_skips = 99  # type: ignore[attr-defined] # it is the default one
    assert run.fit().outcome == "completed"


# ---- what goes with blocks -------------------------------------------------------------------------------------------


class Quiet:
    """Implements no hook that is called in a step."""

    @hookimpl
    def on_epoch_end(self) -> None:
        pass


class Twice:
    """Defines an order with each example twice, like a sampling plugin."""

    @hookimpl
    def build_order(self) -> Callable[[int], Tensor]:
        return lambda epoch: torch.arange(84).repeat(2).roll(epoch)


ALLOWED: dict[str, Any] = {
    "progress": {"callbacks": {"progress": {"live": "on"}}},
    "json-lines": {"callbacks": {"json-lines": {}}},
    "early-stopping": {"callbacks": {"early-stopping": {"monitor": "train/loss", "min_delta": 100.0, "patience": 1}}},
    "best": {"callbacks": {"best": {"monitor": "train/running_loss", "restore": True}}},
    "lr-schedule": {"callbacks": {"lr-schedule": {"scheduler": "exponential", "arguments": {"gamma": 0.1}}}},
    "averaging": {"callbacks": {"averaging": {"method": "swa"}}},
    "freeze": {"callbacks": {"freeze": {"parameters": ["bias"]}}},
    "order": {"plugins": {"callbacks.order": Twice()}},
}


@pytest.mark.parametrize("name", ALLOWED)
def test_plugins_that_need_no_single_step_do_the_same_with_blocks(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = run_of(4, **ALLOWED[name]), run_of(1, **ALLOWED[name])
    ours.fit()
    theirs.fit()
    assert_same(ours, theirs, 1e-10)
    assert ours.warnings == theirs.warnings


def test_a_learning_rate_that_changes_is_not_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.testing import CompileCounter

    counter: Any = CompileCounter()
    monkeypatch.setattr(block, "_BACKEND", counter)
    run_of(4, "train.epochs=4", **ALLOWED["lr-schedule"]).fit()
    assert counter.frame_count == 1


class SetsMomentum(Quiet):
    """Changes a constant of the compiled code."""

    @hookimpl
    def on_epoch_start(self, run: Run) -> None:
        run.optimizer.param_groups[0]["momentum"] = 0.5 + run.epoch / 10


def test_changed_options_are_a_warning_and_steps_are_taken_one_by_one() -> None:
    tables = {"optimizer": {"use": "sgd", "momentum": 0.9}}
    ours, theirs = (run_of(size, plugins={"callbacks.sets": SetsMomentum()}, **tables) for size in (4, 1))
    ours.fit()
    theirs.fit()
    changed = "the options of the optimizer or its trained parameters have changed"
    assert ours.warnings == [f"{changed}: from step 1 on, steps are taken one by one"]
    assert theirs.warnings == []
    ours.warnings.clear()
    assert_same(ours, theirs, 0.0)


@pytest.mark.parametrize("setting", ["train.batch_size=all", "train.evaluate_every_steps=3", "train.max_steps=3"])
def test_a_block_that_never_fits_is_a_warning(setting: str) -> None:
    run = run_of(4, setting)
    assert run.warnings == [
        f"fuse-steps has size = 4, but there are never more than {1 if 'all' in setting else 3} steps to fuse"
    ]
    assert run.fit().outcome == "completed"


def test_a_ledger_counts_all_steps() -> None:
    ledger = Ledger()
    run = Run(load_config({"train": {"epochs": 1, "evaluate": []}, "callbacks": in_blocks(2)}), observers=[ledger])
    assert run.fit().steps == ledger.num_steps == 100


def test_trials_outside_the_loop_take_single_steps() -> None:
    run = run_of(4)
    assert [step.step for step, _ in zip(run.try_steps(), range(3), strict=False)] == [1, 2, 3]
    assert run.num_ahead == 0
    assert len(lr_find({"callbacks": in_blocks(4)}, num_steps=10).points) == 10


# ---- what is refused -------------------------------------------------------------------------------------------------


class InStep:
    @hookimpl
    def on_step_end(self, run: Run) -> None:
        pass


class OwnStep:
    """Allows fused steps although it implements the step."""

    allows_fused_steps = True

    @hookimpl
    def build_step(self, run: Run) -> Callable[[Any], Tensor]:
        return lambda batch: run.loss(run.model(batch[0]), batch[1]).detach()


class Items(Dataset[Any]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(2), torch.zeros(1)


class FromItems:
    @hookimpl
    def build_data(self) -> DataSource:
        return DataSource(train=Items(), in_features=2, out_features=1)


def collate(items: list[Any]) -> Any:
    return torch.utils.data.default_collate(items)


class Collated:
    @hookimpl
    def build_data(self) -> DataSource:
        dataset = torch.utils.data.TensorDataset(torch.rand(40, 2), torch.rand(40, 1))
        return DataSource(train=dataset, in_features=2, out_features=1, collate=collate)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "micro batches": ({"train": {"micro_batch_size": 2}}, "train.micro_batch_size = 2 splits each batch"),
    "items": ({"plugins": {"data": FromItems()}}, "the training data are not in memory"),
    "collate": ({"plugins": {"data": Collated()}}, "the training data are not in memory"),
    "rmsprop": ({"optimizer": {"use": "rmsprop"}}, "the optimizer RMSprop is not one of torch's SGD, Adam, AdamW"),
    "lbfgs": ({"optimizer": {"use": "lbfgs"}}, "the optimizer LBFGS is not one of torch's SGD, Adam, AdamW"),
    "undeclared": (
        {"plugins": {"callbacks.own": InStep()}},
        "callback 'InStep' .* has 'on_step_end', which may require",
    ),
    "own step": (
        {"plugins": {"callbacks.own": OwnStep()}},
        "callback 'OwnStep' .* has 'build_step', which may require",
    ),
    "clip-gradients": (
        {"callbacks": {"clip-gradients": {"max_norm": 1.0}}},
        r"callback 'clip-gradients' \(hookline 0.1.0\) has 'build_update', which may require single steps",
    ),
    "mixed-precision": (
        {"callbacks": {"mixed-precision": {}}, "train": {"dtype": "float32"}},
        "'mixed-precision' .* has 'build_backward', 'build_update'",
    ),
    "compile": ({"callbacks": {"compile": {"backend": "eager"}}}, "'compile' .* requires single steps"),
    "ema": ({"callbacks": {"averaging": {"method": "ema"}}}, "'averaging' .* requires single steps with these options"),
    "by step": ({"callbacks": {"lr-schedule": {"interval": "step"}}}, "'lr-schedule' .* requires single steps"),
    "warm-up": ({"callbacks": {"lr-schedule": {"warmup_steps": 2}}}, "'lr-schedule' .* requires single steps"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_incompatible_runs_are_refused_when_they_are_built(name: str) -> None:
    tables, words = REFUSED[name]
    with pytest.raises(
        ConfigError, match=r"cannot take its steps in blocks \(callbacks.fuse-steps.size = 4\)"
    ) as caught:
        run_of(4, **tables)
    assert len(caught.value.faults) == 1
    caught.match(words)
    run_of(1, **tables)


def test_all_incompatibilities_are_reported_at_once() -> None:
    tables: Any = {"train": {"micro_batch_size": 2}, "optimizer": "rmsprop", "callbacks": {"averaging": {}}}
    with pytest.raises(ConfigError) as caught:
        run_of(4, **tables, plugins={"callbacks.own": InStep()})
    assert len(caught.value.faults) == 4


def test_an_accelerator_is_refused() -> None:
    run = run_of(4)
    run._loop.parts.device = torch.device("cuda", 0)
    member, _ = run.hook_order("build_reader")[0]
    assert isinstance(member.instance, FuseSteps)
    building = member.instance.build_reader(run)
    next(building)
    with pytest.raises(ConfigError, match="the device is 'cuda:0', but blocks are compiled for the CPU only"):
        building.send(run._loop.parts.reader)


class Masked(nn.Module):
    """Draws random numbers in a function, not in a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs: Tensor) -> Any:
        return self.layer(inputs * (torch.rand_like(inputs) < 0.5 if self.training else 1))


def sequence(layer: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), layer(), nn.Linear(3, 1))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (sequence(nn.Dropout), r"draws random numbers \(first in '1', a Dropout\)"),
        (Masked(), r"draws random numbers \(first in 'model', a Masked\)"),
        (sequence(lambda: nn.BatchNorm1d(3)), r"\(1.running_mean, 1.running_var, 1.num_batches_tracked\)"),
    ],
    ids=["dropout", "function", "batch norm"],
)
def test_models_that_draw_or_count_in_each_step_are_refused(model: nn.Module, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        run_of(4, plugins={"model": model})


def test_layers_that_keep_nothing_are_not_refused() -> None:
    norm, dropout = nn.BatchNorm1d(3, track_running_stats=False), nn.Dropout(0.0)
    model = sequence(lambda: nn.Sequential(norm, dropout, nn.LayerNorm(3)))
    norm.eval()
    run = run_of(4, plugins={"model": model})
    assert not norm.training
    assert run.fit().outcome == "completed"


class Follows:
    @hookimpl
    def on_run_start(self, run: Run) -> None:
        run.optimizer.register_step_post_hook(self.look)

    def look(self, *_: Any) -> None:
        pass


def test_who_follows_the_updates_of_the_optimizer_is_refused_when_the_first_block_is_due() -> None:
    with pytest.raises(ContractError, match=r"Follows.look hooks into gradients or updates, but is not called"):
        run_of(4, plugins={"callbacks.follows": Follows()}).fit()


def test_a_profile_measures_single_steps() -> None:
    with pytest.raises(ConfigError, match=r"measures single steps, but callback 'fuse-steps' \(hookline 0.1.0\) takes"):
        profile({"callbacks": in_blocks(4)})
