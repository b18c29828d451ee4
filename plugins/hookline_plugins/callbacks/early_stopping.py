"""Callback ``early-stopping``: stop the run when a metric no longer improves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from hookline import hookimpl
from hookline.trained import Snippet
from hookline_plugins.callback_parts.monitored_script import read_monitored
from hookline_plugins.callback_parts.monitoring import Monitor, MonitoringCallback

if TYPE_CHECKING:
    from hookline import RunView


@dataclass
class EarlyStopping(MonitoringCallback):
    """Early stopping when a metric has not improved by more than ``min_delta`` for ``patience`` evaluations.

    There is one evaluation per epoch, unless ``train.evaluate_every_epochs`` or ``train.evaluate_every_steps`` is set.
    """

    plugin_name: ClassVar[str] = "early-stopping"

    patience: Annotated[int, Meta(ge=1, description="evaluations without improvement before the run stops")] = 3
    min_delta: Annotated[float, Meta(ge=0, description="smallest change that counts as an improvement")] = 0.0

    def __post_init__(self) -> None:
        self._seen = Monitor(self.monitor, self.mode, self.min_delta)
        self._num_bad = 0

    @hookimpl
    def on_run_start(self) -> None:
        """Reset the state."""
        self.__post_init__()

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far, None before the first, and the number of evaluations without a better one."""
        return {"seen": self._seen.state_dict(), "num_bad": self._num_bad}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from ``state_dict``, unless it is of another metric or mode."""
        if self._seen.load_state_dict(state["seen"]):
            self._num_bad = state["num_bad"]

    def update(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Compare the metric with the best value so far."""
        is_better = self._seen.update(run, metrics)
        if is_better is None:
            return
        self._num_bad = 0 if is_better else self._num_bad + 1
        if self._num_bad >= self.patience:
            run.request_stop(f"{self.monitor} did not improve for {self._waited(run)}")

    def script(self, run: RunView) -> Snippet:
        """Return the stopping as source code."""
        from hookline_plugins.commands.ejecting.text import literal

        is_min = self.mode == "min"
        limit = f"best {'-' if is_min else '+'} {self.min_delta}" if self.min_delta else "best"
        lines = [
            f"value = measured[{literal(self.monitor)}]",
            f"if value {'<' if is_min else '>'} {limit}:",
            "    best, waited = value, 0",
            "else:",
            "    waited += 1",
            f"if waited == {self.patience}:",
            "    break",
        ]
        worst = literal(math.inf if is_min else -math.inf)
        return Snippet(
            setup=f"best, waited = {worst}, 0",
            after_evaluation=read_monitored(run, self.monitor, lines),
            monitors=self.monitor,
        )

    def _waited(self, run: RunView) -> str:
        train = run.config.train
        is_in_epochs = train.evaluate_every_epochs == 1 and not train.evaluate_every_steps
        return f"{self.patience} {'epoch' if is_in_epochs else 'evaluation'}{'s' * (self.patience != 1)}"
