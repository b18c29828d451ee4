"""The table of epochs in a terminal: it has the columns that fit, and says which it leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import hookline
from hookline_plugins.callback_parts.fitting import UNLIMITED, column_widths, fitted, shortened_name, width_of

SMALL = {"train": {"epochs": 1, "batch_size": 4}, "data": {"num_examples": 8}, "callbacks": {"progress": {}}}


class _Constant:
    def reset(self) -> None: ...
    def update(self, prediction: Any, target: Any) -> None: ...
    def compute(self) -> float:
        return -1.23456e-100


class Many:
    """Metrics of given names."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    @hookline.hookimpl
    def build_metrics(self) -> dict[str, hookline.Metric]:
        return {name: _Constant() for name in self.names}


def table(
    names: Sequence[str], width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, **more: Any
) -> list[str]:
    """Return the lines of a run up to the last epoch's row."""
    monkeypatch.setenv("COLUMNS", str(width))
    config = SMALL | {"callbacks": {"progress": {}, **more}}
    hookline.train(config, plugins={"callbacks.many": Many(names)})
    lines = capsys.readouterr().out.splitlines()
    return lines[: lines.index("")]


def test_few_metrics_have_their_whole_names_and_nothing_is_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    head, row = table(["mae"], 80, capsys, monkeypatch)
    assert head == "    epoch  train/running_loss    train/loss     train/mae  seconds"
    assert len(row) == len(head)


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_of_two_thousand_metrics_those_that_fit_are_shown_and_the_log_has_all(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = [f"a_metric_with_a_long_name_{number}" for number in range(2000)]
    keep = {"run-folder": {"use": "run-folder", "parent": str(tmp_path), "monitor": f"train/{names[1500]}"}}
    left_out, head, row = table(names, width, capsys, monkeypatch, **keep)
    assert all(len(line) <= width for line in (left_out, head, row))
    assert len(head) == len(row)
    shown = head.split()[1:-1]
    assert len(shown) == (width - 18) // 14
    assert shown[0].startswith("train/loss"[:8])
    # The monitored metric is the second most important, and the columns keep the order of the metrics.
    assert len(shown) == 1 or any(name.endswith("1500") for name in shown)
    assert "more" in left_out
    log = (tmp_path / "last" / "log.txt").read_text()
    assert all(f" train/{name} " in log for name in names)


def test_names_in_wide_characters_and_with_escapes_keep_the_columns_in_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    head, row = table(["验证集上的平均绝对误差", "\x1b[31m"], 100, capsys, monkeypatch)
    assert width_of(head) == width_of(row)
    assert r"train/\x1b[31m" in head
    assert "\x1b" not in head


def test_shortened_names_fit_and_have_both_ends() -> None:
    assert shortened_name("validation/accuracy", 15) == "vali...accuracy"
    assert shortened_name("train/loss", 12) == "train/loss"
    for width in range(5, 40):
        for name in ("x" * 100, "验证集上的平均绝对误差", "a损b失c" * 5):
            short = shortened_name(name, width)
            assert width_of(short) <= width
            assert "..." in short or short == name
    assert fitted(["a 1", "b 2", "c 3"], UNLIMITED) == "a 1  b 2  c 3"
    assert fitted(["x" * 30, "b 2"], 20) == ""


def test_room_is_given_to_the_names_that_it_makes_whole() -> None:
    names = ["train/running_loss", "validation/loss", "validation/accuracy"]
    assert column_widths(names, 3 * 14 + 4) == {names[0]: 13, names[1]: 15, names[2]: 12}
    assert column_widths(names, 1) == {names[0]: 12}
    assert column_widths(names, UNLIMITED) == {name: len(name) for name in names}
