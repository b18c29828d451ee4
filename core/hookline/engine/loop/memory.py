"""Out-of-memory errors: where, how many examples, which option to change.

Not every such error has a type of its own, so it is recognized by its message.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hookline.engine.errors import TrainingError
from hookline.engine.view import RunView

MEMORY_ERRORS = (MemoryError, RuntimeError)
"""The types of what is raised when memory does not suffice; ``torch.OutOfMemoryError`` is a ``RuntimeError``."""
_SIGNS = (
    "DefaultCPUAllocator: ",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What a plain ``RuntimeError`` says then: the allocators of the CPU and of Apple's GPU, CUDA's driver, cuBLAS."""
ONE_TOO_MUCH = "one example alone is too much: take a smaller model, smaller examples, or another train.device"
"""What to do when there is nothing to divide."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory does not suffice.

    >>> is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory.")), is_out_of_memory(RuntimeError("a shape"))
    (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def half(size: int) -> int:
    """Return half of a number of examples, so that two parts suffice.

    >>> half(5), half(1)
    (3, 1)
    """
    return -(-size // 2)


def at_once(run: RunView, num_examples: int) -> int:
    """Return how many of a step's examples go through the model at once."""
    return min(run.micro_batch_size or num_examples, num_examples)


def memory_error_of_step(error: BaseException, run: RunView) -> TrainingError | None:
    """Return what to tell when memory does not suffice for the step at work; None when an error says something else.

    What a plugin raises in a hook has a note that says so, and keeps its type.
    """
    is_of_hook = any(note.startswith("raised in hook ") for note in getattr(error, "__notes__", ()))
    if not run.epoch or is_of_hook or not is_out_of_memory(error):
        return None
    num_examples = len(run.batch_indices()) or int(run.config.train.batch_size)
    if run.micro_batch_size is None:
        of, hint = f"{num_examples} examples", f"set {_smaller('batch_size', num_examples)}"
    else:
        size = at_once(run, num_examples)
        of = f"{size} of {num_examples} examples at once (train.micro_batch_size = {run.micro_batch_size})"
        hint = f"set {_smaller('micro_batch_size', size)}, which gives the same step, or a smaller train.batch_size"
        hint += "; a callback can do it during the run: docs/how-to/fit-into-memory.md"
        if size == 1:
            hint = ONE_TOO_MUCH
    where = f"in step {run.step + 1} (epoch {run.epoch})"
    return _told(f"{where} on {run.device}, with {of}", error, run, hint)


def check_update(error: BaseException, run: RunView) -> None:
    """Tell what to do when an update has ended with an ``error`` that says that memory does not suffice.

    Raises:
        TrainingError: When it says that.
    """
    if not is_out_of_memory(error):
        return
    where = f"in the update of step {run.step + 1} (epoch {run.epoch})"
    hint = (
        "fewer examples do not help, since their memory is free by then: choose an optimizer that keeps less beside "
        "the weights, or a smaller model"
    )
    raise _told(f"{where} on {run.device}, with the weights perhaps half updated", error, run, hint) from error


@contextmanager
def evaluating(run: RunView, split: str, num_examples: int | None) -> Iterator[None]:
    """Tell what to set when memory does not suffice for an evaluation.

    Args:
        run: The run that is evaluated.
        split: What is evaluated.
        num_examples: How many examples that has; None for a stream.

    Raises:
        TrainingError: In the place of an error that says that memory does not suffice.
    """
    try:
        yield
    except MEMORY_ERRORS as error:
        if not is_out_of_memory(error):
            raise
        limit = run.config.train.eval_batch_size
        size = min(limit, num_examples or limit)
        where = f"in the evaluation of the {split} split after step {run.step} (epoch {run.epoch})"
        of = f"{size} examples at once (train.eval_batch_size = {limit})"
        hint = f"set {_smaller('eval_batch_size', size)}" if size > 1 else ONE_TOO_MUCH
        raise _told(f"{where} on {run.device}, with {of}", error, run, hint) from error


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line.

    >>> first_line(RuntimeError("[enforce fail at alloc_cpu.cpp:1] err == 0. DefaultCPUAllocator: no memory"))
    'DefaultCPUAllocator: no memory'
    >>> first_line(MemoryError())
    'MemoryError'
    """
    line = (str(error).splitlines() or [""])[0]
    return line[max(line.find(_SIGNS[0]), 0) :] or type(error).__name__


def _smaller(option: str, size: int) -> str:
    return f"train.{option} = {half(size)}"


def _told(where: str, error: BaseException, run: RunView, hint: str) -> TrainingError:
    return TrainingError(
        f"out of memory {where}: {first_line(error)}", epoch=run.epoch or None, step=run.step, hint=hint
    )
