"""The trial of a first batch: it passes through model and loss before there is an optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from hookline import ContractError, DataError, NonFiniteError, TrainingError
from hookline.engine import (
    brief,
    count_examples,
    error_text,
    evaluation_mode,
    first_line,
    is_out_of_memory,
    part_of,
    tensors_in,
    weight_of,
)

if TYPE_CHECKING:
    from hookline import RunView
    from hookline.engine import Trial

    LossFunction = Callable[[Tensor, Tensor], Tensor]

Namer = Callable[[str, BaseException | None], str]
"""Returns the plugin of a kind, ``data`` or ``model or loss``, or else that at fault for an error."""

_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss)
"""Losses of torch that compare element by element, and broadcast silently if the shapes differ."""
_MEANT = 32
"""Number of examples whose losses are compared with their mean."""
_ONE_TOO_MANY = "a single example is too large: use a smaller model, smaller examples, or another train.device"


def try_first_batches(run: RunView, trial: Trial) -> None:
    """Pass the first batch of each split through model, loss and metrics.

    A training batch is cut to ``train.micro_batch_size``. If a smaller one will come, its size is tried in training
    mode, too.

    Raises:
        HooklineError: As ``try_what_fits`` does.
        Exception: Any error of a metric.
    """
    options = run.config.train
    with trial.attributing():
        for split, num_examples in trial.num_examples.items():
            sizes: tuple[int, ...] = ()
            if split == trial.trained:
                limit = options.micro_batch_size
                sizes = limit, smallest_batch(num_examples, options.batch_size, limit)
            batch = trial.first(split)
            fitting = try_what_fits(batch, run.model, run.loss, namer(run, trial, split), *sizes)
            if f"{split}/loss" in run.metric_names:
                trial.measure(split, fitting)


def smallest_batch(num_examples: int | None, batch_size: int | Literal["all"], limit: int = 0) -> int:
    """Return the smallest number of examples that pass through a model at once.

    Args:
        num_examples: Number of examples in an epoch; None for a stream, whose last batch is unknown.
        batch_size: Number of examples in a batch.
        limit: Number of examples in a part of a batch; 0: no parts.

    >>> smallest_batch(11, 4, limit=3)
    1
    """
    most = num_examples or 2**53
    size = most if batch_size == "all" else min(batch_size, most)
    sizes = [size, (num_examples or 0) % size or size]
    return min(size % limit or limit if limit else size for size in sizes)


def namer(run: RunView, trial: Trial, split: str) -> Namer:
    """Return the names for messages about the first batch of a split."""

    def name(kind: str, error: BaseException | None) -> str:
        maker = trial.maker_of(error) if error else None
        owners = {member.table: member.plugin for member in run.members}
        named = str(maker[0]) if maker else " or ".join(str(owners[each]) for each in kind.split(" or "))
        return f"the {split} split of {named}" if kind == "data" else named

    return name


def try_what_fits(
    batch: Any, model: nn.Module, loss: LossFunction, name: Namer, num_examples: int = 0, smallest: int = 2**53
) -> Any:
    """Try a batch, or the part of it that fits into memory, and return it; a step that does not fit has its own error.

    Args:
        batch: The first batch.
        model: The model.
        loss: The loss.
        name: Returns a name for messages.
        num_examples: Number of examples that may pass through the model at once; 0: all.
        smallest: Smallest number of examples that will come, to try in training mode if it is smaller.

    Raises:
        TrainingError: When memory runs out for a single example.
        HooklineError: As ``try_batch`` does.
    """
    size = min(num_examples or count_examples(batch), count_examples(batch))
    while True:
        try:
            try_batch(batch, model, loss, name, size)
            if smallest < size:
                try_training(batch, model, loss, name, smallest)
            return part_of(batch, 0, size)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                message = f"out of memory while one example of {name('data', None)} is tried: {first_line(error)}"
                raise TrainingError(message, hint=_ONE_TOO_MANY) from error
        size = -(-size // 2)


def try_batch(batch: Any, model: nn.Module, loss: LossFunction, name: Namer, num_examples: int | None = None) -> None:
    """Pass one batch through model and loss, in eval mode and without an update, and check the results.

    Args:
        batch: The first batch.
        model: The model.
        loss: The loss.
        name: Returns a name for messages.
        num_examples: Number of its examples to use; default: all.

    Raises:
        DataError: When the batch is not a pair of tensors, or not finite.
        ContractError: When model or loss fails, shapes do not match, or the loss is not a differentiable scalar.
        NonFiniteError: When the first loss is not finite.
    """
    model_name, loss_name, data_name = name("model", None), name("loss", None), name("data", None)
    inputs, target = part_of(_pair(batch, data_name), 0, num_examples)
    is_part = len(target) < count_examples(batch[1])
    with evaluation_mode(model, loss):
        hint = "match its sizes and dtypes to the data"
        with _described(name, "model", f"fails on the first batch of {data_name}, {brief(inputs)}", hint):
            prediction = model(inputs)
        if not isinstance(prediction, Tensor):
            raise ContractError(f"{model_name} returned {brief(prediction)}, but must return a tensor [B, O]")
        if isinstance(loss, _ELEMENTWISE) and prediction.shape != target.shape:
            raise _shape_error(prediction, target, loss_name)
        hint = "use a loss for this type of target, or a data source with targets that this loss accepts"
        given = f"prediction {brief(prediction)} and target {brief(target)} of the first batch of {data_name}"
        with _described(name, "loss", f"fails on {given}", hint):
            value: Any = loss(prediction, target)
        if not prediction.requires_grad:
            if any(parameter.requires_grad for parameter in model.parameters()):
                hint = "remove detach(), torch.no_grad() and conversions to NumPy from its forward"
                raise ContractError(
                    f"{model_name} returned a prediction that is detached from its parameters", hint=hint
                )
            raise ContractError(f"{model_name} has nothing to train: no parameter requires a gradient")
        if not (isinstance(value, Tensor) and value.dim() == 0 and value.is_floating_point() and value.requires_grad):
            expected = "a scalar tensor of a floating dtype that depends on the prediction"
            raise ContractError(f"{loss_name} returned {brief(value)}, but must return {expected}")
        if not _uses(prediction, lambda p: loss(p, target), value):
            message = f"{loss_name} does not depend on the prediction {brief(prediction)}: it is {value.item():g}"
            hint = "compute the loss from it; cross-entropy needs an output for each class"
            raise ContractError(f"{message} for any", hint=hint)
        weigh = weight_of(loss) or count_examples
        if not torch.isfinite(value) and weigh(target):
            hint = "check the scale of the inputs and the initial weights of the model"
            raise NonFiniteError(
                f"the loss of the first batch of {data_name} is {value.item()}, before any step", hint=hint
            )
        is_declared_none = getattr(loss, "batch_weight", loss) is None
        if prediction.shape[:1] == target.shape[:1] != () and (is_part or not is_declared_none):
            _check_mean(loss, name, prediction.detach()[:_MEANT], target[:_MEANT], weigh)


def try_training(batch: Any, model: nn.Module, loss: LossFunction, name: Namer, num_examples: int) -> None:
    """Pass the first examples of a batch through model and loss as they are, in training mode; keep their buffers.

    Raises:
        ContractError: When model or loss fails.
    """
    inputs, target = part_of(batch, 0, num_examples)
    smallest = f"{num_examples} example{'s' * (num_examples > 1)}, the smallest batch of {name('data', None)}"
    hint = "set train.drop_last = true to leave out a smaller last batch, or change train.batch_size"
    with (
        torch.random.fork_rng(devices=[]),
        _described(name, "model or loss", f"fails in training mode on {smallest}", hint),
    ):
        _on_copies(loss, _on_copies(model, inputs), target)


def _pair(batch: Any, data_name: str) -> tuple[Any, Tensor]:
    is_pair = isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], Tensor)
    if not (is_pair and isinstance(batch[0], Tensor | dict | tuple | list)):
        hint = "other batches require a plugin that implements build_step, and train.evaluate = []"
        raise DataError(
            f"{data_name} yields {brief(batch)}, but must yield pairs (input, target) of tensors", hint=hint
        )
    for name, tensor in [("input", tensor) for tensor in tensors_in(batch[0])] + [("target", batch[1])]:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            hint = "remove or replace the values that are NaN or infinite"
            raise DataError(f"the first batch of {data_name} has a non-finite {name}", hint=hint)
    return batch[0], batch[1]


@contextmanager
def _described(name: Namer, kind: str, what: str, hint: str) -> Iterator[None]:
    """Replace an error, unless memory ran out, by a ContractError with its culprit and its first line."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ContractError(f"{name(kind, error)} {what}: {error_text(error).splitlines()[0]}", hint=hint) from error


def _on_copies(part: Any, *arguments: Any) -> Any:
    """Call a model or a loss with copies of its buffers, which it may change."""
    if not isinstance(part, nn.Module):
        return part(*arguments)
    buffers = {name: buffer.clone() for name, buffer in part.named_buffers()}
    return torch.func.functional_call(part, buffers, arguments)


def _shape_error(prediction: Tensor, target: Tensor, loss_name: str) -> ContractError:
    return ContractError(
        f"{loss_name} compares element by element, but the prediction is {brief(prediction)} and the target is "
        f"{brief(target)}: they would be broadcast, and the model would fit the wrong values",
        hint="give both the same shape, usually [B, 1] or [B, O]; for class indices use cross-entropy",
    )


def _broadcasts(prediction: Tensor, target: Tensor) -> bool:
    """Return whether an operation on both would pair each value with several, as with ``[B, 1]`` and ``[B]``."""
    try:
        together = torch.broadcast_shapes(prediction.shape, target.shape).numel()  # type: ignore[no-untyped-call] # torch leaves it so
    except RuntimeError:
        return False
    return target.is_floating_point() and together > max(prediction.numel(), target.numel())


def _uses(prediction: Tensor, loss_of: Callable[[Tensor], Tensor], value: Tensor) -> bool:
    """Return whether a loss depends on the prediction: it has a gradient, or another value for other predictions."""
    gradient: Any = torch.autograd.grad(value, prediction, allow_unused=True)[0]  # None if unused
    if gradient is None or gradient.any() or not torch.isfinite(value):
        return gradient is not None
    return not torch.equal(loss_of(prediction.detach() / 2 + 0.25), value)  # a probability remains one


def _check_mean(
    loss: LossFunction, name: Namer, prediction: Tensor, target: Tensor, weigh: Callable[[Tensor], int | Tensor]
) -> None:
    """Check that the loss of a batch is the weighted mean of those of its examples, unless it draws random numbers.

    Raises:
        ContractError: When it is not, or when it fails for a single example.
    """
    total = weights = largest = 0.0
    hint = "return the mean over the batch, or give the loss a batch_weight: docs/how-to/write-a-loss.md"
    with torch.no_grad(), _described(name, "loss", "fails on a single example of a batch", hint):
        whole, again = (loss(prediction, target).item() for _ in range(2))
        for number in range(len(target)):
            one = slice(number, number + 1)
            single = loss(prediction[one], target[one]).reshape(())
            if weight := float(weigh(target[one])):
                total, weights = total + single.item() * weight, weights + weight
            largest = max(largest, abs(single.item()))
    mean = total / weights if weights else math.nan
    if math.isclose(whole, mean, abs_tol=1e-5 * largest):
        return
    if _broadcasts(prediction, target):
        raise _shape_error(prediction, target, name("loss", None))
    if whole != again:
        return
    numbers = f"of {len(target)} examples is {whole:.6g}, but the mean of their losses is {mean:.6g}"
    raise ContractError(f"{name('loss', None)} {numbers}", hint=hint)
