"""The other parts of the runs with a plugin under test: small data, a model, a loss, an optimizer, observers.

Shapes: ``B`` examples in a batch, ``I`` input features, ``O`` values predicted for an example.
"""

from __future__ import annotations

import copy
import functools
import math
import random
from collections.abc import Callable, Generator, Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import TensorDataset

from hookline.config.plugins.catalog import Catalog, Entry
from hookline.engine.data import DataSource
from hookline.engine.hookspecs import hookimpl
from hookline.engine.loop.run import Run
from hookline.engine.reading.batches import Batches
from hookline.engine.reading.workers import Workers
from hookline.engine.result import Outcome

NO_DEFAULTS: Mapping[str, Any] = {}
"""An empty table of defaults, for configs that use no installed plugins."""

_SPLIT_SIZES = (24, 8, 8)
_NUM_FEATURES = 3
_NUM_CLASSES = 3


def closed_catalog(*entries: Entry) -> Catalog:
    """Return a catalog of these plugins and the callbacks of every run, without default tables.

    A config cannot name other installed plugins.
    """
    found = dict.fromkeys((*entries, *_usual()[1]))
    return Catalog.installed().closed(found, EntryPoint("run", f"{__name__}:NO_DEFAULTS", "hookline.defaults"))


def usual_callbacks() -> dict[str, Any]:
    """Return the callbacks that every run has by default, as the table ``callbacks`` of a config.

    They try the components of a run, so a run of the kit refuses what any other run refuses.
    """
    return copy.deepcopy(_usual()[0])


@functools.cache
def _usual() -> tuple[dict[str, Any], tuple[Entry, ...]]:
    catalog = Catalog.installed()
    tables: dict[str, Any] = catalog.default("run").get("callbacks", {})
    names = {options.get("use", name) for name, options in tables.items()}
    return tables, tuple(entry for entry in catalog.entries if entry.kind == "callback" and entry.name in names)


# ---- data -----------------------------------------------------------------------------------------------------------


def regression() -> DataSource:
    """Return a regression: float32 inputs ``[3]``, float32 targets ``[1]``."""
    return _source(lambda inputs: inputs.sum(1, keepdim=True) + 0.5, 1, "regression")


def binary() -> DataSource:
    """Return two classes in one output: targets are float32 ``[1]``, 0 or 1."""
    return _source(lambda inputs: (inputs.sum(1, keepdim=True) > 0).float(), 1, "binary")


def classes() -> DataSource:
    """Return three classes: targets are class indices, int64 ``[]``."""
    return _source(lambda inputs: torch.arange(len(inputs)) % _NUM_CLASSES, _NUM_CLASSES, "classification")


SOURCES: Mapping[str, Callable[[], DataSource]] = {
    "a regression": regression,
    "two classes as 0 and 1": binary,
    "three class indices": classes,
}
"""The data to try with a plugin, in this order, if its author gives none."""


def _source(
    target_of: Callable[[Tensor], Tensor], out_features: int, task: Literal["regression", "classification", "binary"]
) -> DataSource:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(size, _NUM_FEATURES, generator=generator) for size in _SPLIT_SIZES]
    train, validation, test = (TensorDataset(each, target_of(each)) for each in inputs)
    return DataSource(train, validation, test, in_features=_NUM_FEATURES, out_features=out_features, task=task)


def first_batch(data: DataSource, size: int, dtype: torch.dtype = torch.float32) -> Any:
    """Return the first ``size`` training examples as a batch, in the dataset's own order."""
    return next(Batches(data.train, size, Workers(dtype)).epoch(1))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield every tensor in an example or a batch."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_in(part)


# ---- model, loss, optimizer, step -----------------------------------------------------------------------------------


class Net(nn.Module):
    """A linear layer that fits any data, with a frozen parameter and one without a gradient.

    Args:
        data: The data to fit.
        dropout: Probability of dropping an input; if it is not 0, steps draw random numbers.
    """

    def __init__(self, data: DataSource, dropout: float = 0.0) -> None:
        super().__init__()
        inputs, target = first_batch(data, 1)
        self._shape: tuple[int, ...] = target.shape[1:]
        if not target.is_floating_point():
            # Of several classes for an example, such as tokens of a text, each has a place after that of the class.
            further = self._shape if data.task == "classification" else ()
            self._shape = (data.out_features or int(target.max()) + 2, *further)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.line = nn.Linear(inputs[0].numel(), math.prod(self._shape))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.idle = nn.Parameter(torch.ones(2))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return predictions ``[B, O]``, or in the shape of the targets."""
        rows = self.dropout(inputs.flatten(1).to(self.line.weight.dtype))
        prediction: Tensor = self.line(rows) * self.frozen
        return prediction.reshape(len(inputs), *self._shape)


def net(data: DataSource) -> nn.Module:
    """Return a model for ``data`` that draws no random numbers in steps."""
    return Net(data)


def noisy_net(data: DataSource) -> nn.Module:
    """Return a model for ``data`` that draws random numbers in each step."""
    return Net(data, dropout=0.25)


def unused_model() -> nn.Module:
    """Return a model for runs that take no step."""
    return nn.Linear(1, 1)


def fitting_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error, or the cross-entropy for class indices."""
    if target.is_floating_point():
        return nn.functional.mse_loss(prediction, target)
    return nn.functional.cross_entropy(prediction, target)


def gradient_descent(params: Iterator[nn.Parameter]) -> Optimizer:
    """Return plain gradient descent."""
    return torch.optim.SGD(params, lr=0.1)


class NoStep:
    """A step that ignores the batch, so that a run accepts data of any form."""

    @hookimpl
    def build_step(self) -> Callable[[Any], Tensor]:
        """Return the step."""
        return lambda _: torch.zeros(())


# ---- observers ------------------------------------------------------------------------------------------------------


class Recorder:
    """A recorder of every event, one line each.

    Attributes:
        transcript: The lines: the name of the event, followed by the epoch, step, folder, message, class of the error
            or outcome.
    """

    def __init__(self) -> None:
        self.transcript: list[str] = []

    @hookimpl(tryfirst=True)
    def on_run_start(self) -> None:
        """Record the event."""
        self.transcript.append("on_run_start")

    @hookimpl(tryfirst=True)
    def on_epoch_start(self, run: Run) -> None:
        """Record the event."""
        self.transcript.append(f"on_epoch_start {run.epoch}")

    @hookimpl(tryfirst=True)
    def on_step_end(self, run: Run) -> None:
        """Record the event."""
        self.transcript.append(f"on_step_end {run.step}")

    @hookimpl(tryfirst=True)
    def on_log(self, run: Run) -> None:
        """Record the event."""
        self.transcript.append(f"on_log {run.step}")

    @hookimpl(tryfirst=True)
    def on_save_point(self, run: Run, is_last: bool) -> None:
        """Record the event."""
        self.transcript.append(f"on_save_point {run.step}{' last' if is_last else ''}")

    @hookimpl(tryfirst=True)
    def on_checkpoint_saved(self, path: Path) -> None:
        """Record the event."""
        self.transcript.append(f"on_checkpoint_saved {path.name}")

    @hookimpl(tryfirst=True)
    def on_evaluation_start(self, run: Run) -> None:
        """Record the event."""
        self.transcript.append(f"on_evaluation_start {run.epoch}")

    @hookimpl(tryfirst=True)
    def on_evaluation_end(self, run: Run) -> None:
        """Record the event."""
        self.transcript.append(f"on_evaluation_end {run.epoch}")

    @hookimpl(tryfirst=True)
    def on_epoch_end(self, run: Run) -> None:
        """Record the event."""
        self.transcript.append(f"on_epoch_end {run.epoch}")

    @hookimpl(tryfirst=True)
    def on_warning(self, message: str) -> None:
        """Record the event."""
        self.transcript.append(f"on_warning {message}")

    @hookimpl(tryfirst=True)
    def on_run_error(self, error: BaseException) -> None:
        """Record the event."""
        self.transcript.append(f"on_run_error {type(error).__name__}")

    @hookimpl(tryfirst=True)
    def on_run_end(self, outcome: Outcome) -> None:
        """Record the event."""
        self.transcript.append(f"on_run_end {outcome}")


class Tracer:
    """A recorder of the loss, the weights and the state of torch's generator after each step."""

    def __init__(self) -> None:
        self.steps: list[tuple[Tensor, Tensor, Tensor]] = []
        self.last: tuple[Tensor, Tensor] | None = None

    @hookimpl(trylast=True)
    def on_step_end(self, run: Run, loss: Tensor) -> None:
        """Record the state after the step."""
        self.steps.append((loss.clone(), flat_weights(run.model), torch.get_rng_state()))

    @hookimpl(trylast=True)
    def on_run_end(self, run: Run) -> None:
        """Record the state after the run."""
        self.last = flat_weights(run.model), torch.get_rng_state()


class BuildWatch:
    """Detects draws from global generators since its creation, and by data and optimizer while they are built.

    While a run is built, torch's generator is the run's own, so a comparison from outside misses draws from it.
    """

    def __init__(self) -> None:
        self._before = generator_states()
        self._has_drawn = False

    def drawn(self) -> list[str]:
        """Return the names of the generators that were drawn from."""
        changed = changed_generators(self._before)
        is_hidden = self._has_drawn and "torch" not in changed
        return [*changed, *(["torch, while it is built"] if is_hidden else [])]

    @hookimpl(wrapper=True)
    def build_data(self) -> Generator[None, Any, Any]:
        """Compare the generator before and after."""
        return (yield from self._observed())

    @hookimpl(wrapper=True)
    def build_optimizer(self) -> Generator[None, Any, Any]:
        """Compare the generator before and after."""
        return (yield from self._observed())

    def _observed(self) -> Generator[None, Any, Any]:
        before = torch.get_rng_state()
        built = yield
        self._has_drawn |= not torch.equal(torch.get_rng_state(), before)
        return built


def flat_weights(model: nn.Module) -> Tensor:
    """Return a copy of all parameters and buffers of a model as one vector."""
    parts = [value.detach().flatten().double() for value in model.state_dict().values() if isinstance(value, Tensor)]
    return torch.cat(parts) if parts else torch.zeros(0)


def generator_states() -> dict[str, Any]:
    """Return the states of the global random generators by name, in a comparable form."""
    name, keys, *rest = np.random.get_state()
    return {
        "Python's random": random.getstate(),
        "numpy.random": (name, np.asarray(keys).tobytes(), *rest),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }


def changed_generators(before: Mapping[str, Any]) -> list[str]:
    """Return the names of the global generators whose state differs from ``before``."""
    after = generator_states()
    return [name for name, state in before.items() if after[name] != state]
