"""The fingerprint of a run: plain values without secrets, which change when something changes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from hookline import DataSource, Run, hookimpl, load_config
from hookline.runs import identity_of
from hookline.runs.disk.encoding import encode
from hookline.runs.redaction import redacted, redacted_word


def source(dataset: Any, **splits: Any) -> Any:
    class Given:
        """Return a dataset."""

        @hookimpl
        def build_data(self) -> DataSource:
            return DataSource(dataset, in_features=2, out_features=1, **splits)

    return Given()


def identity(dataset: Any, **values: Any) -> Any:
    return identity_of(Run(load_config(values, plugins={"data": source(dataset)})))


def rows(seed: int = 0, num: int = 200) -> TensorDataset:
    inputs = torch.randn(num, 2, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, inputs.sum(1, keepdim=True))


class Lazy(Dataset[tuple[Tensor, Tensor]]):
    """Rows that are read on demand."""

    def __init__(self, sign: str | None = None) -> None:
        if sign is not None:
            self.fingerprint = lambda: sign

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.ones(2), torch.ones(1)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """A stream of unknown length."""

    def __iter__(self) -> Any:
        return iter([(torch.ones(2), torch.ones(1))] * 20)


def test_the_same_run_has_the_same_identity_and_it_can_be_saved() -> None:
    first, second = identity(rows()), identity(rows())
    assert first == second
    assert json.loads(json.dumps(first)) == first
    encode(first)


def test_versions_plugins_and_machine_are_included() -> None:
    found = identity_of(Run(load_config({})))
    assert found["versions"].keys() >= {"hookline", "torch", "numpy", "python", "hooks"}
    assert found["plugins"]["model"]["name"] == "linear"
    assert found["plugins"]["model"]["distribution"] == "hookline"
    assert len(found["code"]["hookline"]["sha256"]) == 64
    assert found["machine"].keys() == {"device", "type", "num_threads"}
    assert found["settings"]["train.epochs"] == 3


def test_data_in_memory_are_known_by_type_size_and_values() -> None:
    base = identity(rows())["data"]["train"]
    assert base["num_examples"] == 200
    assert identity(rows(seed=1))["data"]["train"] != base
    assert identity(rows(num=199))["data"]["train"] != base
    inputs, targets = rows().tensors
    assert identity(TensorDataset(inputs.flip(0), targets.flip(0)))["data"]["train"] != base
    assert identity(TensorDataset(inputs + 1, targets))["data"]["train"] != base


def test_a_dataset_that_says_what_it_is_is_believed() -> None:
    assert identity(Lazy("a"))["data"] != identity(Lazy("b"))["data"]
    assert identity(Lazy("a"))["data"] == identity(Lazy("a"))["data"]


def test_other_datasets_are_known_by_type_and_size() -> None:
    assert identity(Lazy())["data"]["train"] == {"type": "Lazy", "num_examples": 20, "content": None}
    assert identity(Stream())["data"]["train"] == {"type": "Stream", "num_examples": None, "content": None}


@dataclass
class Uploads:
    """Has options that are secrets."""

    token: str = ""
    url: str = ""

    @hookimpl
    def on_run_end(self) -> None:
        """Do nothing."""


def test_secrets_are_not_included() -> None:
    run = Run(load_config({}, plugins={"callbacks.up": Uploads("hunter2", "postgres://me:hunter2@host/runs")}))
    run.fit()
    assert "hunter2" not in json.dumps(identity_of(run))
    assert "hunter2" not in repr(redacted({"a": [{"password": "hunter2"}, "ftp://u:hunter2@h"]}))
    assert "hunter2" not in redacted_word("callbacks.up.token=hunter2")
