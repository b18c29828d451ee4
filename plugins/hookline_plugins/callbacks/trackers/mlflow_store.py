"""Callback ``mlflow``: a run in an experiment of MLflow, in a database or on a server."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from hookline_plugins.callbacks.trackers.points import Outcome, Point, Sent
from hookline_plugins.callbacks.trackers.tracker import SEND_WEIGHTS, Tracker

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_RUN, _COUNT = "hookline.run", "hookline.points"
_MAX_METRICS, _MAX_PARAMS, _MAX_VALUE = 1000, 100, 6000
"""Limits of one request, and of a value in characters: https://mlflow.org/docs/latest/rest-api.html#request-limits"""
_STATUS = {"completed": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}


@dataclass(kw_only=True)
class MLflow(Tracker):
    """A run in an experiment of MLflow: settings as params, numbers as metrics, versions and outcome as tags."""

    tracker = "mlflow"

    weights: Annotated[bool, SEND_WEIGHTS] = False
    at: Annotated[
        str, Meta(description="tracking URI, such as `sqlite:///mlflow.db`; empty: that of MLflow's own settings")
    ] = ""
    experiment: Annotated[str, Meta(min_length=1, description="name of the experiment; made if missing")] = "hookline"


class Experiment:
    """A run in an experiment."""

    def __init__(self, sent: Sent, options: dict[str, Any]) -> None:
        from mlflow.tracking import MlflowClient

        self._client: MlflowClient = MlflowClient(tracking_uri=options["at"] or None)
        name = options["experiment"]
        found = self._client.get_experiment_by_name(name)
        number = found.experiment_id if found else self._client.create_experiment(name)
        runs = self._client.search_runs([number], f"tags.`{_RUN}` = '{sent.id}'", max_results=1)
        if runs:
            self._id, self._tags = runs[0].info.run_id, dict(runs[0].data.tags)
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id, self._tags = self._begun(number, sent), {}

    def _begun(self, experiment: str, sent: Sent) -> str:
        from mlflow.entities import Param

        tags = {_RUN: sent.id, **{f"hookline.{name}": value for name, value in sent.facts.items()}}
        tags |= dict.fromkeys(sent.tags, "") | ({"mlflow.note.content": sent.notes} if sent.notes else {})
        tags |= {"hookline.folder": sent.folder} if sent.folder else {}
        made = self._client.create_run(
            experiment, tags={_key(name): tag for name, tag in tags.items()}, run_name=sent.name
        )
        params = [Param(_key(key), str(value)[:_MAX_VALUE]) for key, value in sent.settings.items()]
        for some in _batches(params, _MAX_PARAMS):
            self._client.log_batch(made.info.run_id, params=some)
        return str(made.info.run_id)

    def count(self) -> int:
        """Return the number that the last call has left in a tag."""
        return int(self._tags.get(_COUNT, 0))

    def send(self, points: Sequence[Point], first: int) -> None:
        """Log the numbers. A database of MLflow has a value with the same time only once: sent again, it stays one."""
        from mlflow.entities import Metric

        metrics = (
            Metric(_key(name), value, int(point.time * 1000), point.step)
            for point in points
            for name, value in point.numbers.items()
        )
        for some in _batches(metrics, _MAX_METRICS):
            self._client.log_batch(self._id, metrics=some)
        self._client.set_tag(self._id, _COUNT, first + len(points))

    def close(self, outcome: Outcome | None, weights: str) -> None:
        """Log the weights, and set the status of the run."""
        if weights:
            self._client.log_artifact(self._id, weights)
        if outcome:
            self._client.set_tag(self._id, "hookline.outcome", outcome)
            self._client.set_terminated(self._id, _STATUS.get(outcome, "KILLED"))


open_store = Experiment


def _key(name: str) -> str:
    """Return a name with the characters that MLflow allows."""
    return re.sub(r"[^\w\-./: ]", "_", name)


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while some := list(itertools.islice(rest, size)):
        yield some
