"""The training step of a run that brings none of its own, and the trial that a first batch goes through before it.

Shapes: ``B`` examples in a batch, ``I`` input features, ``O`` values predicted for an example.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hookline.batches import count_examples, part_of, tensors_in
from hookline.direct import backward_on, update_of, zero_grad_of
from hookline.errors import ConfigError, ContractError, DataError, NonFiniteError, TrainingError
from hookline.hookspecs import hookimpl
from hookline.memory import (
    MEMORY_ERRORS,
    ONE_TOO_MUCH,
    Moment,
    at_once,
    check_update,
    free_memory,
    half,
    is_out_of_memory,
    said,
)

if TYPE_CHECKING:
    from hookline.run import Run

LossFunction = Callable[[Tensor, Tensor], Tensor]
StepFunction = Callable[[Any], Tensor]

_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss)
"""torch's losses that compare element by element, and so broadcast silently when the shapes differ."""


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
            cause = said(error)
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


def try_what_fits(
    batch: Any, model: nn.Module, loss: LossFunction, names: Mapping[str, str], num_examples: int = 0
) -> None:
    """Try a batch, or as much of it as memory suffices for: how much the run needs, it finds out by itself.

    Args:
        batch: The first batch; None if there is none.
        model: The model.
        loss: The loss.
        names: What ``data``, ``model`` and ``loss`` are called in messages.
        num_examples: How many examples may go through the model at once; 0: all.

    Raises:
        TrainingError: When memory does not suffice for one example.
        HooklineError: As ``try_batch`` does.
    """
    size = min(num_examples or count_examples(batch), count_examples(batch))
    while True:
        try:
            return try_batch(batch, model, loss, names, size)
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                message = f"out of memory while one example of {names['data']} is tried: {said(error)}"
                raise TrainingError(message, hint=ONE_TOO_MUCH) from error
        size = half(size)


def try_batch(
    batch: Any, model: nn.Module, loss: LossFunction, names: Mapping[str, str], num_examples: int | None = None
) -> None:
    """Put one batch through model and loss, in eval mode and without an update, and check what comes out.

    Args:
        batch: The first batch; None if there is none.
        model: The model.
        loss: The loss.
        names: What ``data``, ``model`` and ``loss`` are called in messages.
        num_examples: How many examples of it go through the model; default: all.

    Raises:
        DataError: When the batch is no pair of tensors, or not finite.
        ContractError: When model or loss fail on it, shapes do not fit, or the loss is no differentiable scalar.
        NonFiniteError: When the first loss is not finite.
    """
    inputs, target = part_of(_pair(batch, names["data"]), 0, num_examples)
    loss_name = names["loss"]
    with evaluation_mode(model):
        prediction = _forward(model, inputs, names["model"])
        if isinstance(loss, _ELEMENTWISE) and prediction.shape != target.shape:
            raise _shape_error(prediction, target, loss_name)
        value = _loss_value(loss, prediction, target, loss_name)
    if not prediction.requires_grad:
        raise ContractError(f"{names['model']} has nothing to train: no parameter requires a gradient")
    if not (isinstance(value, Tensor) and value.dim() == 0 and value.is_floating_point() and value.requires_grad):
        expected = "a scalar tensor of a floating dtype that depends on the prediction"
        raise ContractError(f"{loss_name} returned {brief(value)}, but must return {expected}")
    if _is_broadcast(prediction, target, loss):
        raise _shape_error(prediction, target, loss_name)
    if not torch.isfinite(value):
        hint = "look at the scale of the inputs and at the model's initial weights"
        raise NonFiniteError(f"the loss of the first batch is {value.item()}, before any step", hint=hint)


def check_parameters(optimizer: Optimizer, model: nn.Module, loss: LossFunction, optimizer_name: str) -> None:
    """Check that an optimizer has the parameters of the model that are to be trained, and no strange ones.

    Raises:
        ContractError: When it has parameters of neither model nor loss, or lacks some of the model's.
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    named = dict(model.named_parameters())
    of_loss = loss.parameters() if isinstance(loss, nn.Module) else ()
    if strange := held - {id(parameter) for parameter in (*named.values(), *of_loss)}:
        hint = "make it over model.parameters(), of the model that the hook is given"
        raise ContractError(f"{optimizer_name} has {len(strange)} parameters of another model", hint=hint)
    if missing := [name for name, parameter in named.items() if parameter.requires_grad and id(parameter) not in held]:
        hint = "give it all of model.parameters(), or freeze the others with requires_grad_(False)"
        raise ContractError(f"{optimizer_name} lacks parameters of the model: {', '.join(missing)}", hint=hint)


class evaluation_mode:  # noqa: N801 - a context manager, named like torch.no_grad
    """Put a model and its parts into eval mode; afterwards each part is in the mode that it was in."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._training = [module for module in model.modules() if module.training]

    def __enter__(self) -> None:
        self._model.eval()

    def __exit__(self, *exception: object) -> None:
        for module in self._training:
            module.training = True


def _needs_closure(optimizer: Optimizer) -> bool:
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _pair(batch: Any, data_name: str) -> tuple[Any, Tensor]:
    if batch is None:
        raise DataError(f"{data_name} gives no batch at all", hint="give it at least one example")
    is_pair = isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], Tensor)
    if not (is_pair and isinstance(batch[0], Tensor | dict | tuple | list)):
        hint = "other batches need a plugin with a build_step of its own, and train.evaluate = []"
        raise DataError(f"{data_name} gives {brief(batch)}, but must give pairs (input, target) of tensors", hint=hint)
    for name, tensor in [("input", tensor) for tensor in tensors_in(batch[0])] + [("target", batch[1])]:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            hint = "remove or replace the values that are NaN or infinite"
            raise DataError(f"{data_name} gives a first batch whose {name} is not finite", hint=hint)
    return batch[0], batch[1]


def _forward(model: nn.Module, inputs: Any, model_name: str) -> Tensor:
    try:
        prediction = model(inputs)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        message = f"{model_name} fails on the first batch, {brief(inputs)}: {_first_line(error)}"
        raise ContractError(message, hint="make its sizes and dtypes those of the data") from error
    if not isinstance(prediction, Tensor):
        raise ContractError(f"{model_name} returned {brief(prediction)}, but must return a tensor [B, O]")
    return prediction


def _shape_error(prediction: Tensor, target: Tensor, loss_name: str) -> ContractError:
    return ContractError(
        f"{loss_name} compares element by element, but the prediction is {brief(prediction)} and the target is "
        f"{brief(target)}: they would be broadcast, and the wrong thing fitted",
        hint="give both the same shape, usually [B, 1] or [B, O]; for class indices use cross-entropy",
    )


def _is_broadcast(prediction: Tensor, target: Tensor, loss: LossFunction) -> bool:
    """Whether a loss compares each prediction with every target, as it does with ``[B, 1]`` against ``[B]``.

    Such a loss is the same whatever target belongs to which prediction. Losses that bring the two into one shape
    themselves are not.
    """
    try:
        together, _ = torch.broadcast_tensors(prediction, target)  # type: ignore[no-untyped-call] # torch leaves it so
    except RuntimeError:
        return False
    if not target.is_floating_point() or together.numel() <= max(prediction.numel(), target.numel()):
        return False
    is_telling = prediction.min() < prediction.max() and target.min() < target.max()
    first, rolled = loss(prediction, target), loss(prediction, target.roll(1, 0))
    return bool(is_telling and torch.isclose(first, rolled, rtol=1e-6, atol=0))


def _loss_value(loss: LossFunction, prediction: Tensor, target: Tensor, loss_name: str) -> Any:
    try:
        return loss(prediction, target)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        message = f"{loss_name} fails on prediction {brief(prediction)} and target {brief(target)}"
        hint = "choose a loss for this kind of target, or a data source that gives the target this loss takes"
        raise ContractError(f"{message}: {_first_line(error)}", hint=hint) from error


def brief(value: Any) -> str:
    """Return what a value is, for a message: shape and dtype of a tensor, the type of anything else."""
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}: " + ", ".join(map(brief, value[:3]))
    return "nothing" if value is None else f"a {type(value).__name__}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
