"""The training step of a run that brings none of its own, and the trial that a first batch goes through before it.

Shapes: ``B`` examples in a batch, ``I`` input features, ``O`` values predicted for an example.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from hookline.engine.errors import ConfigError, ContractError
from hookline.engine.hookspecs import hookimpl
from hookline.engine.loop.batch import count_examples, part_of
from hookline.engine.loop.memory import (
    MEMORY_ERRORS,
    Moment,
    at_once,
    check_update,
    first_line,
    free_memory,
    half,
    is_out_of_memory,
)
from hookline.shortcuts.torch_calls import backward_on, update_of, zero_grad_of

if TYPE_CHECKING:
    from hookline.engine.loop.run import Run


LossFunction = Callable[[Tensor, Tensor], Tensor]
StepFunction = Callable[[Any], Tensor]


class DefaultStep:
    """The core's own implementation of the step and its parts, asked when no plugin has one."""

    @hookimpl(trylast=True)
    def build_backward(self, run: Run) -> Callable[[Tensor], None]:
        """Return ``loss.backward()``."""
        return backward_on(run.device)

    @hookimpl(trylast=True)
    def build_update(self, run: Run) -> Callable[[], None]:
        """Return ``optimizer.step()``, unless a gradient is not finite."""
        return _Update(run)

    @hookimpl(trylast=True)
    def build_step(self, run: Run) -> StepFunction:
        """Return the step that is made of the run's model, loss and optimizer."""
        if _needs_closure(run.optimizer):
            if not isinstance(run.update, _Update):
                name = type(run.optimizer).__name__
                message = f"{name} updates the weights several times in a step, so build_update cannot be wrapped"
                raise ContractError(message, hint="choose another optimizer, or switch off what wraps it")
            check_step_can_halve(run, f"{type(run.optimizer).__name__}, which takes the step by itself")
            return _closure_step(run)
        run.micro_batch_size = run.config.train.micro_batch_size
        return _HalvingStep(run) if run.config.train.out_of_memory == "halve" else _step_of(run)


class _Update:
    """The update that is not wrapped: ``optimizer.step()``, unless a gradient is not finite."""

    def __init__(self, run: Run) -> None:
        self._guard = run.finite_guard
        self._update = run.finite_guard.held(run.optimizer, update_of(run.optimizer))

    def __call__(self) -> None:
        if self._guard.accepts_gradients():
            self._update()


def check_step_can_halve(run: Run, owner: str) -> None:
    """Refuse micro batches that get smaller for a step that has none.

    Raises:
        ConfigError: When they are wanted.
    """
    if run.config.train.out_of_memory == "halve":
        message = f"train.out_of_memory = 'halve' is for the run's own step in parts, and not for {owner}"
        raise ConfigError(message, hint="set train.out_of_memory = 'fail', and a train.batch_size that fits")


def _step_of(run: Run) -> StepFunction:
    return _step_in_parts(run, run.micro_batch_size) if run.micro_batch_size else _whole_step(run)


class _HalvingStep:
    """A step that is taken again in parts of half the size when memory does not suffice for it.

    Before, all that it has changed is as it was. An update is never begun twice: what it changes nobody could undo.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._size = run.micro_batch_size
        self._step = _step_of(run)

    def __call__(self, batch: Any) -> Tensor:
        run = self._run
        if self._size != run.micro_batch_size:  # it was halved, or a state was loaded
            self._size, self._step = run.micro_batch_size, _step_of(run)
        moment = Moment(run.model, run.loss, device=run.device)
        while (loss := self._attempted(batch)) is None:
            moment.restore()
        return loss

    def _attempted(self, batch: Any) -> Tensor | None:
        """Return the loss of a step; None when it is to be taken again in smaller parts."""
        run, size = self._run, at_once(self._run, count_examples(batch))
        try:
            return self._step(batch)
        except MEMORY_ERRORS as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            cause = first_line(error)
        # The error is gone by now, and with it the frames of the failed step, which hold its tensors.
        run.optimizer.zero_grad()
        free_memory(run.device)
        self._size = run.micro_batch_size = half(size)
        self._step = _step_of(run)
        where = (
            f"out of memory in step {run.step + 1} (epoch {run.epoch}) on {run.device}, with {size} examples at once"
        )
        run.warn(f"{where}: {cause}; from this step on train.micro_batch_size is {self._size}")
        return None


def _whole_step(run: Run) -> StepFunction:
    """Return a step ``(input, target) -> loss``: zero_grad, forward, loss, backward, update."""
    model, loss, guard = run.model, run.loss, run.finite_guard
    backward, update, zero_grad = run.backward, run.update, zero_grad_of(run.optimizer)

    def step(batch: Any) -> Tensor:
        inputs, target = batch
        zero_grad()
        value = loss(model(inputs), target)
        if guard.accepts_loss(value, batch):
            backward(value)
            try:
                update()
            except MEMORY_ERRORS as error:
                check_update(error, run)
                raise
        return value.detach()

    return step


def _step_in_parts(run: Run, size: int) -> StepFunction:
    """Return a step in which at most ``size`` examples go through the model at once.

    The gradient is that of the whole batch: each part's mean loss counts by its share of the examples.
    """
    model, loss, guard = run.model, run.loss, run.finite_guard
    backward, update, zero_grad = run.backward, run.update, zero_grad_of(run.optimizer)

    def step(batch: Any) -> Tensor:
        zero_grad()
        num_examples = count_examples(batch)
        values = []
        for start in range(0, num_examples, size):
            inputs, target = part = part_of(batch, start, start + size)
            value = loss(model(inputs), target) * (count_examples(part) / num_examples)
            if not guard.accepts_loss(value, part):
                return value.detach()
            backward(value)
            values.append(value.detach())
        try:
            update()
        except MEMORY_ERRORS as error:
            check_update(error, run)
            raise
        return torch.stack(values).sum()

    return step


def _closure_step(run: Run) -> StepFunction:
    """Return a step for an optimizer whose ``step`` needs a closure (``torch.optim.LBFGS``): it does all the rest."""
    model, loss, optimizer, guard, backward = run.model, run.loss, run.optimizer, run.finite_guard, run.backward

    def step(batch: Any) -> Tensor:
        inputs, target = batch

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss(model(inputs), target)
            if guard.accepts_loss(value, batch):
                backward(value)
            return value

        value: Any = optimizer.step(closure)  # type: ignore[arg-type] # torch says that the closure gives a float
        return cast(Tensor, value).detach()

    return step


def _needs_closure(optimizer: Optimizer) -> bool:
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
