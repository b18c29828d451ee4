"""A model that runs out of memory above a number of examples, and runs of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookline import Run, TrainingError, hookimpl, load_config

CUDA = "CUDA out of memory. Tried to allocate 20.00 MiB."
SHORT = {"train": {"epochs": 2, "batch_size": 8, "evaluate": []}, "data": {"num_examples": 20}}
"""3 steps in an epoch, the last with 4 examples."""
HALVE = {"callbacks.halve-micro-batches.use": "halve-micro-batches"}


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError(CUDA)


class Statistic(nn.Module):
    """Updates a running mean in place, like ``BatchNorm1d``, even for a single example."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * inputs.detach().mean(0))
        return inputs - self.mean


class Narrow(nn.Module):
    """A model that runs out of memory above ``limit`` examples at once, in steps from ``since`` on."""

    drawn: Tensor

    def __init__(
        self,
        limit: int,
        *,
        since: int = 0,
        is_late: bool = False,
        in_evaluation: bool = False,
        make: Callable[[], Exception] = out_of_memory,
    ) -> None:
        super().__init__()
        # All that a forward pass changes: random numbers, a buffer in place, and a buffer that is replaced.
        self.body = nn.Sequential(nn.Linear(2, 4), Statistic(), nn.Dropout(0.25), nn.Linear(4, 1))
        for number, parameter in enumerate(self.parameters(), 1):
            nn.init.constant_(parameter, 0.1 * number)
        self.register_buffer("drawn", torch.zeros(1))
        self.limit, self.since, self.is_late, self.in_evaluation, self.make = limit, since, is_late, in_evaluation, make
        self.run: Run | None = None
        self.sizes: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.body(inputs)
        if not self.training:
            # A first batch is tried with gradients, and evaluations are without.
            if self.in_evaluation and not torch.is_grad_enabled() and len(inputs) > self.limit:
                raise self.make()
            return output
        self.sizes.append(len(inputs))
        self.drawn = self.drawn + torch.rand(1)
        is_now = self.run is None or self.run.step >= self.since
        if is_now and len(inputs) > self.limit:
            if not self.is_late:
                raise self.make()
            output.register_hook(self._fails)  # type: ignore[no-untyped-call] # torch leaves it so
        return output

    def _fails(self, gradient: Tensor) -> None:
        raise self.make()


def narrow_run(model: nn.Module, overrides: Any = (), **plugins: Any) -> Run:
    run = Run(load_config(SHORT, overrides, plugins={"model": model, **plugins}))
    if isinstance(model, Narrow):
        model.run = run
    return run


def error_of(run: Run) -> TrainingError:
    with pytest.raises(TrainingError) as caught:
        run.fit()
    return caught.value


def state_of(run: Run) -> dict[str, Any]:
    """Return the state of a run without its warnings."""
    run.model.run = None  # type: ignore[assignment] # a model that refers to its run cannot be copied
    return {key: value for key, value in run.state_dict().items() if key != "warnings"}


def is_equal(one: Any, other: Any) -> bool:
    """Return whether two states are equal to the last bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_equal, one, other))
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


class OwnStep:
    @hookimpl
    def build_step(self, run: Run) -> Any:
        def step(batch: Any) -> Tensor:
            raise torch.OutOfMemoryError(CUDA)

        return step
