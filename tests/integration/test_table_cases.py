"""From a table as people have it to predictions for new rows: init, train, predict, with values known by hand."""

from __future__ import annotations

import gzip
import io
import random
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

import hookline
from hookline import DataError
from hookline.trained import Trained, load_trained
from hookline_plugins.data.tables.starting.starter import from_table

COLOURS = ("red", "green", "blue")
HEADER = ("age", "score", "colour", "price")


def rows(count: int = 40) -> list[list[str]]:
    """Return rows of age, score, colour and price, with ``price = 3 age + 2 score + 5``."""
    rng = random.Random(1)
    made = []
    for number in range(count):
        age, score = rng.randint(20, 70), rng.randint(20, 80)
        made.append([str(age), f"{score}.0", COLOURS[number % 3], f"{3 * age + 2 * score + 5}.0"])
    return made


def text(table: list[list[str]], header: tuple[str, ...] = HEADER, delimiter: str = ",") -> str:
    return "".join(delimiter.join(row) + "\n" for row in [header, *table])


def changed(change: Callable[[int, list[str]], list[str]]) -> list[list[str]]:
    return [change(number, row) for number, row in enumerate(rows())]


def zipped(content: str) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("t.csv", content)
    return held.getvalue()


def as_parquet(content: str) -> bytes:
    held = io.BytesIO()
    pl.read_csv(io.StringIO(content)).write_parquet(held)
    return held.getvalue()


class Case(NamedTuple):
    """A table, new rows, options for reading them, and their predictions; None for any values but None."""

    table: str | bytes
    new: str | bytes
    predicted: Mapping[str, list[Any] | None]
    overrides: tuple[str, ...] = ()
    name: str = "t.csv"
    new_name: str = "new.csv"


ODD = ("a b", "c,d", 'e"f', "g.h", "日本", "x=1", "i\\j", "y")


def quoted(header: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f'"{name.replace(chr(34), chr(34) * 2)}"' if set(name) & set('",') else name for name in header)


NEW = "age,score,colour\n30,10,red\n50,60,blue\n"
PRICES = {"predicted_price": [115, 275]}
CASES = {
    "plain": Case(text(rows()), NEW, PRICES),
    "columns in another order, a further one": Case(
        text(rows()), "note,colour,score,age\nu,red,10,30\n,blue,60,50\n", {"note": ["u", None], **PRICES}
    ),
    "an id beside the prediction": Case(
        text(changed(lambda n, row: [f"r{n}", *row]), ("id", *HEADER)),
        "id,age,score,colour\nr900,30,10,red\nr901,50,60,blue\n",
        {"id": ["r900", "r901"], **PRICES},
    ),
    "zip for training, gzip for predictions": Case(
        zipped(text(rows())), gzip.compress(NEW.encode()), PRICES, name="t.zip", new_name="new.csv.gz"
    ),
    "CSV for training, Parquet for predictions": Case(text(rows()), as_parquet(NEW), PRICES, new_name="new.parquet"),
    "blanks": Case(text(rows(), delimiter="  "), NEW.replace(",", "\t"), PRICES),
    "semicolons and decimal commas": Case(
        text(rows(), delimiter=";").replace(".", ","), "age;score;colour\n30;10,0;red\n50,0;60;blue\n", PRICES
    ),
    "semicolons for training, commas for predictions": Case(
        text(rows(), delimiter=";"), NEW, PRICES, ("data.delimiter=,",)
    ),
    "units": Case(
        text(changed(lambda _, r: [r[0], f"{r[1]}%", r[2], f"$ {r[3]}"])),
        NEW.replace("10", "10 %").replace("60", "60%"),
        PRICES,
    ),
    "missing only in new rows": Case(
        text(rows()),
        "age,score,colour\n,10,red\nNA,60,blue\n",
        # With the mean age of the table.
        {"predicted_price": [3 * sum(int(r[0]) for r in rows()) / 40 + 2 * score + 5 for score in (10, 60)]},
        ("data.missing=mean",),
    ),
    "rows that cannot be read": Case(
        text(rows()),
        "age,score,colour\n30,10,red\nold,60,blue\n1,2\n50,60,blue\n",
        {
            "problem": [None, "column 'age': 'old' is not a number", "the row has 2 fields, the header has 3", None],
            "predicted_price": [115, None, None, 275],
        },
        ("data.faulty=empty",),
    ),
    "odd names": Case(
        text([[str(2 * n), *(str(n % k) for k in (3, 5, 4, 7, 6, 2)), f"{3 * n}"] for n in range(30)], quoted(ODD)),
        text([["14", "1", "2", "3", "0", "1", "1"]], quoted(ODD[:-1])),
        {"predicted_y": [21]},
    ),
    "dates alone": Case(
        text([[f"2024-{1 + n // 28:02}-{1 + n % 28:02}", f"{n}"] for n in range(28)], ("day", "flow")),
        "day\n2024-01-05\n",
        {"predicted_flow": [4]},
    ),
    "words for nothing": Case(
        text(changed(lambda n, row: [row[0], "NA" if n == 3 else row[1], "?" if n == 5 else row[2], row[3]])),
        "age,score,colour\n30,10,red\n",
        {"predicted_price": None},
    ),
    "classes that differ by case": Case(
        text(changed(lambda n, row: [*row[:3], ("A", "a ", "B")[n % 3]]), (*HEADER[:3], "label")),
        NEW,
        dict.fromkeys(("predicted_label", "probability_A", "probability_B", "probability_a")),
    ),
    "0.0 and 1.0": Case(
        text(changed(lambda _, row: [*row[:3], f"{float(row[0]) > 45:.1f}"]), (*HEADER[:3], "bought")),
        "age,score,colour\n20,50,red\n70,50,blue\n",
        {"predicted_bought": ["0", "1"], "probability_0": None, "probability_1": None},
    ),
}


def trained_by_init(folder: Path, path: Path, overrides: tuple[str, ...]) -> Trained:
    """Return the model of the config that ``init`` writes for a table, for all of its rows."""
    starter = from_table(path, folder)
    starter.tables["data"] |= {"path": str(path), "split": [1.0], "stratify": ""}
    starter.tables["train"]["epochs"] = min(starter.tables["train"]["epochs"], 60)
    starter.tables["callbacks"] = {"run-folder": {"parent": str(folder)}}
    assert hookline.train(starter.tables).outcome == "completed"
    return load_trained(next(folder.glob("0001*")), overrides)


@pytest.mark.parametrize("kind", CASES)
def test_a_table_leads_to_predictions(tmp_path: Path, kind: str) -> None:
    case = CASES[kind]
    for name, content in ((case.name, case.table), (case.new_name, case.new)):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    # The options of reading are those of the new rows alone.
    trained = trained_by_init(tmp_path, tmp_path / case.name, case.overrides)
    (found,) = trained.predictions(tmp_path / case.new_name)
    assert list(found) == list(case.predicted)
    for name, expected in case.predicted.items():
        if expected is None:
            assert None not in found[name]
        elif name.startswith("predicted_") and isinstance(expected[0], int | float):
            for got, value in zip(found[name], expected, strict=True):
                assert (got is None) == (value is None)
                assert got is None or got == pytest.approx(value, abs=0.01)
        else:
            assert list(found[name]) == expected


def test_a_file_with_another_delimiter_is_named_as_the_reason(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text(rows(), delimiter=";"))
    (tmp_path / "new.csv").write_text(NEW)
    with pytest.raises(DataError) as caught:
        list(trained_by_init(tmp_path, tmp_path / "t.csv", ()).predictions(tmp_path / "new.csv"))
    hint = "the cells are delimited by ',', not by ';'; set `delimiter` to ','"
    assert all(hint in str(fault.hint) for fault in caught.value.faults)


def test_a_wide_table_is_fitted_as_by_least_squares(tmp_path: Path) -> None:
    rng = random.Random(0)
    table = [[f"{rng.gauss(0, 1):.3f}" for _ in range(60)] for _ in range(120)]
    lines = [[*row, f"{sum(float(cell) * (k % 4 - 1) for k, cell in enumerate(row)):.3f}"] for row in table]
    path = tmp_path / "t.csv"
    path.write_text(text(lines, (*(f"x{k}" for k in range(60)), "y")))
    starter = from_table(path, tmp_path)
    starter.tables["data"]["path"] = str(path)
    # The mean alone would have about 1; the cells are rounded to three digits.
    assert hookline.train(starter.tables).metrics["validation/loss"] < 0.01
