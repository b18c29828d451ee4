"""Callbacks ``weighted-sampling`` and ``bucket-by-length``."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from hookline import ConfigError, DataError, DataSource, Run, load_config
from hookline_plugins.callbacks.sampling import BucketByLength, WeightedSampling

NUM = 30
INPUTS = torch.arange(NUM * 2, dtype=torch.float32).reshape(NUM, 2) / NUM
CLASSES = (torch.arange(NUM) >= 27).long()  # 27 of one class, 3 of the other


class Items(Dataset[Any]):
    """A map-style dataset."""

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return NUM

    def __getitem__(self, index: int) -> Any:
        return INPUTS[index], self.targets[index]


class Whole(Items):
    """A dataset that returns whole batches as well."""

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("a single item was read")

    def gather(self, indices: Tensor) -> Any:
        return INPUTS[indices], self.targets[indices]


class Sequences(Dataset[Any]):
    """Sequences of 1 to 13 steps."""

    def __len__(self) -> int:
        return NUM

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        random.random()
        return torch.full((1 + 7 * index % 13, 2), index / NUM), torch.tensor([float(index)])


class Measured(Sequences):
    """Sequences with known lengths."""

    def __init__(self) -> None:
        self.lengths = [1 + 7 * index % 13 for index in range(NUM)]

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("a single item was read")


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([])


class Pooled(nn.Module):
    """A linear layer over the mean of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 1)

    def forward(self, inputs: Tensor) -> Any:
        return self.line(nn.functional.dropout(inputs.mean(1), 0.5, self.training))


def pad(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*items, strict=True)
    return pad_sequence(list(inputs), batch_first=True), torch.stack(targets)


def run_of(callback: Any, data: DataSource | Dataset[Any] | None = None, **train: Any) -> Run:
    if not isinstance(data, DataSource):
        data = DataSource(data or TensorDataset(INPUTS, CLASSES), in_features=2, out_features=2)
    is_classes = data.out_features == 2
    config = {"train": {"batch_size": 4, "evaluate": [], **train}, "loss": "cross-entropy" if is_classes else "mse"}
    model = {} if is_classes else {"model": Pooled}
    return Run(load_config(config, plugins={"data": data, "callbacks.order": callback, **model}))


def sequences(dataset: Dataset[Any] | None = None) -> DataSource:
    return DataSource(dataset or Sequences(), in_features=2, out_features=1, collate=pad)


def bits(run: Run) -> list[Any]:
    return [weight.tolist() for weight in run.model.state_dict().values()]


@pytest.mark.parametrize(
    ("make", "data"), [(WeightedSampling, None), (BucketByLength, sequences())], ids=["weighted", "bucket"]
)
def test_the_order_depends_on_seed_and_epoch_alone_and_a_run_resumes_exactly(make: Any, data: Any) -> None:
    first = run_of(make(), data)
    assert first.batch_order(2).tolist() == run_of(make(), data).batch_order(2).tolist()
    others = [first.batch_order(1), first.batch_order(3), run_of(make(), data, seed=1).batch_order(2)]
    assert all(first.batch_order(2).tolist() != other.tolist() for other in others)
    for step in first.steps():
        if step.step == 10:
            state = first.state_dict()
            break
    whole, second = run_of(make(), data), run_of(make(), data)
    second.load_state_dict(state)
    whole.fit()
    second.fit()
    assert bits(second) == bits(whole)


# ---- weights ---------------------------------------------------------------------------------------------------------


def frequencies(run: Run, epochs: int = 40) -> Tensor:
    """Return the relative frequency of each example."""
    drawn = torch.cat([run.batch_order(epoch) for epoch in range(1, epochs + 1)])
    return drawn.bincount(minlength=NUM) / len(drawn)


@pytest.mark.parametrize(
    "data",
    [
        TensorDataset(INPUTS, CLASSES),
        Items(CLASSES),
        Whole(CLASSES),
        Items(CLASSES * 7 - 3),
    ],
    ids=["tensors", "items", "whole batches", "any numbers"],
)
def test_classes_are_drawn_equally_often(data: Dataset[Any]) -> None:
    order = WeightedSampling(num_samples=1000).build_order(run_of(WeightedSampling()), DataSource(data))
    drawn = torch.cat([order(epoch) for epoch in range(1, 5)])
    # Of 4,000 draws with probability 1/2 the share is within 4 standard deviations, 0.5 +- 0.032.
    assert abs(float((drawn >= 27).float().mean()) - 0.5) < 0.032
    assert set(drawn.tolist()) == set(range(NUM))


def test_two_classes_in_one_output_are_drawn_equally_often() -> None:
    zero_and_one = TensorDataset(INPUTS, CLASSES.float().unsqueeze(1))
    config = {"loss": "bce-with-logits", "train": {"evaluate": []}}
    plugins = {"data": DataSource(zero_and_one, in_features=2, out_features=1), "callbacks.order": WeightedSampling()}
    run = Run(load_config(config, plugins=plugins))
    drawn = torch.cat([run.batch_order(epoch) for epoch in range(1, 101)])
    assert abs(float((drawn >= 27).float().mean()) - 0.5) < 0.037  # 4 standard deviations of 3,000 draws


def test_an_example_whose_target_does_not_count_is_not_drawn() -> None:
    ignored = CLASSES.clone()
    ignored[5:10] = -100
    order = run_of(WeightedSampling(num_samples=1000), TensorDataset(INPUTS, ignored)).batch_order(1)
    assert not set(order.tolist()) & set(range(5, 10))
    assert abs(float((order >= 27).float().mean()) - 0.5) < 0.064


def test_examples_are_drawn_by_the_weights_of_a_file(tmp_path: Path) -> None:
    weights = np.zeros(NUM)
    weights[[3, 8]] = [1, 3]
    np.save(tmp_path / "weights.npy", weights)
    shares = frequencies(run_of(WeightedSampling(path=tmp_path / "weights.npy", num_samples=100)))
    assert float(shares[3] + shares[8]) == pytest.approx(1)
    # 4,000 draws with probability 3/4: 4 standard deviations are 0.027.
    assert float(shares[8]) == pytest.approx(0.75, abs=0.027)


def test_examples_are_drawn_by_a_feature() -> None:
    dataset = TensorDataset(torch.stack([torch.zeros(NUM), CLASSES.float()], 1), CLASSES)
    data = DataSource(dataset, in_features=2, out_features=2, feature_names=("x", "weight"))
    assert set(run_of(WeightedSampling(feature="weight"), data).batch_order(1).tolist()) == {27, 28, 29}
    with pytest.raises(DataError, match="there is no feature 'wait'") as caught:
        run_of(WeightedSampling(feature="wait"), data)
    assert caught.value.hint == "did you mean 'weight'?"


def test_an_epoch_has_the_requested_number_of_examples() -> None:
    assert run_of(WeightedSampling()).steps_per_epoch == 8
    run = run_of(WeightedSampling(num_samples=70))
    assert (run.steps_per_epoch, len(run.batch_order(1))) == (18, 70)
    assert max(Counter(run.batch_order(1).tolist()).values()) > 1
    assert run.fit().steps == 3 * 18


@pytest.mark.parametrize(
    ("weights", "faults"),
    [
        ([1.0] * 29, ["the weights have shape [29], expected [30], one per training example"]),
        (
            [1.0, -1.0, float("nan")],
            [
                "the weights have shape [3], expected [30], one per training example",
                "weight 1 is -1; 2 in all are not valid weights",
            ],
        ),
        ([0.0] * NUM, ["all weights are 0"]),
    ],
)
def test_invalid_weights_are_refused_with_all_faults(weights: Any, faults: list[str], tmp_path: Path) -> None:
    np.save(tmp_path / "weights.npy", weights)
    with pytest.raises(DataError) as caught:
        run_of(WeightedSampling(path=tmp_path / "weights.npy"))
    assert [fault.message for fault in caught.value.faults] == faults


def test_a_file_without_an_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    (tmp_path / "text.npy").write_text("1 2")
    for name in ("objects", "text", "absent"):
        with pytest.raises(DataError, match="cannot be read"):
            run_of(WeightedSampling(path=tmp_path / f"{name}.npy"))


def test_the_meaning_of_the_targets_is_declared_not_guessed() -> None:
    counts = TensorDataset(INPUTS, torch.arange(NUM) % 4)  # numbers, of an integer dtype
    sources = {task: DataSource(counts, in_features=2, out_features=1, task=task) for task in (None, "regression")}
    words = {None: "nothing declares that the targets are", "regression": "the targets are not classes"}
    for task, data in sources.items():
        plugins = {"data": data, "loss": lambda: lambda p, t: (p[:, 0] - t).square().mean()}
        with pytest.raises(DataError, match=f"weighted-sampling balances classes, but {words[task]}"):
            Run(load_config({}, plugins={**plugins, "callbacks.order": WeightedSampling}))
    with pytest.raises(DataError, match="the targets are not classes"):
        run_of(WeightedSampling(), DataSource(TensorDataset(INPUTS, INPUTS[:, :1]), in_features=2, out_features=1))


def test_weights_come_from_one_place() -> None:
    with pytest.raises(ConfigError, match="`path` and `feature` cannot both be given"):
        Run(load_config({"callbacks": {"weighted-sampling": {"path": "x.npy", "feature": "x"}}}))


# ---- lengths ---------------------------------------------------------------------------------------------------------


def padding(run: Run) -> int:
    """Return the number of padded steps in an epoch."""
    lengths = torch.tensor(Measured().lengths)
    return sum(int((batch.max() - batch).sum()) for batch in torch.split(lengths[run.batch_order(1)], 4))


@pytest.mark.parametrize("dataset", [Sequences(), Measured()], ids=["read", "known"])
def test_sequences_of_similar_length_share_a_batch(dataset: Dataset[Any]) -> None:
    order = BucketByLength().build_order(run_of(BucketByLength(), sequences()), DataSource(dataset))(1)
    assert sorted(order.tolist()) == list(range(NUM))
    batches = torch.split(torch.tensor(Measured().lengths)[order], 4)
    assert [len(batch) for batch in batches] == [4] * 7 + [2]
    # One pool, sorted by length as a whole, so full batches overlap only at their ends.
    ranges = sorted((int(batch.min()), int(batch.max())) for batch in batches[:-1])
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(ranges))
    assert [int(batch.min()) for batch in batches[:-1]] != [low for low, _ in ranges], "the batches are shuffled"


def test_there_is_less_padding_with_larger_pools_and_most_without_buckets() -> None:
    plain = Run(
        load_config({"train": {"batch_size": 4, "evaluate": []}}, plugins={"data": sequences(), "model": Pooled})
    )
    small, large = (run_of(BucketByLength(pool_batches=number), sequences()) for number in (2, 50))
    assert padding(large) < padding(small) < padding(plain)


def test_batches_differ_from_epoch_to_epoch() -> None:
    run = run_of(BucketByLength(pool_batches=2), sequences())
    epochs = [{frozenset(batch.tolist()) for batch in torch.split(run.batch_order(epoch), 4)} for epoch in (1, 2)]
    assert epochs[0] != epochs[1]


def test_one_batch_of_all_is_still_all() -> None:
    run = run_of(BucketByLength(), sequences(), batch_size="all")
    assert sorted(run.batch_order(1).tolist()) == list(range(NUM))
    assert run.fit().steps == 3


def test_equal_lengths_cause_a_warning() -> None:
    assert run_of(BucketByLength()).warnings == [
        "all training examples have length 2, so bucket-by-length has no effect"
    ]


class Mappings(Sequences):
    def __getitem__(self, index: int) -> Any:
        inputs, target = super().__getitem__(index)
        return {"tokens": inputs, "name": "x"}, target


def test_the_length_of_a_mapping_is_that_of_its_first_part() -> None:
    build = BucketByLength().build_order
    run = run_of(BucketByLength(), sequences())
    assert build(run, DataSource(Mappings()))(1).tolist() == build(run, DataSource(Sequences()))(1).tolist()


class Broken(Sequences):
    def __getitem__(self, index: int) -> Any:
        if index == 11:
            raise OSError("torn page")
        return super().__getitem__(index)


class Lying(Sequences):
    lengths = (1, 2)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (Broken(), "example 11 of the training data cannot be read: OSError: torn page"),
        (Lying(), "the lengths have shape [2], expected [30], one per training example"),
        (Stream(), "needs training data with a length, not a stream"),
    ],
)
def test_data_without_lengths_are_refused(dataset: Dataset[Any], words: str) -> None:
    with pytest.raises(DataError) as caught:
        run_of(BucketByLength(), sequences(dataset))
    assert words in str(caught.value)


def test_measuring_leaves_the_generators_of_the_program_alone() -> None:
    before: Mapping[str, Any] = {"random": random.getstate(), "torch": torch.get_rng_state().tolist()}
    run_of(BucketByLength(), sequences())
    assert {"random": random.getstate(), "torch": torch.get_rng_state().tolist()} == before
