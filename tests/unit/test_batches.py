"""A stream of batches in an order that depends on (seed, epoch) alone, and that can be entered anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from hookline import DataError, batches
from hookline.batches import Batches, count_examples

NUM = 23
INPUTS = torch.arange(NUM * 3, dtype=torch.float32).reshape(NUM, 3).sin()
TARGETS = torch.arange(NUM, dtype=torch.float32).unsqueeze(1)
TENSORS = TensorDataset(INPUTS, TARGETS)


class Items(Dataset[Any]):
    """A map-style dataset that remembers which items were read."""

    def __init__(self, get: Callable[[int], Any] = TENSORS.__getitem__, length: int = NUM) -> None:
        self.get = get
        self.length = length
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return self.get(index)


class Stream(IterableDataset[Any]):
    """Examples without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(TENSORS[index] for index in range(5))


class Pair(NamedTuple):
    x: Tensor
    y: Any


DATASETS: dict[str, Callable[[], Dataset[Any]]] = {"tensors in memory": lambda: TENSORS, "map-style dataset": Items}


@pytest.fixture(params=list(DATASETS))
def dataset(request: pytest.FixtureRequest) -> Dataset[Any]:
    return DATASETS[request.param]()


def make(dataset: Dataset[Any], batch_size: int | None = 4, **more: Any) -> Batches:
    return Batches(dataset, batch_size, **{"dtype": torch.float32, "seed": 0, **more})


def rows(stream: Iterable[Any]) -> list[list[float]]:
    """Return the number of the example in each row of each batch."""
    return [[int(number) for number in target] for _, target in stream]


def offsets(stream: Iterable[Any]) -> list[list[int]]:
    """Return where in a cache line each tensor of each batch begins."""
    return [[tensor.data_ptr() % 64 for tensor in batch] for batch in stream]


# ---- order -----------------------------------------------------------------------------------------------------------


def test_the_order_is_the_same_for_the_same_seed_and_epoch(dataset: Dataset[Any]) -> None:
    assert rows(make(dataset).epoch(1)) == rows(make(dataset).epoch(1))


def test_each_epoch_and_each_seed_has_an_order_of_its_own(dataset: Dataset[Any]) -> None:
    orders = [rows(make(dataset, seed=seed).epoch(epoch)) for seed in (0, 1) for epoch in (1, 2)]
    assert all(one != other for one, other in itertools.combinations(orders, 2))


def test_each_epoch_gives_every_example_once(dataset: Dataset[Any]) -> None:
    for epoch in (1, 2):
        assert sorted(itertools.chain(*rows(make(dataset).epoch(epoch)))) == list(range(NUM))


def test_inputs_and_targets_of_an_example_stay_together(dataset: Dataset[Any]) -> None:
    for inputs, target in make(dataset).epoch(1):
        assert torch.equal(inputs, INPUTS[target.squeeze(1).long()])


def test_without_a_seed_every_epoch_has_the_datasets_own_order(dataset: Dataset[Any]) -> None:
    unshuffled = make(dataset, seed=None)
    assert rows(unshuffled.epoch(1)) == rows(unshuffled.epoch(2))
    assert list(itertools.chain(*rows(unshuffled.epoch(1)))) == list(range(NUM))


def test_tensors_in_memory_and_a_map_style_dataset_give_equal_batches() -> None:
    for epoch in (1, 2):
        for in_memory, loaded in zip(make(TENSORS).epoch(epoch), make(Items()).epoch(epoch), strict=True):
            assert all(torch.equal(one, other) for one, other in zip(in_memory, loaded, strict=True))


def test_order_gives_the_indices_of_an_epoch() -> None:
    stream = make(TENSORS)
    order = stream.order(3)
    assert (order.dtype, list(order.shape)) == (torch.int64, [NUM])
    assert list(itertools.chain(*rows(stream.epoch(3)))) == order.tolist()
    assert make(TENSORS, seed=None).order(3).tolist() == list(range(NUM))


def test_two_epochs_that_are_read_at_once_do_not_disturb_each_other(dataset: Dataset[Any]) -> None:
    stream = make(dataset)
    together = list(zip(stream.epoch(1), stream.epoch(2), strict=True))
    assert rows(first for first, _ in together) == rows(stream.epoch(1))
    assert rows(second for _, second in together) == rows(stream.epoch(2))


def test_the_global_random_generator_is_left_alone_and_does_not_matter(dataset: Dataset[Any]) -> None:
    expected = rows(make(dataset).epoch(1))
    before = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        assert rows(make(dataset).epoch(1)) == expected
    list(make(dataset).epoch(1))
    assert torch.equal(torch.get_rng_state(), before)


# ---- entering anywhere -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches_per_piece", [1, 2, 4, 100])
@pytest.mark.parametrize("start", range(8))
def test_an_epoch_entered_anywhere_gives_its_tail_bit_for_bit_and_at_the_same_places_in_memory(
    dataset: Dataset[Any], start: int, batches_per_piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_bytes = 4 * (3 + 1)
    monkeypatch.setattr(batches, "_GATHERED_BYTES", batches_per_piece * 4 * row_bytes)
    whole = list(make(dataset).epoch(2))
    tail = list(make(dataset).epoch(2, start=start))
    assert len(whole) == 6
    assert len(tail) == max(6 - start, 0)
    for expected, got in zip(whole[start:], tail, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(expected, got, strict=True))
    assert offsets(tail) == offsets(whole)[start:]


def test_the_size_of_the_pieces_that_are_put_in_order_at_once_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = rows(make(TENSORS).epoch(1))
    for size in (1, 100, 200, 10**6):
        monkeypatch.setattr(batches, "_GATHERED_BYTES", size)
        assert rows(make(TENSORS).epoch(1)) == expected


def test_no_item_is_read_to_skip_it() -> None:
    items = Items()
    stream = make(items)
    list(stream.epoch(1, start=4))
    assert items.read == stream.order(1)[16:].tolist()


# ---- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [(4, [4, 4, 4, 4, 4, 3]), (1, [1] * NUM), (NUM, [NUM]), (22, [22, 1]), (None, [NUM]), (10**18, [NUM])],
)
def test_all_batches_are_full_but_the_last(batch_size: int | None, sizes: list[int], dataset: Dataset[Any]) -> None:
    stream = make(dataset, batch_size)
    assert [len(target) for _, target in stream.epoch(1)] == sizes
    assert stream.num_batches == len(sizes)
    assert stream.num_examples == NUM


@pytest.mark.parametrize("empty", [TensorDataset(torch.zeros(0, 2)), Items(length=0)], ids=["tensors", "map-style"])
def test_an_empty_dataset_is_an_error_that_names_it(empty: Dataset[Any]) -> None:
    with pytest.raises(DataError) as caught:
        make(empty, name="train split")
    assert str(caught.value) == "the train split is empty\n  = give it at least one example"


def test_one_example_makes_one_batch() -> None:
    assert rows(make(TensorDataset(INPUTS[:1], TARGETS[:1])).epoch(1)) == [[0]]


def test_examples_without_any_number_are_still_counted() -> None:
    (batch,) = make(TensorDataset(torch.zeros(2, 0)), 2).epoch(1)
    assert batch[0].shape == (2, 0)


# ---- streams ---------------------------------------------------------------------------------------------------------


def test_a_stream_is_read_as_it_comes_in_every_epoch() -> None:
    stream = make(Stream(), 2)
    assert (stream.num_batches, stream.num_examples) == (None, None)
    for epoch in (1, 2):
        assert rows(stream.epoch(epoch)) == [[0, 1], [2, 3], [4]]


def test_reading_a_stream_leaves_the_global_random_generator_alone() -> None:
    before = torch.get_rng_state()
    list(make(Stream(), 2).epoch(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stream_cannot_be_entered_in_the_middle() -> None:
    with pytest.raises(DataError) as caught:
        make(Stream(), 2).epoch(1, start=1)
    assert str(caught.value) == "a stream cannot be entered in the middle\n  = use a map-style dataset"


def test_a_stream_cannot_be_put_into_one_batch() -> None:
    with pytest.raises(DataError) as caught:
        make(Stream(), None)
    assert str(caught.value) == ("'all' is no batch size for a stream of unknown length\n  = set train.batch_size")


# ---- dtypes and shapes of batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floating_point_tensors_are_cast_and_integers_stay(dtype: torch.dtype) -> None:
    tensors = [INPUTS.double(), INPUTS.half(), torch.arange(NUM), torch.ones(NUM, dtype=torch.bool)]
    whole = TensorDataset(*tensors)
    for dataset in (whole, Items(whole.__getitem__)):
        batch = next(make(dataset, dtype=dtype).epoch(1))
        assert [tensor.dtype for tensor in batch] == [dtype, dtype, torch.int64, torch.bool]
    assert [tensor.dtype for tensor in whole.tensors] == [tensor.dtype for tensor in tensors]


def test_what_is_nested_in_a_batch_is_cast_too_and_keeps_its_form() -> None:
    def get(index: int) -> Any:
        x = torch.full((2,), index, dtype=torch.float64)
        return {"pair": Pair(x, {"label": index}), "list": [x, "name"], "number": 0.5}

    batch = next(make(Items(get), seed=None).epoch(1))
    assert isinstance(batch["pair"], Pair)
    assert (batch["pair"].x.dtype, batch["pair"].x.shape) == (torch.float32, (4, 2))
    assert batch["pair"].y["label"].tolist() == [0, 1, 2, 3]
    assert batch["list"][0].dtype == torch.float32
    assert list(batch["list"][1]) == ["name"] * 4
    assert batch["number"].dtype == torch.float32


def test_the_datasets_own_tensors_are_never_handed_out() -> None:
    inputs = INPUTS.clone()
    for batch in make(TensorDataset(inputs, TARGETS), NUM, seed=None).epoch(1):
        batch[0].zero_()
    assert torch.equal(inputs, INPUTS)


def test_a_subclass_of_tensor_dataset_gives_its_own_items() -> None:
    class Doubled(TensorDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            return 2 * self.tensors[0][index], self.tensors[1][index]

    inputs, target = next(make(Doubled(INPUTS, TARGETS)).epoch(1))
    assert torch.equal(inputs, 2 * INPUTS[target.squeeze(1).long()])


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(4, 2),
        (torch.zeros(4, 2), torch.zeros(3)),
        [[torch.zeros(4)], torch.zeros(1)],
        {"a": {"b": (torch.zeros(4, 1),)}, "c": torch.zeros(2)},
        Pair(torch.zeros(4), None),
    ],
    ids=["tensor", "pair", "list", "dict", "named tuple"],
)
def test_examples_are_counted_by_the_first_tensor_however_it_is_nested(batch: Any) -> None:
    assert count_examples(batch) == 4
