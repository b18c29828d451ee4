"""Bounds of sections: what a page can show, and a browser can hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from hookline.sections.kinds import (
    Bars,
    Curves,
    Histogram,
    Images,
    Matrix,
    ParallelCoordinates,
    Scatter,
    Section,
    Series,
    Table,
    Text,
    sections_to_json,
)

MAX_SECTIONS = 200
"""Number of sections that one plugin may add."""
MAX_POINTS = 2000
"""Number of points of a line or a cloud: more than a screen of usual width has pixels for."""
MAX_SERIES = 50
"""Number of lines in one section: more than anyone tells apart."""
MAX_CELLS = 20_000
"""Number of cells of a table, and of other numbers in a section."""
MAX_TEXT = 200_000
"""Number of characters of a section."""
MAX_WORD = 2000
"""Number of characters of a title, a name or a cell."""
MAX_IMAGES = 100
MAX_IMAGE_BYTES = 4 * 2**20
"""Number of bytes of the images of a section."""


def bounded(section: Section) -> Section:
    """Return a section within the bounds, with a note on what was left out.

    Raises:
        ValueError: When its parts do not fit together, such as rows of other lengths than the columns.
        TypeError: When a value is of another type than its field.
    """
    msgspec.convert(msgspec.to_builtins(section, builtin_types=(bytes,)), type(section))
    section = replace(section, title=_short(section.title), note=_short(section.note))
    cut, omitted = _CUTS[type(section)](section)
    if omitted:
        note = f"{omitted} left out"
        cut = replace(cut, note=f"{section.note}; {note}" if section.note else note)
    sections_to_json([cut])
    return cut


def thinned(
    steps: Sequence[float], values: Sequence[float | None], max_points: int = MAX_POINTS, *, name: str = ""
) -> Series:
    """Return a line of at most so many points: the mean of each of equally long stretches, with minimum and maximum.

    >>> line = thinned([1, 2, 3, 4], [5.0, 7.0, None, 1.0], max_points=2)
    >>> line.steps, line.values, line.low, line.high
    ([1.5, 3.5], [6.0, 1.0], [5.0, 1.0], [7.0, 1.0])
    """
    numbers = [None if value is None or not math.isfinite(value) else value for value in values]
    if len(steps) <= max_points:
        return Series(name=name, steps=list(steps), values=numbers)
    width = math.ceil(len(steps) / max_points)
    points = []
    for start in range(0, len(steps), width):
        there = [value for value in numbers[start : start + width] if value is not None]
        step = math.fsum(steps[start : start + width]) / len(steps[start : start + width])
        mean = math.fsum(there) / len(there) if there else None
        points.append((step, mean, min(there, default=None), max(there, default=None)))
    means, low, high = ([point[part] for point in points] for part in (1, 2, 3))
    return Series(name=name, steps=[point[0] for point in points], values=means, low=low, high=high)


def _short(text: str, length: int = MAX_WORD) -> str:
    # Surrogates stand for bytes of file names that are no text; JSON has no room for them.
    text = text[: length + 1].encode(errors="backslashreplace").decode()
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _words(texts: Sequence[str]) -> list[str]:
    return list(map(_short, texts))


def _cut_table(section: Table) -> tuple[Section, str]:
    _check(all(len(row) == len(section.columns) for row in section.rows), "a row has not a cell for every column")
    columns, rows = _words(section.columns[:MAX_CELLS]), section.rows[: MAX_CELLS // max(len(section.columns), 1)]
    shown = [[_short(cell) if isinstance(cell, str) else _number(cell) for cell in row[: len(columns)]] for row in rows]
    marked = [index for index in section.marked if index < len(shown)]
    return replace(section, columns=columns, rows=shown, marked=marked), _more(section.rows, shown, "rows")


def _cut_curves(section: Curves) -> tuple[Section, str]:
    shown = [_cut_series(one, len(section.series)) for one in section.series[:MAX_SERIES]]
    return replace(section, series=shown), _more(section.series, shown, "lines")


def _cut_series(one: Series, number: int) -> Series:
    fits = len(one.steps) == len(one.values) and {len(one.low), len(one.high)} <= {0, len(one.steps)}
    _check(fits and len(one.low) == len(one.high), f"the line {one.name!r} has not as many values as steps")
    _check(all(map(math.isfinite, one.steps)), f"the line {one.name!r} has a step that is not finite")
    most = max(MAX_POINTS * 4 // max(number, 1), 100) if number > 4 else MAX_POINTS
    if len(one.steps) > most:
        one = thinned(one.steps, one.values, most, name=one.name)
    return replace(
        one, name=_short(one.name), values=_numbers(one.values), low=_numbers(one.low), high=_numbers(one.high)
    )


def _cut_scatter(section: Scatter) -> tuple[Section, str]:
    _check(len(section.x) == len(section.y), "there are not as many y as x")
    pairs = [(x, y) for x, y in zip(_numbers(section.x), _numbers(section.y), strict=True) if None not in (x, y)]
    # Every nth, so that the cloud keeps its shape in data that are sorted.
    stride = math.ceil(len(pairs) / MAX_POINTS) or 1
    shown = pairs[::stride]
    x, y = [pair[0] for pair in shown], [pair[1] for pair in shown]
    return replace(section, x=x, y=y), _more(section.x, shown, "points")


def _cut_histogram(section: Histogram) -> tuple[Section, str]:
    _check(len(section.edges) == len(section.counts) + 1, "there is not one edge more than there are counts")
    _check(all(map(math.isfinite, [*section.edges, *section.counts])), "an edge or count is not finite")
    counts = section.counts[:MAX_POINTS]
    return replace(section, edges=section.edges[: len(counts) + 1], counts=counts), _more(
        section.counts, counts, "ranges"
    )


def _cut_bars(section: Bars) -> tuple[Section, str]:
    _check(len(section.labels) == len(section.values), "there are not as many values as labels")
    labels = _words(section.labels[:100])
    return replace(section, labels=labels, values=_numbers(section.values[:100])), _more(section.labels, labels, "bars")


def _cut_matrix(section: Matrix) -> tuple[Section, str]:
    rows, columns = section.row_labels, section.column_labels
    fits = len(section.counts) == len(rows) and all(len(row) == len(columns) for row in section.counts)
    _check(fits, "there is not a number for every pair of labels")
    side = math.isqrt(MAX_CELLS // 2)
    shown = [_numbers(row[:side]) for row in section.counts[:side]]
    cut = replace(section, row_labels=_words(rows[:side]), column_labels=_words(columns[:side]), counts=shown)
    return cut, _more(rows, shown, "rows")


def _cut_text(section: Text) -> tuple[Section, str]:
    shown: list[str] = []
    room = MAX_TEXT
    for text in section.paragraphs:
        if room <= 0:
            break
        shown.append(_short(text, room))
        room -= len(shown[-1]) + 1
    return replace(section, paragraphs=shown), _more(section.paragraphs, shown, "paragraphs")


def _cut_images(section: Images) -> tuple[Section, str]:
    shown, room = [], MAX_IMAGE_BYTES
    for one in section.images[:MAX_IMAGES]:
        room -= len(one.data)
        if room < 0:
            break
        shown.append(replace(one, caption=_short(one.caption)))
    return replace(section, images=shown), _more(section.images, shown, "pictures")


def _cut_parallel(section: ParallelCoordinates) -> tuple[Section, str]:
    _check(
        all(len(axis.values) == len(section.labels) for axis in section.axes), "an axis has not a value for every line"
    )
    labels = _words(section.labels[:MAX_POINTS])
    axes = [
        replace(
            axis,
            name=_short(axis.name),
            values=[_short(v) if isinstance(v, str) else _number(v) for v in axis.values[: len(labels)]],
        )
        for axis in section.axes[:MAX_SERIES]
    ]
    return replace(section, labels=labels, axes=axes), _more(section.labels, labels, "lines") or _more(
        section.axes, axes, "axes"
    )


_CUTS: dict[type[Section], Callable[[Any], tuple[Section, str]]] = {
    Table: _cut_table,
    Curves: _cut_curves,
    Scatter: _cut_scatter,
    Histogram: _cut_histogram,
    Bars: _cut_bars,
    Matrix: _cut_matrix,
    Text: _cut_text,
    Images: _cut_images,
    ParallelCoordinates: _cut_parallel,
}


def _more(whole: Sequence[Any], shown: Sequence[Any], name: str) -> str:
    number = len(whole) - len(shown)
    return f"{number:,} of {len(whole):,} {name}" if number else ""


def _numbers(values: Sequence[float | None]) -> list[Any]:
    return list(map(_number, values))


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check(is_right: bool, fault: str) -> None:
    if not is_right:
        raise ValueError(fault)
