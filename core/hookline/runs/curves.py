"""Curves of the metrics of a run, from ``metrics.jsonl``: at most as many points as a drawing can show."""

from __future__ import annotations

import errno
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hookline.config.files import CHUNK_BYTES, NO_LINKS, NO_WAITING, check_regular, reason
from hookline.engine.errors import ConfigError
from hookline.runs.disk.formats import NOT_JSON
from hookline.runs.folder import METRICS

_MAX_POINTS = 128
_MAX_STEP = 2**62
_NUM_SEARCHED = 1000
"""Number of lines to search for the names of metrics."""


@dataclass(frozen=True)
class Curve:
    """One metric of one run.

    Attributes:
        metric: Name of the metric.
        points: At most 128 pairs of step and value, in the order of steps; each is the mean over a range of steps.
        num_values: Number of values that they summarize.
        last: The last value.
    """

    metric: str
    points: Sequence[tuple[float, float]]
    num_values: int
    last: float


def read_curves(path: Path, metrics: Sequence[str]) -> list[Curve]:
    """Return the curves of the given metrics of a run folder, in that order, without those that have no finite value.

    An incomplete last line, and lines that are not a JSON object with a step, are skipped. The memory used does not
    depend on the number of lines.

    Raises:
        ConfigError: When the file cannot be read.
    """
    decode = _decoder(metrics)
    bins = [_Bins() for _ in metrics]
    wanted = [(f"metric_{number}", one.add) for number, one in enumerate(bins)]
    for line in _lines(path):
        try:
            row: Any = decode(line)
        except NOT_JSON:
            continue
        step = row.step
        if 0 <= step < _MAX_STEP:
            for name, add in wanted:
                value = getattr(row, name)
                if value is not None:
                    add(step, value)
    return [b.curve(metric) for metric, b in zip(metrics, bins, strict=True) if b.num_values]


def metric_names(path: Path) -> list[str]:
    """Return the names of the metrics in the first thousand lines of a run folder, in the order of appearance.

    Raises:
        ConfigError: When the file cannot be read.
    """
    names: dict[str, None] = {}
    for row in _rows(itertools.islice(_lines(path), _NUM_SEARCHED)):
        names |= dict.fromkeys(key for key, value in row.items() if value is None or type(value) in (int, float))
    return [name for name in names if name not in ("epoch", "step")]


def _decoder(metrics: Sequence[str]) -> Callable[[bytes], Any]:
    """Return a decoder of lines: it gives objects with ``step``, and ``metric_0``, ``metric_1`` ... or None."""
    fields: list[Any] = [("step", int), *((f"metric_{number}", float | None, None) for number in range(len(metrics)))]
    names = {f"metric_{number}": metric for number, metric in enumerate(metrics)}
    try:
        # Without further fields, msgspec skips the other numbers of a line instead of creating objects.
        return msgspec.json.Decoder(msgspec.defstruct("Line", fields, rename=names)).decode
    except ValueError:
        # msgspec refuses duplicate names, and names with quotes or control characters.
        line, decode = msgspec.defstruct("Line", fields), msgspec.json.Decoder(dict[str, Any]).decode

    def read(text: bytes) -> Any:
        row = decode(text)
        return msgspec.convert({"step": row.get("step"), **{name: row.get(key) for name, key in names.items()}}, line)

    return read


def _rows(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for line in lines:
        try:
            yield decode(line)
        except NOT_JSON:
            continue


def _lines(path: Path) -> Iterator[bytes]:
    try:
        yield from _read_lines(path / METRICS)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{path / METRICS} cannot be read: {reason(error)}") from error


def _read_lines(path: Path) -> Iterator[bytes]:
    """Yield the complete lines of a regular file without their line ends, holding only a part of it in memory.

    An incomplete last line is left out, and so are a line of more than one MiB and the holes of a sparse file.
    """
    descriptor = os.open(path, os.O_RDONLY | NO_LINKS | NO_WAITING)
    try:
        check_regular(os.fstat(descriptor), path)
        rest, is_spoilt = b"", False
        while True:
            is_spoilt |= _skip_hole(descriptor)
            if not (piece := os.read(descriptor, CHUNK_BYTES)):
                return
            *lines, rest = (rest + piece).split(b"\n")
            if lines and is_spoilt:
                del lines[0]
                is_spoilt = False
            yield from lines
            if len(rest) > CHUNK_BYTES:
                rest, is_spoilt = b"", True
    finally:
        os.close(descriptor)


def _skip_hole(descriptor: int) -> bool:
    """Move to the next data of a file, and return whether there was a hole before them."""
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        return os.lseek(descriptor, place, os.SEEK_DATA) > place
    except AttributeError:  # a system without holes
        return False
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing else is left
            os.lseek(descriptor, 0, os.SEEK_END)
        return False


class _Bins:
    """Sums of values in bins of equal width over the steps; the width doubles when there are too many bins."""

    def __init__(self) -> None:
        self._width = 1
        self._bins: dict[int, list[float]] = {}
        # Nearly every value falls into the same bin as the previous one.
        self._start, self._end, self._sums = 0, 0, [0.0, 0.0, 0.0]
        self.num_values = 0
        self._last = 0.0

    def add(self, step: int, value: float) -> None:
        """Add a value measured after ``step`` steps, unless it is not finite."""
        if value - value != 0.0:  # infinite or NaN, in a tenth of the time of a call
            return
        if not self._start <= step < self._end:
            self._choose(step)
        sums = self._sums
        sums[0] += 1
        sums[1] += step
        sums[2] += value
        self.num_values += 1
        self._last = value

    def curve(self, metric: str) -> Curve:
        """Return the means."""
        means = [(steps / count, values / count) for _, (count, steps, values) in sorted(self._bins.items())]
        return Curve(metric, [point for point in means if math.isfinite(point[1])], self.num_values, self._last)

    def _choose(self, step: int) -> None:
        """Select the bin of a step; first widen all bins if there is no room for another."""
        while step // self._width not in self._bins and len(self._bins) >= _MAX_POINTS:
            self._width *= 2
            merged: dict[int, list[float]] = {}
            for number, sums in self._bins.items():
                before = merged.get(number // 2, (0.0, 0.0, 0.0))
                merged[number // 2] = [a + b for a, b in zip(before, sums, strict=True)]
            self._bins = merged
        number = step // self._width
        self._start, self._end = number * self._width, (number + 1) * self._width
        self._sums = self._bins.setdefault(number, [0.0, 0.0, 0.0])
