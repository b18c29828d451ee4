"""Environments with really installed distributions, and the command line as a process."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hookline import RunView
from hookline.runs import RunFolder, folder_of

if TYPE_CHECKING:
    from hookline.trained import Comparison, Exported

ROOT = Path(__file__).parents[1]
HANG_S = 240.0
"""Bounds a hang, on the busiest machine: no test waits so long for anything that happens, and none passes by speed."""
FIXTURES = ROOT / "tests" / "fixtures"
MYPY_CACHE = ROOT / ".mypy_cache" / "tests"
"""What mypy knows of torch, in strict mode: it reads for half a minute what it has not read before."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own.

    Torch and the other dependencies come from the environment that runs the tests, through a path file; hookline and
    the plugins are installed in it by pip. One that is warm is complete when its first command runs.
    """

    python: Path
    is_warm: bool = False

    def install(self, *sources: Path | str) -> None:
        words = ["install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", *map(str, sources)]
        subprocess.run([sys.executable, "-m", "pip", "--python", str(self.python), *words], check=True)

    def hookline(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        program = warm_program(self.python) if self.is_warm else self.python.parent / "hookline"
        return run([str(program), *words], cwd=cwd)


def run(command: Sequence[str], cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program as a user would: no terminal, no standard input; in an empty folder, unless it is said where."""
    env = {**os.environ, "PYTHONWARNINGS": "error", **environment}
    options: dict[str, Any] = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "timeout": HANG_S}
    with tempfile.TemporaryDirectory() as empty:
        return subprocess.run(command, cwd=cwd or empty, env=env, check=False, **options)


PROGRAM = """
import atexit, json, sys
sys.argv = ["hookline", *{words!r}]
atexit.register(lambda: print("MODULES" + json.dumps(sorted(sys.modules)), file=sys.stderr))
from hookline.cli import main
main()
"""


def modules_after(*words: str, cwd: Path) -> tuple[int, set[str]]:
    """Run a command in a separate process; return its exit code and the modules that it imported."""
    done = run([sys.executable, "-c", PROGRAM.format(words=words)], cwd=cwd)
    line = next(line for line in done.stderr.splitlines() if line.startswith("MODULES"))
    return done.returncode, set(json.loads(line.removeprefix("MODULES")))


def make_environment(folder: Path, *sources: Path) -> Environment:
    """Make an environment with hookline, and with more distributions from their folders."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    purelib = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # A plain path: path files within that folder, such as those of editable installs, are not followed.
    Path(purelib, "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    environment = Environment(python)
    environment.install(ROOT, *sources)
    return environment


def saved_folder(run: RunView) -> RunFolder:
    """Return the folder of a run that has one."""
    folder = folder_of(run)
    assert folder is not None
    return folder


def compared(made: Exported) -> Comparison:
    """Return the comparison of an exported model with the model."""
    assert made.comparison is not None
    return made.comparison


@functools.cache
def warm_program(python: Path = Path(sys.executable)) -> Path:
    """Return a program that does what ``hookline`` of an environment does, in a fork of a process with torch.

    See ``warm.py``. That process ends with this one.
    """
    folder = Path(tempfile.mkdtemp(prefix="hookline-warm-"))
    script, address = ROOT / "tests" / "warm.py", folder / "socket"
    program = folder / "hookline"
    # Programs of Python, python -c CODE, in such a fork; not named python, which pages call with files.
    for name, real in (("hookline", str(python.parent / "hookline")), ("python-c", "")):
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {script} ask {address} {real} "$@"\n')
        path.chmod(0o755)
    env = {**os.environ, "PYTHONWARNINGS": "error"}
    server = subprocess.Popen([python, script, "serve", address], stdout=subprocess.PIPE, text=True, env=env)
    atexit.register(shutil.rmtree, folder)
    atexit.register(server.wait)
    atexit.register(server.kill)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    return program


def warm_python() -> str:
    """Return a program that is ``python -c CODE WORD...`` with torch imported, in a fork as above."""
    return str(warm_program().with_name("python-c"))
