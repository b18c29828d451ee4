"""A block: several steps by one call of compiled code, compared with the optimizer's own steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from hookline import ContractError, Run, load_config
from hookline.shortcuts import block
from hookline.shortcuts.block import Block, CompileError, Objective, followers, why_not

Make = Callable[..., Optimizer]
Batch = tuple[Tensor, Tensor]

OPTIMIZERS: dict[str, Make] = {
    "sgd": partial(SGD, lr=0.1),
    "sgd, weight decay": partial(SGD, lr=0.1, weight_decay=0.1, maximize=True),
    "sgd, momentum": partial(SGD, lr=0.1, momentum=0.9, dampening=0.5),
    "sgd, nesterov": partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": partial(Adam, lr=0.01),
    "adam, amsgrad": partial(Adam, lr=0.01, amsgrad=True, weight_decay=0.1, betas=(0.8, 0.9)),
    "adamw": partial(AdamW, lr=0.01, weight_decay=0.1),
}


@pytest.fixture(autouse=True)
def _uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Capture the graph as usual, but run it with torch's own operations: the C++ compiler takes seconds."""
    monkeypatch.setattr(block, "_BACKEND", "eager")
    yield
    torch.compiler.reset()


class Net(nn.Module):
    """Has a parameter that is frozen, one that is not used, and two layers that are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(2, 3), nn.Linear(3, 1)
        self.unused = nn.Parameter(torch.ones(2))
        self.inner.bias.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Any:
        return self.outer(torch.tanh(self.inner(inputs)))

    def trained(self) -> list[nn.Parameter]:
        return [
            parameter
            for layer in (self.inner, self.outer)
            for parameter in layer.parameters()
            if parameter.requires_grad
        ]


def batches_of(num_steps: int, dtype: torch.dtype = torch.float64) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    pairs = [(torch.rand(4, 2, generator=generator), torch.rand(4, 1, generator=generator)) for _ in range(num_steps)]
    return [(inputs.to(dtype), target.to(dtype)) for inputs, target in pairs]


def made(make: Make, dtype: torch.dtype = torch.float64, *, is_checked: bool = True) -> tuple[Net, Optimizer, Block]:
    torch.manual_seed(0)
    net = Net().to(dtype)
    groups = [
        {"params": [net.inner.weight, net.inner.bias, net.unused], "lr": 0.02},
        {"params": net.outer.parameters()},
    ]
    optimizer = make(groups)
    return net, optimizer, Block(Objective(net, nn.MSELoss()), optimizer, net.trained(), is_checked=is_checked)


def single_steps(net: Net, optimizer: Optimizer, batches: list[Batch]) -> list[float]:
    losses = []
    for inputs, target in batches:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(inputs), target)
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated
        optimizer.step()
        losses.append(loss.item())
    return losses


def numbers(net: Net, optimizer: Optimizer) -> list[Tensor]:
    """Return all weights, their gradients, and the state of the optimizer."""
    state = optimizer.state_dict()["state"]
    kept = [torch.as_tensor(value) for entry in state.values() for value in entry.values() if value is not None]
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    return [*(parameter.detach() for parameter in net.parameters()), *gradients, *kept]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_block_does_what_the_optimizer_does_in_single_steps(name: str) -> None:
    batches = batches_of(7)
    (net, optimizer, steps), (same, other, _) = made(OPTIMIZERS[name]), made(OPTIMIZERS[name])
    losses = single_steps(net, optimizer, batches[:1])
    assert steps.has_state()
    losses += [loss.item() for loss in steps(batches[1:4])]
    optimizer.param_groups[0]["lr"] = other.param_groups[0]["lr"] / 2
    losses += [loss.item() for loss in steps(batches[4:])]
    expected = single_steps(same, other, batches[:4])
    other.param_groups[0]["lr"] /= 2
    expected += single_steps(same, other, batches[4:])
    assert losses == pytest.approx(expected, rel=1e-12)
    for ours, theirs in zip(numbers(net, optimizer), numbers(same, other), strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_single_steps_and_blocks_take_turns() -> None:
    batches = batches_of(6)
    (net, optimizer, steps), (same, other, _) = made(OPTIMIZERS["adamw"]), made(OPTIMIZERS["adamw"])
    single_steps(net, optimizer, batches[:2])
    steps(batches[2:4])
    optimizer.load_state_dict(optimizer.state_dict())
    single_steps(net, optimizer, batches[4:])
    single_steps(same, other, batches)
    for ours, theirs in zip(numbers(net, optimizer), numbers(same, other), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_counts_of_adam_are_exact_in_float32_as_in_the_optimizer() -> None:
    # In float32, 1 - 0.999**2 would be wrong in the fifth digit. The step is large so that the weights show it.
    batches, make = batches_of(2, torch.float32), partial(Adam, lr=1.0)
    (net, optimizer, steps), (same, other, _) = made(make, torch.float32), made(make, torch.float32)
    for one, optimizer_of_it in ((net, optimizer), (same, other)):
        single_steps(one, optimizer_of_it, batches[:1])
    before = [parameter.detach().clone() for parameter in net.trained()]
    steps(batches[1:])
    single_steps(same, other, batches[1:])
    for ours, theirs, start in zip(net.trained(), same.trained(), before, strict=True):
        torch.testing.assert_close(ours - start, theirs - start, rtol=2e-6, atol=0)


def test_it_has_no_state_before_the_first_update_of_an_optimizer_with_state() -> None:
    assert made(OPTIMIZERS["sgd"])[2].has_state()
    assert not made(OPTIMIZERS["sgd, momentum"])[2].has_state()
    assert not made(OPTIMIZERS["adam"])[2].has_state()


def test_it_sees_changes_of_options_and_trained_parameters_but_not_of_the_learning_rate() -> None:
    net, optimizer, steps = made(OPTIMIZERS["sgd, momentum"])
    optimizer.param_groups[1]["lr"] = 3.0
    assert not steps.has_changed()
    optimizer.param_groups[1]["momentum"] = 0.5
    assert steps.has_changed()
    optimizer.param_groups[1]["momentum"] = 0.9
    net.inner.bias.requires_grad_(True)
    assert steps.has_changed()


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nothing_is_changed_when_a_number_is_not_finite(where: str) -> None:
    net, optimizer, steps = made(OPTIMIZERS["adam"])
    batches = batches_of(4)
    single_steps(net, optimizer, batches[:1])
    before = [tensor.clone() for tensor in numbers(net, optimizer)]
    if where == "loss":
        batches[2][1][0] = torch.inf
    else:  # the loss is finite, and twice the difference is not
        batches[3][0][:] = 0
        batches[3][1][:] = 1.2e154
    assert steps(batches[1:]) == []
    for ours, theirs in zip(numbers(net, optimizer), before, strict=True):
        assert torch.equal(ours, theirs)


def test_without_the_check_steps_that_are_not_finite_are_taken() -> None:
    net, _, steps = made(OPTIMIZERS["sgd"], is_checked=False)
    batches = batches_of(2)
    batches[1][1][0] = torch.inf
    assert [loss.isfinite().item() for loss in steps(batches)] == [True, False]
    assert not net.outer.weight.isfinite().all()


class Branches(Net):
    """A model that depends on values, which no graph can."""

    def forward(self, inputs: Tensor) -> Any:
        return super().forward(inputs if inputs.sum() > 0 else -inputs)


def test_a_model_that_cannot_be_one_graph_is_an_error_with_a_hint() -> None:
    net = Branches().double()
    steps = Block(Objective(net, nn.MSELoss()), SGD(net.parameters(), lr=0.1), net.trained(), is_checked=True)
    with pytest.raises(CompileError, match=r"^Unsupported: ") as found:
        steps(batches_of(2))
    assert len(str(found.value).splitlines()) == 1
    config = {"train": {"dtype": "float64"}, "callbacks": {"fuse-steps": {"size": 2}}}
    run = Run(load_config(config, plugins={"model": net}))
    with pytest.raises(ContractError, match=r"the steps of a block cannot be compiled .*fuse-steps.size = 2") as caught:
        run.fit()
    assert "disable fuse-steps" in (caught.value.hint or "")


def test_torch_does_not_count_what_it_compiles_for_one_block_against_another() -> None:
    alive = []  # keeps the blocks alive: torch does not count the code of a block that is gone
    with torch._dynamo.config.patch(recompile_limit=2, accumulated_recompile_limit=2):
        for _ in range(4):
            net, optimizer, steps = made(OPTIMIZERS["sgd"])
            assert len(steps(batches_of(1))) == 1
            alive.append((net, optimizer, steps))


class Own(SGD):
    """A subclass, which may do anything."""


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (SGD([torch.zeros(1)], momentum=0.5, foreach=True), ""),
        (Adam([torch.zeros(1)], fused=True), ""),
        (RMSprop([torch.zeros(1)]), "is not one of torch's SGD, Adam, AdamW"),
        (Own([torch.zeros(1)]), "is not one of torch's SGD, Adam, AdamW"),
        (AdamW([torch.zeros(1)], differentiable=True), "has differentiable = True"),
        (Adam([torch.zeros(1)], capturable=True), "has capturable = True"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Optimizer) else "",
)
def test_optimizers_that_a_block_does_not_support_have_a_reason(optimizer: Optimizer, words: str) -> None:
    assert why_not(optimizer).startswith(words)
    assert bool(why_not(optimizer)) == bool(words)


def test_hooks_on_updates_or_gradients_are_named() -> None:
    def look(*_: Any) -> None:
        pass

    net, optimizer, _ = made(OPTIMIZERS["sgd"])
    objective = Objective(net, nn.MSELoss())
    assert list(followers(objective, optimizer)) == []
    weight: Any = net.outer.weight
    handles: list[Any] = [
        optimizer.register_step_pre_hook(look),
        optimizer.register_step_post_hook(look),
        weight.register_hook(look),
        weight.register_post_accumulate_grad_hook(look),
    ]
    assert [name.rpartition(".")[2] for name in followers(objective, optimizer)] == ["look"] * 4
    for handle in handles:
        handle.remove()
    assert list(followers(objective, optimizer)) == []
