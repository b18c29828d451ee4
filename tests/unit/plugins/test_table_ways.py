"""Ways to treat the columns of a table: rare categories, missing cells, transforms, words for 0 and 1, times."""

from __future__ import annotations

import datetime
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from hookline import DataError, Run, load_config
from hookline_plugins.data.tables.table import Table
from hookline_plugins.data.tables.transforms import normal_quantile, normal_share

CITIES = "cccaaabbbbddef"
"""Counts: a 3, b 4, c 3, d 2, e 1, f 1."""


def written(folder: Path, header: str, *lines: str) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def inputs_of(dataset: Any) -> list[list[float]]:
    rows: list[list[float]] = dataset.tensors[0].tolist()
    return rows


def new_inputs(table: Table, data: Any, path: Path) -> list[list[float]]:
    (batch,) = table.build_predictor(data).read(path, 100)
    rows: list[list[float]] = batch.tolist()
    return rows


def refusal(table: Table) -> str:
    with pytest.raises(DataError) as caught:
        table.build_data()
    return str(caught.value)


# ---- categories ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        ({"min_frequency": 2}, "abcd"),
        ({"min_frequency": 0.2}, "abc"),  # 2.8 of 14 rows
        ({"max_categories": 3}, "bc"),  # of two that are equally frequent, the last one
        ({"max_categories": 6}, "abcdf"),
        ({"min_frequency": 3, "max_categories": 2}, "b"),
        ({"min_frequency": 1}, "abcdef"),
    ],
)
def test_rare_categories_are_one_as_in_scikit_learn(tmp_path: Path, options: dict[str, Any], levels: str) -> None:
    path = written(tmp_path, "city,y", *(f"{city},1" for city in CITIES))
    data = Table(path, "y", one_hot=("city",), **options).build_data()
    has_rare = levels != "abcdef"
    assert data.feature_names == (*(f"city={level}" for level in levels), *["city.other"] * has_rare)
    expected = [[*(float(city == level) for level in levels), float(city not in levels)] for city in CITIES]
    assert inputs_of(data.train) == [row if has_rare else row[:-1] for row in expected]
    sklearn = pytest.importorskip("sklearn.preprocessing", reason="scikit-learn is not installed")
    encoder = sklearn.OneHotEncoder(sparse_output=False, **{"max_categories": None, **options})
    np.testing.assert_array_equal(inputs_of(data.train), encoder.fit_transform(np.array([*CITIES])[:, None]))


def test_an_unseen_category_has_the_feature_for_others(tmp_path: Path) -> None:
    path = written(tmp_path, "k,x,y", "a,1,1", "b,2,2", "a,3,3")
    table = Table(path, "y", one_hot=("k",), unseen="other")
    data = table.build_data()
    assert data.feature_names == ("k=a", "k=b", "k.other", "x")
    assert inputs_of(data.train)[1] == [0, 1, 0, 2]
    assert new_inputs(table, data, written(tmp_path, "k,x", "c,5")) == [[0, 0, 1, 5]]


def test_a_rare_category_is_no_unseen_one(tmp_path: Path) -> None:
    path = written(tmp_path, "k,y", "a,1", "a,2", "b,3")
    for form, expected in (("one-hot", [[0, 1], [0, 1]]), ("codes", [[0], [0]])):
        table = Table(path, "y", one_hot=("k",), min_frequency=2, categories=form)  # type: ignore[arg-type] # literals
        (batch,) = table.build_predictor(table.build_data()).read(written(tmp_path, "k", "b", "z"), 9)
        assert (batch["categories"] if form == "codes" else batch).tolist() == expected
        path = written(tmp_path, "k,y", "a,1", "a,2", "b,3")


# ---- missing cells ---------------------------------------------------------------------------------------------------


def test_each_column_has_its_own_way_with_missing_cells(tmp_path: Path) -> None:
    lines = ["1,,,a,1", ",7,5,,2", "4,8,6,b,3", "10,9,,a,4", "2,1,3,a,5", "3,3,1,,6"]
    path = written(tmp_path, "a,b,c,k,y", *lines)
    ways: dict[str, Any] = {"b": 0.0, "c": "drop", "k": "other"}
    table = Table(path, "y", one_hot=("k",), missing="median", missing_by_column=ways, missing_flags=True)
    data = table.build_data()
    assert data.feature_names == ("a", "a.missing", "b", "b.missing", "c", "k=a", "k=b", "k.other")
    assert inputs_of(data.train) == [
        [3, 1, 7, 0, 5, 0, 0, 1],
        [4, 0, 8, 0, 6, 0, 1, 0],
        [2, 0, 1, 0, 3, 1, 0, 0],
        [3, 0, 3, 0, 1, 0, 0, 1],
    ]
    new = written(tmp_path, "a,b,c,k", ",,4,")
    assert new_inputs(table, data, new) == [[3, 1, 0, 1, 4, 0, 0, 1]]


def test_the_median_and_the_flag_are_those_of_the_training_rows(tmp_path: Path) -> None:
    values = [7, 1, None, 30, 2, None, 11, 4, 90, 5, None, 6]
    path = written(tmp_path, "x,y", *(f"{'' if x is None else x},{y}" for y, x in enumerate(values)))
    table = Table(path, "y", split=(0.5, 0.5), missing="median", missing_flags=True, standardize=True)
    data = table.build_data()
    for part in (data.train, data.validation):
        rows = part.tensors[1].flatten().long().tolist()  # type: ignore[union-attr] # the targets number the rows
        train = data.train.tensors[1].flatten().long().tolist()  # type: ignore[attr-defined] # as above
        median = np.median([values[row] for row in train if values[row] is not None])
        filled = np.array([median if value is None else value for value in values])
        flag = np.array([float(value is None) for value in values])
        both = np.stack([filled, flag], axis=1)
        expected = (both - both[train].mean(axis=0)) / both[train].std(axis=0)
        np.testing.assert_allclose(inputs_of(part), expected[rows], rtol=1e-13, atol=1e-15)


def test_only_missing_cells_of_columns_with_the_way_error_are_faults(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b,y", ",1,1", "2,,2", "3,3,3")
    text = refusal(Table(path, "y", missing="mean", missing_by_column={"b": "error"}))
    assert "column 'b': the cell is empty" in text
    assert "column 'a'" not in text


# ---- transforms ------------------------------------------------------------------------------------------------------


def test_metrics_and_predictions_of_a_transformed_target_are_in_the_units_of_the_file(tmp_path: Path) -> None:
    x = np.linspace(0, 2, 21)
    y = np.exp(1 + 2 * x + 0.3 * np.sin(9 * x))
    path = written(tmp_path, "x,y", *(f"{a!r},{b!r}" for a, b in zip(x.tolist(), y.tolist(), strict=True)))
    data = {"use": "csv", "path": str(path), "target": "y", "standardize_target": True, "transforms": {"y": "log"}}
    metrics = {"metrics": ["mae", "rmse", "r2"]}
    run = Run(load_config({"train": {"dtype": "float64"}, "data": data, "callbacks": {"metrics": metrics}}))
    result = run.fit()
    with torch.no_grad():
        scaled = run.model(torch.from_numpy(x).unsqueeze(1)).numpy()[:, 0]
    predicted = np.exp(scaled * np.log(y).std() + np.log(y).mean())
    errors = y - predicted
    r2 = 1 - (errors**2).sum() / ((y - y.mean()) ** 2).sum()
    expected = [np.abs(errors).mean(), np.sqrt((errors**2).mean()), r2]
    assert [result.metrics[f"train/{name}"] for name in metrics["metrics"]] == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(result.predict({"x": x}), predicted, rtol=1e-12)
    assert "coefficients" not in result.summary


def test_normal_quantiles_and_shares_are_those_of_python_and_torch() -> None:
    low = torch.logspace(-6.99, -0.3, 301, dtype=torch.float64)
    shares = torch.cat([low, 1 - low])
    exact = [statistics.NormalDist().inv_cdf(share) for share in shares.tolist()]
    np.testing.assert_allclose(normal_quantile(shares), exact, rtol=2e-15)
    quantiles = torch.linspace(-7, 7, 1001, dtype=torch.float64)
    np.testing.assert_allclose(normal_share(quantiles), torch.special.ndtr(quantiles), rtol=0, atol=3e-16)


@pytest.mark.parametrize("use", ["uniform", "normal"])
@pytest.mark.parametrize("kind", ["continuous", "many zeros", "few", "two values"])
def test_quantiles_are_those_of_scikit_learn(tmp_path: Path, use: str, kind: str) -> None:
    sklearn = pytest.importorskip("sklearn.preprocessing", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    x = rng.exponential(size=13 if kind == "few" else 1500)
    x = {"many zeros": np.where(x < 0.7, 0, x), "two values": (x > 1).astype(float)}.get(kind, x)
    path = tmp_path / "table.parquet"
    pl.DataFrame({"x": x, "y": x}).write_parquet(path)
    table = Table(path, "y", transforms={"x": use, "y": use})  # type: ignore[dict-item] # literals
    data = table.build_data()
    reference = sklearn.QuantileTransformer(n_quantiles=min(1000, len(x)), output_distribution=use, subsample=None)
    expected = reference.fit_transform(x[:, None])
    np.testing.assert_allclose(inputs_of(data.train), expected, atol=1e-8)
    assert data.unscale is not None
    np.testing.assert_allclose(
        data.unscale(torch.from_numpy(expected)), reference.inverse_transform(expected), atol=1e-8
    )
    new = tmp_path / "new.parquet"
    pl.DataFrame({"x": [-1.0, 0.1, 0.9, 99.0]}).write_parquet(new)
    np.testing.assert_allclose(
        new_inputs(table, data, new), reference.transform([[-1.0], [0.1], [0.9], [99.0]]), atol=1e-7
    )


def test_a_transform_of_a_feature_comes_after_filling_and_before_scaling(tmp_path: Path) -> None:
    path = written(tmp_path, "x,y", "1,1", "3,2", ",3", "7,4")
    table = Table(path, "y", missing=5.0, transforms={"x": "log1p"}, standardize=True)
    data = table.build_data()
    values = np.log1p([1, 3, 5, 7])
    np.testing.assert_allclose(inputs_of(data.train), ((values - values.mean()) / values.std())[:, None], rtol=1e-13)
    with torch.no_grad():
        layer = nn.Linear(1, 1, dtype=torch.float64)
        layer.weight.fill_(values.std())
        layer.bias.fill_(values.mean())
    summary = Run(
        load_config({"train": {"epochs": 0, "dtype": "float64"}}, plugins={"data": table, "model": layer})
    ).fit()
    rows = [dict(row) for row in summary.summary["coefficients"]]
    assert [row["feature"] for row in rows] == ["log1p(x)", "(intercept)"]
    assert [row["coefficient"] for row in rows] == pytest.approx([1, 0], abs=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transforms": {"x": "log"}}, ["column 'x': 0.0 has no logarithm", ":3:1", "'log1p'"]),
        ({"transforms": {"y": "log1p"}}, ["column 'y': -1.0 plus 1 has no logarithm", ":2:5"]),
        ({"transforms": {"k": "log"}}, ["`transforms` names 'k', which does not hold numbers"]),
        ({"transforms": {"xx": "log"}}, ["`transforms` names 'xx', which is no column in use", "did you mean 'x'?"]),
        ({"missing_by_column": {"y": "mean"}}, ["`missing_by_column` names the target 'y'"]),
        ({"missing_by_column": {"x": "other"}}, ["'other' for 'x', which `one_hot` does not list", "'median'"]),
    ],
)
def test_options_that_do_not_fit_the_columns_are_refused(
    tmp_path: Path, options: dict[str, Any], words: list[str]
) -> None:
    path = written(tmp_path, "x,k,y", "1,a,-1", "0,b,3")
    text = refusal(Table(path, "y", one_hot=("k",), **options))
    assert [word for word in words if word not in text] == []


# ---- words for 0 and 1, times ----------------------------------------------------------------------------------------


def test_words_for_true_and_false_are_1_and_0(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b,c,y", "true,No,Y,1", "FALSE,yes,,2", "True,no,n,3")
    table = Table(path, "y", missing="mean")
    data = table.build_data()
    assert inputs_of(data.train) == [[1, 0, 1], [0, 1, 0.5], [1, 0, 0]]
    assert new_inputs(table, data, written(tmp_path, "a,b,c", "0,1,yes", "false,NO,")) == [[0, 1, 1], [0, 0, 0.5]]
    with pytest.raises(DataError, match="column 'b': 'maybe' is neither true nor false"):
        new_inputs(table, data, written(tmp_path, "a,b,c", "true,maybe,y"))


def test_a_column_of_booleans_in_parquet_may_be_words_in_new_rows(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pl.DataFrame({"a": [True, False], "y": [1, 2]}).write_parquet(path)
    table = Table(path, "y")
    assert new_inputs(table, table.build_data(), written(tmp_path, "a,z", "false,1", "true,2")) == [[0], [1]]


def test_times_of_the_day_are_hours(tmp_path: Path) -> None:
    path = written(tmp_path, "t,y", "06:30,1", "23:45,2")
    table = Table(path, "y", dates={"t": "%H:%M"})
    data = table.build_data()
    assert (data.feature_names, inputs_of(data.train)) == (("t.hours",), [[6.5], [23.75]])
    assert new_inputs(table, data, path) == [[6.5], [23.75]]
    text = refusal(Table(written(tmp_path, "t,y", "06:30,1", "25:00,2"), "y", dates={"t": "%H:%M"}))
    assert [
        word for word in ("'25:00' is not a time", "a time of the form '%H:%M' is expected") if word not in text
    ] == []


@pytest.mark.parametrize(
    ("form", "cells", "what"),
    [
        ("%H", ("06", "23"), "time of the day"),
        ("%I:%M", ("06:30", "11:45"), "time of the day"),
        ("%H:%Q", ("06:30", "11:45"), "time of the day"),
        ("%Y-%m-%d %H", ("2000-01-01 06", "2000-01-02 23"), "date"),
        ("", ("2000-01-01", "2000-01-02"), "date"),
    ],
)
def test_a_form_that_no_date_can_have_is_one_fault(
    tmp_path: Path, form: str, cells: tuple[str, str], what: str
) -> None:
    path = written(tmp_path, "t,y", f"{cells[0]},1", f"{cells[1]},2")
    text = refusal(Table(path, "y", dates={"t": form}))
    assert "one fault" in text
    assert f"`dates` has the form {form!r} for column 't': no {what} has this form" in text


@pytest.mark.parametrize("form", ["%I:%M %p", "%T", "%d.%m.%y", "%Y-%j", "%Y-%m-%d %H:%M:%S%.f %z", "%G-W%V-%u"])
def test_a_form_that_a_date_can_have_is_accepted(tmp_path: Path, form: str) -> None:
    moments = [datetime.datetime(2000, 2, 29, 13, 5, 9, tzinfo=datetime.UTC) for _ in range(2)]
    cells = pl.Series(moments).dt.strftime(form)
    path = written(tmp_path, "t,y", f"{cells[0]},1", f"{cells[1]},2")
    Table(path, "y", dates={"t": form}).build_data()


def test_times_and_durations_of_parquet_are_hours_and_seconds(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    spans = [datetime.timedelta(minutes=2), None]
    pl.DataFrame({"t": [datetime.time(6, 30), datetime.time(18)], "d": spans, "y": [1, 2]}).write_parquet(path)
    table = Table(path, "y", missing=7.5)
    data = table.build_data()
    assert inputs_of(data.train) == new_inputs(table, data, path) == [[6.5, 120], [18, 7.5]]


# ---- given frames ----------------------------------------------------------------------------------------------------


class NA:
    """A missing value whose comparisons have no truth value, as that of pandas."""

    def __eq__(self, other: object) -> Any:
        return self

    __ne__ = __eq__
    __hash__ = None  # type: ignore[assignment] # comparisons say nothing

    def __bool__(self) -> bool:
        raise TypeError


def predictor_of(folder: Path, **options: Any) -> Any:
    path = written(folder, "x,k,y", "1,a,1", "2,b,2", "3,b,3")
    table = Table(path, "y", one_hot=("k",), **options)
    return table.build_predictor(table.build_data())


@pytest.mark.parametrize(
    "rows",
    [
        {"x": [1, None], "k": ["a", None]},
        {"x": np.array([1, np.nan]), "k": np.array(["a", np.nan], dtype=object)},
        {"x": ["1", NA()], "k": ["a", NA()]},
        pl.DataFrame({"x": [1, None], "k": ["a", None]}),
        {"x": np.array([1, "NA"], dtype=object), "k": ["a", ""]},
    ],
    ids=["None", "NaN", "NA", "polars", "words"],
)
def test_a_frame_with_missing_cells_is_predicted_from_or_refused_by_row(tmp_path: Path, rows: Any) -> None:
    filling = predictor_of(tmp_path, missing="mean")
    np.testing.assert_allclose(filling.predict(lambda inputs: inputs.sum(1, keepdim=True), rows, 10), [2, 3])
    with pytest.raises(DataError) as caught:
        predictor_of(tmp_path).predict(lambda inputs: inputs, rows, 10)
    assert [fault.message for fault in caught.value.faults] == [
        "row 2, column 'x': the cell is empty",
        "row 2, column 'k': the cell is empty",
    ]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([[1.0], [2.0]], "column 'x' holds values of type Array"),
        ([[1.0], [2.0, 3.0]], "column 'x' cannot be read"),
        ([{"a": 1}, {"a": 2}], "column 'x' holds values of type Struct"),
    ],
)
def test_a_frame_without_single_values_is_refused(tmp_path: Path, cells: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        predictor_of(tmp_path).predict(lambda inputs: inputs, {"x": cells, "k": ["a", "b"]}, 10)
    assert caught.value.faults[0].message.startswith(message)
    assert caught.value.faults[0].hint == "pass one number, text, date or time for each row"
