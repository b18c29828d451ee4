"""Resuming a run in its folder: exactly, from valid checkpoints, and never from those of a different run."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from hookline import (
    CheckpointError,
    ContractError,
    DataError,
    DataSource,
    HooklineError,
    NonFiniteError,
    Run,
    RunBusyError,
    hookimpl,
    load_config,
    resume,
)
from hookline.runs import folder_of, identity_of, read_checkpoint
from hookline.runs.disk.checkpoint import checkpoints_in, set_aside
from hookline.runs.disk.encoding import encode
from reliability import job
from reliability.layer import WRITING, Layer, failing, under_files
from support import saved_folder

SECRET = "hunter2"


def begun(parent: Path, *, stop_at: int = 0, epochs: int = 1, **checkpoint: Any) -> Path:
    """Return the folder of a run that was interrupted after a step, or completed."""
    run = Run(load_config(job.config(parent, epochs, **checkpoint)))
    for step in run.steps():
        if step.step == stop_at:
            run.interrupt("test")
    assert folder_of(run) is not None
    return saved_folder(run).path


def exit_code(function: Callable[[], Any]) -> int:
    """Return the exit code of the command; an error that is not Hookline's is raised."""
    try:
        function()
    except HooklineError as error:
        return error.exit_code
    return 0


def take_steps(run: Run, after: Callable[[int], None]) -> None:
    """Take all steps, and call a function after each."""
    for step in run.steps():
        after(step.step)


def saved_steps(path: Path) -> list[int]:
    return [int(found.name.split("-")[1]) for found in checkpoints_in(path / "checkpoints")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digest of the uninterrupted run."""
    return job.digest(begun(tmp_path_factory.mktemp("whole")))


# ---- exactly --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 5, 7, 19, 20], ids=lambda step: f"after step {step}")
def test_a_run_that_was_interrupted_anywhere_ends_as_if_it_had_not_been(
    tmp_path: Path, whole: dict[str, str], step: int
) -> None:
    """After the first, at a save, at an evaluation, one before the end, and after the last batch of the epoch."""
    path = begun(tmp_path, stop_at=step)
    job.resume_run(path)
    assert job.digest(path) == whole


def test_a_run_that_was_interrupted_before_its_first_step_resumes(tmp_path: Path, whole: dict[str, str]) -> None:
    run = Run(load_config(job.config(tmp_path, 1)))
    run.interrupt("SIGTERM")
    run.fit()
    assert run.outcome == "interrupted"
    assert folder_of(run) is not None
    for _ in range(2):
        again = resume(saved_folder(run).path)
        again.interrupt("SIGTERM")
        again.fit()
    job.resume_run(saved_folder(run).path)
    assert job.digest(saved_folder(run).path) == whole


def test_a_run_killed_between_its_last_save_and_its_end_comes_to_its_end(tmp_path: Path, whole: dict[str, str]) -> None:
    path = begun(tmp_path)
    record = json.loads((path / "run.json").read_text())
    (path / "model.safetensors").unlink()
    (path / "run.json").write_text(json.dumps(record | {"status": "running", "model": None}))
    assert job.resume_run(path) == []
    assert job.digest(path) == whole
    assert job.record_of(path).status == "completed"


@dataclass
class Rows:
    """Rows that are read by worker processes, with random noise."""

    @hookimpl
    def build_data(self) -> DataSource:
        return DataSource(Noisy(), in_features=2, out_features=1)


class Noisy(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = random.random() + torch.rand(1).item()
        return torch.tensor([index / 24, noise]), torch.tensor([index / 24])


def test_the_number_of_workers_may_change_and_nothing_else_does(tmp_path: Path) -> None:
    def run_with(workers: int) -> Run:
        config = {"train": {"epochs": 1, "batch_size": 4, "num_workers": workers}, "optimizer": {"use": "adamw"}}
        return Run(load_config(config, plugins={"data": Rows()}))

    plain = run_with(0)
    plain.fit()
    first = run_with(2)
    for step in first.steps():
        if step.step == 3:
            state = first.state_dict()
            break
    second = run_with(0)
    second.load_state_dict(state)
    second.fit()
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), second.model.parameters(), strict=True))


def test_micro_batches_are_resumed_exactly(tmp_path: Path) -> None:
    def one(folder: str, stop_at: int) -> Path:
        config = job.config(tmp_path / folder, 1)
        config["train"]["micro_batch_size"] = 3
        run = Run(load_config(config))
        for step in run.steps():
            if step.step == stop_at:
                run.interrupt("test")
        assert folder_of(run) is not None
        return saved_folder(run).path

    path = one("interrupted", 6)
    job.resume_run(path)
    assert job.digest(path) == job.digest(one("whole", 0))


def test_metrics_that_a_killed_run_wrote_after_its_checkpoint_are_there_once(
    tmp_path: Path, whole: dict[str, str]
) -> None:
    path = begun(tmp_path, stop_at=10)
    with (path / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"epoch":1,"step":14,"train/loss":0.1}\n{"epoch":1,"st')
    job.resume_run(path)
    assert job.digest(path) == whole


# ---- from valid checkpoints -----------------------------------------------------------------------------------------


def test_a_damaged_newest_checkpoint_is_reported_preserved_and_skipped(tmp_path: Path, whole: dict[str, str]) -> None:
    path = begun(tmp_path, stop_at=12)
    assert saved_steps(path) == [12, 10]
    newest = checkpoints_in(path / "checkpoints")[0] / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    warnings = job.resume_run(path)
    assert len(warnings) == 1
    assert "is damaged: state.safetensors" in warnings[0]
    assert "using an older checkpoint" in warnings[0]
    assert list((path / "checkpoints").glob("damaged-step-000000000012-*"))
    assert "is damaged" in (path / "log.txt").read_text()
    digest = job.digest(path)
    assert {name: digest[name] for name in ("weights", "metrics")} == {
        name: whole[name] for name in ("weights", "metrics")
    }


def test_when_no_checkpoint_is_valid_it_is_an_error_and_nothing_is_overwritten(tmp_path: Path) -> None:
    path = begun(tmp_path, stop_at=12)
    for checkpoint in checkpoints_in(path / "checkpoints"):
        (checkpoint / "state.json").write_bytes(b"{}")

    def files() -> set[bytes]:
        return {found.read_bytes() for found in path.rglob("*") if found.is_file() and found.name != ".lock"}

    before = files()
    for _ in range(2):
        with pytest.raises(CheckpointError, match="2 damaged") as caught:
            resume(path)
        assert caught.value.exit_code == 5
        assert files() == before


def test_unfinished_files_of_a_killed_program_are_removed_and_other_files_are_not(path: Path) -> None:
    unfinished = [".tmp-run.json-0123abcd", "debug/.tmp-error.json-0123abcd", ".tmp-model.safetensors-0123abcd"]
    (path / "debug").mkdir()
    for name in [*unfinished, ".tmp-mine"]:
        (path / name).write_text("half")
    job.resume_run(path)
    assert job.left_over(path) == [".tmp-mine"]


def change_state(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the values of the newest checkpoint and its checksums, as a forger would."""
    newest = checkpoints_in(path / "checkpoints")[0]
    from hookline.runs.disk.checkpoint import write_checkpoint

    kept = read_checkpoint(newest)
    change(kept.state)
    for found in checkpoints_in(path / "checkpoints"):
        set_aside(found)
    folder = path / "checkpoints"
    manifest = kept.manifest
    state = {"step": manifest.step, "epoch": manifest.epoch, "position": manifest.position} | kept.state
    written = write_checkpoint(folder, state, run=manifest.run, identity=manifest.identity)
    for name in ("step", "epoch", "position"):
        if name not in kept.state:
            _drop(written, name)


def _drop(written: Path, name: str) -> None:
    import hashlib

    tree = json.loads((written / "state.json").read_text())
    del tree[name]
    (written / "state.json").write_text(json.dumps(tree))
    manifest = json.loads((written / "manifest.json").read_text())
    data = (written / "state.json").read_bytes()
    manifest["files"]["state.json"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps(manifest)
    (written / "manifest.json").write_text(text)
    (written / "manifest.sha256").write_text(f"{hashlib.sha256(text.encode()).hexdigest()}  manifest.json\n")


@pytest.fixture(scope="module")
def at_12(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted after step 12, to be copied."""
    return begun(tmp_path_factory.mktemp("at-12"), stop_at=12)


@pytest.fixture
def path(at_12: Path, tmp_path: Path) -> Path:
    """A copy of its folder."""
    return Path(shutil.copytree(at_12, tmp_path / at_12.name, symlinks=True))


@pytest.mark.parametrize(
    "part",
    [
        "model",
        "optimizer",
        "random",
        "plugins",
        "epoch",
        "step",
        "position",
        "examples",
        "history",
        "running",
        "evaluated",
    ],
)
def test_a_checkpoint_that_lacks_a_part_is_refused_by_name(path: Path, part: str) -> None:
    change_state(path, lambda state: state.pop(part))
    with pytest.raises(CheckpointError, match=f"lacks {part}"):
        resume(path)


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        inner: Any = state
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    ("keys", "to"),
    [
        (("model",), []),
        (("model",), None),
        (("optimizer",), "adamw"),
        (("optimizer",), {}),
        (("optimizer", "param_groups"), [1]),
        (("optimizer", "param_groups", 0, "lr"), "high"),
        (("optimizer", "param_groups", 0, "lr"), math.nan),
        (("optimizer", "param_groups", 0, "betas"), [0.9, None]),
        (("optimizer", "param_groups", 0, "params"), "all"),
        (("optimizer", "state"), 3),
        (("optimizer", "state"), {0: 3}),
        (("optimizer", "state", 0, "step"), "late"),
        (("random",), 3),
        (("random", "cpu"), torch.zeros(3, dtype=torch.uint8)),
        (("random", "cpu"), "seed"),
        (("history",), 5),
        (("history",), [5]),
        (("running",), None),
        (("running",), {"weight": "much"}),
        (("evaluated",), 1),
        (("evaluated",), [1]),
        (("evaluated",), [1, 2]),
        (("wrappers",), 7),
        (("loss",), 7),
        (("plugins",), []),
        (("plugins", "callbacks.run-folder"), {}),
        (("plugins", "callbacks.run-folder", "metrics_bytes"), "all"),
        (("plugins", "callbacks.checkpoint"), 4),
        (("plugins", "callbacks.lr-schedule"), None),
        (("stop_reason",), 3),
        (("warnings",), None),
        (("summary",), 1),
        (("used_s",), "long"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_state_of_other_values_is_an_error_of_ours_or_does_no_harm(
    path: Path, keys: tuple[Any, ...], to: Any
) -> None:
    change_state(path, _set(*keys, to=to))
    assert exit_code(lambda: job.resume_run(path)) in (0, 4, 5)


# ---- never from those of a different run ----------------------------------------------------------------------------


def test_another_model_is_refused_with_every_difference(path: Path) -> None:
    with pytest.raises(CheckpointError, match="a different model") as caught:
        resume(path, {"model.hidden": [8, 4]})
    told = str(caught.value)
    assert "in the model, but not in the checkpoint" in told
    assert "torch.float32 [8, 2]" in told or "torch.float32 [1, 8]" in told


def test_another_optimizer_is_refused(path: Path) -> None:
    with pytest.raises(HooklineError) as caught:
        resume(path, {"optimizer.use": "sgd"}).fit()
    assert caught.value.exit_code in (4, 5)


def test_changed_settings_are_reported(path: Path) -> None:
    run = resume(path, {"train.epochs": 2})
    assert any("the run has changed" in text and "train.epochs was 1, and is 2" in text for text in run.warnings)
    run.fit()
    assert run.step == 40
    assert any("train.epochs" in text for text in job.record_of(path).attempts[-1].changes)


def test_changed_data_are_refused_unless_they_are_allowed(path: Path) -> None:
    for other in ({"data.num_examples": 190}, {"data.noise_std": 0.5}):
        with pytest.raises(DataError, match="the data of the run have changed") as caught:
            resume(path, other)
        assert caught.value.hint is not None
        assert "--allow-changed-data" in caught.value.hint
    run = resume(path, {"data.noise_std": 0.5}, allow_changed_data=True)
    run.fit()
    assert any("data: train was" in text for text in job.record_of(path).attempts[-1].changes)


def test_a_state_of_plugins_that_are_not_there_is_refused_by_name(path: Path) -> None:
    with pytest.raises(ContractError, match="lr-schedule"):
        resume(path, ["callbacks.lr-schedule=off"]).fit()


def test_a_plugin_that_is_not_installed_is_named(path: Path) -> None:
    config = (path / "config.toml").read_text()
    (path / "config.toml").write_text(config.replace('use = "mlp"', 'use = "acme-net"'))
    with pytest.raises(HooklineError, match="acme-net"):
        resume(path)


def test_a_changed_version_is_reported(path: Path) -> None:
    newest = checkpoints_in(path / "checkpoints")[0]
    kept = read_checkpoint(newest)
    identity = msgspec.convert(msgspec.to_builtins(kept.manifest.identity), dict[str, Any])
    identity["versions"]["torch"] = "1.0"
    identity["code"]["hookline"]["version"] = "0.0.1"
    from hookline.runs.disk.checkpoint import write_checkpoint

    shutil.rmtree(newest)
    write_checkpoint(path / "checkpoints", kept.state, run=kept.manifest.run, identity=identity)
    run = resume(path)
    assert folder_of(run) is not None
    saved_folder(run).close()
    told = " ".join(run.warnings)
    assert "torch was '1.0', and is" in told
    assert "0.0.1" in told


# ---- a folder that has changed --------------------------------------------------------------------------------------


def test_two_programs_cannot_work_in_one_run(path: Path) -> None:
    first = resume(path)
    with pytest.raises(RunBusyError, match="another program works in") as caught:
        resume(path)
    assert caught.value.exit_code == 7
    assert folder_of(first) is not None
    saved_folder(first).close()
    second = resume(path)
    assert folder_of(second) is not None
    saved_folder(second).close()


def test_a_run_that_cannot_be_resumed_is_released(path: Path) -> None:
    for _ in range(2):
        with pytest.raises(CheckpointError):
            resume(path, {"model.hidden": [3]})


@pytest.mark.parametrize(
    "name", ["checkpoints", "metrics.jsonl", "log.txt", "debug", ".lock", "run.json", "config.toml"]
)
def test_a_link_instead_of_an_entry_of_the_folder_is_not_followed(path: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / f"outside-{name}"
    if (path / name).exists():
        (path / name).rename(outside)
    else:
        outside.mkdir()
    (path / name).symlink_to(outside)

    def there() -> dict[str, bytes]:
        found = [outside, *outside.rglob("*")]
        return {str(file): file.read_bytes() for file in found if file.is_file()}

    before = there()
    assert exit_code(lambda: job.resume_run(path)) in (0, 2, 5)
    assert there() == before


@pytest.mark.parametrize(
    "name", ["checkpoints", "metrics.jsonl", "log.txt", "debug", "run.json", "config.toml", ".lock"]
)
@pytest.mark.parametrize("kind", ["pipe", "folder", "file"])
def test_something_else_instead_of_an_entry_of_the_folder_is_an_error_and_nothing_waits(
    path: Path, name: str, kind: str
) -> None:
    (path / name).rename(path / "before") if (path / name).exists() else None
    if kind == "pipe":
        os.mkfifo(path / name)
    elif kind == "folder":
        (path / name).mkdir()
    else:
        (path / name).write_bytes(b"\0\xff")
    assert exit_code(lambda: job.resume_run(path)) in (0, 2, 5)


def test_a_folder_that_is_removed_during_the_run_ends_it_with_an_error(tmp_path: Path) -> None:
    run = Run(load_config(job.config(tmp_path, 1)))

    def remove(step: int) -> None:
        if step == 6:
            shutil.rmtree(tmp_path)

    with pytest.raises(CheckpointError, match="cannot be written") as caught:
        take_steps(run, remove)
    assert caught.value.exit_code == 5
    assert run.step == 20, "the run goes on to its last save"
    assert any("not saved" in text for text in run.warnings)


def test_a_folder_that_is_renamed_during_the_run_does_not_get_a_second_half(tmp_path: Path) -> None:
    run = Run(load_config(job.config(tmp_path, 1)))

    def rename(step: int) -> None:
        if step == 6:
            assert folder_of(run) is not None
            saved_folder(run).path.rename(tmp_path / "renamed")

    with pytest.raises(CheckpointError):
        take_steps(run, rename)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["last", "renamed"]
    job.resume_run(tmp_path / "renamed")


# ---- saves that fail ------------------------------------------------------------------------------------------------


class Break:
    """Makes operations on files fail from one step to another."""

    def __init__(self, first: int, last: int, operations: tuple[str, ...] = WRITING) -> None:
        self.first, self.last = first, last
        self._layer = under_files(Layer(1, failing(errno.ENOSPC), operations=operations, lasts=True))

    def after(self, step: int) -> None:
        if step == self.first:
            self._layer.__enter__()
        if step == self.last:
            self._layer.__exit__(None, None, None)


@pytest.mark.parametrize("in_background", [False, True], ids=["at once", "in the background"])
def test_a_full_disk_is_reported_and_the_run_continues_and_saves_when_there_is_room(
    tmp_path: Path, whole: dict[str, str], in_background: bool
) -> None:
    run = Run(load_config(job.config(tmp_path, 1, in_background=in_background)))
    full = Break(7, 16)
    for step in run.steps():
        full.after(step.step)
    assert run.outcome == "completed"
    told = [text for text in run.warnings if text.startswith("the state was not saved")]
    assert told
    assert all("ENOSPC" in text or "No space left" in text for text in told)
    assert folder_of(run) is not None
    digest = job.digest(saved_folder(run).path)
    assert (digest["weights"], digest["metrics"]) == (whole["weights"], whole["metrics"])
    assert (saved_folder(run).path / "log.txt").read_text().count("the state was not saved") >= 2
    assert job.left_over(saved_folder(run).path) == []


def test_a_disk_that_stays_full_fails_the_last_save_and_the_earlier_ones_are_good(
    tmp_path: Path, whole: dict[str, str]
) -> None:
    run = Run(load_config(job.config(tmp_path, 1)))
    full = Break(7, 99)
    try:
        with pytest.raises(CheckpointError) as caught:
            take_steps(run, full.after)
    finally:
        full.after(99)
    assert caught.value.exit_code == 5
    assert folder_of(run) is not None
    assert saved_steps(saved_folder(run).path) == [5]
    job.resume_run(saved_folder(run).path)
    assert job.digest(saved_folder(run).path) == whole


def test_a_save_that_may_not_fail_ends_the_run(tmp_path: Path) -> None:
    run = Run(load_config(job.config(tmp_path, 1, on_failure="fail")))
    full = Break(7, 99)
    try:
        with pytest.raises(CheckpointError):
            take_steps(run, full.after)
    finally:
        full.after(99)
    assert run.step == 10


def test_the_last_save_is_tried_again_when_that_of_the_same_place_failed(tmp_path: Path) -> None:
    class EndOfEpoch:
        """Fails the save at the end of the epoch, but not the last one, which is at the same position."""

        @hookimpl
        def on_epoch_end(self) -> None:
            full.after(1)

        @hookimpl
        def on_warning(self, message: str) -> None:
            if "not saved" in message:
                full.after(2)

    full = Break(1, 2, ("mkdir",))
    values = job.config(tmp_path, 1, every_steps=0, every_epochs=1)
    run = Run(load_config(values, plugins={"callbacks.end": EndOfEpoch()}))
    run.fit()
    assert folder_of(run) is not None
    assert saved_steps(saved_folder(run).path) == [20]


def test_an_old_checkpoint_that_cannot_be_removed_is_reported_and_removed_later(tmp_path: Path) -> None:
    run = Run(load_config(job.config(tmp_path, 1, keep=1)))
    stuck = Break(7, 12, ("rmdir",))
    for step in run.steps():
        stuck.after(step.step)
    assert run.outcome == "completed"
    assert any("cannot be removed" in text for text in run.warnings)
    assert folder_of(run) is not None
    assert saved_steps(saved_folder(run).path) == [20]
    assert job.left_over(saved_folder(run).path) == []


def test_a_checkpoint_that_cannot_be_read_again_does_not_count(tmp_path: Path, whole: dict[str, str]) -> None:
    run = Run(load_config(job.config(tmp_path, 1)))
    blind = Break(7, 12, ("fdopen",))
    take_steps(run, blind.after)
    assert any("not saved" in text for text in run.warnings)
    assert folder_of(run) is not None
    assert set(saved_steps(saved_folder(run).path)) <= {15, 20}
    assert len(list((saved_folder(run).path / "checkpoints").glob("damaged-step-000000000010-*"))) == 1
    assert job.digest(saved_folder(run).path)["weights"] == whole["weights"]


def test_a_save_in_the_background_is_of_one_step(tmp_path: Path) -> None:
    """The weights change while it is written; the checkpoint has the earlier ones."""
    kept: dict[int, dict[str, Tensor]] = {}
    threads = threading.enumerate()  # a pool of a library may stay from an earlier test
    run = Run(load_config(job.config(tmp_path, 1, every_steps=1, keep=100, in_background=True)))
    with under_files(Layer(longest_write=64)):  # slowly
        for step in run.steps():
            kept[step.step] = {name: value.clone() for name, value in run.unwrapped_model.state_dict().items()}
    assert folder_of(run) is not None
    found = checkpoints_in(saved_folder(run).path / "checkpoints")
    assert len(found) >= 20
    for path in found:
        checkpoint = read_checkpoint(path)
        assert all(
            torch.equal(value, kept[checkpoint.manifest.step][name])
            for name, value in checkpoint.state["model"].items()
        )
    assert set(threading.enumerate()) <= set(threads)


def test_a_run_that_fails_waits_for_what_is_being_written(tmp_path: Path) -> None:
    class Fails:
        """Fails in the step after a save."""

        @hookimpl
        def on_step_end(self, run: Run) -> None:
            if run.step == 6:
                raise ValueError("no more")

    threads = threading.enumerate()
    values = job.config(tmp_path, 1, in_background=True)
    run = Run(load_config(values, plugins={"callbacks.fails": Fails()}))
    with under_files(Layer(longest_write=64)), pytest.raises(ValueError, match="no more"):
        run.fit()
    assert folder_of(run) is not None
    assert saved_steps(saved_folder(run).path) == [5]
    assert set(threading.enumerate()) <= set(threads)


def test_each_place_is_saved_once_though_interval_end_and_interrupt_ask_for_it(tmp_path: Path) -> None:
    saved: list[str] = []

    class Counts:
        """Counts the saves."""

        @hookimpl
        def on_checkpoint_saved(self, path: Path) -> None:
            saved.append(path.name)

    values = job.config(tmp_path, 1, every_steps=5, every_epochs=1, keep_best=1, monitor="train/loss")
    run = Run(load_config(values, plugins={"callbacks.counts": Counts()}))
    for step in run.steps():
        if step.step == 15:
            run.interrupt("SIGTERM")
    assert len(saved) == len(set(saved))
    assert saved[-1].startswith("step-000000000015-")


def test_a_state_that_cannot_be_saved_is_refused_after_the_first_step(tmp_path: Path) -> None:
    class Odd:
        """Has a state that only pickle could save."""

        @hookimpl
        def on_step_end(self, run: Run) -> None:
            """Do nothing."""

        def state_dict(self) -> Mapping[str, Any]:
            return {"file": object()}

        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            """Do nothing."""

    run = Run(load_config(job.config(tmp_path, 1), plugins={"callbacks.odd": Odd()}))
    with pytest.raises(CheckpointError, match=r"plugins/callbacks\.odd/file is of type builtins\.object"):
        run.fit()
    assert run.step == 1


def test_numbers_that_are_not_finite_are_never_saved_over_a_good_checkpoint(tmp_path: Path) -> None:
    class Poison:
        """Makes a weight infinite after a step."""

        @hookimpl
        def on_step_end(self, run: Run) -> None:
            if run.step == 11:
                with torch.no_grad():
                    next(run.model.parameters()).fill_(float("inf"))

    run = Run(load_config(job.config(tmp_path, 1), plugins={"callbacks.poison": Poison()}))
    with pytest.raises(NonFiniteError) as caught:
        run.fit()
    assert (caught.value.exit_code, caught.value.step) == (6, 12)
    assert caught.value.indices
    assert folder_of(run) is not None
    assert saved_steps(saved_folder(run).path) == [10, 5]
    kept = read_checkpoint(checkpoints_in(saved_folder(run).path / "checkpoints")[0])
    assert all(torch.isfinite(value).all() for value in kept.state["model"].values())


@pytest.mark.parametrize("error", [MemoryError("host memory"), torch.OutOfMemoryError("CUDA out of memory")], ids=repr)
def test_a_lack_of_memory_in_a_hook_leaves_a_run_that_resumes_exactly(
    tmp_path: Path, whole: dict[str, str], error: Exception
) -> None:
    class Short:
        """Runs out of memory after a step."""

        @hookimpl
        def on_step_end(self, run: Run) -> None:
            if run.step == 13:
                raise error

    run = Run(load_config(job.config(tmp_path, 1), plugins={"callbacks.short": Short()}))
    with pytest.raises(type(error)):
        run.fit()
    assert folder_of(run) is not None
    assert job.record_of(saved_folder(run).path).status == "failed"
    config = (saved_folder(run).path / "config.toml").read_text()
    assert "callbacks.short" in config
    going_on = resume(saved_folder(run).path, ["callbacks.short=off"])
    going_on.fit()
    digest = job.digest(saved_folder(run).path)
    assert (digest["weights"], digest["metrics"]) == (whole["weights"], whole["metrics"])


# ---- records --------------------------------------------------------------------------------------------------------


def test_times_are_in_utc_wherever_the_program_runs(path: Path) -> None:
    record = job.record_of(path)
    manifest = read_checkpoint(checkpoints_in(path / "checkpoints")[0]).manifest
    for time in (record.attempts[0].started, record.attempts[0].ended, manifest.time):
        assert time is not None
        assert time.utcoffset() is not None
        assert not time.utcoffset()


def test_a_file_of_a_run_has_the_mode_that_the_user_configured(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = begun(tmp_path, stop_at=5)
    finally:
        os.umask(before)
    for found in [path, *path.rglob("*")]:
        assert oct(found.stat().st_mode & 0o777) == ("0o750" if found.is_dir() else "0o640"), found


def test_the_folder_for_temporary_files_plays_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert saved_steps(begun(tmp_path, stop_at=5)) == [5]


def test_a_state_is_the_same_in_memory_and_from_the_disk(tmp_path: Path) -> None:
    run = Run(load_config(job.config(tmp_path, 1)))
    for step in run.steps():
        if step.step == 7:
            state = run.state_dict()
            break
    tree, tensors = encode(state)
    again, copies = encode(read_back(tmp_path / "apart", state))
    assert tree == again
    assert tensors.keys() == copies.keys()
    assert all(torch.equal(tensors[name], copies[name]) for name in tensors)


def read_back(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    from hookline.runs.disk.checkpoint import write_checkpoint

    folder.mkdir()
    return read_checkpoint(write_checkpoint(folder, state, run="r")).state


def test_a_data_source_in_memory_is_known_by_its_values() -> None:
    inputs = torch.arange(20.0).reshape(10, 2)

    def identity(values: Tensor) -> Any:
        dataset = TensorDataset(values, values.sum(1, keepdim=True))
        source = DataSource(dataset, in_features=2, out_features=1)

        class Given:
            """Return these values."""

            @hookimpl
            def build_data(self) -> DataSource:
                return source

        return identity_of(Run(load_config({}, plugins={"data": Given()})))["data"]

    assert identity(inputs) == identity(inputs.clone())
    assert identity(inputs) != identity(inputs.flip(0))
    assert identity(inputs) != identity(inputs.double().float() + 1e-6)
