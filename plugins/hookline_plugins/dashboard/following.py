"""The curves of a run at work: new lines of its metrics are read, and added to the points that are drawn."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from hookline.engine import encodable
from hookline.runs import GrowingFile
from hookline.sections import Series

_MAX_POINTS = 1000
"""Points of a line: about as many as a chart has pixels."""
_MAX_NUMBERS = 400_000
"""Points of all lines of a run together, a few dozen MiB; two thousand metrics get two hundred points each."""
_MIN_POINTS = 50
_MAX_METRICS = 2000
_MAX_STEP = 2**53
_MAX_LINE = 2**20
_MAX_READ = 2**24
"""Bytes read for one answer, a second's work; a page asks again for the rest."""
_MAX_FOLLOWED = 32
"""Runs whose points are kept; what nobody has looked at for longest is dropped, and read again if needed."""
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Line:
    """The points of one metric: mean, minimum and maximum over stretches of steps, twice as long when there is no room.

    Attributes:
        points: By the number of the stretch: count, sum of steps, sum of values, minimum, maximum.
    """

    def __init__(self) -> None:
        self.points: dict[int, list[float]] = {}
        self._width = 1

    def add(self, step: int, value: float, most: int) -> None:
        """Add a value, in at most ``most`` points."""
        while step // self._width not in self.points and len(self.points) >= most:
            self._widen()
        point = self.points.get(step // self._width)
        if point is None:
            self.points[step // self._width] = [1, step, value, value, value]
            return
        point[0] += 1
        point[1] += step
        point[2] += value
        if value < point[3]:
            point[3] = value
        elif value > point[4]:
            point[4] = value

    def _widen(self) -> None:
        self._width *= 2
        wider: dict[int, list[float]] = {}
        for number, (count, steps, values, low, high) in self.points.items():
            point = wider.setdefault(number // 2, [0, 0, 0.0, low, high])
            wider[number // 2] = [
                point[0] + count,
                point[1] + steps,
                point[2] + values,
                min(point[3], low),
                max(point[4], high),
            ]
        self.points = wider

    def series(self, name: str) -> Series:
        """Return the line under a name; with minimum and maximum if a point stands for several values."""
        points = [self.points[number] for number in sorted(self.points)]
        means = [values / count for count, _, values, _, _ in points]
        steps = [steps / count for count, steps, _, _, _ in points]
        if all(count == 1 for count, *_ in points):
            return Series(name=name, steps=steps, values=means)
        return Series(name=name, steps=steps, values=means, low=[p[3] for p in points], high=[p[4] for p in points])


@dataclass
class Followed:
    """The metrics of one run, as far as they have been read.

    Attributes:
        file: The file of the metrics.
        lines: The points, by metric.
        version: Number of times that something was added.
        is_complete: Whether everything that the file has was read.
    """

    file: GrowingFile
    lines: dict[str, Line] = field(default_factory=dict)
    version: int = 0
    is_complete: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)
    _rest: bytes = b""

    def update(self) -> None:
        """Read what was added, up to a bound.

        Raises:
            ConfigError: When the file cannot be read.
        """
        num_read = 0
        while num_read < _MAX_READ:
            data, is_new = self.file.read()
            if is_new:
                self.lines, self._rest = {}, b""
            if data or is_new:
                self.version += 1
            num_read += len(data)
            if not data:
                break
            for row in self._rows(data):
                self._add(row)
        self.is_complete = num_read < _MAX_READ

    def _rows(self, data: bytes) -> Iterator[dict[str, Any]]:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest if len(rest) <= _MAX_LINE else b""
        for line in lines:
            try:
                yield _decode(line)
            except _NOT_JSON:
                continue

    def _add(self, row: dict[str, Any]) -> None:
        step = row.pop("step", None)
        row.pop("epoch", None)
        if type(step) is not int or not 0 <= step < _MAX_STEP:
            return
        for name, value in row.items():
            if type(value) in (int, float) and value - value == 0:  # neither infinite nor NaN
                if name not in self.lines and len(self.lines) >= _MAX_METRICS:
                    continue
                most = max(min(_MAX_POINTS, _MAX_NUMBERS // max(len(self.lines), 1)), _MIN_POINTS)
                self.lines.setdefault(name, Line()).add(step, float(value), most)

    def series(self) -> list[Series]:
        """Return the lines, in the order in which the metrics first occurred."""
        return [line.series(encodable(name)) for name, line in self.lines.items()]


_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Following:
    """The runs whose curves somebody looks at."""

    def __init__(self) -> None:
        self._followed: OrderedDict[Path, Followed] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, path: Path) -> Followed:
        """Return the metrics of a run folder, which the caller brings up to date."""
        with self._lock:
            found = self._followed.get(path) or Followed(GrowingFile(path / "metrics.jsonl"))
            self._followed[path] = found
            self._followed.move_to_end(path)
            if len(self._followed) > _MAX_FOLLOWED:
                self._followed.popitem(last=False)
            return found
