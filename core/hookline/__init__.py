"""Hookline: a training framework made of plugins.

The public door. Everything here is loaded on first use, so importing the package imports neither torch nor click.

>>> import hookline
>>> result = hookline.train({"train": {"epochs": 1}})
>>> result.outcome
'completed'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookline.engine.door import lazy

if TYPE_CHECKING:
    from hookline import cli as cli
    from hookline import config as config
    from hookline import engine as engine
    from hookline import ranks as ranks
    from hookline import runs as runs
    from hookline import testing as testing
    from hookline import trained as trained
    from hookline import trials as trials
    from hookline.config.from_arrays import from_arrays
    from hookline.config.loading import load_config
    from hookline.config.plugins.catalog import Catalog
    from hookline.config.plugins.options import Secret
    from hookline.config.plugins.plugin_file import plugin
    from hookline.config.run_config import RunConfig
    from hookline.config.training import train
    from hookline.engine.data import DataSource, Predictor
    from hookline.engine.errors import (
        CheckpointError,
        ConfigError,
        ContractError,
        DataError,
        Fault,
        HooklineError,
        Location,
        NonFiniteError,
        PeerError,
        PluginError,
        RunBusyError,
        TrainingError,
    )
    from hookline.engine.hookspecs import hookimpl
    from hookline.engine.loop.run import Run
    from hookline.engine.result import Outcome, RunResult, Step
    from hookline.engine.view import Metric, RunView
    from hookline.runs.resuming import resume

    __version__: str

_HOME = {
    "config.from_arrays": ("from_arrays",),
    "config.loading": ("load_config",),
    "config.plugins.catalog": ("Catalog",),
    "config.plugins.options": ("Secret",),
    "config.plugins.plugin_file": ("plugin",),
    "config.run_config": ("RunConfig",),
    "config.training": ("train",),
    "engine.data": (
        "DataSource",
        "Predictor",
    ),
    "engine.errors": (
        "CheckpointError",
        "ConfigError",
        "ContractError",
        "DataError",
        "Fault",
        "HooklineError",
        "Location",
        "NonFiniteError",
        "PeerError",
        "PluginError",
        "RunBusyError",
        "TrainingError",
    ),
    "engine.hookspecs": ("hookimpl",),
    "engine.loop.run": ("Run",),
    "engine.result": (
        "Outcome",
        "RunResult",
        "Step",
    ),
    "engine.view": ("Metric", "RunView"),
    "runs.resuming": ("resume",),
    "version": ("__version__",),
}

_ROOMS = ("cli", "config", "engine", "ranks", "runs", "testing", "trained", "trials")
"""Rooms with doors of their own."""

__all__ = [
    "Catalog",
    "CheckpointError",
    "ConfigError",
    "ContractError",
    "DataError",
    "DataSource",
    "Fault",
    "HooklineError",
    "Location",
    "Metric",
    "NonFiniteError",
    "Outcome",
    "PeerError",
    "PluginError",
    "Predictor",
    "Run",
    "RunBusyError",
    "RunConfig",
    "RunResult",
    "RunView",
    "Secret",
    "Step",
    "TrainingError",
    "from_arrays",
    "hookimpl",
    "load_config",
    "plugin",
    "resume",
    "train",
]

if not TYPE_CHECKING:
    # A type checker that saw it would take any name for one of ours.
    __getattr__ = lazy(__name__, _HOME, _ROOMS)


def __dir__() -> list[str]:
    return sorted((*__all__, *_ROOMS))
