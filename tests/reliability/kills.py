"""SIGKILL on entry to every operation on a file of a run, and of a single save."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from hookline import CheckpointError
from hookline.runs.disk.checkpoint import (
    check_checkpoint,
    checkpoints_in,
    newest_checkpoint,
    prune,
    remove_unfinished,
    write_checkpoint,
)
from reliability import job
from reliability.layer import Layer, killing, under_files


@dataclass
class Report:
    """Results of a number of kills.

    Attributes:
        points: Number of points at which the run was killed.
        operations: Number of operations on files of the uninterrupted run.
        begun_anew: Number of kills before there was a run to resume.
        lost: Violations, in words.
    """

    points: int = 0
    operations: int = 0
    begun_anew: int = 0
    lost: list[str] = field(default_factory=list)

    def values(self) -> dict[str, Any]:
        return asdict(self)


def operations_of_a_run(folder: Path, epochs: int) -> list[str]:
    """Return the operations on files of an uninterrupted run, in order."""
    with under_files(Layer()) as layer:
        # In this process, so that all later children inherit its imports.
        job.begin(folder, epochs)
    return layer.calls


def kill_at(folder: Path, points: Iterable[int], epochs: int, wanted: dict[str, str], report: Report) -> None:
    """Kill a run at each of these operations, resume it, and compare the results."""
    for point in points:
        parent = job.fresh(folder / "runs")

        def struck(parent: Path = parent, point: int = point) -> None:
            with under_files(Layer(point, killing)):
                job.begin(parent, epochs)

        report.points += 1
        ended = job.in_child(struck)
        if not job.expect_kill(ended):
            report.lost.append(f"{point}: not killed, but ended with {ended.code}: {ended.error}")
            continue
        report.lost += [f"{point}: {text}" for text in _resumed(parent, epochs, wanted, report)]


def _resumed(parent: Path, epochs: int, wanted: dict[str, str], report: Report) -> list[str]:
    path = job.run_folder(parent)
    if path is None:
        report.begun_anew += 1
        shutil.rmtree(parent)
        ended = job.in_child(lambda: job.begin(parent, epochs))
        path = job.run_folder(parent)
    else:
        saved = checkpoints_in(path / "checkpoints")
        ended = job.in_child(lambda: job.resume_run(path))
        if saved and not ended.code and job.record_of(path).attempts[-1].from_step != int(saved[0].name.split("-")[1]):
            return ["it did not resume from the newest checkpoint"]
    if ended.code or path is None:
        return [f"resuming ended with {ended.code}: {ended.error} {ended.trace}"]
    faults = [f"other {name}" for name, value in job.digest(path).items() if value != wanted[name]]
    return faults + [f"left {name}" for name in job.left_over(path)]


def kill_points(folder: Path, epochs: int, *, which: slice = slice(None)) -> dict[str, Any]:
    """Kill a run at each operation, or at some of them, and return the results."""
    calls = operations_of_a_run(job.fresh(folder / "whole"), epochs)
    whole = job.run_folder(folder / "whole")
    assert whole is not None
    report = Report(operations=len(calls))
    points = list(range(1, len(calls) + 1))[which]
    kill_at(folder, points, epochs, job.digest(whole), report)
    return report.values()


def kills_of_a_save(folder: Path) -> dict[str, Any]:
    """Kill a save, its check and the removal of the oldest checkpoint at each operation: one of the two survives."""
    place = folder / "checkpoints"
    _prepare(place)
    with under_files(Layer()) as layer:
        _save(place, 30)
    report = Report(operations=len(layer.calls))
    newest = 20
    for point in range(1, len(layer.calls) + 1):
        _prepare(place)

        def struck(point: int = point) -> None:
            with under_files(Layer(point, killing)):
                _save(place, 30)

        report.points += 1
        ended = job.in_child(struck)
        if not job.expect_kill(ended):
            report.lost.append(f"{point}: not killed, but ended with {ended.code}: {ended.error}")
        found = _found(place)
        if found not in (newest, 30):
            report.lost.append(f"{point}: {found}")
        elif found == 30:
            newest = 30  # once saved, it must not disappear
    return report.values()


def _state(step: int) -> dict[str, Any]:
    return {"step": step, "epoch": 1, "position": 0, "model": {"weight": torch.full((64,), float(step))}}


def _save(folder: Path, step: int) -> None:
    check_checkpoint(write_checkpoint(folder, _state(step), run="r"))
    prune(folder, run="r", keep=2, best=lambda _: None, keep_best=0)


def _prepare(folder: Path) -> None:
    job.fresh(folder)
    for step in (10, 20):
        _save(folder, step)


def _found(folder: Path) -> int | str:
    """Return the step of the newest checkpoint, or the fault."""
    remove_unfinished(folder)
    errors: list[CheckpointError] = []
    found = newest_checkpoint(folder, errors.append, run="r")
    if errors or found is None:
        return f"damaged: {errors}"
    is_of_one_step = bool((found.state["model"]["weight"] == found.manifest.step).all())
    return found.manifest.step if is_of_one_step else "mixes several steps"
