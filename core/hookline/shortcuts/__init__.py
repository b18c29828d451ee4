"""torch's own calls without the Python around them: the same numbers in less time. All load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hookline.shortcuts.block import Block, CompileError, Objective, followers, why_not

__all__ = ["Block", "CompileError", "Objective", "followers", "why_not"]


if not TYPE_CHECKING:
    # A type checker that saw it would accept any name.
    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'hookline.shortcuts' has no attribute {name!r}")
        return getattr(importlib.import_module("hookline.shortcuts.block"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
