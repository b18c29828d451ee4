"""Reports: the sections of a run folder, of its plugins and of several runs, and the page."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import hookline
from hookline import RunView, hookimpl
from hookline.runs import find_run, read_record
from hookline.sections import Bars, Curves, Section, Table, Text
from hookline.trained import collect_sections
from hookline_plugins.drawing.classes import calibration_curve, class_sections, pr_curve, roc_curve
from hookline_plugins.drawing.curves import curve_sections
from hookline_plugins.drawing.evaluated import regression_sections
from hookline_plugins.drawing.kept import KEPT, keep_sections, kept_sections
from hookline_plugins.drawing.of_run import sections_of_run
from hookline_plugins.drawing.of_runs import sections_of_runs
from hookline_plugins.drawing.page import report_page
from hookline_plugins.metrics.answers import Answers
from support import ROOT

IRIS = ROOT / "tests" / "fixtures" / "iris" / "iris.csv"


def train_iris(folder: Path, **overrides: Any) -> Path:
    config = {
        "train": {"epochs": 3},
        "data": {
            "use": "csv",
            "path": str(IRIS),
            "target": "species",
            "task": "classification",
            "split": [0.7, 0.3],
            "standardize": True,
        },
        "model": {"use": "linear"},
        "loss": {"use": "cross-entropy"},
        "callbacks": {"run-folder": {"parent": str(folder / "runs")}},
    }
    hookline.train(config, overrides)
    return find_run("last", folder / "runs")


@pytest.fixture(scope="module")
def iris_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_iris(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def collected(iris_run: Path) -> dict[str, Section]:
    return {section.title: section for section in collect_sections(iris_run)}


def by_title(sections: list[Section]) -> dict[str, Any]:
    return {section.title: section for section in sections}


# ---- from the folder -------------------------------------------------------------------------------------------------


def test_values_that_were_set_come_first_with_their_origin(iris_run: Path) -> None:
    config = by_title(sections_of_run(iris_run))["Config"]
    assert list(config.rows[0]) == ["train.epochs", 3, "python"]
    assert {origin for _, _, origin in config.rows[: len(config.marked)]} == {"python"}
    assert ["optimizer.lr", 0.03, "default of optimizer 'sgd' (hookline 0.1.0)"] in [list(row) for row in config.rows]


def test_a_report_of_a_folder_has_each_topic(iris_run: Path) -> None:
    topics = {section.topic for section in sections_of_run(iris_run)}
    assert topics == {"run", "curves", "data", "warnings", "environment", "repeat"}


def test_curves_of_a_metric_share_a_chart_and_have_the_values_of_the_file(iris_run: Path) -> None:
    rows = [json.loads(line) for line in (iris_run / "metrics.jsonl").read_text().splitlines()]
    loss = by_title(sections_of_run(iris_run))["loss"]
    assert [one.name for one in loss.series] == ["train/running_loss", "train/loss", "validation/loss"]
    assert loss.series[2].steps == [row["step"] for row in rows]
    assert loss.series[2].values == pytest.approx([row["validation/loss"] for row in rows], rel=1e-6)


def write_metrics(folder: Path, lines: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def test_a_metric_that_is_not_finite_is_a_gap_and_a_spike_is_kept(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"epoch": 1, "step": step, "loss": 1.0} for step in range(1, 5001)]
    lines[2500]["loss"] = 77.0
    path = write_metrics(tmp_path / "long", lines)
    (long,) = by_title(curve_sections({"r": path}))["loss"].series
    assert len(long.values) <= 1000
    assert max(long.high) == 77.0
    path = write_metrics(tmp_path / "short", [{"step": n, "loss": None if n == 2 else n} for n in (1, 2, 3)])
    (short,) = by_title(curve_sections({"r": path}))["loss"].series
    assert (short.steps, short.values, short.low) == ([1, 2, 3], [1, None, 3], [])


def test_of_two_thousand_metrics_forty_are_drawn_and_the_rest_is_counted(tmp_path: Path) -> None:
    path = write_metrics(tmp_path / "many", [{"step": 1, **{f"m{number}": 1.0 for number in range(2000)}}])
    sections = curve_sections({"r": path})
    assert len(sections) == 41
    assert isinstance(sections[-1], Text)
    assert sections[-1].paragraphs[0].startswith("1,960 of 2,000 metrics are left out")


def test_runs_are_compared_by_what_differs(iris_run: Path) -> None:
    other = train_iris(iris_run.parent.parent, **{"optimizer.lr": 0.5})
    sections = by_title(sections_of_runs([iris_run, other]))
    assert [list(row) for row in sections["Differences"].rows] == [["settings", "optimizer.lr", 0.03, 0.5]]
    axes = {axis.name: list(axis.values) for axis in sections["Settings and results"].axes}
    assert axes["optimizer.lr"] == [0.03, 0.5]
    losses = [read_record(path).metrics["validation/loss"] for path in (iris_run, other)]
    assert axes["validation/loss"] == losses
    assert [one.name for one in sections["loss"].series if "validation" in one.name] == [
        f"{path.name}: validation/loss" for path in (iris_run, other)
    ]


# ---- from the plugins ------------------------------------------------------------------------------------------------


def test_the_sections_of_a_classification(collected: dict[str, Section]) -> None:
    matrix: Any = collected["Confusion matrix, validation"]
    assert matrix.row_labels == ["setosa", "versicolor", "virginica"]
    assert sum(map(sum, matrix.counts)) == 45
    assert isinstance(collected["ROC, validation"], Curves)
    missing: Any = collected["Columns"]
    assert [row[:4] for row in missing.rows[:1]] == [["sepal_length", "numbers", 0, 35]]
    classes: Any = collected["Classes"]
    assert sum(classes.values) == 105
    assert isinstance(collected["Weights for setosa"], Bars)


def test_scores_of_classes_by_hand() -> None:
    # Chosen: 0, 0, 1, 1, 2, 0; true: 0, 1, 1, 1, 2, 2.
    chosen, true = torch.tensor([0, 0, 1, 1, 2, 0]), torch.tensor([0, 1, 1, 1, 2, 2])
    logits = torch.nn.functional.one_hot(chosen, 3).double()
    sections = by_title(class_sections(logits, true, Answers(), ("a", "b"), "test"))
    assert sections["Confusion matrix, test"].counts == [[1, 0, 0], [1, 2, 0], [1, 0, 1]]
    rows = sections["Scores of each class, test"].rows
    assert rows[0] == ["a", pytest.approx(1 / 3), 1.0, pytest.approx(0.5), 1]
    assert rows[1] == ["b", 1.0, pytest.approx(2 / 3), pytest.approx(0.8), 3]
    assert rows[2][0] == "2"


def test_curves_of_rates_with_ties_by_hand() -> None:
    scores, true = torch.tensor([0.9, 0.5, 0.5, 0.1]).double(), torch.tensor([True, True, False, False])
    x, y, area = roc_curve(scores, true)
    assert (x.tolist(), y.tolist(), area) == ([0, 0, 0.5, 1], [0, 0.5, 1, 1], 0.875)
    _, precision, average = pr_curve(scores, true)
    assert precision.tolist() == [1, 1, pytest.approx(2 / 3), 0.5]
    assert average == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_a_calibration_by_hand() -> None:
    mean, frequency, error = calibration_curve(torch.tensor([0.05, 0.95, 0.91]).double(), torch.tensor([0, 1, 0]) > 0)
    assert mean.tolist() == pytest.approx([0.05, 0.93])
    assert frequency.tolist() == [0, 0.5]
    assert error == pytest.approx((0.05 + 2 * 0.43) / 3)


def test_scores_and_areas_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    calibration = pytest.importorskip("sklearn.calibration")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 4, generator=generator).double()
    true = torch.randint(0, 4, (500,), generator=generator)
    logits[range(500), true] += 0.7
    sections = by_title(class_sections(logits, true, Answers(), (), "test"))
    chosen = logits.argmax(1)
    assert sections["Confusion matrix, test"].counts == metrics.confusion_matrix(true, chosen).tolist()
    scores = metrics.precision_recall_fscore_support(true, chosen)
    assert torch.tensor([row[1:4] for row in sections["Scores of each class, test"].rows[:4]]).T.tolist() == [
        pytest.approx(list(score), rel=1e-6) for score in scores[:3]
    ]
    tied = (logits[:, 0] * 3).round()  # many equal scores
    assert roc_curve(tied, true == 0)[2] == pytest.approx(metrics.roc_auc_score(true == 0, tied))
    assert pr_curve(tied, true == 0)[2] == pytest.approx(metrics.average_precision_score(true == 0, tied))
    probabilities = logits.softmax(1)[:, 0]
    mean, frequency, _ = calibration_curve(probabilities, true == 0)
    there = calibration.calibration_curve(true == 0, probabilities, n_bins=10)
    assert frequency.tolist() == pytest.approx(list(there[0]))
    assert mean.tolist() == pytest.approx(list(there[1]))


def test_residuals_are_in_the_units_of_the_data() -> None:
    data = hookline.DataSource(
        torch.utils.data.TensorDataset(torch.zeros(3, 1), torch.zeros(3, 1)),
        in_features=1,
        out_features=1,
        target_names=("price",),
        unscale=lambda values: values * 10 + 1,
    )
    prediction, target = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[1.0], [1.0], [1.0]])
    sections = by_title(regression_sections(prediction, target, data, "test"))
    scatter = sections["price: predicted and true, test"]
    assert (scatter.x, scatter.y) == ([11, 11, 11], [11, 21, 41])
    assert sections["price: residuals, test"].y == [0, 10, 30]


@dataclass
class Fails:
    """Has no sections, but an error."""

    @hookimpl
    def build_report(self, run: RunView) -> list[Section]:
        raise KeyError(f"{run.step} <b>")


@dataclass
class TooMuch:
    """Adds a long table, and something that is no section."""

    @hookimpl
    def build_report(self) -> list[Any]:
        return [Table(title="Long", columns=["n"], rows=[[n] for n in range(30_000)]), "<b>no section</b>"]


def test_a_plugin_that_fails_costs_a_section_with_its_name(tmp_path: Path) -> None:
    callbacks = {"callbacks.fails": Fails, "callbacks.much": TooMuch}
    config = {"callbacks": {"run-folder": {"parent": str(tmp_path)}}, "train": {"epochs": 1}}
    hookline.train(config, plugins=callbacks)
    sections = by_title(collect_sections("last", parent=tmp_path, plugins=callbacks))
    failed = {title: section for title, section in sections.items() if title.startswith("No sections of")}
    assert len(failed) == 2
    assert any("KeyError" in section.paragraphs[0] and "<b>" in section.paragraphs[0] for section in failed.values())
    assert "Metrics of the train split" in sections


def test_kept_sections_are_those_of_the_weights_alone(iris_run: Path, collected: dict[str, Section]) -> None:
    record = read_record(iris_run)
    keep_sections(iris_run, list(collected.values()))
    kept = kept_sections(iris_run, record)
    assert kept is not None
    assert [section.title for section in kept] == list(collected)
    assert record.model is not None
    record.model = replace_sum(record.model)
    assert kept_sections(iris_run, record) is None
    (iris_run / KEPT).write_text('{"weights": ')
    assert kept_sections(iris_run, read_record(iris_run)) is None
    (iris_run / KEPT).unlink()


def replace_sum(model: Any) -> Any:
    return type(model)(size=model.size, sha256="0" * 64)


# ---- the page --------------------------------------------------------------------------------------------------------


def test_nothing_of_a_run_is_markup_in_the_page() -> None:
    evil = '</script><script>alert(1)</script><img src=x onerror=alert(1)>"&'
    section = Text(title=evil, topic="run", paragraphs=[evil])
    page = report_page(evil, evil, [section], evil)
    assert "<script>alert" not in page
    assert "<img" not in page
    data = re.search(r'<script type="application/json" id="hookline-sections">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])[0]["title"] == evil


def test_the_policy_of_the_page_allows_its_own_scripts_alone() -> None:
    page = report_page("t", "s", [])
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy[1]
    assert "http" not in re.sub(r"https?://(www\.w3\.org/2000/svg|github\.com|jfly|scikit)", "", policy[1])


def test_numbers_that_are_not_finite_reach_the_page_as_null() -> None:
    section = Bars(title="b", labels=["a"], values=[None if math.isnan(math.nan) else 1.0])
    assert "NaN" not in report_page("t", "s", [section]).partition("hookline-sections")[2].partition("</script>")[0]
