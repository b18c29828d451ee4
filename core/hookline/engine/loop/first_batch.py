"""Checks of the components and of the first batch, before any step is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hookline.engine.data import DataSource
from hookline.engine.errors import ConfigError, ContractError, DataError, NonFiniteError, TrainingError, error_text
from hookline.engine.loop.batch import brief, count_examples, part_of, tensors_in
from hookline.engine.loop.evaluation import WeightedMean, evaluation_mode, weight_of
from hookline.engine.loop.memory import MEMORY_ERRORS, ONE_TOO_MANY, first_line, half, is_out_of_memory
from hookline.engine.loop.rng import preserved_rng
from hookline.engine.plugin.host import Host
from hookline.engine.plugin.plugin import Plugin
from hookline.engine.view import LossFunction, RunView
from hookline.engine.words import with_article

_RESULTS: Mapping[str, tuple[Any, str | None]] = {
    "build_data": (DataSource, "wrap a dataset: hookline.DataSource(train=dataset, in_features=..., out_features=...)"),
    "build_model": (nn.Module, None),
    "build_metrics": (Mapping, None),
    "build_optimizer": (Optimizer, None),
    "build_predictor": (None, None),
}
"""The type that a build hook must return, with a hint; any other hook must return a callable."""

Namer = Callable[[str, BaseException | None], str]
"""Returns the plugin of a kind, ``data`` or ``model or loss``, or else that at fault for an error."""

_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss)
"""Losses of torch that compare element by element, and broadcast silently if the shapes differ."""
_MEANT = 32
"""Number of examples whose losses are compared with their mean."""


def namer(host: Host, split: str) -> Namer:
    """Return the names for messages about the first batch of a split."""

    def name(kind: str, error: BaseException | None) -> str:
        maker = host.makers.of(error) if error else None
        named = str(maker[0]) if maker else " or ".join(str(host.owner(each)) for each in kind.split(" or "))
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
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                message = f"out of memory while one example of {name('data', None)} is tried: {first_line(error)}"
                raise TrainingError(message, hint=ONE_TOO_MANY) from error
        size = half(size)


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
    with preserved_rng(), _described(name, "model or loss", f"fails in training mode on {smallest}", hint):
        _on_copies(loss, _on_copies(model, inputs), target)


def check_step_result(loss: Any) -> None:
    """Check the result of a step.

    Raises:
        ContractError: When it is not a detached scalar.
    """
    if not (isinstance(loss, Tensor) and loss.dim() == 0 and loss.is_floating_point() and not loss.requires_grad):
        message = f"the step returned {brief(loss)}, but must return the detached loss, a scalar tensor"
        raise ContractError(message, hint="end the step with: return loss.detach()")


def check_result(plugin: Plugin, hook: str, result: Any) -> None:
    """Check the type of what a build hook of a plugin returned; None stands for no result.

    Raises:
        ContractError: When it is not of the type that the hook must return.
    """
    expected, hint = _RESULTS.get(hook, (Callable, None))
    if expected and result is not None and not isinstance(result, expected):
        message = f"{hook} of {plugin} returned {with_article(type(result).__name__)}"
        raise ContractError(f"{message}, but must return {with_article(expected.__name__)}", hint=hint)


def check_rates(optimizer: Optimizer, optimizer_name: str) -> None:
    """Check that the learning rates of an optimizer are finite, and that none of its other settings is NaN.

    Raises:
        ContractError: When one is not.
    """
    for name, value in (setting for group in optimizer.param_groups for setting in group.items()):
        if isinstance(value, float) and (math.isnan(value) or (name == "lr" and math.isinf(value))):
            message = f"{optimizer_name} has {name} = {value}, but it must be a finite number"
            raise ContractError(message, hint=f"check the option optimizer.{name}")


def check_splitting(run: RunView) -> None:
    """Check that the step splits batches if ``train.micro_batch_size`` is set.

    Raises:
        ConfigError: When it does not.
    """
    if not run.config.train.micro_batch_size or run.micro_batch_size is not None:
        return
    owner = (*_owners_of_step(run), f"the optimizer {type(run.optimizer).__name__}")[0]
    message = f"the step of {owner} does not split batches, but train.micro_batch_size is set"
    hint = "leave it at 0; a step that splits batches sets run.micro_batch_size"
    raise ConfigError(message, hint=hint)


def check_skipping(run: RunView, *, is_guarded: bool) -> None:
    """Check that the step of a plugin uses the run's check of numbers if ``train.non_finite`` is ``skip``.

    Args:
        run: The run, after its first step.
        is_guarded: Whether a plugin has asked for the check.

    Raises:
        ConfigError: When it does not.
    """
    owners = _owners_of_step(run)
    if owners and run.config.train.non_finite == "skip" and not is_guarded:
        message = f"the step of {owners[0]} skips no update, but train.non_finite = 'skip' is set"
        hint = "set it to 'fail' or 'ignore'; a step that skips calls run.update, or asks run.finite_guard"
        raise ConfigError(message, hint=hint)


def _owners_of_step(run: RunView) -> list[str]:
    return [str(member.plugin) for member, is_wrapper in run.hook_order("build_step") if not is_wrapper]


def check_parameters(optimizer: Optimizer, model: nn.Module, loss: LossFunction, optimizer_name: str) -> None:
    """Check that an optimizer has all parameters of the model that require gradients, once, and no unknown ones.

    Raises:
        ContractError: When it has a parameter twice, or one of neither model nor loss, or lacks some of the model.
    """
    listed = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    held = set(listed)
    if repeated := len(listed) - len(held):
        hint = "pass it each parameter once, as model.parameters() yields them, or its updates would be repeated"
        raise ContractError(f"{optimizer_name} has {repeated} parameters more than once", hint=hint)
    named = dict(model.named_parameters())
    of_loss = loss.parameters() if isinstance(loss, nn.Module) else ()
    if unknown := held - {id(parameter) for parameter in (*named.values(), *of_loss)}:
        hint = "create it with model.parameters() of the model that the hook receives"
        raise ContractError(f"{optimizer_name} has {len(unknown)} parameters of another model", hint=hint)
    if missing := [name for name, parameter in named.items() if parameter.requires_grad and id(parameter) not in held]:
        hint = "pass it all of model.parameters(), or freeze the others with requires_grad_(False)"
        raise ContractError(f"{optimizer_name} lacks parameters of the model: {', '.join(missing)}", hint=hint)


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
    mean, largest = WeightedMean(), 0.0
    hint = "return the mean over the batch, or give the loss a batch_weight: docs/how-to/write-a-loss.md"
    with torch.no_grad(), _described(name, "loss", "fails on a single example of a batch", hint):
        whole, again = (loss(prediction, target).item() for _ in range(2))
        for number in range(len(target)):
            one = slice(number, number + 1)
            single = loss(prediction[one], target[one]).reshape(())
            mean.add(single, weigh(target[one]))
            largest = max(largest, abs(single.item()))
    if math.isclose(whole, mean.compute(), abs_tol=1e-5 * largest):
        return
    if _broadcasts(prediction, target):
        raise _shape_error(prediction, target, name("loss", None))
    if whole != again:
        return
    numbers = f"of {len(target)} examples is {whole:.6g}, but the mean of their losses is {mean.compute():.6g}"
    raise ContractError(f"{name('loss', None)} {numbers}", hint=hint)
