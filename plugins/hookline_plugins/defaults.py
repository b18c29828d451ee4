"""Defaults declared in the entry-point group ``hookline.defaults``: tables of a config, and overrides of commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from hookline import RunConfig

_OVERFIT_EPOCHS = 100
"""Enough steps to learn a few examples exactly, unless the learning rate is far too small."""
_FAST_EPOCHS = 2
"""Two, so that an epoch also follows another."""
_FAST_BATCHES = 3
_LIMIT = "callbacks.limit-examples.num_examples"

COMMANDS: Final[dict[str, str]] = {
    "cv": "Cross-validate a config: train it on each fold of its data.",
    "dashboard": "Show the runs in FOLDER in a browser, until Ctrl-C.",
    "eject": "Write RUN as a plain PyTorch script.",
    "report": "Make a report of a run, or of several, as one HTML file.",
    "sweep": "Search for the best values of options, with a run for each trial.",
    "verify": "Compare SCRIPT with RUN, to the last bit.",
}
"""The summaries of the commands in the group ``hookline.command``, which are not imported to list them."""

TABLES: Final[tuple[str, ...]] = ("sweep",)
"""Tables of a config file that these commands read. A run has none of them, so it ignores them."""

EXPORTS: Final[dict[str, str]] = {
    "bundle": "One file, with which another machine predicts and evaluates.",
    "hub-folder": "A folder with a model card, for the Hugging Face Hub or anyone.",
    "onnx": "An ONNX file, for hookline predict and other programs.",
    "safetensors": "The weights, as a safetensors file.",
    "torch-export": "A program for torch.export.load.",
}
"""The summaries of the formats in the group ``hookline.export``, likewise."""

RUN: Final[dict[str, Any]] = {
    "data": {"use": "synthetic-linear"},
    "model": {"use": "linear"},
    "loss": {"use": "mse"},
    "optimizer": {"use": "sgd"},
    "callbacks": {"try-first-batch": {}},
}
"""The default run: the linear regression that PyTorch courses begin with, and a trial of each run's first batches."""

TERMINAL: Final[dict[str, Any]] = {"callbacks": {"progress": {}}}
"""Added by ``hookline train``, to show the progress of the run."""

JSON: Final[dict[str, Any]] = {"callbacks": {"json-lines": {}}}
"""Added by ``hookline train --json``, to report events to a program."""

KEEP: Final[dict[str, Any]] = {"callbacks": {"run-folder": {}, "checkpoint": {}}}
"""Added by ``hookline train``, to save the run."""

RANKS: Final[dict[str, Any]] = {"parallel": {"use": "ddp"}}
"""Added by commands that several processes carry out."""


def named(name: str) -> dict[str, Any]:
    """Return the overrides of ``hookline train --name NAME``: the name of the run folder."""
    return {"callbacks.run-folder.name": name}


def fold(parent: Path, name: str) -> dict[str, Any]:
    """Return the overrides of a cross-validation for the run of a fold: its folder, and its name there."""
    return {
        "callbacks.run-folder.use": "run-folder",
        "callbacks.run-folder.parent": str(parent),
        "callbacks.run-folder.name": name,
    }


def parent(config: RunConfig) -> Path | None:
    """Return the folder in which ``hookline train`` makes the run folder; None if it makes none."""
    for choice in config.plugins:
        if choice.plugin.name == "run-folder":
            return Path(choice.options["parent"])
    return None


def proving(config: RunConfig, parent: Path, every_steps: int) -> dict[str, Any]:
    """Return the overrides of ``hookline prove-resume``, by dotted key: they save every state in ``parent``.

    Speed and memory are not logged, because they are never the same again, and nothing is sent to others.
    """
    telemetry = [choice.table for choice in config.plugins if choice.plugin.name == "telemetry"]
    return {
        **{f"{table}.{option}": False for table in telemetry for option in ("speed", "memory")},
        **_without_senders(config),
        "callbacks.run-folder.use": "run-folder",
        "callbacks.run-folder.parent": str(parent),
        "callbacks.checkpoint.use": "checkpoint",
        "callbacks.checkpoint.every_s": 0.0,
        "callbacks.checkpoint.every_steps": every_steps,
        "callbacks.checkpoint.keep": 2**31,
    }


MOVED: Final[dict[str, str]] = {
    "train.fuse_steps": "callbacks.fuse-steps.size",
    "train.max_examples": _LIMIT,
    "train.out_of_memory": "callbacks.halve-micro-batches",
}
"""New names of keys that were renamed."""


def _without_senders(config: RunConfig) -> dict[str, Any]:
    """Return overrides that switch off the callbacks that tell others of a run: ``notify``, and those of trackers."""
    senders = (c for c in config.plugins if c.plugin.name == "notify" or hasattr(c.plugin.target, "export_run"))
    return {choice.table: "off" for choice in senders}


def overfit(config: RunConfig, num_examples: int) -> dict[str, Any]:
    """Return the overrides of ``hookline train --overfit N``: learn the first ``num_examples`` examples exactly.

    The same examples are trained on and evaluated. Karpathy, "A Recipe for Training Neural Networks" (2019).
    """
    values = {"train.epochs": _OVERFIT_EPOCHS, "train.evaluate": ["train"], _LIMIT: num_examples}
    return values | _without_senders(config)


def fast(config: RunConfig) -> dict[str, Any]:
    """Return the overrides of ``hookline train --fast``: a few batches through every part of the run."""
    train, limit = config.train, config.settings.get(_LIMIT)
    size = train.eval_batch_size if train.batch_size == "all" else _FAST_BATCHES * train.batch_size
    values: dict[str, Any] = {"train.epochs": _FAST_EPOCHS, _LIMIT: min(size, limit.value) if limit else size}
    values |= _without_senders(config)
    if train.evaluate_every_steps:
        values["train.evaluate_every_steps"] = min(train.evaluate_every_steps, _FAST_BATCHES)
    return values
