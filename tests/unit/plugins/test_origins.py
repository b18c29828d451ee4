"""``origins`` of the datasets of Hookline's data sources: where each example comes from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import hookline
from hookline import DataSource
from hookline_plugins.data.arrays.source import Arrays
from hookline_plugins.data.parquet.source import Parquet
from hookline_plugins.data.subset import first_examples
from hookline_plugins.data.tables.table import Table
from hookline_plugins.data.text.labelled.source import Texts

NUM = 20


def origins(data: DataSource, split: str) -> dict[str, list[Any]]:
    dataset: Any = data.splits()[split]
    found: dict[str, list[Any]] = dataset.origins(list(range(len(dataset))))
    return found


def test_rows_of_a_table_are_those_of_the_file_of_their_split(tmp_path: Path) -> None:
    lines = [f"{n},{'' if n == 2 else n}" for n in range(NUM)]
    (tmp_path / "a.csv").write_text("\n".join(["x,y", *lines, ""]))
    (tmp_path / "b.csv").write_text("x,y\n7,7\n\n9,9\n")
    data = Table(
        tmp_path / "a.csv", "y", missing="drop", split=(0.5, 0.5), files={"north": tmp_path / "b.csv"}
    ).build_data()
    for split in ("train", "validation"):
        tensors = data.splits()[split].tensors  # type: ignore[attr-defined] # a TensorDataset
        assert origins(data, split) == {"row": tensors[0].flatten().int().tolist()}
    assert origins(data, "north") == {"row": [0, 2]}  # a blank line counts, too
    assert origins(first_examples(data, 3), "train")["row"] == origins(data, "train")["row"][:3]


@pytest.mark.parametrize("memory_map", [True, False])
def test_rows_of_arrays(tmp_path: Path, memory_map: bool) -> None:
    np.save(tmp_path / "inputs.npy", np.arange(NUM, dtype=np.float32).reshape(NUM, 1))
    np.save(tmp_path / "targets.npy", np.arange(NUM, dtype=np.float32))
    data = Arrays(tmp_path, split=(0.5, 0.5), memory_map=memory_map).build_data()
    dataset: Any = data.validation
    assert origins(data, "validation") == {"row": [int(dataset[i][0]) for i in range(NUM // 2)]}
    assert origins(Arrays(tmp_path, memory_map=memory_map).build_data(), "train") == {"row": list(range(NUM))}


def test_rows_of_given_arrays() -> None:
    plugin = hookline.from_arrays(np.arange(NUM), np.arange(NUM) / 2, test=0.5)()
    run: Any = SimpleNamespace(generator=lambda _: torch.Generator().manual_seed(0))
    data = plugin.build_data(run)
    dataset: Any = data.test
    assert origins(data, "test") == {"row": dataset.tensors[0].flatten().int().tolist()}


def test_texts_name_their_rows_or_their_files(tmp_path: Path) -> None:
    lines = [f"word{n},{'ab'[n % 2]}" if n != 4 else ",a" for n in range(NUM)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *lines, ""]))
    data = Texts(tmp_path / "t.csv", missing="drop", split=(0.5, 0.5)).build_data()
    rows = [origins(data, split)["row"] for split in ("train", "validation")]
    assert sorted(rows[0] + rows[1]) == [n for n in range(NUM) if n != 4]
    for split, found in zip(("train", "validation"), rows, strict=True):
        dataset: Any = data.splits()[split]
        assert [int(dataset[i][1]) for i in range(len(dataset))] == [row % 2 for row in found]
    for label in "ab":
        (tmp_path / "folders" / label).mkdir(parents=True)
        (tmp_path / "folders" / label / "one.txt").write_text("some words")
    assert origins(Texts(tmp_path / "folders").build_data(), "train") == {"file": ["a/one.txt", "b/one.txt"]}


def test_a_stream_of_parquet_names_file_and_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, first in (("a", 0), ("b", 100)):
        pl.DataFrame({"x": range(first, first + 9), "y": range(9)}).write_parquet(tmp_path / f"{name}.parquet")
    train = SimpleNamespace(num_workers=0, dtype="float32", shuffle=True)
    run: Any = SimpleNamespace(config=SimpleNamespace(train=train), generator=lambda _: torch.Generator())
    data = Parquet(tmp_path, "y", split=(0.5, 0.5), block_rows=4).build_data(run)
    stream: Any = data.validation
    values = [int(x[0]) for x, _ in stream]
    found = stream.origins(list(range(len(values))))
    assert [{"a": 0, "b": 100}[f[0]] + row for f, row in zip(found["file"], found["row"], strict=True)] == values
