"""Callback ``checkpoint``: when it saves, which checkpoints it keeps, and failing saves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

from hookline import CheckpointError, ConfigError, DataSource, Run, hookimpl, load_config, resume
from hookline.runs import RunFolder, folder_of, give_folder, read_checkpoint
from support import saved_folder

STEPS = 10  # in an epoch


def make(folder: Path, options: Mapping[str, Any], *, epochs: int = 2, **callbacks: Any) -> Run:
    """Return a small run saved in ``folder``, with the callback's ``options``."""
    config = {
        "train": {"epochs": epochs, "device": "cpu"},
        "data": {"num_examples": 10 * STEPS},
        "callbacks": {"run-folder": {"parent": str(folder), "name": "it"}, "checkpoint": dict(options)},
    }
    return Run(load_config(config, plugins={f"callbacks.{name}": callback for name, callback in callbacks.items()}))


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "0001-it" / "checkpoints").iterdir())


def name(step: int, epochs: int) -> str:
    return f"step-{step:012d}-epochs-{epochs}"


class Announced:
    """Records the announced checkpoints, each with the step of the announcement."""

    def __init__(self) -> None:
        self.saved: list[tuple[int, str]] = []

    @hookimpl
    def on_checkpoint_saved(self, run: Run, path: Path) -> None:
        assert path.is_dir()
        self.saved.append((run.step, path.name))


class Losses:
    """A metric with given values, one per epoch."""

    def __init__(self, *values: float) -> None:
        self.values = values
        self.epoch = 0

    @hookimpl
    def build_metrics(self) -> Mapping[str, Any]:
        return {"given": self}

    def update(self, prediction: torch.Tensor, target: torch.Tensor) -> None: ...

    def reset(self) -> None: ...

    @hookimpl
    def on_evaluation_start(self, run: Run) -> None:
        self.epoch = run.epoch

    def compute(self) -> float:
        return self.values[self.epoch - 1]


class Stream(IterableDataset[Any]):
    """A stream, which is read again."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.ones(2), torch.ones(1))] * 12)


class Stateful(Stream):
    """A stream with a state; all its examples are equal."""

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: Mapping[str, int]) -> None: ...


@pytest.mark.parametrize(("kind", "is_warned"), [(Stream, True), (Stateful, False)])
def test_a_stream_that_would_be_read_again_is_a_warning_in_the_first_step(
    kind: type[Stream], is_warned: bool, tmp_path: Path
) -> None:
    config = {"train": {"epochs": 2}, "callbacks": {"run-folder": {"parent": str(tmp_path)}, "checkpoint": {}}}
    run = Run(load_config(config, plugins={"data": DataSource(kind(), in_features=2, out_features=1)}))
    next(iter(run.steps()))
    assert ["the training data are a stream without a state" in text for text in run.warnings] == [True] * is_warned


# ---- when it saves --------------------------------------------------------------------------------------------------


def test_the_last_state_is_saved_even_if_no_other_is(tmp_path: Path) -> None:
    announced = Announced()
    make(tmp_path, {"every_s": 0}, announced=announced).fit()
    assert announced.saved == [(20, name(20, 2))]
    assert checkpoints(tmp_path) == [name(20, 2)]


def test_it_saves_every_so_many_steps(tmp_path: Path) -> None:
    make(tmp_path, {"every_s": 0, "every_steps": 8, "keep": 100}).fit()
    assert checkpoints(tmp_path) == [name(8, 0), name(16, 1), name(20, 2)]


def test_a_step_at_the_end_of_an_epoch_is_saved_once_unless_the_epoch_is_due_too(tmp_path: Path) -> None:
    make(tmp_path, {"every_s": 0, "every_steps": 10, "keep": 100}, epochs=1).fit()
    # Before the epoch was evaluated, and in the end.
    assert checkpoints(tmp_path) == [name(10, 0), name(10, 1)]


def test_it_saves_every_so_many_epochs(tmp_path: Path) -> None:
    make(tmp_path, {"every_s": 0, "every_epochs": 2, "keep": 100}, epochs=5).fit()
    assert checkpoints(tmp_path) == [name(20, 2), name(40, 4), name(50, 5)]


def test_it_saves_when_the_time_has_passed(tmp_path: Path) -> None:
    make(tmp_path, {"every_s": 1e-9, "keep": 100}, epochs=1).fit()
    assert [name(step, 0) for step in range(1, 11)] == checkpoints(tmp_path)[:10]


def test_an_interrupted_run_is_saved_where_it_is(tmp_path: Path) -> None:
    run = make(tmp_path, {"every_s": 0})
    for step in run.steps():
        if step.step == 13:
            run.interrupt("enough")
    assert checkpoints(tmp_path) == [name(13, 1)]


def test_a_failed_run_keeps_its_earlier_checkpoints(tmp_path: Path) -> None:
    class Fail:
        @hookimpl
        def on_step_end(self, run: Run) -> None:
            if run.step == 7:
                raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        make(tmp_path, {"every_s": 0, "every_steps": 5}, fail=Fail()).fit()
    assert checkpoints(tmp_path) == [name(5, 0)]


# ---- which checkpoints stay -----------------------------------------------------------------------------------------


def test_only_the_newest_stay(tmp_path: Path) -> None:
    make(tmp_path, {"every_s": 0, "every_steps": 3, "keep": 3}).fit()
    assert checkpoints(tmp_path) == [name(15, 1), name(18, 1), name(20, 2)]


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 3)])
def test_the_best_stays_with_its_number(tmp_path: Path, mode: str, best: int) -> None:
    values = Losses(5.0, 1.0, 9.0, 4.0, 3.0)
    options = {"every_s": 0, "keep": 1, "keep_best": 1, "monitor": "train/given", "mode": mode}
    make(tmp_path, options, epochs=5, values=values).fit()
    assert checkpoints(tmp_path) == sorted([name(best * STEPS, best), name(50, 5)])
    loaded = read_checkpoint(tmp_path / "0001-it" / "checkpoints" / name(best * STEPS, best))
    assert loaded.manifest.metrics["train/given"] == values.values[best - 1]


def test_the_best_is_saved_even_if_its_step_was_saved_before_it_was_measured(tmp_path: Path) -> None:
    options = {"every_s": 0, "every_steps": STEPS, "keep": 1, "keep_best": 1, "monitor": "train/given"}
    make(tmp_path, options, epochs=3, values=Losses(1.0, 2.0, 3.0)).fit()
    assert name(10, 1) in checkpoints(tmp_path)


def test_nan_is_never_the_best(tmp_path: Path) -> None:
    options = {"every_s": 0, "keep": 1, "keep_best": 1, "monitor": "train/given"}
    make(tmp_path, options, epochs=3, values=Losses(float("nan"), 2.0, float("nan"))).fit()
    assert checkpoints(tmp_path) == [name(20, 2), name(30, 3)]


def test_the_best_before_an_interruption_is_the_best_after_it(tmp_path: Path) -> None:
    options = {"every_s": 0, "keep": 1, "keep_best": 1, "monitor": "train/loss", "mode": "max"}
    run = make(tmp_path, options, epochs=3)
    for step in run.steps():
        if step.step == 15:
            run.interrupt("enough")
    assert checkpoints(tmp_path) == [name(10, 1), name(15, 1)]
    resume(tmp_path / "0001-it").fit()
    assert checkpoints(tmp_path) == [name(10, 1), name(30, 3)]


def test_an_unmeasured_metric_is_refused_with_the_measured_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="validation/loss") as caught:
        make(tmp_path, {"keep_best": 1}).fit()
    assert "train/loss" in str(caught.value)
    make(tmp_path, {}, epochs=0).fit()  # it is not needed without keep_best


# ---- a save that fails ----------------------------------------------------------------------------------------------


class InTheWay:
    """Puts a file where the folder of a checkpoint belongs, so that it cannot be written."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    @hookimpl
    def on_step_end(self, run: Run) -> None:
        assert folder_of(run)
        place = saved_folder(run).checkpoints / name(run.step, run.epoch - 1)
        if self.first <= run.step <= self.last:
            place.write_text("in the way")


BACKGROUND = pytest.mark.parametrize("in_background", [False, True], ids=["at once", "in the background"])


@BACKGROUND
def test_a_failed_save_is_a_warning_and_the_next_is_tried(tmp_path: Path, in_background: bool) -> None:
    options = {"every_s": 0, "every_steps": 4, "in_background": in_background, "keep": 100}
    run = make(tmp_path, options, epochs=1, way=InTheWay(4, 4))
    result = run.fit()
    assert result.outcome == "completed"
    (warning,) = result.warnings
    assert warning.startswith("the state was not saved, and the run continues: ")
    assert "File exists" in warning
    assert [path for path in checkpoints(tmp_path) if path != name(4, 0)] == [name(8, 0), name(10, 1)]


@BACKGROUND
def test_a_failed_save_ends_the_run_with_on_failure_fail(tmp_path: Path, in_background: bool) -> None:
    options = {"every_s": 0, "every_steps": 4, "in_background": in_background, "on_failure": "fail"}
    run = make(tmp_path, options, epochs=1, way=InTheWay(4, 4))
    with pytest.raises(CheckpointError, match="File exists") as caught:
        run.fit()
    assert caught.value.hint
    assert run.outcome == "failed"
    assert run.step in (4, 8)


def test_the_last_save_must_not_fail(tmp_path: Path) -> None:
    class InTheLast:
        @hookimpl
        def on_epoch_end(self, run: Run) -> None:
            assert folder_of(run)
            (saved_folder(run).checkpoints / name(10, 1)).write_text("in the way")

    run = make(tmp_path, {"every_s": 0}, epochs=1, way=InTheLast())
    with pytest.raises(CheckpointError, match="File exists"):
        run.fit()
    assert run.outcome == "failed"


def test_a_save_in_the_background_is_announced_at_the_next_one_and_its_thread_ends(tmp_path: Path) -> None:
    announced = Announced()
    options = {"every_s": 0, "every_steps": 5, "in_background": True, "keep": 100}
    make(tmp_path, options, epochs=1, announced=announced).fit()
    assert announced.saved == [(10, name(5, 0)), (10, name(10, 0)), (10, name(10, 1))]
    assert "hookline checkpoint" not in [thread.name for thread in threading.enumerate()]


def test_a_save_in_the_background_is_on_disk_when_a_program_leaves_the_steps(tmp_path: Path) -> None:
    announced = Announced()
    options = {"every_s": 0, "every_steps": 5, "in_background": True}
    for step in make(tmp_path, options, epochs=1, announced=announced).steps():
        if step.step == 5:
            break
    assert announced.saved == [(5, name(5, 0))]
    assert "hookline checkpoint" not in [thread.name for thread in threading.enumerate()]


def test_a_state_written_later_is_that_of_its_step(tmp_path: Path) -> None:
    for parent, in_background in (("at-once", False), ("later", True)):
        options = {"every_s": 0, "every_steps": 5, "in_background": in_background, "keep": 100}
        make(tmp_path / parent, options, epochs=1).fit()
    one, other = (
        read_checkpoint(tmp_path / parent / "0001-it" / "checkpoints" / name(5, 0)).state
        for parent in ("at-once", "later")
    )
    assert all(torch.equal(one["model"][key], other["model"][key]) for key in one["model"])
    assert one["position"] == other["position"] == 5


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_a_run_without_a_folder_is_refused_with_both_remedies() -> None:
    with pytest.raises(ConfigError) as caught:
        Run(load_config({"callbacks": {"checkpoint": {}}})).fit()
    assert "no folder" in caught.value.message
    assert "callbacks.run-folder={}" in str(caught.value.hint)
    assert "callbacks.checkpoint=off" in str(caught.value.hint)


def test_a_program_may_give_the_folder(tmp_path: Path) -> None:
    run = Run(load_config({"train": {"epochs": 1}, "callbacks": {"checkpoint": {}}}))
    give_folder(run, RunFolder.claim(tmp_path, "mine"))
    run.fit()
    saved_folder(run).close()
    assert [path.name for path in saved_folder(run).checkpoints.iterdir()] == [name(100, 1)]


def test_a_second_one_in_a_run_is_refused_with_both_tables(tmp_path: Path) -> None:
    config = {"callbacks": {"run-folder": {"parent": str(tmp_path)}, "checkpoint": {}, "more": {"use": "checkpoint"}}}
    with pytest.raises(ConfigError, match=r"callbacks\.checkpoint and callbacks\.more"):
        Run(load_config(config)).fit()


class Unsavable:
    """A callback with a state that cannot be saved."""

    def __init__(self, state: Callable[[], Any]) -> None:
        self.state = state

    @hookimpl
    def on_run_start(self) -> None: ...

    def state_dict(self) -> Any:
        return self.state()

    def load_state_dict(self, state: Any) -> None: ...


def test_a_state_that_cannot_be_saved_is_refused_after_the_first_step_with_each_place_and_type(tmp_path: Path) -> None:
    unsavable = Unsavable(lambda: {"seen": {1, 2}, "where": Path("x"), "fine": [1, (2.0, None)]})
    run = make(tmp_path, {"every_s": 0}, unsavable=unsavable)
    with pytest.raises(CheckpointError) as caught:
        run.fit()
    assert run.step == 1
    assert "plugins/callbacks.unsavable/seen is of type builtins.set" in caught.value.message
    assert "plugins/callbacks.unsavable/where is of type pathlib." in caught.value.message
    assert "fine" not in caught.value.message
    assert not (tmp_path / "0001-it" / "checkpoints").exists()


def test_a_checkpoint_with_a_foreign_file_is_never_removed(tmp_path: Path) -> None:
    class Add:
        """Leaves a file in each checkpoint."""

        @hookimpl
        def on_checkpoint_saved(self, path: Path) -> None:
            (path / "mine.txt").write_text("keep me")

    make(tmp_path, {"every_s": 0, "every_steps": 4, "keep": 1}, epochs=1, add=Add()).fit()
    assert checkpoints(tmp_path) == [name(4, 0), name(8, 0), name(10, 1)]
