"""``hookline init DATAFILE``: its config can be trained, its choices have reasons, and doubts are said."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from hookline import ContractError, DataError, Run, load_config
from hookline_plugins.data.tables.starting.starter import Starter, from_table
from support import FIXTURES
from support import run as run_command

IRIS = FIXTURES / "iris" / "iris.csv"
COLOURS = ("red", "green", "blue")


def rows(count: int = 40) -> list[list[str]]:
    """Return rows of age, score, colour and price, with ``price = 3 age + 2 score + 5``."""
    rng = random.Random(1)
    made = []
    for number in range(count):
        age, score = rng.randint(20, 70), rng.randint(200, 800) / 10
        made.append([str(age), str(score), COLOURS[number % 3], f"{3 * age + 2 * score + 5:.1f}"])
    return made


def text(*columns: str, table: list[list[str]] | None = None, delimiter: str = ",") -> str:
    """Return CSV with a header."""
    header = columns or ("age", "score", "colour", "price")
    return "".join(delimiter.join(row) + "\n" for row in [header, *(table or rows())])


def write(folder: Path, content: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def with_column(position: int, name: str, values: list[str], table: list[list[str]] | None = None) -> str:
    """Return the table with one more column."""
    made = [[*row[:position], value, *row[position:]] for row, value in zip(table or rows(), values, strict=True)]
    header = ["age", "score", "colour", "price"]
    return text(*header[:position], name, *header[position:], table=made)


def replaced(position: int, change: Callable[[int, str], str]) -> str:
    """Return the table with the cells of a column changed."""
    made = rows()
    for number, row in enumerate(made):
        row[position] = change(number, row[position])
    return text(table=made)


def trained(starter: Starter, **overrides: Any) -> Run:
    run = Run(load_config(starter.tables, {f"train.{name}": value for name, value in overrides.items()}))
    assert run.fit().outcome in ("completed", "stopped")
    return run


def best_loss(run: Run) -> float:
    """Return the validation loss of the weights that a network ends with."""
    return float(run.summary["best validation/loss"][0]["value"])  # type: ignore[arg-type] # a number


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_command([sys.executable, "-m", "hookline", *words], cwd=cwd)


def slopes(run: Run) -> dict[str, float]:
    return {str(row["feature"]): float(row["coefficient"]) for row in run.summary["coefficients"]}  # type: ignore[arg-type] # a number


# ---- the same table in many spellings --------------------------------------------------------------------------------

SPELLINGS: dict[str, Callable[[Path], Path]] = {
    "plain": lambda folder: write(folder, text()),
    "byte-order mark, CRLF": lambda folder: write(folder, "\ufeff" + text().replace("\n", "\r\n")),
    "semicolons, decimal comma": lambda folder: write(folder, text(delimiter=";").replace(".", ",")),
    "quoted decimal comma": lambda folder: write(
        folder, text(table=[[a, f'"{s.replace(".", ",")}"', c, f'"{p.replace(".", ",")}"'] for a, s, c, p in rows()])
    ),
    "thousands": lambda folder: write(
        folder, text(table=[[a, f'"{float(s) * 1000:,.0f}"', c, f'"{float(p) * 1000:,.2f}"'] for a, s, c, p in rows()])
    ),
    "thousands and decimal comma": lambda folder: write(
        folder,
        text(
            delimiter=";",
            table=[
                [
                    a,
                    f"{float(s) * 1000:,.2f}".translate({44: ".", 46: ","}),
                    c,
                    f"{float(p) * 1000:.2f}".replace(".", ","),
                ]
                for a, s, c, p in rows()
            ],
        ),
    ),
    "per cent and dollars": lambda folder: write(
        folder, text(table=[[a, f"{s}%", c, f"-${p[1:]}" if p.startswith("-") else f"$ {p}"] for a, s, c, p in rows()])
    ),
    "euros with thousands": lambda folder: write(
        folder,
        text(
            delimiter=";",
            table=[
                [a, f"{float(s) * 1000:.0f} m/s", c, f"{float(p) * 1000:,.2f} €".translate({44: "\u202f", 46: ","})]
                for a, s, c, p in rows()
            ],
        ),
    ),
    "blanks": lambda folder: write(folder, text(delimiter="   ").replace("age", " age")),
    "tabs": lambda folder: write(folder, text(delimiter="\t"), "t.tsv"),
    "bars": lambda folder: write(folder, text(delimiter="|")),
    "comments": lambda folder: write(folder, "# by a logger\n# 2024-05-01\n" + text().replace("\n", "\n#end\n", 9)),
    "no header": lambda folder: write(folder, text().partition("\n")[2]),
    "UTF-16": lambda folder: write(folder, text().encode("utf-16")),
    "Latin-1": lambda folder: write(folder, text().replace("red", "r\xf6t").encode("latin-1")),
    "gzip": lambda folder: write(folder, gzip.compress(text().encode()), "t.csv.gz"),
    "bzip2": lambda folder: write(folder, bz2.compress(text().encode()), "t.csv.bz2"),
    "xz": lambda folder: write(folder, lzma.compress(text().encode()), "t.csv.xz"),
    "zip": lambda folder: zipped(folder, {"data/": "", "data/t.csv": text(), "__MACOSX/._t.csv": "x"}),
    "zstd": lambda folder: zstandard(folder, text()),
}


def zipped(folder: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(folder / "t.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return folder / "t.zip"


def zstandard(folder: Path, content: str) -> Path:
    lines = pl.DataFrame({"line": content.splitlines()}).lazy()
    lines.sink_csv(folder / "t.csv.zst", include_header=False, quote_style="never", compression="zstd")
    assert (folder / "t.csv.zst").read_bytes().startswith(b"\x28\xb5\x2f\xfd")
    return folder / "t.csv.zst"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_table_in_any_spelling_is_read_and_fitted_exactly(tmp_path: Path, spelling: str) -> None:
    run = trained(from_table(SPELLINGS[spelling](tmp_path), tmp_path))
    first, second, *_, last = slopes(run).values()
    is_scaled = "thousands" in spelling
    assert first == pytest.approx(3000 if is_scaled else 3, rel=1e-5)
    assert second == pytest.approx(2, rel=1e-5)
    assert len(slopes(run)) == 6
    assert run.history[-1]["validation/loss"] < 1e-9
    assert last > 0


def test_each_guess_is_said(tmp_path: Path) -> None:
    said = {name: from_table(make(tmp_path), tmp_path) for name, make in SPELLINGS.items() if name != "plain"}

    def about(name: str) -> str:
        return "\n".join([*said[name].remarks, *said[name].warnings])

    assert "decimal comma: score, price" in about("semicolons, decimal comma")
    assert "',' between thousands: score, price" in about("thousands")
    assert "score holds numbers with the unit '%', and is read without it" in about("per cent and dollars")
    assert "price holds numbers with the unit '$', and is read without it" in about("per cent and dollars")
    assert "between thousands: price" in about("euros with thousands")
    assert "separated by blanks" in about("blanks")
    assert "begins with comments" in about("comments")
    assert "the first line holds values" in about("no header")
    assert "utf-16" in about("UTF-16")
    assert "cp1252" in about("Latin-1")


def test_a_zip_archive_with_several_files_is_refused_by_their_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 2 files: 'a.csv', 'b.csv'"):
        from_table(zipped(tmp_path, {"a.csv": text(), "b.csv": text()}), tmp_path)
    with pytest.raises(DataError, match="a spreadsheet"):
        from_table(zipped(tmp_path, {"[Content_Types].xml": "", "xl/s.xml": ""}), tmp_path)


# ---- target and task -------------------------------------------------------------------------------------------------


def test_the_last_column_is_the_target_and_the_reason_is_said(tmp_path: Path) -> None:
    starter = from_table(write(tmp_path, text()), tmp_path)
    assert starter.tables["data"]["target"] == "price"
    assert (
        starter.remarks[0] == "price is the target: it is the last column that can be one; choose another with --target"
    )
    assert starter.remarks[1].startswith("regression: price holds numbers, ")


def test_a_column_with_the_name_of_a_target_is_preferred(tmp_path: Path) -> None:
    path = write(tmp_path, with_column(1, "label", ["yes", "no"] * 20))
    assert from_table(path, tmp_path).tables["data"]["target"] == "label"


def test_the_target_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path, text())
    starter = from_table(path, tmp_path, "age")
    assert (starter.tables["data"]["target"], starter.remarks[0]) == ("age", "age is the target: you chose it")
    with pytest.raises(DataError, match="no column 'agee'") as caught:
        from_table(path, tmp_path, "agee")
    assert "did you mean 'age'?" in str(caught.value)
    path = write(tmp_path, with_column(0, "name", [f"name {number}" for number in range(40)]))
    with pytest.raises(DataError, match="'name' cannot be the target: it holds text with 40 different values"):
        from_table(path, tmp_path, "name")


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["0", "1"], "classification"),
        (["0.0", "1.0"], "classification"),
        (["1", "2", "3", "4"], "classification"),
        (["true", "false"], "classification"),
        (["1.5", "2.5"], "regression"),
        ([str(number) for number in range(40)], "regression"),
    ],
)
def test_the_task_follows_from_the_values_and_can_be_chosen(tmp_path: Path, values: list[str], task: str) -> None:
    cells = (values * 40)[:40]
    random.Random(0).shuffle(cells)
    path = write(tmp_path, with_column(4, "grade", cells))
    starter = from_table(path, tmp_path)
    assert starter.tables["data"]["task"] == task
    assert starter.remarks[1].startswith(f"{task}: grade holds")
    if "true" not in values:
        assert from_table(path, tmp_path, task="regression").tables["data"]["task"] == "regression"
    trained(starter, epochs=1)


def test_classes_written_as_1_and_as_1_0_are_one_class(tmp_path: Path) -> None:
    path = write(tmp_path, with_column(4, "kind", ["1", "1.0", "2", "2.0"] * 10))
    assert trained(from_table(path, tmp_path), epochs=1).data.class_names == ("1", "2")
    path = write(tmp_path, with_column(4, "kind", ["007", "7"] * 20))
    assert trained(from_table(path, tmp_path), epochs=1).data.class_names == ("007", "7")


# ---- columns that are left out, and doubts ---------------------------------------------------------------------------

NUMBERS = [str(number) for number in range(1, 41)]
LEFT_OUT: dict[str, tuple[str, list[str], str]] = {
    "row numbers": ("id", NUMBERS, "looks like an identifier: 1, 2, 3, ..."),
    "an index": ("Unnamed: 0", [str(7 * number) for number in range(40)], "looks like an identifier"),
    "names": ("name", [f"r{number}" for number in range(40)], "text with 40 different values"),
    "several units": (
        "size",
        [f"{n} cm" if n % 2 else f"{n}m" for n in range(40)],
        "several units, such as 'm' and 'cm'",
    ),
    "several currencies": ("fee", [f"{'€$'[n % 2]}{n}" for n in range(40)], "several units, such as '€' and '$'"),
    "sizes": ("size", [f"{number} x 2" for number in range(40)], "text with 40 different values"),
    "nothing": ("void", [""] * 40, "no values"),
    "almost nothing": ("rare", ["1", "2", "3", *[""] * 37], "only 3 values in 40 rows"),
    "ambiguous dates": ("day", [f"0{n % 9 + 1}/0{n % 7 + 1}/2024" for n in range(40)], "the day or the month first"),
    "too large": ("big", [f"{n}e306" for n in range(-20, 20)], "too large"),
    "a constant": ("version", ["7"] * 40, "it never changes: 7 in all rows"),
    "a constant word": ("unit", ["cm"] * 40, "it never changes: cm in all rows"),
    "no name": ("", NUMBERS, "no name"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
@pytest.mark.parametrize("position", [0, 4])
def test_a_column_that_cannot_help_is_left_out_with_the_reason(tmp_path: Path, case: str, position: int) -> None:
    name, values, reason = LEFT_OUT[case]
    starter = from_table(write(tmp_path, with_column(position, name, values)), tmp_path)
    data = starter.tables["data"]
    assert (data["target"], data["features"]) == ("price", ["age", "score", "colour"])
    said = next(remark for remark in starter.remarks if " is left out: " in remark)
    assert said.startswith(name or f"column {position + 1}")
    assert reason in said
    assert position == 0 or f"({said.partition(' ')[0]} is not" in starter.remarks[0] or not name or " " in name
    trained(starter, epochs=1)


def test_a_column_that_counts_is_used_where_it_is_the_only_feature(tmp_path: Path) -> None:
    starter = from_table(write(tmp_path, "x,y\n" + "".join(f"{n},{2.5 * n}\n" for n in range(1, 21))), tmp_path)
    assert slopes(trained(starter)) == {"x": pytest.approx(2.5), "(intercept)": pytest.approx(0, abs=1e-6)}


def test_numbers_among_many_words_are_categories_and_a_word_among_many_numbers_is_a_fault(tmp_path: Path) -> None:
    path = write(tmp_path, with_column(0, "size", ["40", "42", "XL", "L"] * 10))
    assert from_table(path, tmp_path).tables["data"]["one_hot"] == ["size", "colour"]
    path = write(tmp_path, with_column(0, "size", [*["40.5", "42", "41"] * 13, "XL"]))
    with pytest.raises(DataError, match="column 'size': 'XL' is not a number"):
        from_table(path, tmp_path)


def test_the_index_that_pandas_writes_to_parquet_is_left_out(tmp_path: Path) -> None:
    table = pl.DataFrame({"x": [n * 0.5 for n in range(40)], "y": [n * 1.5 for n in range(40)]})
    table.with_columns(pl.Series("__index_level_0__", range(2, 82, 2))).write_parquet(tmp_path / "t.parquet")
    data = from_table(tmp_path / "t.parquet", tmp_path).tables["data"]
    assert (data["target"], data["features"]) == ("y", ["x"])


DOUBTS: dict[str, tuple[Callable[[], str], str]] = {
    "sentinel": (lambda: replaced(1, lambda n, cell: "-999" if n in (3, 8) else cell), "score: -999 occurs 2 times"),
    "case": (
        lambda: replaced(2, lambda n, _: ("Red", "red", "RED ", "blue")[n % 4]),
        "'RED', 'Red', 'red' differ only by case",
    ),
    "few rows": (lambda: text(table=rows(9)), "9 rows are too few for a validation split"),
    "missing": (lambda: replaced(1, lambda n, cell: "NA" if n == 3 else cell), "mean of the column: score (1)"),
    "no target": (lambda: replaced(3, lambda n, cell: "" if n < 4 else cell), "price: 4 of 40 rows have no target"),
}


@pytest.mark.parametrize("case", DOUBTS)
def test_what_a_person_should_look_at_is_a_warning(tmp_path: Path, case: str) -> None:
    make, words = DOUBTS[case]
    starter = from_table(write(tmp_path, make()), tmp_path)
    assert words in "\n".join(starter.warnings)
    trained(starter, epochs=1)


def test_whole_numbers_in_a_column_of_codes_can_be_named_categories(tmp_path: Path) -> None:
    starter = from_table(write(tmp_path, with_column(0, "zip", ["10115", "20095", "80331", "10115"] * 10)), tmp_path)
    assert "zip: whole numbers; if they stand for categories, list it in `one_hot`" in starter.warnings
    run = Run(load_config(starter.tables, {"data.one_hot": ["zip", "colour"]}))
    assert run.data.feature_names[:3] == ("zip=10115", "zip=20095", "zip=80331")


def test_a_classification_is_split_by_its_classes_and_nothing_is_split_by_time(tmp_path: Path) -> None:
    labels = ["a"] * 30 + ["b"] * 8 + ["c"] * 2
    path = write(tmp_path, with_column(4, "label", labels))
    starter = from_table(path, tmp_path)
    assert starter.tables["data"]["stratify"] == "label"
    data = Run(load_config(starter.tables)).data
    counts = {name: Counter(int(part[i][1]) for i in range(len(part))) for name, part in data.splits().items()}  # type: ignore[arg-type] # map-style
    # Shares of 24, 6.4 and 1.6 of 32 rows.
    assert counts == {"train": {0: 24, 1: 6, 2: 2}, "validation": {0: 6, 1: 2}}
    assert "stratify" not in from_table(path, tmp_path, "age").tables["data"]
    days = [f"2024-01-{1 + number % 28:02}" for number in range(40)]
    dated = from_table(write(tmp_path, with_column(0, "day", days)), tmp_path).tables["data"]
    assert not {"order_by", "group_by", "split_column", "stratify"} & set(dated)


def test_a_class_with_one_row_leaves_the_split_random_which_is_said(tmp_path: Path) -> None:
    starter = from_table(write(tmp_path, with_column(4, "label", ["a"] * 20 + ["b"] * 19 + ["c"])), tmp_path)
    assert "stratify" not in starter.tables["data"]
    assert starter.warnings == ["label: the split is random, not stratified, because classes have a single row: 'c'"]
    assert Run(load_config(starter.tables)).data.validation is not None


def test_a_plain_table_has_no_warnings(tmp_path: Path) -> None:
    assert from_table(write(tmp_path, text()), tmp_path).warnings == []
    assert from_table(IRIS, tmp_path).warnings == []


def test_a_sentinel_is_missing_once_it_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, replaced(1, lambda n, cell: "-999" if n in (3, 8) else cell))
    tables = from_table(path, tmp_path).tables
    run = Run(load_config(tables, {"data.missing_numbers": [-999], "data.missing": "mean"}))
    run.fit()
    assert slopes(run)["age"] == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("words", ["NA", "N/A", "nan", "NULL", "null", "None", "?", "-", ".", ""])
def test_words_for_nothing_are_missing_in_columns_of_numbers_and_of_text(tmp_path: Path, words: str) -> None:
    made = rows()
    made[3][1] = made[4][2] = words
    starter = from_table(write(tmp_path, text(table=made)), tmp_path)
    assert starter.tables["data"]["missing"] == "mean"
    run = trained(starter)
    assert run.data.feature_names == ("age", "score", "colour=blue", "colour=green", "colour=red")


def test_numbers_with_leading_zeros_are_categories(tmp_path: Path) -> None:
    path = write(tmp_path, with_column(0, "zip", ["01067", "10115", "80331", "20095"] * 10))
    data = from_table(path, tmp_path).tables["data"]
    assert data["one_hot"] == ["zip", "colour"]
    assert Run(load_config({"data": data})).data.feature_names[0] == "zip=01067"


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%d.%m.%Y", "%Y-%m-%d %H:%M:%S"])
def test_dates_become_their_parts(tmp_path: Path, form: str) -> None:
    days = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 2, 9), "1d", eager=True)
    table = pl.DataFrame({"day": days.dt.strftime(form), "flow": [2.5 * n for n in range(40)]})
    path = tmp_path / "t.csv"
    table.write_csv(path)
    starter = from_table(path, tmp_path)
    assert starter.tables["data"]["dates"] == {"day": form}
    run = trained(starter)
    assert run.data.feature_names == tuple(
        f"day.{part}" for part in ("days", "year", "month", "day", "weekday", "hour")
    )
    assert run.history[-1]["validation/loss"] < 1e-6
    table.with_columns(pl.Series("day", days)).write_parquet(tmp_path / "t.parquet")
    again = trained(from_table(tmp_path / "t.parquet", tmp_path))
    assert again.history[-1]["validation/loss"] < 1e-6


@pytest.mark.parametrize("form", ["%H:%M", "%H:%M:%S"])
def test_times_of_the_day_are_hours(tmp_path: Path, form: str) -> None:
    times = [f"{n % 24:02}:30{':15' if form.endswith('S') else ''}" for n in range(40)]
    starter = from_table(write(tmp_path, with_column(0, "at", times)), tmp_path)
    assert starter.tables["data"]["dates"] == {"at": form}
    assert trained(starter, epochs=1).data.feature_names[:2] == ("at.hours", "age")
    assert from_table(write(tmp_path, with_column(4, "at", times)), tmp_path).tables["data"]["target"] == "price"


def test_a_network_sees_where_numbers_are_missing(tmp_path: Path) -> None:
    words = [["Yes", "no", "NO", ""][number % 4] for number in range(150)]
    starter = from_table(write(tmp_path, with_column(0, "paid", words, rows(150))), tmp_path)
    assert (starter.tables["data"]["missing"], starter.tables["data"]["missing_flags"]) == ("mean", True)
    assert starter.remarks[-1] == "paid: a further feature says where a cell is missing"
    names = Run(load_config(starter.tables)).data.feature_names
    assert names == ("paid", "paid.missing", "age", "score", "colour=blue", "colour=green", "colour=red")


def test_words_for_true_and_false_are_one_feature_in_any_case(tmp_path: Path) -> None:
    words = ["Yes", "no", "NO", "yes", ""] * 8
    starter = from_table(write(tmp_path, with_column(0, "paid", words)), tmp_path)
    assert starter.tables["data"]["one_hot"] == ["colour"]
    assert [warning for warning in starter.warnings if "case" in warning] == []
    assert trained(starter, epochs=1).data.feature_names[:2] == ("paid", "age")
    assert "missing_flags" not in starter.tables["data"]
    plain = from_table(write(tmp_path, with_column(0, "paid", ["yes", "no"] * 20)), tmp_path)
    assert plain.tables["data"]["one_hot"] == ["paid", "colour"]
    target = from_table(write(tmp_path, with_column(4, "paid", ["Yes", "no"] * 20)), tmp_path).tables["data"]
    assert (target["target"], target["task"]) == ("paid", "classification")


def test_a_category_with_many_values_is_used_where_each_occurs_often(tmp_path: Path) -> None:
    rng = random.Random(2)
    made = [[str(rng.randint(20, 70)), f"shop{n % 30}", f"{n % 30 * 20 + rng.random():.2f}"] for n in range(200)]
    starter = from_table(write(tmp_path, text("age", "shop", "price", table=made)), tmp_path)
    assert (starter.tables["data"]["one_hot"], starter.tables["data"]["categories"]) == (["shop"], "codes")
    assert "shop: many values, so that each gets an embedding; " in starter.remarks[-1]
    assert best_loss(trained(starter, epochs=2)) < 0.01
    with pytest.raises(ContractError) as caught:
        Run(load_config(starter.tables, {"model": "linear"}))
    assert "set data.categories = 'one-hot'" in str(caught.value)
    Run(load_config(starter.tables, {"model": "linear", "data.categories": "one-hot"}))
    few = [[*row[:2], row[2] if number < 90 else ""] for number, row in enumerate(made)]
    linear = from_table(write(tmp_path, text("age", "shop", "price", table=few)), tmp_path).tables
    assert (linear["model"]["use"], linear["data"].get("categories")) == ("linear", None)


# ---- quality of the first run ----------------------------------------------------------------------------------------


def bent(folder: Path, num_rows: int) -> Path:
    """Write a table whose target is a product, which no linear model can predict."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, num_rows))
    pl.DataFrame({"a": a, "b": b, "y": a * b + rng.normal(size=num_rows) * 0.1}).write_csv(folder / "t.csv")
    return folder / "t.csv"


def test_few_rows_get_a_linear_model_and_more_a_network(tmp_path: Path) -> None:
    few, more = (from_table(bent(tmp_path, count), tmp_path) for count in (99, 100))
    assert few.tables["model"] == {"use": "linear", "start": "least-squares"}
    assert few.remarks[-1] == "the model is linear: 99 rows are too few to tell when a network has learned enough"
    assert more.tables["model"] == {"use": "tabular", "start": "fitted"}
    assert more.remarks[-1].startswith("the model is a network beside a linear path; model=linear takes the usual one")
    alone = Run(load_config(more.tables, {"model": "linear"}))  # as the remark says
    assert alone.fit().summary["coefficients"]


def test_a_network_predicts_what_no_linear_model_can(tmp_path: Path) -> None:
    run = trained(from_table(bent(tmp_path, 300), tmp_path), epochs=30)
    assert best_loss(run) < 0.3  # of a variance of 1; a product is not correlated with its factors


def test_a_linear_regression_reaches_the_least_squares_solution(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 30)) @ (np.eye(30) + rng.normal(size=(30, 30)) / 10)
    y = x @ rng.normal(size=30) + rng.normal(size=90) * 0.1
    pl.DataFrame({**{f"x{n}": x[:, n] for n in range(30)}, "y": y}).write_csv(tmp_path / "t.csv")
    run = trained(from_table(tmp_path / "t.csv", tmp_path))
    train, validation = ([part.numpy() for part in data.tensors] for data in (run.data.train, run.data.validation))  # type: ignore[union-attr] # the table's
    solution = np.linalg.lstsq(np.c_[train[0], np.ones(72)], train[1], rcond=None)[0]
    expected = np.mean((np.c_[validation[0], np.ones(18)] @ solution - validation[1]) ** 2)
    assert run.history[-1]["validation/loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_a_classification_is_about_as_good_as_a_penalized_logistic_regression(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(300, 12))
    chance = 1 / (1 + np.exp(-x @ rng.normal(size=12) / 4))
    labels = np.where(rng.random(300) < chance, "yes", "no")
    pl.DataFrame({**{f"x{n}": x[:, n] for n in range(12)}, "label": labels}).write_csv(tmp_path / "t.csv")
    run = trained(from_table(tmp_path / "t.csv", tmp_path))
    train, validation = ([part.numpy() for part in data.tensors] for data in (run.data.train, run.data.validation))  # type: ignore[union-attr] # the table's
    weights = logistic_regression(*train)
    signs = 2 * validation[1] - 1
    expected = np.mean(np.log1p(np.exp(-signs * (np.c_[validation[0], np.ones(60)] @ weights))))
    assert best_loss(run) < 1.1 * expected


def logistic_regression(x: Any, y: Any) -> Any:
    """Return the weights that minimize the sum of the losses and half of the squared slopes, by Newton's method."""
    inputs, weights = np.c_[x, np.ones(len(x))], np.zeros(x.shape[1] + 1)
    penalty = np.diag([1.0] * x.shape[1] + [0.0])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (chance - y) + penalty @ weights
        hessian = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + penalty
        weights = weights - np.linalg.solve(hessian, gradient)
    return weights


# ---- refusals, and the command ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x,y\n1,2\n3\n", ["the row has 1 field"]),
        (replaced(1, lambda n, cell: "inf" if n == 3 else cell), ["inf is not a finite number", ":5:4"]),
        ("y\n1\n2\n", ["too few columns"]),
        ("a,b\nu,v\nw,x\n", ["a cannot be used: it holds text", "b cannot be used", "too few columns"]),
        ("x,x,y\n1,2,3\n2,3,5\n", ["2 columns are named 'x'"]),
        ("c,c=a,y\na,5,3\na,2,2\nb,5,4\nb,4,1\n", ["2 features would be named 'c=a'"]),
        ('x,y\n"red \\"x\\"",1\nb,2\n', ["a closing quote mark"]),
        ("", ["the file is empty"]),
    ],
)
def test_a_file_that_the_plugin_would_refuse_is_refused(tmp_path: Path, content: str, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        from_table(write(tmp_path, content), tmp_path)
    assert [word for word in words if word not in str(caught.value)] == []


CELLS: tuple[Callable[[random.Random, int], str], ...] = (
    lambda rng, _: str(rng.randint(0, 9)),
    lambda rng, _: f"{rng.gauss(0, 1):.3f}",
    lambda rng, _: rng.choice("abc"),
    lambda _, row: f"name {row}",
    lambda _, row: str(row + 1),
    lambda _, row: f"2024-0{row % 9 + 1}-1{row % 10}",
    lambda rng, _: rng.choice(["true", "false", "True"]),
    lambda *_: "5",
    lambda _, row: f"${row}",
    lambda rng, _: rng.choice(["1", "2", "x"]),
    lambda rng, _: f"{rng.gauss(0, 1)}e300",
    lambda rng, _: f"0{rng.randint(1000, 1005)}",
    lambda rng, _: rng.choice(["", "", "", "", "3", "4"]),
    lambda rng, _: str(1e17 + rng.random()),
)


@pytest.mark.parametrize("first_seed", range(0, 60, 20))
def test_a_config_for_any_table_passes_the_checks_or_is_not_written(tmp_path: Path, first_seed: int) -> None:
    num_checked = 0
    for seed in range(first_seed, first_seed + 20):
        rng = random.Random(seed)
        num_rows, names = rng.choice([3, 9, 12, 40]), rng.sample(["a", "b b", "c=a", "id", "y", "class", ""], 4)
        columns = []
        for name in names:
            cell, share, word = rng.choice(CELLS), rng.choice([0, 0, 0.2]), rng.choice(["", "NA", "?"])
            columns.append([name, *(word if rng.random() < share else cell(rng, row) for row in range(num_rows))])
        lines = zip(*columns, strict=True)
        path = write(tmp_path, "\n".join(map(rng.choice(",;\t").join, lines)))
        try:
            starter = from_table(path, tmp_path)
        except DataError:
            continue
        assert next(Run(load_config(starter.tables)).try_steps()).loss.isfinite(), seed
        num_checked += 1
    assert num_checked > 5


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file") as caught:
        from_table(tmp_path / "absent.csv", tmp_path)
    assert caught.value.exit_code == 4


def test_the_file_is_named_as_the_config_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, text())
    monkeypatch.chdir(tmp_path)
    assert from_table(Path("table.csv"), Path()).tables["data"]["path"] == "table.csv"
    assert from_table(Path("table.csv"), Path("configs")).tables["data"]["path"] == "../table.csv"


def test_the_command_shows_its_reasons_and_warnings(tmp_path: Path) -> None:
    write(tmp_path, replaced(1, lambda n, cell: "-999" if n in (3, 8) else cell))
    done = command("init", "table.csv", "--target", "age", cwd=tmp_path)
    assert "age is the target: you chose it" in done.stdout
    assert "warning: score: -999 occurs 2 times" in done.stderr
    assert command("check", "run.toml", "--quiet", cwd=tmp_path).returncode == 0
    done = command(
        "init", "table.csv", "--target", "colour", "--task", "classification", "-o", "c.toml", "--json", cwd=tmp_path
    )
    assert [sorted(json.loads(done.stdout)), done.returncode] == [["path", "remarks", "warnings"], 0]
    assert command("init", "--target", "age", "-o", "b.toml", cwd=tmp_path).returncode == 2
