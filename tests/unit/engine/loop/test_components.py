"""The choice of the device, and the placement of batches."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from hookline import ConfigError, Run, load_config
from hookline.engine.loop.components import find_device
from hookline.engine.reading.batch import placed

CPU = torch.device("cpu")


class Pair(NamedTuple):
    """A batch with names."""

    image: torch.Tensor
    label: torch.Tensor


def test_auto_is_an_available_device() -> None:
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert find_device("auto").type == expected
    assert find_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:1", "", "cuda:", "CPU"])
def test_an_invalid_device_is_an_error_that_names_the_valid_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"'train\.device' is .* must be one of auto, cpu, cuda, mps or cuda:N"):
        find_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_missing_device_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match="torch finds no such device"):
        Run(load_config({"train": {"device": name}}))


def test_a_default_device_of_the_program_is_an_error_that_names_it() -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match="torch's default device is 'meta'") as caught:
        Run(load_config())
    assert (
        caught.value.hint == "do not call torch.set_default_device; 'train.device' sets the device of model and batches"
    )


def test_a_batch_is_placed_however_it_is_nested() -> None:
    pair = Pair(torch.zeros(2, 3, dtype=torch.float64), torch.tensor([1, 2]))
    batch = {"pair": pair, "more": [torch.ones(1), "text"], "number": 3}
    found = placed(batch, torch.device("meta"), torch.float16)
    assert isinstance(found["pair"], Pair)
    assert (found["pair"].image.device.type, found["pair"].image.dtype) == ("meta", torch.float16)
    assert (found["pair"].label.device.type, found["pair"].label.dtype) == ("meta", torch.int64)
    assert found["more"][0].dtype == torch.float16
    assert (found["more"][1], found["number"]) == ("text", 3)


def test_a_tensor_already_in_place_is_not_copied() -> None:
    tensor = torch.zeros(2)
    assert placed(tensor, CPU, torch.float32) is tensor
