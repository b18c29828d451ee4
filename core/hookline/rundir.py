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

import contextlib
import os
import platform
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from hookline.checkpoint import (
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
from hookline.errors import CheckpointError, ConfigError, RunBusyError, nearest
from hookline.files import (
    TEMPORARY,
    AppendedFile,
    FileLock,
    is_locked,
    make_folder,
    read_file,
    reason,
    remove_file,
    replace_file,
    replace_link,
)

if TYPE_CHECKING:
    from torch import Tensor

    from hookline.data import DataSource

FORMAT = 1
"""Number of the form of a record."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NUMBERED = re.compile(r"([0-9]{4,9})-(.+)")
_UNFINISHED = re.compile(rf"{re.escape(TEMPORARY)}[A-Za-z0-9._-]{{1,40}}-[0-9a-f]{{8}}")
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_MAX_RECORD_BYTES = 2**24
_MAX_COMPARED = 200
"""How many of the newest runs a name that none has is compared with."""
_ORPHANS_S = 10.0
"""How long processes that read data may outlive the one that they read for: torch has them look every 5 seconds."""
_GLANCE_S = 0.5
"""How long a lock is asked for again: who looks whether a run is at work holds it for an instant."""
_LAST = "last"
_DEBUG = "debug"
LOCK = ".lock"
_MAX_LOCK_BYTES = 1000
RECORD, CONFIG, METRICS, LOG, MODEL = "run.json", "config.toml", "metrics.jsonl", "log.txt", "model.safetensors"
DATA = "data.json"

Status = Literal["running", "completed", "stopped", "interrupted", "failed"]


class Attempt(msgspec.Struct):
    """One process that worked on a run.

    Attributes:
        started: When it began, in UTC.
        command: The words that it was started with.
        host: Name of its machine.
        pid: Number of its process.
        from_step: Number of steps that the run had when it began.
        step: Number of steps that the run had at the last look.
        ended: When it ended, in UTC; None until then, and if it was killed.
        outcome: How it ended; None likewise.
        error: What ended it, in one line.
        changes: What was different from the attempt before.
    """

    started: datetime
    command: list[str]
    host: str
    pid: int
    from_step: int
    step: int
    ended: datetime | None = None
    outcome: Status | None = None
    error: str | None = None
    changes: list[str] = []


class BestValue(msgspec.Struct):
    """Where a metric was best.

    Attributes:
        metric: Name of the metric.
        mode: ``min`` or ``max``.
        value: Its best value.
        epoch: The epoch in which it was measured, from 1.
        step: Number of steps before it.
    """

    metric: str
    mode: Literal["min", "max"]
    value: float
    epoch: int
    step: int


class RunRecord(msgspec.Struct, kw_only=True):
    """What is known of a run: the file ``run.json``.

    Attributes:
        run: The run's own sign, made once.
        seed: Its seed.
        status: ``running``, or how it ended.
        epochs: Number of epochs that were ended.
        num_epochs: Number of epochs that it is to have.
        step: Number of steps that were taken.
        time_s: Seconds that all attempts took together.
        metrics: The numbers of the last epoch.
        best: Where the watched metric was best; None before it was measured.
        identity: What the run is made of: versions, plugins, hashes of their code, data.
        model: What the file of the weights must be; None until there is one.
        data: What the file about the data must be; None until there is one.
        git: The commit of the folder in which it was started, with ``-dirty`` behind it if there were changes.
        attempts: Every process that worked on it.
        warnings: What was wrong without ending it; the last of them, if there are many.
        format: Number of the form.
    """

    run: str = msgspec.field(default_factory=lambda: secrets.token_hex(8))
    seed: int = 0
    status: Status = "running"
    epochs: int = 0
    num_epochs: int = 0
    step: int = 0
    time_s: float = 0.0
    metrics: dict[str, float | None] = {}
    best: BestValue | None = None
    identity: dict[str, Any] = {}
    model: FileSum | None = None
    data: FileSum | None = None
    git: str | None = None
    attempts: list[Attempt] = []
    warnings: list[str] = []
    format: int = FORMAT


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
            number = _number(max(_numbered(parent), key=_number, default="0")) + 1
            path = parent / f"{number:04d}-{label}"
            make_folder(path)
            lock = FileLock(path / LOCK)
            # Nobody works in it, but somebody may look whether anybody does.
            lock.take(wait=True)
            _sign(lock)
            folder = cls(path, RunRecord(), lock)
            folder.save(flush=False)
            _point_to(path)
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
        lock = hold(path, read_record(path))
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
        from hookline.encoding import weights_to_safetensors

        data = weights_to_safetensors(weights)
        self.write(MODEL, data)
        self.record.model = FileSum.of(data)

    def write_data(self, data: DataSource) -> None:
        """Write what is kept of the data, ``data.json``, and its sums into the record, which is not saved.

        Raises:
            CheckpointError: When it cannot be written, or the data source wants what cannot be kept.
        """
        from hookline.kept_data import to_kept

        kept = to_kept(data)
        self.write(DATA, kept)
        self.record.data = FileSum.of(kept)

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Check that a state is one that a checkpoint can keep.

        Raises:
            CheckpointError: When it is not; names everything that cannot be kept.
        """
        from hookline.encoding import encode

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


def check_name(name: str) -> None:
    """Check that a text can be the name of a run.

    Raises:
        ConfigError: When it cannot.
    """
    if not _NAME.fullmatch(name) or _DEVICES.fullmatch(name) or name in (_LAST, "best"):
        hint = "take 1 to 100 of the letters a-z and A-Z, digits, '.', '_' and '-', the first a letter or digit"
        raise ConfigError(f"{name!r} is no name for a run", hint=hint)


def read_record(path: Path) -> RunRecord:
    """Return the record of a run folder.

    Raises:
        ConfigError: When there is none, or it cannot be read.
    """
    text = _read(path)
    try:
        return msgspec.json.decode(text, type=_Written)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        number = _format_of(text)
        if number in (None, FORMAT):
            raise ConfigError(f"{path}: run.json cannot be read: {error}") from error
        hint = "read it with the version of Hookline that wrote it"
        raise ConfigError(
            f"{path}: run.json is of format {number}, and this Hookline reads {FORMAT}", hint=hint
        ) from error


class _Numbered(msgspec.Struct):
    format: int


class _Written(RunRecord, kw_only=True):
    """A record that was read: what would be made for a new one must be there, and of a later format none is read."""

    run: str
    attempts: list[Attempt]
    format: Literal[1]


def _format_of(text: bytes) -> int | None:
    try:
        return msgspec.json.decode(text, type=_Numbered).format
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class _Ranked(msgspec.Struct):
    """All that the best run is found by."""

    run: str
    format: Literal[1]
    best: BestValue | None = None


def _read(path: Path) -> bytes:
    try:
        return read_file(path / RECORD, _MAX_RECORD_BYTES)
    except OSError as error:
        raise ConfigError(f"{path} is no run folder: run.json: {reason(error)}") from error
    except ValueError as error:
        raise ConfigError(f"{str(path)!r} is no path: {error}") from error


def read_model(path: Path) -> dict[str, Tensor]:
    """Return the weights that a finished run left in its folder.

    Raises:
        CheckpointError: When there are none, or they are damaged.
    """
    from hookline.encoding import from_safetensors

    wanted = read_record(path).model
    if wanted is None:
        raise CheckpointError(f"{path.name} has no weights: it did not come to its end", hint="hookline resume")
    return from_safetensors(read_summed(path / MODEL, wanted))


def read_data(path: Path) -> DataSource:
    """Return what is kept of the data of a run: its dataset is one example of zeros.

    Raises:
        CheckpointError: When there is nothing, or it is damaged.
    """
    from hookline.kept_data import from_kept

    wanted = read_record(path).data
    if wanted is None:
        raise CheckpointError(f"{path.name} has kept nothing of its data", hint="train it again: hookline train")
    try:
        return from_kept(read_summed(path / DATA, wanted))
    except CheckpointError as error:
        raise CheckpointError(f"{path / DATA}: {error.message}", hint=error.hint) from error


def run_names(parent: Path) -> list[str]:
    """Return the names of the run folders in ``parent``, the oldest first.

    Raises:
        ConfigError: When ``parent`` is no folder, or cannot be read.
    """
    return sorted(_numbered(parent), key=lambda name: (_number(name), name))


def run_paths(parent: Path) -> list[Path]:
    """Return the run folders in ``parent``, the oldest first.

    Raises:
        ConfigError: As ``run_names`` does.
    """
    return [parent / name for name in run_names(parent)]


def is_at_work(path: Path) -> bool:
    """Whether some program works in a run folder now; False where that cannot be told."""
    return is_locked(path / LOCK)


def find_run(name: str, parent: Path) -> Path:
    """Return the run folder that a person means.

    Args:
        name: A number, the name, the whole name with the number, a path, ``last``, or ``best``.
        parent: Where the runs are.

    Raises:
        ConfigError: When there is no such run, or several have that name.
    """
    if "/" in name or os.sep in name or name in (".", "..") or _is_run_folder(name):
        return _checked(Path(name))
    names = run_names(parent)
    if name in (_LAST, "best") and names:
        return parent / names[-1] if name == _LAST else _best(parent, names)
    number = int(name) if name.isascii() and name.isdigit() and len(name) < 10 else None
    found = [whole for whole in names if name == whole or _label(whole) == name or _number(whole) == number]
    if len(found) > 1:
        listed = ", ".join(found[-5:])
        hint = "name it in full" if number is not None else "name it by its number, or in full"
        raise ConfigError(f"{len(found)} runs are called {name!r}: {listed}", hint=hint)
    if found:
        return parent / found[0]
    if not names:
        raise ConfigError(f"there is no run in {parent}", hint="hookline train makes one")
    raise ConfigError(f"there is no run {name!r} in {parent}", hint=_meant(name, names))


def _numbered(parent: Path) -> Iterator[str]:
    try:
        with os.scandir(parent) as entries:
            for entry in entries:
                if NUMBERED.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    yield entry.name
    except FileNotFoundError:
        return
    except OSError as error:
        hint = "choose another folder for the runs"
        raise ConfigError(f"there can be no runs in {parent}: {reason(error)}", hint=hint) from error
    except ValueError as error:
        raise ConfigError(f"{str(parent)!r} is no path: {error}") from error


def _number(whole: str) -> int:
    return int(whole.partition("-")[0])


def _label(whole: str) -> str:
    return whole.partition("-")[2]


def _is_run_folder(name: str) -> bool:
    # A Path takes no name that is too long.
    return bool(name) and os.path.isfile(os.path.join(name, RECORD))  # noqa: PTH113, PTH118 - see above


def _meant(name: str, names: list[str]) -> str:
    """Return a hint for a name that no run has. There may be thousands, so they are not listed."""
    if not name.isdigit():
        newest = names[-_MAX_COMPARED:]
        if match := nearest(name, [*newest, *map(_label, newest)]):
            return f"did you mean {match!r}?"
    return f"the newest is {names[-1]}; hookline runs lists them"


def _checked(path: Path) -> Path:
    if path.name in (RECORD, CONFIG) and os.path.isfile(path):  # noqa: PTH113 - see _is_run_folder
        path = path.parent
    read_record(path)
    return path.resolve()


def _best(parent: Path, names: list[str]) -> Path:
    """Return the run whose watched metric is best, among those that watch what the newest does."""
    found: list[tuple[float, Path]] = []
    watched: tuple[str, str] | None = None
    for name in reversed(names):
        path = parent / name
        try:
            best = msgspec.json.decode(_read(path), type=_Ranked).best
        except (ConfigError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if best and (watched is None or watched == (best.metric, best.mode)):
            watched = best.metric, best.mode
            found.append((best.value if best.mode == "min" else -best.value, path))
    if not found:
        raise ConfigError("no run has measured anything to be best at")
    return min(found)[1]


class _Holder(msgspec.Struct):
    """Who holds the lock of a run, as its file says."""

    host: str
    pid: int
    since: datetime


def _sign(lock: FileLock) -> None:
    lock.sign(msgspec.json.encode(_Holder(platform.node(), os.getpid(), now())).decode())


def _holder(path: Path, record: RunRecord) -> _Holder | None:
    try:
        return msgspec.json.decode(read_file(path / LOCK, _MAX_LOCK_BYTES), type=_Holder)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        attempt = record.attempts[-1] if record.attempts else None
        return _Holder(attempt.host, attempt.pid, attempt.started) if attempt else None


def _remove_unfinished_files(path: Path) -> None:
    """Remove what killed programs left of files of a run; the program holds the run's lock."""
    for folder in (path, path / _DEBUG):
        if folder.is_symlink() or not folder.is_dir():
            continue
        for entry in list(os.scandir(folder)):
            if _UNFINISHED.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                remove_file(Path(entry.path))


def hold(path: Path, record: RunRecord) -> FileLock:
    """Return the lock of a run folder, taken.

    Raises:
        RunBusyError: When another program works in it.
        ConfigError: When there can be no lock.
    """
    try:
        lock = FileLock(path / LOCK)
    except OSError as error:
        raise ConfigError(f"nobody can work in {path}: {LOCK}: {reason(error)}") from error
    begin = time.monotonic()
    while not lock.take():
        holder = _holder(path, record)
        # Processes that a killed program had started hold it for some seconds more.
        patience_s = _ORPHANS_S if holder and _is_dead(holder) else _GLANCE_S
        if time.monotonic() - begin >= patience_s:
            lock.close()
            raise _busy(path, holder)
        time.sleep(0.05)
    _sign(lock)
    return lock


def _is_dead(holder: _Holder) -> bool:
    if holder.host != platform.node() or sys.platform == "win32":
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _busy(path: Path, holder: _Holder | None) -> RunBusyError:
    who = f" (process {holder.pid} on {holder.host}, since {holder.since:%Y-%m-%d %H:%M} UTC)" if holder else ""
    return RunBusyError(f"another program works in {path}{who}", hint="wait for it, or stop it first")


def _unwritten(path: Path, error: OSError) -> CheckpointError:
    hint = "make room, or mend what keeps it from being written"
    return CheckpointError(f"{path} cannot be written: {reason(error)}", hint=hint)


def _point_to(path: Path) -> None:
    with contextlib.suppress(OSError):  # it is a convenience, and not every file system has links
        replace_link(path.parent / _LAST, path.name)


def point_to_newest(parent: Path) -> None:
    """Mend the link to the newest run folder when others were removed."""
    link = parent / _LAST
    if not link.is_symlink() or link.exists():
        return
    if names := run_names(parent):
        _point_to(parent / names[-1])
    else:
        with contextlib.suppress(OSError):
            link.unlink()


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)
