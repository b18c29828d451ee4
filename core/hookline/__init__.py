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
    from hookline.checkpoint import Checkpoint, Manifest, read_checkpoint
    from hookline.config import PluginChoice, PluginRules, RunConfig, TrainOptions, load_config
    from hookline.config_text import complete_toml
    from hookline.data import DataSource, Predictor
    from hookline.errors import (
        CheckpointError,
        ConfigError,
        ContractError,
        DataError,
        Fault,
        HooklineError,
        Location,
        NonFiniteError,
        PluginError,
        RunBusyError,
        TrainingError,
        did_you_mean,
        nearest,
        printable,
    )
    from hookline.exporting import Exported, export_model
    from hookline.files import AppendedFile
    from hookline.hookspecs import Metric, hookimpl
    from hookline.local import entries_of_file, plugin
    from hookline.lock import Lock, make_lock, read_lock
    from hookline.lr_finder import LRCurve, LRPoint, lr_find
    from hookline.predicting import write_predictions
    from hookline.profiling import Profile, profile
    from hookline.redaction import redacted_word
    from hookline.result import Outcome, RunResult, Step
    from hookline.resuming import resume
    from hookline.run import Run, train
    from hookline.run_record import Attempt, BestValue, RunRecord
    from hookline.run_search import find_run
    from hookline.rundir import RunFolder
    from hookline.summary import ModelSummary, OutputShapes, summarize
    from hookline.trained import Evaluation, Trained, evaluate_run, load_trained
    from hookline.watch import HookCall, HookTrace, Ledger, Watch

_HOME = {
    "catalog": ("KINDS", "Catalog", "Entry"),
    "checkpoint": ("Checkpoint", "Manifest", "read_checkpoint"),
    "config": ("PluginChoice", "PluginRules", "RunConfig", "TrainOptions", "load_config"),
    "config_text": ("complete_toml",),
    "data": ("DataSource", "Predictor"),
    "errors": (
        "CheckpointError",
        "ConfigError",
        "ContractError",
        "DataError",
        "Fault",
        "HooklineError",
        "Location",
        "NonFiniteError",
        "PluginError",
        "RunBusyError",
        "TrainingError",
        "did_you_mean",
        "nearest",
        "printable",
    ),
    "exporting": ("Exported", "export_model"),
    "files": ("AppendedFile",),
    "hookspecs": ("Metric", "hookimpl"),
    "local": ("entries_of_file", "plugin"),
    "lock": ("Lock", "make_lock", "read_lock"),
    "lr_finder": ("LRCurve", "LRPoint", "lr_find"),
    "predicting": ("write_predictions",),
    "profiling": ("Profile", "profile"),
    "redaction": ("redacted_word",),
    "result": ("Outcome", "RunResult", "Step"),
    "resuming": ("resume",),
    "run": ("Run", "train"),
    "run_record": ("Attempt", "BestValue", "RunRecord"),
    "run_search": ("find_run",),
    "rundir": ("RunFolder",),
    "summary": ("ModelSummary", "OutputShapes", "summarize"),
    "trained": ("Evaluation", "Trained", "evaluate_run", "load_trained"),
    "watch": ("HookCall", "HookTrace", "Ledger", "Watch"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "KINDS",
    "AppendedFile",
    "Attempt",
    "BestValue",
    "Catalog",
    "Checkpoint",
    "CheckpointError",
    "ConfigError",
    "ContractError",
    "DataError",
    "DataSource",
    "Entry",
    "Evaluation",
    "Exported",
    "Fault",
    "HookCall",
    "HookTrace",
    "HooklineError",
    "LRCurve",
    "LRPoint",
    "Ledger",
    "Location",
    "Lock",
    "Manifest",
    "Metric",
    "ModelSummary",
    "NonFiniteError",
    "Outcome",
    "OutputShapes",
    "PluginChoice",
    "PluginError",
    "PluginRules",
    "Predictor",
    "Profile",
    "Run",
    "RunBusyError",
    "RunConfig",
    "RunFolder",
    "RunRecord",
    "RunResult",
    "Step",
    "TrainOptions",
    "Trained",
    "TrainingError",
    "Watch",
    "complete_toml",
    "did_you_mean",
    "entries_of_file",
    "evaluate_run",
    "export_model",
    "find_run",
    "hookimpl",
    "load_config",
    "load_trained",
    "lr_find",
    "make_lock",
    "nearest",
    "plugin",
    "printable",
    "profile",
    "read_checkpoint",
    "read_lock",
    "redacted_word",
    "resume",
    "summarize",
    "train",
    "write_predictions",
]


if not TYPE_CHECKING:
    # A type checker that saw it would take any name for one of ours.
    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'hookline' has no attribute {name!r}")
        return getattr(importlib.import_module(f"hookline.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
