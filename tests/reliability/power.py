"""Loss of power: every state that a disk may be in after each operation of a save, built and read.

Unflushed changes may or may not have reached the disk, in any order: the data of a file until its fsync, a name until
the fsync of its folder. The method is that of Pillai et al., *All File Systems Are Not Created Equal* (OSDI 2014),
section 3.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hookline.engine.errors import CheckpointError
from hookline.runs.disk.checkpoint import newest_checkpoint, prune, remove_unfinished, write_checkpoint
from hookline.runs.disk.durable_files import AppendedFile
from reliability.layer import under_files

_RUN = "r"


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

    def mkdir(self, path: Path) -> None:
        path.mkdir()
        self._inodes[path] = next(self._numbers)
        self._note("mkdir", path, self._inodes[path])

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = os.open(path, flags, mode)
        if flags & os.O_CREAT and path not in self._inodes:
            self._inodes[path] = next(self._numbers)
            self._note("create", path, self._inodes[path])
        self._open[descriptor] = self._inodes[path]
        return descriptor

    def write(self, descriptor: int, data: Any) -> int:
        written = os.write(descriptor, data)
        self.operations.append(_Operation("data", self._open[descriptor], other=bytes(data[:written])))
        return written

    def fsync(self, descriptor: int) -> None:
        self.operations.append(_Operation("fsync", self._open[descriptor]))

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)
        self._note("rename", source, target.name)
        for path in [found for found in self._inodes if found == source or source in found.parents]:
            self._inodes[target / path.relative_to(source)] = self._inodes.pop(path)

    def unlink(self, path: Path | str) -> None:
        Path(path).unlink()
        self._note("unlink", Path(path))
        del self._inodes[Path(path)]

    def rmdir(self, path: Path) -> None:
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
    data: dict[int, bytes] = {}
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


def _apply(operation: _Operation, folders: dict[int, dict[str, int]], data: dict[int, bytes]) -> None:
    if operation.kind == "data":
        data[operation.inode] = data.get(operation.inode, b"") + operation.other
        return
    names = folders.setdefault(operation.inode, {})
    if operation.kind == "mkdir":
        names[operation.name] = operation.other
        folders.setdefault(operation.other, {})
    elif operation.kind == "create":
        names[operation.name] = operation.other
        data.setdefault(operation.other, b"")
    elif operation.kind == "unlink":
        names.pop(operation.name, None)
    elif operation.kind == "rename" and operation.name in names:
        names[operation.other] = names.pop(operation.name)


def _write(path: Path, inode: int, folders: dict[int, dict[str, int]], data: dict[int, bytes]) -> None:
    path.mkdir()
    for name, number in folders[inode].items():
        if number in data:
            (path / name).write_bytes(data[number])
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
