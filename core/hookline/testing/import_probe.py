"""A program that imports a module and prints the effects on its process as one line of JSON.

``python -m hookline.testing.import_probe MODULE [LOADED...]`` imports MODULE after the LOADED ones, whose time and
effects do not count. It needs only the standard library.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import locale
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

FOLDER = "the current folder"
HEAVY = ("numpy", "torch")
"""Libraries whose import time and effects do not count as the module's own."""


class WantedError(BaseException):
    """Ends the import of a module that needs a library of ``HEAVY``; no ``except ImportError`` stops it.

    Attributes:
        name: The library.
    """

    def __init__(self, name: str) -> None:
        self.name = name


class Turnstile(MetaPathFinder):
    """Blocks the import of the libraries in ``HEAVY``."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:  # noqa: ARG002 - required signature
        """Raise ``WantedError`` for a library of ``HEAVY``, and leave others to the next finders."""
        if fullname in HEAVY:
            raise WantedError(fullname)


def probe(module: str, loaded: Sequence[str]) -> dict[str, Any]:
    """Import a module and return the effects.

    The keys are ``found``, True if there is such a module; ``effects``, sentences; ``seconds``, the processor time of
    the import; and ``wanted``, a library of ``HEAVY`` that it needs and that was not loaded, without which the others
    mean nothing.
    """
    for name in loaded:
        importlib.import_module(name)
    sys.meta_path.insert(0, Turnstile())
    try:
        if not _is_found(module):
            # Last in the path, so that no file in this folder hides a module that other imports need.
            sys.path.append(str(Path.cwd()))
            importlib.invalidate_caches()
        return _probed(module) if _is_found(module) else _result(found=False)
    except WantedError as wanted:
        return _result(wanted=wanted.name)


def _probed(module: str) -> dict[str, Any]:
    before = _state()
    start = time.process_time()  # of the processor: the time of a clock is that of all other programs, too
    printed = _printed_by(lambda: importlib.import_module(module))
    seconds = time.process_time() - start
    effects = [f"it changes {name}" for name, value in _state().items() if name in before and before[name] != value]
    effects += [f"it prints {printed[:60]!r}"] if printed else []
    return _result(effects=effects, seconds=seconds)


def _result(**known: Any) -> dict[str, Any]:
    return {"found": True, "effects": [], "seconds": 0.0, "wanted": None, **known}


def _is_found(module: str) -> bool:
    try:
        return module != "__main__" and importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def state_of_process() -> dict[str, Any]:
    """Return what an import must not change for the whole process, by name: the part that is read in no time."""
    mask = os.umask(0)
    os.umask(mask)
    torch = sys.modules.get("torch")
    return {
        FOLDER: str(Path.cwd()),
        "the umask": mask,
        "a signal handler": [repr(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "the locale": locale.setlocale(locale.LC_ALL),
        "torch's default dtype": str(torch.get_default_dtype()) if torch else "torch.float32",
    }


def _state() -> Mapping[str, Any]:
    return {
        **state_of_process(),
        "sys.path": list(sys.path),
        "the state of Python's random": random.getstate(),
        "the threads": sorted(thread.name for thread in threading.enumerate()),
        "the child processes": _children(),
        **_state_of_numpy(),
        **_state_of_torch(),
    }


def _children() -> list[str]:
    import multiprocessing

    listed = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    return [str(child.pid) for child in multiprocessing.active_children()] + " ".join(listed).split()


def _state_of_numpy() -> Mapping[str, Any]:
    numpy = sys.modules.get("numpy")
    return {"the state of numpy.random": repr(numpy.random.get_state(legacy=False))} if numpy else {}


def _state_of_torch() -> Mapping[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {
        "torch's number of threads": torch.get_num_threads(),
        "the state of torch's generator": torch.get_rng_state().tolist(),
        "the process group of torch.distributed": torch.distributed.is_initialized(),
    }


def _printed_by(work: Callable[[], object]) -> str:
    """Return the output of ``work`` on standard output and standard error, including that of C code."""
    import tempfile

    saved = [os.dup(number) for number in (1, 2)]
    with tempfile.TemporaryFile() as file:
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            work()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, number)
                os.close(copy)
        file.seek(0)
        return file.read().decode(errors="replace")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe(sys.argv[1], sys.argv[2:])) + "\n")
