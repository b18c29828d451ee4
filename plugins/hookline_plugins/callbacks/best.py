"""Callback ``best``: the best value of a metric, and the weights that gave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from hookline import ConfigError, hookimpl
from hookline.trained import Snippet
from hookline_plugins.callback_parts.monitoring import Monitor, MonitoringCallback
from hookline_plugins.callback_parts.weights import copied, is_finished, put, taken_over, weights_of

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import Outcome, RunView


@dataclass
class Best(MonitoringCallback):
    """A report of the best value of a metric, with its epoch and step.

    With ``restore`` the model ends with the weights that gave the best value, after a run that completed or that a
    plugin stopped.
    """

    plugin_name: ClassVar[str] = "best"

    restore: Annotated[bool, Meta(description="load the best weights into the model after the run")] = False

    def __post_init__(self) -> None:
        self._seen = Monitor(self.monitor, self.mode)
        self._run: RunView | None = None
        self._weights: dict[str, Tensor] | None = None

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Reset the state."""
        self.__post_init__()
        self._run = run

    # First, so that reports on the model describe its final weights.
    @hookimpl(tryfirst=True)
    def on_run_end(self, run: RunView, outcome: Outcome) -> None:
        """Report the best value, and load its weights."""
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
            put(weights_of(run), self._weights)

    def script(self, run: RunView) -> Snippet:  # noqa: ARG002 - the form of the method
        """Return an empty part.

        Raises:
            ConfigError: When the best weights are restored.
        """
        if self.restore:
            raise ConfigError("restore = true has no script", hint="set restore = false")
        return Snippet()

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, and its weights with ``restore``."""
        return {"seen": self._seen.state_dict(), "weights": self._weights and dict(self._weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from ``state_dict``, unless it is of another metric or mode."""
        assert self._run is not None, "the run was started"
        seen, saved = state["seen"], state["weights"]
        if self.restore and seen["best"] is not None and saved is None:
            self._run.warn("best: the weights of the best value so far were not kept, so it counts from here on")
        elif self._seen.load_state_dict(seen) and self.restore and saved is not None:
            self._weights = taken_over(self._run, saved)

    def update(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Compare the metric with the best value so far."""
        if self._seen.update(run, metrics) and self.restore:
            self._weights = copied(weights_of(run))
