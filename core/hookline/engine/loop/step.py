"""``CoreHooks``: the default training step, as hooks that are called after those of all plugins."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from hookline.engine.hookspecs import hookimpl
from hookline.engine.loop.components import Components
from hookline.engine.loop.evaluation import usual_evaluation
from hookline.engine.loop.memory import MEMORY_ERRORS, check_update
from hookline.engine.loop.weighted_mean import counted
from hookline.engine.reading.batch import count_examples, part_of
from hookline.engine.view import Evaluation, RunView, StepFunction
from hookline.shortcuts.torch_calls import backward_on, update_of, zero_grad_of


class CoreHooks:
    """The default implementation of the training step, of its parts and of the reader of its batches.

    Args:
        parts: The components of the run; the hooks use those built before.
        shortcuts: Whether to call torch without the Python code around it; the numbers are the same.
    """

    def __init__(self, parts: Components, *, shortcuts: bool = True) -> None:
        self._parts = parts
        self._shortcuts = shortcuts

    @hookimpl(trylast=True)
    def build_evaluation(self) -> Evaluation:
        """Return the evaluation of a model that predicts targets."""
        return usual_evaluation(self._parts.forward)

    @hookimpl(trylast=True)
    def build_backward(self, run: RunView) -> Callable[[Tensor], None]:
        """Return ``loss.backward()``."""
        return backward_on(run.device) if self._shortcuts else _backward

    @hookimpl(trylast=True)
    def build_update(self) -> Callable[[], None]:
        """Return ``optimizer.step()``, unless a gradient is not finite."""
        optimizer, guard = self._parts.optimizer, self._parts.finite_guard
        update = guard.held(update_of(optimizer) if self._shortcuts else optimizer.step)

        def guarded_update() -> None:
            if guard.accepts_gradients():
                update()

        return guarded_update

    @hookimpl(trylast=True)
    def build_step(self, run: RunView) -> StepFunction:
        """Return the step for the model, loss and optimizer of the run."""
        self._parts.micro_batch_size = run.config.train.micro_batch_size
        zero_grad = zero_grad_of(run.optimizer) if self._shortcuts else run.optimizer.zero_grad
        return _default_step(run, self._parts, zero_grad)

    @hookimpl(trylast=True)
    def build_reader(self) -> Callable[[int, int], Iterator[Any]]:
        """Return the reader of the training batches."""
        parts = self._parts
        reader = functools.partial(parts.read, "train", parts.batches, parts.share)
        first = functools.partial(parts.read.first, "train", parts.batches)
        return parts.share.counting(reader, parts.weigh, first) if parts.share else reader


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated


def _default_step(run: RunView, parts: Components, zero_grad: Callable[[], object]) -> StepFunction:
    """Return a step ``(input, target) -> loss``: zero_grad, forward, loss, backward, update.

    With a ``micro_batch_size``, at most that many examples pass through the model at once.
    """
    model, guard, backward, update = run.model, run.finite_guard, run.backward, run.update
    forward = parts.forward.with_loss(loss := counted(run.loss), model)

    def step(batch: Any) -> Tensor:
        zero_grad()
        if parts.micro_batch_size:
            value, is_accepted = in_parts(batch, parts.micro_batch_size)
        else:
            if forward.is_plain:  # the same without its calls
                inputs, target = batch
                value = loss(model(inputs), target)
            else:
                value = forward.loss_of(batch)
            if is_accepted := guard.accepts_loss(value, batch):
                backward(value)
        if is_accepted:
            try:
                update()
            except MEMORY_ERRORS as error:
                check_update(error, run)
                raise
        return value.detach()

    def in_parts(batch: Any, size: int) -> tuple[Tensor, bool]:
        """Compute the gradients of a batch in parts; return its loss, and whether to continue with it.

        The gradient is that of the whole batch: the loss of each part is multiplied by its share of the weight.
        """
        values, total, num_examples = [], parts.weigh(batch), count_examples(batch)
        total = total + (total == 0)  # 0 / 1 is 0, and nothing waits for the device
        for start in range(0, num_examples, size):
            part = part_of(batch, start, start + size)
            with nullcontext() if start + size >= num_examples else parts.parallel.accumulating():
                value = forward.loss_of(part) * (parts.weigh(part) / total)
                if not guard.accepts_loss(value, part):
                    return value, False
                backward(value)
            values.append(value.detach())
        return torch.stack(values).sum(), True

    return step
