"""``Report``: what the checks of one plugin found, and how a test session hears of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """What the checks of one plugin found.

    Attributes:
        plugin: Its kind and name, such as ``model 'MLP'``.
        ran: The checks that ran, whatever they found.
        skipped: Those that did not, each with the reason.
        failed: Those that failed, each with its rule, what was seen, and what to do.
        expected: Those that failed as expected, each with the reason that was given.
        told: What checks told about the plugin beside their verdict, such as the time of its import.
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
        """Return the line that says how many checks ran and what became of them."""
        ran = "1 check" if len(self.ran) == 1 else f"{len(self.ran)} checks"
        expected = f", {len(self.expected)} failed as expected" if self.expected else ""
        return f"{self.plugin}: {ran} ran, {len(self.skipped)} skipped, {len(self.failed)} failed{expected}"


_HEARD: ContextVar[list[Report] | None] = ContextVar("hookline reports", default=None)


@contextmanager
def listening() -> Iterator[list[Report]]:
    """Give a list into which every report goes that is told inside."""
    heard: list[Report] = []
    token = _HEARD.set(heard)
    try:
        yield heard
    finally:
        _HEARD.reset(token)


def tell(report: Report) -> None:
    """Hand a report to whoever listens."""
    heard = _HEARD.get()
    if heard is not None:
        heard.append(report)
