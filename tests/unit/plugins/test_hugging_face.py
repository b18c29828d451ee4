"""Data source ``hugging-face``: columns of saved datasets as tensors, faults, runs."""

from __future__ import annotations

import csv
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import pytest
import torch
from msgspec import Meta

from hookline import DataError, DataSource, Run, hookimpl, load_config, resume
from hookline.config.plugins.plugin import Plugin
from hookline.testing.checks_data import starts_anywhere
from hookline.testing.kit import Broken, Subject
from hookline.trained import load_trained, write_predictions
from support import saved_folder

datasets = pytest.importorskip("datasets", reason="the extra datasets is not installed")

from hookline_plugins.data.arrays.hugging_face.source import HuggingFace  # noqa: E402 - needs the package

NUM = 40


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Refuse every connection and every question for an address, and the code that is stored in pickles."""

    def refused(*arguments: Any, **_: Any) -> NoReturn:
        raise AssertionError(f"a connection to {arguments[-1]}")

    connect = socket.socket.connect

    def connected(one: socket.socket, address: Any) -> None:
        assert one.family == socket.AF_UNIX, f"a connection to {address}"  # that of workers, on this machine
        connect(one, address)

    monkeypatch.setattr(socket.socket, "connect", connected)
    for name in ("connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refused)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refused)
    for name in ("load", "loads"):
        monkeypatch.setattr("dill." + name, refused)
    datasets.disable_progress_bars()


def rows(num: int = NUM, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 6, num)
    x = random.normal(size=(num, 3))
    return {
        "a": x[:, 0],
        "b": np.arange(num),
        "x": x.tolist(),
        "grid": random.normal(size=(num, 2, 2)).tolist(),
        "input_ids": [list(range(1, n + 1)) for n in lengths],
        "attention_mask": [[1] * n for n in lengths],
        "tags": [[number % 2 for number in range(n)] for n in lengths],
        "label": (x.sum(axis=1) > 0).astype(int),
        "name": [("yes", "no")[number % 2] for number in range(num)],
        "y": x.sum(axis=1),
    }


def made(num: int = NUM, seed: int = 0) -> Any:
    dataset = datasets.Dataset.from_dict(rows(num, seed))
    features = dataset.features.copy()
    features["label"] = datasets.ClassLabel(names=["low", "high"])
    return dataset.cast(features)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made().save_to_disk(str(tmp_path / "data"))
    return tmp_path / "data"


def built(path: Path, *inputs: str, **options: Any) -> DataSource:
    return HuggingFace(path, inputs, **options).build_data()


def gathered(data: DataSource, *indices: int) -> Any:
    train: Any = data.train
    return train.gather(torch.tensor(indices))


# ---- values ---------------------------------------------------------------------------------------------------------


def test_numbers_are_features_and_class_labels_have_names(folder: Path) -> None:
    data = built(folder, "a", "b")
    inputs, targets = gathered(data, 7, 3)
    given = rows()
    # Read from Arrow, not through the package's tensors, which are float32.
    assert inputs.tolist() == [[given["a"][7], 7.0], [given["a"][3], 3.0]]
    assert targets.tolist() == [given["label"][7], given["label"][3]]
    assert (data.class_names, data.feature_names, data.in_features) == (("low", "high"), ("a", "b"), 2)


def test_lists_are_tensors_or_padded_where_a_mask_says_how_long_they_are(folder: Path) -> None:
    given = rows()
    inputs, targets = gathered(built(folder, "input_ids", "attention_mask", "grid", target="tags"), 0, 1, 2)
    longest = max(map(len, given["input_ids"][:3]))
    for name, padding, values in (("input_ids", 0, inputs["input_ids"]), ("tags", -100, targets)):
        assert values.tolist() == [one + [padding] * (longest - len(one)) for one in given[name][:3]]
    assert inputs["attention_mask"].sum(1).tolist() == list(map(len, given["input_ids"][:3]))
    assert inputs["grid"].tolist() == given["grid"][:3]
    x, y = gathered(built(folder, "x", target="y"), 5)
    assert (x.dtype, x.tolist()) == (torch.float64, [given["x"][5]])
    assert y.tolist() == [[given["y"][5]]]
    train: Any = built(folder, "input_ids", "attention_mask").train
    assert train.lengths.tolist() == list(map(len, given["input_ids"]))
    with pytest.raises(DataError, match="'input_ids' have different lengths"):
        gathered(built(folder, "input_ids", "a"), *range(NUM))


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_a_file_is_read_without_a_copy_of_it(tmp_path: Path, ending: str) -> None:
    dataset = made().select_columns(["a", "b", "label", "name"])
    getattr(dataset, {"parquet": "to_parquet", "jsonl": "to_json", "csv": "to_csv"}[ending])(tmp_path / f"d.{ending}")
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    before = sorted(cache.rglob("*"))
    data = built(tmp_path / f"d.{ending}", "a", "b", target="name")
    assert gathered(data, 4)[0].tolist() == [pytest.approx([rows()["a"][4], 4.0], abs=1e-9)]
    assert (data.class_names, gathered(data, 0, 1)[1].tolist()) == (("no", "yes"), [1, 0])
    assert sorted(cache.rglob("*")) == before


def test_the_splits_are_those_of_the_dataset_or_made_with_equal_shares(tmp_path: Path, folder: Path) -> None:
    splits = datasets.DatasetDict(train=made(), validation=made(8, 1), other=made(6, 2))
    splits.save_to_disk(str(tmp_path / "splits"))
    data = built(tmp_path / "splits", "a", "b")
    assert {name: len(one) for name, one in data.splits().items()} == {"train": 40, "validation": 8, "other": 6}  # type: ignore[arg-type]
    parts: Any = built(folder, "a", target="name", split=[0.5, 0.5]).splits()
    assert [int(part._targets.sum()) for part in parts.values()] == [10, 10]
    seen = [part.gather(torch.arange(20))[0] for part in parts.values()]
    assert sorted(torch.cat(seen).flatten().tolist()) == sorted(rows()["a"].tolist())
    with pytest.raises(DataError, match="leave out `split`"):
        built(tmp_path / "splits", "a", split=[0.5, 0.5])


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_every_column_that_cannot_be_used_is_reported(tmp_path: Path) -> None:
    given = rows(4) | {"holes": [1.0, None, None, 2.0], "label": [0, 1, -1, -1]}
    datasets.Dataset.from_dict(given).save_to_disk(str(tmp_path / "data"))
    with pytest.raises(DataError) as caught:
        built(tmp_path / "data", "xx", "name", "holes")
    assert [fault.message for fault in caught.value.faults] == [
        "there is no column 'xx'",
        "column 'name' holds string, not numbers",
        "column 'holes' has 2 empty cells",
    ]
    assert "the data source texts" in str(caught.value)


def test_a_label_that_is_no_class_is_named_with_its_row(tmp_path: Path) -> None:
    dataset = made(4)
    given = dataset.to_dict() | {"label": [0, 1, -1, -1]}
    datasets.Dataset.from_dict(given, features=dataset.features).save_to_disk(str(tmp_path / "data"))
    with pytest.raises(DataError, match=r"row 2 has the label '-1', which is no class .* \(the first of 2 such rows\)"):
        built(tmp_path / "data", "a")


@pytest.mark.parametrize(("name", "message"), [("", "this is no dataset"), ("x", "no such file"), ("d.txt", "'.txt'")])
def test_anything_but_a_dataset_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "d.txt").write_text("text")
    with pytest.raises(DataError, match=message):
        built(tmp_path / name, "a")


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_a_run_resumes_in_mid_epoch_with_the_same_bits_and_predicts(tmp_path: Path, folder: Path) -> None:
    values = {
        "train": {"epochs": 2, "batch_size": 6, "evaluate": ["validation"], "num_workers": 1, "dtype": "float64"},
        "data": {"use": "hugging-face", "path": str(folder), "inputs": ["a", "b"], "split": [0.8, 0.2]},
        "model": {"use": "mlp", "hidden": [4]},
        "loss": {"use": "cross-entropy"},
        "callbacks": {"run-folder": {"parent": str(tmp_path), "name": "job"}, "checkpoint": {}},
    }
    whole = Run(load_config(values))
    whole.fit()
    run = Run(load_config(values))
    for taken in run.steps():
        if taken.step == 8:
            run.interrupt("test")
    path = saved_folder(run).path
    again = resume(path)
    again.fit()
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))
    assert again.history == whole.history
    write_predictions(load_trained(path), folder, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        predicted = [row["predicted_label"] for row in csv.DictReader(file)]
    given = rows()
    inputs = torch.tensor(np.stack([given["a"], given["b"]], axis=1))
    assert predicted == [("low", "high")[index] for index in again.model.eval()(inputs).argmax(1)]


@dataclass
class Streamed:
    """Yield the rows of a dataset as a stream of the package."""

    shuffled: Annotated[bool, Meta(description="whether to shuffle")] = False

    @hookimpl
    def build_data(self) -> DataSource:
        whole = datasets.Dataset.from_dict({"x": rows()["x"], "labels": rows()["label"]}).with_format("torch")
        stream = whole.to_iterable_dataset(num_shards=4)
        return DataSource(stream.shuffle(seed=0, buffer_size=8) if self.shuffled else stream)


def test_the_kit_refuses_a_stream_of_the_package_that_is_shuffled_because_it_loses_examples_at_a_resume() -> None:
    plugin = Plugin("data", "Streamed", Streamed)
    starts_anywhere.function(Subject(plugin, {}, None, Path()))
    with pytest.raises(Broken, match="different batches when the epoch starts at batch"):
        starts_anywhere.function(Subject(plugin, {"shuffled": True}, None, Path()))
