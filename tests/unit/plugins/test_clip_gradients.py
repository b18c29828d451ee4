"""Callback ``clip-gradients``: the same bits as a hand-written loop, and errors that are left to the run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import TensorDataset

from hookline import ConfigError, ContractError, NonFiniteError, Run, load_config, train

CONFIG = {"train": {"epochs": 2, "batch_size": 10}, "data": {"num_examples": 40}, "optimizer": {"lr": 0.1}}
Parameters = Iterable[nn.Parameter]


def clipping(**options: Any) -> dict[str, Any]:
    return {**CONFIG, "callbacks": {"clip-gradients": options}}


def by_hand(clip: Callable[[list[nn.Parameter]], object], part: int = 10) -> list[Tensor]:
    """Return the weights after the loop in plain PyTorch, with ``part`` examples in the model at once."""
    run = Run(load_config(CONFIG))
    dataset = run.data.train
    assert isinstance(dataset, TensorDataset)
    model = nn.Linear(2, 1)
    model.load_state_dict(run.model.state_dict())
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for epoch in (1, 2):
        inputs, targets = (tensor[run.batch_order(epoch)] for tensor in dataset.tensors)
        for first in range(0, 40, 10):
            optimizer.zero_grad()
            for start, stop in itertools.pairwise([*range(first, first + 10, part), first + 10]):
                loss = nn.functional.mse_loss(model(inputs[start:stop]), targets[start:stop])
                (loss * ((stop - start) / 10)).backward()
            clip(parameters)
            optimizer.step()
    return [parameter.detach() for parameter in parameters]


def weights_of(run: Run) -> list[Tensor]:
    return [parameter.detach() for parameter in run.fit().model.parameters()]


@pytest.mark.parametrize(
    ("options", "clip"),
    [
        ({"max_norm": 0.5}, lambda parameters: clip_grad_norm_(parameters, 0.5)),
        ({"max_norm": 0.5, "norm_type": 1.0}, lambda parameters: clip_grad_norm_(parameters, 0.5, 1.0)),
        ({"max_norm": 0.5, "norm_type": "inf"}, lambda parameters: clip_grad_norm_(parameters, 0.5, float("inf"))),
        ({"max_value": 0.1}, lambda parameters: clip_grad_value_(parameters, 0.1)),
    ],
    ids=["norm", "norm 1", "norm inf", "value"],
)
@pytest.mark.parametrize("part", [10, 3])
def test_the_weights_are_bit_identical_to_those_of_a_hand_written_loop(
    options: dict[str, Any], clip: Callable[[list[nn.Parameter]], object], part: int
) -> None:
    run = Run(load_config(clipping(**options), {"train.micro_batch_size": part}))
    expected = by_hand(clip, part)
    assert not torch.equal(expected[0], by_hand(lambda parameters: None, part)[0])
    assert all(map(torch.equal, weights_of(run), expected))


def test_clipping_twice_clips_by_the_value_and_then_by_the_norm_when_the_norm_is_listed_first() -> None:
    def both(parameters: list[nn.Parameter]) -> None:
        clip_grad_value_(parameters, 0.2)
        clip_grad_norm_(parameters, 0.1)

    callbacks = {
        "norm": {"use": "clip-gradients", "max_norm": 0.1},
        "value": {"use": "clip-gradients", "max_value": 0.2},
    }
    run = Run(load_config({**CONFIG, "callbacks": callbacks}))
    assert all(map(torch.equal, weights_of(run), by_hand(both)))


def test_a_bound_that_no_gradient_reaches_changes_no_bit() -> None:
    assert all(
        map(torch.equal, weights_of(Run(load_config(clipping(max_norm=1e6)))), weights_of(Run(load_config(CONFIG))))
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "exactly one of max_norm and max_value must be given, but neither is"),
        ({"max_norm": 1.0, "max_value": 1.0}, "but both are"),
        ({"max_value": 1.0, "norm_type": 1.0}, "norm_type applies to max_norm"),
        ({"max_norm": 0.0}, "expected a number > 0"),
    ],
)
def test_conflicting_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Run(load_config(clipping(**options)))


class InfiniteGradient(torch.autograd.Function):
    """The identity, with an infinite gradient."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.full_like(gradients[0], torch.inf)


class Explodes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Linear(2, 2)
        self.infinite = nn.Linear(2, 1, bias=False)

    def forward(self, inputs: Tensor) -> Any:
        return self.infinite(self.fine(inputs)) + InfiniteGradient.apply(self.infinite.weight.sum())  # type: ignore[no-untyped-call] # torch leaves it so


@pytest.mark.parametrize("options", [{"max_norm": 1.0}, {"max_value": 1.0}], ids=str)
def test_an_infinite_gradient_is_named_and_not_clipped(options: dict[str, Any]) -> None:
    run = Run(load_config(clipping(**options), plugins={"model": Explodes()}))
    before = [weight.clone() for weight in run.model.state_dict().values()]
    with pytest.raises(NonFiniteError, match=r"the gradient of 'infinite\.weight' is not finite in step 1"):
        run.fit()
    assert all(map(torch.equal, run.model.state_dict().values(), before))


def test_an_update_with_an_infinite_gradient_is_skipped_when_the_run_skips_such_steps() -> None:
    run = Run(load_config(clipping(max_value=1.0), {"train.non_finite": "skip"}, plugins={"model": Explodes()}))
    before = [weight.clone() for weight in run.model.state_dict().values()]
    assert all(map(torch.equal, run.fit().model.state_dict().values(), before))
    assert "the gradient of 'infinite.weight' is not finite" in run.warnings[0]


def test_an_optimizer_with_a_closure_is_refused() -> None:
    with pytest.raises(ContractError, match="LBFGS updates the weights several times per step"):
        train(clipping(max_norm=1.0), {"optimizer": "lbfgs"})
