"""The run folder: its name and number, its lock, its record, and its files.

::

    runs/
        last -> 0007-csv-mlp           link to the newest run
        0007-csv-mlp/                  number, data, model; or number and the given name
            run.json                   the record: status, times, versions, plugins, one entry per attempt
            config.toml                the complete config, each value with its origin
            metrics.jsonl              metrics of each evaluation and epoch, one JSON object per line
            log.txt                    the output, with warnings and tracebacks
            notes.json                 the tags and the note that people gave the run
            data.json                  description of the data: sizes, names, how inputs are read
            model.safetensors          the final weights
            checkpoints/               saved states, to resume from
            debug/                     details of a failure
            artifacts/                 files of plugins

One program at a time works in a run folder: it holds a lock on the file ``.lock``. It never writes the notes.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from hookline.config.files import NO_LINKS, NO_WAITING, check_regular, reason
from hookline.engine.errors import CheckpointError, ConfigError
from hookline.engine.ranks import Ranks
from hookline.engine.view import RunView
from hookline.runs.disk.checkpoint import (
    CHECKPOINTS,
    Checkpoint,
    FileSum,
    Manifest,
    check_checkpoint,
    manifest_of,
    newest_checkpoint,
    prune,
    read_checkpoint,
    read_summed,
    remove_unfinished,
    run_of,
    set_aside,
    write_checkpoint,
)
from hookline.runs.disk.durable_files import (
    TEMPORARY,
    AppendedFile,
    ensure_folder,
    make_folder,
    remove_file,
    replace_file,
    sync_folder,
)
from hookline.runs.disk.occupancy import LOCK, FileLock, hold
from hookline.runs.disk.together import Save, SaveTogether
from hookline.runs.names import check_name, next_number, point_to
from hookline.runs.overview.notes import NOTES
from hookline.runs.record import REBUILT, RECORD, RunRecord, read_record
from hookline.runs.redaction import Redaction

if TYPE_CHECKING:
    from hookline.engine.data import DataSource


_UNFINISHED = re.compile(rf"{re.escape(TEMPORARY)}[A-Za-z0-9._-]{{1,40}}-[0-9a-f]{{8}}")
REST = ("wrappers", "loss")
"""What ``model.safetensors`` has beside the model; no name of a weight of a model contains their slash."""
CONFIG, METRICS, LOG, MODEL, DATA = "config.toml", "metrics.jsonl", "log.txt", "model.safetensors", "data.json"
DEBUG, ARTIFACTS = "debug", "artifacts"


_SHARED, _COMMAND, _JOB, _SAVED = "run folder", "command", "job", "has saved weights"
_WEIGHTS = "whole weights"


def has_saved_weights(run: RunView) -> bool:
    """Return whether a run under construction will get saved weights: it resumes, or it is evaluated or used.

    Its plugins then need not compute or read what is part of them.
    """
    return _SAVED in run.shared


def expect_saved_weights(run: RunView) -> None:
    """Note that a run will get saved weights, before its components are built."""
    run.shared[_SAVED] = True


def command_of(run: RunView) -> list[str]:
    """Return the command line that started a run; empty if another program did, whose arguments may hold anything."""
    command = run.shared.get(_COMMAND, [])
    assert isinstance(command, list)
    return command


def give_command(run: RunView, words: Sequence[str], job: str = "") -> None:
    """Give a run the command line that started it, to be recorded without secrets, and the name of its job."""
    run.shared[_COMMAND], run.shared[_JOB] = list(words), job


def job_of(run: RunView) -> str:
    """Return the name of the job of a launcher that started a run; empty without one."""
    return str(run.shared.get(_JOB, ""))


def folder_of(run: RunView) -> RunFolder | None:
    """Return the folder in which the plugins of a run save files; None if there is none."""
    folder = run.shared.get(_SHARED)
    assert folder is None or isinstance(folder, RunFolder)
    return folder


def give_folder(run: RunView, folder: RunFolder) -> None:
    """Give a run the folder in which its plugins save files, before its first step."""
    run.shared[_SHARED] = folder


def give_weights(run: RunView) -> None:
    """Give a run that is over its weights, gathered on rank 0, for its files; each rank calls it."""
    from hookline.engine.loop.state import weights_of

    weights = _gathered(run.ranks, weights_of(run))
    if run.ranks.is_zero:
        run.shared[_WEIGHTS] = weights


def _gathered(ranks: Ranks, state: Any) -> Any:
    """Return a state of any nesting with its tensors gathered one after the other, of which other ranks keep none."""
    from hookline.engine.reading.batch import with_parts
    from hookline.runs.disk.encoding import is_shared_out

    if not is_shared_out(state):
        return with_parts(state, partial(_gathered, ranks))
    whole = ranks.whole(state)
    return whole if ranks.is_zero else None


class _SaveAlone(Save):
    """A save by rank 0, or by the only process; the arguments are those of ``RunFolder.write_checkpoint``."""

    def __init__(
        self, folder: RunFolder, state: Mapping[str, Any], metrics: Mapping[str, float], identity: Mapping[str, Any]
    ) -> None:
        self._write = partial(folder.write_checkpoint, state, metrics=metrics, identity=identity)
        self._path = Path()

    def write(self) -> None:
        self._path = self._write()

    def complete(self) -> Path:
        return self._path


def begin_save(run: RunView, *, metrics: Mapping[str, float], identity: Mapping[str, Any]) -> Save | None:
    """Begin to save a run, at the same place on all ranks; return what is left to do, None if that is nothing.

    Where each rank has a part of some tensors, all ranks write the checkpoint; otherwise rank 0 does.

    Args:
        run: The run.
        metrics: The metrics by which checkpoints are compared.
        identity: Fingerprint of the run, ``identity_of(run)``.

    Raises:
        CheckpointError: When the state contains something that cannot be saved.
    """
    from hookline.runs.disk.encoding import has_shared_out

    state, folder = run.state_dict(), folder_of(run)
    if any(run.ranks.gather(has_shared_out(state))):
        return SaveTogether(run.ranks, state, lambda: _expected(folder).describe(state, metrics, identity))
    return _SaveAlone(folder, state, metrics, identity) if folder else None


class RunFolder:
    """A run folder, locked for this program until it is closed.

    Attributes:
        path: Absolute path of the folder.
        record: The record of the run.
        redaction: Removes the secrets of the run from the texts that are written.
        findings: Damage that was found and mended when it was opened, and changes by others.
    """

    def __init__(self, path: Path, record: RunRecord, lock: FileLock) -> None:
        self.path = path.absolute()  # plugins may change the current folder
        self.record = record
        self.redaction = Redaction()
        self.findings: list[str] = []
        self._lock = lock
        self._process = os.getpid()
        self._identity = _identity_of(self.path)

    @classmethod
    def claim(cls, parent: str | os.PathLike[str], label: str) -> RunFolder:
        """Make a new run folder with the next number and a name.

        Raises:
            ConfigError: When the label is not a valid run name, or the folder cannot be made.
        """
        check_name(label)
        parent = Path(parent)
        try:
            ensure_folder(parent)
            return cls._claim(parent, label)
        except (OSError, CheckpointError) as error:
            why = reason(error) if isinstance(error, OSError) else error.message
            raise ConfigError(f"cannot make a run folder in {parent}: {why}") from error

    @classmethod
    def _claim(cls, parent: Path, label: str) -> RunFolder:
        numbers = FileLock(parent / LOCK)
        try:
            numbers.take(wait=True)
            path = parent / f"{next_number(parent):04d}-{label}"
            make_folder(path)
            folder = cls(path, RunRecord(), hold(path))
            folder.save()
            sync_folder(parent)
            point_to(path)
        finally:
            numbers.close()
        return folder

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Open an existing run folder.

        Raises:
            RunBusyError: When another program works in it.
            ConfigError: When it is not a run folder.
            CheckpointError: When the folder of its checkpoints cannot be read.
        """
        path = Path(path)
        read_record(path)  # makes no lock file in anything but a run folder
        path = path.resolve()  # files are written to a folder itself, never by way of a link
        lock = hold(path)
        try:
            folder = cls(path, read_record(path), lock)
            folder.findings = list(folder._examine())
        except BaseException:
            lock.close()
            raise
        return folder

    def _examine(self) -> Iterator[str]:
        """Mend the record where the checkpoints show that it is wrong; yield what was found."""
        record = self.record
        yield from (text for text in record.warnings if text == REBUILT)
        run = run_of(self.path / CHECKPOINTS, record.run)
        if run != record.run:
            yield f"the ID of the run in {RECORD} is not that of its checkpoints, which agree: theirs is used"
            record.run = run
        if record.config and not self.is_intact(CONFIG, record.config):
            yield f"{CONFIG} was changed after the run wrote it"

    def is_intact(self, name: str, wanted: FileSum | None) -> bool:
        """Return whether a file in the folder has the expected size and checksum."""
        with contextlib.suppress(CheckpointError):
            return wanted is not None and bool(read_summed(self.path / name, wanted))
        return False

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, made on first use."""
        return self._made(CHECKPOINTS)

    @property
    def debug(self) -> Path:
        """Folder for the details of a failure, made on first use."""
        return self._made(DEBUG)

    @property
    def artifacts(self) -> Path:
        """Folder for the files of plugins, each under its own name; made on first use."""
        return self._made(ARTIFACTS)

    @property
    def config_path(self) -> Path:
        """Path of the complete config.

        Raises:
            ConfigError: When it is empty.
        """
        return saved_config(self.path)

    def lines(self, name: str, size: int | None = None) -> AppendedFile:
        """Open a file of lines in the folder, such as ``metrics.jsonl``; ``size`` as for ``AppendedFile``.

        In a name such as ``artifacts/mine.jsonl``, a folder that is missing is made.

        Raises:
            CheckpointError: When it cannot be opened.
        """
        try:
            return AppendedFile(self._placed(name), size)
        except OSError as error:
            raise _unwritten(self.path / name, error) from error

    def write(self, name: str, data: bytes) -> None:
        """Write a file in the folder, completely or not at all, and flush it to the disk.

        In a name such as ``artifacts/mine.json``, a folder that is missing is made.

        Raises:
            CheckpointError: When it cannot be written; then the previous version is unchanged.
        """
        try:
            replace_file(self._placed(name), data)
        except OSError as error:
            raise _unwritten(self.path / name, error) from error

    def write_config(self, text: str) -> None:
        """Write ``config.toml``, and its checksum to the record, without saving the record.

        Raises:
            CheckpointError: When it cannot be written.
        """
        data = text.encode()
        self.write(CONFIG, data)
        self.record.config = FileSum.of(data)

    def write_model(self, run: RunView) -> None:
        """Write ``model.safetensors``, and its checksum to the record, without saving the record.

        Raises:
            CheckpointError: When the weights cannot be written, or there is a secret beside them.
        """
        from hookline.engine.loop.state import weights_of
        from hookline.runs.disk.encoding import state_to_safetensors

        weights: Any = run.shared.get(_WEIGHTS)
        state = self._without_secrets(weights or weights_of(run))
        rest = {f"{part}/{name}": value for part in REST for name, value in state[part].items()}
        data = state_to_safetensors({**state["model"], **rest})
        self.write(MODEL, data)
        self.record.model = FileSum.of(data)

    def write_data(self, data: DataSource) -> None:
        """Write ``data.json``, and its checksum to the record, without saving the record.

        Raises:
            CheckpointError: When it cannot be written, or ``kept`` of the data source cannot be saved.
        """
        from hookline.runs.disk.data_file import to_kept

        text = to_kept(data, self.redaction.plain)
        self.write(DATA, text)
        self.record.data = FileSum.of(text)

    def write_checkpoint(
        self, state: Mapping[str, Any], *, metrics: Mapping[str, float], identity: Mapping[str, Any]
    ) -> Path:
        """Save a state as a checkpoint, verify it on the disk, and return its folder.

        Args:
            state: The state, from ``Run.state_dict``.
            metrics: The metrics by which checkpoints are compared.
            identity: Fingerprint of the run, ``identity_of(run)``.

        Raises:
            CheckpointError: When it cannot be written, or the state contains something that cannot be saved.
        """
        try:
            saved = self._without_secrets(state)
            path = write_checkpoint(self.checkpoints, saved, run=self.record.run, metrics=metrics, identity=identity)
        except OSError as error:
            raise _unwritten(self.path / CHECKPOINTS, error) from error
        try:
            check_checkpoint(path)
        except CheckpointError:
            set_aside(path)
            raise
        return path

    def describe(
        self, state: Mapping[str, Any], metrics: Mapping[str, float], identity: Mapping[str, Any]
    ) -> tuple[Path, Mapping[str, Any], Callable[[Mapping[str, FileSum]], Manifest]]:
        """Return what ``SaveTogether`` needs; the arguments are those of ``write_checkpoint``.

        Raises:
            CheckpointError: When the state contains a secret, or the folder cannot be made.
        """
        manifest = partial(manifest_of, state, run=self.record.run, metrics=metrics, identity=identity)
        return self.checkpoints, self._without_secrets(state), manifest

    def prune_checkpoints(self, keep: int, best: Callable[[Manifest], float | None], keep_best: int) -> None:
        """Remove checkpoints except the newest and the best; the arguments are those of ``prune``.

        Raises:
            CheckpointError: When one cannot be removed.
        """
        try:
            # Left by an earlier removal; no save is in progress now.
            remove_unfinished(self.checkpoints)
            prune(self.checkpoints, run=self.record.run, keep=keep, best=best, keep_best=keep_best)
        except OSError as error:
            raise CheckpointError(f"an old checkpoint cannot be removed: {error.filename}: {reason(error)}") from error

    def newest_checkpoint(
        self, report: Callable[[CheckpointError], None], read: Callable[..., Checkpoint] = read_checkpoint
    ) -> Checkpoint | None:
        """Return the newest valid checkpoint; None if there are no checkpoints.

        Unfinished files, left by killed programs, are removed; damaged checkpoints are set aside.

        Args:
            report: Called with the error of each newer checkpoint.
            read: Reads and verifies one, as ``read_checkpoint``.

        Raises:
            CheckpointError: When there are checkpoints, but none is valid.
        """
        folder = self.checkpoints
        try:
            remove_unfinished(folder)
            _remove_unfinished_files(self.path)
        except OSError as error:
            report(CheckpointError(f"an unfinished file cannot be removed: {error.filename}: {reason(error)}"))
        try:
            return newest_checkpoint(folder, report, run=self.record.run, read=read)
        except OSError as error:
            raise CheckpointError(f"{folder} cannot be read: {reason(error)}") from error

    def save(self) -> None:
        """Write the record.

        Raises:
            CheckpointError: When it cannot be written; then the previous version is unchanged.
        """
        plain, record = self.redaction.plain, self.record
        attempts = [
            replace(
                attempt,
                command=plain(attempt.command),
                host=plain(attempt.host),
                error=plain(attempt.error),
                changes=plain(attempt.changes),
            )
            for attempt in record.attempts
        ]
        # Only what is text: a secret can occur in a time, a checksum or the ID of the run by chance.
        summary = {plain(title): plain(rows) for title, rows in record.summary.items()}
        shown = replace(record, summary=summary, warnings=plain(record.warnings), attempts=attempts)
        self.write(RECORD, msgspec.json.format(msgspec.json.encode(shown)) + b"\n")

    def close(self) -> None:
        """Release the lock of the folder."""
        self._lock.close()

    def _without_secrets(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return a state without secrets in its messages.

        Raises:
            CheckpointError: When there is one elsewhere, where it cannot be replaced.
        """
        changes = {"summary": self.redaction.tables, "warnings": self.redaction.messages}
        shown = {name: change(state[name]) for name, change in changes.items() if name in state}
        rest = {name: value for name, value in state.items() if name not in shown}
        if places := [place for name, value in rest.items() for place in self.redaction.places(value, name)]:
            hint = "leave it out of state_dict: a resumed run gets its options from its config"
            raise CheckpointError(f"the state contains a secret, at {', '.join(places)}", hint=hint)
        return rest | shown

    def _check(self) -> None:
        """Check before each change that this program still works in the folder, whatever has taken its name.

        Raises:
            CheckpointError: When this process is a fork, or the name is now that of something else.
        """
        # A fork inherits the lock, but two processes must not write to one run.
        if os.getpid() != self._process:
            hint = "end the child with os._exit(), or give it a run of its own"
            raise CheckpointError(f"this process is a fork of the one that works in {self.path}", hint=hint)
        if _identity_of(self.path) != self._identity:
            message = f"{self.path} cannot be written: it was removed or replaced, and is not the folder of this run"
            raise CheckpointError(message, hint="restore the folder of the run, then resume it")

    def _placed(self, name: str) -> Path:
        """Return the path of a file in the folder, and make the folders in its name."""
        self._check()
        for folder in reversed(list(Path(name).parents)[:-1]):
            self._made(str(folder))
        return self.path / name

    def _made(self, name: str) -> Path:
        self._check()
        folder = self.path / name
        if folder.is_symlink():
            raise CheckpointError(f"{folder} is a link: a run saves everything in its own folder")
        try:
            if not folder.is_dir():
                make_folder(folder)
                sync_folder(self.path)
        except OSError as error:
            raise _unwritten(folder, error) from error
        return folder


def _expected(folder: RunFolder | None) -> RunFolder:
    if folder is None:
        raise CheckpointError("the run has no folder to save in", hint="give it one on rank 0: give_folder")
    return folder


def _identity_of(path: Path) -> tuple[int, int] | None:
    """Return the identity of a folder, the same under any name; None if it is missing."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None


def saved_config(path: Path) -> Path:
    """Return the path of the config of a run folder.

    Raises:
        ConfigError: When it is empty: no run writes such a file, and a default run must not take its place.
    """
    config = path / CONFIG
    with contextlib.suppress(OSError):  # a file that cannot be read is an error for the reader of configs
        if config.stat().st_size == 0:
            hint = "restore it from a backup; each manifest in checkpoints/ lists the values under `settings`"
            raise ConfigError(f"{config} is empty: it was damaged after the run wrote it", hint=hint)
    return config


def read_of_folder(path: str | os.PathLike[str], name: str, max_bytes: int) -> bytes | None:
    """Return the contents of a file in a run folder, such as ``log.txt``; None if there is none that can be read.

    Args:
        path: The run folder.
        name: Name of the file.
        max_bytes: Number of bytes to read, at most; of a longer file, these are its last ones.
    """
    try:
        descriptor = os.open(Path(path) / name, os.O_RDONLY | NO_LINKS | NO_WAITING)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        check_regular(status, Path(path) / name)
        os.lseek(descriptor, max(status.st_size - max_bytes, 0), os.SEEK_SET)
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read(max_bytes)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def read_model(path: Path) -> dict[str, Any]:
    """Return the final weights of a finished run; those of wrappers and of the loss have names such as ``loss/NAME``.

    Raises:
        CheckpointError: When there are none, or they are damaged.
    """
    from hookline.runs.disk.encoding import state_from_safetensors

    wanted = read_record(path).model
    if wanted is None:
        raise CheckpointError(f"{path.name} has no final weights: it did not finish", hint="hookline resume")
    return state_from_safetensors(read_summed(path / MODEL, wanted))


def read_data(path: Path) -> DataSource:
    """Return a data source like that of a run, with one example of zeros as its dataset.

    Raises:
        CheckpointError: When no description of the data was saved, or it is damaged.
    """
    from hookline.runs.disk.data_file import from_kept

    wanted = read_record(path).data
    if wanted is None:
        raise CheckpointError(f"{path.name} has no description of its data", hint="train it again: hookline train")
    try:
        return from_kept(read_summed(path / DATA, wanted))
    except CheckpointError as error:
        raise CheckpointError(f"{path / DATA}: {error.message}", hint=error.hint) from error


def _remove_unfinished_files(path: Path) -> None:
    """Remove unfinished files, left by killed programs; the caller holds the lock of the run."""
    for folder in (path, path / DEBUG):
        if folder.is_symlink() or not folder.is_dir():
            continue
        for entry in list(os.scandir(folder)):
            # The notes are written by other programs, perhaps now.
            is_unfinished = _UNFINISHED.fullmatch(entry.name) and not entry.name.startswith(f"{TEMPORARY}{NOTES}-")
            if is_unfinished and entry.is_file(follow_symlinks=False):
                remove_file(Path(entry.path))


def _unwritten(path: Path, error: OSError) -> CheckpointError:
    hint = "free some space, or fix the reason given above"
    return CheckpointError(f"{path} cannot be written: {reason(error)}", hint=hint)
