"""Plots of curves in characters, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

WIDTH = 64
HEIGHT = 12


def plot_lines(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    bounds: tuple[float, float],
    labels: tuple[str, str],
    ends: tuple[str, str],
) -> Iterator[str]:
    """Yield the lines of a plot.

    Args:
        curves: Points of each curve by the character that marks them: position on the axis, from 0 to 1, and value.
        bounds: Values at the bottom and at the top; higher values are drawn at the top.
        labels: Labels of the bounds.
        ends: Labels of the two ends of the axis.
    """
    low, high = bounds
    grid = [[" "] * WIDTH for _ in range(HEIGHT)]
    for mark, points in curves.items():
        for place, value in points:
            # Halves, because the difference of two large numbers may be infinite.
            height = (min(value, high) / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.0
            grid[round((1 - height) * (HEIGHT - 1))][column(place)] = mark
    margin = {0: labels[1], HEIGHT - 1: labels[0]}
    for number, cells in enumerate(grid):
        yield f"{margin.get(number, ''):>10} |{''.join(cells)}".rstrip()
    yield f"{'':>10} +{'-' * WIDTH}"
    yield f"{'':>12}{ends[0]:<{WIDTH // 2}}{ends[1]:>{WIDTH // 2}}"


def column(place: float) -> int:
    """Return the column of a position on the axis, from 0 to 1."""
    return round(place * (WIDTH - 1))
