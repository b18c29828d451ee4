"""The hooks: everything that a plugin can do, and the marks that say so.

A plugin is an object with some methods named like the functions below and marked ``@hookimpl``. Such a method takes
``self`` and any of the arguments listed here, by name; those it does not need it leaves out.

Shapes, throughout: ``B`` examples in a batch, ``I`` input features, ``O`` values predicted for an example.

Build hooks are called once for each run, in the order in which they stand here. The plugins are asked in the order in
which the config lists them (data, model, loss, optimizer, then the callbacks), and the first result that is not None
wins. Wrappers (``@hookimpl(wrapper=True)``, a generator that yields once and returns the result) compose in that same
order: the first listed is the innermost.

Event hooks are called on every plugin that has them, in the order in which the config lists them; what they return is
ignored. ``@hookimpl(tryfirst=True)`` and ``trylast=True`` move an implementation to the front or to the end, for
example to see in ``on_run_end`` what the others report. An error raised in one ends the run as failed, with a note that
names the plugin; ``on_run_error`` and ``on_run_end`` alone are called on every plugin whatever the others do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from hookline.engine.data import DataSource, Predictor
    from hookline.engine.result import Outcome
    from hookline.engine.view import RunView


PROJECT = "hookline"
API_VERSION = "0.1"
"""Version of the hooks: the latest in which one was added or changed. Each hook says since which it is there."""


class Renamed(NamedTuple):
    """The new name of an argument of a hook, with the versions since which it is new and the old one is refused."""

    new: str
    since: str
    removed_in: str


RENAMED: dict[str, dict[str, Renamed]] = {}
"""For each hook, the old names of its arguments, which plugins may still take for one minor release."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Metric(Protocol):
    """Something that is measured over the batches of an evaluation; every ``torchmetrics.Metric`` is one."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Take in one batch: predictions ``[B, O]`` and targets ``[B, O]`` or ``[B]``, without gradients."""

    def compute(self) -> Tensor | float:
        """Return the metric over all batches since the last ``reset``: one number."""

    def reset(self) -> None:
        """Forget all batches."""


# ---- build hooks ----------------------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def build_data(run: RunView) -> DataSource:
    """Make or open the datasets.

    Called first, before there is a model. ``run.generator("data")`` gives random numbers that depend on the run's seed
    and on nothing else.

    Args:
        run: The run that is being built; its ``config`` and ``seed`` are set, nothing else yet.

    Returns:
        The datasets, which from then on belong to the run.

    Raises:
        DataError: When the data cannot be read or used; carries every fault that could be found.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_order(run: RunView, data: DataSource) -> Callable[[int], Tensor]:
    """Make the order in which the training examples are gone through, in the place of a random permutation.

    Called after ``build_data``. Steps take consecutive examples of the order, so an order also says which examples
    share a batch.

    Args:
        run: The run that is being built; it has ``data``.
        data: The data source.

    Returns:
        A callable ``(epoch) -> indices``: for an epoch (from 1) the indices of the examples, int64 ``[N]``, with the
        same ``N`` in each. It must depend on the epoch and the run's seed alone (``run.generator(name)``), so that a
        run can be taken up in the middle.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_model(run: RunView, data: DataSource) -> nn.Module:
    """Make the model.

    Called after ``build_data``, with torch's global random generator seeded from the run's seed; the generator is as
    before when the hook returns. The model is then moved to the run's dtype.

    Args:
        run: The run that is being built; it has ``data``.
        data: The data source, for its sizes and names.

    Returns:
        A module that maps inputs ``[B, I]`` to predictions ``[B, O]``. Its initial weights are part of the result.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_loss(run: RunView, data: DataSource) -> Callable[[Tensor, Tensor], Tensor]:
    """Make the loss.

    Called after ``build_model``.

    Args:
        run: The run that is being built; it has ``data`` and ``model``.
        data: The data source.

    Returns:
        A callable ``(prediction, target) -> loss``: a scalar of a floating dtype, connected to the prediction's graph,
        the mean over the batch.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec
def build_metrics(run: RunView, data: DataSource) -> Mapping[str, Metric]:
    """Make what is measured in each evaluation beside the loss.

    Called after ``build_loss`` on every plugin that has it; the results are put together. A name given twice is an
    error.

    Args:
        run: The run that is being built; it has ``data``, ``model`` and ``loss``.
        data: The data source.

    Returns:
        Metrics by name. The run reports ``accuracy`` of the split ``validation`` as ``validation/accuracy``.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_optimizer(run: RunView, model: nn.Module) -> Optimizer:
    """Make the optimizer.

    Called after all wrappers of ``build_model``, and after a first batch went through model and loss.

    Args:
        run: The run that is being built; it has ``data``, ``model`` and ``loss``.
        model: The model, as the last wrapper returned it.

    Returns:
        An optimizer over parameters of that model.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_backward(run: RunView) -> Callable[[Tensor], None]:
    """Make what computes the gradients of a loss.

    Called after ``build_optimizer``. Wrap it to change the loss that gradients are taken of, for example to scale it.
    Without a wrapper it does what ``loss.backward()`` does.

    Args:
        run: The run that is being built; it has ``data``, ``model``, ``loss`` and ``optimizer``.

    Returns:
        A callable ``(loss) -> None`` that adds the gradients to the parameters' ``grad``. It is ``run.backward``.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_update(run: RunView) -> Callable[[], None]:
    """Make what updates the weights when their gradients are there.

    Called after ``build_backward``. Wrap it to change the gradients before the update, or to follow the weights after
    it. Without a wrapper it checks that the gradients are finite (``train.non_finite``) and calls
    ``optimizer.step()``.

    Args:
        run: The run that is being built; it has ``data``, ``model``, ``loss`` and ``optimizer``.

    Returns:
        A callable ``() -> None``. It is ``run.update``.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_step(run: RunView) -> Callable[[Any], Tensor]:
    """Make the training step: what is done with one batch.

    Called last. Without an implementation the run takes its own step: ``zero_grad``, forward, loss, ``run.backward``,
    ``run.update``; an optimizer whose ``step`` needs a closure gets one. A plugin with a step of its own answers for
    its batches, so the run does not try one before.

    Args:
        run: The run that is being built; it has ``data``, ``model``, ``loss`` and ``optimizer``.

    Returns:
        A callable ``(batch) -> loss`` that updates the weights and returns the detached loss, a scalar.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_reader(run: RunView) -> Callable[[int, int], Iterator[Any]]:
    """Make the reader of the training batches.

    Called after ``build_step``. Wrap it to see or group the batches before the step does: a step that takes several
    batches at once looks ahead here. Without a wrapper it reads the batches in their order.

    Args:
        run: The run that is being built; it has everything else.

    Returns:
        A callable ``(epoch, start) -> batches``: gives the batches of an epoch (from 1), without the first ``start``.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_predictor(run: RunView, data: DataSource) -> Predictor:
    """Make what reads new inputs for the trained model, and names what it predicts.

    Called when predictions are asked for, in a run of which only the model is built. The training data need not be
    there any more.

    Args:
        run: The run, which has ``data`` and ``model``.
        data: The sizes, names and ``kept`` of the data source that the model was trained with. Its dataset is one
            example of zeros.

    Returns:
        A ``Predictor``, which reads inputs as those of the training were: scaled by the same numbers, for instance.

    Since 0.1.
    """
    raise NotImplementedError


# ---- event hooks ----------------------------------------------------------------------------------------------------


@hookspec
def on_run_start(run: RunView) -> None:
    """Everything is built; no step was taken.

    Args:
        run: The run. ``run.epoch`` and ``run.step`` are 0.

    Since 0.1.
    """


@hookspec
def on_epoch_start(run: RunView) -> None:
    """An epoch begins.

    Args:
        run: The run. ``run.epoch`` counts from 1 and names the epoch that begins.

    Since 0.1.
    """


@hookspec
def on_step_end(run: RunView, loss: Tensor) -> None:
    """The weights were updated with one batch.

    Called for every batch. Keep it short; ``loss.item()`` waits for an accelerator to finish, so do it seldom.

    With ``train.fuse_steps`` it is called once for each step of a block when all of them were taken. A plugin that has
    it says by ``allows_fused_steps = True`` that this does not matter to it; it is refused otherwise.

    Args:
        run: The run. ``run.step`` counts from 1 and includes this step.
        loss: Loss of the batch before the update: a scalar, detached, on the run's device, not synchronised.

    Since 0.1.
    """


@hookspec
def on_evaluation_start(run: RunView) -> None:
    """An evaluation begins.

    Args:
        run: The run. What is done to ``run.model`` here, such as putting averaged weights in, is to be undone in
            ``on_evaluation_end``, and in ``on_run_end`` if that was not called.

    Since 0.1.
    """


@hookspec
def on_evaluation_end(run: RunView, metrics: Mapping[str, float]) -> None:
    """An evaluation ended.

    Called when some split was evaluated: at the end of an epoch, before ``on_epoch_end``, or after a step, after
    ``on_step_end`` (``train.evaluate_every_steps``).

    Args:
        run: The run.
        metrics: The evaluation's numbers, such as ``validation/loss``; read only.

    Since 0.1.
    """


@hookspec
def on_save_point(run: RunView, is_last: bool) -> None:
    """The run stands between two steps: what it needs to go on from here can be kept now.

    Called after each step, when ``on_step_end`` and what it led to are over, after each ``on_epoch_end``, and once when
    no step will follow, before ``on_run_end``. Not when the run fails. ``run.state_dict()`` works here, and in no other
    event.

    Args:
        run: The run.
        is_last: Whether no step follows: the run is complete, was stopped, or was interrupted.

    Since 0.1.
    """


@hookspec
def on_checkpoint_saved(run: RunView, path: Path) -> None:
    """The state of the run was kept, and is on the disk.

    Called on every plugin that was started, when a plugin says so with ``run.announce_checkpoint(path)``.

    Args:
        run: The run, at a save point.
        path: The folder that holds the state; never written to again.

    Since 0.1.
    """


@hookspec
def on_epoch_end(run: RunView, metrics: Mapping[str, float]) -> None:
    """An epoch ended and was evaluated.

    Args:
        run: The run. ``run.epoch`` names the epoch that ended. ``run.request_stop(reason)`` makes it the last.
        metrics: All numbers of the epoch: ``train/running_loss``, the mean loss of its steps weighted by batch size,
            and those of the evaluation; read only.

    Since 0.1.
    """


@hookspec
def on_warning(run: RunView, message: str) -> None:
    """Something is wrong without ending the run.

    Called on every plugin that was started, when the run itself warns or a plugin calls ``run.warn(message)``. What
    was wrong before a plugin was started stands in ``run.warnings``.

    Args:
        run: The run. ``run.warnings`` has the message already.
        message: What is wrong, and what was done about it.

    Since 0.1.
    """


@hookspec
def on_run_error(run: RunView, error: BaseException) -> None:
    """The run failed or was interrupted.

    Called on every plugin, each guarded from the others, before ``on_run_end``.

    Args:
        run: The run, as the error left it.
        error: What was raised. It is raised again when all plugins have seen it.

    Since 0.1.
    """


@hookspec
def on_run_end(run: RunView, outcome: Outcome) -> None:
    """The run is over, in whatever way: close what was opened.

    Called once on every plugin, each guarded from the others: the first error is raised when all were called, later
    ones are attached to it as notes.

    Args:
        run: The run. ``run.report(title, rows)`` adds to its summary.
        outcome: ``completed``, ``stopped``, ``interrupted`` or ``failed``.

    Since 0.1.
    """
