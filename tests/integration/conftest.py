"""Fixtures for tests that install distributions and start processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from support import FIXTURES, Environment, make_environment, run, warm_program


@pytest.fixture(scope="session")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Hookline, a distribution with a plugin of each kind, a broken one, and one with a name that is taken."""
    environment = make_environment(tmp_path_factory.mktemp("extended"))
    environment.install(FIXTURES / "acme_plugins", FIXTURES / "acme_broken", FIXTURES / "acme_rival")
    return replace(environment, is_warm=True)


@pytest.fixture
def hookline(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command ``hookline``, run in an empty folder; started anew where it gets variables of the environment."""
    program = Path(sys.executable).parent / "hookline"

    def call(*words: str, cwd: Path = tmp_path, **environment: str) -> subprocess.CompletedProcess[str]:
        return run([str(program if environment else warm_program()), *words], cwd=cwd, **environment)

    return call
