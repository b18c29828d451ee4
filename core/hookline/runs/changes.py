"""Differences between two runs: settings, versions, code, data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hookline.runs.record import RunRecord

PARTS = ("settings", "versions", "plugins", "code", "data", "machine")
"""The parts of a run's fingerprint, in the order in which they are shown."""

_HEX_DIGITS = frozenset("0123456789abcdef")


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

    def __str__(self) -> str:
        return f"{self.part}: {self.key} was {_short(self.before)}, and is {_short(self.after)}"


def identity_changes(
    before: Mapping[str, Any], after: Mapping[str, Any], parts: Sequence[str] = PARTS
) -> Iterator[Change]:
    """Yield the differences between the fingerprints of two runs."""
    for part in parts:
        yield from _changes(part, _part(before, part), _part(after, part))


def differences(before: RunRecord, after: RunRecord) -> Iterator[Change]:
    """Yield all differences between two runs: fingerprints, commits, and metrics of their last epochs."""
    yield from identity_changes(before.identity, after.identity)
    yield from _changes("git", {"commit": before.git}, {"commit": after.git})
    yield from _changes("metrics", before.metrics, after.metrics)


def entry_text(entry: Mapping[str, Any]) -> str:
    """Return an entry of a fingerprint in a few words.

    >>> entry_text({"type": "TensorDataset", "num_examples": 1000, "content": None})
    'TensorDataset 1000'
    """
    words = (str(value) for value in entry.values() if value is not None)
    return " ".join(word[:12] if len(word) == 64 and _HEX_DIGITS.issuperset(word) else word for word in words)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return entry_text(value)
    return "not there" if value is None else repr(value)


def _part(identity: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = identity.get(name)
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
