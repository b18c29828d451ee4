"""The run folder: its name and number, its lock, its record, and where everything in it lies.

::

    runs/
        last -> 0007-csv-mlp           the newest
        0007-csv-mlp/                  number, data, model; or the name that was given
            run.json                   the record: status, times, versions, plugins, one entry for each attempt
            config.toml                the complete config; each line says where its value came from
            metrics.jsonl              the numbers of each evaluation and epoch, one JSON object a line
            log.txt                    what was shown, with warnings and tracebacks
            data.json                  what is kept of the data: sizes, names, how inputs are read
            model.safetensors          the weights when the run was over
            checkpoints/               the states to go on from
            debug/                     what is known of a failure
            artifacts/                 what plugins keep

One program at a time works in a run folder: it holds the lock of the file ``.lock``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hookline.engine.errors import CheckpointError, ConfigError
from hookline.engine.files import reason
from hookline.engine.view import RunView
from hookline.runs.disk.checkpoint import (
    Checkpoint,
    FileSum,
    Manifest,
    check_checkpoint,
    newest_checkpoint,
    prune,
    read_summed,
    remove_unfinished,
    set_aside,
    write_checkpoint,
)
from hookline.runs.disk.durable_files import TEMPORARY, AppendedFile, FileLock, make_folder, remove_file, replace_file
from hookline.runs.disk.occupancy import LOCK, hold, sign
from hookline.runs.names import check_name, next_number, point_to
from hookline.runs.record import RECORD, RunRecord, read_record

if TYPE_CHECKING:
    from torch import Tensor

    from hookline.engine.data import DataSource


_UNFINISHED = re.compile(rf"{re.escape(TEMPORARY)}[A-Za-z0-9._-]{{1,40}}-[0-9a-f]{{8}}")
_DEBUG = "debug"
CONFIG, METRICS, LOG, MODEL, DATA = "config.toml", "metrics.jsonl", "log.txt", "model.safetensors", "data.json"


_SHARED = "run folder"


def folder_of(run: RunView) -> RunFolder | None:
    """Return the folder in which the plugins of a run save files; None if there is none."""
    folder = run.shared.get(_SHARED)
    assert folder is None or isinstance(folder, RunFolder)
    return folder


def give_folder(run: RunView, folder: RunFolder) -> None:
    """Give a run the folder in which its plugins save files, before its first step."""
    run.shared[_SHARED] = folder


class RunFolder:
    """A run folder that this program works in; nobody else does until it is closed.

    Attributes:
        path: Where it is.
        record: What is known of the run.
    """

    def __init__(self, path: Path, record: RunRecord, lock: FileLock) -> None:
        self.path = path
        self.record = record
        self._lock = lock

    @classmethod
    def claim(cls, parent: Path, label: str) -> RunFolder:
        """Make a new run folder, with the next number and a name.

        Raises:
            ConfigError: When the label is no name, or the folder cannot be made.
        """
        check_name(label)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            return cls._claim(parent, label)
        except (OSError, CheckpointError) as error:
            why = reason(error) if isinstance(error, OSError) else error.message
            raise ConfigError(f"no run folder can be made in {parent}: {why}") from error

    @classmethod
    def _claim(cls, parent: Path, label: str) -> RunFolder:
        numbers = FileLock(parent / LOCK)
        try:
            numbers.take(wait=True)
            path = parent / f"{next_number(parent):04d}-{label}"
            make_folder(path)
            lock = FileLock(path / LOCK)
            # Nobody works in it, but somebody may look whether anybody does.
            lock.take(wait=True)
            sign(lock)
            folder = cls(path, RunRecord(), lock)
            folder.save(flush=False)
            point_to(path)
        finally:
            numbers.close()
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of a run that is to go on.

        Raises:
            RunBusyError: When another program works in it.
            ConfigError: When it is no run folder.
        """
        read_record(path)  # what is no run folder gets no lock
        lock = hold(path)
        try:
            return cls(path, read_record(path), lock)
        except BaseException:
            lock.close()
            raise

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints are; made when it is first asked for."""
        return self._made("checkpoints")

    @property
    def debug(self) -> Path:
        """Where that is what is known of a failure; made when it is first asked for."""
        return self._made(_DEBUG)

    @property
    def artifacts(self) -> Path:
        """Where plugins keep what they make, each under a name of its own; made when it is first asked for."""
        return self._made("artifacts")

    @property
    def config_path(self) -> Path:
        """The complete config."""
        return self.path / CONFIG

    def lines(self, name: str, size: int | None = None) -> AppendedFile:
        """Open a file of lines in it, such as ``metrics.jsonl``; ``size`` is that of ``AppendedFile``.

        Raises:
            CheckpointError: When it cannot be opened.
        """
        try:
            return AppendedFile(self.path / name, size)
        except OSError as error:
            raise _unwritten(self.path / name, error) from error

    def write(self, name: str, data: bytes, *, flush: bool = True) -> None:
        """Write a file in it, whole or not at all; with ``flush`` it survives the loss of power, too.

        Raises:
            CheckpointError: When it cannot be written; then the one before is there.
        """
        try:
            replace_file(self.path / name, data, flush=flush)
        except OSError as error:
            raise _unwritten(self.path / name, error) from error

    def write_model(self, weights: Mapping[str, Tensor]) -> None:
        """Write the weights of a model, ``model.safetensors``, and their sums into the record, which is not saved.

        Raises:
            CheckpointError: When they cannot be written.
        """
        from hookline.runs.disk.encoding import weights_to_safetensors

        data = weights_to_safetensors(weights)
        self.write(MODEL, data)
        self.record.model = FileSum.of(data)

    def write_data(self, data: DataSource) -> None:
        """Write what is kept of the data, ``data.json``, and its sums into the record, which is not saved.

        Raises:
            CheckpointError: When it cannot be written, or the data source wants what cannot be kept.
        """
        from hookline.runs.disk.data_file import to_kept

        kept = to_kept(data)
        self.write(DATA, kept)
        self.record.data = FileSum.of(kept)

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Check that a state is one that a checkpoint can keep.

        Raises:
            CheckpointError: When it is not; names everything that cannot be kept.
        """
        from hookline.runs.disk.encoding import encode

        encode(dict(state))

    def write_checkpoint(
        self, state: Mapping[str, Any], *, metrics: Mapping[str, float], identity: Mapping[str, Any]
    ) -> Path:
        """Keep a state, read it again from the disk and compare; return its folder.

        Args:
            state: What ``Run.state_dict`` gave.
            metrics: The numbers by which checkpoints are compared.
            identity: What the run is made of, ``run.identity``.

        Raises:
            CheckpointError: When it cannot be written, or something in it cannot be kept.
        """
        try:
            path = write_checkpoint(self.checkpoints, state, run=self.record.run, metrics=metrics, identity=identity)
        except OSError as error:
            raise _unwritten(self.path / "checkpoints", error) from error
        try:
            check_checkpoint(path)
        except CheckpointError:
            set_aside(path)
            raise
        return path

    def prune_checkpoints(self, keep: int, best: Callable[[Manifest], float | None], keep_best: int) -> None:
        """Remove its checkpoints, but for the newest and the best; the arguments are those of ``prune``.

        Raises:
            CheckpointError: When one cannot be removed.
        """
        try:
            # What an earlier removal left; nothing is being written now.
            remove_unfinished(self.checkpoints)
            prune(self.checkpoints, run=self.record.run, keep=keep, best=best, keep_best=keep_best)
        except OSError as error:
            raise CheckpointError(f"an old checkpoint cannot be removed: {error.filename}: {reason(error)}") from error

    def newest_checkpoint(self, told: Callable[[CheckpointError], None]) -> Checkpoint | None:
        """Return its newest good checkpoint; None if it has none.

        What killed programs left is removed, and what is damaged is kept aside.

        Args:
            told: Called with what is wrong with each that is newer.

        Raises:
            CheckpointError: When there are some, and none is good.
        """
        folder = self.checkpoints
        try:
            remove_unfinished(folder)
            _remove_unfinished_files(self.path)
        except OSError as error:
            told(CheckpointError(f"what was not finished cannot be removed: {error.filename}: {reason(error)}"))
        try:
            return newest_checkpoint(folder, told, run=self.record.run)
        except OSError as error:
            raise CheckpointError(f"{folder} cannot be read: {reason(error)}") from error

    def save(self, *, flush: bool = True) -> None:
        """Write the record; ``flush`` is that of ``write``.

        Raises:
            CheckpointError: When it cannot be written; then the one before is there.
        """
        self.write(RECORD, msgspec.json.format(msgspec.json.encode(self.record)) + b"\n", flush=flush)

    def close(self) -> None:
        """Let others work in it."""
        self._lock.close()

    def _made(self, name: str) -> Path:
        folder = self.path / name
        if folder.is_symlink():
            raise CheckpointError(f"{folder} is a link: a run keeps everything in its own folder")
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise _unwritten(folder, error) from error
        return folder


def read_model(path: Path) -> dict[str, Tensor]:
    """Return the weights that a finished run left in its folder.

    Raises:
        CheckpointError: When there are none, or they are damaged.
    """
    from hookline.runs.disk.encoding import from_safetensors

    wanted = read_record(path).model
    if wanted is None:
        raise CheckpointError(f"{path.name} has no weights: it did not come to its end", hint="hookline resume")
    return from_safetensors(read_summed(path / MODEL, wanted))


def read_data(path: Path) -> DataSource:
    """Return what is kept of the data of a run: its dataset is one example of zeros.

    Raises:
        CheckpointError: When there is nothing, or it is damaged.
    """
    from hookline.runs.disk.data_file import from_kept

    wanted = read_record(path).data
    if wanted is None:
        raise CheckpointError(f"{path.name} has kept nothing of its data", hint="train it again: hookline train")
    try:
        return from_kept(read_summed(path / DATA, wanted))
    except CheckpointError as error:
        raise CheckpointError(f"{path / DATA}: {error.message}", hint=error.hint) from error


def _remove_unfinished_files(path: Path) -> None:
    """Remove what killed programs left of files of a run; the program holds the run's lock."""
    for folder in (path, path / _DEBUG):
        if folder.is_symlink() or not folder.is_dir():
            continue
        for entry in list(os.scandir(folder)):
            if _UNFINISHED.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                remove_file(Path(entry.path))


def _unwritten(path: Path, error: OSError) -> CheckpointError:
    hint = "make room, or mend what keeps it from being written"
    return CheckpointError(f"{path} cannot be written: {reason(error)}", hint=hint)
