"""Callback ``averaging``: an average of the weights, for evaluations and for the final model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from hookline import ConfigError, hookimpl
from hookline.trained import Snippet
from hookline_plugins.callback_parts.weights import copied, put, taken_over, weights_of

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import RunView


@dataclass
class Averaging:
    """An average of the weights, for evaluations and for the final model; training itself does not change.

    The first counted weights ``w_1`` are the average ``a_1``. From then on

    - ``ema``, after each update: ``a = decay a + (1 - decay) w``. Source: B. T. Polyak and A. B. Juditsky,
      "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 30 (1992), with the exponential
      weights of ``torch.optim.swa_utils``, which also sets the default ``decay``;
    - ``swa``, after each epoch: ``a_n = a_(n-1) + (w_n - a_(n-1)) / n``, the mean. Source: P. Izmailov et al.,
      "Averaging Weights Leads to Wider Optima and Better Generalization", https://arxiv.org/abs/1803.05407. An
      evaluation within an epoch uses the average as if the epoch ended there.

    Buffers of finite floating-point numbers, such as the statistics of batch normalization, are averaged as well;
    others, such as counters and masks, are copied from the model.

    In a run that resumes with another ``method``, or a later ``start_epoch``, the average begins anew.

    With ``at_end = "averaged"`` the model has the averaged weights after a run that completed or that a plugin
    stopped; after any other ending it has the trained weights.
    """

    method: Annotated[
        Literal["ema", "swa"], Meta(description="exponential moving average of all updates, or mean over epochs")
    ] = "ema"
    decay: Annotated[float, Meta(ge=0, lt=1, description="weight of the previous average in an 'ema' update")] = 0.999
    start_epoch: Annotated[int, Meta(ge=1, description="first epoch to average")] = 1
    at_end: Annotated[Literal["averaged", "raw"], Meta(description="weights of the model after the run")] = "averaged"

    def __post_init__(self) -> None:
        self._forget()

    @property
    def allows_fused_steps(self) -> bool:
        """True unless every single update counts."""
        return self.method != "ema"

    def _forget(self) -> None:
        self._run: RunView | None = None
        self._averaged_names: list[str] = []
        self._average: dict[str, Tensor] = {}
        self._num_averaged = 0
        self._is_over = False
        self._detach: Callable[[], None] | None = None

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Start following the optimizer's updates."""
        self._forget()
        self._warn_if_too_short(run)
        self._run = run
        weights = self._weights()
        self._averaged_names = [name for name, tensor in weights.items() if _is_averaged(run, tensor)]
        if self.method == "ema":
            # Not in on_step_end: a step may accumulate gradients or skip the update.
            self._detach = run.optimizer.register_step_post_hook(lambda *_: self._count(run)).remove

    @hookimpl
    def build_evaluated_weights(self, run: RunView) -> Callable[[], Iterable[tuple[Tensor, Tensor]]]:
        """Return the function that gives the average, once there is one."""
        return lambda: self._pairs(self._average_now(run))

    # Last, so that the checkpoint of an interrupted run still has the average that was evaluated.
    @hookimpl(trylast=True)
    def on_save_point(self, is_last: bool) -> None:
        """Give no average any more, if the model is to end with its trained weights."""
        self._is_over = is_last and self.at_end == "raw"

    @hookimpl
    def on_epoch_end(self, run: RunView) -> None:
        """Count the weights at the end of the epoch."""
        if self.method == "swa":
            self._count(run)

    @hookimpl
    def on_run_end(self) -> None:
        """Stop following the optimizer."""
        if self._detach:
            self._detach()

    def state_dict(self) -> dict[str, Any]:
        """Return the average, its method and first epoch, and the number of weights in it."""
        kind = {"method": self.method, "start_epoch": self.start_epoch}
        return {**kind, "num_averaged": self._num_averaged, "average": dict(self._average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from ``state_dict``; an average of another kind, or of earlier epochs, begins anew."""
        if state["method"] != self.method or state["start_epoch"] < self.start_epoch:
            return
        assert self._run is not None, "the run was started"
        self._num_averaged = state["num_averaged"]
        self._average = taken_over(self._run, state["average"])

    def script(self, run: RunView) -> Snippet:
        """Return the average as source code.

        Raises:
            ConfigError: When torch's ``AveragedModel`` gives other numbers.
        """
        from hookline_plugins.commands.ejecting.text import call

        if any(buffer.is_floating_point() for buffer in run.unwrapped_model.buffers()):
            raise ConfigError("averages of buffers have no script", hint="use a model without statistics in buffers")
        if self.method == "swa" and run.config.train.dtype != "float32":
            raise ConfigError("method = 'swa' has a script in float32 only", hint="set train.dtype = 'float32'")
        rule = f"get_{self.method}_multi_avg_fn"
        made = f"{rule}({self.decay})" if self.method == "ema" else f"{rule}()"
        update, average = "average.update_parameters(model)", "average.module"
        if self.start_epoch > 1:
            update = f"if epoch >= {self.start_epoch}:\n    {update}"
            average = f"average.module if epoch >= {self.start_epoch} else model"
        return Snippet(
            (f"from torch.optim.swa_utils import AveragedModel, {rule}",),
            setup=call("average = AveragedModel", "model", f"multi_avg_fn={made}"),
            after_update=update if self.method == "ema" else "",
            before_evaluation=update if self.method == "swa" else "",
            after_training=f"model = {average}" if self.at_end == "averaged" else "",
            evaluated=average,
        )

    def _warn_if_too_short(self, run: RunView) -> None:
        span = round(1 / (1 - self.decay))
        if self.start_epoch > run.config.train.epochs > 0:
            run.warn(f"averaging starts at epoch {self.start_epoch}, but the run has {run.config.train.epochs}")
        elif self.method == "ema" and run.num_steps and span > run.num_steps:
            average = f"an average with decay = {self.decay:g} spans about {span} updates"
            run.warn(f"{average}, but the run has {run.num_steps} steps: the first weights still count at its end")

    def _weights(self) -> dict[str, Tensor]:
        # Not cached: a module may replace its buffers.
        assert self._run is not None, "the run was started"
        return weights_of(self._run)

    def _count(self, run: RunView) -> None:
        """Add the current weights to the average."""
        if run.epoch >= self.start_epoch:
            self._average = self._joined(self._average)
            self._num_averaged += 1

    def _average_now(self, run: RunView) -> dict[str, Tensor]:
        """Return the average for an evaluation; empty before the first counted weights."""
        if self._is_over:
            return {}
        # Between two epochs, the weights are counted already.
        if self.method == "ema" or run.epoch < self.start_epoch or run.position == 0:
            return self._average
        return self._joined(copied(self._average))

    def _pairs(self, average: Mapping[str, Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
        return [(weight, average[name]) for name, weight in self._weights().items()] if average else []

    def _joined(self, average: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the current weights to an average, in place, and return it."""
        from torch.optim import swa_utils

        weights, names = self._weights(), self._averaged_names
        if not average:
            return copied(weights)
        rules: Any = swa_utils
        join = rules.get_ema_multi_avg_fn(self.decay) if self.method == "ema" else rules.get_swa_multi_avg_fn()
        by_type: dict[type, list[str]] = {}  # with fsdp, weights are in parts and buffers are not
        for name in names:
            by_type.setdefault(type(weights[name]), []).append(name)
        for some in by_type.values():
            join([average[name] for name in some], [weights[name] for name in some], self._num_averaged)
        put({name: tensor for name, tensor in average.items() if name not in names}, weights)
        return average


def _is_averaged(run: RunView, tensor: Tensor) -> bool:
    # Buffers with infinities are masks, and averaging infinities gives NaN.
    return (tensor.is_floating_point() or tensor.is_complex()) and bool(run.ranks.whole(tensor.isfinite().all()))
