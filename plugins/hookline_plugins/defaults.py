"""Default tables of a config, declared in the entry-point group ``hookline.defaults``."""

from pathlib import Path
from typing import Any, Final

RUN: Final[dict[str, Any]] = {
    "data": {"use": "synthetic-linear"},
    "model": {"use": "linear"},
    "loss": {"use": "mse"},
    "optimizer": {"use": "sgd"},
}
"""The default run: the linear regression that PyTorch courses begin with."""

TERMINAL: Final[dict[str, Any]] = {"callbacks": {"progress": {}}}
"""Added by ``hookline train``, to show the progress of the run."""

JSON: Final[dict[str, Any]] = {"callbacks": {"json-lines": {}}}
"""Added by ``hookline train --json``, to report events to a program."""

KEEP: Final[dict[str, Any]] = {"callbacks": {"run-folder": {}, "checkpoint": {}}}
"""Added by ``hookline train``, to save the run."""


def proving(parent: Path, every_steps: int) -> dict[str, Any]:
    """Return the overrides of ``hookline prove-resume``, by dotted key: they save every state in ``parent``."""
    return {
        "callbacks.run-folder.use": "run-folder",
        "callbacks.run-folder.parent": str(parent),
        "callbacks.checkpoint.use": "checkpoint",
        "callbacks.checkpoint.every_s": 0.0,
        "callbacks.checkpoint.every_steps": every_steps,
        "callbacks.checkpoint.keep": 2**31,
    }
