"""Callback ``trackio``: a run in a local project of Trackio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from hookline_plugins.callbacks.trackers.points import Outcome, Point, Sent
from hookline_plugins.callbacks.trackers.tracker import SEND_WEIGHTS, Tracker


@dataclass(kw_only=True)
class Trackio(Tracker):
    """A run in a local project of Trackio, in its folder, ``TRACKIO_DIR``; ``trackio sync`` sends it to a Space."""

    tracker = "trackio"

    weights: Annotated[bool, SEND_WEIGHTS] = False
    project: Annotated[str, Meta(min_length=1, description="name of the project; made if missing")] = "hookline"


class Project:
    """A run in a project, opened for each call: what it gets is in the database when it is finished."""

    def __init__(self, sent: Sent, options: dict[str, Any]) -> None:
        self._sent, self._project = sent, options["project"]

    def count(self) -> int:
        """Return the number of rows of the run."""
        from trackio.sqlite_storage import SQLiteStorage

        return int(SQLiteStorage.get_log_count(self._project, self._sent.name, run_id=self._sent.id))

    def send(self, points: Sequence[Point], first: int) -> None:
        """Write a row for each point.

        Raises:
            OSError: When Trackio, which only warns, has not written them all.
        """
        opened = self._opened()
        for point in points:
            opened.log(point.numbers, step=point.step)
        opened.finish()
        if (there := self.count()) != first + len(points):
            raise OSError(f"trackio has {there} rows of the run instead of {first + len(points)}")

    def close(self, outcome: Outcome | None, weights: str) -> None:  # noqa: ARG002 - Trackio's runs have no outcome
        """Write the weights."""
        if weights:
            import trackio

            artifact = trackio.Artifact(f"model-{self._sent.id}", type="model")
            artifact.add_file(weights)
            opened = self._opened()
            opened.log_artifact(artifact)
            opened.finish()

    def _opened(self) -> Any:
        from trackio import Run

        sent = self._sent
        about = {"facts": sent.facts, "tags": sent.tags, "notes": sent.notes}
        return Run(
            url=None,
            project=self._project,
            client=None,
            name=sent.name,
            run_id=sent.id,
            config={**sent.settings, **about},
        )


open_store = Project
