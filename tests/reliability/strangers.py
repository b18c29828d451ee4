"""A stranger's run folder: valid JSON of wrong kinds in each of its files, through every command that reads it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hookline.engine.errors import HooklineError
from reliability import job
from reliability.fuzz_targets import rehash, rehash_manifest, run_command

_HOSTILE = "x\x1b]0;pwned\x07"
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 2**62, 1e308, -1e308, _HOSTILE, "2026-01-01T00:00:00", "9" * 30),
    *([], [[1]], {}, {"a": [1]}, {_HOSTILE: _HOSTILE}),
)
_FIRST_OF_METRICS = b'{"epoch":1,"step":1,"train/'
_MEANINGLESS = "optimizer"
"""The part of a state whose values only torch can judge: it fails in a later step."""

LOOKING = (
    *(("runs", "list"), ("runs", "list", "--json"), ("runs", "show", "1"), ("runs", "show", "1", "--json")),
    *(("runs", "diff", "1", "2"), ("runs", "diff", "2", "1", "--json"), ("runs", "path", "best")),
)
_PREDICT = ("predict", "1", "in.csv", "-o", "out.csv", "--force")
COMMANDS: dict[str, Sequence[Sequence[str]]] = {
    "run.json": LOOKING,
    "metrics.jsonl": (("runs", "plot", "1"), ("runs", "plot", "1", "--log"), ("runs", "plot", "1", "--json")),
    "data.json": (_PREDICT,),
    "manifest.json": (("runs", "show", "1"), ("eval", "1", "--checkpoint", "latest")),
    "state.json": (("eval", "1", "--checkpoint", "latest"), ("resume", "1", "train.epochs=2")),
}


def wrong_kinds(folder: Path, every: int) -> dict[str, Any]:
    """Put wrong values into every so many places of each file, and run the commands that read it."""
    good = _trained(job.fresh(folder))
    lost: list[str] = []
    points = 0
    with contextlib.chdir(folder):
        for name, commands in COMMANDS.items():
            text = _file(good, name).read_bytes()
            for number, (place, changed) in enumerate(_changed(text)):
                if number % every or (name == "state.json" and place[:1] == (_MEANINGLESS,)):
                    continue
                for command in commands:
                    points += 1
                    shutil.rmtree(folder / "runs", ignore_errors=True)
                    shutil.copytree(folder / "kept", folder / "runs")
                    _store(good, name, changed)
                    if fault := _fault(lambda command=command: run_command(*command)):  # type: ignore[misc]
                        lost.append(f"{name}, {'.'.join(map(str, place))}, {' '.join(command)}: {fault}")
    return {"points": points, "lost": lost}


def strange_entries(folder: Path) -> dict[str, Any]:
    """Put something else in the place of each entry of a run folder, and run the commands that read it."""
    good = _trained(job.fresh(folder))
    makers: dict[str, Callable[[Path], None]] = {
        "a file": Path.touch,
        "a folder": Path.mkdir,
        "a pipe": os.mkfifo,
        "a loop": lambda path: path.symlink_to(path.name),
    }
    lost: list[str] = []
    points = 0
    commands = (*LOOKING, ("runs", "plot", "1"), ("eval", "1"), _PREDICT, ("resume", "1", "train.epochs=2"))
    names = ("checkpoints", "run.json", "config.toml", "metrics.jsonl", "data.json", "model.safetensors", ".lock")
    with contextlib.chdir(folder):
        for name, (kind, make), command in itertools.product(names, makers.items(), commands):
            points += 1
            shutil.rmtree(folder / "runs")
            shutil.copytree(folder / "kept", folder / "runs")
            entry = good / name
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            make(entry)
            if fault := _fault(lambda command=command: run_command(*command)):  # type: ignore[misc]
                lost.append(f"{name} is {kind}, {' '.join(command)}: {fault}")
    return {"points": points, "lost": lost}


def _trained(folder: Path) -> Path:
    """Return the first of two run folders in ``folder``, and keep a copy of both."""
    rows = "".join(f"{number},{number * 2 % 7},{'uvw'[number % 3]},{3 * number}\n" for number in range(30))
    (folder / "t.csv").write_text(f"a,b,c,y\n{rows}")
    (folder / "in.csv").write_text("a,b,c\n1,2,u\n3,4,w\n")
    words = ("train", "train.epochs=1", "data=csv", f"data.path={folder / 't.csv'}", "data.target=y")
    with contextlib.chdir(folder):
        for epochs in ("train.evaluate_every_steps=1", "train.seed=1"):
            run_command(*words, epochs, "data.one_hot=['c']", "callbacks.run-folder.name=x")
    shutil.copytree(folder / "runs", folder / "kept")
    return folder / "runs" / "0001-x"


def _file(run: Path, name: str) -> Path:
    if name in ("manifest.json", "state.json"):
        return next((run / "checkpoints").iterdir()) / name
    return run / name


def _store(run: Path, name: str, text: bytes) -> None:
    """Write a file of a run, with the checksums that a forger would write."""
    path = _file(run, name)
    path.write_bytes(text)
    if name == "state.json":
        rehash(path.parent)
    elif name == "manifest.json":
        rehash_manifest(path.parent)
    elif name == "data.json":
        record = json.loads((run / "run.json").read_bytes())
        record["data"] = {"size": len(text), "sha256": hashlib.sha256(text).hexdigest()}
        (run / "run.json").write_text(json.dumps(record))


def _changed(text: bytes) -> Iterator[tuple[tuple[Any, ...], bytes]]:
    """Yield each place in JSON, or in the first two lines of JSON, with each wrong value in it."""
    lines = [json.loads(line) for line in text.splitlines()] if text.startswith(_FIRST_OF_METRICS) else None
    tree = lines or json.loads(text)
    for place in _places(tree):
        for value in VALUES:
            changed = _with(tree, place, value)
            if lines:
                yield place, b"".join(json.dumps(line).encode() + b"\n" for line in changed)
            else:
                yield place, json.dumps(changed).encode()


def _places(tree: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:2]) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*place, key)
        yield from _places(value, (*place, key))


def _with(tree: Any, place: Sequence[Any], value: Any) -> Any:
    copy = json.loads(json.dumps(tree))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copy


def _fault(call: Callable[[], object]) -> str | None:
    """Return what is wrong with the answer to a call: anything but a result, or an error of Hookline, is."""
    try:
        call()
    except HooklineError:
        return None
    except BaseException as error:  # noqa: BLE001 - the finding
        place = traceback.extract_tb(sys.exc_info()[2])[-1]
        return f"{type(error).__name__}: {str(error)[:200]!r} in {Path(place.filename).name}:{place.lineno}"
    return None
