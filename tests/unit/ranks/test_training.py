"""Training by several ranks: the bits of one process that takes the parts of each batch one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from hookline import DataSource, hookimpl
from hookline.engine import Ranks
from rank_runs import Items, Named, Stream, StreamWithState, by_hand, data_of, run_of, same, source, trained, weights
from several import in_ranks

SGD, ADAMW = {"use": "sgd", "lr": 0.1}, {"use": "adamw", "lr": 0.01}


class OfNames(nn.Module):
    """A model whose input has a name."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class Reversed:
    """An order of the examples: from the last to the first, from epoch 2 on in steps of two."""

    @hookimpl
    def build_order(self, data: DataSource) -> Any:
        indices = torch.arange(len(data.train)).flip(0)  # type: ignore[arg-type]
        return lambda epoch: indices[:: min(epoch, 1)]


def classes(target: Tensor) -> Tensor:
    return torch.tensor([1.0, 5.0, 0.25])[target].sum()


CASES: dict[str, dict[str, Any]] = {
    **{
        f"{dtype}, {optimizer['use']}, {num} examples": {
            "train": {"dtype": dtype},
            "optimizer": optimizer,
            "num": num,
        }
        for dtype in ("float32", "float64")
        for optimizer in (SGD, ADAMW)
        for num in (40, 41, 47)
    },
    "without the last batch": {"num": 47, "train": {"drop_last": True}},
    "batches of one example": {"num": 3, "train": {"batch_size": 1}},
    "all examples at once": {"num": 9, "train": {"batch_size": "all"}},
    "an order of a plugin": {"callbacks": {"order": {}}, "plugins": {"callbacks.order": Reversed()}},
    "weighted sampling": {"num_classes": 3, "callbacks": {"weighted-sampling": {}}},
    "single examples": {"plugins": {"data": source(Items)}},
    "momentum and clipping": {
        "optimizer": {"use": "sgd", "lr": 0.1, "momentum": 0.9},
        "callbacks": {"clip-gradients": {"max_norm": 1e6}},
    },
}


def test_two_ranks_end_with_the_bits_of_one_process_that_takes_their_parts_in_turn() -> None:
    def of_all(ranks: Ranks) -> Any:
        return {name: trained(ranks, **options) for name, options in CASES.items()}

    first, second = in_ranks(2, of_all)
    assert "error" not in first, first
    for name, options in CASES.items():
        assert same(first[name], second[name]), name
        assert same(first[name], by_hand(run_of(None, **options), 2)), name


def test_a_loss_with_weights_counts_each_example_as_one_process_does() -> None:
    options: dict[str, Any] = {"num_classes": 3, "loss": {"use": "cross-entropy", "weight": [1.0, 5.0, 0.25]}}
    first, second = in_ranks(2, lambda ranks: trained(ranks, **options))
    assert same(first, second)
    assert same(first, by_hand(run_of(None, **options), 2, classes))


@pytest.mark.parametrize("weighted", [False, True], ids=["examples", "weights"])
def test_micro_batches_send_the_gradients_once_a_step(weighted: bool) -> None:
    loss: dict[str, Any] = {"use": "cross-entropy", "weight": [1.0, 5.0, 0.25]} if weighted else {"use": "mse"}
    options: dict[str, Any] = {"num_classes": 3 if weighted else 0, "loss": loss, "train": {"micro_batch_size": 2}}

    def counted(ranks: Ranks) -> Any:
        sent = []

        def counting(_: None, bucket: Any) -> Any:
            sent.append(bucket.buffer().numel())
            work: Any = dist.all_reduce(bucket.buffer().div_(2), async_op=True)  # as torch does it
            return work.get_future().then(lambda future: future.value()[0])

        counting.__annotations__.clear()  # torch checks them, but not as text
        run = run_of(ranks, **options)
        num_weights = sum(parameter.numel() for parameter in run.model.parameters())
        model: Any = run.model
        model.register_comm_hook(None, counting)
        run.fit()
        return weights(run), sent.count(num_weights), run.step

    (first, num_sent, num_steps), (second, _, _) = in_ranks(2, counted)
    assert num_sent == num_steps == 10
    assert same(first, second)
    weigh = classes if weighted else len
    assert same(first, by_hand(run_of(None, **options), 2, weigh, micro_batch_size=2))


def test_workers_read_the_parts_of_the_ranks() -> None:
    options: dict[str, Any] = {"train": {"num_workers": 1, "epochs": 1}, "plugins": {"data": source(Items)}}
    first, second = in_ranks(2, lambda ranks: trained(ranks, **options))
    assert same(first, second)
    assert same(first, by_hand(run_of(None, train={"epochs": 1}, plugins={"data": source(Items)}), 2))


@pytest.mark.parametrize("kind", [Stream, StreamWithState])
def test_a_stream_is_cut_into_the_parts_of_the_ranks(kind: type[Any]) -> None:
    options: dict[str, Any] = {"plugins": {"data": source(kind)}}
    first, second = in_ranks(2, lambda ranks: trained(ranks, **options))
    assert same(first, second)
    assert same(first, by_hand(run_of(None, train={"shuffle": False}), 2))


def test_batches_that_are_mappings_are_cut_as_well() -> None:
    options: dict[str, Any] = {
        "model": "named",
        "plugins": {"model": OfNames, "data": source(Named)},
        "train": {"epochs": 1},
    }
    first, second = in_ranks(2, lambda ranks: trained(ranks, **options))
    assert same(first, second)
    plain = {**options, "plugins": {"model": OfNames, "data": source(Items)}}
    assert same(first, by_hand(run_of(None, **plain), 2))


def test_three_ranks_differ_from_one_process_by_rounding_alone() -> None:
    """The gradients are sums in another order: a few units in the last place of values around 1, after 10 steps."""
    for dtype, ulp in (("float32", 2.0**-23), ("float64", 2.0**-52)):
        options: dict[str, Any] = {"train": {"dtype": dtype}, "optimizer": SGD}
        ranks = in_ranks(3, lambda ranks, options=options: trained(ranks, **options))  # type: ignore[misc]
        alone = trained(None, **options)
        assert same(ranks[0], ranks[1])
        assert same(ranks[0], ranks[2])
        assert max(float((ranks[0][name] - alone[name]).abs().max()) for name in alone) <= 8 * ulp


def test_a_batch_smaller_than_the_number_of_ranks_counts_each_example_once() -> None:
    options: dict[str, Any] = {"num": 11, "train": {"batch_size": 10}}  # the last batch has one example
    ranks = in_ranks(3, lambda ranks: trained(ranks, **options))
    assert all(same(ranks[0], other) for other in ranks)
    alone = trained(None, **options)
    assert max(float((ranks[0][name] - alone[name]).abs().max()) for name in alone) <= 8 * 2.0**-23


def test_the_data_of_the_cases_are_those_of_the_runs() -> None:
    assert [len(tensor) for tensor in data_of(run_of(None, num=41))] == [41, 41]
