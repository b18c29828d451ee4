"""Out-of-memory errors: their messages, and the parts of a batch that are tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset, TensorDataset

from hookline import DataSource, Run, TrainingError, hookimpl, load_config, train
from hookline.engine.loop.memory import is_out_of_memory
from narrow import CUDA, HALVE, SHORT, Narrow, OwnStep, error_of, narrow_run, out_of_memory

CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: 4 bytes"

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
def test_an_out_of_memory_error_is_recognized_by_type_or_by_text(error: Exception, expected: bool) -> None:
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
def test_a_step_that_runs_out_of_memory_names_the_option_to_set(make: Any, line: str, is_late: bool) -> None:
    error = error_of(narrow_run(Narrow(5, since=1, make=make, is_late=is_late)))
    assert error.message == (
        "out of memory in step 2 (epoch 1) on cpu, with 8 of 8 examples at once (train.micro_batch_size = 0): " + line
    )
    assert error.hint == (
        "set train.micro_batch_size = 4, which gives the same step, or a smaller train.batch_size; a callback can do "
        "it during the run: docs/how-to/fit-into-memory.md"
    )
    assert (error.epoch, error.step, error.exit_code) == (1, 1, 1)
    assert is_out_of_memory(error.__cause__ or error)
    assert error.__cause__ is not None
    assert error.__cause__.__traceback__ is not None


def test_the_size_to_set_is_half_of_the_examples_at_once() -> None:
    error = error_of(narrow_run(Narrow(2), {"train.micro_batch_size": 5}))
    assert "with 5 of 8 examples at once (train.micro_batch_size = 5)" in error.message
    assert "set train.micro_batch_size = 3, which gives the same step" in str(error.hint)


def test_a_single_example_that_is_too_large_cannot_be_divided() -> None:
    error = error_of(narrow_run(Narrow(0), {"train.micro_batch_size": 1}))
    assert error.hint == (
        "a single example is too large: use a smaller model, smaller examples, or another train.device"
    )


def test_a_batch_of_all_examples_and_one_of_a_stream_are_counted() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([(torch.ones(2), torch.ones(1))] * 8)

    all_at_once = narrow_run(Narrow(5), {"train.batch_size": "all"})
    assert "with 20 of 20 examples at once" in error_of(all_at_once).message
    source = DataSource(Stream(), in_features=2, out_features=1)
    assert "with 8 of 8 examples at once" in error_of(narrow_run(Narrow(5), data=source)).message


def test_an_evaluation_that_runs_out_of_memory_names_the_option_to_set() -> None:
    model = Narrow(5, in_evaluation=True, since=99)
    error = error_of(narrow_run(model, {"train.evaluate": ["train"], "train.eval_batch_size": 12}))
    assert error.message == (
        "out of memory in the evaluation of the train split after step 3 (epoch 1) on cpu, with 12 examples at once "
        f"(train.eval_batch_size = 12): {CUDA}"
    )
    assert error.hint == "set train.eval_batch_size = 6"
    assert isinstance(error.__cause__, torch.OutOfMemoryError)
    error = error_of(narrow_run(Narrow(5, in_evaluation=True, since=99), {"train.evaluate": ["train"]}))
    assert error.hint == "set train.eval_batch_size = 10"
    settings = {"train.evaluate": ["train"], "train.eval_batch_size": 1}
    error = error_of(narrow_run(Narrow(0, in_evaluation=True, since=99), settings))
    assert "a single example is too large" in str(error.hint)


@pytest.mark.parametrize("own", [{"optimizer": "lbfgs"}, {}], ids=["closure", "plugin"])
def test_the_hint_for_a_step_without_parts_is_a_smaller_batch(own: dict[str, str]) -> None:
    plugins: dict[str, Any] = {} if own else {"callbacks.own": OwnStep()}
    error = error_of(narrow_run(Narrow(5), own, **plugins))
    assert "with 8 examples: CUDA out of memory" in error.message
    assert error.hint == "set train.batch_size = 4"


@pytest.mark.parametrize("way", ["steps", "try_steps"])
def test_the_error_is_the_same_for_fit_and_steps(way: str) -> None:
    run = narrow_run(Narrow(5))
    with pytest.raises(TrainingError, match="out of memory in step 1") as caught:
        list(getattr(run, way)())
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_an_error_of_a_plugin_in_an_event_keeps_its_type() -> None:
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
def test_an_update_is_never_repeated(policy: str, size: int) -> None:
    model = Narrow(99)
    overrides = {**(HALVE if policy == "halve" else {}), "train.micro_batch_size": size}
    run = narrow_run(model, overrides, optimizer=FailingUpdate(model.parameters()))
    model.sizes.clear()  # the smallest batch was tried
    error = error_of(run)
    assert error.message == (
        f"out of memory in the update of step 1 (epoch 1) on cpu, with the weights perhaps partly updated: {CUDA}"
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
    """Records the number of examples it receives in eval mode."""

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


def test_a_first_batch_is_tried_in_the_size_that_fits_into_memory() -> None:
    model = Counting(3)
    Run(load_config(SHORT, {"train.evaluate": ["validation"]}, plugins={"data": two_splits(), "model": model}))
    assert model.sizes == [4, 2, 8, 4, 2]


def test_a_first_batch_is_tried_in_micro_batch_size() -> None:
    model = Counting(99)
    overrides = {"train.evaluate": ["validation"], "train.micro_batch_size": 3}
    Run(load_config(SHORT, overrides, plugins={"data": two_splits(), "model": model}))
    assert model.sizes == [4, 3]


@pytest.mark.parametrize("fails", ["model", "loss"])
def test_a_first_example_that_is_too_large_is_an_error(fails: str) -> None:
    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        raise torch.OutOfMemoryError(CUDA)

    plugins: dict[str, Any] = {"model": Counting(0)} if fails == "model" else {"loss": loss}
    with pytest.raises(
        TrainingError, match="out of memory while one example of the train split of data 'synth"
    ) as caught:
        Run(load_config(SHORT, plugins=plugins))
    assert "a single example is too large" in str(caught.value.hint)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
