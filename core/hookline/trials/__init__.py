"""Trials of a run: cross-validation, learning-rate finder, profile, ledger, and more. All load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookline.engine.door import lazy

if TYPE_CHECKING:
    from hookline.trials.cross_validation import CrossValidation, FoldPlan, FoldResult, cross_validate
    from hookline.trials.folds.planning import Fold, Planned
    from hookline.trials.hook_trace import HookCall, HookTrace
    from hookline.trials.ledger import Ledger
    from hookline.trials.lr_finder import LRCurve, LRPoint, lr_find
    from hookline.trials.model_summary import ModelSummary, OutputShapes, summarize
    from hookline.trials.profiling import Profile, profile

_HOME = {
    "cross_validation": (
        "CrossValidation",
        "FoldPlan",
        "FoldResult",
        "cross_validate",
    ),
    "folds.planning": (
        "Fold",
        "Planned",
    ),
    "hook_trace": (
        "HookCall",
        "HookTrace",
    ),
    "ledger": ("Ledger",),
    "lr_finder": (
        "LRCurve",
        "LRPoint",
        "lr_find",
    ),
    "model_summary": (
        "ModelSummary",
        "OutputShapes",
        "summarize",
    ),
    "profiling": (
        "Profile",
        "profile",
    ),
}

__all__ = [
    "CrossValidation",
    "Fold",
    "FoldPlan",
    "FoldResult",
    "HookCall",
    "HookTrace",
    "LRCurve",
    "LRPoint",
    "Ledger",
    "ModelSummary",
    "OutputShapes",
    "Planned",
    "Profile",
    "cross_validate",
    "lr_find",
    "profile",
    "summarize",
]

if not TYPE_CHECKING:
    # A type checker that saw it would accept any name.
    __getattr__ = lazy(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
