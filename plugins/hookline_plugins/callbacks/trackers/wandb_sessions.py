"""Callback ``wandb``: a run in a project of Weights & Biases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from hookline_plugins.callbacks.trackers.points import Outcome, Point, Sent
from hookline_plugins.callbacks.trackers.tracker import SEND_WEIGHTS, Tracker

_MARK = "hookline-points.json"


@dataclass(kw_only=True)
class WandB(Tracker):
    """A run in a project of Weights & Biases.

    By default, nothing leaves the machine: a folder ``wandb/offline-run-...`` is written, one for each part of the run
    that is sent, all with the ID of the run, which ``wandb sync`` sends as one run.
    """

    tracker = "wandb"
    least = 1000  # each job is a folder

    weights: Annotated[bool, SEND_WEIGHTS] = False
    mode: Annotated[
        Literal["offline", "online"], Meta(description="'online' sends to the server of your settings of wandb")
    ] = "offline"
    project: Annotated[str, Meta(min_length=1, description="name of the project")] = "hookline"
    at: Annotated[str, Meta(description="folder in which `wandb` is made; empty: the current folder")] = ""

    def store_options(self, sent: Sent) -> dict[str, Any]:
        """Return the options, with an absolute folder."""
        return {**super().store_options(sent), "at": str(Path(self.at).absolute())}


class Session:
    """A run, continued. What wandb gets is on the disk when the session is finished, not before."""

    def __init__(self, sent: Sent, options: dict[str, Any]) -> None:
        self._sent, self._options = sent, options
        self._run: Any = None
        if options["mode"] == "online":
            self._open()

    def _open(self) -> Any:
        import wandb

        sent, options = self._sent, self._options
        quiet = wandb.Settings(console="off", silent=True, save_code=False, disable_git=True, x_disable_stats=True)
        self._run = self._run or wandb.init(
            project=options["project"],
            dir=options["at"],
            id=sent.id,
            name=sent.name,
            resume="allow",
            mode=options["mode"],
            config={**sent.settings, "facts": sent.facts},
            tags=sent.tags,
            notes=sent.notes or None,
            settings=quiet,
        )
        return self._run

    def count(self) -> int:
        """Return the number of points that the server has; offline, that of the finished folders."""
        if self._run:
            return int(self._run.step)
        marks = Path(self._options["at"]).glob(f"wandb/offline-run-*-{self._sent.id}/{_MARK}")
        return max((int(json.loads(mark.read_text())) for mark in marks), default=0)

    def send(self, points: Sequence[Point], first: int) -> None:
        """Log the points in the order of their numbers, with the step as the axis."""
        opened = self._open()
        opened.define_metric("*", step_metric="step")
        for number, point in enumerate(points, first):
            opened.log({"_timestamp": point.time, "step": point.step, **point.numbers}, step=number)
        self._num_points = first + len(points)

    def close(self, outcome: Outcome | None, weights: str) -> None:
        """Add the outcome and the weights, and finish the session."""
        if outcome or weights:
            self._open()
        if not self._run:
            return
        if weights:
            import wandb

            artifact = wandb.Artifact(f"model-{self._sent.id}", type="model")
            artifact.add_file(weights)
            self._run.log_artifact(artifact)
        if outcome:
            self._run.summary["outcome"] = outcome
        folder = Path(self._run.dir).parent
        self._run.finish(exit_code=1 if outcome in ("failed", "killed") else 0)
        if self._options["mode"] == "offline" and hasattr(self, "_num_points"):
            (folder / _MARK).write_text(json.dumps(self._num_points))


open_store = Session
