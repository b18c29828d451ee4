"""The conformance kit: shows that a plugin keeps the contract of its kind.

Everything here is loaded on first use, so importing the package imports neither torch nor pytest.

>>> from hookline.testing import CHECKS, RULES
>>> CHECKS["model"][7], RULES["output_shape"]
('output_shape', 'The prediction for a batch of any size, 1 included, is [B, O].')
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hookline.testing.checking import CHECKS, RULES, check_plugin, conformance
    from hookline.testing.hosted import HostedRun
    from hookline.testing.kit import Skipped, skip
    from hookline.testing.report import Report

_HOME = {
    "checking": ("CHECKS", "RULES", "check_plugin", "conformance"),
    "hosted": ("HostedRun",),
    "kit": ("Skipped", "skip"),
    "report": ("Report",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["CHECKS", "RULES", "HostedRun", "Report", "Skipped", "check_plugin", "conformance", "skip"]


if not TYPE_CHECKING:
    # A type checker that saw it would take any name for one of ours.
    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'hookline.testing' has no attribute {name!r}")
        return getattr(importlib.import_module(f"hookline.testing.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
