"""Resuming with other values: they take effect, a refusal changes nothing, and the newest usable state is used."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from hookline import CheckpointError, ConfigError, ContractError, HooklineError, Run, hookimpl, load_config, resume
from hookline.runs import RunFolder, give_folder, identity_of, read_checkpoint
from hookline.runs.disk.checkpoint import checkpoints_in, write_checkpoint
from hookline.runs.plugin_states import fitting_states
from hookline.runs.resuming import resume_from
from reliability import job
from support import saved_folder

NOT_KEPT = (".lock", "log.txt", "traceback.txt", "error.json")


def config(parent: Path, callbacks: Mapping[str, Any] | None = None, **train: Any) -> dict[str, Any]:
    """Ten steps in each of three epochs."""
    return {
        "train": {"epochs": 3, "batch_size": 10, **train},
        "data": {"num_examples": 100},
        "callbacks": {
            "run-folder": {"parent": str(parent), "name": "job"},
            "checkpoint": {"every_s": 0, "every_steps": 5, "keep": 99},
            **(callbacks or {}),
        },
    }


def begun(values: dict[str, Any], stop_at: int = 0) -> Path:
    run = Run(load_config(values))
    for step in run.steps():
        if step.step == stop_at:
            run.interrupt("test")
    return saved_folder(run).path


def files_of(path: Path) -> dict[str, bytes]:
    found = (file for file in path.rglob("*") if file.is_file() and file.name not in NOT_KEPT)
    return {str(file.relative_to(path)): file.read_bytes() for file in found}


@pytest.fixture(scope="module")
def at_15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted in the middle of its second epoch, with several callbacks that have a state."""
    callbacks = {"best": {"monitor": "train/loss"}, "lr-schedule": {"scheduler": "cosine-annealing"}}
    return begun(config(tmp_path_factory.mktemp("at-15"), callbacks), stop_at=15)


@pytest.fixture
def path(at_15: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(at_15, tmp_path / at_15.name, symlinks=True))


# ---- a refusal changes nothing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"callbacks.best": "off"},
        {"callbacks.early-stopping": {"monitor": "train/loss"}},
        {"callbacks.best.monitor": "train/accuracy"},
        {"model.use": "mlp"},
        {"optimizer.use": "adam"},
        {"data.num_examples": 90},
        {"train.seed": 1},
        {"train.shuffle": False},
        {"train.dtype": "float64"},
        {"callbacks.bucket-by-length": {}},
    ],
    ids=str,
)
def test_a_refused_resume_changes_nothing_and_the_next_one_ends_as_if_it_had_not_been(
    path: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    before = files_of(path)
    with pytest.raises(HooklineError):
        resume(path, changes).fit()
    assert files_of(path) == before
    other = Path(shutil.copytree(path, tmp_path / "other", symlinks=True))
    job.resume_run(path)
    job.resume_run(other)
    assert job.digest(path) == job.digest(other)
    assert job.record_of(path).status == "completed"


def test_a_plugin_that_cannot_load_its_state_leaves_config_and_record_alone(tmp_path: Path) -> None:
    class Picky:
        """Accepts no state."""

        def __init__(self, is_picky: bool) -> None:
            self._is_picky = is_picky

        @hookimpl
        def on_step_end(self) -> None: ...

        def state_dict(self) -> dict[str, Any]:
            return {"words": 3}

        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            if self._is_picky:
                raise KeyError("names")

    first = Run(load_config(config(tmp_path), plugins={"callbacks.picky": Picky(is_picky=False)}))
    for step in first.steps():
        if step.step == 15:
            first.interrupt("test")
    path = saved_folder(first).path
    before = files_of(path)
    values = load_config(config(tmp_path), {"optimizer.lr": 0.5}, plugins={"callbacks.picky": Picky(is_picky=True)})
    second = Run(values)
    folder = RunFolder.open(path)
    give_folder(second, folder)
    newest = folder.newest_checkpoint(print)
    assert newest is not None
    resume_from(second, newest)
    with pytest.raises(ContractError, match="cannot load its state: KeyError"):
        second.fit()
    assert files_of(path) == before
    assert "cannot load its state" in (path / "log.txt").read_text()


def test_other_settings_of_the_order_are_taken_between_two_epochs(tmp_path: Path) -> None:
    path = begun(config(tmp_path), stop_at=15)
    with pytest.raises(ConfigError, match="order of the examples cannot change within an epoch") as caught:
        resume(path, {"train.shuffle": False})
    assert "train.shuffle was True, and is False" in str(caught.value)
    shutil.rmtree(checkpoints_in(path / "checkpoints")[0])
    run = resume(path, {"train.shuffle": False})  # after all examples of the first epoch
    assert run.step == 10
    run.fit()
    assert run.step == 30


# ---- a run that is over ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"optimizer.lr": 0.5}, {"train.epochs": 2}, {"train.max_steps": 7}], ids=str)
def test_a_completed_run_says_that_nothing_is_left_and_keeps_its_config(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = begun(config(tmp_path))
    before = files_of(path)
    with pytest.raises(ConfigError, match="is completed after 30 steps: with these values nothing is left") as caught:
        resume(path, changes)
    assert caught.value.hint is not None
    assert "train.epochs=6" in caught.value.hint
    assert files_of(path) == before


STOPPING = {"early-stopping": {"monitor": "train/loss", "patience": 1, "min_delta": 100.0}}


def test_a_stopped_run_goes_on_with_other_values_but_not_with_other_workers(tmp_path: Path) -> None:
    path = begun(config(tmp_path, STOPPING))
    assert job.record_of(path).status == "stopped"
    with pytest.raises(ConfigError, match="is stopped after 20 steps"):
        resume(path, {"train.num_workers": 1})
    run = resume(path, {"callbacks.early-stopping.min_delta": 0.0})
    run.fit()
    assert run.step > 20


@pytest.mark.parametrize("changes", [{}, {"train.num_workers": 1}, {"train.micro_batch_size": 5}, {"train.epochs": 3}])
def test_a_pending_stop_is_kept_by_values_that_do_not_concern_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The stop is requested in the second epoch, whose rest is not taken before the interrupt."""
    path = begun(config(tmp_path, STOPPING, evaluate_every_steps=4), stop_at=8)
    run = resume(path, changes)
    assert run.stop_reason is not None
    run.fit()
    assert (run.step, run.outcome) == (8, "stopped")


# ---- changed values take effect -------------------------------------------------------------------------------------


def test_a_changed_option_of_a_parameter_group_takes_effect(tmp_path: Path) -> None:
    values = config(tmp_path)
    values["optimizer"] = {"lr": 0.01, "groups": [{"parameters": ["bias"], "lr": 0.02}]}
    path = begun(values, stop_at=15)
    run = resume(path, {"optimizer.groups": [{"parameters": ["bias"], "lr": 0.5}]})
    assert [group["lr"] for group in run.optimizer.param_groups] == [0.5, 0.01]
    saved_folder(run).close()


def two_rates(params: Any, pace: float = 0.1, momentum: float = 0.5) -> torch.optim.Optimizer:
    """Descend, the biases at half the pace."""
    weight, bias = params
    groups: list[dict[str, Any]] = [{"params": [weight]}, {"params": [bias], "lr": pace / 2}]
    return torch.optim.SGD(groups, lr=pace, momentum=momentum)


def test_a_changed_option_takes_effect_whatever_the_optimizer_calls_it(tmp_path: Path) -> None:
    values = config(tmp_path)
    first = Run(load_config(values, plugins={"optimizer": two_rates}))
    for step in first.steps():
        if step.step == 14:
            # Another plugin may have changed an option.
            first.optimizer.param_groups[1]["momentum"] = 0.25
        if step.step == 15:
            first.interrupt("test")
    second = Run(load_config(values, {"optimizer.pace": 0.4}, plugins={"optimizer": two_rates}))
    resume_from(second, read_checkpoint(checkpoints_in(saved_folder(first).path / "checkpoints")[0]))
    rates = [(group["lr"], group["momentum"]) for group in second.optimizer.param_groups]
    assert rates == [(0.4, 0.5), (0.2, 0.25)]


def test_the_learning_rate_is_that_of_the_schedule_over_the_new_length(path: Path) -> None:
    """The cosine over 8 epochs from 0.03, after each of the epochs that follow the first."""
    run = resume(path, {"train.epochs": 8})
    run.fit()
    expected = [0.03 * (1 + math.cos(math.pi * epoch / 8)) / 2 for epoch in range(1, 8)]
    rows = run.summary["learning rate at the end of epochs"]
    assert [row["lr"] for row in rows[1:]] == pytest.approx(expected, rel=1e-12)


def test_a_new_learning_rate_is_the_one_that_a_schedule_starts_from(path: Path) -> None:
    run = resume(path, {"optimizer.lr": 0.1})
    run.fit()
    rows = run.summary["learning rate at the end of epochs"]
    expected = [0.1 * (1 + math.cos(math.pi * epoch / 3)) / 2 for epoch in (1, 2)]
    assert [row["lr"] for row in rows[1:]] == pytest.approx(expected, rel=1e-12)


def test_the_best_value_in_the_record_is_that_of_the_metric_that_is_monitored_now(tmp_path: Path) -> None:
    path = begun(config(tmp_path), stop_at=15)
    assert json.loads((path / "run.json").read_text())["best"]["metric"] == "train/loss"
    run = resume(path, {"callbacks.run-folder.monitor": "train/running_loss"})
    run.fit()
    best = json.loads((path / "run.json").read_text())["best"]
    values = [metrics["train/running_loss"] for metrics in run.history[1:]]
    assert (best["metric"], best["value"]) == ("train/running_loss", min(values))


# ---- states that cannot be used -------------------------------------------------------------------------------------


def spoil(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Save the newest state again, changed, with valid checksums."""
    newest = checkpoints_in(path / "checkpoints")[0]
    kept = read_checkpoint(newest)
    change(kept.state)
    shutil.rmtree(newest)
    write_checkpoint(newest.parent, kept.state, run=kept.manifest.run, identity=kept.manifest.identity)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["model"].update(weight=torch.zeros(7, 2)),
        lambda state: state["plugins"].pop("callbacks.best"),
        lambda state: state["optimizer"].update(param_groups=[]),
    ],
    ids=["weights of another shape", "a plugin without its state", "no parameter groups"],
)
def test_a_run_resumes_from_the_newest_state_that_it_can_use_and_says_so(
    path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    spoil(path, change)
    run = resume(path)
    assert run.step == 10
    told = [text for text in run.warnings if "cannot be loaded" in text]
    assert len(told) == 1
    assert "step-000000000015-epochs-1" in told[0]
    assert "using an older checkpoint" in told[0]
    run.fit()
    assert run.step == 30
    assert list((path / "checkpoints").glob("damaged-step-000000000015-epochs-1-*")), "it is preserved"


def test_if_no_state_can_be_used_the_first_reason_is_given_and_all_stay(path: Path) -> None:
    before = files_of(path)
    with pytest.raises(CheckpointError, match="step-000000000015-epochs-1 belongs to a different model"):
        resume(path, {"model.use": "mlp"})
    assert files_of(path) == before


# ---- releases of a plugin -------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """Counts steps."""

    state_version: ClassVar[int] = 2
    num_steps: int = field(default=0, init=False)

    @hookimpl
    def on_step_end(self, run: Run) -> None:
        self.num_steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.num_steps = state["num_steps"]


@dataclass
class Upgrades(Counts):
    """Counts steps, under another name in version 1."""

    def upgrade_state_dict(self, state: Mapping[str, Any], version: int) -> dict[str, Any]:
        assert version == 1
        return {"num_steps": state["count"]}


@dataclass
class Stateless:
    """Counts nothing."""

    @hookimpl
    def on_step_end(self) -> None: ...


def fitted(
    plugin: type, saved: dict[str, Any], *, version: int | None = None, code: str = "old"
) -> tuple[Any, list[str]]:
    """Fit a saved state to a plugin of a distribution whose code has the hash ``new``."""
    run = Run(load_config({"train": {"epochs": 1}}, plugins={"callbacks.counts": plugin()}))
    now = json.loads(json.dumps(identity_of(run)))
    now["plugins"]["callbacks.counts"] |= {"distribution": "acme", "version": "1.0"}
    now["code"]["acme"] = {"version": "1.0", "sha256": "new"}
    then = json.loads(json.dumps(now))
    then["plugins"]["callbacks.counts"].pop("state_version", None)
    if version:
        then["plugins"]["callbacks.counts"]["state_version"] = version
    then["code"]["acme"]["sha256"] = code
    return fitting_states(run, saved, then, now)


SAVED = {"callbacks.counts": {"count": 5}}


def test_a_state_of_the_same_version_is_loaded_as_it_is() -> None:
    assert fitted(Counts, SAVED, version=2) == (SAVED, [])


def test_a_state_of_an_older_version_is_brought_to_the_new_form() -> None:
    assert fitted(Upgrades, SAVED) == ({"callbacks.counts": {"num_steps": 5}}, [])


def test_without_a_way_to_the_new_form_a_plugin_begins_anew_with_a_warning() -> None:
    states, notes = fitted(Counts, SAVED)
    assert states == {"callbacks.counts": None}
    assert notes == ["callbacks.counts: its state has version 1, but it reads version 2: it begins anew"]


def test_an_error_on_the_way_to_the_new_form_names_the_plugin() -> None:
    with pytest.raises(ContractError, match="cannot bring its state from version 1 to 2: KeyError"):
        fitted(Upgrades, {"callbacks.counts": {}})


def test_a_release_that_gains_or_loses_its_state_is_a_warning_and_the_same_code_is_refused() -> None:
    gained, notes = fitted(Counts, {}, version=2)
    assert (gained, len(notes)) == ({"callbacks.counts": None}, 1)
    lost, notes = fitted(Stateless, SAVED)
    assert (lost, len(notes)) == ({}, 1)
    assert fitted(Counts, {}, version=2, code="new") == ({}, [])
    assert fitted(Stateless, SAVED, code="new") == (SAVED, [])


def test_a_plugin_whose_state_is_none_begins_anew() -> None:
    first = Run(load_config({"train": {"epochs": 1}}, plugins={"callbacks.counts": Counts()}))
    first.fit()
    state = first.state_dict()
    state["plugins"]["callbacks.counts"] = None
    again = Counts()
    second = Run(load_config({"train": {"epochs": 2}}, plugins={"callbacks.counts": again}))
    second.load_state_dict(state)
    second.fit()
    assert again.num_steps == 100
