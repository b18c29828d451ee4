"""The run under attack: small, with everything that makes exact resuming hard, and the digest of its results."""

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
_NOT_COMPARED = ("used_s", "warnings", "summary")  # times, and reports along the way


def config(parent: Path, epochs: int = 3, **checkpoint: Any) -> dict[str, Any]:
    """Return a config with dropout, momentum, a schedule, a new order and evaluations in each epoch of 20 steps."""
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


def resume_run(path: Path) -> list[str]:
    """Resume a run and take its remaining steps; return its warnings."""
    run = resume(path)
    run.fit()
    return run.warnings


def run_folder(parent: Path) -> Path | None:
    """Return the folder of the run in ``parent``; None if it was not begun, or left nothing to resume."""
    found = [path for path in parent.glob("0*-job") if (path / "config.toml").exists()]
    return found[0] if found else None


def record_of(path: Path) -> RunRecord:
    return msgspec.json.decode((path / "run.json").read_bytes(), type=RunRecord)


def digest(path: Path) -> dict[str, str]:
    """Return hashes of the results that must not depend on interruptions: weights, metrics, and the last state."""
    state = read_checkpoint(checkpoints_in(path / "checkpoints")[0]).state
    tree, tensors = encode({name: part for name, part in state.items() if name not in _NOT_COMPARED})
    return {
        "weights": _sum((path / "model.safetensors").read_bytes()),
        "metrics": _sum((path / "metrics.jsonl").read_bytes()),
        "state": _sum(json.dumps(tree, sort_keys=True).encode()),
        "tensors": _sum(b"".join(name.encode() + _bytes(tensors[name]) for name in sorted(tensors))),
    }


def left_over(path: Path) -> list[str]:
    """Return the remains of interrupted programs, which a resumed run must remove."""
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
        value: The value that its function returned.
        error: The error that it raised, in one line.
        trace: The traceback of an unexpected error.
    """

    code: int
    value: Any = None
    error: str = ""
    trace: str = ""
    notes: list[str] = field(default_factory=list)


def in_child(function: Callable[[], Any]) -> Ended:
    """Call ``function`` in a fork of this process: torch is already imported, and side effects stay in the child."""
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
    except BaseException as error:  # noqa: BLE001 - it is reported to the parent
        return 99, {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}


def expect_kill(ended: Ended) -> bool:
    return ended.code == -signal.SIGKILL


def fresh(folder: Path) -> Path:
    """Return ``folder``, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
