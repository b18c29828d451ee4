"""Settings for all tests."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

# Before torch is imported, here and in the processes that tests start: on a busy machine threads that wait for each
# other make small operations many times slower, and no test is about threads.
os.environ["OMP_NUM_THREADS"] = "1"
# Tokens of texts are kept in the user's folder for caches, and a test leaves nothing there.
os.environ["XDG_CACHE_HOME"] = _cache = tempfile.mkdtemp(prefix="hookline-tests-cache-")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)
# torch's cache of compiled kernels does not know for which processor they are, and a foreign one writes beyond its
# memory.
if kernels := os.environ.get("ATEN_CPU_CAPABILITY"):
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/hookline-tests-inductor-{kernels}")


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "run everything with torch called in its own way; the numbers must be the same"
    parser.addoption("--without-shortcuts", action="store_true", help=help_text)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Report a test module that cannot be imported: only plugins may lack an extra, and with it their doctests."""
    option = collector.config.option
    before, option.doctest_ignore_import_errors = option.doctest_ignore_import_errors, False
    try:
        return (yield)
    finally:
        option.doctest_ignore_import_errors = before


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--without-shortcuts"):
        from hookline.engine.loop import run
        from hookline.engine.loop.step import CoreHooks

        vars(run)["CoreHooks"] = lambda parts, *, shortcuts: CoreHooks(parts, shortcuts=False)
