"""The checks for losses.

Shapes: ``B`` examples in a batch, ``O`` values predicted for an example.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from hookline.engine.loop.evaluation import WeightedMean, weight_of
from hookline.engine.loop.run import Run
from hookline.testing.kit import Broken, Subject, check, skip
from hookline.testing.parts import first_batch

_BATCH_SIZE = 8


def _example(subject: Subject, run: Run, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return a random prediction ``[B, O]`` that requires a gradient, and a target of the data."""
    inputs, target = first_batch(subject.data, _BATCH_SIZE, dtype)
    with torch.no_grad():
        shape = run.model(inputs).shape
    prediction = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return prediction.to(dtype).requires_grad_(), target


@check
def is_scalar(subject: Subject) -> None:
    """The loss is a scalar tensor of a floating-point dtype."""
    run = subject.run()
    for size in (_BATCH_SIZE, 1):
        prediction, target = (part[:size] for part in _example(subject, run))
        loss: object = run.loss(prediction, target)
        if not (isinstance(loss, Tensor) and loss.dim() == 0 and loss.is_floating_point()):
            got = f"{list(loss.shape)} {loss.dtype}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise Broken(f"{got} for {size} examples", "end with .mean()")


@check
def is_differentiable(subject: Subject) -> None:
    """The loss depends on the prediction, and its gradient is finite."""
    run = subject.run()
    prediction, target = _example(subject, run)
    loss = run.loss(prediction, target)
    gradient = torch.autograd.grad(loss, prediction, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None or not torch.isfinite(gradient).all():
        seen = "no gradient" if gradient is None else "a non-finite gradient"
        raise Broken(seen, "use only torch's functions, and keep roots, logs and quotients away from 0")


@check
def refuses_broadcast(subject: Subject) -> None:
    """Predictions [B, 1] and targets [B] are rejected or compared pair by pair, never broadcast."""
    _, target = first_batch(subject.data, _BATCH_SIZE)
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
        mixed = run.loss(prediction, flat)
    except Exception:  # noqa: BLE001 - any error rejects them
        return
    if not torch.isclose(mixed, run.loss(prediction, target), rtol=1e-4):
        advice = "raise ValueError when prediction.shape != target.shape"
        raise Broken("every prediction was compared with every target", advice)


@check
def batch_mean(subject: Subject) -> None:
    """The loss is a mean over the batch: that of its parts, weighted by their examples or by batch_weight."""
    run = subject.run()
    if getattr(run.loss, "batch_weight", run.loss) is None:
        skip("it declares with batch_weight = None that it is no mean")
    prediction, target = _example(subject, run)
    whole, weigh = run.loss(prediction, target).item(), weight_of(run.loss) or len
    mean, parts = WeightedMean(), []
    for part in (slice(3), slice(3, None)):
        parts.append(run.loss(prediction[part], target[part]).detach())
        mean.add(parts[-1], weigh(target[part]))
    if not math.isclose(whole, mean.compute(), rel_tol=1e-4, abs_tol=1e-7):
        advice = "take the mean over the batch, or give the loss a batch_weight that returns its denominator"
        raise Broken(f"{whole:.6g} for the batch, {parts[0]:.6g} and {parts[1]:.6g} for two parts of it", advice)


@check
def keeps_its_arguments(subject: Subject) -> None:
    """The loss modifies neither the prediction nor the target in place."""
    run = subject.run()
    prediction, target = _example(subject, run)
    # torch does not allow in-place changes of a leaf that requires a gradient.
    prediction = prediction.detach()
    before = prediction.clone(), target.clone()
    run.loss(prediction, target)
    names = ("prediction", "target")
    pairs = zip(names, before, (prediction, target), strict=True)
    if changed := [name for name, was, now in pairs if not torch.equal(was, now)]:
        raise Broken(f"changed: {', '.join(changed)}", "work on copies: x = x * 2, not x *= 2")


@check
def is_repeatable(subject: Subject) -> None:
    """The same prediction and target always give the same loss."""
    run = subject.run()
    prediction, target = _example(subject, run)
    first, second = (run.loss(prediction, target).item() for _ in range(2))
    if first != second:
        raise Broken(f"{first:.9g}, then {second:.9g}", "draw no random numbers, and keep no state between calls")


@check
def works_in_float64(subject: Subject) -> None:
    """The loss computes in float64, and agrees there with its value in float32."""
    single, double = subject.run(), subject.run(dtype="float64")
    expected = single.loss(*_example(subject, single)).item()
    loss = double.loss(*_example(subject, double, torch.float64))
    if loss.dtype != torch.float64:
        raise Broken(f"the loss is {loss.dtype}", "create tensors with the dtype of the prediction, not a fixed one")
    if not math.isclose(loss.item(), expected, rel_tol=1e-3, abs_tol=1e-6):
        raise Broken(f"{loss.item():.6g} instead of {expected:.6g}", "compute in the dtype of the prediction")
