"""Settings for all tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

# Before torch is imported, here and in the processes that tests start: on a busy machine threads that wait for each
# other make small operations many times slower, and no test is about threads.
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "run everything with torch called in its own way; the numbers must be the same"
    parser.addoption("--without-shortcuts", action="store_true", help=help_text)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--without-shortcuts"):
        from hookline.engine.loop import run
        from hookline.engine.loop.step import CoreHooks

        vars(run)["CoreHooks"] = lambda parts, *, shortcuts: CoreHooks(parts, shortcuts=False)
