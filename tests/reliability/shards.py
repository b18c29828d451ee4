"""SIGKILL of each rank on entry to every operation of a checkpoint that all ranks write, and damage to its files."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed.tensor
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

import hookline.ranks.process_group
from hookline import CheckpointError, Run, load_config, resume
from hookline.engine import Ranks
from hookline.runs.disk.checkpoint import (
    checkpoints_in,
    manifest_of,
    newest_checkpoint,
    prune,
    remove_unfinished,
)
from hookline.runs.disk.together import SaveTogether
from rank_runs import inexact_steps
from reliability import job
from reliability.layer import Layer, killing, under_files
from several import in_ranks

SHAPES = {"a": (7, 3), "b": (1,), "c": (4,)}
"""Of the tensors of a state: of an uneven one, and of one without a part on rank 1."""


def values(step: int) -> dict[str, Tensor]:
    """Return the tensors of a state, whole."""
    return {
        name: step + torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
        for name, shape in SHAPES.items()
    }


def state_of(step: int, mesh: Any, placements: Sequence[Any]) -> dict[str, Any]:
    """Return a state with tensors that are shared out, and one that is not."""
    distribute: Any = torch.distributed.tensor.distribute_tensor
    shared_out = {
        name: distribute(
            value, mesh, [one if value.ndim > getattr(one, "dim", -1) else REPLICATE for one in placements]
        )
        for name, value in values(step).items()
    }
    return {"step": step, "epoch": 1, "position": 0, "model": shared_out, "rest": torch.tensor([step])}


SHARD: Any = torch.distributed.tensor.Shard(0)
REPLICATE: Any = torch.distributed.tensor.Replicate()


def save(ranks: Ranks, folder: Path, step: int, state: Mapping[str, Any] | None = None) -> Path:
    """Save a state of a step by all ranks, and remove the oldest."""
    if state is None:
        state = state_of(step, init_device_mesh("cpu", (ranks.world_size,)), [SHARD])
    manifest = partial(manifest_of, state, run="r", metrics={}, identity={})
    saving = SaveTogether(ranks, state, lambda: (folder, state, manifest))
    saving.write()
    path = saving.complete()
    if ranks.is_zero:
        prune(folder, run="r", keep=2, best=lambda _: None, keep_best=0)
    return path


def prepare(folder: Path) -> None:
    """Make a folder with the checkpoints of steps 10 and 20."""
    job.fresh(folder)
    told = in_ranks(2, lambda ranks: [str(save(ranks, folder, step)) for step in (10, 20)])
    assert told[0] == told[1], told


def found_in(folder: Path) -> int | str:
    """Return the step of the newest checkpoint, or the fault."""
    remove_unfinished(folder)
    errors: list[CheckpointError] = []
    found = newest_checkpoint(folder, errors.append, run="r")
    if errors or found is None:
        return f"damaged: {errors}"
    step = found.manifest.step
    is_of_one_step = all(torch.equal(value, found.state["model"][name]) for name, value in values(step).items())
    return step if is_of_one_step and found.state["rest"].tolist() == [step] else "mixes several steps"


def operations_of_ranks(folder: Path) -> list[list[str]]:
    """Return the operations on files of each rank in a save, in order."""

    def counted(ranks: Ranks) -> list[str]:
        with under_files(Layer()) as layer:
            save(ranks, folder, 30)
        return layer.calls

    return in_ranks(2, counted)


def kills_of_a_save(folder: Path, which: slice = slice(None)) -> dict[str, Any]:
    """Kill each rank at each of its operations of a save: one of the two checkpoints survives, and no remains."""
    place, kept = folder / "checkpoints", folder / "kept"
    prepare(kept)
    shutil.copytree(kept, place)
    operations = operations_of_ranks(place)
    lost: list[str] = []
    ends: dict[str, int] = {}
    points = [(rank, point) for rank in range(2) for point in range(1, len(operations[rank]) + 1)][which]
    newest = [20, 20]
    for rank, point in points:
        shutil.rmtree(place)
        shutil.copytree(kept, place)
        found = _after_kill(place, rank, point)
        if found not in (newest[rank], 30):
            lost.append(f"rank {rank} at {point}, {operations[rank][point - 1]}: {found}")
        elif found == 30:
            newest[rank] = 30  # once saved, it must not disappear
        ends[str(found)] = ends.get(str(found), 0) + 1
    return {"points": len(points), "operations": [len(one) for one in operations], "ends": ends, "lost": lost}


def _after_kill(place: Path, rank: int, point: int) -> int | str:
    def struck(ranks: Ranks) -> Any:
        vars(hookline.ranks.process_group)["_ANSWER_S"] = 0.2
        at = point if ranks.rank == rank else None
        with under_files(Layer(at, killing)):
            return str(save(ranks, place, 30))

    results = in_ranks(2, struck)
    told = results[1 - rank]
    if results[rank] is not None:
        return f"not killed: {results[rank]}"
    if isinstance(told, dict) and told["error"] != "PeerError":
        return f"the other rank ended with {told}"
    return found_in(place)


# ---- whole runs ------------------------------------------------------------------------------------------------------


def kills_of_runs(folder: Path, which: slice) -> dict[str, Any]:
    """Kill each rank of a run at operations on its files, resume it, and compare the results."""
    whole = job.fresh(folder / "whole")
    operations = in_ranks(2, lambda ranks: _trained(ranks, whole, Layer()))
    wanted = job.digest(next(whole.glob("0*-job")))
    points = [(rank, point) for rank in range(2) for point in range(1, len(operations[rank]) + 1)][which]
    lost: list[str] = []
    resumed = 0
    for rank, point in points:
        parent = job.fresh(folder / "runs")
        faults, is_resumed = _resumed_after_kill(parent, rank, point, wanted)
        resumed += is_resumed
        lost += [f"rank {rank} at {point}, {operations[rank][point - 1]}: {fault}" for fault in faults]
    return {"points": len(points), "resumed": resumed, "lost": lost}


def _trained(ranks: Ranks, parent: Path, layer: Layer) -> list[str]:
    vars(hookline.ranks.process_group)["_ANSWER_S"] = 0.2
    config = job.config(parent) | {"parallel": {"use": "fsdp", "wrap": ["Linear"]}}
    with under_files(layer):
        Run(load_config(config), ranks=ranks).fit()
    return layer.calls


def _resumed_after_kill(parent: Path, rank: int, point: int, wanted: dict[str, str]) -> tuple[list[str], bool]:
    def struck(ranks: Ranks) -> Any:
        return _trained(ranks, parent, Layer(point if ranks.rank == rank else None, killing))

    if in_ranks(2, struck)[rank] is not None:
        return ["not killed"], False
    if (path := job.run_folder(parent)) is None:
        return [], False
    saved = bool(checkpoints_in(path / "checkpoints"))
    told = in_ranks(2, lambda ranks: [resume(path, ranks=ranks).fit().outcome, ranks.gather(None)][0])
    if told != ["completed"] * 2:
        return [f"not resumed: {told}"], saved
    faults = [f"other {name}" for name, value in job.digest(path).items() if value != wanted[name]]
    return faults + [f"left {name}" for name in job.left_over(path)], saved


def inexact_resumes(_: Path, steps: range = range(1, 61)) -> dict[str, Any]:
    """Resume a run of two ranks after each of 60 steps: it ends with the bits of the whole run."""
    lost = []
    strategies: tuple[Any, ...] = ("ddp", {"use": "fsdp", "wrap": ["Linear"]})
    few = [steps[number : number + 5] for number in range(0, len(steps), 5)]  # so that processes end in time
    for parallel, some in itertools.product(strategies, few):
        for rank, told in enumerate(in_ranks(2, partial(inexact_steps, steps=some, parallel=parallel))):
            if isinstance(told, dict) or told[0]:
                lost.append(f"{parallel}, rank {rank}: {told}")
    return {"points": 2 * len(steps), "lost": lost}


# ---- damage ----------------------------------------------------------------------------------------------------------


def damaged(path: Path, other: Path) -> Iterable[tuple[str, str, Callable[[], object]]]:
    """Yield the ways to damage the checkpoint ``path``: the file, what is wrong with it, and a function that does it.

    Args:
        path: The checkpoint.
        other: Another one of the same run.
    """
    for name in sorted(entry.name for entry in path.iterdir()):
        file, twin = path / name, _twin(path / name)
        ways: dict[str, Callable[[], object]] = {
            "missing": file.unlink,
            "cut off": partial(_changed, file, lambda data: data[:-1]),
            "longer": partial(_changed, file, lambda data: data + b" "),
            "flipped": partial(_changed, file, _flipped),
            "a folder": partial(_made_a_folder, file),
            "of another checkpoint": partial(shutil.copy, other / name, file),
            "swapped": partial(_swap, file, twin),
        }
        if (other / name).read_bytes() == file.read_bytes():
            del ways["of another checkpoint"]
        if twin is None:
            del ways["swapped"]
        yield from ((name, what, damage) for what, damage in ways.items())


def _twin(file: Path) -> Path | None:
    return next(file.parent.glob("shard-00002-*")) if file.name.startswith("shard-00001-") else None


def _changed(file: Path, change: Callable[[bytes], bytes]) -> None:
    file.write_bytes(change(file.read_bytes()))


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


def _made_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _swap(first: Path, second: Path | None) -> None:
    assert second is not None
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def damages(folder: Path) -> dict[str, Any]:
    """Damage each file of a checkpoint in each way: it is noticed, named with a remedy, and the one before is used."""
    kept, place = folder / "kept", folder / "checkpoints"
    prepare(kept)
    lost: list[str] = []
    kinds = [(name, what) for name, what, _ in damaged(*checkpoints_in(kept))]
    for number, (name, what) in enumerate(kinds):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(kept, place)
        newest, before = checkpoints_in(place)
        [*damaged(newest, before)][number][2]()
        errors: list[CheckpointError] = []
        found = newest_checkpoint(place, errors.append, run="r")
        text = str(errors)
        if found is None or found.manifest.step != 10 or len(errors) != 1 or not (name in text or "manifest" in text):
            lost.append(f"{name} {what}: {found and found.manifest.step}, {errors}")
        elif "manifest" not in name and not errors[0].hint:
            lost.append(f"{name} {what}: no remedy: {errors[0]}")
    return {"points": len(kinds), "lost": lost}
