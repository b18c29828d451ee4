"""Loss of power: every state that a disk may be in after each operation of a save, built and read.

Unflushed changes may or may not have reached the disk, in any order: the data of a file until its fsync, a name until
the fsync of its folder. The method is that of Pillai et al., *All File Systems Are Not Created Equal* (OSDI 2014),
section 3.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hookline import CheckpointError, ConfigError, HooklineError, load_config
from hookline.runs import RunFolder
from hookline.runs.disk.checkpoint import newest_checkpoint, prune, remove_unfinished, write_checkpoint
from hookline.runs.disk.durable_files import AppendedFile
from reliability import job
from reliability.layer import under_files

_RUN = "r"
_OUTSIDE = -1
"""Number of a file outside the recorded folder."""


@dataclass(frozen=True)
class _Operation:
    """A change of a file system: to the names in a folder, or to the data of a file, each identified by a number."""

    kind: str
    inode: int
    name: str = ""
    other: Any = None


@dataclass
class _Recorder:
    """A stand-in for the module ``os`` that records all changes within a folder."""

    root: Path
    operations: list[_Operation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers: Iterator[int] = itertools.count(1)
        self._inodes = {self.root: 0}
        self._open: dict[int, int] = {}
        for path in sorted(self.root.rglob("*")):
            self._inodes[path] = next(self._numbers)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _note(self, kind: str, path: Path, other: Any = None) -> None:
        self.operations.append(_Operation(kind, self._inodes[path.parent], path.name, other))

    def _made(self, kind: str, path: Path, other: Any = None) -> None:
        self._inodes[path] = next(self._numbers)
        self._note(kind, path, (self._inodes[path], other))

    def _path(self, name: Path | str, at: int | None) -> Path:
        """Return the path of a name, which may be relative to the folder of a descriptor."""
        if at is None:
            return Path(name)
        return next(path for path, number in self._inodes.items() if number == self._open[at]) / name

    def mkdir(self, path: Path | str, *, dir_fd: int | None = None) -> None:
        path = self._path(path, dir_fd)
        path.mkdir()
        self._made("mkdir", path)

    def open(self, path: Path | str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        descriptor = os.open(path, flags, mode, dir_fd=dir_fd)
        path = self._path(path, dir_fd)
        if flags & os.O_CREAT and path not in self._inodes:
            self._made("create", path)
        self._open[descriptor] = self._inodes.get(path, _OUTSIDE)
        return descriptor

    def write(self, descriptor: int, data: Any) -> int:
        offset = os.lseek(descriptor, 0, os.SEEK_CUR)
        written = os.write(descriptor, data)
        self.operations.append(_Operation("data", self._open[descriptor], other=(offset, bytes(data[:written]))))
        return written

    def ftruncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)
        self.operations.append(_Operation("data", self._open[descriptor], other=(size, None)))

    def symlink(self, target: str, path: Path) -> None:
        path.symlink_to(target)
        self._made("symlink", path, target)

    def replace(self, source: Path, target: Path, **folders: int | None) -> None:
        self.rename(source, target, **folders)

    def fsync(self, descriptor: int) -> None:
        self.operations.append(_Operation("fsync", self._open[descriptor]))

    def rename(
        self, source: Path, target: Path, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        source, target = self._path(source, src_dir_fd), self._path(target, dst_dir_fd)
        source.replace(target)
        self._note("rename", source, target.name)
        self._inodes.pop(target, None)
        for path in [found for found in self._inodes if found == source or source in found.parents]:
            self._inodes[target / path.relative_to(source)] = self._inodes.pop(path)

    def unlink(self, path: Path | str, *, dir_fd: int | None = None) -> None:
        path = self._path(path, dir_fd)
        path.unlink()
        self._note("unlink", path)
        del self._inodes[path]

    def rmdir(self, path: Path | str, *, dir_fd: int | None = None) -> None:
        path = self._path(path, dir_fd)
        path.rmdir()
        self._note("unlink", path)
        del self._inodes[path]


def _is_durable(operations: Sequence[_Operation]) -> list[bool]:
    """Return for each operation whether a later one flushes its change."""
    flushed: set[int] = set()
    durable = []
    for operation in reversed(operations):
        if operation.kind == "fsync":
            flushed.add(operation.inode)
        durable.append(operation.inode in flushed)
    return durable[::-1]


def _states(operations: Sequence[_Operation]) -> Iterator[list[_Operation]]:
    """Yield possible states of the disk: all flushed operations, and none, all, one, or all but one of the others."""
    durable = _is_durable(operations)
    pending = [number for number, is_durable in enumerate(durable) if not is_durable]
    data = {number for number in pending if operations[number].kind == "data"}
    choices: list[set[int]] = [set(), set(pending), set(pending) - data]
    choices += [{number} for number in pending] + [set(pending) - {number} for number in pending]
    for choice in {frozenset(choice) for choice in choices}:
        yield [operation for number, operation in enumerate(operations) if durable[number] or number in choice]


def _build(root: Path, before: Path, operations: Sequence[_Operation]) -> None:
    """Build the folder on a disk that holds these operations."""
    shutil.rmtree(root, ignore_errors=True)
    folders: dict[int, dict[str, int]] = {0: {}}
    data: dict[int, bytes | str] = {}
    there = {before: 0} | {path: number for number, path in enumerate(sorted(before.rglob("*")), 1)}
    for path, number in list(there.items())[1:]:
        folders[there[path.parent]][path.name] = number
        if path.is_dir():
            folders[number] = {}
        else:
            data[number] = path.read_bytes()
    for operation in operations:
        _apply(operation, folders, data)
    _write(root, 0, folders, data)


def _apply(operation: _Operation, folders: dict[int, dict[str, int]], data: dict[int, bytes | str]) -> None:
    if operation.kind == "data":
        offset, written = operation.other
        there = data.get(operation.inode, b"")
        assert isinstance(there, bytes)
        start = there[:offset].ljust(offset, b"\0")
        data[operation.inode] = start if written is None else start + written + there[offset + len(written) :]
        return
    names = folders.setdefault(operation.inode, {})
    if operation.kind in ("mkdir", "create", "symlink"):
        number, target = operation.other
        names[operation.name] = number
        if operation.kind == "mkdir":
            folders.setdefault(number, {})
        else:
            data.setdefault(number, target or b"")
    elif operation.kind == "unlink":
        names.pop(operation.name, None)
    elif operation.kind == "rename" and operation.name in names:
        names[operation.other] = names.pop(operation.name)


def _write(path: Path, inode: int, folders: dict[int, dict[str, int]], data: dict[int, bytes | str]) -> None:
    path.mkdir()
    for name, number in folders[inode].items():
        content = data.get(number)
        if isinstance(content, str):
            (path / name).symlink_to(content)
        elif content is not None:
            (path / name).write_bytes(content)
        else:
            folders.setdefault(number, {})
            _write(path / name, number, folders, data)


def _state(step: int) -> dict[str, Any]:
    return {"step": step, "epoch": 1, "position": 0, "model": {"weight": torch.full((4,), float(step))}, "lr": 0.1}


def losses_of_power(folder: Path) -> dict[str, Any]:
    """Save next to two checkpoints, remove the oldest, and read every state that a loss of power may leave."""
    shutil.rmtree(folder, ignore_errors=True)
    work, before = folder / "work", folder / "before"
    work.mkdir(parents=True)
    for step in (10, 20):
        write_checkpoint(work, _state(step), run=_RUN)
    shutil.copytree(work, before)
    recorder = _Recorder(work)
    with under_files(recorder):
        write_checkpoint(work, _state(30), run=_RUN)
        saved_at = len(recorder.operations)
        prune(work, run=_RUN, keep=2, best=lambda _: None, keep_best=0)
    operations = recorder.operations
    num_states = 0
    lost: list[str] = []
    for length in range(len(operations) + 1):
        for held in _states(operations[:length]):
            num_states += 1
            _build(folder / "disk", before, held)
            found = _read(folder / "disk")
            if found not in ((30,) if length >= saved_at else (20, 30)):
                lost.append(f"after {length} of {len(operations)} operations: {found}")
    return {"points": len(operations) + 1, "states": num_states, "lost": lost}


def _read(folder: Path) -> int | str:
    remove_unfinished(folder)
    try:
        found = newest_checkpoint(folder, lambda _: None, run=_RUN)
    except CheckpointError as error:
        return error.message
    if found is None or not bool((found.state["model"]["weight"] == found.manifest.step).all()):
        return "none, or mixes several steps"
    return found.manifest.step


def losses_of_a_run(folder: Path, *, every: int) -> dict[str, Any]:
    """Train, and open the run in states that a loss of power may leave after every so many operations."""
    shutil.rmtree(folder, ignore_errors=True)
    work, before = folder / "work", folder / "before"
    work.mkdir(parents=True)
    before.mkdir()
    recorder = _Recorder(work)
    with under_files(recorder):
        job.begin(work / "deep" / "runs", 1)
    operations, settings = recorder.operations, load_config(job.config(Path(), 1)).settings.keys()
    saves = dict(_saves(operations))
    num_states = num_resumed = 0
    lost: list[str] = []
    lengths = range(0, len(operations) + 1, every)
    for length in lengths:
        saved = max((step for at, step in saves.items() if at <= length), default=0)
        for held in _states(operations[:length]):
            num_states += 1
            _build(folder / "disk", before, held)
            found = _opened(folder / "disk" / "deep" / "runs", settings)
            if isinstance(found, str) or found < saved:
                lost.append(f"after {length} of {len(operations)} operations: step {saved} was saved; {found}")
            num_resumed += saved > 0
    return {"points": len(lengths), "states": num_states, "resumed": num_resumed, "lost": lost}


def _saves(operations: Sequence[_Operation]) -> Iterator[tuple[int, int]]:
    """Yield the step of each checkpoint, after the number of operations when its name is on the disk."""
    waiting: dict[int, int] = {}
    for number, operation in enumerate(operations, 1):
        if operation.kind == "rename" and str(operation.other).startswith("step-"):
            waiting[operation.inode] = int(operation.other.split("-")[1])
        elif operation.kind == "fsync" and operation.inode in waiting:
            yield number, waiting.pop(operation.inode)


def _opened(parent: Path, settings: Collection[str]) -> int | str:
    """Return the step from which the run in a folder resumes, 0 if it begins anew; or what is wrong with it."""
    found = sorted(parent.glob("0*-job"))
    if not found:
        return 0
    try:
        run = RunFolder.open(found[0])
    except ConfigError:
        return 0
    with contextlib.closing(run):
        errors: list[CheckpointError] = []
        try:
            checkpoint = run.newest_checkpoint(errors.append)
            config = load_config(run.config_path)
        except HooklineError as error:
            return 0 if "config.toml" in error.message and not list(run.checkpoints.iterdir()) else error.message
        if config.settings.keys() != settings:
            return f"the config has other settings: {sorted(config.settings.keys() ^ settings)}"
        return checkpoint.manifest.step if checkpoint else 0


def torn_lines(folder: Path) -> dict[str, Any]:
    """Cut off a file of lines after every byte, open it, and append to it: only complete lines, each once."""
    path = folder / "metrics.jsonl"
    whole = b"".join(b'{"epoch":%d,"loss":0.5}\n' % epoch for epoch in range(20))
    lost = []
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        lines = AppendedFile(path)
        lines.append("added")
        lines.close()
        if path.read_bytes() != whole[: whole[:size].rfind(b"\n") + 1] + b"added\n":
            lost.append(f"cut after {size} bytes")
    return {"points": len(whole) + 1, "lost": lost}
