"""What a run is made of when nobody says otherwise: tables of a config."""

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
