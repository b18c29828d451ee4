"""The pytest plugin: the fixture ``run_host``, and a summary line with the number of checks."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from hookline.testing.report import collecting

if TYPE_CHECKING:
    from hookline.testing.hosted import HostedRun

_PROPERTY = "hookline"


@pytest.fixture
def run_host() -> type[HostedRun]:
    """A class for small runs to observe a plugin in: ``run_host(MyCallback(), epochs=2)``."""
    from hookline.testing.hosted import HostedRun

    return HostedRun


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Store the results of the checks on their test, so that they reach the summary from other processes, too."""
    with collecting() as reports:
        try:
            return (yield)
        finally:
            item.user_properties += [
                (_PROPERTY, {"ran": len(r.ran), "skipped": len(r.skipped), "failed": len(r.failed)}) for r in reports
            ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the number of checks in the session, if any ran."""
    calls = [r for reports in terminalreporter.stats.values() for r in reports if getattr(r, "when", None) == "call"]
    noted = [(report, note) for report in calls for name, note in report.user_properties if name == _PROPERTY]
    if noted:
        ran, skipped = (sum(note[key] for _, note in noted) for key in ("ran", "skipped"))
        # A test that passes expected the failures in it.
        failed = sum(note["failed"] for report, note in noted if report.failed)
        terminalreporter.write_line(f"hookline: {ran} checks ran, {skipped} skipped, {failed} failed")
