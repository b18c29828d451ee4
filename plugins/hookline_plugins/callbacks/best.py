"""Callback ``best``: keeps the best value of a metric, and the weights that it was measured with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from hookline import hookimpl
from hookline_plugins.callbacks.monitoring import Monitor, MonitoringCallback
from hookline_plugins.callbacks.weights import copied, is_finished, put, weights_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hookline import Outcome, RunView


@dataclass
class Best(MonitoringCallback):
    """Reports where a metric was best: its value, the epoch and the step.

    With ``restore`` the model of a run that is completed, or that a plugin stopped, has the weights with which the
    metric was measured. List it behind ``averaging``, whose weights it would otherwise lose to the last average.
    """

    plugin_name: ClassVar[str] = "best"

    restore: Annotated[bool, Meta(description="whether the model has the best weights when the run is over")] = False

    def __post_init__(self) -> None:
        self._seen = Monitor(self.monitor, self.mode)
        self._model: nn.Module | None = None
        self._weights: dict[str, Tensor] | None = None

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Forget an earlier run."""
        self.__post_init__()
        self._model = run.unwrapped_model

    # First, so that whoever reports on the model sees the weights that it keeps.
    @hookimpl(tryfirst=True)
    def on_run_end(self, run: RunView, outcome: Outcome) -> None:
        """Report the best value, and put its weights in."""
        seen = self._seen
        if seen.best is None:
            return
        row: dict[str, str | int | float | bool | None] = {
            "metric": self.monitor,
            "value": seen.best,
            "epoch": seen.epoch,
            "step": seen.step,
        }
        run.report(f"best {self.monitor}", [row])
        if self._weights is not None and is_finished(run, outcome):
            put(weights_of(run.unwrapped_model), self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, and its weights if they are to be restored."""
        return {"seen": self._seen.state_dict(), "weights": self._weights and dict(self._weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        assert self._model is not None, "the run was started"
        self._seen.load_state_dict(state["seen"])
        # A copy on the device of the model, wherever the state comes from.
        devices = {name: tensor.device for name, tensor in weights_of(self._model).items()}
        saved = state["weights"]
        self._weights = saved and {name: value.to(devices[name], copy=True) for name, value in saved.items()}

    def look(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Compare the metric with the best so far."""
        if self._seen.look(run, metrics) and self.restore:
            self._weights = copied(weights_of(run.unwrapped_model))
