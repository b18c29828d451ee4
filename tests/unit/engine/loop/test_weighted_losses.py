"""Losses that are weighted means: the same numbers in evaluations, batches and micro-batches of any size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from hookline import ContractError, DataError, DataSource, Run, load_config
from hookline.engine.loop.weighted_mean import WeightedMean, weight_of

IGNORED = -100


def inputs_and_classes(num_examples: int = 50) -> tuple[Tensor, Tensor]:
    """Return inputs ``[N, 3]`` and rare class indices ``[N]``; the first twelve targets are not counted."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(num_examples, 3, generator=generator)
    classes = (torch.rand(num_examples, generator=generator) < 0.2).long()
    classes[:12] = IGNORED
    return inputs, classes


INPUTS, CLASSES = inputs_and_classes()
CLASS_WEIGHTS = torch.tensor([1.0, 20.0])


MARK = 9


class MarkedError:
    """Mean squared error over the targets that are not marked; a naive one, with NaN if there is none."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return ((prediction - target) ** 2 * (target != MARK)).sum() / (target != MARK).sum()

    def batch_weight(self, target: Tensor) -> Tensor:
        return (target != MARK).sum()


def make_run(loss: Any, targets: Tensor = CLASSES, *, inputs: Tensor = INPUTS, **train: Any) -> Run:
    def net() -> nn.Module:
        torch.manual_seed(5)
        return nn.Linear(3, 2 if targets.dim() == 1 else targets.shape[1])

    source = DataSource(TensorDataset(inputs, targets), in_features=3)
    options = {"epochs": 1, "batch_size": "all", "shuffle": False, "dtype": "float64", **train}
    return Run(load_config({"train": options}, plugins={"data": source, "model": net, "loss": lambda: loss}))


def class_weighted_loss(logits: Tensor, classes: Tensor, weights: Tensor) -> float:
    """Return ``sum(w_i * l_i) / sum(w_i)`` over the targets that count, one after another."""
    total = weight = 0.0
    for row, target in zip(logits.tolist(), classes.tolist(), strict=True):
        if target != IGNORED:
            total += float(weights[target]) * (math.log(sum(map(math.exp, row))) - row[target])
            weight += float(weights[target])
    return total / weight


# ---- the weight of a loss --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(40,), (8, 5), (4, 2, 5)], ids=str)
@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 4.0, 0.5])], ids=["alike", "by class"])
def test_the_weight_of_cross_entropy_is_the_denominator_of_torch(
    weights: Tensor | None, shape: tuple[int, ...], smoothing: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, shape, generator=generator)
    target.view(-1)[::7] = IGNORED
    prediction = torch.randn(shape[0], 3, *shape[1:], generator=generator)
    loss = nn.CrossEntropyLoss(weights, label_smoothing=smoothing)
    summed = nn.CrossEntropyLoss(weights, label_smoothing=smoothing, reduction="sum")
    weigh = weight_of(loss)
    assert weigh is not None
    assert float(weigh(target) * loss(prediction, target)) == pytest.approx(float(summed(prediction, target)), rel=1e-5)


def test_probabilities_of_classes_weigh_as_much_as_their_examples() -> None:
    weigh = weight_of(nn.CrossEntropyLoss(torch.tensor([1.0, 20.0])))
    assert weigh is not None
    assert float(weigh(torch.full((6, 2), 0.5))) == 6


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.BCEWithLogitsLoss(), lambda p, t: (p - t).mean()])
def test_other_losses_have_no_weight_of_their_own(loss: Any) -> None:
    assert weight_of(loss) is None


def test_a_mean_leaves_out_what_weighs_nothing() -> None:
    mean = WeightedMean()
    for value, weight in ((2.0, 3.0), (math.nan, 0.0), (6.0, 1.0)):
        mean.add(torch.tensor(value), torch.tensor(weight))
    assert mean.compute() == 3.0
    assert mean.sums() == (12.0, 4.0)


def test_a_mean_with_tensors_for_weights_goes_on_from_its_state() -> None:
    whole, again = WeightedMean(), WeightedMean()
    for number in range(1030):
        whole.add(torch.tensor(1 / (number + 1)), torch.tensor(number % 7))
        again.add(torch.tensor(1 / (number + 1)), torch.tensor(number % 7))
        if number in (5, 1026):
            state, again = again.state_dict(), WeightedMean()
            again.load_state_dict(state)
    assert again.compute() == whole.compute()


def test_a_mean_keeps_few_tensors_in_the_memory_of_a_processor() -> None:
    mean = WeightedMean()
    for number in range(500):
        mean.add(torch.tensor(float(number)), 1)
        assert len(mean.state_dict()["weights"]) < 64
    assert mean.compute() == 249.5


# ---- evaluations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 16, 50])
@pytest.mark.parametrize("weights", [torch.ones(2), CLASS_WEIGHTS], ids=["alike", "by class"])
def test_an_evaluation_in_parts_gives_the_loss_of_the_whole_split(size: int, weights: Tensor) -> None:
    run = make_run(nn.CrossEntropyLoss(weights), eval_batch_size=size)
    logits = run.model(INPUTS.double()).detach()
    expected = class_weighted_loss(logits, CLASSES, weights)
    assert run.evaluate()["train/loss"] == pytest.approx(expected, rel=1e-12)


def test_an_evaluation_uses_the_weights_that_a_loss_declares() -> None:
    targets = torch.arange(50.0).reshape(25, 2) / 50
    targets[4:8] = targets[9, 1] = MARK
    run = make_run(MarkedError(), targets, inputs=INPUTS[:25], eval_batch_size=4)
    error = (run.model(INPUTS[:25].double()) - targets.double()).detach()[targets != MARK]
    assert run.evaluate()["train/loss"] == pytest.approx(float(error.square().mean()), rel=1e-12)


def test_an_evaluation_in_which_no_target_counts_is_refused() -> None:
    run = make_run(nn.CrossEntropyLoss(), torch.full((50,), IGNORED))
    with pytest.raises(DataError, match="none with a target that counts in the loss"):
        run.evaluate()


# ---- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 12, 49])
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(CLASS_WEIGHTS)], ids=["alike", "by class"])
def test_micro_batches_take_the_step_of_the_whole_batch(loss: nn.Module, size: int) -> None:
    parts, whole = make_run(loss, micro_batch_size=size, epochs=5), make_run(loss, epochs=5)
    expected = [pytest.approx(dict(metrics), rel=1e-12) for metrics in whole.fit().history]
    assert [dict(metrics) for metrics in parts.fit().history] == expected
    torch.testing.assert_close(parts.model.state_dict(), whole.model.state_dict(), rtol=1e-12, atol=1e-14)


def test_the_step_of_a_batch_is_that_of_a_loop_written_out() -> None:
    run = make_run(nn.CrossEntropyLoss(CLASS_WEIGHTS), micro_batch_size=5)
    weight, bias = (parameter.detach().clone().requires_grad_() for parameter in run.model.parameters())
    counted = CLASSES != IGNORED
    logits = functional.linear(INPUTS.double()[counted], weight, bias)
    class_weight = CLASS_WEIGHTS.double()[CLASSES[counted]]
    loss = (class_weight * -logits.log_softmax(1).gather(1, CLASSES[counted, None])[:, 0]).sum() / class_weight.sum()
    gradient = torch.autograd.grad(loss, weight)[0]
    run.fit()
    torch.testing.assert_close(run.model.weight, weight - 0.03 * gradient, rtol=1e-12, atol=1e-14)


def test_the_running_loss_is_the_weighted_mean_over_the_batches() -> None:
    run = make_run(nn.CrossEntropyLoss(CLASS_WEIGHTS), batch_size=7, evaluate=[])
    losses, weights = [], []
    for number, step in enumerate(run.steps()):
        classes = CLASSES[7 * number : 7 * number + 7]
        losses.append(step.loss.item())
        weights.append(sum(float(CLASS_WEIGHTS[c]) for c in classes.tolist() if c != IGNORED))
    expected = sum(w * loss for w, loss in zip(weights, losses, strict=True) if w) / sum(weights)
    assert run.history[0]["train/running_loss"] == pytest.approx(expected, rel=1e-12)


LOSSES: dict[str, tuple[Callable[[], Any], Tensor]] = {
    "cross-entropy": (nn.CrossEntropyLoss, torch.full((50,), IGNORED)),
    "a class without weight": (lambda: nn.CrossEntropyLoss(torch.tensor([0.0, 1.0])), torch.zeros(50).long()),
    "smoothed": (lambda: nn.CrossEntropyLoss(label_smoothing=0.1), torch.full((50,), IGNORED)),
}


@pytest.mark.parametrize("size", [0, 3])
@pytest.mark.parametrize("case", LOSSES)
def test_a_batch_in_which_no_target_counts_has_a_loss_and_a_gradient_of_0(case: str, size: int) -> None:
    make_loss, targets = LOSSES[case]
    targets = targets.clone()
    targets[10:] = CLASSES[10:].clamp(min=0)
    targets[10] = 1
    run = make_run(make_loss(), targets, batch_size=10, max_steps=1, micro_batch_size=size, evaluate=[])
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    assert [step.loss.item() for step in run.steps()] == [0.0]
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


@pytest.mark.parametrize("size", [0, 2])
def test_a_part_in_which_no_target_counts_does_not_spoil_the_gradient_of_a_loss_of_ones_own(size: int) -> None:
    targets = torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    targets[:4] = targets[9] = MARK
    run = make_run(MarkedError(), targets, batch_size=10, micro_batch_size=size, max_steps=1, evaluate=[])
    weight, bias = (parameter.detach().clone().requires_grad_() for parameter in run.model.parameters())
    inputs, counted = INPUTS[:10].double(), [4, 5, 6, 7, 8]
    loss = (functional.linear(inputs[counted], weight, bias) - targets[:10].double()[counted]).square().mean()
    gradient = torch.autograd.grad(loss, weight)[0]
    assert [step.loss.item() for step in run.steps()] == [pytest.approx(loss.item(), rel=1e-12)]
    torch.testing.assert_close(run.model.weight, weight - 0.03 * gradient, rtol=1e-12, atol=1e-14)


# ---- losses that are no mean -----------------------------------------------------------------------------------------

REGRESSION = torch.randn(50, 1, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.MSELoss(reduction="sum"), REGRESSION),
        (lambda p, t: ((p - t) ** 2).sum(), REGRESSION),
        (lambda p, t: ((p - t) ** 2).mean().sqrt(), REGRESSION),
        (lambda p, t: functional.cross_entropy(p, t, CLASS_WEIGHTS.to(p)), CLASSES[12:]),
    ],
    ids=["sum of torch", "sum", "root", "weights in a function"],
)
def test_a_loss_that_is_no_mean_over_its_examples_is_refused_by_name(loss: Any, targets: Tensor) -> None:
    words = r"loss '.*' .*of 32 examples is .*, but the mean of their losses is"
    with pytest.raises(ContractError, match=words) as caught:
        make_run(loss, targets, inputs=INPUTS[-len(targets) :])
    assert "batch_weight" in str(caught.value.hint)


def test_a_loss_that_declares_to_be_no_mean_is_used_for_whole_batches_only() -> None:
    class Root:
        batch_weight = None

        def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
            return ((prediction - target) ** 2).mean().sqrt()

    assert make_run(Root(), REGRESSION).fit().outcome == "completed"
    with pytest.raises(ContractError, match="mean of their losses"):
        make_run(Root(), REGRESSION, micro_batch_size=20)


def test_a_loss_that_draws_random_numbers_is_accepted() -> None:
    noisy = lambda p, t: ((p - t) ** 2).mean() * (1 + torch.rand(()))  # noqa: E731
    assert make_run(noisy, REGRESSION).fit().outcome == "completed"
