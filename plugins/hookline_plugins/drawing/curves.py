"""Curves of one run or of several, from their ``metrics.jsonl``: a section for each metric, with a line for each split.

A million lines of metrics become at most a thousand points of mean, minimum and maximum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hookline.runs import Curve, metric_names, read_curves
from hookline.sections import MAX_SERIES, Curves, Section, Series, Text, bounded

MAX_CHARTS = 40
"""Number of sections of curves: as many as a page stays quick with."""
_MOST_POINTS, _FEWER_POINTS, _MANY = 1000, 250, 20
_SPLITS = ("train", "validation", "test", "logged")
_LAST = ("lr", "gradient_norm", "examples_per_s", "tokens_per_s", "memory_bytes")
"""Metrics about the training, after those about the model."""


def curve_sections(runs: Mapping[str, Path], splits: Sequence[str] = ()) -> list[Section]:
    """Return a section of curves for each metric.

    Args:
        runs: The run folders by name; with several, each line has the name of its run.
        splits: Names of splits, beside the usual ones: a metric of each is a line of the same section.
    """
    names = {name: metric_names(path) for name, path in runs.items()}
    shown = list(charts_of(_all(names), splits).items())[:MAX_CHARTS]
    curves = {name: _read(path, names[name], dict(shown)) for name, path in runs.items()}
    return sections_of_curves(curves, _all(names), splits)


def sections_of_curves(
    curves: Mapping[str, Sequence[Curve]], metrics: Sequence[str], splits: Sequence[str] = ()
) -> list[Section]:
    """Return a section for each metric of which there are curves.

    Args:
        curves: The curves of each run by its name.
        metrics: Names of all metrics; how many cannot be shown is said.
        splits: As for ``curve_sections``.
    """
    charts = charts_of(metrics, splits)
    known = {name: {curve.metric: curve for curve in of_run} for name, of_run in curves.items()}
    sections: list[Section] = []
    for title, together in list(charts.items())[:MAX_CHARTS]:
        series = list(_series(known, together))
        if series:
            cycle = len(curves) if len(curves) > 1 else 6
            sections.append(bounded(Curves(title=title, topic="curves", series=series, cycle=cycle)))
    if len(charts) > MAX_CHARTS:
        text = f"{len(charts) - MAX_CHARTS:,} of {len(charts):,} metrics are left out; to draw one: hookline runs plot"
        sections.append(bounded(Text(title="More metrics", topic="curves", paragraphs=[text])))
    return sections


def _all(names: Mapping[str, Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(metric for each in names.values() for metric in each))


def charts_of(metrics: Sequence[str], splits: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return which metrics share a chart, by its title: one metric of all splits, and all parts of it.

    >>> charts_of(["train/loss", "lr/0", "lr/1", "validation/f1/a", "validation/loss"])
    {'loss': ['train/loss', 'validation/loss'], 'f1': ['validation/f1/a'], 'lr': ['lr/0', 'lr/1']}
    """
    charts: dict[str, list[str]] = {}
    known = set(metrics)
    for metric in metrics:
        if metric.startswith("logged/") and metric.removeprefix("logged/") in known:
            continue  # its means over the epochs
        first, _, rest = metric.partition("/")
        title = (rest.partition("/")[0] if first in (*_SPLITS, *splits) else first) or metric
        charts.setdefault("loss" if title == "running_loss" else title, []).append(metric)
    order = {"loss": -1, **{name: number for number, name in enumerate(_LAST, 1)}}
    return dict(sorted(charts.items(), key=lambda item: order.get(item[0], 0)))


def series_of(curve: Curve, name: str) -> Series:
    """Return a curve as a line, with a gap where no value was finite."""
    is_thinned = curve.num_values > len(curve.points)
    points = [(step, value, *extremes) for (step, value), extremes in zip(curve.points, curve.ranges, strict=True)]
    rows = sorted([*points, *((step, None, None, None) for step in curve.gaps)], key=lambda row: row[0])
    values, low, high = ([_rounded(row[part]) for row in rows] for part in (1, 2, 3))
    steps = [float(row[0]) for row in rows]
    if not is_thinned:
        return Series(name=name, steps=steps, values=values)
    return Series(name=name, steps=steps, values=values, low=low, high=high)


def _read(path: Path, known: Sequence[str], charts: Mapping[str, Sequence[str]]) -> list[Curve]:
    there = set(known)
    wanted = [metric for metrics in charts.values() for metric in metrics[:MAX_SERIES] if metric in there]
    return read_curves(path, wanted, _MOST_POINTS if len(wanted) <= _MANY else _FEWER_POINTS)


def _series(curves: Mapping[str, Mapping[str, Curve]], metrics: Sequence[str]) -> Iterator[Series]:
    for metric in metrics:
        for run, of_run in curves.items():
            if metric in of_run:
                yield series_of(of_run[metric], metric if len(curves) == 1 else f"{run}: {metric}")


def _rounded(value: float | None) -> float | None:
    # Seven digits, as of float32, are more than a screen shows, and a third of the file.
    return None if value is None else float(f"{value:.7g}")
