"""The preparation of tables: raw numbers and codes of categories as inputs, in training and for new rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from hookline import Run, load_config
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.tables.preparation import Preparation, Raw, fit, prepared
from hookline_plugins.data.tables.table import Table

COLUMNS = [("color", ["blue", "red"]), ("x", None), ("size", ["l", "m", "s"]), ("z", None)]
NUMBERS = np.array([[1.0, np.nan, 3.0, 8.0, 5.0], [0.5, 0.25, np.nan, -4.0, 9.0]])
CODES = np.array([[1, 2, 0, 2, 1], [3, 0, 1, 2, 1]])
TRAIN = [0, 1, 2, 4]


def raw() -> Raw:
    return Raw(torch.from_numpy(NUMBERS.copy()), torch.from_numpy(CODES.copy()))


def preparation(*, standardize: bool = True, keeps_codes: bool = False) -> Preparation:
    faults = Faults(None)
    scale = fit(COLUMNS, raw(), torch.tensor(TRAIN), faults, standardize=standardize, keeps_codes=keeps_codes)
    faults.check()
    return Preparation(COLUMNS, scale, keeps_codes=keeps_codes)


def filled_by_hand() -> np.ndarray[Any, Any]:
    """Return one row for each feature, in the order of the columns, with the means of the training rows."""
    flags = [[np.where(codes == 0, np.nan, codes == code) for code in range(1, codes.max() + 1)] for codes in CODES]
    rows = np.array([*flags[0], NUMBERS[0], *flags[1], NUMBERS[1]])
    return np.where(np.isnan(rows), np.nanmean(rows[:, TRAIN], axis=1, keepdims=True), rows)


@pytest.mark.parametrize("standardize", [False, True])
def test_inputs_are_those_worked_out_by_numpy(*, standardize: bool) -> None:
    expected = filled_by_hand()
    if standardize:
        train = expected[:, TRAIN]
        deviation = train.std(axis=1, keepdims=True)  # no training row has the size m
        expected = (expected - train.mean(axis=1, keepdims=True)) / np.where(deviation == 0, 1, deviation)
    found = preparation(standardize=standardize)(raw().numbers.T, raw().categories.T)
    np.testing.assert_allclose(found.numpy(), expected.T, rtol=1e-14, atol=1e-15)


def test_codes_are_passed_on_and_only_numbers_are_prepared() -> None:
    found: Any = preparation(keeps_codes=True)(raw().numbers.T, raw().categories.T)
    both: Any = preparation()(raw().numbers.T, raw().categories.T)
    assert list(found) == ["numbers", "categories"]
    assert torch.equal(found["numbers"], both[:, [2, 6]])
    assert torch.equal(found["categories"], torch.from_numpy(CODES).T)


def test_parts_of_a_large_table_are_prepared_like_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.tensor([4, 0, 3, 3, 1])
    monkeypatch.setattr("hookline_plugins.data.tables.preparation._ROWS_AT_ONCE", 2)
    monkeypatch.setattr("hookline_plugins.data.tables.preparation._FLAGS_AT_ONCE", 2)
    whole: Any = preparation()(raw().numbers.T, raw().categories.T)
    found: Any = prepared(preparation(), raw(), rows)
    assert torch.equal(found, whole[rows])


# ---- codes in a run --------------------------------------------------------------------------------------------------

LINES = ["red,1,s,0.5,10", "blue,2,m,1.5,20", ",3,s,,30", "red,,l,3.5,40", "blue,5,,4.5,50", "red,6,s,5.5,60"]


class Embedding(nn.Module):
    """The sum of an embedding of each column of categories and a linear layer of the numbers."""

    def __init__(self, num_numbers: int, num_codes: list[int]) -> None:
        super().__init__()
        self.linear = nn.Linear(num_numbers, 1)
        self.tables = nn.ModuleList(nn.Embedding(number, 1) for number in num_codes)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        parts = [table(codes) for table, codes in zip(self.tables, categories.unbind(dim=1), strict=True)]
        values: Tensor = self.linear(numbers)
        return values + torch.stack(parts).sum(dim=0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("color,x,size,z,y\n" + "\n".join(LINES) + "\n")
    return path


def coded(path: Path, **options: Any) -> Table:
    given = {"one_hot": ("color", "size"), "missing": "mean", "categories": "codes", **options}
    return Table(path, "y", **given)


def test_a_table_gives_numbers_and_codes_by_name(path: Path) -> None:
    data = coded(path).build_data()
    inputs, target = data.train[0]
    assert {name: (values.dtype, values.tolist()) for name, values in inputs.items()} == {
        "numbers": (torch.float64, [1.0, 0.5]),
        "categories": (torch.int64, [2, 3]),
    }
    assert target.tolist() == [10.0]
    batch, _ = data.train.gather(torch.tensor([4, 2]))  # type: ignore[attr-defined] # it has one
    assert batch["categories"].tolist() == [[1, 0], [0, 3]]
    assert batch["numbers"].tolist() == [[5.0, 4.5], [3.0, 3.1]]
    assert (data.in_features, data.feature_names) == (None, ("x", "z", "color", "size"))
    assert data.kept["num_codes"] == [3, 4]


def test_rows_with_a_missing_category_are_dropped(path: Path) -> None:
    data = coded(path, missing="drop").build_data()
    batch, targets = data.train.gather(torch.arange(3))  # type: ignore[attr-defined] # it has one
    assert batch["categories"].tolist() == [[2, 3], [1, 2], [2, 3]]
    assert targets.flatten().tolist() == [10.0, 20.0, 60.0]


def test_the_predictions_of_a_run_with_codes_are_those_of_its_model(path: Path, tmp_path: Path) -> None:
    table = coded(path, standardize=True, standardize_target=True, unseen="mean")
    config = {"train": {"epochs": 2, "batch_size": 4, "dtype": "float64", "micro_batch_size": 3}}
    run = Run(load_config(config, plugins={"data": table, "model": Embedding(2, [3, 4])}))
    result = run.fit()
    frame = pl.DataFrame({"color": ["green", "blue"], "x": [2.0, None], "size": ["s", "l"], "z": [1.0, 0.5]})
    x = (np.array([[2.0, 1.0], [3.4, 0.5]]) - [3.4, 3.1]) / [
        np.std([1, 2, 3, 3.4, 5, 6]),
        np.std([0.5, 1.5, 3.1, 3.5, 4.5, 5.5]),
    ]
    with torch.no_grad():
        scaled = result.model(torch.from_numpy(x), torch.tensor([[0, 3], [1, 1]]))
    expected = scaled[:, 0].numpy() * np.std([10, 20, 30, 40, 50, 60]) + 35
    np.testing.assert_allclose(result.predict(frame), expected, rtol=1e-12)


def test_new_rows_have_the_inputs_of_the_training_in_batches_of_equal_size(path: Path) -> None:
    table = coded(path, standardize=True)
    data = table.build_data()
    batches = list(table.build_predictor(data).read(path, 4))
    assert [len(batch["categories"]) for batch in batches] == [4, 2]
    expected, _ = data.train.gather(torch.arange(6))  # type: ignore[attr-defined] # it has one
    for name, values in expected.items():
        assert torch.equal(torch.cat([batch[name] for batch in batches]), values)
