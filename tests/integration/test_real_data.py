"""Real data: certified regressions and a classification, through the public door."""

from __future__ import annotations

import csv
import json
import math
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from statistics import linear_regression
from typing import Any

import pytest

import hookline as door
from support import FIXTURES

NIST = FIXTURES / "nist"
CERTIFIED = json.loads((NIST / "certified.json").read_text())

# A full-batch fit in double precision: quasi-Newton steps until nothing improves, without a line search. A line search
# compares losses, which differ by less than their rounding once half of the digits of the weights are found: a loss is
# flat at its minimum, and weights that differ by 1e-8 change it by 1e-16. Gradients remain accurate beyond that.
EXACT: dict[str, Any] = {
    "train": {"dtype": "float64", "batch_size": "all", "epochs": 60, "evaluate": []},
    "optimizer": {
        "use": "lbfgs",
        "max_iter": 100,
        "line_search_fn": "none",
        "tolerance_grad": 0.0,
        "tolerance_change": 0.0,
    },
    # The target is not standardized: torch's L-BFGS skips updates whose curvature is below 1e-10. With a target of unit
    # variance that happens before all digits are found.
    "data": {"use": "csv", "standardize": True},
}


def log_relative_error(got: float, certified: float) -> float:
    """Number of significant digits that agree, as NIST counts them: ``-log10(|got - certified| / |certified|)``."""
    if got == certified:
        return 15.0
    error = abs(got - certified) / (abs(certified) or 1.0)
    return min(-math.log10(error), 15.0)


@pytest.mark.parametrize(
    ("name", "target", "digits"), [("norris", "y", 11), ("longley", "employed", 12), ("wampler1", "y", 9)]
)
def test_certified_coefficients_are_reproduced(
    name: str,
    target: str,
    digits: float,
    record_property: Callable[[str, object], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    overrides = {"data.path": str(NIST / f"{name}.csv"), "data.target": target}
    result = door.train(EXACT, overrides)
    got = {str(row["feature"]).strip("()"): float(row["coefficient"] or 0) for row in result.summary["coefficients"]}
    certified = {key: value for key, value in CERTIFIED[name].items() if key in got}
    assert certified.keys() == got.keys()
    reached = {key: round(log_relative_error(got[key], certified[key]), 1) for key in got}
    record_property("digits", reached)
    with capsys.disabled():
        print(f"\n{name}: significant digits reached: {min(reached.values())} ({reached})")
    assert min(reached.values()) >= digits


IRIS: dict[str, Any] = {
    "train": {"epochs": 60, "batch_size": 16},
    "data": {
        "use": "csv",
        "path": str(FIXTURES / "iris" / "iris.csv"),
        "target": "species",
        "task": "classification",
        "split": [0.7, 0.3],
        "standardize": True,
    },
    "model": {"use": "mlp", "hidden": [16]},
    "loss": {"use": "cross-entropy"},
    "optimizer": {"use": "adamw", "lr": 0.01},
}


def test_a_classification_of_real_data_is_learned_and_its_accuracy_reported() -> None:
    result = door.train(IRIS)
    assert result.metrics["validation/accuracy"] >= 0.9
    assert result.metrics["train/accuracy"] >= 0.95
    assert {"train/accuracy", "validation/accuracy"} <= set(result.history[0])


def test_two_classes_in_one_output_are_learned(tmp_path: Path) -> None:
    rows = (FIXTURES / "iris" / "iris.csv").read_text().splitlines()
    two_species = [row for row in rows if not row.endswith("virginica")]
    (tmp_path / "two.csv").write_text("\n".join(two_species) + "\n")
    data = {**IRIS["data"], "path": str(tmp_path / "two.csv"), "task": "binary"}
    result = door.train({**IRIS, "data": data, "model": "linear", "loss": "bce-with-logits"})
    assert result.metrics["validation/accuracy"] == 1.0


def test_a_regression_of_real_columns_reports_coefficients_in_their_units() -> None:
    data = {"target": "petal_width", "features": ["petal_length"], "standardize": True, "standardize_target": True}
    path = str(FIXTURES / "iris" / "iris.csv")
    result = door.train({**EXACT, "data": {"use": "csv", "path": path, **data}})
    coefficients = {row["feature"]: row["coefficient"] for row in result.summary["coefficients"]}
    # Least squares by the textbook formula: slope = cov(x, y) / var(x).
    with (FIXTURES / "iris" / "iris.csv").open() as file:
        pairs = [(float(row["petal_length"]), float(row["petal_width"])) for row in csv.DictReader(file)]
    slope, intercept = linear_regression(*zip(*pairs, strict=True))
    assert coefficients == {"petal_length": pytest.approx(slope), "(intercept)": pytest.approx(intercept)}


def test_init_writes_a_config_for_a_table_that_trains(
    hookline: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "iris.csv").write_bytes((FIXTURES / "iris" / "iris.csv").read_bytes())
    assert hookline("init", "iris.csv").returncode == 0
    config = door.load_config(tmp_path / "run.toml")
    names = ["csv", "tabular", "cross-entropy", "adamw", "try-first-batch", "averaging", "best", "early-stopping"]
    assert [choice.plugin.name for choice in config.plugins] == names
    done = hookline("train", "run.toml")
    assert (done.returncode, done.stderr) == (0, "")
    head = next(line for line in done.stdout.splitlines() if line.strip().startswith("epoch"))
    assert len(head) <= 80
    assert re.search(r"val\w*(/|\.\.\.)\w*curacy", head)


def test_init_writes_a_path_relative_to_the_config(
    hookline: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "norris.csv").write_bytes((NIST / "norris.csv").read_bytes())
    assert hookline("init", "norris.csv", "-o", "configs/run.toml").returncode == 0
    done = hookline("check", "configs/run.toml")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_relative_path_starts_at_the_config_that_names_it(
    hookline: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "norris.csv").write_bytes((NIST / "norris.csv").read_bytes())
    (tmp_path / "a" / "run.toml").write_text('[data]\nuse = "csv"\npath = "norris.csv"\ntarget = "y"\n')
    assert hookline("check", "a/run.toml").returncode == 0
    assert hookline("check", "a/run.toml", "data.path=norris.csv").returncode == 4
    assert hookline("check", "a/run.toml", "data.path=a/norris.csv").returncode == 0


def test_bad_data_is_one_clear_error_and_exit_code_4(
    hookline: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "bad.csv").write_text("x,y\n1,2\n1,two\n3\n")
    before = sorted(tmp_path.iterdir())
    done = hookline("train", "data=csv", "data.path=bad.csv", "data.target=y")
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    for words in ["bad.csv:3", "'two'", "bad.csv:4"]:
        assert words in done.stderr
    assert sorted(tmp_path.iterdir()) == before
