"""The files of a run folder that a trained model needs on another machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from hookline.config.plugins.choice import PluginChoice
from hookline.config.plugins.options import plain
from hookline.config.run_config import Origin, RunConfig, Setting, has_path
from hookline.engine.errors import Fault, PluginError
from hookline.engine.read_only import ReadOnly
from hookline.runs.config_text import complete_toml
from hookline.runs.disk.checkpoint import FileSum
from hookline.runs.disk.data_file import to_kept
from hookline.runs.disk.encoding import state_to_safetensors
from hookline.runs.folder import CONFIG, DATA, MODEL
from hookline.runs.identity import settings_of
from hookline.runs.record import RECORD, RunRecord, read_record
from hookline.trained.model import Trained
from hookline.trained.weights import Weights, read_weights

_CARRIED = ("versions", "data")
"""Parts of the fingerprint that are carried as they are."""


def portable_files(trained: Trained) -> dict[str, bytes]:
    """Return the files of a run folder that a trained model needs on another machine, by name.

    They are the record, the complete config, the description of the data and the weights. What only the first machine
    needs is left out: callbacks that only watch, the folders of paths, command lines, host names, warnings, states to
    resume from. So are the data; what prediction needs of them is in the description: columns, statistics, vocabulary.

    Raises:
        PluginError: When the model needs a plugin of a file, or one that was given from Python.
    """
    config = _portable_config(trained.config, f"run {trained.path.name}")
    weights = read_weights(trained.path, None if trained.weights == MODEL else trained.weights)
    files = {
        CONFIG: complete_toml(config).encode(),
        DATA: to_kept(trained.data),
        MODEL: state_to_safetensors(weights.flat, {"format": "pt"}),
    }
    record = _portable_record(read_record(trained.path), config, weights, files)
    return {RECORD: msgspec.json.format(msgspec.json.encode(record)) + b"\n", **files}


def _portable_record(record: RunRecord, config: RunConfig, weights: Weights, files: Mapping[str, bytes]) -> RunRecord:
    identity = {part: weights.identity[part] for part in _CARRIED if part in weights.identity}
    tables = {choice.table for choice in config.plugins}
    plugins = {table: named for table, named in weights.identity.get("plugins", {}).items() if table in tables}
    used = {named["distribution"] for named in plugins.values()}
    code = {name: value for name, value in weights.identity.get("code", {}).items() if name in used}
    return RunRecord(
        run=record.run,
        seed=record.seed,
        status="completed" if record.status == "completed" else "stopped",
        epochs=record.epochs,
        num_epochs=record.num_epochs,
        step=weights.step,
        time_s=record.time_s,
        metrics=record.metrics,
        best=record.best,
        identity={**identity, "plugins": plugins, "code": code, "settings": settings_of(config)},
        config=FileSum.of(files[CONFIG]),
        data=FileSum.of(files[DATA]),
        model=FileSum.of(files[MODEL]),
    )


def _portable_config(config: RunConfig, origin: str) -> RunConfig:
    """Return a config without what only the first machine needs; every plugin has the name of its distribution."""
    chosen = {choice.table: choice for choice in config.plugins if not _only_watches(choice)}
    if faults := [
        Fault(str(one.plugin)) for one in chosen.values() if not (one.plugin.entry and one.plugin.entry.is_installed)
    ]:
        hint = "install them as a distribution, see hookline new, and train with it"
        raise PluginError(
            "these plugins are not installed, so another machine cannot get them", hint=hint, faults=faults
        )
    settings = {
        key: Setting(key, value, Origin(origin))
        for choice in chosen.values()
        for key, value in _portable_values(choice, config)
    }
    loop = {
        key: replace(one, origin=Origin(origin))
        for key, one in config.settings.items()
        if key.startswith(("train.", "plugins."))
    }
    plugins = tuple(
        replace(choice, options=ReadOnly({name: settings[f"{choice.table}.{name}"].value for name in choice.options}))
        for choice in chosen.values()
    )
    return replace(config, plugins=plugins, settings=ReadOnly({**loop, **settings}))


def _only_watches(choice: PluginChoice) -> bool:
    is_event = all(hook.startswith("on_") for hook in choice.plugin.hooks)
    return choice.plugin.kind == "callback" and is_event and not hasattr(choice.plugin.target, "finish_model")


def _portable_values(choice: PluginChoice, config: RunConfig) -> Iterator[tuple[str, Any]]:
    assert choice.plugin.entry, "checked above"
    yield f"{choice.table}.use", choice.plugin.entry.qualified_name
    for name, value in choice.options.items():
        key = f"{choice.table}.{name}"
        yield key, plain(value, _last_part) if has_path(value) else config.settings[key].value


def _last_part(path: Path) -> str:
    return path.name
