"""What is sent to a tracker: the points of a run, and the run itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

Outcome = str
"""Outcome of a run; or ``killed``, if it is known that no program works on it."""


class Point(msgspec.Struct, array_like=True):
    """The numbers of one line of ``metrics.jsonl``.

    Attributes:
        epoch: The epoch, from 1.
        step: Number of steps taken.
        time: When they were measured, in seconds since 1970.
        values: The numbers by name.
    """

    epoch: int
    step: int
    time: float
    values: dict[str, float]

    @property
    def numbers(self) -> dict[str, float]:
        """All numbers, the epoch included."""
        return {"epoch": self.epoch, **self.values}


class Sent(msgspec.Struct):
    """A run, as trackers get it.

    Attributes:
        id: Its ID, the same in every attempt.
        name: Its name.
        settings: Its settings by dotted key, without secrets.
        facts: Versions, machine and commit, by name.
        folder: Its run folder; empty if it has none.
        tags: Its tags.
        notes: What its author says about it.
    """

    id: str
    name: str
    settings: dict[str, Any]
    facts: dict[str, str]
    folder: str = ""
    tags: list[str] = []
    notes: str = ""


class Job(msgspec.Struct):
    """What brings a tracker up to date.

    Attributes:
        tracker: Name of the tracker.
        options: The options of its store.
        sent: The run.
        first: Number of points before the first of ``points``.
        points: The points.
        outcome: How the run ended; None if it goes on.
        weights: Path of the file of weights to send; empty for none.
        lock: Path of the file that one sender at a time holds; empty without a run folder.
    """

    tracker: str
    options: dict[str, Any]
    sent: Sent
    first: int
    points: list[Point]
    outcome: Outcome | None = None
    weights: str = ""
    lock: str = ""


class Store(Protocol):
    """A run in the store of a tracker. Making the object opens it there, or continues it."""

    def count(self) -> int:
        """Return the number of points of the run that the store has."""

    def send(self, points: Sequence[Point], first: int) -> None:
        """Add points; return when the store has them. ``first`` is the number of the points before."""

    def close(self, outcome: Outcome | None, weights: str) -> None:
        """Add the outcome and the weights, if there are any, and close what was opened."""


def flat_facts(identity: Mapping[str, Any], git: str | None) -> dict[str, str]:
    """Return the versions, machine and commit of a run, by name."""
    parts = {**identity.get("versions", {}), **identity.get("machine", {}), **({"git": git} if git else {})}
    return {name: str(value) for name, value in parts.items()}
