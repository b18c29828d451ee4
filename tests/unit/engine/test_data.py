"""``DataSource``: the splits of the data and the facts about them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from hookline import DataSource

TRAIN, VALIDATION, TEST = (TensorDataset(torch.zeros(size, 2), torch.zeros(size, 1)) for size in (6, 3, 2))


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, ["train"]),
        ({"validation": VALIDATION}, ["train", "validation"]),
        ({"test": TEST}, ["train", "test"]),
        ({"test": TEST, "validation": VALIDATION}, ["train", "validation", "test"]),
    ],
)
def test_splits_are_the_existing_datasets_in_their_order(given: dict[str, Any], names: list[str]) -> None:
    splits = DataSource(TRAIN, **given).splits()
    assert list(splits) == names
    assert splits == {"train": TRAIN, **given}


def test_an_empty_dataset_is_a_split_too() -> None:
    empty = TensorDataset(torch.zeros(0, 2), torch.zeros(0, 1))
    assert DataSource(TRAIN, validation=empty).splits()["validation"] is empty


def test_omitted_facts_about_the_data_are_none_or_empty() -> None:
    data = DataSource(TRAIN)
    assert (data.in_features, data.out_features) == (None, None)
    assert (data.feature_names, data.target_names, data.class_names) == ((), (), ())


def test_a_data_source_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DataSource(TRAIN).train = TEST  # type: ignore[misc] # the assignment under test
