"""Callback ``mixed-precision``: the type of each computation, its precision, and the scale of float16."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import TensorDataset

from hookline import ConfigError, ContractError, DataSource, NonFiniteError, Run, RunResult, hookimpl, load_config
from hookline_plugins.callback_parts.autocast import Autocast

CONFIG: dict[str, Any] = {
    "train": {"epochs": 3, "batch_size": 8},
    "data": {"num_examples": 60},
    "model": {"use": "mlp", "hidden": [16], "dropout": 0.25},
    "optimizer": {"use": "adam", "lr": 0.01},
}
DTYPES = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])


def mixed(dtype: str, *overrides: str, plugins: Mapping[str, Any] | None = None, **others: Any) -> Run:
    values = {**CONFIG, "callbacks": {"mixed-precision": {"dtype": dtype}}}
    return Run(load_config(values, overrides, plugins=plugins), **others)


class DTypes(nn.Module):
    """A linear model that records the types that it computes in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.seen: set[torch.dtype] = set()

    def forward(self, inputs: Tensor) -> Any:
        output = self.layer(inputs)
        self.seen.add(output.dtype)
        return output


@DTYPES
def test_the_model_computes_in_the_lower_precision_type_and_all_else_is_float32(dtype: str) -> None:
    model, given = DTypes(), set[torch.dtype]()

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        given.update((prediction.dtype, target.dtype))
        return nn.functional.mse_loss(prediction, target)

    run = mixed(dtype, plugins={"model": model, "loss": loss})
    run.fit()
    assert model.seen == {getattr(torch, dtype)}
    assert given == {torch.float32}
    assert {weight.dtype for weight in run.model.parameters()} == {torch.float32}
    states = [value for state in run.optimizer.state.values() for value in state.values()]
    assert {value.dtype for value in states} == {torch.float32}


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2**-6), ("float16", 2**-9)])
def test_predictions_are_as_near_to_those_in_float32_as_the_type_allows(dtype: str, tolerance: float) -> None:
    # bfloat16 has 8 bits of precision and float16 has 11, so one rounding is at most 2^-9 and 2^-12 of the number; the
    # two layers have a few each. Relative to the largest prediction, since small ones are differences of larger ones.
    run, inputs = mixed(dtype), torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    run.model.eval()
    narrow, wide = run.model(inputs), run.unwrapped_model(inputs)
    assert 0 < (narrow - wide).abs().max() < tolerance * wide.abs().max()


def test_a_run_in_bfloat16_ends_within_two_percent_of_the_loss_in_float32() -> None:
    wide = Run(load_config(CONFIG)).fit().metrics["train/loss"]
    assert mixed("bfloat16").fit().metrics["train/loss"] == pytest.approx(wide, rel=0.02)


def weights_of(result: RunResult) -> list[list[float]]:
    return [weight.flatten().tolist() for weight in result.model.state_dict().values()]


@DTYPES
def test_a_resumed_run_ends_with_the_same_bits(dtype: str) -> None:
    whole = mixed(dtype).fit()
    first, second = mixed(dtype), mixed(dtype)
    state = next(first.state_dict() for step in first.steps() if step.step == 11)
    second.load_state_dict(state)
    result = second.fit()
    assert result.history == whole.history
    assert weights_of(result) == weights_of(whole)


def test_a_state_has_the_names_of_the_model_and_loads_into_a_run_without_the_wrapper() -> None:
    state = mixed("bfloat16").state_dict()
    assert list(state["model"]) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert state["wrappers"] == {}
    Run(load_config(CONFIG)).unwrapped_model.load_state_dict(state["model"])


def test_a_copy_of_the_model_has_separate_weights() -> None:
    layer = Autocast(nn.Linear(2, 1), "cpu", torch.bfloat16)
    other = copy.deepcopy(layer)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    inputs = torch.ones(3, 2)
    assert not other(inputs).any()
    assert layer(inputs).all()


def test_outputs_that_are_nested_are_float32_as_well() -> None:
    class Several(nn.Module):
        def forward(self, inputs: Tensor) -> Any:
            narrow = inputs @ inputs.T
            return {"pair": (narrow, [narrow]), "index": torch.tensor(1), "name": "it"}

    outputs = Autocast(Several(), "cpu", torch.bfloat16)(torch.ones(2, 2))
    assert outputs["pair"][0].dtype == outputs["pair"][1][0].dtype == torch.float32
    assert (outputs["index"].dtype, outputs["name"]) == (torch.int64, "it")


def test_float64_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs train\.dtype = 'float32', but it is 'float64'"):
        mixed("bfloat16", "train.dtype=float64")


def test_float16_refuses_an_optimizer_with_a_closure_and_bfloat16_does_not() -> None:
    with pytest.raises(ContractError, match="LBFGS updates the weights several times"):
        mixed("float16", "optimizer=lbfgs")
    assert mixed("bfloat16", "optimizer=lbfgs", "train.batch_size=all").fit().outcome == "completed"


# ---- the scale of float16 -------------------------------------------------------------------------------------------


def large(factor: float) -> DataSource:
    """Return examples whose errors, and gradients of the loss by the prediction, are about ``factor``."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(16, 2, generator=generator)
    return DataSource(TensorDataset(inputs, torch.full((16, 1), factor)), in_features=2, out_features=1)


def scaled(callbacks: dict[str, Any], factor: float = 1.0, **train: Any) -> Run:
    config = {"train": {"epochs": 4, "batch_size": 8, **train}, "optimizer": {"lr": 0.01}, "callbacks": callbacks}
    return Run(load_config(config, plugins={"data": large(factor)}))


def test_updates_that_overflow_are_skipped_until_the_scale_fits() -> None:
    run = scaled({"mixed-precision": {"dtype": "float16"}}, factor=100.0, epochs=6)
    weights = [run.unwrapped_model.state_dict()["weight"].clone()]
    scales = []
    for _ in run.steps():
        weights.append(run.unwrapped_model.state_dict()["weight"].clone())
        scales.append(run.state_dict()["plugins"]["callbacks.mixed-precision"]["scale"]["scale"])
    # The gradient of the mean squared error by the bias is 2 * 100, and 200 * 2^8 < 65504 < 200 * 2^9.
    assert scales == [2.0**15, 2.0**14, 2.0**13, 2.0**12, 2.0**11, 2.0**10, 2.0**9, *[2.0**8] * 5]
    is_skipped = [torch.equal(one, other) for one, other in itertools.pairwise(weights)]
    assert is_skipped == [True] * 8 + [False] * 4


def test_a_run_resumed_while_the_scale_falls_ends_with_the_same_bits() -> None:
    callbacks = {"mixed-precision": {"dtype": "float16"}}
    whole = scaled(callbacks, 100.0).fit()
    first, second = scaled(callbacks, 100.0), scaled(callbacks, 100.0)
    second.load_state_dict(next(first.state_dict() for step in first.steps() if step.step == 3))
    assert weights_of(second.fit()) == weights_of(whole)


@pytest.mark.parametrize("micro_batch_size", [0, 3])
@pytest.mark.parametrize("order", [("clip-gradients", "mixed-precision"), ("mixed-precision", "clip-gradients")])
def test_clipping_sees_the_gradients_of_the_loss_itself_in_any_order(
    order: tuple[str, str], micro_batch_size: int
) -> None:
    tables = {"clip-gradients": {"max_norm": 0.05}, "mixed-precision": {"dtype": "float16"}}
    norms: list[float] = []

    class Norms:
        @hookimpl(wrapper=True, trylast=True)
        def build_update(self, run: Run) -> Any:
            update = yield

            def noted_update() -> None:
                norms.append(float(clip_grad_norm_(run.model.parameters(), torch.inf)))
                update()

            return noted_update

    config = {"train": {"epochs": 2, "batch_size": 8, "micro_batch_size": micro_batch_size}}
    plugins = {"data": large(0.1), "callbacks.norms": Norms()}
    run = Run(load_config({**config, "callbacks": {name: tables[name] for name in order}}, plugins=plugins))
    run.fit()
    assert norms == pytest.approx([0.05] * 4, rel=1e-3)


def test_the_order_in_which_clipping_is_listed_changes_no_bit() -> None:
    clip, narrow = ("clip-gradients", {"max_norm": 0.05}), ("mixed-precision", {"dtype": "float16"})
    ends = [weights_of(scaled(dict(callbacks), 0.1).fit()) for callbacks in ([clip, narrow], [narrow, clip])]
    assert ends[0] == ends[1]


class Shrinks:
    """Adds a penalty on the weights to the loss before the backward pass."""

    @hookimpl(wrapper=True)
    def build_backward(self, run: Run) -> Any:
        backward = yield
        return lambda loss: backward(loss + 10 * sum(p.square().sum() for p in run.model.parameters()))


@pytest.mark.parametrize("order", [("shrinks", "mixed-precision"), ("mixed-precision", "shrinks")])
def test_what_other_plugins_add_to_the_loss_is_scaled_with_it_in_any_order(order: tuple[str, str]) -> None:
    tables: dict[str, Any] = {"shrinks": Shrinks(), "mixed-precision": {"use": "mixed-precision", "dtype": "float16"}}
    config = {"train": {"epochs": 1, "batch_size": 8}, "optimizer": {"lr": 0.01}}
    callbacks = {name: tables[name] if name == "mixed-precision" else {"use": tables[name]} for name in order}
    run = Run(load_config({**config, "callbacks": callbacks}, plugins={"data": large(0.1)}))
    wide = Run(load_config(config, plugins={"data": large(0.1), "callbacks.shrinks": Shrinks()}))
    expected = wide.fit().model.state_dict()["weight"]
    run.fit()
    assert torch.allclose(run.unwrapped_model.state_dict()["weight"], expected, rtol=0, atol=1e-5)


class Breaks(nn.Module):
    """A linear model whose gradient is NaN in training, whatever the scale, though its loss is finite."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs: Tensor) -> Any:
        output = self.layer(inputs)
        # The root of 0 has an infinite derivative, which times 0 is NaN.
        return output + torch.sqrt(output * 0) if self.training else output


def test_a_run_that_skips_too_many_consecutive_updates_fails_with_the_reason() -> None:
    table = {"dtype": "float16", "max_skipped_steps": 3}
    run = Run(load_config({**CONFIG, "callbacks": {"mixed-precision": table}}, plugins={"model": Breaks()}))
    before = copy.deepcopy(run.model.state_dict())
    with pytest.raises(NonFiniteError) as caught:
        run.fit()
    assert caught.value.message == (
        "the gradients are not finite in float16 in 3 consecutive steps, most recently with the loss scaled by 16384 "
        "in step 3 (epoch 1); these updates were skipped"
    )
    assert (caught.value.epoch, caught.value.step, len(caught.value.indices)) == (1, 3, 8)
    assert "set dtype to 'bfloat16'" in (caught.value.hint or "")
    assert all(torch.equal(weight, before[name]) for name, weight in run.model.state_dict().items())


def test_a_resumed_run_continues_the_count_of_skipped_steps() -> None:
    table = {"dtype": "float16", "max_skipped_steps": 5}

    def make() -> Run:
        return Run(load_config({**CONFIG, "callbacks": {"mixed-precision": table}}, plugins={"model": Breaks()}))

    first, second = make(), make()
    second.load_state_dict(next(first.state_dict() for step in first.steps() if step.step == 3))
    with pytest.raises(NonFiniteError, match="in 5 consecutive steps"):
        second.fit()
    assert second.step == 4


def test_an_update_resets_the_count() -> None:
    run = scaled({"mixed-precision": {"dtype": "float16", "max_skipped_steps": 9}}, factor=100.0, epochs=6)
    assert run.fit().outcome == "completed"
    assert run.state_dict()["plugins"]["callbacks.mixed-precision"]["num_skipped"] == 0


def test_a_non_finite_loss_is_reported_by_the_run() -> None:
    class Loss(nn.MSELoss):
        factor = 1.0

        def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
            return super().forward(prediction, target) * self.factor

    loss = Loss()
    run = mixed("float16", plugins={"loss": loss})
    steps = run.steps()
    assert [next(steps).step, next(steps).step] == [1, 2]
    loss.factor = torch.nan
    with pytest.raises(NonFiniteError, match=r"the loss is nan in step 3 \(epoch 1\), before the weights"):
        next(steps)
