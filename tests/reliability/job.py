"""The run that is struck: small, with all that makes going on exactly hard, and the digest of what it leaves."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch

from hookline import HooklineError, Run, load_config, resume
from hookline.runs import RunRecord, read_checkpoint
from hookline.runs.disk.checkpoint import checkpoints_in
from hookline.runs.disk.durable_files import TEMPORARY
from hookline.runs.disk.encoding import encode

EVERY_STEPS = 5
STEPS = 60
_NOT_COMPARED = ("used_s", "warnings", "summary")  # times, and what was told on the way


def config(parent: Path, epochs: int = 3, **checkpoint: Any) -> dict[str, Any]:
    """Dropout, momentum, a schedule, an order of its own for each epoch, evaluations within epochs; 20 steps each."""
    return {
        "train": {"epochs": epochs, "batch_size": 10, "seed": 3, "evaluate_every_steps": 7},
        "data": {"num_examples": 200},
        "model": {"use": "mlp", "hidden": [8], "dropout": 0.2},
        "optimizer": {"use": "adamw", "lr": 0.01},
        "callbacks": {
            "lr-schedule": {"scheduler": "cosine-annealing", "interval": "step"},
            "run-folder": {"parent": str(parent), "name": "job"},
            "checkpoint": {"every_s": 0, "every_steps": EVERY_STEPS, "keep": 2} | checkpoint,
        },
    }


def begin(parent: Path, epochs: int = 3, **checkpoint: Any) -> list[str]:
    """Take all steps of a new run; return its warnings."""
    run = Run(load_config(config(parent, epochs, **checkpoint)))
    run.fit()
    return run.warnings


def go_on(path: Path) -> list[str]:
    """Take all steps that are left; return the warnings."""
    run = resume(path)
    run.fit()
    return run.warnings


def run_folder(parent: Path) -> Path | None:
    """Return the folder of the run in ``parent``; None if it was not begun, or left nothing to begin with."""
    found = [path for path in parent.glob("0*-job") if (path / "config.toml").exists()]
    return found[0] if found else None


def record_of(path: Path) -> RunRecord:
    return msgspec.json.decode((path / "run.json").read_bytes(), type=RunRecord)


def digest(path: Path) -> dict[str, str]:
    """Return what must be the same however often the run was interrupted: weights, metrics, and the last state."""
    state = read_checkpoint(checkpoints_in(path / "checkpoints")[0]).state
    tree, tensors = encode({name: part for name, part in state.items() if name not in _NOT_COMPARED})
    return {
        "weights": _sum((path / "model.safetensors").read_bytes()),
        "metrics": _sum((path / "metrics.jsonl").read_bytes()),
        "state": _sum(json.dumps(tree, sort_keys=True).encode()),
        "tensors": _sum(b"".join(name.encode() + _bytes(tensors[name]) for name in sorted(tensors))),
    }


def left_over(path: Path) -> list[str]:
    """Return what an interrupted program left that a run that went on must have removed."""
    return [str(found.relative_to(path)) for found in path.rglob(f"{TEMPORARY}*")]


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@dataclass
class Ended:
    """How a child process ended.

    Attributes:
        code: Its exit code, negative for a signal.
        value: What its function returned.
        error: What it raised, in one line.
        trace: The traceback of what nobody had foreseen.
    """

    code: int
    value: Any = None
    error: str = ""
    trace: str = ""
    notes: list[str] = field(default_factory=list)


def in_child(function: Callable[[], Any]) -> Ended:
    """Call ``function`` in a copy of this process: torch is there already, and whatever happens stays there."""
    sys.stdout.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        code, told = _outcome(function)
        with os.fdopen(writer, "w") as stream:
            json.dump(told, stream)
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    _, status = os.waitpid(pid, 0)
    told = json.loads(text) if text else {}
    return Ended(os.waitstatus_to_exitcode(status), **told)


def _outcome(function: Callable[[], Any]) -> tuple[int, Mapping[str, Any]]:
    try:
        return 0, {"value": function()}
    except HooklineError as error:
        return error.exit_code, {"error": f"{type(error).__name__}: {error}"}
    except BaseException as error:  # noqa: BLE001 - it is told to the parent
        return 99, {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}


def expect_kill(ended: Ended) -> bool:
    return ended.code == -signal.SIGKILL


def fresh(folder: Path) -> Path:
    """Return ``folder``, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
