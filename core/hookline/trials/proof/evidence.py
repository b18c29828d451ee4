"""Evidence of a proof of resume: the files of its two runs, and how to read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hookline.runs.disk.checkpoint import checkpoints_in, read_checkpoint, read_manifest
from hookline.runs.folder import METRICS, read_model
from hookline.runs.record import read_record
from hookline.trials.proof.kills import Place

NOT_COMPARED = ("used_s", "warnings")
"""Parts of a state that depend on the clock or on the interruptions."""


@dataclass(frozen=True)
class Evidence:
    """Files that the processes of a proof have left.

    Attributes:
        whole: Folder of the run that was never interrupted.
        resumed: Folder of the run that was killed.
        seen: Folder of the contents of their plugins.
        besides: Tables of the plugins that save the runs for the proof: their contents are about their own files.
        begun: Place where each process of the killed run started: (0, 0) for the first.
    """

    whole: Path
    resumed: Path
    seen: Path
    besides: frozenset[str]
    begun: Sequence[Place]


def checkpoints_of(folder: Path) -> dict[Place, Path]:
    """Return the checkpoints of a run by their place in it, the oldest first."""
    return {_place_of(path): path for path in reversed(checkpoints_in(folder / "checkpoints"))}


def state_of(checkpoint: Path) -> dict[str, Any]:
    """Return the state that a checkpoint holds, without the parts that are not compared."""
    return {key: value for key, value in read_checkpoint(checkpoint).state.items() if key not in NOT_COMPARED}


def metrics_of(folder: Path) -> dict[str, str]:
    """Return the lines of metrics of a run by their number: ``line 1``."""
    lines = (folder / METRICS).read_text().splitlines()
    return {f"line {number}": line for number, line in enumerate(lines, 1)}


def end_of(folder: Path) -> dict[str, Any]:
    """Return the end of a run: its status, its steps and epochs, and its final weights."""
    record = read_record(folder)
    weights = read_model(folder) if record.model else {}
    return {"status": record.status, "step": record.step, "epochs": record.epochs, "model": weights}


def _place_of(checkpoint: Path) -> Place:
    manifest = read_manifest(checkpoint)
    return manifest.step, manifest.epoch - bool(manifest.position)
