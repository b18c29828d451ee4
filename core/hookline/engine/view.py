"""``RunView``: the part of a run that plugins see.

Shapes: ``B`` examples in a batch, ``I`` input features, ``O`` values predicted for an example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import os

    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from hookline.engine.data import DataSource
    from hookline.engine.ranks import Ranks
    from hookline.engine.train_options import TrainOptions

Row = Mapping[str, str | int | float | bool | None]
LossFunction = Callable[["Tensor", "Tensor"], "Tensor"]
StepFunction = Callable[[Any], "Tensor"]
Reduction = Literal["mean", "last", "sum", "max"]


class Metric(Protocol):
    """A measurement over the batches of an evaluation; every ``torchmetrics.Metric`` is one.

    With an attribute ``splits``, names of splits, it is measured in those alone. An attribute ``higher_is_better``, as
    torchmetrics has it, says by which values models are ranked: the larger ones, or the smaller ones.
    """

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add one batch: predictions ``[B, O]`` and targets ``[B, O]`` or ``[B]``, without gradients."""

    def compute(self) -> Any:
        """Return the metric over all batches since the last ``reset``: a number, or a mapping, vector or matrix."""

    def reset(self) -> None:
        """Forget all batches."""


class Evaluated(NamedTuple):
    """The result of an evaluation of one batch.

    Attributes:
        loss: The loss, a scalar.
        weight: Weight of its numbers in the means over the batches; None: the number of examples in the batch.
        prediction: The predictions, for metrics; None: there are none.
        target: The targets, for metrics.
        numbers: Further numbers by name, scalars; the run reports their means beside the loss.
    """

    loss: Tensor
    weight: int | Tensor | None = None
    prediction: Any = None
    target: Any = None
    numbers: Mapping[str, Tensor | float] = {}


Evaluation = Callable[[Any], Evaluated]


@dataclass(frozen=True)
class Trial:
    """Access to the first batches of a run before its first step, to try its components with them.

    Attributes:
        num_examples: The splits to try, each with the number of its examples in an epoch; None for a stream. If a
            plugin implements the step, the training split is one only if it is evaluated.
        first: Returns the first batch of a split; a stream yields it again.
        forward: Passes a batch through model and loss.
        evaluation: Evaluates a batch.
        metrics: The metrics, by name.
        measure: Measures a batch of a split by an evaluation, and checks that its metrics return numbers.
        maker_of: Returns the plugin whose object raised an error, and the hook that returned the object; None if no
            plugin did.
        attributing: Context that adds the plugin to errors of its objects, or to those of a given object.
    """

    num_examples: Mapping[str, int | None]
    first: Callable[[str], Any]
    forward: Any
    evaluation: Evaluation
    metrics: Mapping[str, Any]
    measure: Callable[[str, Any, Evaluation], None]
    maker_of: Callable[[BaseException], tuple[Any, str | None] | None]
    attributing: Callable[..., AbstractContextManager[None]]


class Guard:
    """The check of losses and gradients in a step; this class accepts all.

    Attributes:
        has_skipped: Whether the update of the last step was skipped; reset when the step is counted.
        is_used: Whether a plugin has asked for it.
    """

    has_skipped = is_used = False

    def accepts_loss(self, loss: Tensor, batch: Any = None) -> bool:  # noqa: ARG002 - for subclasses
        """Return whether to continue with a loss, a scalar tensor; False to skip the step."""
        return True

    def accepts_gradients(self) -> bool:
        """Return whether to continue with the gradients of the optimized parameters; False to skip the update."""
        return True

    def accepts_losses(self) -> bool:
        """Return whether the losses of all ranks in this step are finite; all ask, once their gradients are not."""
        return True

    def note_finite_update(self) -> None:
        """Record an update whose values were found finite elsewhere."""

    def held(self, update: Callable[[], object]) -> Callable[[], object]:
        """Return the optimizer's update, or one that does nothing once a step was not finite."""
        return update

    def check_use(self) -> None:
        """Check, after the first step, that the step has asked for the check if it has to."""

    def look(self) -> None:
        """Wait for the device, and report a step that was not finite; called before a state or an epoch ends."""


class ChoiceView(Protocol):
    """A plugin of a run, as named in the config."""

    @property
    def table(self) -> str:
        """Its table in the config: ``model``, ``callbacks.best``."""

    @property
    def plugin(self) -> Any:
        """The plugin, with its ``kind``, ``name`` and installed ``entry``."""


class MemberView(ChoiceView, Protocol):
    """A plugin of a run, with the object made from it."""

    @property
    def instance(self) -> object:
        """The object that implements the hooks."""


class ConfigView(Protocol):
    """The complete config of a run, read-only."""

    @property
    def train(self) -> TrainOptions:
        """The options of the loop."""

    @property
    def plugins(self) -> Sequence[ChoiceView]:
        """Data, model, loss, optimizer, then the callbacks in their order."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """All values by their full keys, with their origins."""

    def lasting(self, key: str) -> Any:
        """Return the value of a key, with paths made absolute."""


class RunView(Protocol):
    """The part of a run that plugins see; hooks receive it as ``run``.

    While the run is built, it has the components built so far; access to a later one raises ``AttributeError``. So does
    setting anything but ``micro_batch_size`` and ``num_ahead``.
    """

    micro_batch_size: int | None
    """Number of examples that pass through the model at once; 0: all; None: the step does not split batches.

    Plugins may set it.
    """
    num_ahead: int
    """Number of steps whose updates are in the weights but not yet in ``step``.

    Set by a plugin that takes several steps at once. The run neither saves nor stops until it is 0 again.
    """

    @property
    def shared(self) -> dict[str, object]:
        """Objects that plugins share, by name; the engine ignores them."""

    @property
    def config(self) -> ConfigView:
        """The complete config."""

    @property
    def ranks(self) -> Ranks:
        """The processes that train together, and the number of this one.

        In one process, ``gather`` returns the value of this one, and ``sum`` the numbers themselves, so a plugin calls
        them without asking how many ranks there are. All ranks must call them in the same order. A plugin that only
        rank 0 has, by the class attribute ``ranks = "zero"``, cannot call them, nor ``state_dict``.
        """

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
        """Function that adds the gradients of a loss to the ``grad`` of the parameters; for custom steps."""

    @property
    def update(self) -> Callable[[], None]:
        """Function that updates the weights by their gradients; for custom steps."""

    @property
    def finite_guard(self) -> Guard:
        """The check of losses and gradients; for custom steps."""

    # ---- position ------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 1; 0 before the first."""

    @property
    def step(self) -> int:
        """Number of steps taken."""

    @property
    def position(self) -> int:
        """Number of batches used in the current epoch; 0 between two epochs."""

    @property
    def steps_per_epoch(self) -> int | None:
        """Number of steps in an epoch; None for a stream of unknown length."""

    @property
    def num_steps(self) -> int | None:
        """Number of steps of the run; None if neither the data nor ``train.max_steps`` determine it."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics of each epoch, without logged values."""

    @property
    def stop_reason(self) -> str | None:
        """Reason for which the run is stopped; None if it is not."""

    @property
    def interrupt_reason(self) -> str | None:
        """Reason for which the run is interrupted; None if it is not."""

    # ---- numbers and notes ---------------------------------------------------------------------------------------

    @property
    def history(self) -> Sequence[Mapping[str, float]]:
        """The metrics of each completed epoch."""

    @property
    def summary(self) -> Mapping[str, Sequence[Row]]:
        """Tables that plugins reported, by title."""

    @property
    def warnings(self) -> Sequence[str]:
        """Problems that did not end the run."""

    # ---- requests ------------------------------------------------------------------------------------------------

    def batch_order(self, epoch: int) -> Tensor:
        """Return the indices of the training examples in the order of an epoch (from 1), int64 ``[num_examples]``."""

    def batch_indices(self, step: int | None = None) -> list[int]:
        """Return the indices of the examples in the current batch, or in that of ``step``; empty for a stream."""

    def generator(self, name: str) -> torch.Generator:
        """Return a new CPU generator that depends on the seed of the run and on ``name`` alone."""

    @property
    def members(self) -> Sequence[MemberView]:
        """The plugins, in the order of the config."""

    def hook_order(self, hook: str) -> Sequence[tuple[MemberView, bool]]:
        """Return the plugins that implement a hook in calling order, each with a flag that marks wrappers."""

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the complete state; in ``on_save_point`` and between two steps only.

        Of a tensor that is shared out among ranks, it has the part of this rank: see ``Ranks.whole``.
        """

    def report(self, title: str, rows: Sequence[Row]) -> None:
        """Add a table of plain values to the summary, which is shown when the run ends."""

    def log(self, name: str, value: float | Tensor, reduce: Reduction = "mean") -> None:
        """Log a number, or a tensor without dimensions, from any hook or from the step; do not wait for its device.

        The values of a name are reduced over ``train.log_every_steps`` steps, and reported in ``on_log``; and over the
        epoch, whose metrics have the result as ``logged/NAME``, unless ``reduce`` is ``last``.
        Values of an evaluation, in which a loss may log as well, do not count: see ``build_evaluation``.

        Args:
            name: Name, unlike that of a metric.
            value: The value; of a tensor on an accelerator, a copy is kept there.
            reduce: ``mean``, ``last``, ``sum`` or ``max``; the same for every value of this name.

        Raises:
            TypeError: When the name is not text.
            ContractError: When a metric has this name, the value is not a single number, or the reduction another one.
        """

    def warn(self, message: str) -> None:
        """Report a problem to every plugin, and continue."""

    def request_stop(self, reason: str) -> None:
        """Stop the run after this step; its epoch is evaluated and ended as usual."""

    def announce_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Notify every plugin that a checkpoint was saved in the folder ``path``."""
