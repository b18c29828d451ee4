"""Differences between two runs: settings, versions, code, data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hookline.runs.record import RunRecord

if TYPE_CHECKING:
    pass


def changes(where: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield the differences between two parts of a fingerprint, in words."""
    for key in sorted(then.keys() | now.keys()):
        before, after = then.get(key), now.get(key)
        if before != after:
            yield f"{where}: {key} was {_brief(before)}, and is {_brief(after)}"


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(str(item)[:16] for item in value.values() if item is not None)
    return "not there" if value is None else repr(value)


PARTS = ("settings", "versions", "plugins", "code", "data", "machine")
"""The parts of a run's fingerprint, in the order in which they are shown."""


@dataclass(frozen=True)
class Change:
    """One value in which two runs differ.

    Attributes:
        part: The part that it belongs to: a part of the fingerprint, ``git`` or ``metrics``.
        key: Its key within the part.
        before: The value of the first run; None if it has none.
        after: The value of the second run; None if it has none.
    """

    part: str
    key: str
    before: Any
    after: Any


def identity_changes(before: RunRecord, after: RunRecord) -> Iterator[Change]:
    """Yield the differences between the fingerprints of two runs."""
    for part in PARTS:
        yield from _changes(part, _part(before, part), _part(after, part))


def differences(before: RunRecord, after: RunRecord) -> Iterator[Change]:
    """Yield all differences between two runs: fingerprints, commits, and metrics of their last epochs."""
    yield from identity_changes(before, after)
    yield from _changes("git", {"commit": before.git}, {"commit": after.git})
    yield from _changes("metrics", before.metrics, after.metrics)


def _part(record: RunRecord, name: str) -> Mapping[str, Any]:
    part = record.identity.get(name)
    return part if isinstance(part, Mapping) else {}


def _changes(part: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    if before == after:
        return
    changed = [key for key, value in before.items() if after.get(key) != value]
    changed += [key for key, value in after.items() if key not in before and value is not None]
    # A key that only one run has is listed with the rest of its table.
    tables = {table: number for number, table in enumerate(dict.fromkeys(map(_table, changed)))}
    for key in sorted(changed, key=lambda key: tables[_table(key)]):
        yield Change(part, key, before.get(key), after.get(key))


def _table(key: str) -> str:
    return key.rpartition(".")[0]
