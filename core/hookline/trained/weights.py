"""Weights of a saved run: find, read and load them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hookline.config.packed import is_bundle
from hookline.config.run_config import RunConfig
from hookline.engine.errors import CheckpointError
from hookline.engine.loop.run import Run
from hookline.engine.loop.state import load_state_of_wrappers
from hookline.engine.words import did_you_mean
from hookline.runs.changes import identity_changes
from hookline.runs.disk.checkpoint import (
    CHECKPOINTS,
    Checkpoint,
    UnreadableError,
    checkpoints_in,
    newest_valid,
    read_checkpoint,
    run_of,
)
from hookline.runs.folder import MODEL, REST, read_model
from hookline.runs.identity import plugins_of
from hookline.runs.record import RunRecord, read_record
from hookline.runs.resuming import model_faults

LATEST = "latest"
"""The name for the newest valid checkpoint."""


@dataclass(frozen=True)
class Weights:
    """Weights that a run has saved.

    Attributes:
        model: The weights of the model, by name.
        origin: Their origin: ``model.safetensors``, or the name of a checkpoint.
        step: Number of steps that they were trained for.
        identity: Fingerprint of the run when they were saved.
        notes: Warnings about them.
        rest: The state of the ``wrappers`` and of the ``loss`` that belongs to them.
    """

    model: Mapping[str, Tensor]
    origin: str
    step: int
    identity: Mapping[str, Any]
    notes: tuple[str, ...]
    rest: Mapping[str, Mapping[str, Any]]

    @property
    def flat(self) -> dict[str, Any]:
        """All of them by the names that ``model.safetensors`` has."""
        rest = {f"{part}/{name}": value for part in REST for name, value in self.rest.get(part, {}).items()}
        return {**self.model, **rest}


# ---- weights ---------------------------------------------------------------------------------------------------------


def read_weights(run: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None) -> Weights:
    """Read the saved weights of a run: the final ones, or those of its newest valid checkpoint.

    Args:
        run: The run folder.
        checkpoint: ``latest``, or the folder of a checkpoint.

    Raises:
        CheckpointError: When there are none, or they are damaged.
    """
    path = Path(run)
    record = read_record(path)
    if checkpoint is not None and checkpoint != LATEST:
        return _of_checkpoint(_named_checkpoint(path, record, os.fspath(checkpoint)), ())
    is_finished = record.status in ("completed", "stopped") and record.model is not None
    if is_finished and checkpoint is None:
        return _of_end(path, record, ())
    found, damaged = _newest(path, record)
    if found:
        state = () if is_finished else (f"{path.name} is not finished (status: {record.status})",)
        return _of_checkpoint(found, (*state, *damaged))
    if record.model is None or checkpoint is not None:
        hint = damaged[0] if damaged else f"train it first: hookline resume {path}"
        raise CheckpointError(f"{path.name} has no valid checkpoint", hint=hint)
    return _of_end(path, record, (f"{path.name} continued after these weights (status: {record.status})", *damaged))


def load_weights_into(run: Run, weights: Weights, path: Path) -> None:
    """Load weights into the model of a run that has not started.

    Raises:
        CheckpointError: When they belong to a different model; carries every difference.
    """
    if faults := list(model_faults(weights.model, run.unwrapped_model.state_dict())):
        hint = "use the plugins and the config that the run was trained with"
        raise CheckpointError(f"{weights.origin} of {path.name} belongs to a different model", hint=hint, faults=faults)
    run.unwrapped_model.load_state_dict(weights.model)
    try:
        load_state_of_wrappers(run.model, run.unwrapped_model, weights.rest["wrappers"])
        if isinstance(run.loss, nn.Module) and run.loss.state_dict():
            run.loss.load_state_dict(weights.rest["loss"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{weights.origin} of {path.name} belongs to a different run: {error}") from error


def version_notes(path: Path, weights: Weights, config: RunConfig) -> list[str]:
    """Return a warning if the code or the versions here differ from those of a bundle; none for a run folder."""
    if not is_bundle(path):
        return []
    now: dict[str, Any] = {"versions": {name: version(name) for name in ("hookline", "torch", "numpy")}}
    now["code"] = plugins_of(config)["code"]
    then = {part: {name: weights.identity.get(part, {}).get(name) for name in each} for part, each in now.items()}
    changes = [str(change) for change in identity_changes(then, now) if change.before is not None]
    if not changes:
        return []
    return [f"{path.name} was made with other versions, with which results can differ: {'; '.join(changes)}"]


def _of_end(path: Path, record: RunRecord, notes: tuple[str, ...]) -> Weights:
    try:
        model = read_model(path)
    except UnreadableError:
        raise
    except CheckpointError as error:
        raise CheckpointError(error.message, hint="use the newest checkpoint: --checkpoint latest") from error

    parts: dict[str, dict[str, Any]] = {part: {} for part in ("", *REST)}
    for name, value in model.items():
        part = next((part for part in REST if name.startswith(f"{part}/")), "")
        parts[part][name.removeprefix(f"{part}/")] = value
    return Weights(parts.pop(""), MODEL, record.step, record.identity, notes, parts)


def _of_checkpoint(checkpoint: Checkpoint, notes: tuple[str, ...]) -> Weights:
    manifest, state = checkpoint.manifest, checkpoint.state
    if isinstance(evaluated := state.get("evaluated_weights"), dict):
        state = {**state, **evaluated}  # its metrics describe these
    if not isinstance(state.get("model"), dict):
        raise CheckpointError(f"{checkpoint.path} lacks the model")
    return Weights(state["model"], checkpoint.path.name, manifest.step, manifest.identity, notes, state)


def _named_checkpoint(path: Path, record: RunRecord, name: str) -> Checkpoint:
    place = path / CHECKPOINTS / name if name == Path(name).name else Path(name)
    if not place.is_dir():
        known = [one.name for one in checkpoints_in(path / CHECKPOINTS)]
        raise CheckpointError(f"there is no checkpoint {place}", hint=did_you_mean(place.name, known))
    return read_checkpoint(place, run=run_of(path / CHECKPOINTS, record.run))


def _newest(path: Path, record: RunRecord) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """Return the newest good checkpoint, and what is wrong with those that are newer. All stay where they are."""
    damaged: list[str] = []
    folder = path / CHECKPOINTS
    run = run_of(folder, record.run)
    found = newest_valid(folder, lambda _, error: damaged.append(error.message), run=run)
    return found, tuple(damaged)
