"""The kinds of sections. Each is a record of plain values that converts to JSON; none holds HTML.

In JSON a section is an object with its fields and its ``kind``, such as ``table``. A number that is not finite is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

Topic = Literal["run", "curves", "evaluation", "data", "model", "warnings", "environment", "repeat"]
"""The part of a page in which a section stands, in this order."""

Cell = str | int | float | bool | None


class Section(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag=str.lower):
    """A section of a report: the base of all kinds.

    Attributes:
        title: Its heading.
        topic: The part of the page in which it stands.
        note: A remark below it: the source of a formula, or what was left out.
    """

    title: str
    topic: Topic = "evaluation"
    note: str = ""


class Table(Section, frozen=True, kw_only=True):
    """Rows of plain values.

    Attributes:
        columns: Names of the columns.
        rows: The rows, each with a value for every column.
        marked: Indices of rows that are emphasized, such as values that were set.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    marked: Sequence[int] = ()


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a section of curves.

    Attributes:
        name: Its name in the legend.
        steps: Positions on the horizontal axis, ascending.
        values: The values there; None, or a number that is not finite, is a gap.
        low: The smallest value that each point stands for; empty if each stands for one value.
        high: The largest value.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


class Curves(Section, frozen=True, kw_only=True):
    """Lines over a common axis.

    Attributes:
        series: The lines.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical axis.
        is_trace: Whether they are measured over time, so that a reader may smooth them and use a logarithmic scale.
        has_diagonal: Whether the line ``y = x`` is drawn from 0 to 1, as in curves of ROC and calibration.
        cycle: Number of lines with different colours; as many next ones have the same colours and other dashes.
    """

    series: Sequence[Series]
    x_label: str = "step"
    y_label: str = ""
    is_trace: bool = True
    has_diagonal: bool = False
    cycle: int = 6


class Scatter(Section, frozen=True, kw_only=True):
    """Points in a plane.

    Attributes:
        x: Their positions on the horizontal axis.
        y: Their positions on the vertical axis, as many.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical axis.
        line: A line to compare the points with: ``y = x``, ``y = 0``, or none.
    """

    x: Sequence[float | None]
    y: Sequence[float | None]
    x_label: str
    y_label: str
    line: Literal["identity", "zero", "none"] = "none"


class Histogram(Section, frozen=True, kw_only=True):
    """Numbers of values in ranges.

    Attributes:
        edges: Limits of the ranges, ascending, one more than there are ranges.
        counts: Number of values in each range.
        x_label: Name of what was counted.
    """

    edges: Sequence[float]
    counts: Sequence[float]
    x_label: str = ""


class Bars(Section, frozen=True, kw_only=True):
    """A number for each of several names.

    Attributes:
        labels: The names.
        values: The numbers, as many.
        value_label: Name of the numbers.
    """

    labels: Sequence[str]
    values: Sequence[float | None]
    value_label: str = ""


class Matrix(Section, frozen=True, kw_only=True):
    """Numbers for pairs of names, such as a confusion matrix.

    Attributes:
        row_labels: Names of the rows.
        column_labels: Names of the columns.
        counts: The rows, each with a number for every column.
        row_title: Name of what the rows are.
        column_title: Name of what the columns are.
    """

    row_labels: Sequence[str]
    column_labels: Sequence[str]
    counts: Sequence[Sequence[float]]
    row_title: str = ""
    column_title: str = ""


class Text(Section, frozen=True, kw_only=True):
    """Paragraphs.

    Attributes:
        paragraphs: The texts.
        is_preformatted: Whether to keep their line ends and use a font of fixed width, as for commands and logs.
    """

    paragraphs: Sequence[str]
    is_preformatted: bool = False


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One image; in JSON, its bytes are base64.

    Attributes:
        data: The bytes of its file.
        caption: A text below it, which also stands for it where it cannot be seen.
        format: Format of the file.
    """

    data: bytes
    caption: str
    format: Literal["png", "jpeg"] = "png"


class Images(Section, frozen=True, kw_only=True):
    """Images with captions.

    Attributes:
        images: The images.
    """

    images: Sequence[Image]


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """One axis of parallel coordinates.

    Attributes:
        name: Its name.
        values: The value of each line on it; texts get places in the order in which they first occur.
    """

    name: str
    values: Sequence[Cell]


class ParallelCoordinates(Section, frozen=True, kw_only=True, tag="parallel"):
    """Parallel coordinates: a line for each of several runs across axes of settings and metrics.

    Attributes:
        labels: Name of each line.
        axes: The axes, each with a value for every line.
    """

    labels: Sequence[str]
    axes: Sequence[Axis]


AnySection = Table | Curves | Scatter | Histogram | Bars | Matrix | Text | Images | ParallelCoordinates


def sections_to_json(sections: Sequence[Section]) -> bytes:
    """Return sections as a JSON array.

    >>> sections_to_json([Text(title="Hello", paragraphs=["<b>"])])
    b'[{"kind":"text","title":"Hello","topic":"evaluation","note":"","paragraphs":["<b>"],"is_preformatted":false}]'
    """
    return msgspec.json.encode(list(sections))


def sections_from_json(text: bytes) -> list[Section]:
    """Return the sections of a JSON array.

    Raises:
        msgspec.DecodeError: When the text is no such array.
    """
    return list(msgspec.json.decode(text, type=list[AnySection]))
