"""Losses of plugins: contents that they had in the first run of a proof, and not in the second."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hookline.trials.proof.kills import Place
from hookline.trials.proof.seen import OUTSIDE, Seen


@dataclass(frozen=True)
class Lost:
    """Contents of a plugin that are not the same in both runs.

    Attributes:
        table: The plugin's table.
        name: Its place in the plugin.
        before: Its text in the first run; None for nothing.
        after: Its text in the second run, likewise.
        step: Number of steps taken by then.
    """

    table: str
    name: str
    before: str | None
    after: str | None
    step: int

    def __str__(self) -> str:
        before, after = self.before or "nothing", self.after or "nothing"
        return f"{self.name or 'it'} was {before} after {self.step} steps in the first run, and {after} in the second"


def find_losses(seen: Mapping[str, Seen], begun: Sequence[Place]) -> Iterator[Lost]:
    """Yield the losses behind a difference of the two runs.

    Args:
        seen: The records of both runs, by the stem of their file.
        begun: Places from which the second run had resumed before the difference.
    """
    return _not_restored(seen, begun) if begun else _unseeded(seen)


def _unseeded(seen: Mapping[str, Seen]) -> Iterator[Lost]:
    """Yield the generators of plugins that differ although nothing was interrupted."""
    from hookline.trials.proof.inside import STATE

    for lost in _changes(seen, _is_uninterrupted):
        is_generator = (lost.before or "").startswith(STATE) and (lost.after or "").startswith(STATE)
        if lost.table != OUTSIDE and is_generator:
            yield lost


def _not_restored(seen: Mapping[str, Seen], begun: Sequence[Place]) -> Iterator[Lost]:
    """Yield contents that were not restored on resume, except those that differ in any two runs."""
    noise = {(lost.table, lost.name) for lost in _changes(seen, _is_uninterrupted)}
    for lost in _changes(seen, lambda stem, one: "-resumed-" in stem and one.place in begun):
        if (lost.table, lost.name) not in noise:
            yield lost


def _is_uninterrupted(stem: str, _: Seen) -> bool:
    """Return whether a record is from the second run, before its first kill."""
    return stem.startswith("0-saved")


def _changes(seen: Mapping[str, Seen], is_wanted: Callable[[str, Seen], bool]) -> Iterator[Lost]:
    """Yield the contents that differ between the first run and the wanted records of the second, place by place."""
    whole = {one.place: one for stem, one in seen.items() if stem.startswith("whole-")}
    for stem, one in seen.items():
        if is_wanted(stem, one) and one.place in whole:
            held = whole[one.place].held
            for table in held.keys() | one.held.keys():
                before, after = held.get(table, {}), one.held.get(table, {})
                for name in before | after:
                    if before.get(name) != after.get(name):
                        yield Lost(table, name, before.get(name), after.get(name), one.step)
