"""Batches, models and losses of any form: nested mappings, tuples and dataclasses, outputs with logits, own losses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

import hookline
from hookline import DataSource, hookimpl
from hookline.engine import Forward, part_of, tensors_in, with_parts
from hookline.engine.reading.batch import placed

_NUM = 20


def some(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LEFT, RIGHT = some(_NUM, 3, seed=1), some(_NUM, 2, seed=2)
TARGET = LEFT.sum(1, keepdim=True) - 2 * RIGHT[:, :1] + 0.5


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass
class Sides:
    left: Any
    right: Any


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


class Rows(Dataset[Any]):
    """A dataset whose items have the form that a function gives them."""

    def __init__(self, item: Callable[[int], Any]) -> None:
        self._item = item

    def __len__(self) -> int:
        return _NUM

    def __getitem__(self, index: int) -> Any:
        return self._item(index)


class Two(nn.Module):
    """A model of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 1), nn.Linear(2, 1)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.1)

    def forward(self, left: Tensor, right: Tensor) -> Any:
        return self.a(left) + self.b(right)


class OfPair(Two):
    def forward(self, sides: Any) -> Any:  # type: ignore[override] # one argument
        return super().forward(sides.left, sides.right)


class OfMapping(Two):
    def forward(self, sides: dict[str, Tensor]) -> Any:  # type: ignore[override] # one argument
        return super().forward(sides["left"], sides["right"])


class Logits(Two):
    def forward(self, left: Tensor, right: Tensor) -> Any:
        return Output(super().forward(left, right))


class OwnLoss(Two):
    def forward(self, left: Tensor, right: Tensor, labels: Tensor | None = None) -> Any:
        logits = super().forward(left, right)
        return {"logits": logits, "loss": None if labels is None else functional.mse_loss(logits, labels)}


class Nested(Two):
    def forward(self, left: Tensor, right: Tensor) -> Any:
        return {"sum": (super().forward(left, right),)}


class Wrapped(nn.Module):
    """A wrapper that hides the parameters of the model in it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Two()

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return self.inner(*arguments, **named)


def own_loss(prediction: Any, target: Any, output: Any) -> Any:
    return output["loss"]


def nested_loss(prediction: Any, target: Any) -> Tensor:
    return functional.mse_loss(prediction["sum"][0], target["y"])


def asking_loss(prediction: Tensor, target: Tensor, *, run: Any, inputs: Any) -> Tensor:
    assert set(inputs) == {"left", "right"}
    assert run.config.train.batch_size == 6
    return functional.mse_loss(prediction, target)


def mapping(index: int) -> dict[str, Tensor]:
    return {"left": LEFT[index], "right": RIGHT[index], "labels": TARGET[index]}


def sides(index: int) -> dict[str, Tensor]:
    return {"left": LEFT[index], "right": RIGHT[index]}


def rows_as_sides(items: list[Any]) -> Any:
    """Return a batch whose inputs are a dataclass, which torch's own collate does not make."""
    inputs, targets = zip(*items, strict=True)
    return Sides(*(torch.stack([one[name] for one in inputs]) for name in ("left", "right"))), torch.stack(targets)


FORMS: dict[str, tuple[Callable[[int], Any], type[Two], Any, Any]] = {
    "mapping of inputs": (lambda i: (sides(i), TARGET[i]), Two, nn.MSELoss(), None),
    "mapping as a whole": (lambda i: (sides(i), TARGET[i]), OfMapping, nn.MSELoss(), None),
    "mapping with the target": (mapping, Two, nn.MSELoss(), None),
    "named tuple": (lambda i: (Pair(LEFT[i], RIGHT[i]), TARGET[i]), OfPair, nn.MSELoss(), None),
    "dataclass": (lambda i: (sides(i), TARGET[i]), OfPair, nn.MSELoss(), rows_as_sides),
    "logits": (mapping, Logits, nn.MSELoss(), None),
    "loss of the model": (mapping, OwnLoss, own_loss, None),
    "nested prediction and target": (lambda i: (sides(i), {"y": TARGET[i]}), Nested, nested_loss, None),
    "loss that asks": (mapping, Two, asking_loss, None),
}


def run_of(form: str, **train: Any) -> hookline.Run:
    item, model, loss, collate = FORMS[form]
    data = DataSource(Rows(item), Rows(item), collate=collate)
    net = model()
    plugins = {"data": data, "model": net, "loss": loss, "optimizer": torch.optim.SGD(net.parameters(), lr=0.05)}
    return hookline.Run(hookline.load_config({"train": {"epochs": 2, "batch_size": 6, **train}}, plugins=plugins))


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def by_hand(order: Callable[[int], Tensor]) -> nn.Module:
    """Return the model after the same steps, written out."""
    model = Two()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for epoch in (1, 2):
        for rows in torch.split(order(epoch), 6):
            optimizer.zero_grad()
            functional.mse_loss(model(LEFT[rows], RIGHT[rows]), TARGET[rows]).backward()  # type: ignore[no-untyped-call] # torch leaves it so
            optimizer.step()
    return model


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_of_any_form_gives_the_weights_of_a_loop_written_out(form: str) -> None:
    run = run_of(form)
    result = run.fit()
    expected = by_hand(run.batch_order)
    assert torch.equal(flat(run.model), flat(expected))
    whole = functional.mse_loss(expected(LEFT, RIGHT), TARGET).item()
    assert result.metrics["validation/loss"] == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_of_any_form_is_split_into_micro_batches(form: str) -> None:
    whole, parts = run_of(form), run_of(form, micro_batch_size=4)
    whole.fit()
    parts.fit()
    assert torch.allclose(flat(whole.model), flat(parts.model), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", [3, 5])
def test_a_run_with_batches_of_any_form_resumes_within_an_epoch_bit_for_bit(form: str, step: int) -> None:
    whole, first, second = (run_of(form) for _ in range(3))
    whole.fit()
    steps = first.steps()
    while next(steps).step < step:
        pass
    second.load_state_dict(first.state_dict())
    second.fit()
    assert torch.equal(flat(second.model), flat(whole.model))
    assert second.history == whole.history


def test_an_optimizer_with_a_closure_takes_batches_of_any_form() -> None:
    losses = []
    for item in (mapping, lambda i: (torch.cat([LEFT[i], RIGHT[i]]), TARGET[i])):
        net: nn.Module = Two() if item is mapping else nn.Linear(5, 1)
        for parameter in net.parameters():
            nn.init.constant_(parameter, 0.05 if item is not mapping else 0.1)
        plugins = {
            "data": DataSource(Rows(item)),
            "model": net,
            "loss": nn.MSELoss(),
            "optimizer": torch.optim.LBFGS(net.parameters(), max_iter=50),
        }
        losses.append(hookline.train({"train": {"epochs": 3, "batch_size": "all"}}, plugins=plugins))
    assert all(result.metrics["train/loss"] < 1e-6 for result in losses)  # the target is linear in both


def test_the_target_of_a_mapping_is_the_entry_that_the_data_source_names() -> None:
    data = DataSource(Rows(lambda i: {"left": LEFT[i], "right": RIGHT[i], "y": TARGET[i]}), target="y")
    run = hookline.Run(
        hookline.load_config(
            {"train": {"epochs": 2, "batch_size": 6}},
            {"optimizer.lr": 0.05},
            plugins={"data": data, "model": Two(), "loss": nn.MSELoss()},
        )
    )
    run.fit()
    assert torch.equal(flat(run.model), flat(by_hand(run.batch_order)))


def test_metrics_get_the_logits() -> None:
    class Largest:
        def reset(self) -> None:
            self.value = -torch.inf

        def update(self, prediction: Tensor, target: Tensor) -> None:
            self.value = max(self.value, (prediction - target).abs().max().item())

        def compute(self) -> float:
            return self.value

    class Adds:
        @hookimpl
        def build_metrics(self) -> dict[str, Any]:
            return {"largest": Largest()}

    item, model, loss, _ = FORMS["logits"]
    plugins = {"data": DataSource(Rows(item)), "model": model(), "loss": loss, "callbacks.adds": Adds()}
    result = hookline.train({"train": {"epochs": 1}}, plugins=plugins)
    with torch.no_grad():
        expected = (result.model(LEFT, RIGHT).logits - TARGET).abs().max().item()
    assert result.metrics["train/largest"] == pytest.approx(expected, rel=1e-6)


def test_a_model_that_is_not_finite_is_located_in_a_batch_of_any_form() -> None:
    class Breaks(Two):
        def forward(self, left: Tensor, right: Tensor) -> Any:
            return self.b(right) + self.a(left) / (0 if self.training else 1)

    plugins = {"data": DataSource(Rows(mapping)), "model": Breaks(), "loss": nn.L1Loss()}
    with pytest.raises(hookline.NonFiniteError, match="the loss is"):
        hookline.train({"train": {"epochs": 1, "batch_size": 20}}, plugins=plugins)


# ---- the decisions ---------------------------------------------------------------------------------------------------


def test_a_mapping_is_passed_by_name_only_to_a_model_with_such_parameters() -> None:
    inputs = {"left": LEFT, "right": RIGHT}
    expected = Two()(LEFT, RIGHT)
    for model, unwrapped in ((Two(), None), (OfMapping(), None), (Wrapped(), Two())):
        prediction, target, asked = Forward(model, nn.MSELoss(), unwrapped=unwrapped)((inputs, TARGET))
        assert torch.equal(prediction, expected)
        assert (target is TARGET, asked) == (True, {})


@pytest.mark.parametrize(
    ("batch", "model", "loss", "is_plain"),
    [
        ((LEFT, TARGET), nn.Linear(3, 1), nn.MSELoss(), True),
        ([(LEFT, RIGHT), TARGET], nn.Module(), nn.MSELoss(), True),
        (({"left": LEFT, "right": RIGHT}, TARGET), OfMapping(), nn.MSELoss(), True),
        (({"left": LEFT, "right": RIGHT}, TARGET), Two(), nn.MSELoss(), False),
        ({"left": LEFT, "right": RIGHT, "labels": TARGET}, Two(), nn.MSELoss(), False),
        ((Pair(LEFT, RIGHT), TARGET), OfPair(), lambda prediction, target, inputs: 0, False),
    ],
)
def test_a_plain_batch_is_one_that_a_loop_written_out_takes(batch: Any, model: Any, loss: Any, is_plain: bool) -> None:
    if type(model) is nn.Module:
        model.forward = lambda inputs: inputs[0]
    forward = Forward(model, loss)
    forward(batch)
    assert forward.is_plain is is_plain


def test_a_loss_gets_what_its_further_parameters_name() -> None:
    def inputs_first(inputs: Tensor, targets: Tensor) -> Tensor:  # as torch names its own
        return inputs - targets

    class Module(nn.Module):
        def forward(self, prediction: Tensor, target: Tensor, inputs: Tensor, scale: float = 1.0) -> Tensor:
            return prediction

    for loss, asked in [
        (inputs_first, []),
        (Module(), ["inputs"]),
        (own_loss, ["output"]),
        (lambda prediction, target, run=None: prediction, ["run"]),
        (torch.nn.functional.mse_loss, []),
        (nn.MSELoss(), []),
        (max, []),
    ]:
        assert Forward(nn.Identity(), loss).asked == asked


# ---- the parts of a batch --------------------------------------------------------------------------------------------


def test_the_tensors_of_a_dataclass_are_moved_cast_and_split() -> None:
    batch = (Sides(LEFT, {"deep": [RIGHT]}), Pair(TARGET, torch.arange(_NUM)))
    moved = placed(batch, torch.device("cpu"), torch.float64)
    assert [type(part) for part in moved] == [Sides, Pair]
    dtypes = [tensor.dtype for tensor in tensors_in(moved)]
    assert dtypes == [torch.float64] * 3 + [torch.int64]
    part = part_of(moved, 2, 5)
    assert [len(tensor) for tensor in tensors_in(part)] == [3] * 4
    assert torch.equal(part[0].right["deep"][0], RIGHT[2:5].double())
    assert with_parts(Sides, copy.copy) is Sides
