"""Tables from CSV and Parquet files: the data read from them, and the errors for bad ones."""

from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from hookline import ConfigError, DataError, Run, load_config
from hookline_plugins.data.tables.table import Table

FIXTURES = Path(__file__).parent.parent / "fixtures"
NIST = FIXTURES / "nist"
IRIS = FIXTURES / "iris" / "iris.csv"


class Folder:
    """Writes table files into a temporary folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def csv(self, content: str | bytes, name: str = "table.csv") -> Path:
        path = self.path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def parquet(self, **columns: Any) -> Path:
        path = self.path / "table.parquet"
        pl.DataFrame(columns).write_parquet(path)
        return path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def tensors(dataset: Dataset[Any] | None) -> tuple[Tensor, Tensor]:
    assert isinstance(dataset, TensorDataset)
    inputs, targets = dataset.tensors
    return inputs, targets


def refusal(path: Path, target: str | tuple[str, ...] = "y", **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        Table(path, target, **options).build_data()
    return caught.value


# ---- reading --------------------------------------------------------------------------------------------------------


def test_regression_gives_float64_inputs_and_targets_with_their_names(folder: Folder) -> None:
    data = Table(folder.csv("a,y,b\n1,10,2\n3,20,4\n"), "y").build_data()
    inputs, targets = tensors(data.train)
    assert torch.equal(inputs, torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))
    assert torch.equal(targets, torch.tensor([[10.0], [20.0]], dtype=torch.float64))
    assert (data.in_features, data.out_features) == (2, 1)
    assert (data.feature_names, data.target_names, data.class_names) == (("a", "b"), ("y",), ())


def test_only_listed_features_are_used_in_the_order_of_the_list(folder: Folder) -> None:
    path = folder.csv("a,note,y,b\n1,hello,10,2\n3,bye,20,4\n")
    data = Table(path, "y", features=("b", "a")).build_data()
    assert data.feature_names == ("b", "a")
    assert tensors(data.train)[0].tolist() == [[2.0, 1.0], [4.0, 3.0]]


def test_several_targets_make_several_columns(folder: Folder) -> None:
    data = Table(folder.csv("x,u,v\n1,2,3\n4,5,6\n"), ("v", "u")).build_data()
    assert tensors(data.train)[1].tolist() == [[3.0, 2.0], [6.0, 5.0]]
    assert (data.out_features, data.target_names) == (2, ("v", "u"))


def test_numbers_are_read_to_the_nearest_float64(folder: Folder) -> None:
    rng = random.Random(0)
    texts = [
        "0.1",
        "+1E+2",
        ".5",
        "5.",
        "-0.0",
        "1e-400",
        "4.9e-324",
        "2.2250738585072011e-308",
        "1.7976931348623157e308",
        "9007199254740993",
        "1829.15146461355",
    ]
    texts += [f"{rng.uniform(-1e6, 1e6):.{rng.randint(0, 40)}f}" for _ in range(500)]
    texts += [f"{rng.getrandbits(90)}e{rng.randint(-200, 200)}" for _ in range(500)]
    path = folder.csv("x,y\n" + "".join(f"{text},0\n" for text in texts))
    read = tensors(Table(path, "y").build_data().train)[0].flatten().tolist()
    assert read == [float(text) for text in texts]


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("\ufeffx,y\n1,2\n3,4\n", {}),
        ("x,y\r\n1,2\r\n3,4\r\n", {}),
        ("x,y\n1,2\n3,4", {}),
        ("\nx,y\n\n1,2\n\n3,4\n\n", {}),
        ("x , y\n 1, 2 \n3 ,\t4\n", {}),
        ('"x","y"\n"1","2"\n"3","4"\n', {}),
        ("x;y\n1;2\n3;4\n", {"delimiter": ";"}),
        ("x\ty\n1\t2\n3\t4\n", {"delimiter": "\t"}),
        ('x,y,note\n1,2,"one,\ntwo ""three"""\n3,4,\n', {"features": ("x",)}),
    ],
    ids=[
        "BOM",
        "CRLF",
        "no last line end",
        "blank lines",
        "blanks",
        "quotes",
        "semicolon",
        "tab",
        "line break in cell",
    ],
)
def test_different_spellings_of_a_table_give_the_same_numbers(
    folder: Folder, content: str, options: dict[str, Any]
) -> None:
    data = Table(folder.csv(content), "y", **options).build_data()
    assert [tensor.tolist() for tensor in tensors(data.train)] == [[[1.0], [3.0]], [[2.0], [4.0]]]
    assert data.feature_names == ("x",)


def test_parquet_is_read_like_csv(folder: Folder) -> None:
    path = folder.parquet(x=[1, 2, 3], flag=[True, False, True], y=[0.1, 0.2, 0.3])
    data = Table(path, "y").build_data()
    assert tensors(data.train)[0].tolist() == [[1.0, 1.0], [2.0, 0.0], [3.0, 1.0]]
    assert tensors(data.train)[1].flatten().tolist() == [0.1, 0.2, 0.3]


def test_a_path_with_wildcard_characters_is_one_file(folder: Folder) -> None:
    folder.csv("x,y\n9,9\n", "a1.csv")
    data = Table(folder.csv("x,y\n1,2\n", "a[1]*.csv"), "y").build_data()
    assert tensors(data.train)[0].tolist() == [[1.0]]


def test_importing_the_plugin_imports_neither_torch_nor_polars() -> None:
    modules = ("hookline_plugins.data.tables.table", "hookline_plugins.data.tables.starting.starter")
    code = f"import sys, {', '.join(modules)}; print({{'torch', 'polars'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_without_polars_the_error_says_what_to_install(folder: Folder) -> None:
    code = (
        "import sys; sys.modules['polars'] = None\n"
        "from pathlib import Path; from hookline import PluginError\n"
        "from hookline_plugins.data.tables.table import Table\n"
        "try:\n    Table(Path(sys.argv[1]), 'y').build_data()\nexcept PluginError as error:\n    print(error.hint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder.csv("x,y\n1,2\n")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "pip install 'hookline[tables]'"


# ---- classes and categories -----------------------------------------------------------------------------------------


def test_classification_of_words_gives_indices_of_the_sorted_names() -> None:
    data = Table(IRIS, "species", task="classification").build_data()
    inputs, targets = tensors(data.train)
    assert data.class_names == ("setosa", "versicolor", "virginica")
    assert (inputs.shape, data.in_features, data.out_features) == ((150, 4), 4, 3)
    assert targets.dtype == torch.int64
    assert targets.bincount().tolist() == [50, 50, 50]
    assert targets[[0, 50, 149]].tolist() == [0, 1, 2]


def test_classes_that_are_whole_numbers_are_sorted_as_numbers(folder: Folder) -> None:
    data = Table(folder.csv("x,y\n1,10\n2,9\n3,10\n"), "y", task="classification").build_data()
    assert data.class_names == ("9", "10")
    assert tensors(data.train)[1].tolist() == [1, 0, 1]


def test_parquet_classes_may_be_whole_floats_or_categories(folder: Folder) -> None:
    floats = Table(folder.parquet(x=[1, 2, 3], y=[2.0, 1.0, 2.0]), "y", task="classification").build_data()
    assert (floats.class_names, tensors(floats.train)[1].tolist()) == (("1", "2"), [1, 0, 1])
    categories = pl.Series(["b", "a", "b"], dtype=pl.Categorical)
    words = Table(folder.parquet(x=[1, 2, 3], y=categories), "y", task="classification").build_data()
    assert (words.class_names, tensors(words.train)[1].tolist()) == (("a", "b"), [1, 0, 1])


def test_a_binary_target_is_a_column_of_zeros_and_ones(folder: Folder) -> None:
    data = Table(folder.csv("x,y\n1,yes\n2,no\n3,yes\n"), "y", task="binary").build_data()
    targets = tensors(data.train)[1]
    assert (data.class_names, data.out_features) == (("no", "yes"), 1)
    assert (targets.dtype, targets.tolist()) == (torch.float64, [[1.0], [0.0], [1.0]])


def test_one_hot_makes_a_feature_of_each_category_sorted_by_name(folder: Folder) -> None:
    data = Table(folder.csv("color,x,y\nred,1,0\nblue,2,0\nred,3,0\n"), "y", one_hot=("color",)).build_data()
    assert data.feature_names == ("color=blue", "color=red", "x")
    assert tensors(data.train)[0].tolist() == [[0, 1, 1], [1, 0, 2], [0, 1, 3]]


def test_one_hot_width_and_classes_do_not_depend_on_the_split(folder: Folder) -> None:
    rows = "".join(f"{number},{'rare' if number == 7 else 'common'},{number % 2}\n" for number in range(20))
    path = folder.csv("x,kind,y\n" + rows)
    for seed in range(6):
        data = Table(path, "y", one_hot=("kind",), split=(0.2, 0.8), split_seed=seed).build_data()
        assert data.feature_names == ("x", "kind=common", "kind=rare")


# ---- splits, missing cells, scales -----------------------------------------------------------------------------------


def split_xs(path: Path, seed: int = 0) -> list[list[float]]:
    data = Table(path, "y", split=(0.7, 0.2, 0.1), split_seed=seed).build_data()
    return [tensors(part)[0].flatten().tolist() for part in data.splits().values()]


def test_a_split_puts_each_row_into_one_split_and_keeps_it_with_its_target(folder: Folder) -> None:
    path = folder.csv("x,y\n" + "".join(f"{number},{number * 10}\n" for number in range(20)))
    data = Table(path, "y", split=(0.7, 0.2, 0.1)).build_data()
    assert list(data.splits()) == ["train", "validation", "test"]
    parts = [tensors(part) for part in data.splits().values()]
    assert [len(inputs) for inputs, _ in parts] == [14, 4, 2]
    assert sorted(torch.cat([inputs for inputs, _ in parts]).flatten().tolist()) == list(range(20))
    assert all(torch.equal(inputs * 10, targets) for inputs, targets in parts)


def test_a_split_depends_on_its_seed_alone(folder: Folder) -> None:
    path = folder.csv("x,y\n" + "".join(f"{number},0\n" for number in range(20)))
    torch.manual_seed(1)
    first = split_xs(path)
    torch.manual_seed(2)
    assert split_xs(path) == first
    assert split_xs(path, seed=1) != first
    assert first[0] != list(range(14))


def test_standardize_uses_the_training_rows_and_only_centers_a_constant(folder: Folder) -> None:
    rng = random.Random(0)
    rows = [(rng.gauss(50, 9), 0.1, rng.gauss(-3, 2)) for _ in range(30)]
    path = folder.csv("x,constant,y\n" + "".join(f"{x!r},{c!r},{y!r}\n" for x, c, y in rows))
    options: dict[str, Any] = {"split": (0.5, 0.5), "split_seed": 3}
    raw = Table(path, "y", **options).build_data()
    scaled = Table(path, "y", **options, standardize=True, standardize_target=True).build_data()
    (x_raw, y_raw), (x, y) = tensors(raw.train), tensors(scaled.train)
    for before, after in ((x_raw[:, 0], x[:, 0]), (y_raw[:, 0], y[:, 0])):
        torch.testing.assert_close(after, (before - before.mean()) / before.std(correction=0))
    assert x[:, 1].tolist() == [0.0] * 15
    x_validation, x_validation_raw = tensors(scaled.validation)[0][:, 0], tensors(raw.validation)[0][:, 0]
    expected = (x_validation_raw - x_raw[:, 0].mean()) / x_raw[:, 0].std(correction=0)
    torch.testing.assert_close(x_validation, expected)


def test_metrics_of_a_standardized_target_are_in_the_units_of_the_file(folder: Folder) -> None:
    rows = [(number / 7, 1000 * number + 40 * (number % 3)) for number in range(24)]
    path = folder.csv("x,y\n" + "".join(f"{x!r},{y!r}\n" for x, y in rows))
    data = {"use": "csv", "path": str(path), "target": "y", "standardize": True, "standardize_target": True}
    metrics = {"metrics": ["mae", "rmse", "max_error"]}
    run = Run(load_config({"train": {"dtype": "float64"}, "data": data, "callbacks": {"metrics": metrics}}))
    found = run.fit().metrics
    x, y = np.array(rows).T
    with torch.no_grad():
        scaled = run.model(torch.tensor((x - x.mean()) / x.std()).unsqueeze(1)).numpy()[:, 0]
    errors = y - (scaled * y.std() + y.mean())
    expected = [np.abs(errors).mean(), np.sqrt((errors**2).mean()), np.abs(errors).max()]
    assert [found[f"train/{name}"] for name in metrics["metrics"]] == pytest.approx(expected, rel=1e-9)
    assert found["train/loss"] == pytest.approx((errors**2).mean() / y.std() ** 2, rel=1e-9)


def test_one_hot_features_are_standardized_like_all_others(folder: Folder) -> None:
    path = folder.csv("k,y\na,1\na,2\na,3\nb,4\n")
    inputs, _ = tensors(Table(path, "y", one_hot=("k",), standardize=True).build_data().train)
    torch.testing.assert_close(inputs.mean(dim=0), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(inputs.std(dim=0, correction=0), torch.ones(2, dtype=torch.float64))


def test_missing_drop_leaves_out_rows_with_a_missing_cell_in_a_used_column(folder: Folder) -> None:
    path = folder.csv("x,kind,note,y\n1,a,,10\n,b,,20\n3,,,30\n4,a,,\n5,b,,50\n")
    data = Table(path, "y", features=("x", "kind"), one_hot=("kind",), missing="drop").build_data()
    assert tensors(data.train)[0].tolist() == [[1, 1, 0], [5, 0, 1]]
    assert tensors(data.train)[1].flatten().tolist() == [10.0, 50.0]


def test_missing_mean_fills_features_with_the_mean_of_the_training_rows(folder: Folder) -> None:
    path = folder.csv("x,y\n" + "".join(f"{'' if number % 4 == 0 else number},0\n" for number in range(40)))
    data = Table(path, "y", split=(0.5, 0.5), missing="mean").build_data()
    train, validation = (tensors(part)[0].flatten().tolist() for part in data.splits().values())
    known = [value for value in train if value in range(40) and value % 4]
    fills = {value for value in train + validation if value not in range(40) or not value % 4}
    assert len(known) < 20
    assert len(fills) == 1
    assert fills.pop() == pytest.approx(sum(known) / len(known), rel=1e-12)


def test_missing_mean_of_a_one_hot_column_is_the_share_of_each_category(folder: Folder) -> None:
    data = Table(folder.csv("kind,y\na,1\nb,1\na,1\n,1\na,1\n"), "y", one_hot=("kind",), missing="mean").build_data()
    assert tensors(data.train)[0][3].tolist() == [0.75, 0.25]


@pytest.mark.parametrize("missing", ["mean", "drop"])
def test_a_row_without_a_target_is_left_out_and_no_other(folder: Folder, missing: str) -> None:
    path = folder.csv("x,z,y\n1,1,10\n2,2,\n3,,30\n4,4,NA\n5,5,50\n")
    table = Table(path, "y", features=("x",), missing=missing)  # type: ignore[arg-type] # one of the literals
    run = Run(load_config({"train": {"epochs": 0}}, plugins={"data": table}))
    run.fit()
    assert tensors(run.data.train)[0].flatten().tolist() == [1, 3, 5]
    assert list(run.warnings) == ["2 rows have no target, and cannot be used: table.csv"]


def test_features_of_the_same_name_are_refused(folder: Folder) -> None:
    path = folder.csv("c,c=red,y\nred,1,1\nblue,2,2\n")
    assert "2 features would be named 'c=red'" in str(refusal(path, one_hot=("c",)))


def test_whole_numbers_in_any_spelling_are_one_class_but_leading_zeros_are_kept(folder: Folder) -> None:
    path = folder.csv("x,y\n1,1\n2,1.0\n3,2\n4,2.00\n")
    assert Table(path, "y", task="classification").build_data().class_names == ("1", "2")
    codes = folder.csv("x,y\n1,007\n2,7\n3,07\n")
    assert set(Table(codes, "y", task="classification").build_data().class_names) == {"007", "07", "7"}
    versions = folder.csv("x,y\n1,1.0\n2,1.1\n3,beta\n")
    assert Table(versions, "y", task="classification").build_data().class_names == ("1.0", "1.1", "beta")


@pytest.mark.parametrize("content", ['"red \\"x\\"",1\n', '"a"b",1\n', '"say "hi" now",1\n'])
def test_a_quote_mark_inside_a_cell_is_refused_where_polars_would_drop_it(folder: Folder, content: str) -> None:
    error = refusal(folder.csv(f"note,y\nplain,2\n{content}"), one_hot=("note",))
    assert "quote mark" in str(error)
    assert ":3" in str(error)


def test_a_word_far_below_the_sampled_rows_is_found(folder: Folder) -> None:
    path = folder.csv("x,y\n" + "1,2\n" * 3000 + "abc,3\n")
    assert [word for word in ("'abc' is not a number", ":3002:1") if word not in str(refusal(path))] == []


@pytest.mark.parametrize("width", [2, 3])
def test_a_short_row_is_found_beside_missing_cells(folder: Folder, width: int) -> None:
    header = ",".join("xyz"[:width])
    row, gap = ",".join("123"[:width]), ",".join(["1", "2", ""][:width] if width == 3 else ["1", ""])
    path = folder.csv(f"{header}\n{row}\n{gap}\n" + f"{row}\n" * 4 + "9\n")
    assert f"the row has 1 field, the header has {width}" in str(refusal(path, missing="mean"))


def test_numbers_that_stand_for_a_missing_value_are_missing(folder: Folder) -> None:
    path = folder.csv("x,y\n1,1\n-999,2\n-999.0,3\n5,4\n")
    data = Table(path, "y", missing="mean", missing_numbers=(-999,)).build_data()
    assert tensors(data.train)[0].flatten().tolist() == [1, 3, 3, 5]
    integers = folder.parquet(x=[1, -999, 5], y=[1, 2, 3])
    data = Table(integers, "y", missing="drop", missing_numbers=(-999,)).build_data()
    assert tensors(data.train)[0].flatten().tolist() == [1, 5]


def test_units_before_and_after_numbers_are_left_out(folder: Folder) -> None:
    path = folder.csv('price,share,y\n"$1,234.50",5%,1 EUR\n"-$ 2",-0.5 %,EUR-2\n+$.5,NA,EUR 3\n')
    units = {"price": "$", "share": "%", "y": "EUR"}
    data = Table(path, "y", units=units, thousands=",", missing="mean").build_data()
    inputs, targets = tensors(data.train)
    assert inputs.tolist() == [[1234.5, 5.0], [-2.0, -0.5], [0.5, 2.25]]
    assert targets.tolist() == [[1.0], [-2.0], [3.0]]


@pytest.mark.parametrize("unit", ["", " %"])
def test_a_unit_that_cannot_be_is_refused(unit: str) -> None:
    with pytest.raises(ValueError, match="the unit of 'x' must be text without blanks around it"):
        Table(Path("t.csv"), "y", units={"x": unit})


def test_a_word_that_is_not_listed_is_a_category(folder: Folder) -> None:
    path = folder.csv("k,y\nNone,1\na,2\n")
    data = Table(path, "y", one_hot=("k",), missing_words=()).build_data()
    assert data.feature_names == ("k=None", "k=a")
    assert "the cell is empty" in str(refusal(path, one_hot=("k",)))


def test_a_null_in_parquet_is_a_missing_value(folder: Folder) -> None:
    data = Table(folder.parquet(x=[1.0, None, 3.0], y=[1, 2, 3]), "y", missing="drop").build_data()
    assert tensors(data.train)[0].tolist() == [[1.0], [3.0]]


# ---- bad data -------------------------------------------------------------------------------------------------------

IN_CSV: dict[str, tuple[str | bytes, dict[str, Any], list[str]]] = {
    "empty": (b"", {}, ["the file is empty"]),
    "blank lines only": ("\n\n", {}, ["the file is empty"]),
    "header only": ("x,y\n", {}, ["no rows below its header"]),
    "missing target": ("x,yy\n1,2\n", {}, ["no column 'y', which `target` names", "did you mean 'yy'?"]),
    "nameless target": (",y\n1,2\n", {"target": ""}, ["there is no column '', which `target` names"]),
    "missing feature": ("x,y\n1,2\n", {"features": ("X1",)}, ["no column 'X1', which `features`", "did you mean 'x'?"]),
    "missing one-hot": ("x,y\n1,2\n", {"one_hot": ("z",)}, ["no column 'z', which `one_hot` names"]),
    "no header": ("1,2\n3,4\n", {}, ["no column 'y'", "but it holds numbers"]),
    "other delimiter": ("x;y\n1;2\n", {}, ["no column 'y'", "set `delimiter` to ';'"]),
    "duplicate name": ("x,y,x\n1,2,3\n", {}, ["2 columns are named 'x'", ":1:5", "its own name"]),
    "nameless column": (",x,y\n1,2,3\n", {}, ["column 1 has no name", "only numbers the rows"]),
    "only the target": ("y\n1\n", {}, ["no column but the target"]),
    "target twice": ("x,y\n1,2\n", {"target": ("y", "y")}, ["`target` lists the column 'y' 2 times"]),
    "target as feature": ("x,y\n1,2\n", {"features": ("x", "y")}, ["the target 'y' is also a feature"]),
    "target one-hot": ("x,y\n1,2\n", {"one_hot": ("y",)}, ["the target 'y' is also a feature"]),
    "one-hot without feature": (
        "x,k,y\n1,2,3\n",
        {"features": ("x",), "one_hot": ("k",)},
        ["`one_hot` lists 'k', which is not a feature"],
    ),
    "long row": ("x,y\n1,2\n3,4,5\n", {}, ["the row has 3 fields, the header has 2", ":3:5", "3,4,5", "quote a cell"]),
    "short row": ("x,y\n1,2\n3\n", {}, ["the row has 1 field, the header has 2", ":3:2", "needs a delimiter"]),
    "long row behind a line break": (
        'x,y,note\n1,2,"a\nb"\n3,4,5,6\n',
        {"features": ("x",)},
        ["the row has 4 fields", ":4:7"],
    ),
    "word in a line behind a line break": (
        'note,x,y\n"a\nb",1,2\n"c, d",oops,4\n,5,6\n',
        {"features": ("x",)},
        ["column 'x': 'oops' is not a number", ":4:8", '"c, d",oops,4', "^^^^"],
    ),
    "text column": (
        "k,y\nred,1\nblue,2\nred,3\n",
        {},
        ["column 'k' holds text", "'red', 'blue'", "list it in `one_hot`"],
    ),
    "word among numbers": ("x,y\n1,1\nabc,2\n3,3\n", {}, ["column 'x': 'abc' is not a number", ":3:1", "abc,2"]),
    "word in the target": ("x,y\n1,1\n2,abc\n3,3\n", {}, ["column 'y': 'abc' is not a number", ":3:3"]),
    "text target": ("x,y\n1,a\n2,b\n", {}, ["column 'y' holds text", "task = 'classification'"]),
    "NA": ("x,y\n1,1\nNA,2\n", {}, ["column 'x': the cell is empty", ":3:1", "'drop' or 'mean'"]),
    "nan": ("x,y\n1,1\nnan,2\n", {}, ["column 'x': the cell is empty", ":3:1"]),
    "inf": ("x,y\n1,1\n2,-inf\n", {}, ["-inf is not a finite number", ":3:3"]),
    "too large": ("x,y\n1,1\n1e999,2\n", {}, ["inf is not a finite number", "1.8e308", "1e999,2"]),
    "decimal comma": ('x,y\n1,1\n"2,5",2\n', {}, ["'2,5' is not a number", "set `decimal` to ','"]),
    "number without its unit": (
        "x,y\n5 %,1\n0.05,2\n",
        {"units": {"x": "%"}},
        ["column 'x': '0.05' lacks the unit '%' of its column", ":3:1", "write it in every cell"],
    ),
    "column without any unit": ("x,y\n5,1\n", {"units": {"x": "kg"}}, ["'5.0' lacks the unit 'kg'", ":2:1"]),
    "other unit": ("x,y\n$5,1\n€6,2\n$7,3\n", {"units": {"x": "$"}}, ["'€6' lacks the unit '$' of its column", ":3:1"]),
    "unit of no column": ("x,y\n1,2\n", {"units": {"z": "%"}}, ["no column 'z', which `units` names"]),
    "unlisted word": ("x,y\n1,1\nunknown,2\n3,3\n", {}, ["'unknown' is not a number", "list it in `missing_words`"]),
    "underscore": ("x,y\n1,1\n1_000,2\n", {}, ["'1_000' is not a number"]),
    "empty cell": ("x,y\n,1\n2,2\n", {}, ["column 'x': the cell is empty", ":2:1", "'drop' or 'mean'"]),
    "empty cell in the last column": ("y,x\n1,\n2,2\n", {}, ["column 'x': the cell is empty", ":2:3"]),
    "empty target": ("x,y\n1,\n2,2\n", {}, ["column 'y': the cell is empty", "set `missing` to 'drop'"]),
    "empty category": ("k,y\na,1\n,2\n", {"one_hot": ("k",)}, ["column 'k': the cell is empty", ":3:1"]),
    "empty column": ("x,e,y\n1,,1\n2,,2\n", {"missing": "mean"}, ["column 'e' has no values"]),
    "all rows dropped": ("a,b,y\n1,,1\n,2,2\n", {"missing": "drop"}, ["every row has a missing cell"]),
    "unclosed quote": ('x,y\n1,2\n"3,4\n5,6\n', {}, ["is never closed", ":3", "were not checked"]),
    "text behind a quote": ('x,y\n"1"2,3\n', {}, ["text between a closing quote mark and the next delimiter", ":2"]),
    "stray quote": ('x,y,n\n1,2,5" nail\n', {"features": ("x",)}, ["a quote mark inside a cell", ":2"]),
    "lone carriage returns": ("x,y\r1,2\r3,4\r", {}, ["lone carriage returns", "ordinary line endings"]),
    "Latin-1": (
        "x,y,n\n1,2,a\n3,4,é\n".encode("latin-1"),
        {"features": ("x",)},
        ["not UTF-8: byte 0xE9 at offset 16", ":3:5", "save the file as UTF-8"],
    ),
    "Latin-1 header": ("é,y\n1,2\n".encode("latin-1"), {}, ["not UTF-8: byte 0xE9 at offset 0", ":1:1"]),
    "Latin-1 behind a BOM": (b"\xef\xbb\xbfx,\xe9\n", {}, ["byte 0xE9 at offset 5", ":1:3"]),
    "Latin-1 far below": (b"x,y\n" + b"1,2\n" * 9999 + b"\xe9,3\n", {}, ["byte 0xE9 at offset 40,000", ":10001:1"]),
    "UTF-16": ("x,y\n1,2\n".encode("utf-16"), {}, ["is UTF-16, not UTF-8"]),
    "NUL": (b"x,y\n1,\0\n", {}, ["not text: byte 6 is NUL"]),
    "damaged gzip": (b"\x1f\x8b\x08\0\0\0", {}, ["cannot be decompressed", "decompress it first"]),
    "damaged zip": (b"PK\x03\x04....", {}, ["cannot be decompressed"]),
    "Parquet named csv": (b"PAR1....", {}, ["is a Parquet file", ".parquet"]),
    "one class": ("x,y\n1,a\n2,a\n", {"task": "classification"}, ["'y' has only one value, 'a'"]),
    "fractions as classes": ("x,y\n1,1\n2,2.5\n", {"task": "classification"}, ["such as 2.5", "task = 'regression'"]),
    "three values for binary": (
        "x,y\n1,a\n2,b\n3,c\n",
        {"task": "binary"},
        ["must have two different values, but has 3: 'a', 'b', 'c'", "task = 'classification'"],
    ),
    "too many categories": (
        "k,y\n" + "".join(f"name {number},0\n" for number in range(1001)),
        {"one_hot": ("k",)},
        ["column 'k' has 1,001 different values"],
    ),
    "empty split": ("x,y\n1,1\n2,2\n3,3\n", {"split": (0.9, 0.1)}, ["the validation split is empty: 0.1 of 3 rows"]),
    "too large to standardize": (
        "x,y\n1e308,1\n-1e308,2\n1,3\n",
        {"standardize": True},
        ["column 'x' cannot be standardized", "too large"],
    ),
}


@pytest.mark.parametrize("case", IN_CSV)
def test_bad_csv_is_refused_with_reason_location_and_remedy(folder: Folder, case: str) -> None:
    content, options, words = IN_CSV[case]
    path = folder.csv(content)
    error = refusal(path, **{"target": "y", **options})
    message = str(error)
    assert [word for word in words if word not in message] == []
    assert str(path) in message
    assert error.exit_code == 4
    assert len(error.faults) == 1


IN_PARQUET: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "null": ({"x": [1.0, None], "y": [1, 2]}, {}, ["row 2, column 'x': the cell is empty"]),
    "NaN": ({"x": [1.0, math.nan], "y": [1, 2]}, {}, ["row 2, column 'x': the cell is empty"]),
    "infinite target": ({"x": [1, 2], "y": [1.0, math.inf]}, {}, ["row 2, column 'y': inf is not a finite number"]),
    "text": ({"x": ["a", "b"], "y": [1, 2]}, {}, ["column 'x' holds text", "one_hot"]),
    "categories": (
        {"x": pl.Series(["a", "b"], dtype=pl.Categorical), "y": [1, 2]},
        {},
        ["column 'x' holds text, not numbers: 'a', 'b'"],
    ),
    "list": ({"x": [[1], [2]], "y": [1, 2]}, {}, ["column 'x' holds values of type List(Int64), not numbers"]),
    "list as category": ({"x": [[1], [2]], "y": [1, 2]}, {"one_hot": ("x",)}, ["type List(Int64), not text"]),
    "fractions as categories": ({"x": [1.5, 2.0], "y": [1, 2]}, {"one_hot": ("x",)}, ["such as 1.5", "`one_hot`"]),
    "no rows": ({"x": [], "y": []}, {}, ["no rows"]),
    "missing column": ({"x": [1], "z": [2]}, {}, ["there is no column 'y'"]),
}


@pytest.mark.parametrize("case", IN_PARQUET)
def test_bad_parquet_is_refused_with_the_row(folder: Folder, case: str) -> None:
    columns, options, words = IN_PARQUET[case]
    error = refusal(folder.parquet(**columns), **options)
    assert [word for word in words if word not in str(error)] == []
    assert len(error.faults) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"x,y\n1,2\n", "is not a Parquet file"),
        (b"PAR1 and nothing more", "the Parquet file cannot be read"),
    ],
)
def test_a_damaged_parquet_file_is_refused(folder: Folder, content: bytes, words: str) -> None:
    assert words in str(refusal(folder.csv(content, "table.parquet")))


def test_a_column_without_a_value_in_the_training_part_has_no_mean(folder: Folder) -> None:
    path = folder.csv("x,z,y\n" + "".join(f"{number},{number if number == 3 else ''},0\n" for number in range(20)))
    outcomes = set()
    for seed in range(8):
        split: dict[str, Any] = {"split": (0.5, 0.5), "split_seed": seed}
        is_known = 3.0 in tensors(Table(path, "y", features=("x",), **split).build_data().train)[0]
        outcomes.add(is_known)
        if is_known:
            Table(path, "y", **split, missing="mean").build_data()
        else:
            for is_scaled in (False, True):
                (fault,) = refusal(path, **split, missing="mean", standardize=is_scaled).faults
                assert "column 'z' has no values in the training split" in fault.message
    assert outcomes == {True, False}


# ---- paths without a file -------------------------------------------------------------------------------------------


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path / "absent.csv")
    assert "there is no such file" in str(error)
    assert str(tmp_path / "absent.csv") in str(error)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "a folder" in str(refusal(tmp_path))


@pytest.mark.parametrize("name", ["pipe.csv", "pipe.parquet"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert "not a regular file" in str(refusal(tmp_path / name))


@pytest.mark.parametrize(
    ("path", "words"),
    [("/dev/zero", "not a regular file"), ("a\0b", "cannot be opened"), ("x" * 5000, "File name too long")],
    ids=["device", "NUL", "long"],
)
def test_a_path_that_is_not_a_file_is_refused(path: str, words: str) -> None:
    assert words in str(refusal(Path(path)))


@pytest.fixture
def unreadable() -> Iterator[Path]:
    # Not tmp_path: its folder may be entered by its owner alone, so another user would not get as far as the file.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = folder / "table.csv"
        path.write_text("x,y\n1,2\n")
        path.chmod(0)
        is_root = os.geteuid() == 0
        if is_root:  # root may read everything
            os.seteuid(65534)
        yield path
        if is_root:
            os.seteuid(0)


def test_a_file_without_permission_is_refused(unreadable: Path) -> None:
    assert "cannot be opened: Permission denied" in str(refusal(unreadable))


# ---- all faults at once ---------------------------------------------------------------------------------------------


def test_all_faults_are_reported_at_once_in_the_order_of_the_lines(folder: Folder) -> None:
    path = folder.csv(
        "a,b,k,y\n1,2,red,3\n4,oops,red,6\n7,8,blue\n,11,red,12\n13,14,red,what\n16,17,red,18\n19,20,red,21\n"
    )
    error = refusal(path, features=("a", "b", "k", "missing"))
    assert [fault.message for fault in error.faults] == [
        "the row has 3 fields, the header has 4",
        "there is no column 'missing', which `features` names",
        "column 'k' holds text, not numbers: 'red'",
        "column 'b': 'oops' is not a number",
        "column 'a': the cell is empty",
        "column 'y': 'what' is not a number",
    ]
    lines = [fault.location.line for fault in error.faults if fault.location]
    assert lines == [4, None, None, 3, 5, 6]
    assert "6 faults" in error.message


@pytest.mark.parametrize("row", ["NA,{0}\n", "{0},1,1\n"], ids=["faulty cells", "ragged rows"])
def test_no_more_than_twenty_faults_are_listed_and_the_rest_counted(folder: Folder, row: str) -> None:
    error = refusal(folder.csv("x,y\n1,2\n" + "".join(row.format(number) for number in range(1500))))
    assert len(error.faults) == 21
    assert error.faults[-1].message == "and 1,480 more"
    assert "1,500 faults" in error.message


def test_a_hostile_name_cannot_reach_the_terminal(folder: Folder) -> None:
    path = folder.csv("x,\x1b[31mred,y\n1,\x1b[2J,2\n3,4,5\n6,7,8\n")
    assert "\x1b" not in str(refusal(path))


def test_a_very_long_line_is_not_shown(folder: Folder) -> None:
    error = refusal(folder.csv(f"x,y,note\nabc,2,{'z' * 1000}\n1,2,\n3,4,\n", "t.csv"), features=("x",))
    assert "'abc' is not a number" in str(error)
    assert "zzz" not in str(error)


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": (0.5, 0.4)}, "must sum to 1, not 0.9"),
        ({"split": (0.5, 0.5 + 1e-8)}, "must sum to 1"),
        ({"delimiter": '"'}, "`delimiter`"),
        ({"delimiter": "é"}, "`delimiter`"),
        ({"task": "binary", "standardize_target": True}, "`standardize_target` is for task = 'regression'"),
        ({"task": "classification", "target": ("a", "b")}, "takes one target, not 2"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Table(**{"path": Path("t.csv"), "target": "y", **options})


def test_fractions_that_sum_to_one_up_to_rounding_are_accepted() -> None:
    assert Table(Path("t.csv"), "y", split=(0.7, 0.2, 0.1)).split == (0.7, 0.2, 0.1)


def test_options_come_from_plain_values(tmp_path: Path) -> None:
    options = {"use": "csv", "path": "t.csv", "target": ["y", "z"], "features": ["a"], "split": [1], "one_hot": ["a"]}
    config = tmp_path / "run.toml"
    config.write_text("[data]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items()))
    choice = next(plugin for plugin in load_config(config).plugins if plugin.table == "data")
    table = choice.plugin.make(choice.options)
    assert table == Table(tmp_path / "t.csv", ("y", "z"), features=("a",), split=(1.0,), one_hot=("a",))


@pytest.mark.parametrize(
    "options",
    [
        {"target": []},
        {"split": []},
        {"split": [0.5, 0.5, 0.0]},
        {"split": [0.25, 0.25, 0.25, 0.25]},
        {"split_seed": -1},
        {"split_seed": 2**64},
        {"delimiter": ""},
        {"delimiter": ",,"},
        {"missing": "ignore"},
        {"task": "ranking"},
        {"standardize": "yes"},
    ],
)
def test_an_option_of_another_type_or_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"data": {"use": "csv", "path": "t.csv", "target": "y", **options}})
    assert len(caught.value.faults) == 1
    assert next(iter(options)) in str(caught.value)


# ---- coefficients ---------------------------------------------------------------------------------------------------


def report(table: Table, layer: nn.Module, epochs: int = 0) -> list[dict[str, Any]]:
    config = {"train": {"epochs": epochs, "dtype": "float64"}}
    summary = Run(load_config(config, plugins={"data": table, "model": layer})).fit().summary
    return [dict(row) for row in summary.get("coefficients", [])]


def fit_least_squares(table: Table) -> nn.Linear:
    inputs, targets = tensors(table.build_data().train)
    layer = nn.Linear(inputs.shape[1], targets.shape[1], dtype=torch.float64)
    ones = torch.ones(len(inputs), 1, dtype=torch.float64)
    solution = torch.linalg.lstsq(torch.cat([inputs, ones], dim=1), targets, driver="gelsd").solution
    layer.load_state_dict({"weight": solution[:-1].T, "bias": solution[-1]})
    return layer


@pytest.mark.parametrize("name", ["norris", "longley", "wampler1"])
def test_coefficients_of_a_standardized_fit_are_the_certified_ones(name: str) -> None:
    certified: dict[str, float] = json.loads((NIST / "certified.json").read_text())[name]
    target = "employed" if name == "longley" else "y"
    table = Table(NIST / f"{name}.csv", target, standardize=True, standardize_target=True)
    rows = report(table, fit_least_squares(table))
    assert [row["feature"] for row in rows] == [*(key for key in certified if key != "intercept"), "(intercept)"]
    for row in rows:
        expected = certified["intercept" if row["feature"] == "(intercept)" else row["feature"]]
        assert row["coefficient"] == pytest.approx(expected, rel=1e-7)


def test_coefficients_of_unscaled_columns_are_the_weights_themselves(folder: Folder) -> None:
    layer = nn.Linear(2, 2, dtype=torch.float64)
    layer.load_state_dict({"weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "bias": torch.tensor([5.0, 6.0])})
    rows = report(Table(folder.csv("a,b,u,v\n1,2,3,4\n5,6,7,8\n"), ("u", "v")), layer)
    assert rows == [
        {"target": "u", "feature": "a", "coefficient": 1.0},
        {"target": "u", "feature": "b", "coefficient": 2.0},
        {"target": "u", "feature": "(intercept)", "coefficient": 5.0},
        {"target": "v", "feature": "a", "coefficient": 3.0},
        {"target": "v", "feature": "b", "coefficient": 4.0},
        {"target": "v", "feature": "(intercept)", "coefficient": 6.0},
    ]


@pytest.mark.parametrize(("bias", "intercept"), [(None, 0.0), (0.5, 5.0)], ids=["no bias", "bias"])
def test_the_intercept_includes_centering_and_bias(folder: Folder, bias: float | None, intercept: float) -> None:
    layer = nn.Linear(1, 1, bias=bias is not None, dtype=torch.float64)
    weights = {"weight": torch.tensor([[1.0]])} | ({} if bias is None else {"bias": torch.tensor([bias])})
    layer.load_state_dict(weights)
    table = Table(folder.csv("x,y\n1,10\n3,30\n"), "y", standardize=True, standardize_target=True)
    assert report(table, layer) == [
        {"feature": "x", "coefficient": 10.0},
        {"feature": "(intercept)", "coefficient": intercept},
    ]


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(4, 3)), nn.Linear(4, 3)], ids=["not linear", "classes"])
def test_there_is_no_report_for_another_model_or_task(model: nn.Module) -> None:
    config = {"train": {"epochs": 0}, "loss": {"use": "cross-entropy"}}
    table = Table(IRIS, "species", task="classification")
    assert dict(Run(load_config(config, plugins={"data": table, "model": model})).fit().summary) == {}


def test_a_perceptron_has_no_coefficients() -> None:
    assert report(Table(NIST / "norris.csv", "y"), nn.Sequential(nn.Linear(1, 1))) == []
