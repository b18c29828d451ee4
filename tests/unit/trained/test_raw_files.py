"""Files of inputs for an exported model, read by its description alone."""

from __future__ import annotations

import gzip
import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from hookline import CheckpointError, DataError
from hookline.trained import RawInput, RawOutput, TableForm
from hookline.trained.exportable import ENTRY, VERSION, Description, read_description
from hookline.trained.raw.arrays import read_arrays
from hookline.trained.raw.tables import read_table

PRICE = (RawOutput("predictions", ("predicted_price",)),)


def described(*inputs: RawInput, **form: Any) -> Description:
    return Description(VERSION, inputs, PRICE, TableForm(**form))


def zipped(data: bytes, *names: str) -> bytes:
    """Return an archive as macOS makes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("folder/", "__MACOSX/._a.csv", *names):
            archive.writestr(name, data)
    return file.getvalue()


def read(path: Path, text: str | bytes, description: Description, size: int = 100) -> tuple[dict[str, list[Any]], ...]:
    """Return the inputs and the other columns of a file."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    inputs: dict[str, list[Any]] = {}
    beside: dict[str, list[Any]] = {}
    for batch in read_table(path, description, size):
        for found, part in ((inputs, batch.inputs), (beside, batch.beside)):
            for name, values in part.items():
                found.setdefault(name, []).extend(values)
    return inputs, beside


AREA, COLOR = RawInput("area"), RawInput("color", "text", levels=("green", "red"))


@pytest.mark.parametrize("size", [1, 100])
def test_columns_are_found_by_name_and_the_others_are_kept_as_they_are(tmp_path: Path, size: int) -> None:
    text = 'color,id,area\nred,007,1.5\n"green", a b ,-2e3\n\nred,"x, ""y""",+.5\n'
    inputs, beside = read(tmp_path / "a.csv", text, described(AREA, COLOR), size)
    assert inputs == {"area": [1.5, -2000.0, 0.5], "color": ["red", "green", "red"]}
    assert beside == {"id": ["007", " a b ", 'x, "y"']}


FORMS: dict[str, tuple[dict[str, Any], str | bytes, list[float]]] = {
    "decimal comma": (
        {"delimiter": ";", "decimal": ",", "thousands": "."},
        "area;x\n1.234,5;a\n-0,25;b\n",
        [1234.5, -0.25],
    ),
    "blanks": ({"delimiter": " "}, "  x   area\n a  1\n'b\t 2 \n", [1, 2]),
    "comments": ({"comment": "#"}, "# by hand\narea,x\n1,a\n# no\n2,b\n", [1, 2]),
    "a unit": ({"units": {"area": "$"}}, "area,x\n$1.5,a\n-$ 2,b\n", [1.5, -2]),
    "an encoding": ({"encoding": "utf-16"}, "area,x\n1,ä\n".encode("utf-16"), [1]),
    "a mark of the byte order": ({}, "\ufeffarea,x\r\n1,a\r\n".encode(), [1]),
    "compressed": ({}, gzip.compress(b"area,x\n1,a\n", mtime=0), [1]),
    "the file of an archive": ({"encoding": "utf-16"}, zipped("area,x\n1,ä\n".encode("utf-16"), "a.csv"), [1]),
}


@pytest.mark.parametrize(("form", "text", "expected"), FORMS.values(), ids=FORMS)
def test_cells_are_read_in_the_form_of_the_training_data(
    tmp_path: Path, form: dict[str, Any], text: str | bytes, expected: list[float]
) -> None:
    inputs, beside = read(tmp_path / "a.csv", text, described(AREA, **form))
    assert (inputs["area"], len(beside["x"])) == (expected, len(expected))


def test_a_file_without_header_has_numbered_columns(tmp_path: Path) -> None:
    inputs, _ = read(tmp_path / "a.csv", "1,2\n3,4\n", described(RawInput("column_2"), header=False))
    assert inputs == {"column_2": [2, 4]}


def test_missing_cells_are_nan_and_empty_texts_where_the_model_fills_them_in(tmp_path: Path) -> None:
    filled = RawInput("area", fills_missing=True), RawInput("color", "text", (), ("1", "20"), None, True, True)
    text = "area,color\n,20.0\n?,\n-999,new\n3,NA\n"
    inputs, _ = read(tmp_path / "a.csv", text, described(*filled, missing_words=("?", "NA"), missing_numbers=(-999,)))
    assert [None if math.isnan(value) else value for value in inputs["area"]] == [None, None, None, 3.0]
    assert inputs["color"] == ["20", "", "new", ""]


def test_dates_are_days_since_1970(tmp_path: Path) -> None:
    inputs, _ = read(
        tmp_path / "a.csv", "on\n2000-02-29 12\n1969-12-31 00\n", described(RawInput("on", date="%Y-%m-%d %H"))
    )
    assert inputs["on"] == [11016.5, -1.0]


def test_times_of_day_are_hours_and_words_are_numbers(tmp_path: Path) -> None:
    inputs = RawInput("at", time="%H:%M"), RawInput("paid", words={"no": 0, "yes": 1, "true": 1, "0": 0, "1": 1})
    text = "at,paid\n08:30,Yes\n24:00,0\n8.5,NO\n0:00,0.5\n"
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.csv", text, described(*inputs))
    assert [(fault.message, fault.hint) for fault in caught.value.faults] == [
        ("column 'at': '24:00' is not a time", "a time of the form '%H:%M' is expected"),
        ("column 'at': '8.5' is not a time", "a time of the form '%H:%M' is expected"),
        ("column 'paid': '0.5' is none of the values of this column", "known: 'no', 'yes', 'true', '0', '1'"),
    ]
    found, _ = read(tmp_path / "a.csv", "at,paid\n08:30,Yes\n23:59,0\n", described(*inputs))
    assert found == {"at": [8.5, 24 - 1 / 60], "paid": [1, 0]}


def test_every_fault_is_reported_with_its_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    inputs = (AREA, COLOR, RawInput("on", date="%Y-%m-%d"), RawInput("gone"))
    rows = "1,red,2000-01-01,5\n1_0,blue,1.1.2000,5\n,red,2000-01-01,5\n1,red\n1e400,red,2000-01-01,5\n"
    text = f"area,color,on,predicted_price\n{rows}"
    with pytest.raises(DataError) as caught:
        read(path, text, described(*inputs), 2)
    places = [(str(fault.location).removeprefix(str(path)), fault.message) for fault in caught.value.faults]
    assert places == [
        ("", "there is no column 'gone', a feature of the model"),
        ("", "the column 'predicted_price' has the name of a result"),
        (":3:1", "column 'area': '1_0' is not a number"),
        (":3:5", "column 'color': 'blue' was not in the training data"),
        (":3:10", "column 'on': '1.1.2000' is not a date"),
        (":5", "the row has 2 fields, the header has 4"),
        (":4:1", "column 'area': the cell is empty"),
        (":6:1", "column 'area': '1e400' is not a finite number"),
    ]
    assert caught.value.message == "the data file 'a.csv' cannot be used: 8 faults"


def test_rows_that_cannot_be_read_can_be_left_without_a_prediction(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('area,color\n1,red\nx,red\n1\n2,"a\n')
    (batch,) = read_table(path, described(AREA, COLOR, leaves_empty=True), 10)
    assert {row: problem.partition(":")[0] for row, problem in batch.problems.items()} == {
        1: "column 'area'",
        2: "the row has 1 field, the header has 2",
        3: "the row cannot be parsed",
    }
    assert (len(batch.inputs["area"]), batch.inputs["area"][0]) == (4, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"area\n", "there are no rows"),
        (b"area\n\xff\n", "the file is not in the encoding 'utf-8'"),
        (gzip.compress(b"area\n1\n", mtime=0)[:-9], "the file cannot be read"),
        (gzip.compress(b"area\n1\n", mtime=0)[:10] + b"\xff" * 9, "the file cannot be read: Error -3"),
        (zipped(b"area\n1\n", "a.csv", "b.csv"), "the file cannot be read: the zip archive has 2 files, of which one"),
        (zipped(b"area\n1\n", "a.csv")[:-9], "the file cannot be read: File is not a zip file"),
        (b"\x28\xb5\x2f\xfd\0", "the file is compressed with Zstandard"),
    ],
)
def test_a_file_that_is_no_table_is_an_error(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.csv", data, described(AREA))
    assert caught.value.faults[0].message.startswith(message)
    with pytest.raises(DataError, match="there is no such file"):
        list(read_table(tmp_path / "b.csv", described(AREA), 1))


def test_the_columns_of_a_parquet_file_are_read_by_name(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    from datetime import date

    columns = {"on": [date(2000, 2, 29), date(1970, 1, 1)], "color": ["red", "blue"], "area": [1, None], "id": [7, 8]}
    polars.DataFrame(columns).write_parquet(tmp_path / "a.parquet")
    filled = RawInput("area", fills_missing=True), RawInput("color", "text", (), ("red",), None, True, True)
    (batch,) = read_table(tmp_path / "a.parquet", described(*filled, RawInput("on", date="%Y-%m-%d")), 10)
    assert (batch.inputs["on"].tolist(), batch.inputs["color"].tolist()) == ([11016.0, 0.0], ["red", "blue"])
    assert (batch.inputs["area"][0], math.isnan(batch.inputs["area"][1])) == (1.0, True)
    assert batch.beside == {"id": [7, 8]}
    with pytest.raises(DataError, match=r"row 2, column 'color': 'blue' was not in the training data"):
        list(read_table(tmp_path / "a.parquet", described(RawInput("color", "text", levels=("red",))), 10))


def test_times_durations_and_booleans_of_a_parquet_file_are_numbers(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    from datetime import time, timedelta

    columns = {
        "at": [time(8, 30), time(23, 45)],
        "from": [time(8, 30), time(0)],
        "took": [timedelta(seconds=1.5), timedelta(days=1)],
        "paid": [True, False],
        "late": [False, True],
    }
    polars.DataFrame(columns).write_parquet(tmp_path / "a.parquet")
    inputs = RawInput("from"), RawInput("took"), RawInput("late"), RawInput("paid", words={"true": 1, "false": 0})
    (batch,) = read_table(tmp_path / "a.parquet", described(RawInput("at", time="%H:%M"), *inputs), 10)
    assert {name: values.tolist() for name, values in batch.inputs.items()} == {
        "at": [8.5, 23.75],
        "from": [8.5, 0],
        "took": [1.5, 86400],
        "late": [0, 1],
        "paid": [1, 0],
    }


def test_arrays_are_read_by_name_with_their_shape_and_dtype(tmp_path: Path) -> None:
    description = Description(VERSION, (RawInput("x", "float32", (2,)), RawInput("k", "int64", (1,))), PRICE)
    np.savez(tmp_path / "a.npz", x=np.arange(6).reshape(3, 2), k=np.array([1, 2, 3], dtype="uint8"))
    batches = list(read_arrays(tmp_path / "a.npz", description, 2))
    assert [batch.inputs["x"].tolist() for batch in batches] == [[[0, 1], [2, 3]], [[4, 5]]]
    assert (batches[0].inputs["x"].dtype, batches[0].inputs["k"].dtype) == (np.float32, np.int64)
    assert batches[0].inputs["k"].tolist() == [[1], [2]]
    safetensors.numpy.save_file({"x": np.ones((1, 2)), "k": np.ones(1)}, tmp_path / "a.safetensors")
    (batch,) = read_arrays(tmp_path / "a.safetensors", description, 2)
    assert batch.inputs["x"].tolist() == [[1, 1]]
    for broken in ("a.txt", "b.npz"):
        (tmp_path / broken).write_text("no array")
        with pytest.raises(DataError, match=r"are not supported|cannot be opened"):
            list(read_arrays(tmp_path / broken, description, 2))


def test_arrays_of_another_form_are_errors_all_at_once(tmp_path: Path) -> None:
    inputs = (RawInput("x", "float32", (2,)), RawInput("k", "uint8"), RawInput("y"), RawInput("z"), RawInput("o"))
    arrays = {
        "x": np.zeros((3, 4)),
        "k": np.array([1, 300]),
        "y": np.array([1.0, np.nan, np.inf]),
        "o": np.array(["a"]),
    }
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type] # names of arrays
    with pytest.raises(DataError) as caught:
        list(read_arrays(tmp_path / "a.npz", Description(VERSION, inputs, PRICE), 2))
    assert [fault.message for fault in caught.value.faults] == [
        "inputs in the array 'x' have the shape [4], but the model takes [2]",
        "the array 'k' holds int64, but the model takes uint8",
        "row 1 of the array 'y' is not finite (the first of 2 such rows)",
        "there is no array 'z'",
        "the array 'o' holds str32, not numbers",
    ]


GOOD = Description(VERSION, (RawInput("a"),), PRICE).text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no preparation of its inputs"),
        ("{", "truncated"),
        (GOOD.replace('"version":1', '"version":99'), "its version is 99"),
        (GOOD.replace('"float64"', '"object"'), "Invalid enum value 'object'"),
        (GOOD.replace('"predicted_price"', ""), "an output needs a column"),
        ('{"more":' + "[" * 100_000, "recursion"),
    ],
)
def test_a_description_that_cannot_be_used_is_an_error(text: str | None, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_description({} if text is None else {ENTRY: text}, "model.onnx")
    assert read_description({ENTRY: GOOD}, "model.onnx").inputs == (RawInput("a"),)
