"""``CoreHooks``: the hooks of the engine itself, called after those of all plugins: the default training step."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from hookline.engine.errors import ContractError
from hookline.engine.hookspecs import hookimpl
from hookline.engine.loop.batch import count_examples, part_of
from hookline.engine.loop.building import Components
from hookline.engine.loop.memory import MEMORY_ERRORS, check_update
from hookline.engine.view import RunView, StepFunction
from hookline.shortcuts.torch_calls import backward_on, update_of, zero_grad_of


class CoreHooks:
    """The default implementation of the training step and its parts.

    Args:
        parts: The components of the run; those that the step is made of are there when its hooks are called.
        shortcuts: Whether to call torch without the Python around its calls; the numbers are the same.
    """

    def __init__(self, parts: Components, *, shortcuts: bool = True) -> None:
        self._parts = parts
        self._shortcuts = shortcuts

    @hookimpl(trylast=True)
    def build_backward(self, run: RunView) -> Callable[[Tensor], None]:
        """Return ``loss.backward()``."""
        return backward_on(run.device) if self._shortcuts else _backward

    @hookimpl(trylast=True)
    def build_update(self) -> Callable[[], None]:
        """Return ``optimizer.step()``, unless a gradient is not finite."""
        return _Update(self._parts, shortcuts=self._shortcuts)

    @hookimpl(trylast=True)
    def build_step(self, run: RunView) -> StepFunction:
        """Return the step made of the run's model, loss and optimizer."""
        if not _needs_closure(run.optimizer):
            self._parts.micro_batch_size = run.config.train.micro_batch_size
            zero_grad = zero_grad_of(run.optimizer) if self._shortcuts else run.optimizer.zero_grad
            return _whole_step(run, self._parts, zero_grad)
        if not isinstance(run.update, _Update):
            name = type(run.optimizer).__name__
            message = f"{name} updates the weights several times in a step, so build_update cannot be wrapped"
            raise ContractError(message, hint="choose another optimizer, or switch off what wraps it")
        return _closure_step(run)

    @hookimpl(trylast=True)
    def build_reader(self) -> Callable[[int, int], Iterator[Any]]:
        """Return the reader of the training batches."""
        return functools.partial(self._parts.read, "train", self._parts.batches)


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated


class _Update:
    """The update without wrappers: ``optimizer.step()``, unless a gradient is not finite."""

    def __init__(self, parts: Components, *, shortcuts: bool) -> None:
        self._guard = parts.finite_guard
        self._update = self._guard.held(update_of(parts.optimizer) if shortcuts else parts.optimizer.step)

    def __call__(self) -> None:
        if self._guard.accepts_gradients():
            self._update()


def _whole_step(run: RunView, parts: Components, zero_grad: Callable[[], object]) -> StepFunction:
    """Return a step ``(input, target) -> loss``: zero_grad, forward, loss, backward, update.

    It is taken in parts as long as ``micro_batch_size`` says so.
    """
    model, loss, guard, backward, update = run.model, run.loss, run.finite_guard, run.backward, run.update
    step_in_parts = _step_in_parts(run, parts, zero_grad)

    def step(batch: Any) -> Tensor:
        if parts.micro_batch_size:
            return step_in_parts(batch)
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


def _step_in_parts(run: RunView, parts: Components, zero_grad: Callable[[], object]) -> StepFunction:
    """Return a step in which at most ``micro_batch_size`` examples go through the model at once.

    The gradient is that of the whole batch: each part's mean loss counts by its share of the examples.
    """
    model, loss, guard, backward, update = run.model, run.loss, run.finite_guard, run.backward, run.update

    def step(batch: Any) -> Tensor:
        zero_grad()
        num_examples, size = count_examples(batch), cast(int, parts.micro_batch_size)
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


def _closure_step(run: RunView) -> StepFunction:
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
