"""Sections: JSON and back, bounds with a note, and the faults that are refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from hookline.sections import (
    MAX_POINTS,
    Axis,
    Bars,
    Curves,
    Histogram,
    Image,
    Images,
    Matrix,
    ParallelCoordinates,
    Scatter,
    Section,
    Series,
    Table,
    Text,
    bounded,
    sections_from_json,
    sections_to_json,
    thinned,
)

MARKUP = '</script><img src=x onerror="alert(1)">\udcff'
EACH: list[Section] = [
    Table(title="t", columns=["a", "b"], rows=[[1, MARKUP], [None, True]], marked=[1]),
    Curves(title="c", series=[Series(name=MARKUP, steps=[1, 2, 3], values=[1.0, None, math.nan])]),
    Scatter(title="s", x=[1.0, math.inf], y=[2.0, 3.0], x_label="x", y_label="y"),
    Histogram(title="h", edges=[0.0, 1.0, 2.0], counts=[3, 4]),
    Bars(title="b", labels=[MARKUP], values=[-1.5]),
    Matrix(title="m", row_labels=["a"], column_labels=["x", "y"], counts=[[1, 2]]),
    Text(title="x", paragraphs=[MARKUP]),
    Images(title="i", images=[Image(data=b"\x89PNG", caption=MARKUP)]),
    ParallelCoordinates(
        title="p", labels=["r"], axes=[Axis(name="lr", values=[0.1]), Axis(name="model", values=["mlp"])]
    ),
]


@pytest.mark.parametrize("section", EACH, ids=lambda section: type(section).__name__)
def test_each_kind_is_the_same_after_json_and_has_no_surrogate_and_no_number_that_is_not_finite(
    section: Section,
) -> None:
    text = sections_to_json([bounded(section)])
    (again,) = sections_from_json(text)
    assert type(again) is type(section)
    assert sections_from_json(sections_to_json([bounded(again)])) == [again]
    assert json.loads(text.decode(), parse_constant=pytest.fail)[0]["kind"] == section.__struct_config__.tag


def test_a_gap_stays_a_gap() -> None:
    (curves,) = sections_from_json(sections_to_json([bounded(EACH[1])]))
    assert isinstance(curves, Curves)
    assert curves.series[0].values == [1.0, None, None]


@pytest.mark.parametrize(
    ("section", "number"),
    [
        (Table(title="t", columns=["a", "b"], rows=[[1, 2]] * 10_050), "50 of 10,050 rows"),
        (Scatter(title="s", x=[1.0] * 6000, y=[2.0] * 6000, x_label="", y_label=""), "4,000 of 6,000 points"),
        (Bars(title="b", labels=["a"] * 130, values=[1.0] * 130), "30 of 130 bars"),
        (Text(title="x", paragraphs=["a" * 150_000] * 3), "1 of 3 paragraphs"),
        (Images(title="i", images=[Image(data=bytes(2**20), caption="")] * 6), "2 of 6 pictures"),
        (Curves(title="c", series=[Series(name="", steps=[], values=[])] * 51), "1 of 51 lines"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_too_much_is_left_out_and_the_note_says_so(section: Section, number: str) -> None:
    assert bounded(section).note == f"{number} left out"


def test_a_long_line_keeps_its_spike_and_has_few_points() -> None:
    values = [0.0] * 100_000
    values[54_321] = 9.0
    (line,) = bounded(Curves(title="c", series=[Series(name="x", steps=range_of(100_000), values=values)])).series  # type: ignore[attr-defined] # curves stay curves
    assert len(line.steps) <= MAX_POINTS
    assert max(line.high) == 9.0
    assert line.steps == sorted(line.steps)


def range_of(number: int) -> list[float]:
    return [float(step) for step in range(number)]


def test_a_stretch_without_a_finite_value_is_a_gap() -> None:
    line = thinned(range_of(8), [1.0, 2.0, math.nan, None, 5.0, math.inf, 7.0, 9.0], 4)
    assert line.values == [1.5, None, 5.0, 8.0]
    assert line.low == [1.0, None, 5.0, 7.0]


@pytest.mark.parametrize(
    "section",
    [
        Table(title="t", columns=["a"], rows=[[1, 2]]),
        Curves(title="c", series=[Series(name="x", steps=[1, 2], values=[1.0])]),
        Curves(title="c", series=[Series(name="x", steps=[math.nan], values=[1.0])]),
        Scatter(title="s", x=[1.0], y=[], x_label="", y_label=""),
        Histogram(title="h", edges=[0.0], counts=[1]),
        Bars(title="b", labels=["a"], values=[]),
        Matrix(title="m", row_labels=["a"], column_labels=["b"], counts=[]),
        ParallelCoordinates(title="p", labels=["a"], axes=[Axis(name="x", values=[])]),
    ],
    ids=lambda section: type(section).__name__,
)
def test_parts_that_do_not_fit_together_are_refused(section: Section) -> None:
    with pytest.raises(ValueError, match=r"."):
        bounded(section)


@pytest.mark.parametrize("cell", [object(), b"x", 1j])
def test_a_value_that_is_not_plain_is_refused(cell: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        bounded(Table(title="t", columns=["a"], rows=[[cell]]))
