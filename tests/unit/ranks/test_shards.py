"""Checkpoints of which each rank writes its part, and any number of ranks reads what it needs."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch.distributed.device_mesh import init_device_mesh

from hookline import CheckpointError, Run, resume
from hookline.engine import Ranks
from hookline.runs import RunFolder, begin_save, give_folder, read_checkpoint
from hookline.runs.disk import together
from hookline.runs.disk.checkpoint import CHECKPOINTS, check_checkpoint, checkpoints_in, read_manifest
from hookline.runs.disk.durable_files import TEMPORARY
from hookline.runs.disk.encoding import DTYPES, encode, safetensors_in_pieces
from hookline.runs.disk.shards import Part, ShardFile, StoredTensor, stored_tensors
from hookline.runs.listing import checkpoint_rows
from hookline.runs.removal import check_removable
from hookline.trained import read_weights
from rank_runs import data, is_equal, run_of, same
from reliability import shards
from reliability.layer import WRITING, Layer, failing, under_files
from several import in_ranks

FSDP = {"use": "fsdp", "wrap": ["Linear"]}
PLUGINS = {"data": data()}


def job(ranks: Ranks | None, folder: Path, parallel: Any = FSDP, **checkpoint: Any) -> Run:
    """Return a run of ten steps that saves after each third."""
    callbacks = {
        "averaging": {"decay": 0.5},
        "best": {"restore": True},
        "run-folder": {"parent": str(folder), "name": "it"},
        "checkpoint": {"every_s": 0, "every_steps": 3, "keep": 9, **checkpoint},
    }
    return run_of(ranks, parallel=parallel, optimizer={"use": "adamw", "lr": 0.01}, callbacks=callbacks)


def parts(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a state that do not depend on the number of ranks."""
    names = ("model", "optimizer", "evaluated_weights", "plugins", "step", "history", "examples")
    found = {name: state[name] for name in names}
    plugins = {name: value for name, value in state["plugins"].items() if "run-folder" not in name}
    return {**found, "plugins": plugins}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """The folder of a run of two ranks, and the whole states that each of them had after each third step."""
    folder = tmp_path_factory.mktemp("runs")

    def task(ranks: Ranks) -> Any:
        run = job(ranks, folder)
        states = [parts(ranks.whole(run.state_dict())) for step in run.steps() if step.step % 3 == 0]
        return [*states, ranks.gather(None)][:-1]

    first, second = in_ranks(2, task)
    assert is_equal(first, second), first
    return folder / "0001-it", first


def test_each_rank_writes_its_part_and_one_process_reads_the_whole(saved: tuple[Path, list[Any]]) -> None:
    folder, states = saved
    paths = checkpoints_in(folder / CHECKPOINTS)
    assert [read_manifest(path).step for path in paths] == [10, 9, 6, 3]
    for path, state in zip(paths[1:], reversed(states), strict=True):
        found = read_checkpoint(path).state
        assert is_equal({**found["model"]}, state["model"])
        assert is_equal(found["optimizer"], state["optimizer"])
        assert is_equal(found["plugins"]["callbacks.averaging"], state["plugins"]["callbacks.averaging"])
        sizes = [(path / f"shard-0000{number}-of-00002.safetensors").stat().st_size for number in (1, 2)]
        assert sizes[1] > 0.4 * sizes[0]
        assert len(load((path / "model.safetensors").read_bytes())) == 0
    assert read_weights(folder, "step-000000000006-epochs-1").step == 6
    assert [row.problem for row in checkpoint_rows(folder)] == [None] * 4
    check_removable(folder)


@pytest.mark.parametrize(("first", "then"), [((1, "ddp"), (2, FSDP)), ((3, FSDP), (2, "ddp"))], ids=["1, 2", "3, 2"])
def test_a_state_in_parts_is_loaded_to_the_last_bit_by_ranks(
    saved: tuple[Path, list[Any]], tmp_path: Path, first: tuple[int, Any], then: tuple[int, Any]
) -> None:
    """By another number of ranks than wrote it, and what they save by two again."""
    folder, states = saved
    there = copied(folder, tmp_path, keep=6)

    def task(use: Any) -> Any:
        def of_ranks(ranks: Ranks) -> Any:
            run = resume(there, {"parallel": use}, plugins=PLUGINS, ranks=ranks)
            run.interrupt("to look at it")  # its plugins load their states, it is saved, and no step is taken
            run.fit()
            return parts(ranks.gather(ranks.whole(run.state_dict()))[0])

        return of_ranks

    for world_size, use in (first, then):
        for loaded in in_ranks(world_size, task(use)):
            assert "error" not in loaded, loaded
            for name in ("model", "optimizer", "evaluated_weights"):
                assert is_equal(loaded[name], states[1][name]), name
            for name in ("callbacks.averaging", "callbacks.best"):
                assert is_equal(loaded["plugins"][name], states[1]["plugins"][name]), name


def copied(folder: Path, parent: Path, keep: int) -> Path:
    """Copy the folder of a run, with the checkpoints up to a step."""
    there = parent / folder.name
    shutil.copytree(folder, there)
    for path in checkpoints_in(there / CHECKPOINTS):
        if read_manifest(path).step > keep:
            shutil.rmtree(path)
    return there


def test_a_run_resumes_exactly_from_its_files_and_passes_over_a_damaged_one(
    saved: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    folder, _ = saved
    there = copied(folder, tmp_path, keep=9)
    path = checkpoints_in(there / CHECKPOINTS)[0] / "shard-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")

    def task(ranks: Ranks) -> Any:
        run = resume(there, plugins=PLUGINS, ranks=ranks)
        begun = run.step
        run.fit()
        return [begun, run.warnings, ranks.gather(None)][:2]

    (begun, warnings), (of_other, _) = in_ranks(2, task)
    assert (begun, of_other) == (6, 6)
    [text] = [text for text in warnings if "damaged" in text]
    assert "shard-00002-of-00002.safetensors does not match its checksum; using an older checkpoint" in text
    newest = [checkpoints_in(one / CHECKPOINTS)[0] for one in (folder, there)]
    first, second = (parts(read_checkpoint(one).state) for one in newest)
    assert is_equal(first, second)
    assert [*there.glob(f"{CHECKPOINTS}/damaged-step-000000000009-*")]


def test_every_damage_to_a_file_is_noticed_and_the_checkpoint_before_is_used(tmp_path: Path) -> None:
    found = shards.damages(tmp_path)
    assert found["lost"] == []
    assert found["points"] > 40


def test_a_kill_of_either_rank_leaves_the_old_or_the_new_checkpoint(tmp_path: Path) -> None:
    found = shards.kills_of_a_save(tmp_path, slice(18, None, 38))
    assert found["lost"] == []
    assert found["points"] == 4
    assert found["ends"].keys() == {"20", "30"}


def test_a_save_that_fails_on_one_rank_is_none_on_all_and_the_run_goes_on(tmp_path: Path) -> None:
    def task(ranks: Ranks) -> Any:
        at = 2 if ranks.rank == 1 else None  # the first write of rank 1
        with under_files(Layer(at, failing(errno.ENOSPC), operations=WRITING)):
            run = job(ranks, tmp_path)
            run.fit()
        return [run.outcome, run.warnings, ranks.gather(None)][:2]

    for outcome, warnings in in_ranks(2, task):
        assert outcome == "completed"
        [text] = warnings
        assert text.startswith("the state was not saved, and the run continues: rank 1: ")
        assert "shard-00002-of-00002.safetensors cannot be written: No space left on device (ENOSPC)" in text
    paths = checkpoints_in(tmp_path / "0001-it" / CHECKPOINTS)
    assert [check_checkpoint(path).step for path in paths] == [10, 9, 6]
    assert [*tmp_path.rglob(f"{TEMPORARY}*")] == []


def test_a_rank_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    def task(ranks: Ranks) -> Any:
        run = run_of(ranks, parallel=FSDP)
        if ranks.is_zero:
            give_folder(run, RunFolder.claim(tmp_path, "it"))
        save = begin_save(run, metrics={}, identity={})
        assert save is not None
        if ranks.rank == 1:
            vars(save)["_new"] = tmp_path / "elsewhere" / "new"
        save.write()
        with pytest.raises(CheckpointError) as caught:
            save.complete()
        return [caught.value.message, caught.value.hint]

    for message, hint in in_ranks(2, task):
        assert "rank 1: " in message
        assert "No such file or directory" in message
        assert hint == "put the folder of the runs on a file system that all ranks see"


def test_checkpoints_that_one_rank_does_not_see_are_left_alone(saved: tuple[Path, list[Any]], tmp_path: Path) -> None:
    there = copied(saved[0], tmp_path, keep=9)
    names = [path.name for path in checkpoints_in(there / CHECKPOINTS)]

    def task(ranks: Ranks) -> Any:
        if ranks.rank == 1:  # as on a machine with a disk of its own
            vars(together)["Path"] = lambda path: tmp_path / "elsewhere" / Path(path).name
        return resume(there, plugins=PLUGINS, ranks=ranks).step

    first, _ = in_ranks(2, task)
    assert first["error"] == "UnreadableError"
    assert "rank 1: " in first["text"]
    assert "is not there\n  = put the folder of the runs on a file system that all ranks see" in first["text"]
    assert [path.name for path in checkpoints_in(there / CHECKPOINTS)] == names


def test_a_program_that_leaves_a_run_drops_what_its_ranks_write_in_the_background(tmp_path: Path) -> None:
    def task(ranks: Ranks) -> Any:
        run = job(ranks, tmp_path, in_background=True, every_steps=1)
        for step in run.steps():
            if step.step == 4:
                break
        return [run.step, ranks.gather(None)][:1]

    assert in_ranks(2, task) == [[4]] * 2
    paths = checkpoints_in(tmp_path / "0001-it" / CHECKPOINTS)
    assert paths
    assert {check_checkpoint(path).step for path in paths} < {1, 2, 3, 4}
    assert [*tmp_path.rglob(f"{TEMPORARY}*")] == []


def test_parts_are_written_in_the_background_and_completed_by_all(tmp_path: Path) -> None:
    def task(ranks: Ranks) -> Any:
        run = job(ranks, tmp_path, in_background=True)
        run.fit()
        return [run.outcome, run.warnings, ranks.gather(None)][:2]

    assert in_ranks(2, task) == [["completed", []]] * 2
    paths = checkpoints_in(tmp_path / "0001-it" / CHECKPOINTS)
    assert [check_checkpoint(path).step for path in paths] == [10, 9, 6, 3]


def test_tensors_cut_in_two_dimensions_and_kept_twice_are_written_once(tmp_path: Path) -> None:
    def task(ranks: Ranks) -> Any:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
        placements = {
            10: [shards.REPLICATE, shards.SHARD],
            20: [shards.SHARD, torch.distributed.tensor.Shard(1)],
        }
        return [
            str(shards.save(ranks, tmp_path, step, shards.state_of(step, mesh, placements[step]))) for step in (10, 20)
        ]

    for path in in_ranks(4, task)[0]:
        checkpoint = read_checkpoint(path)
        assert same(checkpoint.state["model"], shards.values(checkpoint.manifest.step))
        sizes = [len(load((Path(path) / name).read_bytes())) for name in checkpoint.manifest.files if "shard-" in name]
        assert sum(sizes) == {10: 5, 20: 7}[checkpoint.manifest.step]


class Boxes:
    """A file that holds parts of a tensor, in place of one on the disk."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def tensor(self, _name: str, _dtype: torch.dtype, _sizes: Any) -> torch.Tensor:
        return self.values


def test_any_box_of_a_tensor_is_read_from_the_parts_that_overlap_it() -> None:
    whole = torch.arange(35).reshape(5, 7)
    cuts = [((0, 0), (2, 3)), ((0, 3), (2, 4)), ((2, 0), (3, 3)), ((2, 3), (3, 4))]
    files: Any = {
        str(number): Boxes(whole[at[0] : at[0] + size[0], at[1] : at[1] + size[1]])
        for number, (at, size) in enumerate(cuts)
    }
    there = [Part(str(number), *box) for number, box in enumerate(cuts)]
    stored = StoredTensor("x", torch.int64, whole.shape, there, files)
    for top in range(5):
        for left in range(7):
            box = stored.read((top, left), (5 - top, 7 - left))
            assert torch.equal(box, whole[top:, left:])
    assert torch.equal(stored.read((1, 2), (2, 3)), whole[1:3, 2:5])
    assert stored.read((1, 2), (0, 3)).shape == (0, 3)
    with pytest.raises(CheckpointError, match="x is not complete: 29 of 35 values are there"):
        StoredTensor("x", torch.int64, whole.shape, there[1:], files).whole()


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "complex128"},
        {"shape": [2**70]},
        {"shape": [2**60], "parts": []},
        {"shape": [2**60], "parts": [{"file": "a", "offsets": [0], "sizes": [2**60]}]},
        {"shape": [-4]},
        {"parts": [{"file": "../a", "offsets": [0], "sizes": [4]}]},
        {"parts": [{"file": "a", "offsets": [0, 0], "sizes": [4, 1]}]},
        {"parts": [{"file": "a", "offsets": [-4], "sizes": [4]}]},
        {"parts": [{"file": "a", "offsets": [2], "sizes": [4]}]},
        {"parts": "a"},
    ],
)
def test_a_description_of_parts_that_is_not_true_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"".join(safetensors_in_pieces({"x": torch.arange(4)})))
    parts = [{"file": "a", "offsets": [0], "sizes": [4]}]
    one = {"dtype": "int64", "shape": [4], "parts": parts}
    for changed in ({}, change):
        text = json.dumps({"world_size": 1, "mesh": {}, "tensors": {"x": one | changed}}).encode()
        if changed:
            with pytest.raises(CheckpointError):
                stored_tensors(text, {"a": ShardFile(path)})["x"].whole()
        else:
            assert stored_tensors(text, {"a": ShardFile(path)})["x"].whole().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_a_file_in_pieces_is_what_safetensors_reads(dtype: torch.dtype) -> None:
    tensors = {
        "b": torch.arange(6).reshape(2, 3).to(dtype),
        "a": torch.arange(3),
        "empty": torch.empty(0, 2, dtype=dtype),
        "one": torch.ones((), dtype=dtype),
        "turned": torch.arange(6).reshape(2, 3).to(dtype).T,
    }
    found = load(b"".join(safetensors_in_pieces(tensors)))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].tolist() == tensor.tolist()


def test_a_tensor_that_is_shared_out_is_set_aside_where_that_is_expected(tmp_path: Path) -> None:
    def task(ranks: Ranks) -> Any:
        mesh = init_device_mesh("cpu", (ranks.world_size,))
        state = shards.state_of(1, mesh, [shards.SHARD])
        found: dict[str, Any] = {}
        tree, tensors = encode(state, shared_out=found)
        refused = {"x": state["model"]["a"].to(torch.complex128)}
        with pytest.raises(CheckpointError, match=r"x is a tensor of dtype torch\.complex128, shared out as"):
            encode(refused, shared_out={})
        return [tree["model"], [*tensors], [*found]]

    names = ["model/a", "model/b", "model/c"]
    tree = {name.removeprefix("model/"): {"$tensor": name} for name in names}
    assert in_ranks(2, task) == [[tree, ["rest"], names]] * 2
