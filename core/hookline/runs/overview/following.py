"""The curves of a run at work: new lines of its metrics are read, and added to the points that are known."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from hookline.config.files import CHUNK_BYTES
from hookline.runs.curves import MAX_STEP, Bins, Curve
from hookline.runs.disk.formats import NOT_JSON
from hookline.runs.folder import METRICS
from hookline.runs.overview.growing import GrowingFile

_MAX_POINTS = 1000
"""Points of a curve: about as many as a chart has pixels."""
_MAX_NUMBERS, _MIN_POINTS = 400_000, 50
"""Points of all curves together, a few dozen MiB; two thousand metrics have two hundred points each."""
_MAX_METRICS = 2000

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class FollowedCurves:
    """The curves of all metrics of a run, brought up to date as the run writes them.

    Attributes:
        version: Changed by each update that found something new.
        is_complete: Whether the last update read everything that there was.

    Args:
        path: The run folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.version = 0
        self.is_complete = True
        self._file = GrowingFile(Path(path) / METRICS)
        self._bins: dict[str, Bins] = {}
        self._rest = b""

    def update(self, max_bytes: int = 2**24) -> None:
        """Read the lines that were added, up to a number of bytes: by default as many as take about a second.

        Raises:
            ConfigError: When the file cannot be read.
        """
        self.is_complete = False
        for _ in range(0, max_bytes, CHUNK_BYTES):
            data, is_new = self._file.read()
            if is_new:  # its run was resumed from an earlier step, or it was replaced
                self._bins, self._rest = {}, b""
            self.version += bool(data) or is_new
            for row in self._rows(data):
                self._add(row)
            if not data:
                self.is_complete = True
                return

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics that have occurred, up to a bound."""
        return list(self._bins)

    def curves(self) -> list[Curve]:
        """Return the curves, in the order in which the metrics first occurred."""
        return [bins.curve(name) for name, bins in self._bins.items() if bins.num_values]

    def _rows(self, data: bytes) -> Iterator[dict[str, Any]]:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest if len(rest) <= CHUNK_BYTES else b""
        for line in lines:
            try:
                yield _decode(line)
            except NOT_JSON:
                continue

    def _add(self, row: dict[str, Any]) -> None:
        step = row.pop("step", None)
        row.pop("epoch", None)
        if type(step) is not int or not 0 <= step < MAX_STEP:
            return
        for name, value in row.items():
            if value is None or type(value) in (int, float):
                bins = self._bins.get(name) or self._begun(name, len(row))
                if bins:
                    bins.add(step, value)

    def _begun(self, name: str, num_beside: int) -> Bins | None:
        """Return new bins for a metric; None if there are too many."""
        known = max(len(self._bins), num_beside)
        if len(self._bins) >= _MAX_METRICS:
            return None
        self._bins[name] = Bins(max(min(_MAX_POINTS, _MAX_NUMBERS // known), _MIN_POINTS))
        return self._bins[name]
