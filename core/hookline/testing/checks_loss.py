"""The checks for losses.

Shapes: ``B`` examples in a batch, ``O`` values predicted for an example.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from hookline.engine.loop.run import Run
from hookline.engine.loop.weighted_mean import WeightedMean, weight_of
from hookline.engine.reading.batch import (
    Forward,
    count_examples,
    part_of,
    prediction_of,
    tensors_in,
    with_parts,
)
from hookline.testing.kit import Broken, Subject, check, skip
from hookline.testing.parts import first_batch, fitting_loss

_BATCH_SIZE = 8


def _example(subject: Subject, run: Run, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Return a random prediction, ``[B, O]`` or as the given model returns it, and a target of the data.

    Floating-point tensors in the prediction require a gradient.
    """
    inputs, target = first_batch(subject.data, _BATCH_SIZE, dtype)
    with torch.no_grad():
        prediction = prediction_of(Forward(run.model, run.loss).output(inputs))
    if subject.given_model is None:
        prediction = torch.randn(prediction.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    for tensor in _differentiable(prediction):
        tensor.requires_grad_()
    return prediction, target


def _differentiable(prediction: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_in(prediction) if tensor.is_floating_point()]


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else with_parts(value, _detached)


def _loss_of(subject: Subject, run: Run, prediction: Any, target: Any, start: int = 0) -> Tensor:
    """Return the loss of the examples from ``start`` on, with what it asks for besides prediction and target."""
    asked = {}
    for name in Forward(run.model, run.loss).asked:
        if name == "inputs":
            inputs, _ = first_batch(subject.data, _BATCH_SIZE)
            asked[name] = part_of(inputs, start, start + count_examples(target))
        else:
            asked[name] = {"loss": fitting_loss(prediction, target)} if name == "output" else run
    value: Tensor = run.loss(prediction, target, **asked)
    return value


@check
def is_scalar(subject: Subject) -> None:
    """The loss is a scalar tensor of a floating-point dtype."""
    run = subject.run()
    for size in (_BATCH_SIZE, 1):
        prediction, target = (part_of(part, 0, size) for part in _example(subject, run))
        loss: object = _loss_of(subject, run, prediction, target)
        if not (isinstance(loss, Tensor) and loss.dim() == 0 and loss.is_floating_point()):
            got = f"{list(loss.shape)} {loss.dtype}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise Broken(f"{got} for {size} examples", "end with .mean()")


@check
def is_differentiable(subject: Subject) -> None:
    """The loss depends on the prediction, and its gradient is finite."""
    run = subject.run()
    prediction, target = _example(subject, run)
    loss = _loss_of(subject, run, prediction, target)
    found: Any = ()  # None for each part that the loss does not use
    if loss.requires_grad:
        found = torch.autograd.grad(loss, _differentiable(prediction), allow_unused=True)
    gradients = [gradient for gradient in found if gradient is not None]
    if not gradients or not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
        seen = "a non-finite gradient" if gradients else "no gradient"
        raise Broken(seen, "use only torch's functions, and keep roots, logs and quotients away from 0")


@check
def refuses_broadcast(subject: Subject) -> None:
    """Predictions [B, 1] and targets [B] are rejected or compared pair by pair, never broadcast."""
    _, target = first_batch(subject.data, _BATCH_SIZE)
    if subject.given_model or not isinstance(target, Tensor):
        skip("its predictions or targets are no tensors [B, O]")
    if not target.is_floating_point():
        skip("its targets are class indices, [B] for predictions [B, C]")
    if target.shape[1:] != (1,):
        skip(f"its targets are {list(target.shape)}, which are not broadcast")
    inputs, flat = first_batch(subject.data, _BATCH_SIZE)[0], target.squeeze(1)
    model = subject.run().model
    try:
        mixed_data = dataclasses.replace(subject.data, train=TensorDataset(inputs, flat))
        run = subject.run(mixed_data, plugins={"model": lambda: model}, evaluate=())
        prediction = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
        mixed = _loss_of(subject, run, prediction, flat)
    except Exception:  # noqa: BLE001 - any error rejects them
        return
    if not torch.isclose(mixed, _loss_of(subject, run, prediction, target), rtol=1e-4):
        advice = "raise ValueError when prediction.shape != target.shape"
        raise Broken("every prediction was compared with every target", advice)


@check
def batch_mean(subject: Subject) -> None:
    """The loss is a mean over the batch: that of its parts, weighted by their examples or by batch_weight."""
    run = subject.run()
    if getattr(run.loss, "batch_weight", run.loss) is None:
        skip("it declares with batch_weight = None that it is no mean")
    prediction, target = _example(subject, run)
    whole, weigh = _loss_of(subject, run, prediction, target).item(), weight_of(run.loss) or count_examples
    mean, parts = WeightedMean(), []
    for part in ((0, 3), (3, None)):
        some, theirs = part_of(prediction, *part), part_of(target, *part)
        parts.append(_loss_of(subject, run, some, theirs, part[0]).detach())
        mean.add(parts[-1], weigh(theirs))
    if not math.isclose(whole, mean.compute(), rel_tol=1e-4, abs_tol=1e-7):
        advice = "take the mean over the batch, or give the loss a batch_weight that returns its denominator"
        raise Broken(f"{whole:.6g} for the batch, {parts[0]:.6g} and {parts[1]:.6g} for two parts of it", advice)


@check
def keeps_its_arguments(subject: Subject) -> None:
    """The loss modifies neither the prediction nor the target in place."""
    run = subject.run()
    prediction, target = _example(subject, run)
    # torch does not allow in-place changes of a leaf that requires a gradient.
    pair = [_detached(prediction), _detached(target)]
    before = copy.deepcopy(pair)
    _loss_of(subject, run, *pair)
    pairs = zip(("prediction", "target"), before, pair, strict=True)
    if changed := [name for name, was, now in pairs if not all(map(torch.equal, tensors_in(was), tensors_in(now)))]:
        raise Broken(f"changed: {', '.join(changed)}", "work on copies: x = x * 2, not x *= 2")


@check
def is_repeatable(subject: Subject) -> None:
    """The same prediction and target always give the same loss."""
    run = subject.run()
    prediction, target = _example(subject, run)
    first, second = (_loss_of(subject, run, prediction, target).item() for _ in range(2))
    if first != second:
        raise Broken(f"{first:.9g}, then {second:.9g}", "draw no random numbers, and keep no state between calls")


@check
def works_in_float64(subject: Subject) -> None:
    """The loss computes in float64, and agrees there with its value in float32."""
    single, double = subject.run(), subject.run(dtype="float64")
    expected = _loss_of(subject, single, *_example(subject, single)).item()
    loss = _loss_of(subject, double, *_example(subject, double, torch.float64))
    if loss.dtype != torch.float64:
        raise Broken(f"the loss is {loss.dtype}", "create tensors with the dtype of the prediction, not a fixed one")
    if not math.isclose(loss.item(), expected, rel_tol=1e-3, abs_tol=1e-6):
        raise Broken(f"{loss.item():.6g} instead of {expected:.6g}", "compute in the dtype of the prediction")
