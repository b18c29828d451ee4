"""The file ``metrics.jsonl``: a line per epoch, evaluation and interval, in agreement with the state of the run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from hookline import CheckpointError

if TYPE_CHECKING:
    from hookline import RunView
    from hookline.runs import RunFolder

METRICS = "metrics.jsonl"


class MetricsFile:
    """The metrics of a run in its folder.

    Its state holds the size and SHA-256 of the lines written so far. A file that differs from it when a run is resumed
    was changed by something else; it is written again.

    Args:
        folder: The run folder.
        is_new: Whether to start with an empty file.
    """

    def __init__(self, folder: RunFolder, *, is_new: bool) -> None:
        self._folder = folder
        self._lines = folder.lines(METRICS, 0 if is_new else None)
        self._sum = hashlib.sha256()
        self._epoch_steps: list[int] = []

    def append(self, run: RunView, metrics: Mapping[str, float], *, is_epoch: bool) -> None:
        """Append a line; ``is_epoch`` for the metrics of a whole epoch.

        Raises:
            OSError: When it cannot be written now; it is held back.
        """
        if is_epoch:
            self._epoch_steps.append(run.step)
        line = _line(run.epoch, run.step, metrics)
        self._sum.update(line + b"\n")
        self._lines.append(line.decode())

    def sync(self) -> None:
        """Flush the file to the disk.

        Raises:
            CheckpointError: When it cannot be written.
        """
        try:
            self._lines.sync()
        except OSError as error:
            raise CheckpointError(f"{self._lines.path} cannot be written: {error.strerror}") from error

    def state_dict(self) -> dict[str, Any]:
        """Flush the file to the disk, and return its state.

        Raises:
            CheckpointError: When it cannot be written.
        """
        self.sync()
        size, digest = self._lines.size, self._sum.hexdigest()
        return {"metrics_bytes": size, "metrics_sha256": digest, "epoch_steps": list(self._epoch_steps)}

    def load_state_dict(self, run: RunView, state: Mapping[str, Any]) -> None:
        """Cut the file off where the state was saved; if it is not as it was then, write it again, and warn.

        Raises:
            CheckpointError: When it cannot be written.
        """
        size: int = state["metrics_bytes"]
        self._epoch_steps = list(state["epoch_steps"])
        lines = self._lines.read(size)
        if hashlib.sha256(lines).hexdigest() != state["metrics_sha256"]:
            lines = self._restored(run, size)
            self._folder.write(METRICS, lines)
            is_whole = hashlib.sha256(lines).hexdigest() == state["metrics_sha256"]
            missing = "" if is_whole else "; lines within epochs may be missing"
            run.warn(f"{METRICS} is not as this run wrote it: it was changed, and is written again{missing}")
        self._sum = hashlib.sha256(lines)
        self._lines.close()
        self._lines = self._folder.lines(METRICS, len(lines))

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def _restored(self, run: RunView, size: int) -> bytes:
        """Return the lines of the epochs, from the history of the run, and those within epochs that can be read."""
        # Twice the size, because other line ends make a file longer.
        rows = [row for row in _rows(self._lines.read(2 * size)) if row[0][:2] <= (run.epoch, run.step)]
        steps = enumerate(zip(self._epoch_steps, run.history, strict=False), 1)
        rows = [row for row in rows if not row[0][2]]
        rows += [((epoch, step, True), _line(epoch, step, metrics)) for epoch, (step, metrics) in steps]
        # In the order of the file, which has several lines for a step with both logged values and an evaluation.
        ordered = sorted(dict.fromkeys(rows), key=lambda row: row[0])
        return b"".join(line + b"\n" for _, line in ordered)


def _line(epoch: int, step: int, metrics: Mapping[str, float]) -> bytes:
    # msgspec writes NaN and infinity as null.
    return msgspec.json.encode({"epoch": epoch, "step": step, **metrics})


class _Row(msgspec.Struct):
    """The place of a line. Only that of an epoch has a running loss; others may be of the same step."""

    epoch: int
    step: int
    running_loss: float | msgspec.UnsetType | None = msgspec.field(name="train/running_loss", default=msgspec.UNSET)


def _rows(text: bytes) -> Iterator[tuple[tuple[int, int, bool], bytes]]:
    """Yield the lines that can be read, each with its place, in the form in which they were written."""
    for line in text.splitlines():
        try:
            row = msgspec.json.decode(line, type=_Row)
            place = row.epoch, row.step, row.running_loss is not msgspec.UNSET
            yield place, msgspec.json.encode(msgspec.json.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
