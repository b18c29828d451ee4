"""Out-of-memory errors: where, how many examples, which option to change.

Not every such error has its own type, so some are recognized by their message.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hookline.engine.errors import TrainingError, text_of
from hookline.engine.plugin.hook_call import is_attributed
from hookline.engine.view import RunView

MEMORY_ERRORS = (MemoryError, RuntimeError)
"""Types of out-of-memory errors; ``torch.OutOfMemoryError`` is a ``RuntimeError``."""
_SIGNS = (
    "DefaultCPUAllocator: ",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Messages of a plain ``RuntimeError``: from the allocators of the CPU and of Apple's GPU, CUDA's driver, cuBLAS."""
ONE_TOO_MANY = "a single example is too large: use a smaller model, smaller examples, or another train.device"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is an out-of-memory error.

    >>> is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory.")), is_out_of_memory(RuntimeError("a shape"))
    (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in text_of(error) for sign in _SIGNS)


def half(size: int) -> int:
    """Return half of a number of examples, rounded up.

    >>> half(5), half(1)
    (3, 1)
    """
    return -(-size // 2)


def memory_error_of_step(error: BaseException, run: RunView) -> TrainingError | None:
    """Return the error to raise if the current step ran out of memory; None for any other error.

    An error that a plugin raised in a hook has a note of that, and keeps its type.
    """
    if not run.epoch or is_attributed(error) or not is_out_of_memory(error):
        return None
    num_examples = len(run.batch_indices()) or int(run.config.train.batch_size)
    if run.micro_batch_size is None:
        amount, hint = f"{num_examples} examples", f"set train.batch_size = {half(num_examples)}"
    else:
        size = min(run.micro_batch_size or num_examples, num_examples)
        amount = f"{size} of {num_examples} examples at once (train.micro_batch_size = {run.micro_batch_size})"
        hint = ONE_TOO_MANY
        if size > 1:
            hint = f"set train.micro_batch_size = {half(size)}, which gives the same step, or a smaller "
            hint += "train.batch_size; a callback can do it during the run: docs/how-to/fit-into-memory.md"
    return _memory_error(error, run, f"step {run.step + 1} (epoch {run.epoch})", amount, hint)


@contextmanager
def explaining(run: RunView) -> Iterator[None]:
    """Replace an out-of-memory error of a step by one that names the option to change.

    Raises:
        TrainingError: Instead of an out-of-memory error.
    """
    try:
        yield
    except MEMORY_ERRORS as error:
        if explained := memory_error_of_step(error, run):
            raise explained from error
        raise


def check_update(error: BaseException, run: RunView) -> None:
    """Check whether an update ran out of memory.

    Raises:
        TrainingError: When ``error`` is an out-of-memory error.
    """
    if is_out_of_memory(error):
        hint = (
            "fewer examples do not help, because their memory is free by then: use an optimizer with less state, or a "
            "smaller model"
        )
        place = f"the update of step {run.step + 1} (epoch {run.epoch})"
        raise _memory_error(error, run, place, "the weights perhaps partly updated", hint) from error


@contextmanager
def evaluating(run: RunView, split: str, num_examples: int | None) -> Iterator[None]:
    """Replace an out-of-memory error during an evaluation by one that names the option to change.

    Args:
        run: The run.
        split: The split that is evaluated.
        num_examples: Number of its examples; None for a stream.

    Raises:
        TrainingError: Instead of an out-of-memory error.
    """
    try:
        yield
    except MEMORY_ERRORS as error:
        if not is_out_of_memory(error):
            raise
        limit = run.config.train.eval_batch_size
        size = min(limit, num_examples or limit)
        place = f"the evaluation of the {split} split after step {run.step} (epoch {run.epoch})"
        amount = f"{size} examples at once (train.eval_batch_size = {limit})"
        hint = f"set train.eval_batch_size = {half(size)}" if size > 1 else ONE_TOO_MANY
        raise _memory_error(error, run, place, amount, hint) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message.

    >>> first_line(RuntimeError("[enforce fail at alloc_cpu.cpp:1] err == 0. DefaultCPUAllocator: no memory"))
    'DefaultCPUAllocator: no memory'
    >>> first_line(MemoryError())
    'MemoryError'
    """
    line = (text_of(error).splitlines() or [""])[0]
    return line[max(line.find(_SIGNS[0]), 0) :] or type(error).__name__


def _memory_error(error: BaseException, run: RunView, place: str, amount: str, hint: str) -> TrainingError:
    message = f"out of memory in {place} on {run.device}, with {amount}: {first_line(error)}"
    return TrainingError(message, epoch=run.epoch or None, step=run.step, hint=hint)
