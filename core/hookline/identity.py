"""What a run is made of, as plain values, and whether a checkpoint is one that it can go on from."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from hookline.checkpoint import Checkpoint
from hookline.config import RunConfig
from hookline.errors import CheckpointError, DataError, Fault, PluginError
from hookline.hookspecs import API_VERSION
from hookline.lock import make_lock
from hookline.options import is_plain
from hookline.redaction import redacted

if TYPE_CHECKING:
    from torch.utils.data import Dataset, TensorDataset

    from hookline.catalog import Entry
    from hookline.run import Run

_SAMPLED_ROWS = 64
"""How many rows of an in-memory dataset are hashed: enough to see new data or another order, few enough to be free."""
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


def identity_of(run: Run) -> dict[str, Any]:
    """Return what a run is made of: versions, plugins, hashes of their code, settings, data, machine."""
    import torch

    return {
        "versions": {name: version(name) for name in ("hookline", "torch", "numpy")}
        | {"hooks": API_VERSION, "python": platform.python_version()},
        **plugins_of(run.config),
        "settings": {key: _plain_setting(key, run.config.lasting(key)) for key in run.config.settings},
        "data": {split: _fingerprint(dataset) for split, dataset in run.data.splits().items()},
        "machine": {"device": str(run.device), "type": platform.machine(), "num_threads": torch.get_num_threads()},
    }


def plugins_of(config: RunConfig) -> dict[str, Any]:
    """Return the plugins of a run by table, and a hash of the code of each of their distributions."""
    entries = {choice.label: choice.plugin.entry for choice in config.plugins}
    plugins = {
        choice.label: {
            "name": choice.plugin.name,
            "distribution": entry.distribution if (entry := entries[choice.label]) else None,
            "version": entry.version if entry else None,
        }
        for choice in config.plugins
    }
    by_distribution = {entry.distribution: entry for entry in entries.values() if entry}
    code = {
        name: {"version": entry.version, "sha256": _code_hash(name, entry)} for name, entry in by_distribution.items()
    }
    return {"plugins": plugins, "code": code}


def take_up(
    run: Run, checkpoint: Checkpoint, *, allow_changed_data: bool = False, aside: Collection[str] = ()
) -> list[str]:
    """Let a run that was not begun go on from a checkpoint; return what is different from the run that wrote it.

    Tables ``aside`` are not compared.

    Raises:
        DataError: When its data are others, unless ``allow_changed_data``.
        CheckpointError: When the checkpoint lacks a part, or is that of another model; carries every difference.
    """
    state = checkpoint.state
    if missing := [part for part in _State.__struct_fields__ if part not in state]:
        raise CheckpointError(f"{checkpoint.path} lacks {', '.join(missing)}")
    _ = run.identity  # taken here: what a dataset raises is no fault of the checkpoint
    try:
        return _taken_up(run, checkpoint, allow_changed_data=allow_changed_data, aside=aside)
    except _MISFITS as error:
        raise CheckpointError(f"{checkpoint.path} is no state of a run: {type(error).__name__}: {error}") from error


def _taken_up(run: Run, checkpoint: Checkpoint, *, allow_changed_data: bool, aside: Collection[str]) -> list[str]:
    state = checkpoint.state
    msgspec.convert(state, _State)
    if faults := list(model_faults(state["model"], run.unwrapped_model.state_dict())):
        hint = "resume with the config of the run, or train a new model: hookline train"
        raise CheckpointError(f"{checkpoint.path} is that of another model", hint=hint, faults=faults)
    now, then = run.identity, checkpoint.manifest.identity
    changed_data = list(changes("the data", then.get("data", {}), now["data"]))
    if changed_data and not allow_changed_data:
        hint = "bring back the data of the run, or go on with others: --allow-changed-data"
        raise DataError("the data are not those that the run began with", hint=hint, faults=[*map(Fault, changed_data)])
    as_built = [dict(group) for group in run.optimizer.param_groups]
    if faults := list(_optimizer_faults(state["optimizer"].get("param_groups", ()), as_built)):
        hint = "resume with the optimizer of the run, or train a new model: hookline train"
        raise CheckpointError(f"{checkpoint.path} is that of another optimizer", hint=hint, faults=faults)
    run.load_state_dict(state)
    _set_changed_options(run, as_built, then.get("settings", {}))
    parts = ("versions", "plugins", "code", "settings", "machine")
    compared = ((part, _without(aside, then.get(part, {})), _without(aside, now[part])) for part in parts)
    return changed_data + [text for part in compared for text in changes(*part)]


def _optimizer_faults(saved: Sequence[Mapping[str, Any]], there: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    # torch takes the groups of any optimizer, and fails in the first step. One that is saved may have more: schedulers
    # add theirs.
    for number, (then, now) in enumerate(zip(saved, there, strict=False)):
        if missing := sorted(now.keys() - then.keys()):
            yield Fault(f"its group {number} of parameters has no {', '.join(missing)}")


def _set_changed_options(run: Run, as_built: Sequence[Mapping[str, Any]], then: Mapping[str, Any]) -> None:
    """Let options of the optimizer that are not as they were win over those in its state, such as a learning rate."""
    now: Mapping[str, Any] = run.identity["settings"]
    prefix = "optimizer."
    changed = {
        key.removeprefix(prefix) for key in now if key.startswith(prefix) and now[key] != then.get(key, now[key])
    }
    for group, built in zip(run.optimizer.param_groups, as_built, strict=True):
        group.update({name: built[name] for name in changed & built.keys() - {"params"}})


def _without(tables: Collection[str], part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in part.items() if not any(f"{key}.".startswith(f"{name}.") for name in tables)}


def _plain_setting(key: str, value: Any) -> Any:
    return redacted(value, key) if is_plain(value) else f"<{type(value).__name__}>"


def _code_hash(name: str, entry: Entry) -> str | None:
    """Return a hash of the code of a plugin's distribution; None where it does not say which files it has."""
    try:
        return make_lock({"": entry}).distributions[name].sha256
    except PluginError:
        return None


def _fingerprint(dataset: Dataset[Any]) -> dict[str, Any]:
    """Return what tells a dataset from another: its size, and a hash of what lies in memory.

    A dataset with a method ``fingerprint()`` says itself, with a text, what it is.
    """
    from torch.utils.data import IterableDataset, TensorDataset

    num_examples = None if isinstance(dataset, IterableDataset) else len(dataset)  # type: ignore[arg-type] # has one
    told = getattr(dataset, "fingerprint", None)
    content = told() if callable(told) else _hash(dataset) if type(dataset) is TensorDataset else None
    return {"type": type(dataset).__qualname__, "num_examples": num_examples, "content": content}


def _hash(dataset: TensorDataset) -> str:
    import torch

    digest = hashlib.sha256()
    for tensor in dataset.tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        rows = torch.linspace(0, len(tensor) - 1, min(_SAMPLED_ROWS, len(tensor))).long()
        sample = tensor.detach()[rows.to(tensor.device)].cpu().contiguous()
        digest.update(sample.reshape(-1).view(torch.uint8).numpy().tobytes() if sample.numel() else b"")
    return digest.hexdigest()


def model_faults(saved: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[Fault]:
    """Give what keeps saved weights from being those of a model: names, shapes, dtypes."""
    for name in sorted(saved.keys() | there.keys()):
        if name not in there:
            yield Fault(f"the model has no {name}, which the checkpoint has")
        elif name not in saved:
            yield Fault(f"the checkpoint has no {name}, which the model has")
        elif (then := _form(saved[name])) != (now := _form(there[name])):
            yield Fault(f"{name} is {then} in the checkpoint, and {now} in the model")


def _form(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if hasattr(value, "dtype") else type(value).__name__


def changes(where: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Give in words what is different between two parts of an identity."""
    for key in sorted(then.keys() | now.keys()):
        before, after = then.get(key), now.get(key)
        if before != after:
            yield f"{where}: {key} was {_brief(before)}, and is {_brief(after)}"


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(str(item)[:16] for item in value.values() if item is not None)
    return "not there" if value is None else repr(value)
