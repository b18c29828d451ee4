"""The study of a sweep: its journal, the values that it chooses, its best trials, and what pruning does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import hookline
from hookline import Catalog, ConfigError
from hookline.sections import Scatter
from hookline.testing import check_plugin

optuna = pytest.importorskip("optuna", reason="the extra sweep is not installed")

from hookline_plugins.commands.sweeping.definition import Sweep, define  # noqa: E402 - after the check
from hookline_plugins.commands.sweeping.journal import JOURNAL, open_journal  # noqa: E402
from hookline_plugins.commands.sweeping.sections import sections_of_sweep  # noqa: E402
from hookline_plugins.commands.sweeping.study import Study  # noqa: E402

CATALOG = Catalog.installed()
WORDS = ("optimizer.lr=log(1e-4, 1)", "train.batch_size=log(8, 64)", "optimizer.momentum=0.5,0.9")


def begun(folder: Path, *words: str, **given: Any) -> tuple[Study, Sweep]:
    folder.mkdir(exist_ok=True)
    sweep = define(words or WORDS, {"trials": 20, **given}, CATALOG)
    return Study.begin(folder, sweep), sweep


def values_of(study: Study, sweep: Sweep, count: int) -> list[list[str]]:
    """Choose and tell trials, whose objective is the length of the words."""
    chosen = []
    for number in range(count):
        chosen.append(study.choose(number, sweep))
        study.tell(number, [float(sum(map(len, chosen[-1])))], run=f"{number}")
    return chosen


def test_a_journal_is_lines_of_json(tmp_path: Path) -> None:
    values_of(*begun(tmp_path), 3)
    lines = (tmp_path / JOURNAL).read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    # Optuna unpickles the snapshots of a backend that has some.
    assert not hasattr(optuna.storages.journal.JournalFileBackend, "load_snapshot")


def test_a_line_that_was_cut_off_is_removed_before_the_next_is_written(tmp_path: Path) -> None:
    study, sweep = begun(tmp_path)
    values_of(study, sweep, 2)
    whole = (tmp_path / JOURNAL).read_bytes()
    for cut in (b"{", whole.splitlines()[-1], b'{"op_code": 4, "wor' + b"x" * 70_000):
        (tmp_path / JOURNAL).write_bytes(whole + cut)
        again, _ = begun(tmp_path)
        assert again.num_trials == 2
        again.choose(2, sweep)
        assert Study.open(tmp_path).num_trials == 3


def test_the_lock_of_a_killed_process_stops_nobody(tmp_path: Path) -> None:
    study, sweep = begun(tmp_path)
    # Optuna's own lock, as a killed process leaves it behind, and the file of ours.
    (tmp_path / f"{JOURNAL}.lock").symlink_to(JOURNAL)
    assert (tmp_path / ".journal-lock").exists()
    study.choose(0, sweep)
    assert study.num_trials == 1


@pytest.mark.parametrize("text", ["not json\n{}\n", '{"op_code": 99}\n', "[1]\n"])
def test_a_damaged_journal_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / JOURNAL).write_text(text)
    with pytest.raises(ConfigError, match="is damaged"):
        open_journal(tmp_path)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_values_of_a_trial_depend_on_seed_number_and_results_alone(tmp_path: Path, sampler: str) -> None:
    whole = values_of(*begun(tmp_path / "whole", sampler=sampler), 14)
    assert len({*map(tuple, whole)}) == 14
    study, sweep = begun(tmp_path / "parts", sampler=sampler)
    assert values_of(study, sweep, 12) == whole[:12]
    # Killed when the first value of trial 12 was written, and none of trial 13.
    journal = tmp_path / "parts" / JOURNAL
    study.choose(12, sweep)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[: -len(WORDS) + 1]))
    again, _ = begun(tmp_path / "parts", sampler=sampler)
    assert again.unfinished == [12]
    assert again.choose(12, sweep) == whole[12]
    assert again.choose(12, sweep) == whole[12]
    assert again.num_trials == 13
    assert values_of(*begun(tmp_path / "other", sampler=sampler, seed=1), 2) != whole[:2]


def test_values_are_within_their_ranges_and_of_their_types(tmp_path: Path) -> None:
    for lr, size, momentum in values_of(*begun(tmp_path, sampler="random"), 20):
        assert 1e-4 <= float(lr.removeprefix("optimizer.lr=")) <= 1
        assert 8 <= int(size.removeprefix("train.batch_size=")) <= 64
        assert momentum.removeprefix("optimizer.momentum=") in ("0.5", "0.9")


def test_a_grid_tries_each_combination_in_order(tmp_path: Path) -> None:
    study, sweep = begun(tmp_path, "model.hidden=[8],[8,8]", "model=mlp", "train.epochs=range(1,6,2)", sampler="grid")
    assert values_of(study, sweep, sweep.num_trials) == [
        [f"model.hidden={hidden}", f"train.epochs={epochs}"] for hidden in ("[8]", "[8,8]") for epochs in (1, 3, 5)
    ]


def test_the_best_of_several_objectives_are_those_that_none_surpasses(tmp_path: Path) -> None:
    study, sweep = begun(tmp_path, *WORDS, minimize=("train/loss",), maximize=("train/accuracy",))
    assert study.directions == ["minimize", "maximize"]
    for number, values in enumerate([(1.0, 0.5), (2.0, 0.9), (2.0, 0.4), (1.0, 0.5), (3.0, 0.9)]):
        study.choose(number, sweep)
        study.tell(number, values, run="")
    study.choose(5, sweep)
    study.tell_failure(5, "no", run="")
    # Trial 2 is worse than 0 in both, trial 4 worse than 1 in the first; 0 and 3 are equal.
    assert [row.number for row in study.best()] == [0, 1, 3]
    assert [(row.state, row.error) for row in study.rows()][-2:] == [("complete", ""), ("fail", "no")]


def test_the_largest_is_the_best_of_an_objective_to_maximize(tmp_path: Path) -> None:
    study, sweep = begun(tmp_path, *WORDS, maximize=("train/accuracy",))
    for number, value in enumerate([0.1, 0.7, 0.3]):
        study.choose(number, sweep)
        study.tell(number, [value], run="")
    assert [row.number for row in study.best()] == [1]


def test_another_sweep_in_the_folder_is_an_error_with_each_difference(tmp_path: Path) -> None:
    begun(tmp_path)
    begun(tmp_path, *WORDS, trials=30)
    with pytest.raises(ConfigError, match="has another sweep") as caught:
        begun(tmp_path, *WORDS, seed=1, maximize=("train/accuracy",))
    assert [fault.message for fault in caught.value.faults] == ["seed: 0 -> 1", "maximize: [] -> ['train/accuracy']"]
    with pytest.raises(ConfigError, match="has another sweep") as caught:
        begun(tmp_path, *WORDS, "loss=l1")
    assert [fault.message for fault in caught.value.faults] == ["overrides: [] -> ['loss=l1']"]


def test_a_trial_that_is_worse_than_the_median_is_pruned(tmp_path: Path) -> None:
    study, sweep = begun(tmp_path, *WORDS, prune=True)
    storage = open_journal(tmp_path)
    for number in range(6):
        study.choose(number, sweep)
        # The loss of the run below falls from about 6 after its first epoch; that of these from 10, and to 0.
        for epoch, value in ((1, 10.0), (2, 0.0), (3, 0.0)):
            if number < 5:
                storage.set_trial_intermediate_value(number, epoch, value)
        if number < 5:
            study.tell(number, [0.0], run="")
    pruned = {"callbacks.prune.folder": str(tmp_path), "callbacks.prune.trial": 5}
    result = hookline.train(None, {"train.epochs": 5, "data.num_examples": 100, **pruned})
    assert (result.outcome, len(result.history)) == ("stopped", 2)
    trial = storage.get_trial(5)
    assert trial.intermediate_values == {1: result.history[0]["train/loss"], 2: result.history[1]["train/loss"]}
    assert study.is_pruned(5)
    study.tell(5, [], run="", is_pruned=True)
    row = study.rows()[5]
    assert (row.state, row.values) == ("pruned", (result.history[1]["train/loss"],))


def test_the_report_of_a_sweep_shows_which_option_matters(tmp_path: Path) -> None:
    space = ("optimizer.lr=log(1e-4, 1)", "optimizer.momentum=0.5,0.9")
    study, sweep = begun(tmp_path, *space, maximize=("train/accuracy",), sampler="random")
    for number in range(20):
        lr, _ = study.choose(number, sweep)
        study.tell(number, [float(lr.removeprefix("optimizer.lr="))], run=f"{number:04d}-trial-{number}")
    importance = study.importance()
    assert importance["optimizer.lr"] > 0.9  # the objective is this option
    assert sum(importance.values()) == pytest.approx(1)
    shown = [tmp_path / f"{number:04d}-trial-{number}" for number in (3, 5)]
    sections = sections_of_sweep(shown)
    assert [section.title for section in sections] == [
        "Importance of the options",
        "train/accuracy over optimizer.lr",
        "train/accuracy over optimizer.momentum",
    ]
    points = sections[1]
    assert isinstance(points, Scatter)
    assert points.x == pytest.approx([math.log10(value) for value in points.y if value is not None])
    assert sections_of_sweep([tmp_path / "elsewhere" / "0001-x"]) == []


def test_the_callback_prune_meets_the_contract_of_callbacks(tmp_path: Path) -> None:
    study, sweep = begun(tmp_path, *WORDS, prune=True)
    study.choose(0, sweep)
    check_plugin("callback", "prune", options={"folder": str(tmp_path), "trial": 0})
