"""Text that fits into the width of a terminal: names shortened, columns chosen, nothing cut without a sign."""

from __future__ import annotations

import itertools
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hookline.engine import printable

if TYPE_CHECKING:
    from hookline import RunView

UNLIMITED = sys.maxsize
"""A width into which everything fits."""
NUMBER_WIDTH = 12
"""Width of a number with six digits, sign and exponent."""
_GAP = 2


def width_of(text: str) -> int:
    """Return the number of columns that a terminal takes for a text (Unicode Standard Annex 11).

    >>> width_of("loss"), width_of("损失")
    (4, 4)
    """
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def rjust(text: str, width: int) -> str:
    """Return a text that ends at a column."""
    return " " * (width - width_of(text)) + text


def shortened_name(name: str, width: int) -> str:
    """Return a name that fits into a width: without its middle, and with more of its end, which tells the metric.

    >>> shortened_name("validation/accuracy", 12)
    'val...curacy'
    """
    name = printable(name)
    if width_of(name) <= width:
        return name
    tail = _beginning(name[::-1], 2 * (width - 3) // 3)[::-1]
    return f"{_beginning(name, width - 3 - width_of(tail))}...{tail}"


def _beginning(text: str, width: int) -> str:
    """Return as much of a text as fits into a width."""
    widths = itertools.accumulate(map(width_of, text))
    return text[: sum(reached <= width for reached in widths)]


def fitted(parts: Sequence[str], width: int) -> str:
    """Return as many parts as fit into a width, with the number of the others.

    >>> fitted(["loss 1.5", "lr 0.03", "norm 2"], 20)
    'loss 1.5  and 2 more'
    """
    gap = " " * _GAP
    text, used = "", 0
    for number, part in enumerate(parts):
        used += width_of(part) + (_GAP if number else 0)
        num_others = len(parts) - number - 1
        others = f"{gap}and {num_others} more" if num_others else ""
        if used > width:
            break
        if used + len(others) <= width:
            text = f"{gap.join(parts[: number + 1])}{others}"
    return text


def by_relevance(run: RunView) -> list[str]:
    """Return the metrics of a run: first its losses and what its plugins monitor, then those of held-out splits."""
    monitored = {run.config.lasting(key) for key in run.config.settings if key.endswith(".monitor")}
    names = run.metric_names

    def rank(name: str) -> int:
        split, _, metric = name.rpartition("/")
        if metric == "running_loss" and "train/loss" in names:
            return 4
        if metric in ("loss", "running_loss"):
            return 0
        return 1 if name in monitored else 2 if split != "train" else 3

    return sorted(names, key=rank)


def column_widths(names: Iterable[str], width: int) -> dict[str, int]:
    """Return the columns of a table that fit into a width, each with its own: at least one, the first ones.

    Args:
        names: Names of the columns, the most important first.
        width: Width of the table.
    """
    wanted = {name: max(width_of(printable(name)), NUMBER_WIDTH) for name in names}
    most = max(width // (NUMBER_WIDTH + _GAP), 1)
    widths = {name: NUMBER_WIDTH for number, name in enumerate(wanted) if number < most}
    rest = width - len(widths) * (NUMBER_WIDTH + _GAP)
    for name in sorted(widths, key=lambda name: wanted[name]):  # as many whole names as possible
        more = max(min(wanted[name] - NUMBER_WIDTH, rest), 0)
        widths[name] += more
        rest -= more
    return widths
