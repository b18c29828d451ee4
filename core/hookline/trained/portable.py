"""The files of a run folder that a trained model needs on another machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from hookline.trained.snippet import only_watches
from hookline.trained.weights import Weights, read_weights

_NEEDED = frozenset(
    f"build_{what}" for what in ("data", "model", "loss", "metrics", "evaluation", "evaluated_weights", "predictor")
)
"""The hooks of callbacks that a prediction or an evaluation calls."""


def portable_files(trained: Trained) -> dict[str, bytes]:
    """Return the files of a run folder that a trained model needs on another machine, by name.

    They are the record, the config, the description of the data and the weights. The config has the callbacks that a
    prediction or an evaluation needs; the record has all that took part in the training, but not those that only
    watched. What else concerns the first machine is left out: the folders of paths, command lines, host names,
    warnings, states to resume from. So are the data; what prediction needs of them is in the description: columns,
    statistics, vocabulary.

    Raises:
        PluginError: When the model needs a plugin of a file, or one that was given from Python.
    """
    needed = [choice for choice in trained.config.plugins if _is_needed(choice)]
    _check_installed(needed)
    weights = read_weights(trained.path, None if trained.weights == MODEL else trained.weights)
    files = {
        CONFIG: complete_toml(_portable_config(trained, needed)).encode(),
        DATA: to_kept(trained.data),
        MODEL: state_to_safetensors(weights.flat, {"format": "pt"}),
    }
    record = _portable_record(trained, weights, files)
    return {RECORD: msgspec.json.format(msgspec.json.encode(record)) + b"\n", **files}


def _is_needed(choice: PluginChoice) -> bool:
    target = choice.plugin.target
    return (
        choice.plugin.kind != "callback"
        or hasattr(target, "finish_model")
        or not _NEEDED.isdisjoint(choice.plugin.hooks)
    )


def _only_watched(choice: PluginChoice) -> bool:
    target = choice.plugin.target
    says_so = getattr(target, "script", None) is only_watches
    return choice.plugin.kind == "callback" and (says_so or hasattr(target, "export_run"))


def _check_installed(choices: Sequence[PluginChoice]) -> None:
    if faults := [Fault(str(one.plugin)) for one in choices if not _is_installed(one)]:
        message = "these plugins are not installed, so another machine cannot get them"
        hint = "install them as a distribution, see hookline new, and train with it"
        raise PluginError(message, hint=hint, faults=faults)


def _is_installed(choice: PluginChoice) -> bool:
    return choice.plugin.entry is not None and choice.plugin.entry.is_installed


def _portable_record(trained: Trained, weights: Weights, files: Mapping[str, bytes]) -> RunRecord:
    record, identity = read_record(trained.path), weights.identity
    took_part = [choice for choice in trained.config.plugins if not _only_watched(choice)]
    config = _portable_config(trained, took_part)
    plugins = {
        choice.table: {**named, "distribution": Path(named["distribution"] or "").name}
        for choice in took_part
        if (named := identity.get("plugins", {}).get(choice.table))
    }
    used = {choice.plugin.entry.distribution for choice in took_part if choice.plugin.entry and _is_installed(choice)}
    code = {name: value for name, value in identity.get("code", {}).items() if name in used}
    carried = {part: identity[part] for part in ("versions", "data") if part in identity}
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
        identity={**carried, "plugins": plugins, "code": code, "settings": settings_of(config)},
        config=FileSum.of(files[CONFIG]),
        data=FileSum.of(files[DATA]),
        model=FileSum.of(files[MODEL]),
    )


def _portable_config(trained: Trained, choices: Sequence[PluginChoice]) -> RunConfig:
    """Return the config with these plugins, each with the name of its distribution, and paths without folders."""
    config, origin = trained.config, Origin(f"run {trained.path.name}")
    values = {key: value for choice in choices for key, value in _portable_values(choice, config)}
    loop = {key: one.value for key, one in config.settings.items() if key.startswith(("train.", "plugins."))}
    settings = {key: Setting(key, value, origin) for key, value in (loop | values).items()}
    plugins = tuple(
        replace(choice, options=ReadOnly({name: values[f"{choice.table}.{name}"] for name in choice.options}))
        for choice in choices
    )
    return replace(config, plugins=plugins, settings=ReadOnly(settings))


def _portable_values(choice: PluginChoice, config: RunConfig) -> Iterator[tuple[str, Any]]:
    entry = choice.plugin.entry
    yield f"{choice.table}.use", entry.qualified_name if entry and entry.is_installed else choice.plugin.name
    for name, value in choice.options.items():
        key = f"{choice.table}.{name}"
        yield key, plain(value, _last_part) if has_path(value) else config.settings[key].value


def _last_part(path: Path) -> str:
    return path.name
