"""Callback ``tensorboard``: one file of events per run, which TensorBoard reads while it grows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from hookline import ConfigError
from hookline_plugins.callbacks.trackers.points import Outcome, Point, Sent
from hookline_plugins.callbacks.trackers.tracker import Tracker

_HEAD_BYTES, _TAIL_BYTES = 12, 4
"""Size of what stands before and after an event: its length and two checksums."""
_FILE = "events.out.tfevents.0.hookline"


@dataclass(kw_only=True)
class TensorBoard(Tracker):
    """A file of events for TensorBoard.

    Each value is a scalar, as float32, and the settings are hyperparameters. The file is in ``artifacts/tensorboard``
    of the run folder, so ``tensorboard --logdir runs`` shows all runs; with ``at``, it is in a folder there that has
    the name of the run.
    """

    tracker = "tensorboard"

    at: Annotated[str, Meta(description="folder of the runs; empty: the run folder, `artifacts/tensorboard`")] = ""

    def store_options(self, sent: Sent) -> dict[str, Any]:
        """Return the folder of the file.

        Raises:
            ConfigError: When there is none.
        """
        name = "tensorboard" + sent.id[16:]  # of a second one in this run
        if self.at:
            return {"folder": str(Path(self.at).absolute() / f"{sent.name}{sent.id[16:]}")}
        if not sent.folder:
            hint = "set a folder: callbacks.tensorboard.at=DIR; or let run-folder make one: callbacks.run-folder={}"
            raise ConfigError("tensorboard has no folder to write in", hint=hint)
        return {"folder": f"{sent.folder}/artifacts/{name}"}


class Events:
    """A file of events: length, checksum, event and checksum, again and again."""

    def __init__(self, sent: Sent, options: dict[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._event = Event
        folder = Path(options["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / _FILE
        self._file = self._path.open("ab")
        self._size = 0
        self._num_points = self._read()
        # An event that was cut off hides those after it.
        self._file.truncate(self._size)
        if not self._size:
            self._begin(sent)

    def count(self) -> int:
        """Return the number of events with numbers."""
        return self._num_points

    def send(self, points: Sequence[Point], first: int) -> None:  # noqa: ARG002 - of the protocol
        """Write an event for each point."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for point in points:
            values = [Summary.Value(tag=tag, simple_value=number) for tag, number in point.numbers.items()]
            self._write(wall_time=point.time, step=point.step, summary=Summary(value=values))
        self._sync()

    def close(self, outcome: Outcome | None, weights: str) -> None:  # noqa: ARG002 - they are in the run folder
        """Write the outcome."""
        if outcome:
            from tensorboard.plugins.hparams.api_pb2 import Status
            from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG
            from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

            status = Status.Value("STATUS_SUCCESS" if outcome in ("completed", "stopped") else "STATUS_FAILURE")
            ended = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=_now()))
            self._write_parameters(SESSION_END_INFO_TAG, ended)
            self._sync()
        self._file.close()

    def _begin(self, sent: Sent) -> None:
        from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

        self._write(wall_time=_now(), file_version="brain.Event:2")
        started = SessionStartInfo(group_name=sent.id, start_time_secs=_now())
        for key, value in sent.settings.items():
            if isinstance(value, bool):
                started.hparams[key].bool_value = value
            elif isinstance(value, int | float):
                started.hparams[key].number_value = value
            elif value is not None:
                started.hparams[key].string_value = str(value)
        self._write_parameters(SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=started))
        self._write_text("run", "\n".join(f"- {name}: {value}" for name, value in _about(sent)))
        self._sync()

    def _write_parameters(self, tag: str, data: Any) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams.metadata import NULL_TENSOR, create_summary_metadata

        value = Summary.Value(tag=tag, metadata=create_summary_metadata(data), tensor=NULL_TENSOR)
        self._write(wall_time=_now(), summary=Summary(value=[value]))

    def _write_text(self, tag: str, text: str) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.util.tensor_util import make_tensor_proto

        value = Summary.Value(tag=tag, metadata=create_summary_metadata(tag, ""), tensor=make_tensor_proto(text))
        self._write(wall_time=_now(), summary=Summary(value=[value]))

    def _write(self, **fields: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        RecordWriter(self._file).write(self._event(**fields).SerializeToString(deterministic=True))

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self) -> int:
        """Return the number of events with numbers, and find the end of the last event that is complete."""
        events = map(self._event.FromString, self._records())
        return sum(any(value.HasField("simple_value") for value in event.summary.value) for event in events)

    def _records(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while len(head := file.read(_HEAD_BYTES)) == _HEAD_BYTES:
                length = int.from_bytes(head[:8], "little")
                record = file.read(length + _TAIL_BYTES)
                if len(record) < length + _TAIL_BYTES:
                    return
                self._size = file.tell()
                yield record[:length]


open_store = Events


def _about(sent: Sent) -> Iterator[tuple[str, str]]:
    yield from sent.facts.items()
    if sent.tags:
        yield "tags", ", ".join(sent.tags)
    if sent.notes:
        yield "notes", re.sub(r"\s+", " ", sent.notes)


def _now() -> float:
    """Return the seconds since 1970."""
    return datetime.now(UTC).timestamp()
