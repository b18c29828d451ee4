"""``Report``: the results of the checks of one plugin, and their way to the pytest plugin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """The results of the checks of one plugin.

    Attributes:
        plugin: Its kind and name, such as ``model 'MLP'``.
        ran: The checks that ran, with any result.
        skipped: Checks that did not apply, each with the reason.
        failed: Checks that failed, each with its rule, the finding, and what to do.
        expected: Checks that failed as expected, each with the given reason.
        told: Notes of checks that passed, such as the import time.
    """

    plugin: str
    ran: tuple[str, ...]
    skipped: Mapping[str, str]
    failed: Mapping[str, str]
    expected: Mapping[str, str]
    told: Mapping[str, str]

    def __str__(self) -> str:
        return "\n".join(
            [
                self.headline(),
                *(f"  skipped {name}: {reason}" for name, reason in self.skipped.items()),
                *(f"  expected {name}: {reason}" for name, reason in self.expected.items()),
                *(f"  {name}: {text}" for name, text in self.told.items()),
            ]
        )

    def headline(self) -> str:
        """Return a line with the number of checks by result."""
        ran = "1 check" if len(self.ran) == 1 else f"{len(self.ran)} checks"
        expected = f", {len(self.expected)} failed as expected" if self.expected else ""
        return f"{self.plugin}: {ran} ran, {len(self.skipped)} skipped, {len(self.failed)} failed{expected}"


_COLLECTED: ContextVar[list[Report] | None] = ContextVar("hookline reports", default=None)


@contextmanager
def collecting() -> Iterator[list[Report]]:
    """Collect every report that is published in the block in a list."""
    reports: list[Report] = []
    token = _COLLECTED.set(reports)
    try:
        yield reports
    finally:
        _COLLECTED.reset(token)


def publish(report: Report) -> None:
    """Add a report to the list of ``collecting``, if there is one."""
    reports = _COLLECTED.get()
    if reports is not None:
        reports.append(report)
