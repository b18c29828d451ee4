"""The callback ``try-first-batch``: which first batches, models, losses and optimizers it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hookline import Catalog, ContractError, DataError, DataSource, NonFiniteError, Run, load_config
from hookline.engine import Forward
from hookline_plugins.callback_parts.first_batch import smallest_batch, try_batch
from line import INPUTS, TARGETS, linear, some_data

MakeCatalog = Callable[..., Catalog]


def name(kind: str, _error: BaseException | None) -> str:
    """Return a name for messages, such as "model 'm'"."""
    return f"{kind} {kind[0]!r}"


def refusal(error: type[Exception], batch: Any, model: Any = None, loss: Any = None) -> str:
    """Return the text of the error for a first batch."""
    with pytest.raises(error) as caught:
        try_batch(batch, Forward(model or linear(), loss or nn.MSELoss()), name)
    return str(caught.value)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# ---- a first batch that gets through ---------------------------------------------------------------------------------


def test_trying_a_batch_changes_no_weight_no_statistic_no_gradient_and_no_mode() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try_batch((INPUTS, TARGETS), Forward(model, nn.MSELoss()), name)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [module.training for module in model.modules()] == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("target", "num_outputs", "loss"),
    [
        (torch.zeros(8, dtype=torch.int64), 2, nn.CrossEntropyLoss()),
        (torch.zeros(8, 1), 1, nn.BCEWithLogitsLoss()),
        (torch.zeros(8), 1, lambda prediction, target: (prediction[:, 0] - target).pow(2).mean()),
    ],
    ids=["class indices", "probabilities", "a function"],
)
def test_a_loss_that_fits_its_target_gets_through(target: Tensor, num_outputs: int, loss: Any) -> None:
    try_batch([INPUTS, target], Forward(nn.Linear(3, num_outputs), loss), name)


def test_a_model_that_fits_its_targets_perfectly_gets_through() -> None:
    model = linear()
    try_batch([INPUTS, model(INPUTS).detach()], Forward(model, nn.MSELoss()), name)


# ---- refusals of the data --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "what"),
    [
        (INPUTS, "[8, 3] float32"),
        ((INPUTS,), "a tuple of 1: [8, 3] float32"),
        ([INPUTS, TARGETS, TARGETS], "a list of 3: [8, 3] float32, [8, 1] float32, [8, 1] float32"),
        ([INPUTS, {"y": "text"}], "a list of 2: [8, 3] float32, a dict"),
        ({"labels": TARGETS}, "a dict of 1: 'labels': [8, 1] float32"),
        ((INPUTS, None), "a tuple of 2: [8, 3] float32, nothing"),
    ],
)
def test_a_batch_that_is_not_a_pair_of_tensors_is_refused(batch: Any, what: str) -> None:
    assert refusal(DataError, batch) == (
        f"data 'd' yields {what}, but must yield pairs (input, target) of tensors\n"
        "  = other batches require a plugin that implements build_step, and train.evaluate = []"
    )


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["input", "target"])
def test_a_batch_that_is_not_finite_is_refused_by_the_name_of_its_part(part: str, number: float) -> None:
    inputs, target = some_data()
    (inputs if part == "input" else target)[5, 0] = number
    assert refusal(DataError, (inputs, target)) == (
        f"the first batch of data 'd' has a non-finite {part}\n"
        "  = remove or replace the values that are NaN or infinite"
    )


# ---- refusals of the model -------------------------------------------------------------------------------------------


def test_a_model_that_fails_is_refused_with_its_message_and_the_shape_of_the_batch() -> None:
    text = refusal(ContractError, (INPUTS, TARGETS), nn.Linear(5, 1))
    # torch 2.15 puts the name of the operation before its message.
    assert text.replace("addmm: ", "") == (
        "model 'm' fails on the first batch of data 'd', [8, 3] float32: "
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (8x3 and 5x1)\n"
        "  = match its sizes and dtypes to the data"
    )


def test_a_model_that_fails_keeps_its_error_as_the_cause() -> None:
    class Fails(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            raise KeyError("weights")

    with pytest.raises(ContractError, match="KeyError: 'weights'") as caught:
        try_batch((INPUTS, TARGETS), Forward(Fails(), nn.MSELoss()), name)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_model_that_returns_no_tensor_is_refused() -> None:
    class Pairs(nn.Linear):
        def forward(self, input: Tensor) -> Any:  # noqa: A002 - torch's name
            return super().forward(input).tolist()[:1], None

    assert refusal(ContractError, (INPUTS, TARGETS), Pairs(3, 1)) == (
        "model 'm' returned a tuple of 2: a list of 1: a list of 1: a float, nothing, but must return a tensor [B, O]"
    )


def test_a_mapping_without_the_target_is_refused_by_its_name() -> None:
    assert refusal(DataError, {"x": INPUTS, "y": TARGETS}) == (
        "data 'd' yields a dict of 2: 'x': [8, 3] float32, 'y': [8, 1] float32, but no target 'labels'\n"
        "  = name the entry that is the target: DataSource(..., target=...); other batches require a plugin that "
        "implements build_step, and train.evaluate = []"
    )


def test_a_loss_that_cannot_read_a_nested_prediction_is_refused_with_its_form() -> None:
    class Pairs(nn.Linear):
        def forward(self, input: Tensor) -> Any:  # noqa: A002 - torch's name
            return super().forward(input), None

    text = refusal(ContractError, (INPUTS, TARGETS), Pairs(3, 1))
    given = "prediction a tuple of 2: [8, 1] float32, nothing and target [8, 1] float32 of the first batch of data 'd'"
    assert text.startswith(f"loss 'l' fails on {given}: ")


def test_a_model_is_put_back_into_its_mode_after_a_refusal() -> None:
    model = nn.Sequential(nn.Linear(5, 1), nn.Dropout())
    refusal(ContractError, (INPUTS, TARGETS), model)
    assert all(module.training for module in model.modules())


# ---- refusals of the loss --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss",
    [nn.MSELoss(), nn.L1Loss(), nn.HuberLoss(), nn.SmoothL1Loss(), nn.BCEWithLogitsLoss()],
    ids=lambda loss: type(loss).__name__,
)
def test_a_prediction_that_would_be_broadcast_against_the_target_is_refused(loss: nn.Module) -> None:
    assert refusal(ContractError, (INPUTS, TARGETS.squeeze(1)), loss=loss) == (
        "loss 'l' compares element by element, but the prediction is [8, 1] float32 and the target is [8] float32: "
        "they would be broadcast, and the model would fit the wrong values\n"
        "  = give both the same shape, usually [B, 1] or [B, O]; for class indices use cross-entropy"
    )


def test_a_loss_that_fails_is_refused_with_its_message_and_both_shapes() -> None:
    text = refusal(ContractError, (INPUTS, TARGETS.long().squeeze(1) - 100), loss=nn.NLLLoss())
    message, hint = text.splitlines()
    given = "prediction [8, 1] float32 and target [8] int64 of the first batch of data 'd'"
    assert message.startswith(f"loss 'l' fails on {given}: IndexError: Target -")
    assert hint == ("  = use a loss for this type of target, or a data source with targets that this loss accepts")


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (lambda prediction, target: None, "nothing"),
        (lambda prediction, target: 0.5, "a float"),
        (lambda prediction, target: (prediction - target).pow(2), "[8, 1] float32"),
        (lambda prediction, target: prediction.sum().long(), "[] int64"),
        (lambda prediction, target: (prediction.detach() - target).mean(), "[] float32"),
        (lambda prediction, target: (prediction.mean(), {"mse": 1}), "a tuple of 2: [] float32, a dict"),
    ],
    ids=["none", "number", "not reduced", "integer", "detached", "pair"],
)
def test_a_loss_that_is_not_a_differentiable_scalar_is_refused(loss: Any, what: str) -> None:
    assert refusal(ContractError, (INPUTS, TARGETS), loss=loss) == (
        f"loss 'l' returned {what}, but must return a scalar tensor of a floating dtype that depends on the prediction"
    )


@pytest.mark.parametrize(("factor", "value"), [(float("nan"), "nan"), (float("inf"), "inf")])
def test_a_first_loss_that_is_not_finite_is_refused_before_any_step(factor: float, value: str) -> None:
    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        return factor * (prediction - target).pow(2).mean()

    assert refusal(NonFiniteError, (INPUTS, TARGETS), loss=loss) == (
        f"the loss of the first batch of data 'd' is {value}, before any step\n"
        "  = check the scale of the inputs and the initial weights of the model"
    )


# ---- what a loss must do ---------------------------------------------------------------------------------------------


def penalty(prediction: Tensor, target: Tensor) -> Tensor:
    """Return a loss that uses a parameter of its own, but not the prediction."""
    return SCALE**2 + 0 * target.mean()


SCALE = nn.Parameter(torch.ones(()))


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (penalty, TARGETS),
        (nn.CrossEntropyLoss(), torch.zeros(8, dtype=torch.int64)),
        (nn.CrossEntropyLoss(), TARGETS),
    ],
    ids=["a penalty", "one class", "numbers for one class"],
)
def test_a_loss_that_does_not_depend_on_the_prediction_is_refused(loss: Any, target: Tensor) -> None:
    text = refusal(ContractError, (INPUTS, target), loss=loss)
    assert text.startswith("loss 'l' does not depend on the prediction [8, 1] float32: it is ")
    assert "cross-entropy needs an output for each class" in text


# ---- the callback ----------------------------------------------------------------------------------------------------


def test_without_the_callback_nothing_is_tried_and_the_first_step_fails(catalog_with: MakeCatalog) -> None:
    plugins = {"data": DataSource(TensorDataset(INPUTS, TARGETS[:, 0])), "model": linear(), "loss": nn.MSELoss()}
    with pytest.raises(ContractError, match="element by element"):
        Run(load_config(plugins=plugins, catalog=catalog_with()))
    config = load_config({}, {"callbacks.try-first-batch": "off"}, plugins=plugins, catalog=catalog_with())
    with pytest.warns(UserWarning, match="target size"):
        assert Run(config).fit().outcome == "completed"


@pytest.mark.parametrize("num_examples", [1, 10, 11, 12, None])
@pytest.mark.parametrize("batch_size", [1, 4, "all"])
@pytest.mark.parametrize("limit", [0, 1, 3, 50])
def test_the_smallest_batch_is_that_of_all_parts_of_all_batches(
    num_examples: int | None, batch_size: Any, limit: int
) -> None:
    if num_examples is None:
        assert smallest_batch(None, 4, limit) == min([4, *([1] if limit == 3 else [limit] if limit == 1 else [])])
        return
    batches = torch.split(torch.arange(num_examples), num_examples if batch_size == "all" else batch_size)
    parts = [part for batch in batches for part in torch.split(batch, limit or len(batch))]
    assert smallest_batch(num_examples, batch_size, limit) == min(map(len, parts))
