"""When memory does not suffice: what is told, and steps that are taken again in smaller parts."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Generator
from typing import Any, ClassVar, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset, TensorDataset

from hookline import ConfigError, DataSource, NonFiniteError, Run, TrainingError, hookimpl, train
from hookline.engine.loop.memory import is_out_of_memory

CUDA = "CUDA out of memory. Tried to allocate 20.00 MiB."
CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: 4 bytes"
SHORT = {"train": {"epochs": 2, "batch_size": 8, "evaluate": []}, "data": {"num_examples": 20}}
"""3 steps in an epoch, the last with 4 examples."""
HALVE = {"train.out_of_memory": "halve"}


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError(CUDA)


class Statistic(nn.Module):
    """Keeps a running mean in place, as ``BatchNorm1d`` does, but also of a single example."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * inputs.detach().mean(0))
        return inputs - self.mean


class Narrow(nn.Module):
    """A model for which memory suffices for so many examples at once, in steps from ``since`` on."""

    drawn: Tensor

    def __init__(
        self,
        limit: int,
        *,
        since: int = 0,
        is_late: bool = False,
        in_evaluation: bool = False,
        make: Callable[[], Exception] = out_of_memory,
    ) -> None:
        super().__init__()
        # All that a forward pass changes: random numbers, statistics in place, and a buffer that is put anew.
        self.body = nn.Sequential(nn.Linear(2, 4), Statistic(), nn.Dropout(0.25), nn.Linear(4, 1))
        for number, parameter in enumerate(self.parameters(), 1):
            nn.init.constant_(parameter, 0.1 * number)
        self.register_buffer("drawn", torch.zeros(1))
        self.limit, self.since, self.is_late, self.in_evaluation, self.make = limit, since, is_late, in_evaluation, make
        self.run: Run | None = None
        self.sizes: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.body(inputs)
        if not self.training:
            # A first batch is tried with gradients, and evaluations have none.
            if self.in_evaluation and not torch.is_grad_enabled() and len(inputs) > self.limit:
                raise self.make()
            return output
        self.sizes.append(len(inputs))
        self.drawn = self.drawn + torch.rand(1)
        is_now = self.run is None or self.run.step >= self.since
        if is_now and len(inputs) > self.limit:
            if not self.is_late:
                raise self.make()
            output.register_hook(self._fails)  # type: ignore[no-untyped-call] # torch leaves it so
        return output

    def _fails(self, gradient: Tensor) -> None:
        raise self.make()


def narrow_run(model: nn.Module, overrides: Any = (), **plugins: Any) -> Run:
    run = Run(SHORT, overrides, plugins={"model": model, **plugins})
    if isinstance(model, Narrow):
        model.run = run
    return run


def told_by(run: Run) -> TrainingError:
    with pytest.raises(TrainingError) as caught:
        run.fit()
    return caught.value


def state_of(run: Run) -> dict[str, Any]:
    """Everything that a run ends with but what was told on the way."""
    run.model.run = None  # type: ignore[assignment] # a model that knows its run cannot be copied
    return {key: value for key, value in run.state_dict().items() if key != "warnings"}


def is_equal(one: Any, other: Any) -> bool:
    """Whether two states are the same to the last bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_equal, one, other))
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


# ---- what is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(CUDA), True),
        (RuntimeError(CPU), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_known_by_type_or_by_text(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize("is_late", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(
    ("make", "line"),
    [
        (out_of_memory, CUDA),
        (lambda: RuntimeError(f"{CPU}\nframe #0: malloc"), CPU.partition("== 0. ")[2]),
        (MemoryError, "MemoryError"),
    ],
    ids=["accelerator", "cpu", "python"],
)
def test_a_step_for_which_memory_does_not_suffice_says_what_to_set(make: Any, line: str, is_late: bool) -> None:
    error = told_by(narrow_run(Narrow(5, since=1, make=make, is_late=is_late)))
    assert error.message == (
        "out of memory in step 2 (epoch 1) on cpu, with 8 of 8 examples at once (train.micro_batch_size = 0): " + line
    )
    assert error.hint == (
        "set train.micro_batch_size = 4, which gives the same step, or a smaller train.batch_size; with "
        "train.out_of_memory = 'halve' the run does it by itself"
    )
    assert (error.epoch, error.step, error.exit_code) == (1, 1, 1)
    assert is_out_of_memory(error.__cause__ or error)
    assert error.__cause__ is not None
    assert error.__cause__.__traceback__ is not None


def test_the_size_to_set_is_half_of_what_goes_through_the_model_at_once() -> None:
    error = told_by(narrow_run(Narrow(2), {"train.micro_batch_size": 5}))
    assert "with 5 of 8 examples at once (train.micro_batch_size = 5)" in error.message
    assert "set train.micro_batch_size = 3, which gives the same step" in str(error.hint)


def test_one_example_that_is_too_much_cannot_be_divided() -> None:
    error = told_by(narrow_run(Narrow(0), {"train.micro_batch_size": 1}))
    assert error.hint == (
        "one example alone is too much: take a smaller model, smaller examples, or another train.device"
    )


def test_a_batch_of_all_examples_and_one_of_a_stream_are_counted() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([(torch.ones(2), torch.ones(1))] * 8)

    all_at_once = narrow_run(Narrow(5), {"train.batch_size": "all"})
    assert "with 20 of 20 examples at once" in told_by(all_at_once).message
    source = DataSource(Stream(), in_features=2, out_features=1)
    assert "with 8 of 8 examples at once" in told_by(narrow_run(Narrow(5), data=source)).message


def test_an_evaluation_for_which_memory_does_not_suffice_says_what_to_set() -> None:
    model = Narrow(5, in_evaluation=True, since=99)
    error = told_by(narrow_run(model, {"train.evaluate": ["train"], "train.eval_batch_size": 12}))
    assert error.message == (
        "out of memory in the evaluation of the train split after step 3 (epoch 1) on cpu, with 12 examples at once "
        f"(train.eval_batch_size = 12): {CUDA}"
    )
    assert error.hint == "set train.eval_batch_size = 6"
    assert isinstance(error.__cause__, torch.OutOfMemoryError)
    error = told_by(narrow_run(Narrow(5, in_evaluation=True, since=99), {"train.evaluate": ["train"]}))
    assert error.hint == "set train.eval_batch_size = 10"
    settings = {"train.evaluate": ["train"], "train.eval_batch_size": 1}
    error = told_by(narrow_run(Narrow(0, in_evaluation=True, since=99), settings))
    assert "one example alone is too much" in str(error.hint)


class OwnStep:
    @hookimpl
    def build_step(self, run: Run) -> Any:
        def step(batch: Any) -> Tensor:
            raise torch.OutOfMemoryError(CUDA)

        return step


@pytest.mark.parametrize("own", [{"optimizer": "lbfgs"}, {}], ids=["closure", "plugin"])
def test_a_step_that_has_no_parts_is_told_to_take_fewer_examples(own: dict[str, str]) -> None:
    plugins: dict[str, Any] = {} if own else {"callbacks.own": OwnStep()}
    error = told_by(narrow_run(Narrow(5), own, **plugins))
    assert "with 8 examples: CUDA out of memory" in error.message
    assert error.hint == "set train.batch_size = 4"


@pytest.mark.parametrize("way", ["steps", "try_steps"])
def test_it_is_told_the_same_however_the_steps_are_taken(way: str) -> None:
    run = narrow_run(Narrow(5))
    with pytest.raises(TrainingError, match="out of memory in step 1") as caught:
        list(getattr(run, way)())
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_what_a_plugin_raises_in_an_event_keeps_its_type() -> None:
    class Greedy:
        @hookimpl
        def on_step_end(self) -> None:
            raise MemoryError

    with pytest.raises(MemoryError) as caught:
        train(SHORT, plugins={"callbacks.greedy": Greedy()})
    assert "raised in hook 'on_step_end'" in caught.value.__notes__[0]


def other() -> Exception:
    return RuntimeError("a shape")


def test_another_error_of_an_evaluation_keeps_its_type() -> None:
    run = narrow_run(Narrow(5, in_evaluation=True, since=99, make=other), {"train.evaluate": ["train"]})
    with pytest.raises(RuntimeError, match="a shape") as caught:
        run.fit()
    assert type(caught.value) is RuntimeError


def test_another_error_of_a_step_keeps_its_type() -> None:
    for halve in ({}, HALVE):
        with pytest.raises(RuntimeError, match="a shape"):
            narrow_run(Narrow(5, make=other), halve).fit()
        with pytest.raises(RuntimeError, match="a shape"):
            list(narrow_run(Narrow(5, make=other), halve).try_steps())


class FailingUpdate(torch.optim.SGD):
    make: Callable[[], Exception] = staticmethod(out_of_memory)

    def step(self, closure: Any = None) -> Any:
        raise self.make()


@pytest.mark.parametrize("size", [0, 3])
@pytest.mark.parametrize("policy", ["fail", "halve"])
def test_an_update_is_never_begun_twice(policy: str, size: int) -> None:
    model = Narrow(99)
    overrides = {"train.out_of_memory": policy, "train.micro_batch_size": size}
    run = narrow_run(model, overrides, optimizer=FailingUpdate(model.parameters()))
    error = told_by(run)
    assert error.message == (
        f"out of memory in the update of step 1 (epoch 1) on cpu, with the weights perhaps half updated: {CUDA}"
    )
    assert "fewer examples do not help" in str(error.hint)
    assert model.sizes == ([3, 3, 2] if size else [8])
    assert run.warnings == []


@pytest.mark.parametrize("size", [0, 3])
def test_another_error_of_an_update_keeps_its_type(size: int) -> None:
    class Strange(FailingUpdate):
        make = staticmethod(lambda: RuntimeError("a shape"))

    model = Narrow(99)
    run = narrow_run(model, {"train.micro_batch_size": size}, optimizer=Strange(model.parameters()))
    with pytest.raises(RuntimeError, match="a shape") as caught:
        run.fit()
    assert caught.value.__cause__ is None


# ---- the first batches -----------------------------------------------------------------------------------------------


class Counting(nn.Linear):
    """Keeps how many examples it was given in eval mode."""

    def __init__(self, limit: int) -> None:
        super().__init__(2, 1)
        self.limit = limit
        self.sizes: list[int] = []

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        if not self.training:
            self.sizes.append(len(input))
            if len(input) > self.limit:
                raise torch.OutOfMemoryError(CUDA)
        return super().forward(input)


def two_splits() -> DataSource:
    train, validation = (TensorDataset(torch.rand(n, 2), torch.rand(n, 1)) for n in (20, 4))
    return DataSource(train, validation=validation, in_features=2, out_features=1)


def test_a_first_batch_is_tried_in_what_memory_suffices_for() -> None:
    model = Counting(3)
    Run(SHORT, {"train.evaluate": ["validation"]}, plugins={"data": two_splits(), "model": model})
    assert model.sizes == [4, 2, 8, 4, 2]


def test_no_more_of_a_first_batch_is_tried_than_goes_through_the_model_in_a_step() -> None:
    model = Counting(99)
    overrides = {"train.evaluate": ["validation"], "train.micro_batch_size": 3}
    Run(SHORT, overrides, plugins={"data": two_splits(), "model": model})
    assert model.sizes == [4, 3]


@pytest.mark.parametrize("fails", ["model", "loss"])
def test_a_first_example_that_is_too_much_is_told(fails: str) -> None:
    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        raise torch.OutOfMemoryError(CUDA)

    plugins: dict[str, Any] = {"model": Counting(0)} if fails == "model" else {"loss": loss}
    with pytest.raises(
        TrainingError, match="out of memory while one example of the train split of data 'synth"
    ) as caught:
        Run(SHORT, plugins=plugins)
    assert "one example alone is too much" in str(caught.value.hint)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


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
        "this step on train.micro_batch_size is 4"
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
    assert is_equal(state_of(halved), state_of(small))


def test_each_halving_warns_once_and_every_plugin_hears_it() -> None:
    class Listener:
        heard: list[str]

        @hookimpl
        def on_warning(self, message: str) -> None:
            self.heard.append(message)

    listener = Listener()
    listener.heard = []
    model = Narrow(1)
    result = narrow_run(model, HALVE, **{"callbacks.listener": listener}).fit()
    assert [message.rpartition(" ")[2] for message in listener.heard] == ["4", "2", "1"]
    assert result.warnings == tuple(listener.heard)
    assert model.sizes == [8, 4, 2, *[1] * 40]


def test_one_example_that_is_too_much_ends_a_run_that_halves() -> None:
    error = told_by(narrow_run(Narrow(0), HALVE))
    assert "with 1 of 8 examples at once (train.micro_batch_size = 1)" in error.message
    assert "one example alone is too much" in str(error.hint)


def test_a_plugin_that_draws_while_it_hears_a_warning_changes_nothing() -> None:
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
def test_a_run_that_is_taken_up_goes_on_with_the_size_that_was_found(taken: int) -> None:
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


def test_the_size_of_the_config_counts_where_it_is_smaller_or_nothing_is_halved() -> None:
    first = narrow_run(Narrow(3), HALVE)
    first.fit()
    state = state_of(first) | {"warnings": []}
    for overrides, expected in [
        ({**HALVE, "train.micro_batch_size": 1}, 1),
        ({**HALVE, "train.micro_batch_size": 5}, 2),
        ({"train.micro_batch_size": 5}, 5),
        ({}, 0),
    ]:
        run = narrow_run(Narrow(3), overrides)
        run.load_state_dict(state)
        assert run.micro_batch_size == expected


class Token:
    """Stands for what a graph keeps for its backward pass."""


class Keeps(torch.autograd.Function):
    """Gives its input, keeps a token, and fails in the backward pass of more than two examples."""

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


def test_what_a_failed_step_has_kept_is_free_when_it_is_taken_again() -> None:
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

    Keeps.alive.clear()
    gc.disable()  # so that it is the step that frees them
    try:
        narrow_run(Holds(2, 1), {**HALVE, "train.max_steps": 1}).fit()
    finally:
        gc.enable()
    assert counts[:3] == [0, 0, 0]


@pytest.mark.parametrize("part", ["optimizer", "callback"])
def test_halving_is_refused_for_a_step_that_has_no_parts(part: str) -> None:
    plugins: dict[str, Any] = {"callbacks.own": OwnStep()} if part == "callback" else {}
    with pytest.raises(ConfigError, match="= 'halve' is for the run's own step in parts") as caught:
        Run(SHORT, {**HALVE, **({} if plugins else {"optimizer": "lbfgs"})}, plugins=plugins)
    assert "train.batch_size" in str(caught.value.hint)


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_what_is_not_finite_is_found_in_a_step_that_is_taken_again(policy: str) -> None:
    inputs = torch.ones(16, 2)
    inputs[13] = float("nan")
    source = DataSource(TensorDataset(inputs, torch.ones(16, 1)), in_features=2, out_features=1)
    overrides = {**HALVE, "train.non_finite": policy, "train.shuffle": False, "train.epochs": 1}
    run = narrow_run(Narrow(4, since=1), overrides, data=source)
    if policy == "fail":
        with pytest.raises(NonFiniteError, match="the loss is nan in step 2 "):
            run.fit()
    else:
        assert run.fit().warnings[1] == "the loss is nan in step 2 (epoch 1): the step was left out"
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
from hookline import DataSource, Run, TrainingError
from torch import nn
from torch.utils.data import TensorDataset

torch.set_num_threads(1)
data = DataSource(TensorDataset(torch.ones(64, 4), torch.ones(64, 1)), in_features=4, out_features=1)
# An example takes 4 MiB in each of three activations, and as much in gradients.
model = nn.Sequential(nn.Linear(4, 2**20), nn.Tanh(), nn.Tanh(), nn.Linear(2**20, 1))
train = {"epochs": 1, "batch_size": 64, "evaluate": [], "out_of_memory": POLICY}
run = Run({"train": train, "optimizer": {"lr": 1e-9}}, plugins={"data": data, "model": model})
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
def test_a_real_lack_of_memory_is_told_and_halved() -> None:
    told = real_lack("fail")
    assert told.startswith("out of memory in step 1 (epoch 1) on cpu, with 64 of 64 examples at once")
    assert "DefaultCPUAllocator: can't allocate memory" in told
    assert "set train.micro_batch_size = 32" in told
    first, warning = real_lack("halve").splitlines()
    outcome, size, num_warnings = first.split()
    assert (outcome, int(size) * 2 ** int(num_warnings)) == ("completed", 64)
    assert int(num_warnings) >= 1
    assert "DefaultCPUAllocator: can't allocate memory" in warning
