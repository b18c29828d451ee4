"""Checkpoints: the state of a run in a separate folder, saved completely or not at all, and verified when read.

A checkpoint is a folder that does not change after it is saved::

    step-000000000300-epochs-2/
        manifest.json        run, step, and size and SHA-256 (FIPS 180-4) of the files below
        manifest.sha256      SHA-256 of the manifest, as ``sha256sum --check`` reads it
        model.safetensors    the weights of the model
        state.safetensors    all other tensors
        state.json           everything else

Where each of several ranks has a part of some tensors, as with ``fsdp``, it also contains::

        shards.json          the shape and dtype of these tensors, and where each part belongs
        shard-00001-of-00002.safetensors    the parts of rank 0, and so on

It is written under a temporary name; every file and the folder are flushed to the disk; then it is renamed. Nothing
in it can cause code to run.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from hookline.config.files import read_file, reason
from hookline.engine.errors import CheckpointError
from hookline.runs.disk.durable_files import (
    beside,
    file_sum,
    flush_folder,
    make_folder,
    move_folder,
    opened_folder,
    remove_folder,
    write_file,
)
from hookline.runs.disk.formats import NOT_JSON, Moment, check_format, format_of

FORMAT, FORMAT_IN_PARTS = 1, 2
"""Version of the format of a checkpoint, and of one with parts of tensors."""

CHECKPOINTS = "checkpoints"
"""Name of the folder of a run's checkpoints."""

_MANIFEST, _MANIFEST_SUM = "manifest.json", "manifest.sha256"
_MODEL, _TENSORS, _TREE = "model.safetensors", "state.safetensors", "state.json"
_FILES = (_MODEL, _TENSORS, _TREE)
SHARDS = "shards.json"
_SHARD = re.compile(r"shard-\d{5,}-of-\d{5,}\.safetensors")
_MAX_MANIFEST_BYTES = 2**24
_MODEL_PREFIX = "model/"
_NAME = re.compile(r"step-(\d{12,})-epochs-(\d+)")
_UNFINISHED = re.compile(r"\.tmp-step-\d{12,}-epochs-\d+-[0-9a-f]{8}")
_DAMAGED = "damaged-"
_RESTORE = "use another checkpoint of the run, or restore the file from a backup"
_NO_DAMAGE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)
"""Errors that do not mean that the data on the disk are damaged."""


class FileSum(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Expected size and checksum of a file.

    Attributes:
        size: Size in bytes.
        sha256: SHA-256, in hexadecimal digits.
    """

    size: int
    sha256: str

    @classmethod
    def of(cls, *pieces: bytes | memoryview) -> FileSum:
        """Return the size and checksum of a file with these contents, one piece after the other."""
        digest = hashlib.sha256()
        for data in pieces:
            digest.update(data)
        return cls(sum(map(len, pieces)), digest.hexdigest())


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Description of a checkpoint: run, step, metrics, and the checksums of its files.

    Attributes:
        run: ID of the run, the same for all of its checkpoints.
        step: Number of steps taken.
        epoch: Current epoch, from 1; 0 before the first.
        position: Number of batches of that epoch already used; 0 between two epochs.
        time: When it was saved, in UTC.
        metrics: Metrics of the last evaluation.
        identity: Fingerprint of the run at that time.
        files: Size and checksum of each file.
        format: Version of the format.
    """

    run: str
    step: int
    epoch: int
    position: int
    time: Moment
    metrics: dict[str, float | None]
    identity: dict[str, Any]
    files: dict[str, FileSum]
    format: int = FORMAT

    @property
    def num_epochs(self) -> int:
        """Number of epochs completed."""
        return self.epoch - bool(self.position)

    @property
    def name(self) -> str:
        """Name of its folder: the number of steps taken and of epochs completed."""
        return f"step-{self.step:012d}-epochs-{self.num_epochs}"

    def as_files(self) -> dict[str, bytes]:
        """Return the files of the manifest: it, and its checksum."""
        text = msgspec.json.encode(self)
        return {_MANIFEST: text, _MANIFEST_SUM: f"{_sha256(text)}  {_MANIFEST}\n".encode()}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified.

    Attributes:
        path: Its folder.
        manifest: Its description.
        state: The state, for ``Run.load_state_dict``.
    """

    path: Path
    manifest: Manifest
    state: dict[str, Any]


def write_checkpoint(
    folder: Path,
    state: Mapping[str, Any],
    *,
    run: str,
    metrics: Mapping[str, float] | None = None,
    identity: Mapping[str, Any] | None = None,
) -> Path:
    """Save a state in a new folder within ``folder``, and return its path once all of it is on the disk.

    Args:
        folder: The folder of the run's checkpoints.
        state: The state, from ``Run.state_dict``.
        run: ID of the run.
        metrics: The metrics by which checkpoints are compared.
        identity: Fingerprint of the run, from ``identity_of``.

    Raises:
        CheckpointError: When the state contains something that cannot be saved.
        OSError: When it cannot be written; then ``folder`` is unchanged.
    """
    files = encoded(state)
    sums = {name: FileSum.of(data) for name, data in files.items()}
    manifest = manifest_of(state, sums, run=run, metrics=metrics, identity=identity)
    target = folder / manifest.name
    new = beside(target)
    with opened_folder(folder) as at:
        make_folder(new, at)
        try:
            with opened_folder(new, at) as inside:
                for name, data in (files | manifest.as_files()).items():
                    write_file(new / name, data, inside)
                flush_folder(new, inside)
            move_folder(new, target, at)
        except BaseException:
            with contextlib.suppress(OSError):
                remove_folder(new, at)
            raise
    return target


def manifest_of(
    state: Mapping[str, Any],
    files: Mapping[str, FileSum],
    *,
    run: str,
    metrics: Mapping[str, float] | None,
    identity: Mapping[str, Any] | None,
) -> Manifest:
    """Return the manifest of a checkpoint of a state, with the sums of its files."""
    return Manifest(
        run=run,
        step=state["step"],
        epoch=state["epoch"],
        position=state["position"],
        time=datetime.now(UTC),
        metrics=dict(metrics or {}),
        identity=dict(identity or {}),
        files=dict(files),
        format=FORMAT_IN_PARTS if SHARDS in files else FORMAT,
    )


def read_manifest(path: Path, at: int | None = None) -> Manifest:
    """Return the manifest of a checkpoint, without reading its tensors.

    Args:
        path: Its folder.
        at: Descriptor of its folder; None to find it by its path.

    Raises:
        CheckpointError: When the manifest cannot be read, or is damaged.
    """
    if at is None and path.is_symlink():
        raise CheckpointError(f"{path} is a link, not a checkpoint")
    text = _read(path / _MANIFEST, _MAX_MANIFEST_BYTES, at)
    if _read(path / _MANIFEST_SUM, 100, at) != f"{_sha256(text)}  {_MANIFEST}\n".encode():
        raise CheckpointError(f"{path} is damaged: {_MANIFEST} does not match {_MANIFEST_SUM}")
    try:
        if (number := format_of(text)) != FORMAT_IN_PARTS:
            check_format(number, FORMAT, str(path), UnreadableError)
        manifest = msgspec.json.decode(text, type=Manifest)
    except NOT_JSON as error:
        raise CheckpointError(f"{path} is not a checkpoint: {_MANIFEST}: {error}") from error
    if manifest.files.keys() != (wanted := _wanted_files(manifest)):
        raise CheckpointError(f"{path} is not a checkpoint: {_MANIFEST} does not list exactly {', '.join(wanted)}")
    if _NAME.fullmatch(path.name) and path.name != manifest.name:
        raise CheckpointError(f"{path} was renamed: it is {manifest.name}")
    return manifest


def read_checkpoint(path: str | os.PathLike[str], *, run: str | None = None, is_whole: bool = True) -> Checkpoint:
    """Return a checkpoint. Every byte is verified before anything is decoded.

    Args:
        path: Its folder.
        run: ID of the run that it must belong to; None for any.
        is_whole: Whether to read the parts of tensors that several ranks wrote. Otherwise they are neither read nor
            verified: the state has a ``StoredTensor`` for each tensor, and ``Ranks.sharded`` reads what a rank needs.

    Raises:
        CheckpointError: When it cannot be read, is damaged, or belongs to a different run.
    """
    path = Path(path)
    manifest = read_manifest(path)
    if run not in (None, manifest.run):
        raise _ForeignError(f"{path} belongs to a different run")
    files = {name: read_summed(path / name, manifest.files[name]) for name in manifest.files if not is_shard(name)}
    if is_whole:
        check_files(path, {name: wanted for name, wanted in manifest.files.items() if is_shard(name)})
    try:
        state = _decoded(path, manifest, files, is_whole=is_whole)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be read: {error.message}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} cannot be read: {_TREE} is not an object")
    return Checkpoint(path, manifest, state)


def check_checkpoint(path: Path) -> Manifest:
    """Verify every byte of a checkpoint against its checksums, and return its manifest.

    Raises:
        CheckpointError: When it cannot be read, or is damaged.
    """
    manifest = read_manifest(path)
    check_files(path, manifest.files)
    return manifest


def check_files(path: Path, files: Mapping[str, FileSum]) -> None:
    """Verify files of a checkpoint without having one of them in memory as a whole.

    Raises:
        CheckpointError: When one cannot be read, or is damaged.
    """
    for name, wanted in files.items():
        try:
            size, sha256 = file_sum(path / name)
        except OSError as error:
            raise _unread(path / name, error) from error
        if FileSum(size, sha256) != wanted:
            raise _damaged(path / name)


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the folders of checkpoints, the newest step first, without verifying them.

    Raises:
        CheckpointError: When the folder cannot be read.
    """
    try:
        found = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UnreadableError(f"{folder} cannot be read: {reason(error)}") from error
    places = {path: (int(match[1]), int(match[2])) for path in found if (match := _NAME.fullmatch(path.name))}
    return sorted(places, key=places.__getitem__, reverse=True)


def newest_valid(
    folder: Path,
    report: Callable[[Path, CheckpointError], None],
    *,
    run: str | None = None,
    read: Callable[..., Checkpoint] = read_checkpoint,
) -> Checkpoint | None:
    """Return the newest valid checkpoint; None if there is none. No checkpoint is changed.

    Args:
        folder: The folder of the run's checkpoints.
        report: Called with the path and the error of each newer checkpoint.
        run: ID of the run; a checkpoint of a different run is not valid.
        read: Reads and verifies one, as ``read_checkpoint``.
    """
    for path in checkpoints_in(folder):
        try:
            return read(path, run=run)
        except CheckpointError as error:
            report(path, error)
    return None


def newest_checkpoint(
    folder: Path,
    report: Callable[[CheckpointError], None],
    *,
    run: str | None = None,
    read: Callable[..., Checkpoint] = read_checkpoint,
) -> Checkpoint | None:
    """Return the newest valid checkpoint, as ``newest_valid`` does; None if the folder has no checkpoints.

    Damaged ones are set aside, under a name that begins with ``damaged-``; those of a different run are left alone.

    Args:
        folder: The folder of the run's checkpoints; the caller holds the lock of the run.
        report: Called with the error of each newer checkpoint.
        run: ID of the run.
        read: Reads and verifies one, as ``read_checkpoint``.

    Raises:
        CheckpointError: When there are checkpoints, but none is valid; or when one that may be valid cannot be read.
    """

    def pass_over(path: Path, error: CheckpointError) -> None:
        if isinstance(error, UnreadableError):
            raise error
        report(error)
        if not isinstance(error, _ForeignError):
            set_aside(path)

    if checkpoint := newest_valid(folder, pass_over, run=run, read=read):
        return checkpoint
    damaged, foreign = list(folder.glob(f"{_DAMAGED}*")), checkpoints_in(folder)
    if not (damaged or foreign):
        return None
    hint = f"start over: hookline train {folder.parent / 'config.toml'}"
    others = f", {len(foreign)} of different runs" if foreign else ""
    raise CheckpointError(f"no checkpoint in {folder} is valid: {len(damaged)} damaged{others}", hint=hint)


def run_of(folder: Path, recorded: str) -> str:
    """Return the ID of the run to which the checkpoints in a folder belong.

    It is ``recorded``, the ID in the record of the run, unless all checkpoints agree on another one: then a damaged
    record is more likely than that each of them is foreign.

    Raises:
        CheckpointError: When the folder cannot be read.
    """
    found = {manifest.run for manifest in manifests_in(folder)}
    return found.pop() if len(found) == 1 else recorded


def manifests_in(folder: Path) -> Iterator[Manifest]:
    """Yield the readable manifests in a folder of checkpoints, the newest step first."""
    for path in checkpoints_in(folder):
        with contextlib.suppress(CheckpointError):
            yield read_manifest(path)


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint so that it is preserved but never read again; if that fails, leave it."""
    aside = path.with_name(f"{_DAMAGED}{path.name}-{secrets.token_hex(4)}")
    try:
        move_folder(path, aside)
    except OSError:
        return


def prune(folder: Path, *, run: str, keep: int, best: Callable[[Manifest], float | None], keep_best: int) -> None:
    """Remove checkpoints of a run, except the newest and the best.

    Checkpoints that this run did not write, or that contain other files, are left alone.

    Args:
        folder: The folder of the checkpoints.
        run: ID of the run.
        keep: Number of the newest to keep, at least 1.
        best: Returns the value by which a checkpoint is ranked, smaller is better; None to leave it out.
        keep_best: Number of the best to keep.

    Raises:
        OSError: When one cannot be removed.
    """
    keep = max(keep, 1)
    if len(checkpoints_in(folder)) <= keep:
        return  # without reading any manifest: this runs after every save
    with opened_folder(folder) as at:
        own = dict(_own(folder, at, run))
        ranked = sorted((value, path) for path, manifest in own.items() if (value := best(manifest)) is not None)
        kept = {*list(own)[:keep], *(path for _, path in ranked[:keep_best])}
        for path in own:
            if path not in kept:
                remove_folder(path, at)


def remove_unfinished(folder: Path) -> None:
    """Remove unfinished checkpoints, left by killed programs; the caller holds the lock of the run.

    Raises:
        OSError: When one cannot be removed.
    """
    with opened_folder(folder) as at:
        for entry in list(os.scandir(folder if at is None else at)):
            if _UNFINISHED.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                remove_folder(folder / entry.name, at)


def foreign_in(folder: Path, at: int | None) -> Iterator[Path]:
    """Yield everything in a folder of checkpoints that no save put there; links count, and are not followed."""
    for entry in sorted(os.scandir(folder if at is None else at), key=lambda entry: entry.name):
        path, name = folder / entry.name, entry.name.removeprefix(_DAMAGED)
        is_ours = _UNFINISHED.fullmatch(name) or _NAME.match(name)
        if not (is_ours and entry.is_dir(follow_symlinks=False)):
            yield path
            continue
        with opened_folder(path, at) as inside, os.scandir(path if inside is None else inside) as held:
            yield from (path / file.name for file in held if not _is_own_file(file))


def _is_own_file(entry: os.DirEntry[str]) -> bool:
    is_ours = entry.name in (*_FILES, SHARDS, _MANIFEST, _MANIFEST_SUM) or is_shard(entry.name)
    return is_ours and entry.is_file(follow_symlinks=False)


def shard_name(rank: int, world_size: int) -> str:
    """Return the name of the file with the parts of a rank.

    >>> shard_name(0, 2)
    'shard-00001-of-00002.safetensors'
    """
    return f"shard-{rank + 1:05}-of-{world_size:05}.safetensors"


def is_shard(name: str) -> bool:
    """Return whether a file has the name of one with the parts of a rank."""
    return _SHARD.fullmatch(name) is not None


def _wanted_files(manifest: Manifest) -> set[str]:
    if manifest.format == FORMAT:
        return {*_FILES}
    world_size = max(sum(map(is_shard, manifest.files)), 1)
    return {*_FILES, SHARDS, *(shard_name(rank, world_size) for rank in range(world_size))}


def read_summed(path: Path, wanted: FileSum) -> bytes:
    """Return the contents of a file, verified against its size and checksum.

    Raises:
        CheckpointError: When it cannot be read, or is damaged.
    """
    data = _read(path, wanted.size)
    if FileSum.of(data) != wanted:
        raise _damaged(path)
    return data


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path.parent} is damaged: {path.name} does not match its checksum", hint=_RESTORE)


class UnreadableError(CheckpointError):
    """A checkpoint cannot be read here and now, but may be valid."""


class _ForeignError(CheckpointError):
    """A checkpoint belongs to a different run, and may be valid there."""


def encoded(state: Mapping[str, Any], shared_out: dict[str, Any] | None = None) -> dict[str, bytes]:
    """Return the files of a state, without its manifest.

    Args:
        state: The state.
        shared_out: As for ``encode``: gets the tensors that are in none of the files.

    Raises:
        CheckpointError: When it contains something that cannot be saved.
    """
    from hookline.runs.disk.encoding import encode, to_json, to_safetensors

    tree, tensors = encode(dict(state), shared_out=shared_out)
    weights = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_MODEL_PREFIX)}
    return {
        _MODEL: to_safetensors({name.removeprefix(_MODEL_PREFIX): tensor for name, tensor in weights.items()}),
        _TENSORS: to_safetensors(tensors),
        _TREE: to_json(tree),
    }


def _decoded(path: Path, manifest: Manifest, files: Mapping[str, bytes], *, is_whole: bool) -> Any:
    from hookline.runs.disk.encoding import decode, from_json, from_safetensors

    tensors: dict[str, Any] = from_safetensors(files[_TENSORS])
    weights = from_safetensors(files[_MODEL])
    tensors |= {f"{_MODEL_PREFIX}{name}": tensor for name, tensor in weights.items()}
    if SHARDS not in files:
        return decode(from_json(files[_TREE]), tensors)
    from hookline.runs.disk.shards import ShardFile, read_whole, stored_tensors

    tensors |= stored_tensors(
        files[SHARDS], {name: ShardFile(path / name) for name in manifest.files if is_shard(name)}
    )
    state = decode(from_json(files[_TREE]), tensors)
    return read_whole(state) if is_whole else state


def _own(folder: Path, at: int | None, run: str) -> Iterator[tuple[Path, Manifest]]:
    """Yield the checkpoints of a run that contain only their own files, the newest first."""
    for path in checkpoints_in(folder):
        # One that is lost or replaced meanwhile is not for us to remove.
        with contextlib.suppress(CheckpointError, OSError), opened_folder(path, at) as inside:
            manifest = read_manifest(path, inside)
            if manifest.run == run and all(map(_is_own_file, list(os.scandir(path if inside is None else inside)))):
                yield path, manifest


def _read(path: Path, max_bytes: int, at: int | None = None) -> bytes:
    try:
        return read_file(path, max_bytes, at)
    except OSError as error:
        raise _unread(path, error) from error


def _unread(path: Path, error: OSError) -> CheckpointError:
    if error.errno in _NO_DAMAGE:
        return UnreadableError(f"{path} cannot be read: {reason(error)}")
    return CheckpointError(f"{path.parent} is damaged: {path.name}: {reason(error)}", hint=_RESTORE)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
