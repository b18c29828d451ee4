"""Hookline: a training framework made of plugins.

The public door. Everything here is loaded on first use, so importing the package imports neither torch nor click.

>>> import hookline
>>> result = hookline.train({"train": {"epochs": 1}})
>>> result.outcome
'completed'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hookline.catalog import KINDS, Catalog, Entry
    from hookline.config import PluginChoice, PluginRules, RunConfig, TrainOptions, load_config
    from hookline.data import DataSource
    from hookline.errors import (
        ConfigError,
        ContractError,
        DataError,
        Fault,
        HooklineError,
        Location,
        NonFiniteError,
        PluginError,
        TrainingError,
        did_you_mean,
        nearest,
        printable,
    )
    from hookline.hookspecs import Metric, hookimpl
    from hookline.local import entries_of_file, plugin
    from hookline.lock import Lock, make_lock, read_lock
    from hookline.lr_finder import LRCurve, LRPoint, lr_find
    from hookline.profiling import Profile, profile
    from hookline.result import Outcome, RunResult, Step
    from hookline.run import Run, train
    from hookline.summary import ModelSummary, OutputShapes, summarize
    from hookline.watch import HookCall, HookTrace, Ledger, Watch

_HOME = {
    "catalog": ("KINDS", "Catalog", "Entry"),
    "config": ("PluginChoice", "PluginRules", "RunConfig", "TrainOptions", "load_config"),
    "data": ("DataSource",),
    "errors": (
        "ConfigError",
        "ContractError",
        "DataError",
        "Fault",
        "HooklineError",
        "Location",
        "NonFiniteError",
        "PluginError",
        "TrainingError",
        "did_you_mean",
        "nearest",
        "printable",
    ),
    "hookspecs": ("Metric", "hookimpl"),
    "local": ("entries_of_file", "plugin"),
    "lock": ("Lock", "make_lock", "read_lock"),
    "lr_finder": ("LRCurve", "LRPoint", "lr_find"),
    "profiling": ("Profile", "profile"),
    "result": ("Outcome", "RunResult", "Step"),
    "run": ("Run", "train"),
    "summary": ("ModelSummary", "OutputShapes", "summarize"),
    "watch": ("HookCall", "HookTrace", "Ledger", "Watch"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "KINDS",
    "Catalog",
    "ConfigError",
    "ContractError",
    "DataError",
    "DataSource",
    "Entry",
    "Fault",
    "HookCall",
    "HookTrace",
    "HooklineError",
    "LRCurve",
    "LRPoint",
    "Ledger",
    "Location",
    "Lock",
    "Metric",
    "ModelSummary",
    "NonFiniteError",
    "Outcome",
    "OutputShapes",
    "PluginChoice",
    "PluginError",
    "PluginRules",
    "Profile",
    "Run",
    "RunConfig",
    "RunResult",
    "Step",
    "TrainOptions",
    "TrainingError",
    "Watch",
    "did_you_mean",
    "entries_of_file",
    "hookimpl",
    "load_config",
    "lr_find",
    "make_lock",
    "nearest",
    "plugin",
    "printable",
    "profile",
    "read_lock",
    "summarize",
    "train",
]


if not TYPE_CHECKING:
    # A type checker that saw it would take any name for one of ours.
    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'hookline' has no attribute {name!r}")
        return getattr(importlib.import_module(f"hookline.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
