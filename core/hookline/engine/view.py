"""``RunView``: the part of a run that plugins may use.

Shapes, as in all of the engine: ``B`` examples in a batch, ``I`` input features, ``O`` values predicted for an example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from hookline.engine.data import DataSource
    from hookline.engine.train_options import TrainOptions

Row = Mapping[str, str | int | float | bool | None]
LossFunction = Callable[["Tensor", "Tensor"], "Tensor"]
StepFunction = Callable[[Any], "Tensor"]


class Guard(Protocol):
    """The check that losses and gradients are finite (``train.non_finite``)."""

    def accepts_loss(self, loss: Tensor, batch: Any = None) -> bool:
        """Return whether to continue with a loss, a scalar tensor; False to skip the step."""

    def accepts_gradients(self) -> bool:
        """Return whether to continue with the gradients of the optimizer's parameters; False to skip the update."""

    def note_finite_update(self) -> None:
        """Record an update that was found finite elsewhere."""


class ChoiceView(Protocol):
    """A plugin that a run uses, as its config names it."""

    @property
    def table(self) -> str:
        """Its table in the config: ``model``, ``callbacks.best``."""

    @property
    def plugin(self) -> Any:
        """The plugin: its ``kind``, ``name``, and the ``entry`` under which it is installed."""


class MemberView(ChoiceView, Protocol):
    """A plugin at work in a run."""

    @property
    def instance(self) -> object:
        """The object with the hooks."""


class ConfigView(Protocol):
    """The complete config of a run, to read from."""

    @property
    def train(self) -> TrainOptions:
        """The options of the loop."""

    @property
    def plugins(self) -> Sequence[ChoiceView]:
        """Data, model, loss, optimizer, then the callbacks in their order."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Every value by its full key, with its origin."""

    def lasting(self, key: str) -> Any:
        """Return the value of a key, with absolute paths."""


class RunView(Protocol):
    """The part of a run that plugins may use; every hook is given one as ``run``.

    While the run is built it has the components that were built before; asking for a later one is an
    ``AttributeError``.
    """

    shared: dict[str, object]
    """Objects that plugins share, by name. The engine reads none of them."""
    micro_batch_size: int | None
    """Number of examples that go through the model at once; 0: all; None: the step has no parts. Plugins may set it."""
    num_ahead: int
    """Number of steps whose updates are already in the weights though ``step`` does not count them yet.

    Set by a plugin that takes several steps at once. The run neither saves nor stops until it is 0 again.
    """

    @property
    def config(self) -> ConfigView:
        """The complete config."""

    # ---- components ----------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Device of the model and of every batch."""

    @property
    def data(self) -> DataSource:
        """The data source."""

    @property
    def model(self) -> nn.Module:
        """The model, with all wrappers around it."""

    @property
    def unwrapped_model(self) -> nn.Module:
        """The model as its plugin built it."""

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss ``(prediction, target) -> scalar``."""

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer."""

    @property
    def backward(self) -> Callable[[Tensor], None]:
        """Adds the gradients of a loss to the parameters' ``grad``; for a step of your own."""

    @property
    def update(self) -> Callable[[], None]:
        """Updates the weights by their gradients; for a step of your own."""

    @property
    def finite_guard(self) -> Guard:
        """The check of losses and gradients; for a step of your own."""

    # ---- position ------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 1; 0 before the first."""

    @property
    def step(self) -> int:
        """Number of steps taken."""

    @property
    def position(self) -> int:
        """Number of batches of the current epoch that were used; 0 between two epochs."""

    @property
    def num_epochs(self) -> int:
        """Number of epochs that the run is to have."""

    @property
    def steps_per_epoch(self) -> int | None:
        """Number of steps in an epoch; None for a stream of unknown length."""

    @property
    def num_steps(self) -> int | None:
        """Number of steps that the run is to have; None where neither its data nor ``train.max_steps`` say it."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics that each epoch will have."""

    @property
    def stop_reason(self) -> str | None:
        """Reason for which the run ends early; None if it does not."""

    @property
    def interrupt_reason(self) -> str | None:
        """Reason for which the run is interrupted, to be resumed later; None if it is not."""

    # ---- numbers and notes ---------------------------------------------------------------------------------------

    @property
    def history(self) -> Sequence[Mapping[str, float]]:
        """The metrics of each epoch that has ended."""

    @property
    def summary(self) -> Mapping[str, Sequence[Row]]:
        """Tables that plugins reported, by title."""

    @property
    def warnings(self) -> Sequence[str]:
        """Problems that did not end the run."""

    # ---- requests ------------------------------------------------------------------------------------------------

    def batch_order(self, epoch: int) -> Tensor:
        """Return the indices of the training examples in the order of an epoch (from 1): int64 ``[num_examples]``."""

    def batch_indices(self, step: int | None = None) -> list[int]:
        """Return the indices of the examples of the current batch, or of an earlier step's; empty for a stream."""

    def generator(self, name: str) -> torch.Generator:
        """Return a new CPU generator whose numbers depend on the run's seed and on ``name`` alone."""

    @property
    def members(self) -> Sequence[MemberView]:
        """The plugins at work, in the order of the config."""

    def hook_order(self, hook: str) -> Sequence[tuple[MemberView, bool]]:
        """Return the plugins that implement a hook in the order of their calls, each with whether it is a wrapper."""

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the complete state; only in ``on_save_point`` and between two steps."""

    def report(self, title: str, rows: Sequence[Row]) -> None:
        """Add a table of plain values to the run's summary, which is shown when the run ends."""

    def warn(self, message: str) -> None:
        """Report a problem to every plugin, and continue."""

    def request_stop(self, reason: str) -> None:
        """End the run after this step: its epoch is evaluated and ended as usual, and no other begins."""

    def announce_checkpoint(self, path: Path) -> None:
        """Notify every plugin that a checkpoint was saved in the folder ``path``."""
