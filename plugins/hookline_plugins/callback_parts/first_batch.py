"""The trial of a first batch: it passes through model and loss before there is an optimizer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from hookline import ContractError, DataError, NonFiniteError, TrainingError
from hookline.engine import (
    Evaluated,
    Forward,
    brief,
    count_examples,
    error_text,
    evaluation_mode,
    first_line,
    is_out_of_memory,
    part_of,
    prediction_of,
    tensors_in,
    weight_of,
    with_parts,
)

if TYPE_CHECKING:
    from hookline import RunView
    from hookline.engine import Trial


Namer = Callable[[str, BaseException | None], str]
"""Returns the plugin of a kind, ``data`` or ``model or loss``, or else that at fault for an error."""

_LossOf = Callable[[Any, Any, slice], Any]

_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss)
"""Losses of torch that compare element by element, and broadcast silently if the shapes differ."""
_MEANT = 32
"""Number of examples whose losses are compared with their mean."""
_OTHER_FORMS = "other batches require a plugin that implements build_step, and train.evaluate = []"
_ONE_TOO_MANY = "a single example is too large: use a smaller model, smaller examples, or another train.device"


def try_first_batches(run: RunView, trial: Trial) -> None:
    """Pass the first batch of each split through model, loss and metrics.

    If a plugin implements the evaluation, that is tried, and the form of the batches that are only evaluated is up to
    it.
    A training batch is cut to ``train.micro_batch_size``. If a smaller one will come, its size is tried in training
    mode, too.

    Raises:
        HooklineError: As ``try_what_fits`` does.
        Exception: Any error of a metric.
    """
    options = run.config.train
    is_usual, is_default_step = (
        all(is_wrapper for _, is_wrapper in run.hook_order(hook)) for hook in ("build_evaluation", "build_step")
    )
    with trial.attributing():
        for split, num_examples in trial.num_examples.items():
            sizes: tuple[int, ...] = ()
            is_trained = split == "train" and is_default_step
            if is_trained:
                limit = options.micro_batch_size
                sizes = limit, smallest_batch(num_examples, options.batch_size, limit)
            batch = trial.first(split)
            if is_trained or is_usual:
                batch = try_what_fits(batch, trial.forward, namer(run, trial, split), *sizes)
            # Without metrics and plugins, the usual evaluation has been tried by now.
            if f"{split}/loss" in run.metric_names and (trial.metrics or run.hook_order("build_evaluation")):
                trial.measure(split, batch, _checked(trial))


def _checked(trial: Trial) -> Callable[[Any], Evaluated]:
    """Return the evaluation of a batch with checks of its result."""

    def evaluation(batch: Any) -> Evaluated:
        with trial.attributing(trial.evaluation):
            result = trial.evaluation(batch)
            _check_evaluated(result, trial.metrics)
        return result

    return evaluation


def _check_evaluated(result: Any, metrics: Mapping[str, Any]) -> None:
    what = "the evaluation of a batch"
    if not isinstance(result, Evaluated):
        hint = "return hookline.engine.Evaluated(loss, ...)"
        raise ContractError(f"{what} returned {brief(result)}, but must return an Evaluated", hint=hint)
    for name, number in (("loss", result.loss), *result.numbers.items()):
        if torch.as_tensor(number).dim():
            raise ContractError(f"{what} returned {brief(number)} as {name!r}, but must return one number")
    if taken := [name for name in result.numbers if name in metrics or name == "loss"]:
        raise ContractError(f"{what} returned the number {taken[0]!r}, which exists already")
    if metrics and result.prediction is None:
        message = f"{what} returned no prediction, but {next(iter(metrics))!r} is measured on it"
        raise ContractError(message, hint="return prediction and target, or leave out the metrics")


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


def try_what_fits(batch: Any, forward: Forward, name: Namer, num_examples: int = 0, smallest: int = 2**53) -> Any:
    """Try a batch, or the part of it that fits into memory, and return it; a step that does not fit has its own error.

    Args:
        batch: The first batch.
        forward: Passes it through model and loss.
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
            try_batch(batch, forward, name, size)
            if smallest < size:
                try_training(batch, forward, name, smallest)
            return part_of(batch, 0, size)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                message = f"out of memory while one example of {name('data', None)} is tried: {first_line(error)}"
                raise TrainingError(message, hint=_ONE_TOO_MANY) from error
        size = -(-size // 2)


def try_batch(batch: Any, forward: Forward, name: Namer, num_examples: int | None = None) -> None:
    """Pass one batch through model and loss, in eval mode and without an update, and check the results.

    Args:
        batch: The first batch.
        forward: Passes it through model and loss.
        name: Returns a name for messages.
        num_examples: Number of its examples to use; default: all.

    Raises:
        DataError: When the batch has no input or target with tensors, or is not finite.
        ContractError: When model or loss fails, shapes do not match, or the loss is not a differentiable scalar.
        NonFiniteError: When the first loss is not finite.
    """
    data_name = name("data", None)
    part = part_of(batch, 0, num_examples)
    inputs, target = _pair(part, forward, data_name)
    with evaluation_mode(forward.model, forward.loss):
        hint = "match its sizes and dtypes to the data"
        with _described(name, "model", f"fails on the first batch of {data_name}, {brief(inputs)}", hint):
            output = forward.output(inputs, target)
        prediction = prediction_of(output)
        loss_of = _loss_of(forward, {"inputs": inputs, "output": output, "run": forward.run})
        value = _try_loss(prediction, target, forward, loss_of, name)
        weigh = weight_of(forward.loss) or count_examples
        if not torch.isfinite(value) and weigh(target):
            hint = "check the scale of the inputs and the initial weights of the model"
            raise NonFiniteError(
                f"the loss of the first batch of {data_name} is {value.item()}, before any step", hint=hint
            )
        is_declared_none = getattr(forward.loss, "batch_weight", forward.loss) is None
        is_counted = _are_tensors(prediction, target) and prediction.shape[:1] == target.shape[:1] != ()
        is_part = count_examples(part) < count_examples(batch)
        if is_counted and "output" not in forward.asked and (is_part or not is_declared_none):
            _check_mean(loss_of, name, prediction.detach()[:_MEANT], target[:_MEANT], weigh)


def _try_loss(prediction: Any, target: Any, forward: Forward, loss_of: _LossOf, name: Namer) -> Tensor:
    """Return the loss of a prediction.

    Raises:
        ContractError: When the loss fails, shapes do not match, or it is not a differentiable scalar.
    """
    model_name, loss_name, data_name = name("model", None), name("loss", None), name("data", None)
    predicted = list(tensors_in(prediction))
    if not predicted:
        raise ContractError(f"{model_name} returned {brief(prediction)}, but must return a tensor [B, O]")
    are_tensors = _are_tensors(prediction, target)
    if are_tensors and isinstance(forward.loss, _ELEMENTWISE) and prediction.shape != target.shape:
        raise _shape_error(prediction, target, loss_name)
    hint = "use a loss for this type of target, or a data source with targets that this loss accepts"
    given = f"prediction {brief(prediction)} and target {brief(target)} of the first batch of {data_name}"
    with _described(name, "loss", f"fails on {given}", hint):
        value: Any = loss_of(prediction, target, slice(None))
    if not any(tensor.requires_grad for tensor in predicted):
        if any(parameter.requires_grad for parameter in forward.model.parameters()):
            hint = "remove detach(), torch.no_grad() and conversions to NumPy from its forward"
            raise ContractError(f"{model_name} returned a prediction that is detached from its parameters", hint=hint)
        raise ContractError(f"{model_name} has nothing to train: no parameter requires a gradient")
    if not (isinstance(value, Tensor) and value.dim() == 0 and value.is_floating_point() and value.requires_grad):
        expected = "a scalar tensor of a floating dtype that depends on the prediction"
        raise ContractError(f"{loss_name} returned {brief(value)}, but must return {expected}")
    changed = _changed(prediction)
    if "output" not in forward.asked and not _uses(predicted, lambda: loss_of(changed, target, slice(None)), value):
        message = f"{loss_name} does not depend on the prediction {brief(prediction)}: it is {value.item():g}"
        hint = "compute the loss from it; cross-entropy needs an output for each class"
        raise ContractError(f"{message} for any", hint=hint)
    return value


def try_training(batch: Any, forward: Forward, name: Namer, num_examples: int) -> None:
    """Pass the first examples of a batch through model and loss as they are, in training mode; keep their buffers.

    Raises:
        ContractError: When model or loss fails.
    """
    smallest = f"{num_examples} example{'s' * (num_examples > 1)}, the smallest batch of {name('data', None)}"
    hint = "set train.drop_last = true to leave out a smaller last batch, or change train.batch_size"
    on_copies = copy.copy(forward)
    on_copies.model = _on_copies(forward.model)
    with (
        torch.random.fork_rng(devices=[]),
        _described(name, "model or loss", f"fails in training mode on {smallest}", hint),
    ):
        prediction, target, asked = on_copies(part_of(batch, 0, num_examples))
        _on_copies(forward.loss)(prediction, target, **asked)


def _pair(batch: Any, forward: Forward, data_name: str) -> tuple[Any, Any]:
    """Return the inputs and the target of a batch.

    Raises:
        DataError: When there are none, or a number is not finite.
    """
    if isinstance(batch, Mapping) and forward.target not in batch:
        hint = f"name the entry that is the target: DataSource(..., target=...); {_OTHER_FORMS}"
        raise DataError(f"{data_name} yields {brief(batch)}, but no target {forward.target!r}", hint=hint)
    is_pair = isinstance(batch, Mapping) or (isinstance(batch, tuple | list) and len(batch) == 2)
    parts = forward.pair(batch) if is_pair else (None, None)
    if not is_pair or not all(any(True for _ in tensors_in(part)) for part in parts):
        message = f"{data_name} yields {brief(batch)}, but must yield pairs (input, target) of tensors"
        raise DataError(message, hint=_OTHER_FORMS)
    for name, part in zip(("input", "target"), parts, strict=True):
        if any(tensor.is_floating_point() and not torch.isfinite(tensor).all() for tensor in tensors_in(part)):
            hint = "remove or replace the values that are NaN or infinite"
            raise DataError(f"the first batch of {data_name} has a non-finite {name}", hint=hint)
    return parts


def _loss_of(forward: Forward, given: Mapping[str, Any]) -> _LossOf:
    """Return the loss as a function of prediction, target, and the examples in both, by which it gets the rest."""

    def loss_of(prediction: Any, target: Any, examples: slice) -> Any:
        asked = {name: given[name] for name in forward.asked}
        if "inputs" in asked:
            asked["inputs"] = part_of(asked["inputs"], examples.start or 0, examples.stop)
        return forward.loss(prediction, target, **asked)

    return loss_of


@contextmanager
def _described(name: Namer, kind: str, what: str, hint: str) -> Iterator[None]:
    """Replace an error, unless memory ran out, by a ContractError with its culprit and its first line."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ContractError(f"{name(kind, error)} {what}: {error_text(error).splitlines()[0]}", hint=hint) from error


def _on_copies(part: Any) -> Any:
    """Return the call of a model or a loss with copies of its buffers, which it may change."""
    if not isinstance(part, nn.Module):
        return part
    buffers = {name: buffer.clone() for name, buffer in part.named_buffers()}
    return lambda *arguments, **named: torch.func.functional_call(part, buffers, arguments, named)


def _are_tensors(*parts: Any) -> bool:
    return all(isinstance(part, Tensor) for part in parts)


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


def _changed(prediction: Any) -> Any:
    """Return another prediction of the same form; a probability remains one."""
    if isinstance(prediction, Tensor):
        return prediction.detach() / 2 + 0.25 if prediction.is_floating_point() else prediction
    return with_parts(prediction, _changed)


def _uses(predicted: list[Tensor], other_loss: Callable[[], Tensor], value: Tensor) -> bool:
    """Return whether a loss depends on a prediction: it has a gradient, or another value for another prediction."""
    leaves = [tensor for tensor in predicted if tensor.requires_grad]
    gradients: Any = torch.autograd.grad(value, leaves, allow_unused=True)  # None if unused
    used = [gradient for gradient in gradients if gradient is not None]
    if not used or any(gradient.any() for gradient in used) or not torch.isfinite(value):
        return bool(used)
    return not torch.equal(other_loss(), value)


def _check_mean(
    loss_of: _LossOf, name: Namer, prediction: Tensor, target: Tensor, weigh: Callable[[Tensor], int | Tensor]
) -> None:
    """Check that the loss of a batch is the weighted mean of those of its examples, unless it draws random numbers.

    Raises:
        ContractError: When it is not, or when it fails for a single example.
    """
    total = weights = largest = 0.0
    hint = "return the mean over the batch, or give the loss a batch_weight: docs/how-to/write-a-loss.md"
    with torch.no_grad(), _described(name, "loss", "fails on a single example of a batch", hint):
        whole, again = (loss_of(prediction, target, slice(0, len(target))).item() for _ in range(2))
        for number in range(len(target)):
            one = slice(number, number + 1)
            single = loss_of(prediction[one], target[one], one).reshape(())
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
