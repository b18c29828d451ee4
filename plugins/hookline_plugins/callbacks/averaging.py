"""Callback ``averaging``: evaluations, and the model in the end, use an average of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from hookline import hookimpl
from hookline_plugins.callbacks.weights import copied, is_finished, put, weights_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hookline import Outcome, RunView


@dataclass
class Averaging:
    """Averages the weights on the way; the training itself goes on with those of the optimizer.

    The first weights ``w_1`` that count are the average ``a_1``. From then on

    - ``ema``, after each update: ``a = decay a + (1 - decay) w``. Source: B. T. Polyak and A. B. Juditsky,
      "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 30 (1992), with the exponential
      weights of ``torch.optim.swa_utils``, whose default of ``decay`` it is;
    - ``swa``, after each epoch: ``a_n = a_(n-1) + (w_n - a_(n-1)) / n``, the mean. Source: P. Izmailov et al.,
      "Averaging Weights Leads to Wider Optima and Better Generalization", https://arxiv.org/abs/1803.05407. An
      evaluation sees the average that it would be if the epoch ended there.

    Buffers with finite floating-point numbers, such as the statistics of batch normalization, are averaged as well;
    others, such as counters and masks, are those of the model.

    With ``at_end = "averaged"`` the model of a run that is completed, or that a plugin stopped, has the averaged
    weights; after any other ending it has those of the training.
    """

    method: Annotated[
        Literal["ema", "swa"], Meta(description="exponential average of all updates, or mean of the epochs' ends")
    ] = "ema"
    decay: Annotated[float, Meta(ge=0, lt=1, description="share of the average that 'ema' keeps in an update")] = 0.999
    start_epoch: Annotated[int, Meta(ge=1, description="first epoch whose weights count")] = 1
    at_end: Annotated[Literal["averaged", "raw"], Meta(description="weights of the model when the run is over")] = (
        "averaged"
    )

    def __post_init__(self) -> None:
        self._forget()

    @property
    def allows_fused_steps(self) -> bool:
        """Whether it follows no single update."""
        return self.method != "ema"

    def _forget(self) -> None:
        self._model: nn.Module | None = None
        self._averaged_names: list[str] = []
        self._average: dict[str, Tensor] = {}
        self._num_averaged = 0
        self._raw: dict[str, Tensor] | None = None
        self._detach: Callable[[], None] | None = None

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Begin to follow the updates of the optimizer."""
        self._forget()
        self._warn_of_little(run)
        self._model = run.unwrapped_model
        weights = self._weights()
        self._averaged_names = [name for name, tensor in weights.items() if _is_averaged(tensor)]
        if self.method == "ema":
            # After the optimizer's own updates, and not after steps: some of those accumulate, or leave one out.
            self._detach = run.optimizer.register_step_post_hook(lambda *_: self._count(run)).remove

    # First, so that whoever looks at the model sees what is evaluated.
    @hookimpl(tryfirst=True)
    def on_evaluation_start(self, run: RunView) -> None:
        """Put the averaged weights in."""
        average = self._average_now(run)
        if average:
            self._raw = copied(self._weights())
            put(self._weights(), average)

    # Last, for the same reason: the best weights are those that were evaluated.
    @hookimpl(trylast=True)
    def on_evaluation_end(self) -> None:
        """Put the weights of the training back."""
        self._put_back()

    @hookimpl
    def on_epoch_end(self, run: RunView) -> None:
        """Count the weights at the end of the epoch."""
        if self.method == "swa":
            self._count(run)

    # First, so that whoever reports on the model sees the weights that it keeps.
    @hookimpl(tryfirst=True)
    def on_run_end(self, run: RunView, outcome: Outcome) -> None:
        """Stop following, and leave the model with the weights that it is to have."""
        if self._detach:
            self._detach()
        self._put_back()
        if self.at_end == "averaged" and self._average and is_finished(run, outcome):
            put(self._weights(), self._average)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, and how many weights it is made of."""
        return {"num_averaged": self._num_averaged, "average": dict(self._average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        weights = self._weights()
        self._num_averaged = state["num_averaged"]
        # A copy on the device of the model, wherever the state comes from.
        self._average = {name: value.to(weights[name].device, copy=True) for name, value in state["average"].items()}

    def _warn_of_little(self, run: RunView) -> None:
        span = round(1 / (1 - self.decay))
        if self.start_epoch > run.num_epochs > 0:
            run.warn(f"averaging begins with epoch {self.start_epoch}, but the run has {run.num_epochs}")
        elif self.method == "ema" and run.num_steps and span > run.num_steps:
            what = f"an average with decay = {self.decay:g} reaches back over about {span} updates"
            run.warn(f"{what}, but the run has {run.num_steps} steps: the first weights still count at its end")

    def _weights(self) -> dict[str, Tensor]:
        # Asked anew each time: a module may exchange its buffers.
        assert self._model is not None, "the run was started"
        return weights_of(self._model)

    def _put_back(self) -> None:
        if self._raw is not None:
            put(self._weights(), self._raw)
            self._raw = None

    def _count(self, run: RunView) -> None:
        """Let the weights of now count."""
        if run.epoch >= self.start_epoch:
            self._average = self._joined(self._average)
            self._num_averaged += 1

    def _average_now(self, run: RunView) -> dict[str, Tensor]:
        """Return the average for an evaluation; empty when no weights count yet."""
        if self.method == "ema" or run.epoch < self.start_epoch:
            return self._average
        return self._joined(copied(self._average))

    def _joined(self, average: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return an average, changed in place, together with the weights of now."""
        from torch.optim import swa_utils

        weights, names = self._weights(), self._averaged_names
        if not average:
            return copied(weights)
        rules: Any = swa_utils
        join = rules.get_ema_multi_avg_fn(self.decay) if self.method == "ema" else rules.get_swa_multi_avg_fn()
        join([average[name] for name in names], [weights[name] for name in names], self._num_averaged)
        put({name: tensor for name, tensor in average.items() if name not in names}, weights)
        return average


def _is_averaged(tensor: Tensor) -> bool:
    # The mean of infinity and infinity would be NaN, and such buffers are masks.
    return tensor.is_floating_point() and bool(tensor.isfinite().all())
