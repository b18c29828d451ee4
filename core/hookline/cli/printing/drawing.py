"""Curves in characters, as wide as a terminal of eighty columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

WIDTH = 64
HEIGHT = 12


def drawn(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    bounds: tuple[float, float],
    labels: tuple[str, str],
    ends: tuple[str, str],
) -> Iterator[str]:
    """Give the lines of a drawing.

    Args:
        curves: Points by the character that marks them: the place along the axis, from 0 to 1, and the value.
        bounds: The values at the bottom and at the top; what is above goes along the top.
        labels: What stands beside those.
        ends: What stands under the beginning and the end of the axis.
    """
    low, high = bounds
    grid = [[" "] * WIDTH for _ in range(HEIGHT)]
    for mark, points in curves.items():
        for place, value in points:
            height = (min(value, high) - low) / (high - low) if high > low else 0.0
            grid[round((1 - height) * (HEIGHT - 1))][column(place)] = mark
    beside = {0: labels[1], HEIGHT - 1: labels[0]}
    for number, cells in enumerate(grid):
        yield f"{beside.get(number, ''):>10} |{''.join(cells)}".rstrip()
    yield f"{'':>10} +{'-' * WIDTH}"
    yield f"{'':>12}{ends[0]:<{WIDTH // 2}}{ends[1]:>{WIDTH // 2}}"


def column(place: float) -> int:
    """Return the column of a place along the axis, from 0 to 1."""
    return round(place * (WIDTH - 1))
