"""The conformance kit: checks that a plugin meets the contract of its kind.

Everything here is loaded on first use, so importing the package imports neither torch nor pytest.

>>> from hookline.testing import CHECKS, RULES
>>> CHECKS["model"][10], RULES["output_shape"]
('output_shape', 'The prediction has shape [B, O], or [B, O, T] for T class indices, for any batch size, including 1.')
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookline.engine.door import lazy

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
__all__ = ["CHECKS", "RULES", "HostedRun", "Report", "Skipped", "check_plugin", "conformance", "skip"]


if not TYPE_CHECKING:
    # Hidden from type checkers, which would accept any name because of it.
    __getattr__ = lazy(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
