"""Taking up a run where it was interrupted: its folder, its config, its newest good checkpoint."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from hookline.engine.config.loading import load_config
from hookline.engine.config.run_config import OFF, SHOWN
from hookline.engine.errors import CheckpointError, DataError, Fault
from hookline.engine.loop.run import Run
from hookline.engine.plugin.catalog import Catalog
from hookline.engine.plugin.observer import Observer
from hookline.runs.changes import changes
from hookline.runs.disk.checkpoint import Checkpoint
from hookline.runs.folder import RunFolder, give_folder
from hookline.runs.identity import identity_of, model_faults
from hookline.runs.search import find_run

if TYPE_CHECKING:
    from hookline.engine.loop.run import Run


def resume(
    run: str | os.PathLike[str],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    parent: Path = Path("runs"),
    catalog: Catalog | None = None,
    allow_changed_data: bool = False,
    observers: Sequence[Observer] = (),
    shown: Mapping[str, bool] = MappingProxyType({}),
) -> Run:
    """Return a run that goes on from its newest good checkpoint, in its folder; its steps are the caller's to take.

    What is different from before, and what was damaged, stands in ``run.warnings``. Close ``folder_of(run)`` when the
    run is not taken to its end.

    Args:
        run: Its folder, its number or its name.
        overrides: Values by dotted key that win over those of its config.
        parent: Where runs are looked for by number or name.
        catalog: The plugins that may be named; default: those installed.
        allow_changed_data: Go on also with other data than those that the run began with.
        observers: Who looks on at every call of a hook.
        shown: Callbacks that only show the run, and whether it has them: ``{"callbacks.progress": False}``. They come
            on top of its config and beneath ``overrides``, and are no change of the run.

    Raises:
        RunBusyError: When another program works in the folder.
        CheckpointError: When no checkpoint is good, or it is that of another model.
        HooklineError: As ``Run`` does.
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
        resumed = Run(config, observers=observers)
        give_folder(resumed, folder)
        damaged: list[str] = []
        checkpoint = folder.newest_checkpoint(lambda error: damaged.append(error.message))
        changes: list[str] = []
        if checkpoint:
            changes = resume_from(
                resumed, checkpoint, allow_changed_data=allow_changed_data, aside=shown, is_changed=bool(overrides)
            )
        for text in damaged:
            resumed.warn(f"{text}; an older checkpoint is taken")
        if changes:
            resumed.warn(f"from here on it is another run, for something is not as it was: {'; '.join(changes)}")
    except BaseException:
        folder.close()
        raise
    return resumed


_MISFITS = (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError)
"""What torch and plain code raise when a value is not of the form that they wrote themselves."""


class _State(msgspec.Struct):
    """What a state must be, before any of it is taken up; what plugins and torch keep in it is theirs to look at."""

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
    """Let a run that was not begun go on from a checkpoint; return what is different from the run that wrote it.

    Tables ``aside`` are not compared. A run whose config ``is_changed`` forgets a reason to stop.

    Raises:
        DataError: When its data are others, unless ``allow_changed_data``.
        CheckpointError: When the checkpoint lacks a part, or is that of another model; carries every difference.
    """
    if missing := [part for part in _State.__struct_fields__ if part not in checkpoint.state]:
        raise CheckpointError(f"{checkpoint.path} lacks {', '.join(missing)}")
    now = identity_of(run)  # taken here: what a dataset raises is no fault of the checkpoint
    try:
        changed_data = _load(run, checkpoint, now, allow_changed_data=allow_changed_data, is_changed=is_changed)
    except _MISFITS as error:
        raise CheckpointError(f"{checkpoint.path} is no state of a run: {type(error).__name__}: {error}") from error
    then, parts = checkpoint.manifest.identity, ("versions", "plugins", "code", "settings", "machine")
    compared = ((part, _without(aside, then.get(part, {})), _without(aside, now[part])) for part in parts)
    return changed_data + [text for part in compared for text in changes(*part)]


def _load(
    run: Run, checkpoint: Checkpoint, now: Mapping[str, Any], *, allow_changed_data: bool, is_changed: bool
) -> list[str]:
    """Load a checkpoint into a run; return in what its data differ."""
    state, then = checkpoint.state, checkpoint.manifest.identity
    msgspec.convert(state, _State)
    if faults := list(model_faults(state["model"], run.unwrapped_model.state_dict())):
        hint = "resume with the config of the run, or train a new model: hookline train"
        raise CheckpointError(f"{checkpoint.path} is that of another model", hint=hint, faults=faults)
    changed_data = list(changes("the data", then.get("data", {}), now["data"]))
    if changed_data and not allow_changed_data:
        hint = "bring back the data of the run, or go on with others: --allow-changed-data"
        raise DataError("the data are not those that the run began with", hint=hint, faults=[*map(Fault, changed_data)])
    as_built = [dict(group) for group in run.optimizer.param_groups]
    if faults := list(_optimizer_faults(state["optimizer"].get("param_groups", ()), as_built)):
        hint = "resume with the optimizer of the run, or train a new model: hookline train"
        raise CheckpointError(f"{checkpoint.path} is that of another optimizer", hint=hint, faults=faults)
    run.load_state_dict({**state, "stop_reason": None} if is_changed else state)
    _set_changed_options(run, as_built, then.get("settings", {}), now["settings"])
    return changed_data


def _optimizer_faults(saved: Sequence[Mapping[str, Any]], there: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    # torch takes the groups of any optimizer, and fails in the first step. One that is saved may have more: schedulers
    # add theirs.
    for number, (then, now) in enumerate(zip(saved, there, strict=False)):
        if missing := sorted(now.keys() - then.keys()):
            yield Fault(f"its group {number} of parameters has no {', '.join(missing)}")


def _set_changed_options(
    run: Run, as_built: Sequence[Mapping[str, Any]], then: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Let options of the optimizer that are not as they were win over those in its state, such as a learning rate."""
    prefix = "optimizer."
    changed = {
        key.removeprefix(prefix) for key in now if key.startswith(prefix) and now[key] != then.get(key, now[key])
    }
    for group, built in zip(run.optimizer.param_groups, as_built, strict=True):
        group.update({name: built[name] for name in changed & built.keys() - {"params"}})


def _without(tables: Collection[str], part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in part.items() if not any(f"{key}.".startswith(f"{name}.") for name in tables)}
