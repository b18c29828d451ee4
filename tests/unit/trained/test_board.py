"""``compare_runs``: runs on one split, read once, ranked among those with the same examples."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

import hookline
from hookline import ConfigError, DataSource, hookimpl
from hookline.cli.output import Output
from hookline.cli.printing.evaluated import print_board
from hookline.trained import Board, compare_runs, evaluate_run
from hookline_plugins.data.tables.table import Table


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and runs: 1 and 2 differ in lr, 3 in split_seed, 4 in loss and scale, 5 is damaged."""
    folder = tmp_path_factory.mktemp("board")
    rng = random.Random(0)
    lines = [f"{x},{3 * x + rng.gauss(0, 1):.4f}" for x in (rng.gauss(0, 1) for _ in range(50))]
    (folder / "t.csv").write_text("\n".join(["x,y", *lines, ""]))
    changes: list[dict[str, Any]] = [
        {"optimizer.lr": 0.1},
        {"optimizer.lr": 0.01},
        {"optimizer.lr": 0.02, "data.split_seed": 1},
        {"optimizer.lr": 0.1, "loss": "huber", "data.standardize_target": True},
        {},
    ]
    config = {
        "train": {"epochs": 1},
        "data": {"use": "csv", "path": str(folder / "t.csv"), "target": "y", "split": [0.6, 0.2, 0.2]},
        "optimizer": {"lr": 0.03},
        "callbacks": {"run-folder": {"parent": str(folder / "runs")}, "metrics": {"metrics": ["rmse", "r2"]}},
    }
    for change in changes:
        hookline.train(config, change)
    (folder / "runs" / "0005-csv-linear" / "model.safetensors").write_bytes(b"")
    return folder / "runs"


def named(board: Board) -> list[tuple[str, int, int | None]]:
    return [(row.path.name[:4], row.group, row.rank) for row in board.rows]


def test_runs_are_sorted_by_their_loss_which_is_that_of_an_evaluation(place: Path) -> None:
    board = compare_runs(["2", "1"], parent=place, split="test")
    assert named(board) == [("0001", 1, 1), ("0002", 1, 2)]
    for row in board.rows:
        alone = evaluate_run(row.path, splits=["test"])
        assert dict(row.metrics) == {name.removeprefix("test/"): value for name, value in alone.metrics.items()}
    assert (board.options, board.warnings, dict(board.failed)) == (("optimizer.lr",), (), {})
    assert [row.num_examples for row in board.rows] == [10, 10]


def test_without_a_split_runs_are_compared_on_the_validation_split(place: Path) -> None:
    assert compare_runs(["1"], parent=place).split == "validation"


def test_the_data_of_equal_options_are_read_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Table] = []
    build = Table.read

    def counted(table: Table, *given: Any) -> Any:
        read.append(table)
        return build(table, *given)

    monkeypatch.setattr(Table, "read", counted)
    compare_runs(["1", "3", "2"], parent=place)
    assert [table.split_seed for table in read] == [0, 1]


@pytest.mark.parametrize(("sort", "first"), [("rmse", 1), ("r2", 1), ("test/rmse", 1), ("rmse:max", 2), ("r2:min", 2)])
def test_the_metric_says_which_values_are_better(place: Path, sort: str, first: int) -> None:
    board = compare_runs(["2", "1"], parent=place, split="test", sort=sort)
    assert board.rows[0].path.name == f"{first:04}-csv-linear"
    assert board.higher_is_better == (sort in ("r2", "rmse:max"))


def test_runs_with_other_test_examples_are_ranked_apart_and_the_option_is_named(place: Path) -> None:
    board = compare_runs(["1", "3", "2"], parent=place, split="test")
    assert named(board) == [("0001", 1, 1), ("0002", 1, 2), ("0003", 2, 1)]
    (warning,) = board.warnings
    assert "not measured on the same examples of the test split" in warning
    assert "group 1: 0001-csv-linear, 0002-csv-linear (data.split_seed = 0)" in warning
    assert "group 2: 0003-csv-linear (data.split_seed = 1)" in warning


def test_a_run_that_was_perhaps_trained_with_the_examples_is_not_ranked_with_the_others(place: Path) -> None:
    board = compare_runs(["1", "3", "2"], {"data.split_seed": 0}, parent=place, split="test")
    assert named(board) == [("0001", 1, 1), ("0002", 1, 2), ("0003", 2, 1)]
    assert board.warnings[0].startswith("0003-csv-linear: these are not the data that the run was trained with")
    assert "trained on other data, with data.split_seed = 1: examples of the training may be among" in board.warnings[1]


def test_losses_that_are_not_the_same_are_not_sorted_by_unless_asked_with_a_warning(place: Path) -> None:
    board = compare_runs(["1", "4"], parent=place, split="test")
    assert (board.sort, board.warnings, len({row.group for row in board.rows})) == ("rmse", (), 1)
    (warning,) = compare_runs(["1", "4"], parent=place, split="test", sort="loss").warnings
    assert warning.endswith("cannot be compared (loss.use, the scale of targets)")


def test_runs_that_cannot_be_evaluated_leave_the_others(place: Path) -> None:
    board = compare_runs(["5", "99", "1"], parent=place)
    assert named(board) == [("0001", 1, 1)]
    assert {path.name: type(error).__name__ for path, error in board.failed.items()} == {
        "0005-csv-linear": "CheckpointError",
        "99": "ConfigError",
    }


def test_a_metric_that_no_run_has_is_an_error_and_so_is_one_without_a_direction(place: Path) -> None:
    with pytest.raises(ConfigError, match="no run has the metric 'rmsee' of the test split") as caught:
        compare_runs(["1"], parent=place, split="test", sort="rmsee")
    assert caught.value.hint == "did you mean 'rmse'?"
    with pytest.raises(ConfigError, match="does not say whether larger values are better") as caught:
        compare_runs(["1"], parent=place, sort="odd", plugins={"callbacks.odd": OddCallback()})
    assert caught.value.hint == "say it: --sort odd:max or --sort odd:min"


def test_a_terminal_that_is_too_narrow_lacks_the_last_columns(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    board = compare_runs(["1", "2"], parent=place)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "36")
    print_board(Output(), board)
    head, _, names, *_, last = capsys.readouterr().out.splitlines()
    assert head == "validation split, 10 examples; by loss, the smallest first"
    assert names.split() == ["run", "lr", "loss"]
    assert last == "no room for rmse, r2: use -o FILE, --json or a wider terminal"


class Odd:
    """A metric that does not say which values are better."""

    def reset(self) -> None:
        """Forget nothing."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Take a batch."""

    def compute(self) -> float:
        """Return a number."""
        return 1.0


class OddCallback:
    """Adds ``Odd``."""

    @hookimpl
    def build_metrics(self) -> Mapping[str, Any]:
        """Return the metric."""
        return {"odd": Odd()}


class Named(Dataset[Any]):
    """A dataset whose target is a mapping, which no column of targets shows."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return torch.tensor([float(index)]), {"a": torch.tensor([1.0])}


def test_examples_without_a_tensor_of_targets_are_the_same_if_all_options_of_the_data_are(tmp_path: Path) -> None:
    data = DataSource(Named(), in_features=1, out_features=1)
    config = {"train": {"epochs": 1}, "callbacks": {"run-folder": {"parent": str(tmp_path)}}}

    def loss(prediction: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        return (prediction - target["a"]).square().mean()

    for lr in (0.1, 0.2):
        hookline.train({**config, "optimizer": {"lr": lr}}, plugins={"data": data, "loss": loss})
    board = compare_runs(["1", "2"], parent=tmp_path, plugins={"data": data, "loss": loss})
    assert [row.group for row in board.rows] == [1, 1]
