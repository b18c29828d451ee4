"""Checkpoints that all ranks write and verify together, each its own part of the tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from hookline.config.files import reason
from hookline.engine.errors import CheckpointError
from hookline.engine.ranks import Ranks
from hookline.runs.disk.checkpoint import (
    SHARDS,
    Checkpoint,
    FileSum,
    Manifest,
    UnreadableError,
    check_files,
    encoded,
    is_shard,
    read_checkpoint,
    read_manifest,
    shard_name,
)
from hookline.runs.disk.durable_files import (
    beside,
    check_written,
    flush_folder,
    make_folder,
    move_folder,
    opened_folder,
    remove_folder,
    write_file,
    write_pieces,
)

T = TypeVar("T")
_SEEN_BY_ALL = "put the folder of the runs on a file system that all ranks see"


class Save:
    """A checkpoint on its way to the disk: ``write`` it, perhaps in a thread, then ``complete`` it.

    Attributes:
        is_together: Whether all ranks take part: then all complete it, at the same place of the run.
    """

    is_together = False

    def write(self) -> None:
        """Write the files of this rank, flush them to the disk, and read them again.

        Raises:
            CheckpointError: When they cannot be written, unless others take part, who learn of it in ``complete``.
        """
        raise NotImplementedError

    def complete(self) -> Path:
        """Give the checkpoint its name, and return its folder.

        Raises:
            CheckpointError: When there is no checkpoint because it could not be written.
        """
        raise NotImplementedError

    def abandon(self) -> None:
        """Remove what was written of a checkpoint that is not complete."""


class SaveTogether(Save):
    """A checkpoint on its way to the disk, of a state of which each rank has a part of some tensors.

    All ranks make it and complete it. In between each writes its files without a word to the others.

    Args:
        ranks: The ranks.
        state: The state of this rank, from ``Run.state_dict``.
        describe: On rank 0, returns the folder of the checkpoints, the state to write, and a function from the sums of
            the files to the manifest.

    Raises:
        CheckpointError: On all ranks, when the state of one contains something that cannot be saved.
    """

    is_together = True

    def __init__(
        self,
        ranks: Ranks,
        state: Mapping[str, Any],
        describe: Callable[[], tuple[Path, Mapping[str, Any], Callable[[Mapping[str, FileSum]], Manifest]]],
    ) -> None:
        self._ranks, self._tensors = ranks, dict[str, Any]()
        self._files: dict[str, bytes] = {}
        self._sums: dict[str, FileSum] = {}
        self._fault: CheckpointError | None = None
        self._new = Path()

        def prepared() -> Any:
            from hookline.runs.disk.shards import box_of

            if ranks.is_zero:
                folder, clean, self._manifest = describe()
                self._files = encoded(clean, self._tensors)
                self._target = folder / self._manifest({}).name
                self._new = beside(self._target)
                make_folder(self._new)
            else:
                encoded(state, self._tensors)
            return str(self._new), {name: box_of(tensor) for name, tensor in self._tensors.items()}

        try:
            answers = together(ranks, prepared)
            self._new = Path(answers[0][0])
            self._name = shard_name(ranks.rank, ranks.world_size)
            self._shards = self._agreed_shards([boxes for _, boxes in answers])
        except BaseException:
            self.abandon()
            raise

    def _agreed_shards(self, of_ranks: list[Any]) -> Any:
        from hookline.runs.disk.encoding import to_json
        from hookline.runs.disk.shards import shards_of

        names = [shard_name(rank, len(of_ranks)) for rank in range(len(of_ranks))]
        if any(boxes.keys() != of_ranks[0].keys() for boxes in of_ranks):
            raise CheckpointError("the ranks have different tensors that are shared out: a state has the same on each")
        shards = shards_of(self._tensors, dict(zip(names, of_ranks, strict=True)))
        if self._ranks.is_zero:
            self._files[SHARDS] = to_json(shards)
        return shards

    def write(self) -> None:
        """Write the parts of this rank, and on rank 0 everything else."""
        try:
            files: dict[str, list[bytes | memoryview]] = {name: [data] for name, data in self._files.items()}
            files[self._name] = self._own_parts()
            with ThreadPoolExecutor(1) as pool:
                writing = pool.submit(self._write, files)
                # Meanwhile: the disk takes as long as the sums.
                self._sums = {name: FileSum.of(*pieces) for name, pieces in files.items()}
                writing.result()
            for name, pieces in files.items():
                check_written(self._new / name, pieces)
        except OSError as error:
            hint = _SEEN_BY_ALL if not self._new.exists() else "free some space, or fix the reason given above"
            self._fault = CheckpointError(f"{self._new / self._name} cannot be written: {reason(error)}", hint=hint)
        except CheckpointError as error:
            self._fault = error

    def _write(self, files: Mapping[str, Sequence[bytes | memoryview]]) -> None:
        with opened_folder(self._new) as inside:
            for name, pieces in files.items():
                write_pieces(self._new / name, pieces, inside)
            flush_folder(self._new, inside)

    def _own_parts(self) -> list[bytes | memoryview]:
        from hookline.runs.disk.encoding import safetensors_in_pieces

        own = {
            name: self._tensors[name].to_local()
            for name, one in self._shards.tensors.items()
            if any(part.file == self._name for part in one.parts)
        }
        return safetensors_in_pieces({name: tensor.detach().cpu() for name, tensor in own.items()})

    def complete(self) -> Path:
        """Agree with the other ranks that all is written; rank 0 then writes the manifest and renames the folder.

        Raises:
            CheckpointError: On all ranks, when one could not write.
        """

        def written() -> dict[str, Any]:
            if self._fault:
                raise self._fault
            return {name: [one.size, one.sha256] for name, one in self._sums.items()}

        try:
            sums = together(self._ranks, written)
            published = together(self._ranks, lambda: self._publish(sums) if self._ranks.is_zero else "")
        except BaseException:
            self.abandon()
            raise
        return Path(published[0])

    def _publish(self, sums: list[dict[str, Any]]) -> str:
        manifest = self._manifest({name: FileSum(*one) for of_rank in sums for name, one in of_rank.items()})
        with opened_folder(self._target.parent) as at, opened_folder(self._new, at) as inside:
            for name, data in manifest.as_files().items():
                write_file(self._new / name, data, inside)
            flush_folder(self._new, inside)
            read_manifest(self._new)
            move_folder(self._new, self._target, at)
        return str(self._target)

    def abandon(self) -> None:
        """Remove what is there: on rank 0 alone, which has made the folder."""
        if self._ranks.is_zero and self._new.name:
            with contextlib.suppress(OSError):
                remove_folder(self._new)


class ReadTogether:
    """Checkpoints that all ranks verify together, each some of the files; rank 0 says which.

    Args:
        ranks: The ranks, which see the same files.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def led(self, task: Callable[[], T]) -> T | None:
        """Call a task on rank 0, which may ``read``, while the others help; return its result, elsewhere None."""
        if self._ranks.is_zero:
            result = task()
            self._ranks.gather("")
            return result
        while path := self._ranks.gather("")[0]:
            with contextlib.suppress(CheckpointError):
                self._check(Path(path))
        return None

    def read(self, path: Path, *, run: str | None = None) -> Checkpoint:
        """Return a checkpoint as ``read_checkpoint``, with its tensors in parts unread, if there are others to help.

        Raises:
            CheckpointError: As ``read_checkpoint``.
        """
        if self._ranks.world_size == 1:
            return read_checkpoint(path, run=run)
        checkpoint = read_checkpoint(path, run=run, is_whole=False)
        if SHARDS in checkpoint.manifest.files:
            self._ranks.gather(str(path))
            self._check(path)
        return checkpoint

    def _check(self, path: Path) -> None:
        def own() -> None:
            if not path.is_dir():  # rank 0 has read its manifest
                raise UnreadableError(f"{path} is not there", hint=_SEEN_BY_ALL)
            names = sorted(filter(is_shard, files := read_manifest(path).files))
            check_files(path, {name: files[name] for name in names[self._ranks.rank :: self._ranks.world_size]})

        together(self._ranks, own)


def together(ranks: Ranks, task: Callable[[], Any]) -> list[Any]:
    """Call a task on each rank, and return the results of all, which are plain values.

    Raises:
        CheckpointError: On all ranks, when the task fails on one: with what each says that failed.
    """
    result, told = None, ["", "", True]
    try:
        result = task()
    except CheckpointError as error:
        told = [error.message, error.hint or "", not isinstance(error, UnreadableError)]
    except OSError as error:
        told = [f"{error.filename}: {reason(error)}", "", True]
    answers = ranks.gather([*told, result])
    failed = [(rank, *answer[:3]) for rank, answer in enumerate(answers) if answer[0]]
    if failed:
        first = {fault: rank for rank, fault, *_ in reversed(failed)}
        text = "; ".join(f"rank {rank}: {fault}" for fault, rank in reversed(first.items()))
        is_damaged = any(is_damage for *_, is_damage in failed)
        raise (CheckpointError if is_damaged else UnreadableError)(text, hint=failed[0][2] or None)
    return [answer[3] for answer in answers]
