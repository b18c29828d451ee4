"""The pytest plugin: the fixture ``run_host``, and a line in the summary for the checks that ran."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from hookline.testing.report import listening

if TYPE_CHECKING:
    from hookline.testing.hosted import HostedRun

_PROPERTY = "hookline"


@pytest.fixture
def run_host() -> type[HostedRun]:
    """A function that makes a small run to observer a plugin in: ``run_host(MyCallback(), epochs=2)``."""
    from hookline.testing.hosted import HostedRun

    return HostedRun


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Note on a test what the checks in it found; the note reaches the summary from other processes too."""
    with listening() as reports:
        try:
            return (yield)
        finally:
            item.user_properties += [
                (_PROPERTY, {"ran": len(r.ran), "skipped": len(r.skipped), "failed": len(r.failed)}) for r in reports
            ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many checks ran in the session, if any did."""
    calls = [r for reports in terminalreporter.stats.values() for r in reports if getattr(r, "when", None) == "call"]
    noted = [(report, note) for report in calls for name, note in report.user_properties if name == _PROPERTY]
    if noted:
        ran, skipped = (sum(note[key] for _, note in noted) for key in ("ran", "skipped"))
        # A test that passed meant its failures.
        failed = sum(note["failed"] for report, note in noted if report.failed)
        terminalreporter.write_line(f"hookline: {ran} checks ran, {skipped} skipped, {failed} failed")
