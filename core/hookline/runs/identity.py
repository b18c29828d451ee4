"""Fingerprint of a run: versions, plugins, hashes of their code, settings, data, machine."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hookline.config.files import read_file
from hookline.config.plugins.options import is_plain, plain
from hookline.engine.errors import PluginError
from hookline.engine.hookspecs import API_VERSION
from hookline.engine.view import ConfigView, RunView
from hookline.runs.lock import make_lock
from hookline.runs.redaction import Redaction, keys_from_user

if TYPE_CHECKING:
    from torch.utils.data import Dataset, TensorDataset

    from hookline.config.plugins.catalog import Entry


_SAMPLED_ROWS = 64
"""Number of rows of an in-memory dataset to hash: enough to notice new data or a different order, at almost no cost."""

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MAX_REF_BYTES, _MAX_PACKED_BYTES = 2**12, 2**26

_SHARED = "identity"


def identity_of(run: RunView) -> Mapping[str, Any]:
    """Return the fingerprint of a run as plain values: versions, plugins, code hashes, settings, data, machine.

    It is computed on the first call; later calls return the same.
    """
    identity = run.shared.get(_SHARED) or _fingerprint_of(run)
    run.shared[_SHARED] = identity
    return cast(Mapping[str, Any], identity)


def _fingerprint_of(run: RunView) -> dict[str, Any]:
    import torch

    return {
        "versions": {name: version(name) for name in ("hookline", "torch", "numpy")}
        | {"hooks": API_VERSION, "python": platform.python_version()},
        **plugins_of(run.config),
        "settings": settings_of(run.config),
        "data": {split: _fingerprint(dataset) for split, dataset in run.data.splits().items()},
        "optimizer": _options_as_built(run),
        "machine": {"device": str(run.device), "type": platform.machine(), "num_threads": torch.get_num_threads()}
        | ({"world_size": run.ranks.world_size} if run.ranks.world_size > 1 else {}),
    }


def commit_of(folder: str | os.PathLike[str]) -> str | None:
    """Return the commit that is checked out in a folder; None without git.

    Nothing is run, because git runs programs that the settings of a repository name.

    Example:
        >>> commit_of("/no/such/folder") is None
        True
    """
    here = Path(folder)
    root = next((parent for parent in (here, *here.parents) if os.path.lexists(parent / ".git")), None)
    if root is None:
        return None
    try:
        return _commit_of(root / ".git")
    except (OSError, ValueError):
        return None


def _commit_of(git: Path) -> str | None:
    """Return the commit of a repository; ``git`` is its ``.git``. See the manual page ``gitrepository-layout``."""
    if git.is_file():  # of a worktree or a submodule
        git = git.parent / _text(git).removeprefix("gitdir: ")
    shared = git / _text(git / "commondir") if (git / "commondir").exists() else git
    name = head = _text(git / "HEAD")
    if head.startswith("ref: "):
        name = head.removeprefix("ref: ")
        head = next((_text(place / name) for place in (git, shared) if (place / name).exists()), "")
    if not head:
        lines = _text(shared / "packed-refs", _MAX_PACKED_BYTES).splitlines()
        head = next((line.partition(" ")[0] for line in lines if line.endswith(f" {name}")), "")
    return head if _COMMIT.fullmatch(head) else None


def _text(path: Path, max_bytes: int = _MAX_REF_BYTES) -> str:
    return read_file(path, max_bytes).decode().strip()


def plugins_of(config: ConfigView) -> dict[str, Any]:
    """Return the plugins of a run by table, and a hash of the code of each of their distributions."""
    entries = {choice.table: choice.plugin.entry for choice in config.plugins}
    plugins = {
        choice.table: {
            "name": choice.plugin.name,
            "distribution": entry.distribution if (entry := entries[choice.table]) else None,
            "version": entry.version if entry else None,
            **_declared(choice.plugin),
        }
        for choice in config.plugins
    }
    by_distribution = {entry.distribution: entry for entry in entries.values() if entry}
    code = {
        name: {"version": entry.version, "sha256": _code_hash(name, entry)} for name, entry in by_distribution.items()
    }
    return {"plugins": plugins, "code": code}


def _options_as_built(run: RunView) -> list[dict[str, Any]]:
    """Return the plain options of each parameter group, which before the first step follow from the config."""
    import torch

    groups = run.optimizer.param_groups if hasattr(run, "optimizer") else ()
    values = (
        {
            key: value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
            for key, value in group.items()
        }
        for group in groups
    )
    return [
        {key: plain(value) for key, value in group.items() if key != "params" and is_plain(value)} for group in values
    ]


def _declared(plugin: Any) -> dict[str, Any]:
    """Return what a resumed run must know of a plugin: the version of its state, and whether it orders the examples."""
    version = getattr(plugin.target, "state_version", None)
    declared = {} if version is None else {"state_version": version}
    return declared | ({"orders": True} if "build_order" in plugin.hooks else {})


def settings_of(config: ConfigView) -> dict[str, Any]:
    """Return the settings of a config as plain values, without secrets."""
    redaction = Redaction.of(config)
    left_out = keys_from_user(config)  # they belong to whoever starts a run, not to the run
    values = {key: config.lasting(key) for key in config.settings if key not in left_out}
    return {
        key: redaction.setting(key, value) if is_plain(value) else f"<{type(value).__name__}>"
        for key, value in values.items()
    }


def _code_hash(name: str, entry: Entry) -> str | None:
    """Return a hash of the code of a plugin's distribution; None if its metadata do not list its files."""
    try:
        return make_lock({"": entry}).distributions[name].sha256
    except PluginError:
        return None


def _fingerprint(dataset: Dataset[Any]) -> dict[str, Any]:
    """Return the type and size of a dataset, and a hash of data in memory.

    A dataset with a method ``fingerprint()`` supplies the hash, or any other text, itself.
    """
    from torch.utils.data import IterableDataset, TensorDataset

    num_examples = None if isinstance(dataset, IterableDataset) else len(dataset)  # type: ignore[arg-type] # has one
    own = getattr(dataset, "fingerprint", None)
    content = own() if callable(own) else _hash(dataset) if type(dataset) is TensorDataset else None
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
