"""The hooks that plugins can implement, and the markers for them.

A plugin is an object with methods that are named like the functions below and marked ``@hookimpl``. Such a method takes
``self`` and any of the arguments listed here, by name; it leaves out those it does not need.

Shapes, throughout: ``B`` examples in a batch, ``I`` input features, ``O`` values predicted for an example.

Build hooks are called once per run, in the order in which they are defined here. The plugins are called in the order of
the config (data, model, loss, optimizer, parallel, then the callbacks), and the first result that is not None wins.
Wrappers (``@hookimpl(wrapper=True)``, a generator that yields once and returns the result) compose in that same order:
the first listed is the innermost.

Event hooks are called on every plugin that implements them, in the order of the config; their results are ignored.
``@hookimpl(tryfirst=True)`` and ``trylast=True`` move an implementation to the front or to the end, for example to see
in ``on_run_end`` the reports of the others. An error in an event ends the run as failed, with a note that names the
plugin; only ``on_run_error`` and ``on_run_end`` are called on every plugin whatever the others raise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from hookline.engine.data import DataSource, Predictor
    from hookline.engine.ranks import Parallel
    from hookline.engine.result import Outcome
    from hookline.engine.view import Evaluated, Guard, Metric, RunView, Trial


PROJECT = "hookline"
API_VERSION = "0.1"
"""Version of the hooks: the latest version of Hookline in which a hook was added or changed."""


hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


# ---- build hooks ----------------------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def build_data(run: RunView) -> DataSource:
    """Make or open the datasets.

    Called first. ``run.generator("data")`` returns a random generator that depends on the seed of the run alone.

    Args:
        run: The run under construction; it has ``config`` and ``device``.

    Returns:
        The datasets, which belong to the run from then on.

    Raises:
        DataError: When the data cannot be read or used; with every fault that could be found.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_order(run: RunView, data: DataSource) -> Callable[[int], Tensor]:
    """Make the order of the training examples, instead of a random permutation.

    Called after ``build_data``. A step takes consecutive examples of the order, so the order also determines which
    examples share a batch.

    Args:
        run: The run under construction; it has ``data``.
        data: The data source.

    Returns:
        A callable ``(epoch) -> indices``: the indices of the examples of an epoch (from 1), int64 ``[N]``, with the
        same ``N`` in each epoch. It must depend on the epoch and the seed of the run alone (``run.generator(name)``),
        so that a run can be resumed within an epoch.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_model(run: RunView, data: DataSource) -> nn.Module:
    """Make the model.

    Called after ``build_data``, with torch's global random generator seeded from the seed of the run; its state is
    restored afterwards. The model is then moved to the device and the dtype of the run.

    Args:
        run: The run under construction; it has ``data``.
        data: The data source, for its sizes and names.

    Returns:
        A module that maps inputs ``[B, I]`` to predictions ``[B, O]``, or either of another form: inputs that are a
        mapping are passed by name if its ``forward`` has such parameters, and the prediction is its output or the
        ``logits`` of that. Its initial weights are part of the result.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_loss(run: RunView, data: DataSource) -> Callable[[Tensor, Tensor], Tensor]:
    """Make the loss.

    Called after ``build_model``.

    Args:
        run: The run under construction; it has ``data`` and ``model``.
        data: The data source.

    Returns:
        A callable ``(prediction, target) -> loss``: the mean over the batch, a scalar of a floating dtype that depends
        on the prediction. A weighted mean has an attribute ``batch_weight``, a callable ``(target) -> weight``: the
        weight of the batch, a scalar tensor. None there declares that the loss is no mean over the examples. Further
        parameters named ``inputs``, ``output`` and ``run`` get the inputs, the whole output of the model, and the run.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec
def build_metrics(run: RunView, data: DataSource) -> Mapping[str, Metric]:
    """Make the metrics to measure in each evaluation, in addition to the loss.

    Called after ``build_loss`` on every plugin that implements it; the results are combined. A name given twice is an
    error.

    Args:
        run: The run under construction; it has ``data``, ``model`` and ``loss``.
        data: The data source.

    Returns:
        Metrics by name. The run reports ``accuracy`` of the split ``validation`` as ``validation/accuracy``, and those
        of several numbers as ``validation/recall/0``, or by the names of the classes, ``validation/recall/cat``.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_evaluation(run: RunView) -> Callable[[Any], Evaluated]:
    """Make the function that evaluates one batch.

    Called after ``build_metrics``. Without an implementation, batches are evaluated as the default step takes them: the
    loss of the model's prediction and the target, which the metrics get, too. A plugin that implements ``build_step``
    implements this one as well, unless that suits it.

    Args:
        run: The run under construction; it has ``data``, ``model`` and ``loss``.

    Returns:
        A callable ``(batch) -> Evaluated``, called without gradients and in eval mode: the loss, its weight, prediction
        and target for the metrics, and further numbers, whose means the run reports: ``kl`` of the split ``validation``
        as ``validation/kl``. They must have the same names for each batch.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_parallel(run: RunView, model: nn.Module) -> Parallel:
    """Make the model one that several ranks train together.

    Called after all wrappers of ``build_model``, and after ``on_model_built``, in a run of several ranks alone. Each
    rank passes its part of a batch through the module; in the backward pass, its gradients must become the sums of
    those of all ranks.

    Args:
        run: The run under construction; it has ``ranks``, ``data``, ``model`` and ``loss``.
        model: The model, as the last wrapper returned it.

    Returns:
        The module to train with, and how to accumulate gradients and to synchronize buffers: a ``Parallel``.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_optimizer(run: RunView, model: nn.Module) -> Optimizer:
    """Make the optimizer.

    Called after all wrappers of ``build_model``, and after ``on_model_built``.

    Args:
        run: The run under construction; it has ``data``, ``model`` and ``loss``.
        model: The model, as the last wrapper returned it.

    Returns:
        An optimizer over parameters of that model.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_guard(run: RunView) -> Guard:
    """Make the check of losses and gradients, which keeps what is not finite from the weights.

    Called after ``build_optimizer``. Without a plugin that implements it, the check is that of ``train.non_finite``.

    Args:
        run: The run under construction; it has ``data``, ``model``, ``loss`` and ``optimizer``.

    Returns:
        A ``hookline.engine.Guard``, which the steps ask as ``run.finite_guard``.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_backward(run: RunView) -> Callable[[Tensor], None]:
    """Make the function that computes the gradients of a loss.

    Called after ``build_optimizer``. Wrap it to change the loss before it is differentiated, for example to scale it.
    Without a wrapper it is equivalent to ``loss.backward()``.

    Args:
        run: The run under construction; it has ``data``, ``model``, ``loss`` and ``optimizer``.

    Returns:
        A callable ``(loss) -> None`` that adds the gradients to the ``grad`` of the parameters: ``run.backward``.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_update(run: RunView) -> Callable[[], None]:
    """Make the function that updates the weights by their gradients.

    Called after ``build_backward``. Wrap it to change the gradients before the update, or to use the weights after it.
    Without a wrapper it checks that the gradients are finite (``train.non_finite``) and calls ``optimizer.step()``.

    Args:
        run: The run under construction; it has ``data``, ``model``, ``loss`` and ``optimizer``.

    Returns:
        A callable ``() -> None``: ``run.update``.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_step(run: RunView) -> Callable[[Any], Tensor]:
    """Make the training step, the function that is called for each batch.

    Called after ``build_update``. Without an implementation, the run uses the default step: ``zero_grad``, forward,
    loss, ``run.backward``, ``run.update``; an optimizer whose ``step`` requires a closure gets one. If a plugin
    implements it, the callback ``try-first-batch`` skips the training batches, because their form is up to that plugin.

    Args:
        run: The run under construction; it has ``data``, ``model``, ``loss`` and ``optimizer``.

    Returns:
        A callable ``(batch) -> loss`` that updates the weights and returns the detached loss, a scalar.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_reader(run: RunView) -> Callable[[int, int], Iterator[Any]]:
    """Make the reader of the training batches.

    Called last. Wrap it to see or group the batches before the step: a step that takes several batches at once looks
    ahead here. Without a wrapper, the batches are read in their order.

    Args:
        run: The run under construction; it has all other components.

    Returns:
        A callable ``(epoch, start) -> batches``: an iterator over the batches of an epoch (from 1), without the first
        ``start``.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec
def build_evaluated_weights(run: RunView) -> Callable[[], Iterable[tuple[Tensor, Tensor]]]:
    """Make the function that gives the weights to evaluate, where they are not those that are trained.

    Called after ``build_reader`` on every plugin that implements it: for averages, for pruned weights, or for an
    optimizer whose gradients are taken elsewhere. Each evaluation loads the values, from before ``on_evaluation_start``
    until ``on_evaluation_end`` has returned, and then restores the trained weights, to the last bit. They are also the
    final weights of a run that completes or that a plugin stops, from before ``on_run_end``. A state has both.

    Args:
        run: The run under construction; it has all components.

    Returns:
        A callable ``() -> pairs``: parameters or buffers of ``run.model`` or ``run.loss``, each with the value to
        evaluate, of the same shape. It must change nothing, and may be called before ``on_run_start``. Several plugins
        are asked in turn; a later one finds the values of the earlier ones in the model.

    Since 0.1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def build_predictor(run: RunView, data: DataSource) -> Predictor:
    """Make the reader of new inputs for the trained model, which also names its predictions.

    Called when predictions are requested, in a run of which only the model is built. The training data need not exist
    any more.

    Args:
        run: The run; it has ``data`` and ``model``.
        data: The sizes, names and ``kept`` of the data source that the model was trained with. Its dataset is one
            example of zeros.

    Returns:
        A ``Predictor`` that prepares inputs like those of the training, for instance scaled by the same numbers.

    Since 0.1.
    """
    raise NotImplementedError


# ---- event hooks ----------------------------------------------------------------------------------------------------


@hookspec
def on_model_built(run: RunView, trial: Trial) -> None:
    """Data, model, loss and metrics are built, and no optimizer yet.

    Called once, before ``build_optimizer`` and long before ``on_run_start``, in an evaluation of a saved run as well.
    Raise an error to refuse components that do not fit together.

    Args:
        run: The run under construction; it has ``data``, ``model`` and ``loss``.
        trial: The first batches of the run, and the names of those who made its components.

    Since 0.1.
    """


@hookspec
def on_run_start(run: RunView, state: Mapping[str, Any] | None) -> None:
    """The run is built and no step was taken.

    Called once. A plugin counts as started when this hook has returned.

    Args:
        run: The run. ``run.epoch`` and ``run.step`` are 0, or in a resumed run those of the checkpoint.
        state: In a resumed run the state of this plugin, for instance the ID of a run elsewhere, which
            ``load_state_dict`` gets once every plugin has started; None otherwise.

    Since 0.1.
    """


@hookspec
def on_epoch_start(run: RunView) -> None:
    """An epoch begins.

    Called before the first step of each epoch; not in a run that resumes within the epoch.

    Args:
        run: The run. ``run.epoch`` is the number of the epoch, from 1.

    Since 0.1.
    """


@hookspec
def on_step_end(run: RunView, loss: Tensor) -> None:
    """The weights were updated with one batch.

    Called after each step. Keep it short, and call ``loss.item()`` seldom: it waits for an accelerator.

    With the callback ``fuse-steps`` it is called for each step of a block once all of them were taken. That callback
    refuses a plugin that implements this hook without the class attribute ``allows_fused_steps = True``.

    Args:
        run: The run. ``run.step`` counts from 1 and includes this step.
        loss: Loss of the batch before the update: a scalar, detached, on the device of the run, not synchronized.

    Since 0.1.
    """


@hookspec
def on_log(run: RunView, values: Mapping[str, float]) -> None:
    """An interval ended in which plugins logged values by ``run.log``.

    Called after ``on_step_end`` of each step whose number is a multiple of ``train.log_every_steps``, at the end of an
    epoch before ``on_epoch_end``, and when no step will follow; only if there are values.

    Args:
        run: The run. ``run.step`` is the last step of the interval.
        values: The values of the interval, each reduced to one number, by the names under which they were logged;
            read-only.

    Since 0.1.
    """


@hookspec
def on_evaluation_start(run: RunView) -> None:
    """An evaluation begins.

    Called before any split is evaluated; not if there is none.

    Args:
        run: The run. To evaluate other weights than those that are trained, implement ``build_evaluated_weights``.

    Since 0.1.
    """


@hookspec
def on_evaluation_end(run: RunView, metrics: Mapping[str, float]) -> None:
    """An evaluation ended.

    Called at the end of an epoch, before ``on_epoch_end``, and with ``train.evaluate_every_steps`` after
    ``on_step_end``; not if there is no split to evaluate.

    Args:
        run: The run.
        metrics: The metrics of the evaluation, such as ``validation/loss``; read-only.

    Since 0.1.
    """


@hookspec
def on_save_point(run: RunView, is_last: bool) -> None:
    """The run is between two steps, and its state can be saved.

    Called after each step, after ``on_step_end`` and an evaluation due there; after each ``on_epoch_end``; and once
    when no step will follow, before ``on_run_end``. Not called when the run fails. ``run.state_dict()`` is available in
    this event only.

    Args:
        run: The run.
        is_last: Whether no step follows: the run is complete, stopped or interrupted.

    Since 0.1.
    """


@hookspec
def on_checkpoint_saved(run: RunView, path: Path) -> None:
    """A checkpoint was saved and is on the disk.

    Called on every started plugin when a plugin calls ``run.announce_checkpoint(path)``.

    Args:
        run: The run, at a save point.
        path: The folder of the checkpoint; never written to again.

    Since 0.1.
    """


@hookspec
def on_epoch_end(run: RunView, metrics: Mapping[str, float]) -> None:
    """An epoch ended.

    Called after its evaluation, if one was due.

    Args:
        run: The run. ``run.epoch`` is the number of the epoch. ``run.request_stop(reason)`` makes it the last.
        metrics: The metrics of the epoch: ``train/running_loss``, the mean loss of its steps weighted by batch size,
            and those of the evaluation; read-only.

    Since 0.1.
    """


@hookspec
def on_warning(run: RunView, message: str) -> None:
    """A problem occurred that does not end the run.

    Called on every started plugin when the run warns or a plugin calls ``run.warn(message)``. Earlier warnings are in
    ``run.warnings``.

    Args:
        run: The run. ``run.warnings`` includes the message.
        message: The problem, and how it was handled.

    Since 0.1.
    """


@hookspec
def on_run_error(run: RunView, error: BaseException) -> None:
    """The run failed or was interrupted.

    Called before ``on_run_end`` on every started plugin, whatever the others raise; not after ``run.interrupt``.

    Args:
        run: The run, in the state in which the error left it.
        error: The error. It is raised again after ``on_run_end``.

    Since 0.1.
    """


@hookspec
def on_run_end(run: RunView, outcome: Outcome) -> None:
    """The run is over; release resources here.

    Called once on every started plugin, whatever the others raise. The first error is raised when all were called;
    later ones are attached to it as notes.

    Args:
        run: The run. ``run.report(title, rows)`` adds to its summary.
        outcome: ``completed``, ``stopped``, ``interrupted`` or ``failed``.

    Since 0.1.
    """
