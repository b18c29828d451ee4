"""``Tracker``: the part that the callbacks for trackers share."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta, convert, to_builtins

from hookline import PluginError, hookimpl
from hookline.runs import Redaction, commit_of, folder_of, identity_of
from hookline_plugins.callbacks.trackers.points import Job, Point, Sent, flat_facts
from hookline_plugins.callbacks.trackers.sender import Sender
from hookline_plugins.callbacks.trackers.sending import in_one_line, send
from hookline_plugins.optional import check_package

if TYPE_CHECKING:
    from hookline import Outcome, RunView
    from hookline.runs import RunRecord

_SAVED_PAUSE_S, _LIVE_PAUSE_S = 10.0, 1.0
"""Shortest time between two jobs: a tracker that is asked more often costs more than it shows."""

SEND_WEIGHTS = Meta(description="send the final weights, as safetensors")


@dataclass(kw_only=True)
class Tracker:
    """Sends the settings, numbers, outcome and, if asked, weights of a run to a tracker.

    A failure is a warning, and what was not sent is tried again.
    """

    ranks: ClassVar = "zero"
    tracker: ClassVar[str]
    """Its name, which is that of its package and of its extra."""
    least: ClassVar[int] = 0
    """Number of points that are worth a job; 0 to announce the run before its first point, too."""
    weights = False
    """Whether to send the final weights; an option of the trackers that take files."""

    when: Annotated[
        Literal["saved", "live"],
        Meta(description="'saved': send numbers once a checkpoint has them; 'live': within seconds"),
    ] = "saved"
    tags: Annotated[tuple[str, ...], Meta(description="tags of the run in the tracker")] = ()
    notes: Annotated[str, Meta(description="note about the run in the tracker")] = ""
    timeout_s: Annotated[
        float, Meta(gt=0, description="seconds to wait for the tracker, at most, when the run ends")
    ] = 60.0

    def __post_init__(self) -> None:
        self._own_id = secrets.token_hex(8)
        self._sender: Sender
        self._saved = self._last_evaluation = 0
        self._outcome: str | None = None
        self._has_weights = False

    @hookimpl
    def on_run_start(self, run: RunView, state: Mapping[str, Any] | None) -> None:
        """Start to send."""
        check_package(self.tracker, f"the callback {self.tracker} needs")
        self.__post_init__()
        if state is not None:
            self._own_id = state["id"]
        self._redaction = Redaction.of(run.config)
        self._job = self._first_job(run)
        is_live = self.when == "live"
        self._sender = Sender(
            self._make_job,
            least=0 if is_live else self.least,
            pause_s=_LIVE_PAUSE_S if is_live else _SAVED_PAUSE_S,
            timeout_s=self.timeout_s,
        )
        if state is None:
            self._sender.start()

    @hookimpl
    def on_log(self, run: RunView, values: Mapping[str, float]) -> None:
        """Add logged values."""
        self._add(run, values)

    @hookimpl
    def on_evaluation_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Add the metrics of an evaluation within an epoch; the point of the epoch has those at its end."""
        every = run.config.train.evaluate_every_steps
        if every and run.step % every == 0 and run.step != self._last_evaluation:
            self._last_evaluation = run.step
            self._add(run, metrics)

    @hookimpl
    def on_epoch_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Add the metrics of an epoch."""
        self._add(run, metrics)

    @hookimpl
    def on_checkpoint_saved(self) -> None:
        """Let the points be sent that the checkpoint has: a resumed run does not measure them again."""
        self._sender.release(self._saved)

    # Last, because the weights may change before.
    @hookimpl(trylast=True)
    def on_run_end(self, run: RunView, outcome: Outcome) -> None:
        """Send the rest, the outcome and the weights; points of a failed run that no checkpoint has are left out."""
        self._outcome = outcome
        folder = folder_of(run)
        if self.weights and folder and outcome in ("completed", "stopped"):
            folder.write_model(run)
            self._has_weights = True
        if outcome != "failed":
            self._sender.release(self._sender.count)
        num_left = self._sender.close()
        self._warn(run)
        if num_left:
            run.warn(f"{self.tracker}: {num_left} points were not sent; to send them: {_command(self.tracker, folder)}")

    def state_dict(self) -> dict[str, Any]:
        """Return the points that the tracker may lack, and the ID of the run there."""
        first, points = self._sender.waiting
        self._saved = first + len(points)
        return {
            "id": self._own_id,
            "first": first,
            "points": to_builtins(points),
            "evaluation": self._last_evaluation,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from ``state_dict``, and send the points in it: a checkpoint has them."""
        self._own_id, self._last_evaluation = state["id"], state["evaluation"]
        self._sender.load(state["first"], convert(state["points"], list[Point]))

    def export_run(self, path: Path, record: RunRecord, lines: Iterable[Mapping[str, Any]], outcome: str) -> int:
        """Send a saved run, and return the number of its points; those that the tracker has are not sent again.

        Args:
            path: The run folder.
            record: Its record.
            lines: The lines of its ``metrics.jsonl``.
            outcome: How the run ended.

        Raises:
            PluginError: When the tracker cannot take it.
        """
        check_package(self.tracker, f"the callback {self.tracker} needs")
        points = list(_points_of(lines, record))
        settings = record.identity.get("settings", {})
        sent = Sent(
            id=record.run,
            name=path.name,
            settings=settings,
            facts=flat_facts(record.identity, record.git),
            folder=str(path.resolve()),
            tags=list(self.tags),
            notes=self.notes,
        )
        weights = str(path / "model.safetensors") if self.weights and record.model else ""
        job = Job(self.tracker, self.store_options(sent), sent, 0, points, outcome, weights)
        try:
            send(job)
        except Exception as error:
            raise PluginError(f"{self.tracker} cannot take the run: {in_one_line(error)}") from error
        return len(points)

    def store_options(self, sent: Sent) -> dict[str, Any]:  # noqa: ARG002 - for those whose options depend on it
        """Return the options that the store gets: those of this class itself."""
        shared = {*Tracker.__dataclass_fields__, "weights"}
        return {name: value for name, value in asdict(self).items() if name not in shared}

    def _first_job(self, run: RunView) -> Job:
        """Return a job without points."""
        folder = folder_of(run)
        table = next(member.table for member in run.members if member.instance is self)
        label = table.removeprefix("callbacks.")
        own = folder.record.run if folder else self._own_id
        identity = identity_of(run)
        sent = Sent(
            id=own if label == self.tracker else f"{own}-{label}",
            name=folder.path.name if folder else own,
            settings=identity["settings"],
            facts=flat_facts(identity, commit_of(Path.cwd())),
            folder=str(folder.path) if folder else "",
            tags=list(self.tags),
            notes=self.notes,
        )
        lock = str(folder.artifacts / f".{label}.lock") if folder else ""
        return Job(self.tracker, self.store_options(sent), sent, 0, [], lock=lock)

    def _make_job(self, points: list[Point], first: int, is_last: bool) -> Job:
        job = self._job
        weights = f"{job.sent.folder}/model.safetensors" if is_last and self._has_weights else ""
        outcome = self._outcome if is_last else None
        return Job(job.tracker, job.options, job.sent, first, points, outcome, weights, job.lock)

    def _add(self, run: RunView, values: Mapping[str, float]) -> None:
        self._sender.add(Point(run.epoch, run.step, datetime.now(UTC).timestamp(), dict(values)))
        if self.when == "live":
            self._sender.release(self._sender.count)
        self._warn(run)

    def _warn(self, run: RunView) -> None:
        if problem := self._sender.new_problem():
            run.warn(f"{self.tracker} failed, and the run continues: {self._redaction.text(problem)}")


def _points_of(lines: Iterable[Mapping[str, Any]], record: RunRecord) -> Iterable[Point]:
    """Yield the points of a file of metrics, with times spread evenly over the time of the run."""
    start = record.attempts[0].started.timestamp() if record.attempts else 0.0
    for line in lines:
        values = {name: float("nan") if value is None else value for name, value in line.items()}
        epoch, step = int(values.pop("epoch")), int(values.pop("step"))
        yield Point(epoch, step, start + record.time_s * step / max(record.step, 1), values)


def _command(tracker: str, folder: Any) -> str:
    return f"hookline runs export {folder.path.name} --to {tracker}" if folder else "train it with a run folder"
