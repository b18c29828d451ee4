"""Fuzz targets: every reader of untrusted input, and the properties that must hold for any bytes.

A reader returns a result or raises an error of Hookline, in bounded time; it writes nothing outside its folder, starts
no program and unpickles nothing; and its output never controls a terminal.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

import hookline_plugins.data.tables.columns
import hookline_plugins.data.tables.files.csv_records
import hookline_plugins.data.tables.files.reading  # noqa: F401
from hookline import Catalog, RunConfig, load_config
from hookline.cli.arguments import CarriedError
from hookline.cli.commands.main import hookline as hookline_command
from hookline.cli.output import Output
from hookline.config.toml_text import parse_value
from hookline.engine.errors import ConfigError, HooklineError
from hookline.runs import complete_toml, find_run, read_lock
from hookline.runs.curves import metric_names, read_curves
from hookline.runs.disk.checkpoint import read_checkpoint, read_manifest, write_checkpoint
from hookline.runs.disk.data_file import from_kept
from hookline.runs.disk.durable_files import AppendedFile
from hookline.runs.disk.encoding import decode, encode, from_json, from_safetensors, to_json, to_safetensors
from hookline.runs.identity import identity_of  # noqa: F401
from hookline.runs.names import check_name
from hookline.runs.record import RunRecord, read_record
from hookline_plugins.data.tables.table import Table

MAX_S = 5.0
"""Processor time that a reader may take, in seconds; the slowest take milliseconds."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_MOVING = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
_STARTING = ("pickle.find_class", "subprocess.Popen", "socket.connect", "socket.bind")
_CATALOG = Catalog.installed()


class Finding(AssertionError):  # noqa: N818 - the fuzzer's word
    """A violated property."""


# ---- properties ------------------------------------------------------------------------------------------------------


class _Guard:
    """An audit hook (sys.addaudithook) that records forbidden actions of a reader."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING and not self._is_inside(path):
                self.seen.append(f"opened {path!r} for writing")
        elif (
            (event in _MOVING and not all(self._is_inside(path) for path in arguments if not isinstance(path, int)))
            or event in _STARTING
            or event.startswith(("os.exec", "os.spawn", "os.posix_spawn", "os.system", "os.fork"))
        ):
            self.seen.append(f"{event} of {arguments}")

    def _is_inside(self, path: Any) -> bool:
        if isinstance(path, int) or path is None:  # a descriptor that is already open
            return True
        text = os.path.realpath(os.fsdecode(path))
        return text.startswith(f"{self.folder}/") or "__pycache__" in text


_GUARD = _Guard()


@contextmanager
def only_in(folder: Path) -> Iterator[None]:
    """Raise a finding when something is written outside ``folder``, or a program is started."""
    _GUARD.folder, _GUARD.seen = os.path.realpath(folder), []
    try:
        yield
    finally:
        _GUARD.folder = None
    if _GUARD.seen:
        raise Finding("; ".join(_GUARD.seen))


def answer(read: Callable[[], Any], folder: Path) -> Any:
    """Return the result of a reader, or its error."""
    begin = time.process_time()
    try:
        with only_in(folder):
            result = read()
    except HooklineError as error:
        if not 2 <= error.exit_code <= 8:
            raise Finding(f"exit code {error.exit_code}") from error
        check_error(error)
        result = error
    if (seconds := time.process_time() - begin) > MAX_S:
        raise Finding(f"it took {seconds:.1f} s")
    return result


def check_error(error: HooklineError) -> None:
    """Check that an error, as the command line prints it, is harmless to a terminal, and has a bounded length."""
    for is_json in (False, True):
        check_shown(printed(lambda is_json=is_json: Output(json=is_json).error(error)))  # type: ignore[misc]


def check_shown(text: str) -> None:
    """Check that a text is harmless to a terminal."""
    if not text.replace("\n", "").isprintable():
        hidden = sorted({c for c in text if not c.isprintable()} - {"\n"})
        raise Finding(f"{hidden} reached the terminal in {text[:500]!r}")
    if len(text) > 2**18:
        raise Finding(f"a message of {len(text)} characters")


def printed(tell: Callable[[], None]) -> str:
    """Return what is printed on standard output and standard error."""
    stream = io.StringIO()
    with redirect_stdout(stream), redirect_stderr(stream):
        tell()
    return stream.getvalue()


def run_command(*words: str) -> None:
    """Run a command in this process and check its output; errors of Hookline are raised."""
    output = Output()

    def call() -> None:
        try:
            hookline_command.main(list(words), prog_name="hookline", standalone_mode=False, obj=output)
        except CarriedError as carried:
            raise carried.error from None

    check_shown(printed(call))


# ---- configs ---------------------------------------------------------------------------------------------------------


def fuzz_config(data: bytes, folder: Path) -> None:
    """A file is a config or a reported fault; a config that is written is read back unchanged.

    The part after the first NUL is a file that the config may extend, and which may extend it.
    """
    config_data, _, base = data.partition(b"\0")
    (folder / "run.toml").write_bytes(config_data if base else data)
    (folder / "base.toml").write_bytes(base)
    config = answer(lambda: load_config(folder / "run.toml", catalog=_CATALOG), folder)
    if isinstance(config, RunConfig):
        (folder / "complete.toml").write_text(complete_toml(config), encoding="utf-8")
        same_config(config, load_config(folder / "complete.toml", catalog=_CATALOG))


def same_config(first: RunConfig, second: RunConfig) -> None:
    """Check that two configs are equal."""
    if contents(first) != contents(second):
        raise Finding(f"{contents(first)} became {contents(second)}")


def contents(config: RunConfig) -> list[Any]:
    """Return the contents of a config in a form that distinguishes 1, 1.0 and True; paths are absolute."""
    choices = [(c.table, c.plugin.target, c.on_error, _typed(dict(c.options))) for c in config.plugins]
    return [repr(config.train), repr(config.rules), choices]


def _typed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [_typed(item) for item in value]
    return str(value.absolute()) if isinstance(value, Path) else (type(value), repr(value))


def fuzz_overrides(data: bytes, folder: Path) -> None:
    """Words, one per line, are overrides or reported faults."""
    words = data.decode(errors="surrogateescape").split("\n")
    answer(lambda: load_config(None, words, catalog=_CATALOG), folder)
    for word in words:
        try:
            parse_value(word)
        except ValueError as error:
            if isinstance(error, UnicodeError):
                raise


def fuzz_lock(data: bytes, folder: Path) -> None:
    """A file is a lock or a reported fault; a lock that is written is read back unchanged."""
    (folder / "run.lock").write_bytes(data)
    lock = answer(lambda: read_lock(folder / "run.lock"), folder)
    if not isinstance(lock, ConfigError):
        (folder / "run.lock").write_text(lock.to_json(), encoding="utf-8")
        if read_lock(folder / "run.lock") != lock or lock.drift(lock):
            raise Finding("a lock changes when it is written and read")


# ---- runs ------------------------------------------------------------------------------------------------------------


def fuzz_name(data: bytes, folder: Path) -> None:
    """A text names a run or not; a valid run name is a valid file name."""
    name = data.decode(errors="surrogateescape")
    (folder / "runs" / "0001-there").mkdir(parents=True, exist_ok=True)
    answer(lambda: find_run(name, folder / "runs"), folder)
    if answer(lambda: check_name(name), folder) is None and (
        not name.isascii() or not name.isprintable() or "/" in name
    ):
        raise Finding(f"{name!r} is accepted as a name")


def fuzz_record(data: bytes, folder: Path) -> None:
    """A record is read or a reported fault, and every command that shows runs works whatever it contains."""
    path = run_folder(folder)
    (path / "run.json").write_bytes(data)
    record = answer(lambda: read_record(path), folder)
    if isinstance(record, RunRecord):
        again = msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(record), type=RunRecord))
        if again != msgspec.json.encode(record):
            raise Finding("a record changes when it is written and read")
    answer(lambda: find_run("best", folder / "runs"), folder)
    answer(lambda: find_run("1", folder / "runs"), folder)
    show_runs(folder, ["list"], ["show", "1"], ["diff", "1", "2"], ["list", "--json"], ["show", "1", "--json"])


def fuzz_bundle(data: bytes, folder: Path) -> None:
    """A file is a bundle or a reported fault, with a right checksum as well."""
    for whole in (data, data[:-64] + hashlib.sha256(data[:-64]).hexdigest().encode()):
        (folder / "b.zip").write_bytes(whole)
        if answer(lambda: find_run(folder / "b.zip"), folder) == (folder / "b.zip").resolve():
            answer(lambda: load_config(folder / "b.zip" / "config.toml"), folder)


def run_folder(folder: Path) -> Path:
    """Return an empty run folder next to a valid one."""
    for name in ("0001-x", "0002-good"):
        (folder / "runs" / name).mkdir(parents=True, exist_ok=True)
    (folder / "runs" / "0002-good" / "run.json").write_bytes(GOOD_RECORD)
    return folder / "runs" / "0001-x"


def show_runs(folder: Path, *commands: list[str]) -> None:
    """Run commands of the group ``runs``."""
    for words in commands:
        answer(lambda words=words: run_command("runs", *words, "--runs", str(folder / "runs")), folder)  # type: ignore[misc]


def fuzz_metrics(data: bytes, folder: Path) -> None:
    """A file of metrics is drawn as far as it is readable; opened for appending, it keeps just its complete lines."""
    path = run_folder(folder)
    (path / "run.json").write_bytes(GOOD_RECORD)
    (path / "metrics.jsonl").write_bytes(data)
    names = answer(lambda: metric_names(path), folder)
    curves = answer(lambda: read_curves(path, names), folder)
    if len(curves) > len(names) or any(len(curve.points) > 128 for curve in curves):
        raise Finding(f"{len(curves)} curves of {len(names)} metrics, or too many points")
    show_runs(folder, ["plot", "1"], ["plot", "1", "--json"], ["plot", "1", "2", "--metric", "train/loss"])
    with only_in(folder):
        file = AppendedFile(path / "metrics.jsonl", data[0] if data and data[0] % 2 else None)
        begin = file.size
        file.append("{}")
        file.close()
    whole = data[: data.rfind(b"\n") + 1]
    if (path / "metrics.jsonl").read_bytes() != whole[:begin] + b"{}\n" or begin > len(whole):
        raise Finding("lines were lost or torn")


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def _state() -> dict[str, Any]:
    return {
        "model": {"weight": torch.ones(2, 2), "bias": torch.zeros(0, dtype=torch.bfloat16)},
        "optimizer": {
            "state": {0: {"step": torch.tensor(1.0)}},
            "betas": (0.9, 0.999),
            "big": 2**70,
            "no": float("nan"),
        },
        "random": {"cpu": torch.arange(8, dtype=torch.uint8), "own": b"\x00\x01"},
        "step": 3,
        "epoch": 1,
        "position": 3,
    }


TENSORS = {"a": torch.ones(2), "b": torch.ones(1, dtype=torch.bfloat16), "c": torch.arange(3)}
_FILES = ("manifest.json", "state.json", "model.safetensors", "state.safetensors")


def good_checkpoint(folder: Path) -> Path:
    """Return a checkpoint in ``folder``."""
    path = folder / "step-000000000003-epochs-0"
    if not path.exists():
        write_checkpoint(folder, _state(), run="0123456789abcdef", metrics={"train/loss": 0.5})
    return path


def rehash(path: Path) -> None:
    """Make the checksums of a checkpoint match its files, as a forger can."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    for name in _FILES[1:]:
        data = (path / name).read_bytes()
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))
    rehash_manifest(path)


def rehash_manifest(path: Path) -> None:
    """Make the checksum of a manifest match its file."""
    digest = hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
    (path / "manifest.sha256").write_text(f"{digest}  manifest.json\n")


def fuzz_manifest(data: bytes, folder: Path) -> None:
    """A manifest with the right checksum is read or refused."""
    path = good_checkpoint(folder)
    (path / "manifest.json").write_bytes(data)
    rehash_manifest(path)
    answer(lambda: read_manifest(path), folder)
    answer(lambda: read_checkpoint(path), folder)


def fuzz_checkpoint(data: bytes, folder: Path) -> None:
    """A checkpoint with one forged file and the right checksums is read or refused; the first byte selects the file."""
    path = good_checkpoint(folder)
    for name, content in _GOOD_FILES.items():
        (path / name).write_bytes(content)
    name = _FILES[1 + (data[0] if data else 0) % 3]
    (path / name).write_bytes(_framed(data[1:]) if name.endswith("safetensors") and data[0] >= 128 else data[1:])
    rehash(path)
    checkpoint = answer(lambda: read_checkpoint(path), folder)
    if not isinstance(checkpoint, HooklineError) and not isinstance(checkpoint.state, dict):
        raise Finding("a checkpoint without a state")


def fuzz_state(data: bytes, folder: Path) -> None:
    """A JSON text is a state or refused; a state that is written is read back unchanged."""
    state = answer(lambda: decode(from_json(data), TENSORS), folder)
    if isinstance(state, HooklineError):
        return
    tree, tensors = encode(state)
    again = decode(from_json(to_json(tree)), from_safetensors(to_safetensors(tensors)))
    if repr(again) != repr(state):
        raise Finding(f"{state!r} became {again!r}")


def fuzz_tensors(data: bytes, folder: Path) -> None:
    """Bytes are tensors or refused, and tensors are not larger than the bytes."""
    for file in (data, _framed(data)):
        tensors = answer(lambda file=file: from_safetensors(file), folder)  # type: ignore[misc]
        if not isinstance(tensors, HooklineError) and sum(t.nbytes for t in tensors.values()) > len(file):
            raise Finding(f"{len(file)} bytes became more")


def _framed(data: bytes) -> bytes:
    """Return a safetensors file whose header is the part before the first NUL."""
    header, _, values = data.partition(b"\0")
    return struct.pack("<Q", len(header)) + header + values


def fuzz_kept(data: bytes, folder: Path) -> None:
    """A description of the data of a run is read or refused."""
    answer(lambda: from_kept(data), folder)


# ---- tables ----------------------------------------------------------------------------------------------------------


def fuzz_csv(data: bytes, folder: Path) -> None:
    """A table is read or refused, with options selected by the first two bytes."""
    first, second, content = (*data[:2], *b"\0\0")[0], (*data[:2], *b"\0\0")[1], data[2:]
    (folder / "t.csv").write_bytes(content)
    tasks: tuple[Any, ...] = ("regression", "classification", "binary")
    missing: tuple[Any, ...] = ("error", "drop", "mean")
    table = Table(
        path=folder / "t.csv",
        target="y",
        task=tasks[first % 3],
        missing=missing[first // 3 % 3],
        one_hot=("a",) if first // 9 % 2 else (),
        standardize=bool(first // 18 % 2),
        split=((1.0,), (0.5, 0.5))[first // 36 % 2],
        delimiter=",;\t| a"[second % 6],
    )
    source = answer(table.build_data, folder)
    if not isinstance(source, HooklineError):
        x, y = source.train[0]
        if x.shape != (source.in_features,) or not x.isfinite().all() or not torch.as_tensor(y).isfinite().all():
            raise Finding(f"{x}, {y} from {source}")


# ---- seeds -----------------------------------------------------------------------------------------------------------

GOOD_RECORD = msgspec.json.encode(
    RunRecord(seed=1, status="completed", epochs=2, num_epochs=2, step=4, metrics={"train/loss": 0.5, "x": None})
)


def _good_bundle() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, data in {"config.toml": b"[train]\nepochs = 2\n", "run.json": GOOD_RECORD}.items():
            archive.writestr(zipfile.ZipInfo(name), data)
        archive.comment = b"0" * 64
    return held.getvalue()


def _good_files() -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = good_checkpoint(Path(folder))
        return {name: (path / name).read_bytes() for name in _FILES}


_GOOD_FILES = _good_files()


@dataclass(frozen=True)
class Target:
    """One fuzz target.

    Attributes:
        fuzz: Takes bytes and a folder; raises a ``Finding`` when a property is violated.
        seeds: Bytes to start with.
        words: Words that the fuzzer inserts.
    """

    fuzz: Callable[[bytes, Path], None]
    seeds: tuple[bytes, ...]
    words: tuple[str, ...] = ()


_TOML_WORDS = ("train", "epochs", "data", "model", "use", "callbacks", "optimizer", "lr", "hidden", "linear", "mlp",
               "csv", "path", "target", "adam", "nan", "1e999", "0x", "\"\"\"", "'''", "[[", "]]", "plugins", "allow",
               "off", "early-stopping", "run-folder", "on_error", "warn", "\\u001b", "2024-01-01", "extends",
               "base.toml", "run.toml", "${", "$${", "}", "${train.seed}", "${model.use}", "a${optimizer.lr}",
               "${callbacks.early-stopping.patience}", "${model.hidden}")  # fmt: skip
_JSON_WORDS = ("$tensor", "$array", "$tuple", "$map", "$int", "$float", "$bytes", "null", "true", "1e999", "\\ud800",
               "\\u009b", "data_offsets", "dtype", "shape", "F32", "BF16", "U64", "F8_E4M3", "__metadata__",
               "18446744073709551615", "-1", "files", "sha256", "size", "format", "step", "epoch")  # fmt: skip
_CONFIG = b"""[train]\nepochs = 2\nbatch_size = "all"\n[data]\nuse = "csv"\npath = "t.csv"\ntarget = ["y"]\n
[model]\nuse = "mlp"\nhidden = [4, 2]\n[optimizer]\nuse = "adam"\nlr = 1e-3\nbetas = [0.9, 0.99]\n
[callbacks.early-stopping]\npatience = 2\n[callbacks."a b"]\nuse = "json-lines"\non_error = "warn"
[plugins]\nallow = "all"\n"""
_FAMILY = b"""extends = ["base.toml"]\n[train]\nseed = "${train.epochs}"\nevaluate = ["a${train.seed}"]\n
[callbacks.early-stopping]\nmonitor = "x/$${loss}-${optimizer.lr}"\npatience = "${train.epochs}"\0
[train]\nepochs = 2\nbatch_size = "${train.seed}"\n[model]\nuse = "mlp"\nhidden = ["${train.epochs}", 2]\n"""
_METRICS = b'{"epoch":1,"step":2,"train/loss":0.5,"x":null}\n{"epoch":2,"step":4,"train/loss":1e300}\n{"epoch":2,"st'
_LOCK = (
    b'{"hookline":"0.1.0","hook_api":"1","plugins":{"model":{"kind":"model","name":"m","distribution":"d"}},'
    b'"distributions":{"d":{"version":"1","files":{"a.py":"00"}}},"format":1}'
)
_HEADER = (
    b'{"t":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"u":{"dtype":"BOOL","shape":[0],"data_offsets":[8,8]}}'
)
_STATE = (
    b'{"a":{"$tensor":"a"},"b":{"$array":"c"},"t":{"$tuple":[1,-0.0]},"m":{"$map":[[1,"x"],[{"$tuple":[]},null]]},'
    b'"i":{"$int":"0x10000000000000000"},"f":{"$float":"nan"},"y":{"$bytes":"AAE="}}'
)
_KEPT = (
    b'{"format":1,"in_features":2,"out_features":1,"feature_names":null,"target_names":null,"class_names":null,'
    b'"kept":{},"example":[{"dtype":"float32","shape":[2]},{"mapping":{"a":{"dtype":"int64","shape":[]}}}]}'
)
TARGETS = {
    "config": Target(fuzz_config, (_CONFIG, _FAMILY, b"a.b.c = {d = [1, 'x']}\n"), _TOML_WORDS),
    "overrides": Target(
        fuzz_overrides, (b"train.epochs=3\noptimizer=adam\noptimizer.lr=1e-3", b"a.b={c=[1]}"), _TOML_WORDS
    ),
    "lock": Target(fuzz_lock, (_LOCK,), _JSON_WORDS),
    "name": Target(fuzz_name, (b"there", b"0001-there", b"./x/run.json", b"last", b"best", b"con.txt")),
    "record": Target(fuzz_record, (GOOD_RECORD,), (*_JSON_WORDS, "attempts", "identity", "best", "mode", "model")),
    "bundle": Target(fuzz_bundle, (_good_bundle(),), ("PK\x01\x02", "PK\x05\x06", "PK\x06\x07", "../x", "run.json")),
    "metrics": Target(fuzz_metrics, (_METRICS,), ("epoch", "step", "train/loss", "1e308", "-1e308", "null")),
    "manifest": Target(fuzz_manifest, (_GOOD_FILES["manifest.json"],), _JSON_WORDS),
    "checkpoint": Target(
        fuzz_checkpoint,
        (b"\0" + _GOOD_FILES["state.json"], *(bytes([n]) + _GOOD_FILES[name] for n, name in enumerate(_FILES[1:]))),
        _JSON_WORDS,
    ),
    "state": Target(fuzz_state, (_STATE,), _JSON_WORDS),
    "tensors": Target(fuzz_tensors, (_HEADER + b"\0" + bytes(8), _GOOD_FILES["state.safetensors"]), _JSON_WORDS),
    "kept": Target(fuzz_kept, (_KEPT,), (*_JSON_WORDS, "mapping", "example", "kept")),
    "csv": Target(
        fuzz_csv,
        (
            b"\0\0a,b,y\n1,2,3\n4,5,6\n",
            b'\x0a\x01a;y\n"x ";1\n"y""z";\n;2\n',
            b"\x02\0\xef\xbb\xbfa,y\r\n1,no\r\n2,yes\r\n",
        ),
        ('"', '""', "\r\n", ",,", "1e999", "nan", "-0", "99999999999999999999", "\x00", "\ufeff", "3,5"),
    ),
}
