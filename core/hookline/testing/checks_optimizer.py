"""The checks for optimizers; each works on a linear model and the mean squared error, which is a quadratic."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from hookline.engine.loop.run import Run
from hookline.testing.kit import Broken, Subject, check
from hookline.testing.parts import BuildWatch, first_batch, flat_weights

_ALL = 24
_NUM_STEPS = 3


def _take_steps(subject: Subject, run: Run, count: int = _NUM_STEPS) -> None:
    """Take steps like a run, with the training examples as one batch."""
    batch = first_batch(subject.data, _ALL)
    for _ in range(count):
        run._loop.parts.step(batch)  # noqa: SLF001 - the kit drives the parts of a run by hand


@check
def lowers_the_loss(subject: Subject) -> None:
    """Twenty steps lower the loss on a quadratic."""
    result = subject.run(epochs=20, batch_size="all").fit()
    first, last = (result.history[i]["train/running_loss"] for i in (0, -1))
    if not last < first:
        raise Broken(f"{first:.6g} before, {last:.6g} after", "update against the gradient, or lower the default lr")


@check
def resumes_exactly(subject: Subject) -> None:
    """Training that resumes from the weights and the state_dict takes the same steps, bit for bit."""
    through, resumed = subject.run(), subject.run(seed=1)
    _take_steps(subject, through)
    resumed.model.load_state_dict(through.model.state_dict())
    resumed.optimizer.load_state_dict(copy.deepcopy(through.optimizer.state_dict()))
    _take_steps(subject, through)
    _take_steps(subject, resumed)
    if not torch.equal(flat_weights(through.model), flat_weights(resumed.model)):
        advice = "keep everything that steps depend on in self.state and the parameter groups"
        raise Broken("the weights differ after the next steps", advice)


@check
def holds_each_parameter_once(subject: Subject) -> None:
    """The optimizer holds every trainable parameter exactly once."""
    run = subject.run()
    held = Counter(id(p) for group in run.optimizer.param_groups for p in group["params"])
    counts = {name: held[id(p)] for name, p in run.model.named_parameters() if p.requires_grad}
    if wrong := [f"{name} {count} times" for name, count in counts.items() if count != 1]:
        raise Broken(", ".join(wrong), "build it over model.parameters()")


@check
def leaves_the_others_alone(subject: Subject) -> None:
    """Parameters that are frozen or have no gradient keep their values."""
    run = subject.run()
    untrained = {name: p for name, p in run.model.named_parameters() if name in ("frozen", "idle")}
    before = {name: p.detach().clone() for name, p in untrained.items()}
    _take_steps(subject, run)
    if changed := [name for name, p in untrained.items() if not torch.equal(p, before[name])]:
        advice = "skip parameters whose grad is None, for the weight decay, too"
        raise Broken(f"changed: the parameter {' and the parameter '.join(map(repr, changed))}", advice)


@check
def zero_grad_clears(subject: Subject) -> None:
    """zero_grad sets every gradient to None or zero."""
    run = subject.run()
    inputs, target = first_batch(subject.data, _ALL)
    run.loss(run.model(inputs), target).backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated
    run.optimizer.zero_grad()
    gradients = {name: p.grad for name, p in run.model.named_parameters()}
    if left := [name for name, gradient in gradients.items() if gradient is not None and gradient.any()]:
        raise Broken(f"not cleared: {', '.join(left)}", "set each grad to None, or do not override zero_grad")


@check
def state_is_plain(subject: Subject) -> None:
    """The state_dict holds only tensors and plain values, so that it can be saved without pickle."""
    run = subject.run()
    _take_steps(subject, run)
    if unsupported := sorted(set(_unsupported(run.optimizer.state_dict()))):
        advice = "keep only tensors, numbers, text, lists and mappings in the state"
        raise Broken(f"it holds {', '.join(unsupported)}", advice)


def _unsupported(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [name for part in (*value.keys(), *value.values()) for name in _unsupported(part)]
    if isinstance(value, list | tuple):
        return [name for part in value for name in _unsupported(part)]
    return [] if value is None or isinstance(value, Tensor | str | int | float) else [f"a {type(value).__name__}"]


@check
def draws_no_numbers(subject: Subject) -> None:
    """Building the optimizer and taking steps draw no random numbers."""
    observer = BuildWatch()
    _take_steps(subject, subject.run(plugins={"callbacks.observer": observer}))
    if drawn := observer.drawn():
        raise Broken(f"changed: {', '.join(drawn)}", "draw from run.generator(name), which depends on the seed alone")


@check
def steps_are_repeatable(subject: Subject) -> None:
    """The same weights and batches give the same steps, bit for bit."""
    first, second = subject.run(), subject.run()
    _take_steps(subject, first)
    _take_steps(subject, second)
    if not torch.equal(flat_weights(first.model), flat_weights(second.model)):
        advice = "keep no state outside the optimizer, and draw no random numbers"
        raise Broken("the second run has different weights", advice)
