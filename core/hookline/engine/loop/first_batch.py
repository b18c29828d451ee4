"""Checks of the first batch, before any step is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hookline.engine.errors import ContractError, DataError, NonFiniteError, TrainingError
from hookline.engine.loop.batch import brief, count_examples, part_of, tensors_in
from hookline.engine.loop.evaluation import evaluation_mode
from hookline.engine.loop.memory import (
    MEMORY_ERRORS,
    ONE_TOO_MUCH,
    first_line,
    half,
    is_out_of_memory,
)
from hookline.engine.view import LossFunction

if TYPE_CHECKING:
    pass


_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss)
"""torch's losses that compare element by element, and so broadcast silently when the shapes differ."""


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
                message = f"out of memory while one example of {names['data']} is tried: {first_line(error)}"
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


def check_step_result(loss: Any) -> None:
    """Check what a step has returned.

    Raises:
        ContractError: When it is not a detached scalar.
    """
    if not (isinstance(loss, Tensor) and loss.dim() == 0 and loss.is_floating_point() and not loss.requires_grad):
        message = f"the step returned {brief(loss)}, but must return the detached loss, a scalar tensor"
        raise ContractError(message, hint="end the step with: return loss.detach()")


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


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
