"""Checkpoints: complete or not at all, and every alteration is found before anything is used."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pickle
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hookline.engine.errors import CheckpointError
from hookline.runs.disk import checkpoint as module
from hookline.runs.disk.checkpoint import (
    Checkpoint,
    check_checkpoint,
    checkpoints_in,
    newest_checkpoint,
    prune,
    read_checkpoint,
    read_manifest,
    remove_unfinished,
    write_checkpoint,
)
from reliability.layer import WRITING, Layer, failing, under_files
from support import HANG_S

FILES = ("manifest.json", "manifest.sha256", "model.safetensors", "state.json", "state.safetensors")
RUN = "0123456789abcdef"


def state_of(step: int, epoch: int = 1, position: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    return {
        "step": step,
        "epoch": epoch,
        "position": position,
        "model": {"weight": torch.rand(8, 4, generator=generator), "bias": torch.zeros(4)},
        "optimizer": {"state": {0: {"exp_avg": torch.rand(8, 4, generator=generator)}}, "betas": (0.9, 0.999)},
        "history": [{"train/loss": 0.1 * step}],
    }


def write(folder: Path, step: int, *, run: str = RUN, **metrics: float) -> Path:
    return write_checkpoint(folder, state_of(step), run=run, metrics=metrics)


def same(first: Checkpoint, step: int) -> bool:
    wanted = state_of(step)
    return (
        torch.equal(first.state["model"]["weight"], wanted["model"]["weight"])
        and torch.equal(first.state["optimizer"]["state"][0]["exp_avg"], wanted["optimizer"]["state"][0]["exp_avg"])
        and first.state["history"] == wanted["history"]
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rehash(path: Path) -> None:
    """Make the checksums of a checkpoint match again, as a forger would."""
    manifest = json.loads((path / "manifest.json").read_text())
    for name in manifest["files"]:
        data = (path / name).read_bytes()
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    sign(path, json.dumps(manifest).encode())


def sign(path: Path, manifest: bytes) -> None:
    (path / "manifest.json").write_bytes(manifest)
    (path / "manifest.sha256").write_text(f"{hashlib.sha256(manifest).hexdigest()}  manifest.json\n")


def edit(path: Path, **changes: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    sign(path, json.dumps(manifest | changes).encode())


def found(folder: Path) -> tuple[int | None, list[str]]:
    told: list[str] = []
    checkpoint = newest_checkpoint(folder, lambda error: told.append(error.message), run=RUN)
    return (checkpoint.manifest.step if checkpoint else None), told


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with the checkpoints of two steps."""
    for step in (10, 20):
        write(tmp_path, step)
    return tmp_path


# ---- writing --------------------------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_written(tmp_path: Path) -> None:
    path = write(tmp_path, 300, loss=0.5)
    assert path.name == "step-000000000300-epochs-1"
    assert names(path) == sorted(FILES)
    checkpoint = read_checkpoint(path)
    assert same(checkpoint, 300)
    assert (checkpoint.manifest.step, checkpoint.manifest.metrics) == (300, {"loss": 0.5})
    assert check_checkpoint(path) == checkpoint.manifest
    assert checkpoint.manifest.time.utcoffset() is not None


def test_the_sums_are_those_that_other_programs_make(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    manifest = (path / "manifest.json").read_bytes()
    assert (path / "manifest.sha256").read_text().split() == [hashlib.sha256(manifest).hexdigest(), "manifest.json"]
    for name, wanted in json.loads(manifest)["files"].items():
        data = (path / name).read_bytes()
        assert wanted == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_the_count_of_epochs_is_of_those_that_were_ended(tmp_path: Path) -> None:
    middle = write_checkpoint(tmp_path, state_of(25, epoch=2, position=5), run=RUN)
    end = write_checkpoint(tmp_path, state_of(40, epoch=2, position=0), run=RUN)
    assert [path.name[-8:] for path in (middle, end)] == ["epochs-1", "epochs-2"]


def test_steps_have_no_end(tmp_path: Path) -> None:
    paths = [write(tmp_path, step) for step in (2**31, 2**53 + 1, 10**12 - 1, 10**12)]
    assert checkpoints_in(tmp_path) == sorted(paths, key=lambda p: -int(p.name.split("-")[1]))
    assert [read_manifest(path).step for path in paths] == [2**31, 2**53 + 1, 10**12 - 1, 10**12]


def test_every_file_and_then_the_folder_and_then_its_name_reach_the_disk(tmp_path: Path) -> None:
    with under_files(Layer(operations=WRITING)) as layer:
        write(tmp_path, 1)
    a_file = ["open", "write", "fsync", "close"]
    assert layer.calls == ["open", "mkdir", "open", *5 * a_file, "fsync", "close", "rename", "fsync", "close"]


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES], ids=errno.errorcode.get
)
def test_a_save_that_fails_anywhere_leaves_the_one_before_and_nothing_else(tmp_path: Path, number: int) -> None:
    write(tmp_path, 10)
    with under_files(Layer(operations=WRITING)) as layer:
        shutil.rmtree(write(tmp_path, 20))
    *_, of_new_folder, of_parent = [at for at, name in enumerate(layer.calls, 1) if name == "close"]
    for at in range(1, len(layer.calls) + 1):
        if at in (of_new_folder, of_parent):
            continue  # they are open for names alone, so that closing them loses nothing
        with (
            under_files(Layer(at, failing(number), operations=WRITING)),
            pytest.raises(OSError, match="Errno") as caught,
        ):
            write(tmp_path, 20)
        assert caught.value.errno == number
        assert names(tmp_path) == ["step-000000000010-epochs-1"]
    # The disk has room again.
    write(tmp_path, 20)
    assert found(tmp_path) == (20, [])


def test_a_state_that_cannot_be_saved_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="plugins is of type"):
        write_checkpoint(tmp_path, state_of(1) | {"plugins": object()}, run=RUN)
    assert names(tmp_path) == []


# ---- reading --------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, 10)
    whole = {name: (path / name).read_bytes() for name in FILES}
    places = [(name, bit) for name in FILES for bit in range(8 * len(whole[name]))]
    draw = random.Random(0)
    # Each file gets some, and the rest go to the largest.
    chosen = [(name, draw.randrange(8 * len(whole[name]))) for name in FILES for _ in range(20)]
    chosen += draw.sample(places, 1000 - len(chosen))
    missed = [place for place in chosen if not _is_found(path, *place, whole[place[0]])]
    assert (len(chosen), missed) == (1000, [])
    assert same(read_checkpoint(path), 10)


def _is_found(path: Path, name: str, bit: int, data: bytes) -> bool:
    number = bit // 8
    with (path / name).open("r+b", buffering=0) as stream:  # in place: rewriting the file takes ten times as long
        os.pwrite(stream.fileno(), bytes([data[number] ^ (1 << bit % 8)]), number)
        try:
            read_checkpoint(path)
        except CheckpointError:
            return True
        finally:
            os.pwrite(stream.fileno(), data[number : number + 1], number)
    return False


def test_every_other_length_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, 10)
    draw = random.Random(0)
    tried = 0
    for name in FILES:
        data = (path / name).read_bytes()
        cut = {0, 1, len(data) - 1, *(draw.randrange(len(data)) for _ in range(40))}
        changed = [data[:size] for size in cut] + [data + b"\0", data + data, data[:-8] + bytes(8)]
        for other in changed:
            (path / name).write_bytes(other)
            with pytest.raises(CheckpointError):
                read_checkpoint(path)
            tried += 1
        (path / name).write_bytes(data)
    assert tried >= 200
    assert same(read_checkpoint(path), 10)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_step_is_found(two: Path, name: str) -> None:
    first, second = reversed(checkpoints_in(two))
    (second / name).write_bytes((first / name).read_bytes())
    assert found(two)[0] == 10


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(two: Path, name: str) -> None:
    (checkpoints_in(two)[0] / name).unlink()
    step, told = found(two)
    assert step == 10
    assert name in told[0]


def test_a_whole_checkpoint_of_another_step_under_this_name_is_found(two: Path) -> None:
    newest, older = checkpoints_in(two)
    shutil.rmtree(newest)
    shutil.copytree(older, newest)
    step, told = found(two)
    assert step == 10
    assert "was renamed" in told[0]


def test_a_checkpoint_of_a_different_run_is_not_used(two: Path) -> None:
    write(two, 30, run="f" * 16)
    step, told = found(two)
    assert step == 20
    assert "a different run" in told[0]


def test_an_extra_file_is_ignored(two: Path) -> None:
    (checkpoints_in(two)[0] / "notes.txt").write_text("mine")
    assert found(two) == (20, [])


def put_link_out(path: Path) -> None:
    outside = path.parents[1] / f"outside-{path.name}"
    path.rename(outside)
    path.symlink_to(outside)


def put_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def put_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_real_device(path: Path) -> None:
    path.unlink()
    try:
        os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only the superuser makes devices")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("put", [put_link_out, put_pipe, put_device, put_folder, put_real_device])
def test_anything_but_a_regular_file_is_found_and_never_waited_for(
    two: Path, name: str, put: Callable[[Path], None]
) -> None:
    put(checkpoints_in(two)[0] / name)
    start = time.monotonic()
    assert found(two)[0] == 10
    assert time.monotonic() - start < HANG_S


def test_a_link_is_not_a_checkpoint(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    inside = tmp_path / "checkpoints"
    inside.mkdir()
    write(inside, 10)
    (inside / "step-000000000020-epochs-1").symlink_to(write(elsewhere, 20))
    assert found(inside) == (10, [])
    with pytest.raises(CheckpointError, match="is a link"):
        read_checkpoint(inside / "step-000000000020-epochs-1")


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {}},
        {"files": {"../../run.json": {"size": 1, "sha256": "0"}}},
        {"files": {name: {"size": 2**60, "sha256": "0" * 64} for name in FILES[2:]}},
        {"files": {name: {"size": -1, "sha256": "0" * 64} for name in FILES[2:]}},
        {"files": {name: {"size": 1.5, "sha256": "0" * 64} for name in FILES[2:]}},
        {"files": {name: {"size": 1, "md5": "0" * 32} for name in FILES[2:]}},
        {"files": "state.json"},
        {"step": "20"},
        {"step": 21},
        {"position": 3},
        {"format": "1"},
        {"format": None},
        {"time": "yesterday"},
        {"unknown": 1},
        {"metrics": {"loss": "0.1"}},
        {"identity": []},
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)
def test_a_manifest_that_was_edited_and_signed_again_is_refused(two: Path, changes: dict[str, Any]) -> None:
    edit(checkpoints_in(two)[0], **changes)
    step, told = found(two)
    assert step == 10
    assert len(told) == 1


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"[" * 10**5 + b"]" * 10**5,
        b'{"a":' * 10**5 + b"1" + b"}" * 10**5,
        b"\xff",
        b"{}",
        b"1e999",
    ],
    ids=lambda text: repr(text[:10]),
)
def test_an_invalid_manifest_is_refused(two: Path, text: bytes) -> None:
    sign(checkpoints_in(two)[0], text)
    start = time.monotonic()
    assert found(two)[0] == 10
    assert time.monotonic() - start < HANG_S


def test_a_later_format_is_refused_with_both_numbers(tmp_path: Path) -> None:
    older, path = write(tmp_path, 1), write(tmp_path, 2)
    sign(path, b'{"format": 7, "all": "else may differ"}')
    for read in (lambda: read_checkpoint(path), lambda: found(tmp_path)):
        with pytest.raises(CheckpointError, match="has format 7, but this Hookline reads format 1"):
            read()
    assert names(tmp_path) == [older.name, path.name], "it is not damaged"


@pytest.mark.parametrize(
    "tree",
    [b"[]", b"1", b"null", b'"text"', b'{"$tuple": []}', b"[" * 10**5 + b"]" * 10**5, b'{"$tensor": "no/such"}'],
    ids=lambda text: repr(text[:20]),
)
def test_an_invalid_state_with_the_right_checksum_is_refused(two: Path, tree: bytes) -> None:
    newest = checkpoints_in(two)[0]
    (newest / "state.json").write_bytes(tree)
    rehash(newest)
    assert found(two)[0] == 10


def test_files_larger_than_any_memory_are_refused(two: Path) -> None:
    newest = checkpoints_in(two)[0]
    for name in ("model.safetensors", "manifest.json", "manifest.sha256"):
        with (newest / name).open("r+b") as stream:
            stream.truncate(2**40)
    start = time.monotonic()
    assert found(two)[0] == 10
    assert time.monotonic() - start < HANG_S


# ---- code -----------------------------------------------------------------------------------------------------------


class Bomb:
    """Reports when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


class _Audit:
    """Actions that only code in a checkpoint could cause, seen by an audit hook, which is permanent: PEP 578."""

    is_on = False
    seen: list[str] = []  # noqa: RUF012 - one for the process, as the hook is


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _Audit.is_on and event in (
        "pickle.find_class",
        "exec",
        "compile",
        "os.system",
        "subprocess.Popen",
        "marshal.loads",
    ):
        _Audit.seen.append(event)


@contextlib.contextmanager
def audited() -> Iterator[list[str]]:
    if not getattr(_Audit, "is_there", False):
        sys.addaudithook(_note)
        _Audit.is_there = True  # type: ignore[attr-defined] # set once
    _Audit.seen, _Audit.is_on = [], True
    try:
        yield _Audit.seen
    finally:
        _Audit.is_on = False


def bombs(folder: Path) -> dict[str, bytes]:
    torch.save(Bomb(), folder / "zip")
    torch.save(Bomb(), folder / "legacy", _use_new_zipfile_serialization=False)
    kinds = {name: (folder / name).read_bytes() for name in ("zip", "legacy")}
    return kinds | {f"plain {number}": pickle.dumps(Bomb(), protocol=number) for number in (0, 2, 5)}


def test_the_oracle_sees_a_pickle_that_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with audited() as seen:
        pickle.loads(pickle.dumps(Bomb()))
    assert "pickle.find_class" in seen
    assert Path("exploded").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_instead_of_any_file_is_never_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for number, data in enumerate(bombs(tmp_path).values()):
        older, newest = write(folder, 10 * number + 1), write(folder, 10 * number + 5)
        (newest / name).write_bytes(data)
        if name not in FILES[:2]:
            rehash(newest)
        with audited() as seen:
            assert found(folder)[0] == 10 * number + 1
        assert seen == []
        shutil.rmtree(older)
    assert not Path("exploded").exists()


# ---- the newest valid one -------------------------------------------------------------------------------------------


def test_a_damaged_one_is_set_aside_and_reported(two: Path) -> None:
    newest = checkpoints_in(two)[0]
    (newest / "state.json").write_bytes(b"")
    step, told = found(two)
    assert (step, len(told)) == (10, 1)
    assert "damaged" in told[0]
    assert [name[:34] for name in names(two)] == ["damaged-step-000000000020-epochs-1", "step-000000000010-epochs-1"]
    assert found(two) == (10, []), "it is told once"


def test_when_all_are_damaged_it_is_an_error_and_nothing_is_lost(two: Path) -> None:
    for path in checkpoints_in(two):
        (path / "model.safetensors").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"is valid: 2 damaged"):
            found(two)
    kept = [path for path in two.iterdir() if path.name.startswith("damaged-")]
    assert [names(path) for path in kept] == [sorted(FILES)] * 2


def test_an_empty_folder_has_none_and_a_missing_one_neither(tmp_path: Path) -> None:
    assert found(tmp_path) == (None, [])
    assert found(tmp_path / "missing") == (None, [])


def test_the_newest_is_that_of_the_highest_step_whatever_the_clocks_say(tmp_path: Path) -> None:
    for age, step in enumerate((30, 10, 20)):
        path = write(tmp_path, step)
        os.utime(path, (10**9 + age, 10**9 + age))
    assert [read_manifest(path).step for path in checkpoints_in(tmp_path)] == [30, 20, 10]


def test_remains_of_killed_programs_are_removed_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, 10)
    for name in (".tmp-step-000000000020-epochs-1-0011aabb", ".tmp-mine", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text("half")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".tmp-step-000000000030-epochs-1-0011aabb").symlink_to("elsewhere")
    remove_unfinished(tmp_path)
    assert names(tmp_path) == [
        ".tmp-mine", ".tmp-step-000000000030-epochs-1-0011aabb", "elsewhere", "notes", "step-000000000010-epochs-1",
    ]  # fmt: skip


# ---- retention ------------------------------------------------------------------------------------------------------


def by_loss(manifest: module.Manifest) -> float | None:
    return manifest.metrics.get("loss")


def steps_in(folder: Path) -> list[int]:
    return [int(path.name.split("-")[1]) for path in checkpoints_in(folder)]


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    for step, loss in [(10, 0.5), (20, 0.1), (30, 0.3), (40, 0.4), (50, 0.9)]:
        write(tmp_path, step, loss=loss)
    prune(tmp_path, run=RUN, keep=2, best=by_loss, keep_best=1)
    assert steps_in(tmp_path) == [50, 40, 20]
    prune(tmp_path, run=RUN, keep=0, best=by_loss, keep_best=0)
    assert steps_in(tmp_path) == [50], "one stays whatever is asked for"


def test_retention_goes_by_steps_also_when_the_clock_was_set_back(tmp_path: Path) -> None:
    for age, step in enumerate((10, 20, 30, 70)):
        os.utime(write(tmp_path, step), (2e9 - age, 2e9 - age))
    prune(tmp_path, run=RUN, keep=2, best=by_loss, keep_best=0)
    assert steps_in(tmp_path) == [70, 30]


def test_retention_touches_nothing_that_the_run_did_not_write(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        write(tmp_path, step)
    foreign = write(tmp_path, 5, run="f" * 16)
    (tmp_path / "step-000000000010-epochs-1" / "notes.txt").write_text("mine")
    (tmp_path / "step-000000000020-epochs-1" / "state.json").unlink()
    (tmp_path / "step-000000000020-epochs-1" / "state.json").symlink_to("/dev/null")
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "step-000000000001-epochs-1").symlink_to(write(outside, 1))
    (tmp_path / "step-000000000002-epochs-1").mkdir()
    (tmp_path / "notes").write_text("mine")
    before = names(tmp_path)
    prune(tmp_path, run=RUN, keep=1, best=by_loss, keep_best=0)
    assert [name for name in before if name not in names(tmp_path)] == ["step-000000000030-epochs-1"]
    assert foreign.exists()
    assert read_checkpoint(outside / "step-000000000001-epochs-1").manifest.step == 1


def test_damaged_ones_count_neither_as_new_nor_as_good(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        write(tmp_path, step)
    (checkpoints_in(tmp_path)[0] / "manifest.json").write_bytes(b"")
    prune(tmp_path, run=RUN, keep=1, best=by_loss, keep_best=0)
    assert steps_in(tmp_path) == [30, 20]
    assert found(tmp_path)[0] == 20


def test_a_removal_that_fails_anywhere_leaves_no_half_of_a_checkpoint(tmp_path: Path) -> None:
    at = 0
    while True:
        at += 1
        for step in (10, 20):
            with contextlib.suppress(FileExistsError):
                write(tmp_path, step)
        with under_files(Layer(at, failing(errno.EIO), operations=WRITING)) as layer, contextlib.suppress(OSError):
            prune(tmp_path, run=RUN, keep=1, best=by_loss, keep_best=0)
        for path in checkpoints_in(tmp_path):
            check_checkpoint(path)
        assert 20 in steps_in(tmp_path)
        if len(layer.calls) < at:
            break
        remove_unfinished(tmp_path)
        assert all(not name.startswith(".tmp") for name in names(tmp_path))
    assert at > 7
