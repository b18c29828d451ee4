"""``Batches``: the order depends on (seed, epoch) alone, and an epoch can start at any batch."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import random
import signal
import threading
import time
import traceback
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset, get_worker_info

from hookline import DataError, DataSource, Fault, Run, hookimpl, load_config
from hookline.engine.reading import batches
from hookline.engine.reading.batch import count_examples, placed
from hookline.engine.reading.batches import Batches
from hookline.engine.reading.workers import Workers
from hookline.trials.proof.inside import inside

NUM = 23
INPUTS = torch.arange(NUM * 3, dtype=torch.float32).reshape(NUM, 3).sin()
TARGETS = torch.arange(NUM, dtype=torch.float32).unsqueeze(1)
TENSORS = TensorDataset(INPUTS, TARGETS)


class Items(Dataset[Any]):
    """A map-style dataset that records the items read."""

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
    order = {name: more.pop(name) for name in ("name", "order") if name in more}
    seed = more.pop("seed", 0)
    workers = Workers(**{"dtype": torch.float32, "item_seed": seed or 0, **more})
    return Batches(dataset, batch_size, workers, seed=seed, **order)


def rows(stream: Iterable[Any]) -> list[list[float]]:
    """Return the number of the example in each row of each batch."""
    return [[int(number) for number in target] for _, target in stream]


def offsets(stream: Iterable[Any]) -> list[list[int]]:
    """Return the offset of each tensor of each batch in its cache line."""
    return [[tensor.data_ptr() % 64 for tensor in batch] for batch in stream]


# ---- order -----------------------------------------------------------------------------------------------------------


def test_the_order_is_the_same_for_the_same_seed_and_epoch(dataset: Dataset[Any]) -> None:
    assert rows(make(dataset).epoch(1)) == rows(make(dataset).epoch(1))


def test_the_order_differs_between_epochs_and_between_seeds(dataset: Dataset[Any]) -> None:
    orders = [rows(make(dataset, seed=seed).epoch(epoch)) for seed in (0, 1) for epoch in (1, 2)]
    assert all(one != other for one, other in itertools.combinations(orders, 2))


def test_each_epoch_has_every_example_once(dataset: Dataset[Any]) -> None:
    for epoch in (1, 2):
        assert sorted(itertools.chain(*rows(make(dataset).epoch(epoch)))) == list(range(NUM))


def test_inputs_and_targets_of_an_example_stay_together(dataset: Dataset[Any]) -> None:
    for inputs, target in make(dataset).epoch(1):
        assert torch.equal(inputs, INPUTS[target.squeeze(1).long()])


def test_without_a_seed_every_epoch_has_the_order_of_the_dataset(dataset: Dataset[Any]) -> None:
    unshuffled = make(dataset, seed=None)
    assert rows(unshuffled.epoch(1)) == rows(unshuffled.epoch(2))
    assert list(itertools.chain(*rows(unshuffled.epoch(1)))) == list(range(NUM))


def test_tensors_in_memory_and_a_map_style_dataset_give_equal_batches() -> None:
    for epoch in (1, 2):
        for in_memory, loaded in zip(make(TENSORS).epoch(epoch), make(Items()).epoch(epoch), strict=True):
            assert all(torch.equal(one, other) for one, other in zip(in_memory, loaded, strict=True))


def test_order_returns_the_indices_of_an_epoch() -> None:
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
def test_an_epoch_started_anywhere_has_the_same_bits_at_the_same_offsets_in_memory(
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


def test_a_stream_starts_in_the_middle_by_reading_what_comes_before() -> None:
    assert rows(make(Stream(), 2).epoch(1, start=1)) == [[2, 3], [4]]


class Once(IterableDataset[Any]):
    """A stream that can be read once."""

    def __init__(self) -> None:
        self.examples = iter(Stream())

    def __iter__(self) -> Iterator[Any]:
        return self.examples


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_first_batch_of_a_stream_is_looked_at_and_still_read(num_workers: int) -> None:
    batches = make(Once(), 2, num_workers=num_workers)
    assert rows(batches.first()) == [[0, 1]]
    assert rows(batches.first()) == [[0, 1]]
    assert rows(batches.epoch(1)) == [[0, 1], [2, 3], [4]]


def test_an_epoch_of_a_stream_without_a_batch_is_an_error() -> None:
    batches = make(Once(), 2, name="train split")
    list(batches.epoch(1))
    with pytest.raises(DataError) as caught:
        list(batches.epoch(2))
    message = "the train split yields no batch in epoch 2\n  = a stream must restart for each iteration"
    assert str(caught.value) == message


def test_a_stream_cannot_be_put_into_one_batch() -> None:
    with pytest.raises(DataError) as caught:
        make(Stream(), None)
    assert str(caught.value) == (
        "'all' is not a valid batch size for a stream of unknown length\n  = set train.batch_size"
    )


# ---- dtypes and shapes of batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floating_point_tensors_are_cast_and_integers_stay(dtype: torch.dtype) -> None:
    tensors = [INPUTS.double(), INPUTS.half(), torch.arange(NUM), torch.ones(NUM, dtype=torch.bool)]
    whole = TensorDataset(*tensors)
    for dataset in (whole, Items(whole.__getitem__)):
        batch = next(make(dataset, dtype=dtype).epoch(1))
        assert [tensor.dtype for tensor in batch] == [dtype, dtype, torch.int64, torch.bool]
    assert [tensor.dtype for tensor in whole.tensors] == [tensor.dtype for tensor in tensors]


def test_nested_parts_of_a_batch_are_cast_and_keep_their_types() -> None:
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


def test_a_subclass_of_tensor_dataset_is_read_item_by_item() -> None:
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


def test_mappings_of_other_types_are_moved_and_counted_and_keep_their_types() -> None:
    def collate(items: list[Any]) -> Any:
        return UserDict(x=torch.ones(len(items), 2, dtype=torch.float64), name="all")

    batch = next(make(Items(), collate=collate).epoch(1))
    assert isinstance(batch, UserDict)
    assert (batch["x"].dtype, batch["name"]) == (torch.float32, "all")
    assert count_examples(batch) == 4


class Graph:
    """An object that can move itself to another device."""

    def __init__(self, items: list[Any]) -> None:
        self.device: torch.device | None = None

    def to(self, device: torch.device) -> Graph:
        self.device = device
        return self


def test_an_object_that_can_move_itself_does() -> None:
    batch = next(make(Items(), collate=Graph).epoch(1))
    assert batch.device == torch.device("cpu")


# ---- collation -------------------------------------------------------------------------------------------------------


def pad(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Pad inputs of different lengths to the longest."""
    inputs, targets = zip(*items, strict=True)
    return pad_sequence(list(inputs), batch_first=True), torch.stack(targets)


def ragged(index: int) -> tuple[Tensor, Tensor]:
    return torch.full((1 + index % 3,), float(index)), torch.tensor([float(index)])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_is_made_by_the_collation_that_is_given(num_workers: int) -> None:
    stream = make(Items(ragged), 4, seed=None, collate=pad, num_workers=num_workers)
    shapes = [list(inputs.shape) for inputs, _ in stream.epoch(1)]
    assert shapes == [[4, 3], [4, 3], [4, 3], [4, 3], [4, 3], [3, 3]]
    assert list(itertools.chain(*rows(stream.epoch(1)))) == list(range(NUM))


def test_tensors_in_memory_go_through_a_collation_that_is_given_too() -> None:
    stream = make(TENSORS, seed=None, collate=lambda items: {"targets": torch.cat([target for _, target in items])})
    assert next(stream.epoch(1))["targets"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_dataset_that_returns_too_few_items_is_refused(num_workers: int) -> None:
    with pytest.raises(DataError) as caught:
        list(make(Forgets(ragged), 3, seed=None, num_workers=num_workers, name="train split").epoch(1))
    assert "examples 0, 1, 2 of the train split cannot be read as a batch" in str(caught.value)
    assert "__getitems__ returned 2 items for 3 indices" in str(caught.value)


def test_complex_tensors_of_a_batch_keep_their_imaginary_part() -> None:
    for dtype, wide in ((torch.float32, torch.complex64), (torch.float64, torch.complex128)):
        batch = placed({"z": torch.tensor([1 + 2j]), "n": torch.tensor([1])}, torch.device("cpu"), dtype)
        assert batch["z"].dtype == wide
        assert batch["z"].item() == 1 + 2j
        assert batch["n"].dtype == torch.int64


@pytest.mark.parametrize("num_workers", [0, 2])
def test_items_that_make_no_batch_are_named(num_workers: int) -> None:
    with pytest.raises(DataError) as caught:
        list(make(Items(ragged), 3, seed=None, num_workers=num_workers, name="train split").epoch(1))
    where = " (worker 0)" if num_workers else ""
    words = f"examples 0, 1, 2 of the train split cannot be read as a batch{where}: RuntimeError: stack expects"
    assert str(caught.value).startswith(words)


class Forgets(Items):
    """Returns too few items."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices[1:]]


# ---- whole batches ---------------------------------------------------------------------------------------------------


class Whole(Items):
    """Returns whole batches, with noise."""

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        self.read += indices.tolist()
        return INPUTS[indices] + torch.rand(1), TARGETS[indices]


class Fetched(Items):
    """Reads several items at once with torch's ``__getitems__``, with noise."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        noise = torch.rand(1)
        return [(INPUTS[index] + noise, TARGETS[index]) for index in indices]


@pytest.mark.parametrize("kind", [Whole, Fetched])
def test_a_dataset_that_reads_whole_batches_is_read_in_whole_batches(kind: type[Items]) -> None:
    def never(index: int) -> Any:
        raise AssertionError("an item was asked for")

    assert rows(make(kind(never)).epoch(1)) == rows(make(TENSORS).epoch(1))


@pytest.mark.parametrize("kind", [Whole, Fetched])
def test_numbers_drawn_for_a_whole_batch_depend_on_seed_epoch_and_its_number(kind: type[Items]) -> None:
    def inputs(num_workers: int = 0, start: int = 0, epoch: int = 1, **more: Any) -> list[list[float]]:
        stream = make(kind(), num_workers=num_workers, **more).epoch(epoch, start)
        return [batch[0].flatten().tolist() for batch in stream]

    expected = inputs()
    assert inputs(num_workers=2) == expected
    assert inputs(start=3) == expected[3:]
    noise = [[row[0] for row in inputs(seed=None, epoch=epoch)] for epoch in (1, 2)]
    assert len(set(itertools.chain(*noise))) == 2 * 6


def test_only_the_examples_of_requested_batches_are_gathered() -> None:
    whole = Whole()
    stream = make(whole)
    next(stream.epoch(1))  # it draws, so the first batch is read again
    whole.read.clear()
    list(stream.epoch(1, start=4))
    assert whole.read == stream.order(1)[16:].tolist()


def test_a_part_of_a_dataset_is_read_item_by_item_unless_the_dataset_is_not() -> None:
    for dataset, is_by_item in ((Items(noisy), True), (Fetched(), False)):
        part = Subset(dataset, [5, 9, 3])
        singly, together = (
            torch.cat([batch[0] for batch in make(part, size, seed=None).epoch(1)]).tolist() for size in (1, 3)
        )
        assert (singly == together) == is_by_item


# ---- what is drawn for an example ------------------------------------------------------------------------------------


def noisy(index: int) -> tuple[Tensor, Tensor]:
    """Draw from each of the three global generators."""
    noise = torch.stack([torch.rand(()), torch.tensor(random.random()), torch.tensor(np.random.rand())])
    return INPUTS[index] + noise.float(), TARGETS[index]


def noises(stream: Iterable[Any]) -> dict[int, list[float]]:
    """Return the numbers drawn for each example."""
    return {
        int(row.item()): drawn.tolist()
        for inputs, target in stream
        for row, drawn in zip(target, inputs - INPUTS[target.squeeze(1).long()], strict=True)
    }


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_order_and_examples_do_not_depend_on_who_reads_them(num_workers: int) -> None:
    read = list(make(Items(noisy), num_workers=num_workers).epoch(2))
    expected = list(make(Items(noisy)).epoch(2))
    assert rows(read) == rows(make(TENSORS).epoch(2))
    for batch, other in zip(read, expected, strict=True):
        assert torch.equal(batch[0], other[0])


def test_numbers_drawn_for_an_example_depend_on_seed_epoch_and_index_alone() -> None:
    drawn = noises(make(Items(noisy)).epoch(1))
    assert noises(make(Items(noisy), 7, item_seed=0, seed=None).epoch(1)) == drawn
    assert noises(make(Items(noisy)).epoch(1, start=3)).items() <= drawn.items()
    # Each of the three generators returns a different number for each example, epoch and seed.
    others = [noises(make(Items(noisy), seed=seed).epoch(epoch)) for seed, epoch in ((0, 2), (1, 1))]
    for number in range(3):
        values = {round(noise[number], 5) for each in (drawn, *others) for noise in each.values()}
        assert len(values) > 3 * NUM - 3


def test_an_example_that_an_epoch_has_twice_is_drawn_anew() -> None:
    order = torch.tensor([4, 2, 4, 4])
    (batch,) = make(Items(noisy), 4, order=lambda epoch: order).epoch(1)
    noise = batch[0] - INPUTS[order]
    assert len({round(value, 5) for value in noise[:, 0].tolist()}) == 4
    (again,) = make(Items(noisy), 4, order=lambda epoch: order.flip(0)).epoch(1)
    assert sorted(batch[0][:, 0].tolist()) == sorted(again[0][:, 0].tolist())


def global_states() -> list[Any]:
    name, keys, *rest = np.random.get_state()
    return [torch.get_rng_state().tolist(), random.getstate(), (name, np.asarray(keys).tolist(), *rest)]


class NoisyStream(Stream):
    """Draws from each global generator; each worker reads its share."""

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return (noisy(index) for index in range(first, 6, step))


READ: dict[str, Callable[[], Dataset[Any]]] = {
    "items": lambda: Items(noisy),
    "whole batches": Whole,
    "stream": NoisyStream,
}


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_reading_leaves_the_global_generators_alone_and_does_not_depend_on_them(kind: str, num_workers: int) -> None:
    def read() -> list[list[float]]:
        return [batch[0].flatten().tolist() for batch in make(READ[kind](), 2, num_workers=num_workers).epoch(1)]

    before = global_states()
    expected = read()
    assert global_states() == before
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)
        assert read() == expected


DRAWS: dict[str, Callable[[], object]] = {
    "torch": lambda: torch.rand(()),
    "python": random.random,
    "numpy": np.random.rand,
    "numpy, a stored normal number": np.random.normal,
}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("num_before", [0, 1])
def test_a_dataset_that_seldom_draws_is_as_exact_as_one_that_always_does(draw: str, num_before: int) -> None:
    def seldom(index: int) -> tuple[Tensor, Tensor]:
        number = DRAWS[draw]() if index in (5, 11) else 0.0
        return INPUTS[index] + torch.as_tensor(number).float(), TARGETS[index]

    def always(index: int) -> tuple[Tensor, Tensor]:
        drawn, (_, target) = seldom(index), noisy(index)
        return drawn[0], target

    with torch.random.fork_rng(devices=[]):
        np.random.normal(size=num_before)  # one number leaves another behind, which is stored
        before = global_states()
        read = [list(make(Items(get)).epoch(1)) for get in (seldom, always)]
        assert global_states() == before
    for batch, other in zip(*read, strict=True):
        assert torch.equal(batch[0], other[0])
    assert noises(read[0])[5] != noises(read[0])[11]


def test_the_batch_of_the_first_example_that_draws_is_read_again_and_no_other() -> None:
    items = Items(lambda index: noisy(index) if index == 11 else TENSORS[index])
    stream = make(items, 4, seed=None)
    list(stream.epoch(1))
    assert items.read == [*range(12), *range(8, NUM)]
    items.read.clear()
    list(stream.epoch(2))
    assert items.read == list(range(NUM))


def test_numbers_drawn_by_the_program_between_two_batches_change_no_later_batch() -> None:
    undisturbed = [batch[0].tolist() for batch in make(NoisyStream(), 2).epoch(1)]
    disturbed = []
    for batch in make(NoisyStream(), 2).epoch(1):
        disturbed.append(batch[0].tolist())
        random.random()
    assert disturbed == undisturbed
    assert len({tuple(row) for inputs in undisturbed for row in inputs}) == 6


# ---- an order of one's own -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", [TENSORS, Items(), Whole()], ids=["tensors", "items", "whole batches"])
def test_an_order_that_is_given_is_kept_to(dataset: Dataset[Any]) -> None:
    stream = make(dataset, 3, order=lambda epoch: torch.tensor([7, 7, 0, 22, epoch]))
    assert (stream.num_examples, stream.num_batches) == (5, 2)
    assert rows(stream.epoch(2)) == [[7, 7, 0], [22, 2]]
    assert rows(stream.epoch(2, start=1)) == [[22, 2]]
    assert stream.indices(2, 1) == [22, 2]


def test_all_is_all_of_the_order_also_when_that_is_longer_than_the_dataset() -> None:
    (batch,) = make(TENSORS, None, order=lambda epoch: torch.arange(NUM).repeat(2)).epoch(1)
    assert len(batch[0]) == 2 * NUM


def test_an_order_that_changes_its_length_is_a_fault() -> None:
    stream = make(TENSORS, name="train split", order=lambda epoch: torch.arange(4 - epoch))
    with pytest.raises(DataError, match="the order of the train split has 2 indices in epoch 2, but 3 in the first"):
        list(stream.epoch(2))


def test_a_stream_takes_no_order() -> None:
    with pytest.raises(DataError, match="the train split is a stream, whose order cannot be changed"):
        make(Stream(), name="train split", order=lambda epoch: torch.arange(4))


@pytest.mark.parametrize("size", [4, 5, 6, 23])
def test_the_indices_of_each_batch_are_known(size: int) -> None:
    stream = make(TENSORS, size)
    assert [stream.indices(1, number) for number in range(stream.num_batches or 0)] == rows(stream.epoch(1))


# ---- workers ---------------------------------------------------------------------------------------------------------


def test_a_stream_that_several_workers_would_read_whole_is_refused_before_its_first_batch() -> None:
    with pytest.raises(DataError) as caught:
        next(make(Stream(), 2, num_workers=2, name="train split").epoch(1))
    assert str(caught.value) == (
        "the examples of the train split cannot be read (worker 0): 2 workers would yield each of them several times, "
        "because the stream does not share them out\n"
        "  = give it a method shard(worker, num_workers), share them out in __iter__, or set train.num_workers = 1"
    )
    assert rows(make(Stream(), 2, num_workers=1).epoch(1)) == [[0, 1], [2, 3], [4]]


def test_a_stream_shared_between_workers_is_read_once() -> None:
    read = [row for batch in rows(make(NoisyStream(), 2, num_workers=2).epoch(1)) for row in batch]
    assert sorted(read) == list(range(6))


def failing(index: int) -> Any:
    if index == 13:
        raise ValueError("torn page")
    return TENSORS[index]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_item_that_cannot_be_read_is_named_by_its_index(num_workers: int) -> None:
    stream = make(Items(failing), num_workers=num_workers, seed=None, name="train split").epoch(1)
    assert len(list(itertools.islice(stream, 3))) == 3
    with pytest.raises(DataError) as caught:
        next(stream)
    where = " (worker 1)" if num_workers else ""
    assert str(caught.value) == f"example 13 of the train split cannot be read{where}: ValueError: torn page"
    assert "torn page" in "".join(traceback.format_exception(caught.value.__cause__))


def test_the_message_and_hint_of_an_error_of_a_dataset_are_shown() -> None:
    def get(index: int) -> Any:
        raise DataError("the file is torn", hint="copy it again", faults=[Fault("page 3 is missing")])

    with pytest.raises(DataError) as caught:
        list(make(Items(get), seed=None, num_workers=1, name="train split").epoch(1))
    assert str(caught.value).split("\n") == [
        "example 0 of the train split cannot be read (worker 0): the file is torn",
        "",
        "page 3 is missing",
        "  = copy it again",
    ]


class TornStream(Stream):
    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        raise ValueError("torn tape")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_stream_that_fails_is_an_error_with_the_place(num_workers: int) -> None:
    where = r" \(worker 0\)" if num_workers else ""
    with pytest.raises(DataError, match=f"the rest after 5 examples of the dataset cannot be read{where}: ValueErr"):
        list(make(TornStream(), 2, num_workers=num_workers).epoch(1))


def test_a_length_that_is_too_long_is_a_fault_at_the_first_missing_index() -> None:
    with pytest.raises(DataError, match=f"example {NUM} of the dataset cannot be read: IndexError"):
        list(make(Items(length=NUM + 2), seed=None).epoch(1))


def children() -> set[int]:
    return {child.pid for child in multiprocessing.active_children() if child.pid}


def ends(index: int) -> Any:
    if index == 5:
        time.sleep(0.5)  # the other worker's batch has arrived: torch may raise while it receives one
        os._exit(3)
    return TENSORS[index]


def is_killed(index: int) -> Any:
    if index == 5:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    return TENSORS[index]


@pytest.mark.parametrize("get", [ends, is_killed])
def test_a_worker_that_dies_is_a_fault_of_the_data_and_leaves_no_process(get: Callable[[int], Any]) -> None:
    with pytest.raises(DataError, match=r"a process that reads examples died: DataLoader worker \(pid"):
        list(make(Items(get), seed=None, num_workers=2).epoch(1))
    assert not children()


def test_a_worker_that_dies_while_a_batch_is_taken_to_the_device_is_a_fault_of_the_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hookline.engine.reading.batches.placed", taken_slowly)
    with pytest.raises(DataError, match=r"a process that reads examples died: DataLoader worker \(pid"):
        list(make(Items(dies_later), seed=None, num_workers=1).epoch(1))
    assert not children()


def taken_slowly(batch: Any, **_device: Any) -> Any:
    time.sleep(2)
    return batch


def hangs(index: int) -> Any:
    if index == 5:
        time.sleep(60)
    return TENSORS[index]


def test_a_worker_that_hangs_is_an_error_that_names_its_examples_and_leaves_no_process() -> None:
    stream = make(Items(hangs), seed=None, num_workers=2, timeout_s=2, name="train split")
    with pytest.raises(DataError) as caught:
        list(stream.epoch(1))
    words = "waited 2 s (train.worker_timeout_s) for examples 4, 5, 6, 7 of the train split from worker 1"
    assert str(caught.value).startswith(words)
    until = time.monotonic() + 10  # torch 2.10 terminates a worker that hangs without waiting for it
    while children() and time.monotonic() < until:
        time.sleep(0.1)
    assert not children()


def test_workers_live_across_epochs_until_they_are_stopped() -> None:
    workers = Workers(torch.float32, num_workers=2)
    train, other = (Batches(Items(noisy), 4, workers, seed=seed) for seed in (0, None))
    expected = {epoch: list(make(Items(noisy)).epoch(epoch)) for epoch in (1, 2, 3)}
    seen = set()
    for epoch in (1, 2, 3):
        for batch, same in zip(train.epoch(epoch), expected[epoch], strict=True):
            assert torch.equal(batch[0], same[0])
        seen |= children()
        assert rows(other.epoch(1)) == rows(make(TENSORS, seed=None).epoch(1))
    assert seen == children()
    assert len(seen) == 2
    workers.stop()
    assert not children()
    assert len(list(train.epoch(4))) == 6  # others start
    del train, other, workers
    assert not children()


def test_an_epoch_that_is_read_within_another_has_workers_of_its_own() -> None:
    workers = Workers(torch.float32, num_workers=1)
    outer, inner = (Batches(Items(), 4, workers, seed=None) for _ in range(2))
    for _, batch in zip(range(2), outer.epoch(1), strict=False):
        assert rows([*inner.epoch(1)]) == rows(make(TENSORS, seed=None).epoch(1))
        assert len(batch[0]) == 4
    assert len(children()) == 2
    assert rows(outer.epoch(1)) == rows(inner.epoch(1))
    workers.stop()
    assert not children()


def test_an_epoch_that_is_left_does_not_disturb_the_next() -> None:
    batches = make(Items(), num_workers=2)
    left = batches.epoch(1)
    next(left)
    before = children()
    cast(Any, left).close()
    assert rows(batches.epoch(2)) == rows(make(TENSORS).epoch(2))
    assert children() == before


def test_a_proof_looks_into_the_readers_without_reading() -> None:
    items = Items()
    batches = make(items)
    left = batches.epoch(1)
    next(left)
    cast(Any, left).close()
    assert inside(batches)
    assert len(items.read) == 4


OPEN = Path("/proc/self/fd")


def open_files() -> int:
    return sum(1 for _ in OPEN.iterdir())


@pytest.mark.skipif(not OPEN.is_dir(), reason="counts the open files of the process as Linux shows them")
def test_many_epochs_leave_nothing_behind_in_this_process() -> None:
    batches = make(Items(), num_workers=1)
    list(batches.epoch(1))
    gc.collect()  # what earlier tests left
    before = open_files(), threading.active_count()
    for epoch in range(2, 22):
        list(batches.epoch(epoch))
    assert (open_files(), threading.active_count()) == before


# ---- real runs -------------------------------------------------------------------------------------------------------


class Noisy(Dataset[Any]):
    """Examples with noise from each global generator."""

    def __len__(self) -> int:
        return NUM

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return noisy(index)


def noisy_run(num_workers: int, **more: Any) -> Run:
    data = DataSource(Noisy(), Noisy(), in_features=3, out_features=1)
    config = {
        "train": {"epochs": 2, "batch_size": 4, "num_workers": num_workers, "evaluate": ["validation"], **more},
        "model": {"use": "mlp", "hidden": [4], "dropout": 0.5},
        "optimizer": "adam",
    }
    return Run(load_config(config, plugins={"data": data}))


def bits(run: Run) -> tuple[list[list[float]], list[dict[str, float]]]:
    return [weight.flatten().tolist() for weight in run.model.state_dict().values()], list(map(dict, run.history))


def test_a_run_ends_with_the_same_bits_for_any_number_of_workers_and_any_place_of_resuming() -> None:
    before = global_states()
    whole = noisy_run(0)
    whole.fit()
    for first_workers, second_workers in ((0, 2), (2, 0)):
        first = noisy_run(first_workers)
        for step in first.steps():
            if step.step == 8:
                state = first.state_dict()
                break
        second = noisy_run(second_workers)
        second.load_state_dict(state)
        second.fit()
        assert bits(second) == bits(whole)
    assert global_states() == before


def test_the_seed_of_a_run_determines_drawn_numbers_even_without_shuffling() -> None:
    first = [next(iter(noisy_run(0, shuffle=False, seed=seed)._loop.parts.batches.epoch(1)))[0] for seed in (0, 1)]
    assert not torch.equal(*first)


def failing_run(get: Callable[[int], Any], *callbacks: object, num_workers: int = 2) -> Run:
    data = DataSource(Items(get), in_features=3, out_features=1)
    settings = {"epochs": 1, "batch_size": 4, "num_workers": num_workers, "shuffle": False, "evaluate": []}
    plugins = {f"callbacks.{number}": callback for number, callback in enumerate(callbacks)}
    return Run(load_config({"train": settings}, plugins={"data": data, **plugins}))


class Slow:
    """Takes slow steps, so that a worker dies during one."""

    @hookimpl
    def on_step_end(self) -> None:
        time.sleep(2)


def test_a_worker_that_dies_while_the_run_is_in_a_step_is_a_fault_of_the_data() -> None:
    run = failing_run(dies_later, Slow(), num_workers=1)
    with pytest.raises(DataError, match="a process that reads examples died") as caught:
        run.fit()
    assert (run.outcome, caught.value.exit_code) == ("failed", 4)
    assert not children()


class FailingStep:
    """Fails in the first step, after a delay."""

    def __init__(self, after_s: float = 0.0) -> None:
        self._after_s = after_s

    @hookimpl
    def on_step_end(self) -> None:
        time.sleep(self._after_s)
        raise KeyError("step")


def test_a_worker_that_dies_while_it_is_stopped_does_not_hide_the_original_error() -> None:
    # By then both workers are reading an example, and the run waits for the first when the second dies.
    run = failing_run(dies_beside_another, FailingStep(after_s=0.2))
    with pytest.raises(KeyError, match="step"):
        run.fit()
    assert run.outcome == "failed"
    assert not children()


def dies_beside_another(index: int) -> Any:
    if index == 9:
        time.sleep(1)
    if index == 13:
        time.sleep(0.5)
        os._exit(3)
    return TENSORS[index]


def dies_later(index: int) -> Any:
    if index == 9:
        time.sleep(0.5)
        os._exit(3)
    return TENSORS[index]


def test_a_run_that_fails_names_plugin_and_index_and_leaves_no_process() -> None:
    run = failing_run(failing)
    with pytest.raises(DataError) as caught:
        run.fit()
    words = "example 13 of the train split of data 'DataSource' (given from Python) cannot be read (worker 1): Value"
    assert str(caught.value).startswith(words)
    assert (run.step, run.outcome, caught.value.exit_code) == (3, "failed", 4)
    assert not children()


class FailsInEvaluation(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        if len(inputs) == 3 and not self.training:
            raise KeyError("evaluation")
        return super().forward(inputs)


@pytest.mark.parametrize("where", ["step", "evaluation"])
def test_a_run_that_fails_elsewhere_leaves_no_process_either(where: str) -> None:
    data = DataSource(Items(), in_features=3, out_features=1)
    plugins = {"callbacks.fails": FailingStep()} if where == "step" else {"model": FailsInEvaluation(3, 1)}
    settings = {"epochs": 1, "batch_size": 4, "eval_batch_size": 4, "num_workers": 2}
    run = Run(load_config({"train": settings}, plugins={"data": data, **plugins}))
    with pytest.raises(KeyError, match=where) as caught:
        run.fit()
    assert not children()
    assert caught.value.__traceback__ is not None  # the frames of the error are still referenced
