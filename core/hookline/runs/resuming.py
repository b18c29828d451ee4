"""Resume a run in its folder, with its config, from its newest valid checkpoint."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from hookline.config.loading import load_config
from hookline.config.plugins.catalog import Catalog
from hookline.config.run_config import OFF, SHOWN
from hookline.engine.errors import CheckpointError, ConfigError, ContractError, DataError, Fault, HooklineError
from hookline.engine.loop.building import Site, build_all
from hookline.engine.loop.run import Run
from hookline.engine.plugin.observer import Observer
from hookline.engine.ranks import Ranks
from hookline.engine.read_only import ReadOnly
from hookline.runs.changes import Change, identity_changes
from hookline.runs.disk.checkpoint import Checkpoint, checkpoints_in, read_checkpoint, set_aside
from hookline.runs.disk.encoding import has_shared_out
from hookline.runs.disk.shards import read_whole
from hookline.runs.disk.together import ReadTogether
from hookline.runs.folder import RunFolder, expect_saved_weights, give_folder, saved_config
from hookline.runs.identity import identity_of
from hookline.runs.overview.search import find_run
from hookline.runs.plugin_states import fitting_states


def resume(  # noqa: PLR0913 - each is a choice of its own
    run: str | os.PathLike[str],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    plugins: Mapping[str, Any] | None = None,
    parent: str | os.PathLike[str] = "runs",
    catalog: Catalog | None = None,
    allow_changed_data: bool = False,
    observers: Sequence[Observer] = (),
    shown: Mapping[str, bool] = ReadOnly({}),
    shortcuts: bool = True,
    ranks: Ranks | None = None,
) -> Run:
    """Return a run that resumes from its newest usable checkpoint, in its folder; the caller takes its steps.

    Differences from before and checkpoints that cannot be used are reported in ``run.warnings``. If the run does not
    reach its end, close ``folder_of(run)``.

    Args:
        run: Folder, number or name of the run.
        overrides: Values by dotted key that win over those of its config.
        plugins: Objects by table, if it began with objects: ``{"data": data}``.
        parent: The folder in which to find runs by number or name.
        catalog: The plugins that may be named; default: those installed.
        allow_changed_data: Whether to resume even if the data have changed.
        observers: Objects to call for every call of a hook.
        shown: Callbacks that only show the run, and whether to use them: ``{"callbacks.progress": False}``. They are
            applied on top of its config and below ``overrides``, and do not count as a change of the run.
        shortcuts: Whether to call torch without the Python around its calls; the numbers are the same.
        ranks: The processes that resume it together, which must see the same files; None: this one alone.

    Raises:
        RunBusyError: When another program works in the folder.
        CheckpointError: When no checkpoint is valid, or all belong to a different model.
        ContractError: When the state of a plugin is missing, or belongs to a plugin that the run lacks.
        ConfigError: When the run is complete with these values, or they change the order of the examples within an
            epoch.
        HooklineError: As for ``Run``.
    """
    ranks, path = ranks or Ranks(), find_run(run, parent)
    folder = RunFolder.open(path) if ranks.is_zero else None
    try:
        added: dict[str, Any] = {
            label.removeprefix("callbacks."): {} for label, is_wanted in shown.items() if is_wanted
        }
        strategy = (catalog or Catalog.installed()).default("ranks") if ranks.world_size > 1 else {}
        hidden = {label: OFF for label, is_wanted in shown.items() if not is_wanted}
        config = load_config(
            saved_config(path),
            overrides,
            plugins=plugins,
            defaults={"callbacks": added, **strategy},
            switches={SHOWN: hidden},
            catalog=catalog,
        )
        problems: list[str] = []
        reading = ReadTogether(ranks)
        newest = reading.led(lambda: _newest(folder, problems, reading))
        build = _build_to_resume if ranks.gather(newest is not None)[0] else build_all
        resumed = Run(config, observers=observers, shortcuts=shortcuts, ranks=ranks, build=build)
        used: Path | None = None
        if folder:
            give_folder(resumed, folder)
        load = partial(_resume_from, newest, problems, resumed, folder, reading)
        tried = reading.led(lambda: load(allow_changed_data=allow_changed_data, aside=shown))
        if folder and tried:
            used, warnings = tried
            for text in [*folder.findings, *warnings]:
                resumed.warn(text)
            if overrides:
                _check_unfinished(resumed, folder)
        # Rank 0 has tried the checkpoints, and set aside those that cannot be used.
        [used_by_zero, *_] = ranks.gather(str(used) if used else None)
        if not folder and used_by_zero:
            checkpoint = read_checkpoint(Path(used_by_zero), is_whole=False)
            resume_from(resumed, checkpoint, allow_changed_data=allow_changed_data, aside=shown)
    except BaseException:
        if folder:
            folder.close()
        raise
    return resumed


def _build_to_resume(site: Site) -> None:
    expect_saved_weights(site.run)
    build_all(site)


_MISFITS = (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError)
"""Errors of torch and plain code for a value of an unexpected form."""


class _Running(msgspec.Struct):
    """Types of a mean that is being computed; the weights are a tensor, or a list of numbers."""

    values: Tensor | None
    weights: Any
    sum: float
    weight: float

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Tensor):
            msgspec.convert(self.weights, list[float])


NEUTRAL = ("train.device", "train.num_workers", "train.worker_timeout_s", "train.micro_batch_size")
"""Settings whose change is no reason to go on in spite of a reason to stop."""


def _resume_from(
    newest: Checkpoint | None,
    problems: list[str],
    run: Run,
    folder: RunFolder | None,
    reading: ReadTogether,
    *,
    allow_changed_data: bool,
    aside: Collection[str],
) -> tuple[Path | None, list[str]]:
    """Load the newest checkpoint that the run can use, if there is one; return its path, and warnings.

    Newer ones are set aside once an older one is loaded. If none can be used, all stay where they are.
    """
    assert folder is not None, "rank 0 has opened it"
    unusable: dict[Path, HooklineError] = {}
    for checkpoint in _from_newest(newest, folder, reading):
        try:
            notes = resume_from(run, checkpoint, allow_changed_data=allow_changed_data, aside=aside)
        except (CheckpointError, ContractError) as error:
            unusable[checkpoint.path] = error
            continue
        for path, problem in unusable.items():
            problems.append(f"{path} cannot be loaded: {problem.message}")
            set_aside(path)
        return checkpoint.path, [*(f"{text}; using an older checkpoint" for text in problems), *notes]
    if unusable:
        raise next(iter(unusable.values()))
    changes = _changes(folder.record.identity, identity_of(run), aside)
    return None, [*problems, *_described(changes, "it began")]


def _newest(folder: RunFolder | None, problems: list[str], reading: ReadTogether) -> Checkpoint | None:
    assert folder is not None, "rank 0 has opened it"
    return folder.newest_checkpoint(lambda error: problems.append(error.message), reading.read)


def _from_newest(newest: Checkpoint | None, folder: RunFolder, reading: ReadTogether) -> Iterator[Checkpoint]:
    """Yield a checkpoint and the valid older ones, each read when it is needed."""
    if newest:
        yield newest
        paths = checkpoints_in(folder.checkpoints)
        for path in paths[paths.index(newest.path) + 1 :]:
            with contextlib.suppress(CheckpointError):
                yield reading.read(path, run=folder.record.run)


def _check_unfinished(run: Run, folder: RunFolder) -> None:
    """Check that a run with other values does not merely get them into its config.

    Raises:
        ConfigError: When the run is over, and with these values no step is left.
    """
    record, options = folder.record, run.config.train
    is_over = (
        0 < options.max_steps <= run.step or len(run.history) >= run.config.train.epochs or run.stop_reason is not None
    )
    if is_over and record.status in ("completed", "stopped"):
        again = f"hookline train {folder.config_path} KEY=VALUE"
        hint = f"train longer: train.epochs={2 * max(record.num_epochs, 1)}; or train anew with other values: {again}"
        message = f"{folder.path.name} is {record.status} after {record.step} steps: with these values nothing is left"
        raise ConfigError(f"{message} to do, and nothing was changed", hint=hint)


class _State(msgspec.Struct):
    """Types of the parts of a state, checked before any is loaded; plugins and torch check their own parts."""

    epoch: int
    step: int
    position: int
    examples: int
    place: dict[str, Any] | None
    stop_reason: str | None
    used_s: float
    history: list[dict[str, float]]
    summary: dict[str, list[dict[str, Any]]]
    warnings: list[str]
    random: dict[str, Any]
    running: _Running
    modes: list[str]
    evaluated: tuple[int, dict[str, float]]
    model: dict[str, Any]
    wrappers: dict[str, Any]
    loss: dict[str, Any]
    optimizer: dict[str, Any]
    plugins: dict[str, Any]
    ranks: list[dict[str, Any]] = []  # in a run of several


def resume_from(
    run: Run,
    checkpoint: Checkpoint,
    *,
    allow_changed_data: bool = False,
    aside: Collection[str] = (),
) -> list[str]:
    """Load a checkpoint into a run that has not begun; return warnings, with the differences from before.

    Tables ``aside`` are not compared. A run whose settings have changed forgets a reason to stop.

    Raises:
        DataError: When the data have changed, unless ``allow_changed_data``.
        ConfigError: When the order of the examples has changed within an epoch.
        ContractError: When the state of a plugin is missing, or belongs to a plugin that the run lacks.
        CheckpointError: When a part is missing, or belongs to a different model; lists every difference.
    """
    if missing := [part for part in _State.__struct_fields__ if part not in (*checkpoint.state, "ranks")]:
        raise CheckpointError(f"{checkpoint.path} lacks {', '.join(missing)}")
    if not has_shared_out([*run.model.parameters()]):  # of several ranks, each has the whole model
        checkpoint = replace(checkpoint, state=read_whole(checkpoint.state))
    now = identity_of(run)  # computed here, so that an error of a dataset is not blamed on the checkpoint
    changes = _changes(checkpoint.manifest.identity, now, aside)
    changed_data = [Fault(str(change)) for change in changes if change.part == "data"]
    is_changed = any(change.part == "settings" and change.key not in NEUTRAL for change in changes)
    try:
        _check_model(run, checkpoint)
        if changed_data and not allow_changed_data:
            hint = "restore the data of the run, or resume with the new data: --allow-changed-data"
            raise DataError("the data of the run have changed", hint=hint, faults=changed_data)
        is_within = run.steps_per_epoch is None or checkpoint.state["examples"] < len(run.batch_order(1))
        if checkpoint.manifest.position and is_within:
            _check_order(run, changes)
        states, notes = fitting_states(run, checkpoint.state["plugins"], checkpoint.manifest.identity, now)
        _load(run, checkpoint, states, now["optimizer"], is_changed=is_changed)
    except _MISFITS as error:
        raise CheckpointError(f"{checkpoint.path} is not a state of a run: {type(error).__name__}: {error}") from error
    return [*notes, *_described(changes, "its last checkpoint")]


def _check_order(run: Run, changes: Collection[Change]) -> None:
    """Refuse another order of the examples within an epoch: some would be used twice, and others never.

    Raises:
        ConfigError: Carries every change of a setting that the order depends on.
    """
    ordering = [member.table for member, _ in run.hook_order("build_order")]
    settings = ["train.shuffle", *ordering]
    settings += ["train.seed"] if run.config.train.shuffle or ordering else []
    settings += ["train.batch_size"] if ordering else []
    settings += ["train.num_workers"] if run.steps_per_epoch is None else []
    faults = [Fault(str(c)) for c in changes if c.part == "settings" and _is_within(c.key, settings)]
    replaced = [c for c in changes if c.part == "plugins" and _ordering(c.before) != _ordering(c.after)]
    if faults := [*faults, *(Fault(str(change)) for change in replaced)]:
        hint = "resume without these changes, and change them between two epochs: train.epochs sets the last one"
        raise ConfigError("the order of the examples cannot change within an epoch", hint=hint, faults=faults)


def _check_model(run: Run, checkpoint: Checkpoint) -> None:
    msgspec.convert(checkpoint.state, _State)
    if faults := list(model_faults(checkpoint.state["model"], run.unwrapped_model.state_dict())):
        hint = "resume with the config of the run, or train a new model: hookline train"
        raise CheckpointError(f"{checkpoint.path} belongs to a different model", hint=hint, faults=faults)


def _ordering(plugin: Any) -> str | None:
    """Return the name of a plugin that orders the examples; None for any other."""
    return plugin["name"] if isinstance(plugin, Mapping) and plugin.get("orders") else None


def _load(
    run: Run, checkpoint: Checkpoint, plugins: Mapping[str, Any], options: Sequence[Any], *, is_changed: bool
) -> None:
    state = {**checkpoint.state, "plugins": plugins}
    as_built = [dict(group) for group in run.optimizer.param_groups]
    groups, built = state["optimizer"].get("param_groups", ()), checkpoint.manifest.identity.get("optimizer", ())
    if faults := [*_optimizer_faults(groups, as_built), *_setting_faults(groups, built)]:
        hint = "resume with the optimizer of the run, or train a new model: hookline train"
        raise CheckpointError(f"{checkpoint.path} belongs to a different optimizer", hint=hint, faults=faults)
    if is_changed:
        state["stop_reason"] = None
    run.load_state_dict(state)
    _set_changed_options(run, as_built, built, options)


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


def _setting_faults(saved: Sequence[Mapping[str, Any]], built: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """Yield the settings of an optimizer that are of another kind than as built, such as a rate that is text."""
    for number, (then, first) in enumerate(zip(saved, built, strict=False)):
        for key, value in first.items():
            if key in then and _kind(then[key]) != _kind(value):
                yield Fault(f"its parameter group {number} has {key} = {then[key]!r:.60}, and was built with {value!r}")


def _kind(value: Any) -> Any:
    """Return the kind of a setting of an optimizer: numbers and tensors of one are alike, and NaN is none of them."""
    if isinstance(value, list | tuple):
        return [*map(_kind, value)]
    if isinstance(value, int | float | Tensor) and not isinstance(value, bool):
        return bool(value == value) if getattr(value, "ndim", 0) == 0 else Tensor  # noqa: PLR0124 - NaN alone differs
    return type(value)


def _set_changed_options(
    run: Run,
    as_built: Sequence[Mapping[str, Any]],
    then: Sequence[Mapping[str, Any]],
    now: Sequence[Mapping[str, Any]],
) -> None:
    """Let options of the optimizer that are built with other values than then, such as ``lr``, win over its state."""
    for group, built, before, after in zip(run.optimizer.param_groups, as_built, then, now, strict=False):
        group.update({key: built[key] for key, value in after.items() if before.get(key, value) != value})


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], aside: Collection[str]) -> list[Change]:
    """Return the differences between two fingerprints outside some tables; none from a run that did not begin."""
    return [c for c in identity_changes(before, now) if not _is_within(c.key, aside)] if before else []


def _described(changes: Collection[Change], since: str) -> list[str]:
    ranks = [change for change in changes if (change.part, change.key) == ("machine", "world_size")]
    others = [change for change in changes if change not in ranks]
    return [
        *(f"the run has changed since {since}: {'; '.join(map(str, others))}" for _ in others[:1]),
        *(
            f"the number of ranks was {change.before or 1}, and is {change.after or 1}: the state and the order of the "
            "examples are the same, but from here on the numbers differ by rounding, and by what is drawn in the model"
            for change in ranks
        ),
    ]


def _is_within(key: str, tables: Collection[str]) -> bool:
    return any(f"{key}.".startswith(f"{table}.") for table in tables)
