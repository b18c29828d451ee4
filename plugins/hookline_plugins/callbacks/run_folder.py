"""Callback ``run-folder``: a folder per run, with its record, config, metrics, log and weights."""

from __future__ import annotations

import os
import platform
import re
import shlex
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from hookline import HooklineError, hookimpl
from hookline.engine import encodable, error_text, printable
from hookline.runs import (
    Attempt,
    BestValue,
    Redaction,
    RunFolder,
    command_of,
    commit_of,
    complete_toml,
    folder_of,
    give_folder,
    identity_of,
    job_of,
)
from hookline.trained import only_watches
from hookline_plugins.callback_parts.event_text import EventText
from hookline_plugins.callback_parts.metrics_file import MetricsFile
from hookline_plugins.callback_parts.monitoring import Monitor, check_measured, check_monitored, measured_names
from hookline_plugins.callback_parts.single import check_single

if TYPE_CHECKING:
    from hookline import Outcome, RunView
    from hookline.engine import Evaluated
    from hookline.runs import AppendedFile
    from hookline.sections import Section


_RECORD_S = 10.0
"""Shortest time between two updates of the record during a run: frequent enough to follow it, at no visible cost."""
_MAX_WARNINGS = 100
_MAX_TABLES, _MAX_TABLE_ROWS, _MAX_CELL = 50, 100, 1000
_MAX_ERROR = 1000
"""Characters of an error stored in the record; the log has all of it."""


@dataclass
class KeepRunFolder:
    """A run folder with the record, config, metrics, log and weights of the run.

    The folder is named ``NUMBER-DATA-MODEL``; the page about the run folder describes its files. A resumed run adds to
    its folder: its metrics are truncated to the checkpoint, so that each step appears once.

    A metric or log line that cannot be written causes a warning, stays in memory and is written later; failing to
    write the weights or the record at the end of the run is an error.
    """

    script = only_watches

    ranks: ClassVar = "zero"
    parent: Annotated[Path, Meta(description="folder that holds the run folders; created if missing")] = Path("runs")
    name: Annotated[str, Meta(description="name of the run; empty: the names of its data and model")] = ""
    monitor: Annotated[str, Meta(description="metric for comparing runs; empty: the loss")] = ""
    mode: Annotated[Literal["min", "max"], Meta(description="'min': smaller is better; 'max': larger is better")] = (
        "min"
    )

    def __post_init__(self) -> None:
        self.parent = self.parent.absolute()  # other plugins may change the current folder
        self._failed: set[str] = set()
        self._run: RunView
        self._attempt: Attempt | None = None
        self._best: Monitor
        self._log: AppendedFile
        self._metrics: MetricsFile

    # First, so that the others find the folder.
    @hookimpl(tryfirst=True)
    def on_run_start(self, run: RunView, state: Mapping[str, Any] | None) -> None:
        """Create the folder, unless the run resumes in one, and start an attempt.

        A run that resumes starts it in ``load_state_dict``: until every plugin has accepted its state, config and
        record stay as they are.
        """
        check_single(run, self)
        if self.monitor:
            check_monitored(run, self.monitor, "run-folder")
        self.__post_init__()
        self._run = run
        self._start = self._recorded = time.perf_counter()
        folder = folder_of(run)
        self._is_new = folder is None
        if folder is None:
            folder = RunFolder.claim(self.parent, self.name or _label(run))
            give_folder(run, folder)
        self._folder = folder
        self._redaction = folder.redaction = Redaction.of(run.config)
        try:
            self._open(run)
            if state is None:
                self._begin_attempt(run)
        except BaseException:
            self._folder.close()
            raise

    @hookimpl
    def on_epoch_start(self) -> None:
        """Start timing the epoch."""
        self._text.epoch_start()

    @hookimpl
    def on_log(self, run: RunView, values: Mapping[str, float]) -> None:
        """Write the logged values."""
        self._write_metrics(run, values, is_epoch=False)

    @hookimpl
    def on_evaluation_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an evaluation within an epoch; the epoch's line has those at its end."""
        self._best.update(run, metrics)
        if lines := self._text.evaluation(run, metrics):
            self._write_metrics(run, metrics, is_epoch=False)
            self._write_log(run, *lines)

    @hookimpl
    def on_epoch_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Write the metrics of the epoch."""
        check_measured(run, self.monitor, "run-folder")
        self._best.update(run, metrics)
        self._write_metrics(run, metrics, is_epoch=True)
        self._write_log(run, self._text.epoch(run, metrics))
        if time.perf_counter() - self._recorded > _RECORD_S:
            self._recorded = time.perf_counter()
            self._update_record(run, run.epoch)
            self._attempt_to(run, "the record", self._folder.save)

    @hookimpl
    def on_checkpoint_saved(self, run: RunView, path: Path) -> None:
        """Log the checkpoint."""
        self._write_log(run, f"step {run.step}: saved {path.name}")

    @hookimpl
    def on_warning(self, run: RunView, message: str) -> None:
        """Log the warning."""
        self._write_log(run, self._text.warning(message))

    @hookimpl
    def on_run_error(self, run: RunView, error: BaseException) -> None:
        """Write the error, its traceback and the place in the run."""
        text = self._redaction.text("".join(traceback.format_exception(error)))
        if self._attempt:
            line = self._redaction.text(error_text(error).partition("\n")[0])
            self._attempt.error = printable(line[:_MAX_ERROR])
        self._write_log(run, text)
        self._attempt_to(run, "the debug folder", lambda: self._write_debug(run, error, text))

    # Last, to include the reports of the other plugins and their changes to the weights.
    @hookimpl(trylast=True)
    def on_run_end(self, run: RunView, outcome: Outcome) -> None:
        """Write the weights and the outcome."""
        self._write_log(run, *self._text.end(run, outcome))
        try:
            if self._attempt:
                self._end_attempt(run, self._attempt, outcome)
        finally:
            self._log.close()
            self._metrics.close()
            self._folder.close()

    def _end_attempt(self, run: RunView, attempt: Attempt, outcome: Outcome) -> None:
        self._update_record(run, len(run.history))
        self._folder.record.status = attempt.outcome = outcome
        attempt.ended = datetime.now(UTC)
        if outcome in ("completed", "stopped"):
            self._folder.write_model(run)
        self._metrics.sync()
        self._attempt_to(run, "the log", self._log.sync)
        self._folder.save()

    @hookimpl
    def build_report(self, run: RunView, split: str, evaluated: Evaluated | None) -> list[Section]:
        """Show the evaluation and the training data."""
        from hookline_plugins.drawing.data import data_sections
        from hookline_plugins.drawing.evaluated import evaluation_sections

        return [*(evaluation_sections(run, split, evaluated) if evaluated else ()), *data_sections(run.data)]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the metrics file, and the best value."""
        return {**self._metrics.state_dict(), "best": self._best.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Cut the metrics file off where the state was saved, and start the attempt."""
        self._best.load_state_dict(state["best"])
        self._metrics.load_state_dict(self._run, state)
        self._begin_attempt(self._run)

    def _open(self, run: RunView) -> None:
        self._log = self._folder.lines("log.txt")
        # Steps after the checkpoint are taken again.
        self._metrics = MetricsFile(self._folder, is_new=run.step == 0)
        self._best = Monitor(self.monitor or _default_metric(run), self.mode)
        self._text = EventText(run)

    def _begin_attempt(self, run: RunView) -> None:
        record = self._folder.record
        before = record.identity
        if record.config is None or before.get("settings") != identity_of(run)["settings"]:
            self._folder.write_config(complete_toml(run.config))
        is_whole = self._folder.is_intact("data.json", record.data)
        if not is_whole or before.get("data") != identity_of(run)["data"]:
            self._folder.write_data(run.data)
        changes = [] if self._is_new else self._redaction.messages(run.warnings)
        started, host = datetime.now(UTC), platform.node()
        command = [self._redaction.word(word) for word in command_of(run)]
        self._attempt = Attempt(
            started, command, host, os.getpid(), run.step, run.step, changes=changes, job=job_of(run)
        )
        record.attempts = [*record.attempts, self._attempt]
        self._time_before_s = record.time_s
        record.identity = dict(identity_of(run))
        record.seed, record.num_epochs, record.status = run.config.train.seed, run.config.train.epochs, "running"
        record.git = record.git or commit_of(Path.cwd())
        if record.best and (record.best.metric, record.best.mode) != (self._best.name, self.mode):
            record.best = None
        self._folder.save()
        line = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: {shlex.join(command) or 'a program'}"
        self._write_log(run, line, *self._text.head(run))

    def _update_record(self, run: RunView, epochs: int) -> None:
        record, best = self._folder.record, self._best
        record.epochs, record.step = epochs, run.step
        record.time_s = self._time_before_s + time.perf_counter() - self._start
        record.metrics = dict(run.history[-1]) if run.history else {}
        record.warnings = self._redaction.messages(run.warnings[-_MAX_WARNINGS:])
        tables = list(run.summary.items())[:_MAX_TABLES]
        rows = {title: [_bounded_row(row) for row in rows[:_MAX_TABLE_ROWS]] for title, rows in tables}
        record.summary = self._redaction.tables(rows)
        if best.best is not None:
            record.best = BestValue(best.name, self.mode, best.best, best.epoch, best.step)
        assert self._attempt is not None, "it was begun"
        self._attempt.step = run.step

    def _write_metrics(self, run: RunView, metrics: Mapping[str, float], *, is_epoch: bool) -> None:
        self._attempt_to(run, "the metrics", lambda: self._metrics.append(run, metrics, is_epoch=is_epoch))

    def _write_log(self, run: RunView, *texts: str) -> None:
        # Tracebacks and commands may hold control characters that a terminal would obey when the log is shown.
        lines = [printable(line) for text in texts for line in self._redaction.text(text).split("\n")]
        self._attempt_to(run, "the log", lambda: self._log.append("\n".join(lines)))

    def _write_debug(self, run: RunView, error: BaseException, text: str) -> None:
        known = {
            "error": self._redaction.text(encodable(error_text(error))),
            "notes": [self._redaction.text(encodable(note)) for note in getattr(error, "__notes__", ())],
            "epoch": run.epoch,
            "step": run.step,
            "indices": list(getattr(error, "indices", ())),
            "seed": run.config.train.seed,
            "hint": self._redaction.text(error.hint) if isinstance(error, HooklineError) and error.hint else None,
        }
        self._folder.write("debug/traceback.txt", text.encode(errors="backslashreplace"))
        self._folder.write("debug/error.json", msgspec.json.format(msgspec.json.encode(known)) + b"\n")

    def _attempt_to(self, run: RunView, part: str, write: Callable[[], None]) -> None:
        """Write something that is not essential; warn of its first failure."""
        try:
            write()
        except (OSError, HooklineError) as error:
            if part not in self._failed:
                self._failed.add(part)
                run.warn(f"{part} of the run cannot be written; trying again later: {error}")


def _bounded_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value[:_MAX_CELL] if isinstance(value, str) else value for name, value in row.items()}


def _label(run: RunView) -> str:
    names = [choice.plugin.name for choice in run.config.plugins if choice.table in ("data", "model")]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(names)).lstrip("._-")[:80] or "run"


def _default_metric(run: RunView) -> str:
    wanted = ("validation/loss", "train/loss")
    return next((name for name in wanted if name in measured_names(run)), "train/running_loss")
