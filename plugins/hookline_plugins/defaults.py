"""What a run is made of when nobody says otherwise: tables of a config."""

from pathlib import Path
from typing import Any, Final

RUN: Final[dict[str, Any]] = {
    "data": {"use": "synthetic-linear"},
    "model": {"use": "linear"},
    "loss": {"use": "mse"},
    "optimizer": {"use": "sgd"},
}
"""The linear regression that PyTorch courses begin with."""

TERMINAL: Final[dict[str, Any]] = {"callbacks": {"progress": {}}}
"""What ``hookline train`` adds to show a person how the run goes."""

JSON: Final[dict[str, Any]] = {"callbacks": {"json-lines": {}}}
"""What ``hookline train --json`` adds to tell a program."""

KEEP: Final[dict[str, Any]] = {"callbacks": {"run-folder": {}, "checkpoint": {}}}
"""What ``hookline train`` adds so that nothing is lost."""


def proving(parent: Path, every_steps: int) -> dict[str, Any]:
    """Return what ``hookline prove-resume`` puts over a run, by dotted key: all of its states stay in ``parent``."""
    return {
        "callbacks.run-folder.use": "run-folder",
        "callbacks.run-folder.parent": str(parent),
        "callbacks.checkpoint.use": "checkpoint",
        "callbacks.checkpoint.every_s": 0.0,
        "callbacks.checkpoint.every_steps": every_steps,
        "callbacks.checkpoint.keep": 2**31,
    }
