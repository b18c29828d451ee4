"""Callback ``halve-micro-batches``: steps that run out of memory are repeated with smaller micro-batches."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Generator
from typing import Any, ClassVar, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hookline import ConfigError, DataSource, NonFiniteError, Run, hookimpl, load_config
from narrow import CUDA, HALVE, SHORT, Narrow, OwnStep, error_of, is_equal, narrow_run, state_of

# ---- halving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_late", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("since", [0, 1, 4])
def test_a_halved_run_is_to_the_last_bit_one_with_that_size_from_that_step_on(since: int, is_late: bool) -> None:
    model = Narrow(3, since=since, is_late=is_late)
    halved = narrow_run(model, HALVE)
    result = halved.fit()
    assert [len(halved.warnings), halved.micro_batch_size] == [2, 2]
    assert result.warnings[0] == (
        f"out of memory in step {since + 1} (epoch {1 + since // 3}) on cpu, with 8 examples at once: {CUDA}; from "
        "this step on, train.micro_batch_size is 4"
    )
    assert "with 4 examples at once" in result.warnings[1]
    told = narrow_run(Narrow(99), HALVE)
    steps = told.steps()
    for _ in range(since):
        next(steps)
    told.micro_batch_size = 2
    list(steps)
    assert is_equal(state_of(halved), state_of(told))


def test_a_run_that_halves_in_its_first_step_is_one_with_that_size_from_the_beginning() -> None:
    halved, small = narrow_run(Narrow(4), HALVE), narrow_run(Narrow(99), {"train.micro_batch_size": 4})
    halved.fit()
    small.fit()
    ended = [
        {**state_of(run), "plugins": None} for run in (halved, small)
    ]  # only one of them has the size in its state
    assert is_equal(*ended)


def test_each_halving_is_one_warning_to_every_plugin() -> None:
    class Listener:
        heard: list[str]

        @hookimpl
        def on_warning(self, message: str) -> None:
            self.heard.append(message)

    listener = Listener()
    listener.heard = []
    model = Narrow(1)
    run = narrow_run(model, HALVE, **{"callbacks.listener": listener})
    model.sizes.clear()  # the smallest batch was tried
    result = run.fit()
    assert [message.rpartition(" ")[2] for message in listener.heard] == ["4", "2", "1"]
    assert result.warnings == tuple(listener.heard)
    assert model.sizes == [8, 4, 2, *[1] * 40]


def test_a_single_example_that_is_too_large_ends_a_run_that_halves() -> None:
    error = error_of(narrow_run(Narrow(0), HALVE))
    assert "with 1 of 8 examples at once (train.micro_batch_size = 1)" in error.message
    assert "a single example is too large" in str(error.hint)


def test_a_plugin_that_draws_in_a_warning_changes_nothing() -> None:
    class Draws:
        @hookimpl
        def on_warning(self) -> None:
            torch.rand(7)

    drawn, plain = narrow_run(Narrow(3), HALVE, **{"callbacks.draws": Draws()}), narrow_run(Narrow(3), HALVE)
    drawn.fit()
    plain.fit()
    ended = [{**state_of(run), "plugins": None} for run in (drawn, plain)]
    assert is_equal(*ended)


@pytest.mark.parametrize("taken", [1, 2, 4])
def test_a_resumed_run_continues_with_the_size_found(taken: int) -> None:
    whole = narrow_run(Narrow(3, since=1), HALVE)
    whole.fit()
    first = narrow_run(Narrow(3, since=1), HALVE)
    steps = first.steps()
    for _ in range(taken):
        next(steps)
    model = first.model
    state = state_of(first) | {"warnings": first.warnings}
    model.run = first  # type: ignore[assignment] # as before
    steps.close()  # type: ignore[attr-defined] # a generator
    second = narrow_run(Narrow(3, since=1), HALVE)
    second.load_state_dict(state)
    second.fit()
    assert second.warnings == whole.warnings
    assert is_equal(state_of(second), state_of(whole))


def test_a_changed_size_of_the_config_counts_and_a_halved_one_is_kept() -> None:
    first = narrow_run(Narrow(3), HALVE)
    first.fit()
    state = state_of(first) | {"warnings": []}
    cases: list[tuple[dict[str, Any], int]] = [
        ({**HALVE, "train.micro_batch_size": 1}, 1),
        ({**HALVE, "train.micro_batch_size": 5}, 5),
        (HALVE, 2),
        ({"train.micro_batch_size": 5}, 5),
        ({}, 0),
    ]
    for overrides, expected in cases:
        run = narrow_run(Narrow(3), overrides)
        mine = state if "callbacks.halve-micro-batches.use" in overrides else {**state, "plugins": {}}
        run.load_state_dict(mine)
        list(run.steps())  # the states of plugins are loaded when they are started
        assert run.micro_batch_size == expected


class Token:
    """Stands for the tensors that a graph saves for its backward pass."""


class Keeps(torch.autograd.Function):
    """Returns its input, saves a token, and fails in the backward pass of more than two examples."""

    alive: ClassVar[list[weakref.ref[Token]]] = []

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.token = Token()
        Keeps.alive.append(weakref.ref(ctx.token))
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        if len(gradients[0]) > 2:
            raise torch.OutOfMemoryError(CUDA)
        return gradients[0]


def test_memory_of_a_failed_step_is_free_when_it_is_repeated() -> None:
    counts: list[int] = []

    class Holds(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
            output = super().forward(input)
            if not self.training:
                return output
            counts.append(sum(ref() is not None for ref in Keeps.alive))
            output = cast(Tensor, Keeps.apply(output))  # type: ignore[no-untyped-call] # torch leaves it so
            circle: list[Any] = [output]
            circle.append(circle)
            return output

    run = narrow_run(Holds(2, 1), {**HALVE, "train.max_steps": 1})
    Keeps.alive.clear()  # the smallest batch was tried
    counts.clear()
    gc.disable()  # so that the callback frees them
    try:
        run.fit()
    finally:
        gc.enable()
    assert counts[:3] == [0, 0, 0]


@pytest.mark.parametrize("part", ["optimizer", "callback"])
def test_halving_is_refused_for_a_step_that_has_no_parts(part: str) -> None:
    plugins: dict[str, Any] = {"callbacks.own": OwnStep()} if part == "callback" else {}
    with pytest.raises(ConfigError, match="halve-micro-batches requires a step that splits batches") as caught:
        Run(load_config(SHORT, {**HALVE, **({} if plugins else {"optimizer": "lbfgs"})}, plugins=plugins))
    assert "train.batch_size" in str(caught.value.hint)


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_non_finite_values_are_found_in_a_repeated_step(policy: str) -> None:
    inputs = torch.ones(16, 2)
    inputs[13] = float("nan")
    source = DataSource(TensorDataset(inputs, torch.ones(16, 1)), in_features=2, out_features=1)
    overrides = {**HALVE, "train.non_finite": policy, "train.shuffle": False, "train.epochs": 1}
    run = narrow_run(Narrow(4, since=1), overrides, data=source)
    if policy == "fail":
        with pytest.raises(NonFiniteError, match="the loss is nan in step 2 "):
            run.fit()
    else:
        assert run.fit().warnings[1] == "the loss is nan in step 2 (epoch 1): the step was skipped"
    assert len(run.warnings) == (1 if policy == "fail" else 2)
    assert run.step == (1 if policy == "fail" else 2)


def test_a_failed_step_calls_no_wrapper_of_the_update() -> None:
    calls: list[int] = []

    class Counts:
        @hookimpl(wrapper=True)
        def build_update(self, run: Run) -> Generator[None, Any, Any]:
            update = yield

            def counted() -> None:
                calls.append(run.step)
                update()

            return counted

    narrow_run(Narrow(3), HALVE, **{"callbacks.counts": Counts()}).fit()
    assert calls == [0, 1, 2, 3, 4, 5]


# ---- a real lack of memory -------------------------------------------------------------------------------------------

REAL = """
import resource
import torch
from hookline import DataSource, Run, TrainingError, load_config
from torch import nn
from torch.utils.data import TensorDataset

torch.set_num_threads(1)
data = DataSource(TensorDataset(torch.ones(64, 4), torch.ones(64, 1)), in_features=4, out_features=1)
# An example takes 4 MiB in each of three activations, and as much in gradients.
model = nn.Sequential(nn.Linear(4, 2**20), nn.Tanh(), nn.Tanh(), nn.Linear(2**20, 1))
train = {"epochs": 1, "batch_size": 64, "evaluate": []}
callbacks = {"halve-micro-batches": {}} if POLICY == "halve" else {}
values = {"train": train, "callbacks": callbacks, "optimizer": {"lr": 1e-9}}
run = Run(load_config(values, plugins={"data": data, "model": model}))
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 400 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    result = run.fit()
except TrainingError as error:
    print(error)
else:
    print(result.outcome, run.micro_batch_size, len(result.warnings))
    print(result.warnings[0])
"""


def real_lack(policy: str) -> str:
    code = textwrap.dedent(REAL).replace("POLICY", repr(policy))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of the address space is Linux's")
def test_a_real_lack_of_memory_is_reported_and_halved() -> None:
    told = real_lack("fail")
    assert told.startswith("out of memory in step 1 (epoch 1) on cpu, with 64 of 64 examples at once")
    assert "DefaultCPUAllocator: can't allocate memory" in told
    assert "set train.micro_batch_size = 32" in told
    first, warning = real_lack("halve").splitlines()
    outcome, size, num_warnings = first.split()
    assert (outcome, int(size) * 2 ** int(num_warnings)) == ("completed", 64)
    assert int(num_warnings) >= 1
    assert "DefaultCPUAllocator: can't allocate memory" in warning
