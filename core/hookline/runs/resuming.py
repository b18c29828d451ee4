"""Resume a run in its folder, with its config, from its newest valid checkpoint."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from hookline.engine.config.loading import load_config
from hookline.engine.config.run_config import OFF, SHOWN
from hookline.engine.errors import CheckpointError, DataError, Fault
from hookline.engine.loop.run import Run
from hookline.engine.plugin.catalog import Catalog
from hookline.engine.plugin.observer import Observer
from hookline.runs.changes import Change, identity_changes
from hookline.runs.disk.checkpoint import Checkpoint
from hookline.runs.folder import RunFolder, give_folder
from hookline.runs.identity import identity_of
from hookline.runs.search import find_run


def resume(
    run: str | os.PathLike[str],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    parent: Path = Path("runs"),
    catalog: Catalog | None = None,
    allow_changed_data: bool = False,
    observers: Sequence[Observer] = (),
    shown: Mapping[str, bool] = MappingProxyType({}),
    shortcuts: bool = True,
) -> Run:
    """Return a run that resumes from its newest valid checkpoint, in its folder; the caller takes its steps.

    Differences from before and damaged checkpoints are reported in ``run.warnings``. If the run does not reach its
    end, close ``folder_of(run)``.

    Args:
        run: Folder, number or name of the run.
        overrides: Values by dotted key that win over those of its config.
        parent: The folder in which to find runs by number or name.
        catalog: The plugins that may be named; default: those installed.
        allow_changed_data: Whether to resume even if the data have changed.
        observers: Objects to call for every call of a hook.
        shown: Callbacks that only show the run, and whether to use them: ``{"callbacks.progress": False}``. They are
            applied on top of its config and below ``overrides``, and do not count as a change of the run.
        shortcuts: Whether to call torch without the Python around its calls; the numbers are the same.

    Raises:
        RunBusyError: When another program works in the folder.
        CheckpointError: When no checkpoint is valid, or the newest belongs to a different model.
        HooklineError: As for ``Run``.
    """
    folder = RunFolder.open(find_run(os.fspath(run), parent))
    try:
        added: dict[str, Any] = {
            label.removeprefix("callbacks."): {} for label, is_wanted in shown.items() if is_wanted
        }
        hidden = {label: OFF for label, is_wanted in shown.items() if not is_wanted}
        config = load_config(
            folder.config_path,
            overrides,
            defaults={"callbacks": added},
            switches={SHOWN: hidden},
            catalog=catalog,
        )
        resumed = Run(config, observers=observers, shortcuts=shortcuts)
        give_folder(resumed, folder)
        damaged: list[str] = []
        checkpoint = folder.newest_checkpoint(lambda error: damaged.append(error.message))
        if checkpoint:
            changes = resume_from(
                resumed, checkpoint, allow_changed_data=allow_changed_data, aside=shown, is_changed=bool(overrides)
            )
        else:
            changes = list(map(str, _changes(folder.record.identity, identity_of(resumed), shown)))
        for text in folder.findings:
            resumed.warn(text)
        for text in damaged:
            resumed.warn(f"{text}; using an older checkpoint")
        if changes:
            since = "its last checkpoint" if checkpoint else "it began"
            resumed.warn(f"the run has changed since {since}: {'; '.join(changes)}")
    except BaseException:
        folder.close()
        raise
    return resumed


_MISFITS = (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError)
"""Errors of torch and plain code for a value of an unexpected form."""


class _State(msgspec.Struct):
    """Types of the parts of a state, checked before any is loaded; plugins and torch check their own parts."""

    epoch: int
    step: int
    position: int
    stop_reason: str | None
    used_s: float
    history: list[dict[str, float]]
    summary: dict[str, list[dict[str, Any]]]
    warnings: list[str]
    random: dict[str, Any]
    running: dict[str, Any]
    evaluated: tuple[int, dict[str, float]]
    model: dict[str, Any]
    wrappers: dict[str, Any]
    loss: dict[str, Any]
    optimizer: dict[str, Any]
    plugins: dict[str, Any]


def resume_from(
    run: Run,
    checkpoint: Checkpoint,
    *,
    allow_changed_data: bool = False,
    aside: Collection[str] = (),
    is_changed: bool = False,
) -> list[str]:
    """Load a checkpoint into a run that has not begun; return the differences from the run that wrote it.

    Tables ``aside`` are not compared. A run whose config ``is_changed`` forgets a reason to stop.

    Raises:
        DataError: When the data have changed, unless ``allow_changed_data``.
        CheckpointError: When a part is missing, or belongs to a different model; lists every difference.
    """
    if missing := [part for part in _State.__struct_fields__ if part not in checkpoint.state]:
        raise CheckpointError(f"{checkpoint.path} lacks {', '.join(missing)}")
    now = identity_of(run)  # computed here, so that an error of a dataset is not blamed on the checkpoint
    changes = _changes(checkpoint.manifest.identity, now, aside)
    changed_data = [Fault(str(change)) for change in changes if change.part == "data"]
    try:
        _check_model(run, checkpoint)
        if changed_data and not allow_changed_data:
            hint = "restore the data of the run, or resume with the new data: --allow-changed-data"
            raise DataError("the data of the run have changed", hint=hint, faults=changed_data)
        _load(run, checkpoint, now["settings"], is_changed=is_changed)
    except _MISFITS as error:
        raise CheckpointError(f"{checkpoint.path} is not a state of a run: {type(error).__name__}: {error}") from error
    return list(map(str, changes))


def _check_model(run: Run, checkpoint: Checkpoint) -> None:
    msgspec.convert(checkpoint.state, _State)
    if faults := list(model_faults(checkpoint.state["model"], run.unwrapped_model.state_dict())):
        hint = "resume with the config of the run, or train a new model: hookline train"
        raise CheckpointError(f"{checkpoint.path} belongs to a different model", hint=hint, faults=faults)


def _load(run: Run, checkpoint: Checkpoint, settings: Mapping[str, Any], *, is_changed: bool) -> None:
    state = checkpoint.state
    as_built = [dict(group) for group in run.optimizer.param_groups]
    if faults := list(_optimizer_faults(state["optimizer"].get("param_groups", ()), as_built)):
        hint = "resume with the optimizer of the run, or train a new model: hookline train"
        raise CheckpointError(f"{checkpoint.path} belongs to a different optimizer", hint=hint, faults=faults)
    run.load_state_dict({**state, "stop_reason": None} if is_changed else state)
    _set_changed_options(run, as_built, checkpoint.manifest.identity.get("settings", {}), settings)


def model_faults(saved: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the differences in names, shapes and dtypes between saved weights and those of a model."""
    for name in sorted(saved.keys() | there.keys()):
        if name not in there:
            yield Fault(f"{name} is in the checkpoint, but not in the model")
        elif name not in saved:
            yield Fault(f"{name} is in the model, but not in the checkpoint")
        elif (then := _form(saved[name])) != (now := _form(there[name])):
            yield Fault(f"{name} is {then} in the checkpoint, but {now} in the model")


def _form(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if hasattr(value, "dtype") else type(value).__name__


def _optimizer_faults(saved: Sequence[Mapping[str, Any]], there: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    # torch loads the groups of any optimizer and fails in the first step. A saved group may have more keys:
    # schedulers add theirs.
    for number, (then, now) in enumerate(zip(saved, there, strict=False)):
        if missing := sorted(now.keys() - then.keys()):
            yield Fault(f"its parameter group {number} has no {', '.join(missing)}")


def _set_changed_options(
    run: Run, as_built: Sequence[Mapping[str, Any]], then: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Let changed options of the optimizer, such as the learning rate, win over those in its state."""
    prefix = "optimizer."
    changed = {
        key.removeprefix(prefix) for key in now if key.startswith(prefix) and now[key] != then.get(key, now[key])
    }
    for group, built in zip(run.optimizer.param_groups, as_built, strict=True):
        group.update({name: built[name] for name in changed & built.keys() - {"params"}})


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], aside: Collection[str]) -> list[Change]:
    """Return the differences between two fingerprints outside some tables; none from a run that did not begin."""
    return [c for c in identity_changes(before, now) if not _is_within(c.key, aside)] if before else []


def _is_within(key: str, tables: Collection[str]) -> bool:
    return any(f"{key}.".startswith(f"{table}.") for table in tables)
