"""Figures for papers: their contents, their bytes, and names that matplotlib would take for something else."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.dom import minidom

import pytest

from hookline import ConfigError, RunResult
from hookline.runs import RunFolder, plot
from hookline.runs.overview.figure import save_figure, smoothed

matplotlib = pytest.importorskip("matplotlib", reason="the extra plots is not installed")

FORMULA = r"$\frac{_x</script>_per_s"


def _folder(parent: Path, factor: float = 1.0, **more: float) -> Path:
    folder = RunFolder.claim(parent, "mine")
    folder.close()
    rows = ({"epoch": n, "step": 10 * n, "train/loss": factor / n, **more} for n in range(1, 4))
    (folder.path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder.path


def _lines(figure: Any) -> list[list[list[float]]]:
    return [line.get_xydata().tolist() for line in figure.axes[0].get_lines()]


def test_the_curves_of_folders_and_results_are_those_of_their_metrics(tmp_path: Path) -> None:
    one, two = _folder(tmp_path), _folder(tmp_path, 2.0)
    figure = plot(one, two, log=True)
    assert _lines(figure) == [[[10, 1], [20, 0.5], [30, 1 / 3]], [[10, 2], [20, 1], [30, 2 / 3]]]
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("step", "train/loss", "log")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [one.name, two.name]
    history = [{"train/loss": 3.0, "a": 1.0}, {"train/loss": math.nan}, {"train/loss": 2.0, "validation/loss": 4.0}]
    result = cast(RunResult, SimpleNamespace(history=history))
    figure = plot(result, width=3.4)
    assert _lines(figure) == [[[1, 3], [3, 2]], [[3, 4]]]
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("epoch", "loss")
    assert figure.get_figwidth() == 3.4
    with pytest.raises(ConfigError, match="nothing to plot"):
        plot(result, metrics=["no"])
    with pytest.raises(ConfigError, match="no value above 0"):
        plot(_folder(tmp_path, -1.0), log=True)


def test_smoothing_is_the_mean_without_the_bias_of_its_start(tmp_path: Path) -> None:
    # By hand, with weight 1/2: 4; (4/4 + 2/2) / (3/4) = 8/3; (4/8 + 2/4 + 6/2) / (7/8) = 32/7.
    assert smoothed([(1, 4.0), (2, 2.0), (3, 6.0)], 0.5) == [
        (1, 4.0),
        (2, pytest.approx(8 / 3)),
        (3, pytest.approx(32 / 7)),
    ]
    raw, average = plot(_folder(tmp_path), smooth=0.5).axes[0].get_lines()
    assert raw.get_alpha() == 0.25
    assert average.get_ydata().tolist() == pytest.approx(
        [1, (1 / 4 + 1 / 4) / (3 / 4), (1 / 8 + 1 / 8 + 1 / 6) / (7 / 8)]
    )


@pytest.mark.parametrize("suffix", ["pdf", "svg", "PNG"])
def test_a_run_gives_the_same_bytes_in_another_process_and_with_another_style(suffix: str, tmp_path: Path) -> None:
    path = _folder(tmp_path)
    save_figure(plot(path), tmp_path / f"here.{suffix}")
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nlines.linewidth: 9\n")
    program = [str(Path(sys.executable).parent / "hookline"), "runs", "plot", str(path), "-o", f"there.{suffix}"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"wrote there.{suffix}\n"), done.stderr
    assert (tmp_path / f"here.{suffix}").read_bytes() == (tmp_path / f"there.{suffix}").read_bytes()
    again = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "already exists" in again.stderr


def test_names_that_look_like_formulas_markup_or_private_ones_are_shown_as_they_are(tmp_path: Path) -> None:
    names = {FORMULA: 1.0, "_模型\x1b[31m": 1e300, "x" * 300: 2.0}
    one, two = _folder(tmp_path, **names), _folder(tmp_path, **names)
    figure = plot(one, two, metrics=list(names))
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == [f"{FORMULA} (1/s)", r"_模型\x1b[31m", f"{'x' * 22}...{'x' * 22}"]
    save_figure(figure, tmp_path / "hostile.svg")
    assert minidom.parse(str(tmp_path / "hostile.svg")).getElementsByTagName("script") == []
    legend = plot(one, metrics=list(names)).axes[0].get_legend()
    assert legend.get_texts()[0].get_text() == FORMULA


def test_many_runs_have_looks_of_their_own_and_a_legend_below(tmp_path: Path) -> None:
    paths = [_folder(tmp_path) for _ in range(28)]
    figure = plot(*paths)
    looks = {
        (line.get_color(), str(line.get_linestyle()), str(line._dash_pattern)) for line in figure.axes[0].get_lines()
    }
    assert len(looks) == 28
    assert len(figure.legends[0].get_texts()) == 28
    assert figure.get_figheight() > plot(*paths[:2]).get_figheight()
    with pytest.raises(ConfigError, match="too many curves to tell apart: 29"):
        plot(*paths, _folder(tmp_path))
