"""Callback ``progress``: its rows when not every epoch is evaluated. The rest is in the tests of the command."""

from __future__ import annotations

from typing import Any

import pytest

import hookline

SMALL = {"train": {"epochs": 4, "batch_size": 4}, "data": {"num_examples": 8}, "callbacks": {"progress": {}}}


def rows(capsys: pytest.CaptureFixture[str], **train: Any) -> list[list[str]]:
    """Return the cells of each row: label, running loss, loss, seconds; an empty cell is an empty string."""
    hookline.train(SMALL, {f"train.{name}": value for name, value in train.items()})
    lines = capsys.readouterr().out.splitlines()
    head = lines[0]
    ends = [head.index(name) + len(name) for name in ("epoch", "train/running_loss", "train/loss", "seconds")]
    table = lines[: lines.index("")]
    return [[line[a:b].strip() for a, b in zip([0, *ends], ends, strict=False)] for line in table[1:]]


def test_an_epoch_without_evaluation_has_an_empty_cell(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, evaluate_every_epochs=2)
    assert [row[0] for row in found] == ["1/4", "2/4", "3/4", "4/4"]
    assert [bool(row[2]) for row in found] == [False, True, False, True]
    assert all(row[1] and row[3] for row in found)


def test_an_evaluation_within_an_epoch_has_a_row_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, epochs=2, evaluate_every_steps=1)
    assert [row[0] for row in found] == ["step 1", "step 2", "1/2", "step 3", "step 4", "2/2"]
    assert [bool(row[1]) for row in found] == [False, False, True] * 2
    assert all(row[2] and row[3] for row in found)


def test_a_run_that_evaluates_nothing_has_no_column_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    hookline.train(SMALL, {"train.evaluate": [], "train.epochs": 1})
    assert capsys.readouterr().out.splitlines()[0].split() == ["epoch", "train/running_loss", "seconds"]


def test_a_long_epoch_has_a_line_for_each_interval_where_the_live_line_is_off(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Logs:
        @hookline.hookimpl
        def on_step_end(self, run: hookline.RunView) -> None:
            run.log("half", run.step / 2, "last")

    options = {"train": {"epochs": 2, "log_every_steps": 1}, "callbacks.progress": {"live": "off", "every_s": 1e-9}}
    run = hookline.Run(hookline.load_config(SMALL, options, plugins={"callbacks.logs": Logs()}))
    losses = [f"{step.loss.item():.4g}" for step in run.steps()]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    found = [line for line in lines if "steps/s" in line]
    assert [line[:5] for line in found] == [
        [f"{1 + number // 2}/2", "step", f"{number + 1}/4", "loss", loss] for number, loss in enumerate(losses)
    ]
    assert found[2][-2:] == ["half", "1"]  # logged in the step before


def test_an_epoch_that_is_not_long_has_no_other_line(capsys: pytest.CaptureFixture[str]) -> None:
    hookline.train(SMALL, {"train.evaluate": [], "callbacks.progress.live": "off", "callbacks.progress.every_s": 1e9})
    assert "steps/s" not in capsys.readouterr().out


@pytest.mark.parametrize("live", ["on", "off"])
def test_a_run_that_resumes_within_an_epoch_has_lines_for_the_rest_of_it(
    live: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = hookline.load_config(SMALL, {"train.epochs": 2, "callbacks.progress": {"live": live, "every_s": 1e-9}})
    first, resumed = hookline.Run(config), hookline.Run(config)
    for _ in first.steps():
        first.interrupt("the test")
    capsys.readouterr()
    resumed.load_state_dict(first.state_dict())
    resumed.fit()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines if line and len(line) == 4 and "/" in line[0]] == ["1/2", "2/2"]
    found = [line[:3] for line in lines if "steps/s" in line]
    assert found == ([["1/2", "step", "2/4"], ["2/2", "step", "3/4"], ["2/2", "step", "4/4"]] if live == "off" else [])
