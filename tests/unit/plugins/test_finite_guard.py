"""``FiniteGuard``: NaN and infinity never reach the weights."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Generator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hookline import ConfigError, ContractError, DataSource, NonFiniteError, Run, RunView, hookimpl, load_config, train
from hookline.engine import Guard


def data_with(bad: float, at: int, num_examples: int = 12) -> DataSource:
    """Return examples with a bad one at an index, for batches of 4 in the order of the data."""
    inputs = torch.arange(num_examples, dtype=torch.float32).unsqueeze(1) / num_examples
    targets = 2 * inputs
    inputs[at] = bad
    return DataSource(TensorDataset(inputs, targets), in_features=1, out_features=1)


IN_ORDER = {"train": {"epochs": 1, "batch_size": 4, "shuffle": False, "evaluate": []}}


def linear(weight: float) -> nn.Linear:
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, weight)
    nn.init.zeros_(layer.bias)
    return layer


class RootLoss(nn.Module):
    """The mean root of the absolute error: its gradient is infinite where the error is 0."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs().sqrt().mean()


def weights_after(run: Run) -> list[float]:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()]).tolist()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_ends_the_run_before_the_weights_are_touched(bad: float) -> None:
    run = Run(load_config(IN_ORDER, plugins={"data": data_with(bad, at=6)}))
    with pytest.raises(NonFiniteError) as caught:
        run.fit()
    clean = Run(load_config(IN_ORDER, {"train.max_steps": 1}, plugins={"data": data_with(bad, at=6)}))
    clean.fit()
    assert weights_after(run) == weights_after(clean)
    error = caught.value
    assert (error.epoch, error.step, error.indices, error.exit_code) == (1, 2, (4, 5, 6, 7), 6)
    assert "in step 2 (epoch 1), before the weights were touched; first in the input" in error.message
    assert "its examples are 4, 5, 6, 7; the seed is 0" in error.message
    assert "train.max_steps=2" in str(error.hint)


def test_the_run_that_the_message_names_ends_at_the_same_place() -> None:
    with pytest.raises(NonFiniteError) as caught:
        train({"optimizer": {"lr": 1e6}})
    assert caught.value.step is not None
    with pytest.raises(NonFiniteError) as again:
        train({"optimizer": {"lr": 1e6}}, {"train.max_steps": caught.value.step})
    assert (again.value.step, again.value.indices) == (caught.value.step, caught.value.indices)


def test_a_gradient_that_is_not_finite_ends_the_run_and_its_parameter_is_named() -> None:
    model = nn.Sequential(linear(0.0), nn.Identity())
    inputs = torch.ones(4, 1)
    source = DataSource(TensorDataset(inputs, torch.zeros(4, 1)), in_features=1, out_features=1)
    plugins = {"data": source, "model": model, "loss": RootLoss()}
    run = Run(load_config(IN_ORDER, plugins=plugins))
    with pytest.raises(NonFiniteError, match=r"the gradient of '0\.weight' is not finite in step 1"):
        run.fit()
    assert weights_after(run) == [0.0, 0.0]


def test_the_first_part_of_the_model_with_a_bad_output_is_named() -> None:
    class Explodes(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs / (inputs - inputs) if bool((inputs > 0.4).any()) else inputs

    model = nn.Sequential(linear(1.0), Explodes(), linear(1.0))
    plugins = {"data": data_with(0.5, at=6), "model": model}
    with pytest.raises(NonFiniteError, match="; first in the output of '1'"):
        train(IN_ORDER, {"train.batch_size": 2}, plugins=plugins)


def test_an_update_that_is_skipped_leaves_weights_and_the_mean_loss_alone_and_warns() -> None:
    config = {"train": {**IN_ORDER["train"], "non_finite": "skip"}}
    result = train(config, plugins={"data": data_with(float("nan"), at=6)})
    assert (result.outcome, result.steps) == ("completed", 3)
    assert result.warnings == ("the loss is nan in step 2 (epoch 1): the step was skipped",)
    assert torch.isfinite(torch.tensor(result.metrics["train/running_loss"]))
    assert all(torch.isfinite(p).all() for p in result.model.parameters())


def test_a_run_that_only_skips_fails_in_the_end() -> None:
    source = DataSource(TensorDataset(torch.ones(4, 1), torch.zeros(4, 1)), in_features=1, out_features=1)

    class Spoils:
        @hookimpl(wrapper=True)
        def build_update(self, run: Run) -> Generator[None, Any, Any]:
            update = yield

            def spoiled() -> None:
                run.model.weight.grad.fill_(float("inf"))  # type: ignore[operator, union-attr] # it has a gradient
                update()

            return spoiled

    config = {"train": {"epochs": 200, "batch_size": 4, "non_finite": "skip", "evaluate": []}}
    plugins = {"data": source, "callbacks.spoils": Spoils()}
    with pytest.raises(NonFiniteError, match="in step 100 ") as caught:
        train(config, plugins=plugins)
    assert caught.value.step == 100


class OwnStep:
    """A step that updates the weights by ``update``: the run's, or the optimizer's own."""

    def __init__(self, *, is_guarded: bool) -> None:
        self.is_guarded = is_guarded

    @hookimpl
    def build_step(self, run: RunView) -> Any:
        def step(batch: Any) -> Tensor:
            run.optimizer.zero_grad()
            loss = run.loss(run.model(batch[0]), batch[1])
            run.backward(loss)
            update = run.update if self.is_guarded else run.optimizer.step
            update()
            return loss.detach()

        return step


def test_a_step_of_a_plugin_that_skips_nothing_is_refused_by_name() -> None:
    own = {"data": data_with(float("nan"), at=6), "callbacks.own": OwnStep(is_guarded=False)}
    with pytest.raises(
        ConfigError, match=r"step of callback 'OwnStep' .* skips no update, but train\.non_finite"
    ) as caught:
        train(IN_ORDER, {"train.non_finite": "skip"}, plugins=own)
    assert "asks run.finite_guard" in str(caught.value.hint)
    assert train(IN_ORDER, {"train.non_finite": "ignore", "train.max_steps": 1}, plugins=own).outcome == "completed"
    first = Run(load_config(IN_ORDER, plugins=own))
    state = next(first.state_dict() for _ in first.steps())
    resumed = Run(load_config(IN_ORDER, {"train.non_finite": "skip"}, plugins=own))
    resumed.load_state_dict(state)
    with pytest.raises(ConfigError, match="skips no update"):
        resumed.fit()


def test_a_step_of_a_plugin_skips_by_the_update_of_the_run() -> None:
    own = {"data": data_with(float("nan"), at=6), "callbacks.own": OwnStep(is_guarded=True)}
    run = Run(load_config(IN_ORDER, {"train.non_finite": "skip"}, plugins=own))
    assert run.fit().outcome == "completed"
    assert torch.tensor(weights_after(run)).isfinite().all()


def test_nothing_is_checked_with_ignore() -> None:
    config = {"train": {**IN_ORDER["train"], "non_finite": "ignore"}}
    run = Run(load_config(config, plugins={"data": data_with(float("nan"), at=6)}))
    with pytest.raises(NonFiniteError, match="train/running_loss is nan in epoch 1"):
        run.fit()
    assert run.step == 3


# ---- as on an accelerator: a device that is not to be asked in each step ---------------------------------------------


@pytest.fixture
def slow_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the code path of an accelerator, on the CPU."""
    monkeypatch.setattr("hookline_plugins.steps.finite_guard._is_quick", lambda device: False)


FUSED = {
    "sgd": {"use": "sgd", "lr": 0.1, "fused": True},
    "momentum": {"use": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "fused": True},
    "adam": {"use": "adam", "lr": 0.1, "weight_decay": 0.1, "fused": True},
    "adamw": {"use": "adamw", "lr": 0.1, "amsgrad": True, "fused": True},
}
LONG = {"train": {"epochs": 2, "batch_size": 1, "shuffle": False, "evaluate": [], "max_steps": 90}}


def bad_gradient_at(step: int) -> Any:
    """Return a callback that makes one gradient infinite in a step; the loss is finite all the time."""

    class Spoils:
        @hookimpl(wrapper=True)
        def build_update(self, run: Run) -> Generator[None, Any, Any]:
            update = yield

            def spoiled() -> None:
                if run.step + 1 == step:
                    run.model.bias.grad.fill_(float("inf"))  # type: ignore[operator, union-attr] # it has a gradient
                update()

            return spoiled

    return Spoils()


def long_run(overrides: Any = (), optimizer: Any = "sgd", **plugins: Any) -> Run:
    source = data_with(0.5, at=0, num_examples=60)
    return Run(
        load_config(
            {**LONG, "optimizer": optimizer}, overrides, plugins={"data": source, "model": linear(0.5)} | plugins
        )
    )


@pytest.mark.parametrize("is_clipped", [False, True], ids=["plain", "clipped"])
@pytest.mark.parametrize("optimizer", list(FUSED.values()), ids=list(FUSED))
@pytest.mark.parametrize("step", [1, 7, 51, 70])
def test_a_fused_optimizer_leaves_the_weights_as_they_were_before_the_first_bad_step(
    step: int, optimizer: Any, is_clipped: bool, slow_device: None
) -> None:
    callbacks = {"callbacks": {"clip-gradients": {"max_norm": 1.0}}} if is_clipped else {}
    bad = long_run(callbacks, optimizer, **{"callbacks.spoils": bad_gradient_at(step)})
    with pytest.raises(NonFiniteError) as caught:
        bad.fit()
    good = long_run({**callbacks, "train.max_steps": step - 1, "train.epochs": 2 if step > 1 else 0}, optimizer)
    good.fit()
    assert weights_after(bad) == weights_after(good)
    error = caught.value
    assert error.message.startswith(
        f"a loss or gradient is not finite in step {step}, before the weights were touched;"
    )
    # 60 steps in an epoch, in the order of the data.
    assert (error.epoch, error.step, error.indices) == (1 + (step - 1) // 60, step, ((step - 1) % 60,))
    assert not hasattr(bad.optimizer, "found_inf")


def test_a_loss_that_is_not_finite_keeps_a_fused_optimizer_from_the_weights(slow_device: None) -> None:
    source = data_with(float("nan"), at=6, num_examples=60)
    run = long_run((), FUSED["adam"], data=source)
    with pytest.raises(NonFiniteError, match="in step 7, before the weights were touched; its examples are 6;"):
        run.fit()
    assert run.step == 50
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


def test_a_fused_optimizer_does_the_same_as_without_a_guard_while_all_is_finite(slow_device: None) -> None:
    guarded, free = long_run((), FUSED["adamw"]), long_run({"train.non_finite": "ignore"}, FUSED["adamw"])
    guarded.fit()
    free.fit()
    assert weights_after(guarded) == weights_after(free)


def test_changed_weights_of_another_optimizer_are_reported(slow_device: None) -> None:
    run = long_run(**{"callbacks.spoils": bad_gradient_at(7)})
    with pytest.raises(NonFiniteError, match="in step 7, found after 50 steps; its examples are 6;"):
        run.fit()
    assert not all(torch.isfinite(p).all() for p in run.model.parameters())


def test_one_group_that_is_not_fused_is_updated_as_usual(slow_device: None) -> None:
    model = linear(0.5)
    groups: list[dict[str, Any]] = [{"params": [model.weight]}, {"params": [model.bias], "fused": False}]
    optimizer = torch.optim.Adam(groups, lr=0.1, fused=True)
    run = Run(
        load_config(
            LONG, plugins={"data": data_with(0.5, at=0, num_examples=60), "model": model, "optimizer": optimizer}
        )
    )
    assert run.fit().outcome == "completed"


def test_a_slow_device_is_read_every_fifty_steps_and_at_the_end_of_an_epoch(slow_device: None) -> None:
    run = long_run()
    guard, asked = run.finite_guard, []
    look = guard.look

    def noted() -> None:
        asked.append(run.step)
        look()

    guard.look = noted  # type: ignore[method-assign] # to see when it is called
    run.fit()
    # In such a step, both the loss and the gradients are checked.
    assert asked == [0, 0, 50, 50, 60, 90]


def test_a_gradient_that_is_bad_after_the_last_read_is_found_at_the_end_of_the_epoch(slow_device: None) -> None:
    run = long_run((), FUSED["sgd"], **{"callbacks.spoils": bad_gradient_at(55)})
    with pytest.raises(NonFiniteError, match="in step 55, before"):
        run.fit()
    assert run.step == 60


def test_a_step_of_an_epoch_before_is_named_where_no_epoch_ends(slow_device: None) -> None:
    run = long_run((), FUSED["sgd"], **{"callbacks.spoils": bad_gradient_at(55)})
    with pytest.raises(NonFiniteError, match="in step 55, before") as caught:
        collections.deque(run.try_steps(), maxlen=0)
    assert (run.epoch, caught.value.epoch, caught.value.indices) == (2, 1, (54,))


def test_a_run_that_has_skipped_updates_has_no_state(slow_device: None) -> None:
    run = long_run((), FUSED["sgd"], **{"callbacks.spoils": bad_gradient_at(7)})
    with pytest.raises(NonFiniteError, match="in step 7, before"):
        next(run.state_dict() for step in run.steps() if step.step == 9)


def test_each_read_that_finds_an_update_not_skipped_is_a_warning(slow_device: None) -> None:
    settings = {"train.non_finite": "skip", "train.epochs": 1}
    run = long_run(settings, FUSED["sgd"], **{"callbacks.spoils": bad_gradient_at(7)})
    with pytest.raises(NonFiniteError, match="train/running_loss is"):
        run.fit()
    said = (
        "a loss or gradient is not finite in step 7, found after step 50: on an accelerator its update was not skipped"
    )
    assert run.warnings[0] == said
    # By then the weights are not finite, and neither is any later step.
    assert run.warnings[1].startswith("a loss or gradient is not finite in step 51, ")


def test_gradients_with_an_overflowing_norm_are_finite_on_a_slow_device_too(slow_device: None) -> None:
    class Huge:
        @hookimpl(wrapper=True)
        def build_update(self, run: Run) -> Generator[None, Any, Any]:
            update = yield

            def enlarged() -> None:
                for parameter in run.model.parameters():
                    parameter.grad = torch.full_like(parameter, 3e38)
                update()

            return enlarged

    model = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 1))
    assert long_run((), {"lr": 0.0}, **{"callbacks.huge": Huge(), "model": model}).fit().outcome == "completed"


# ---- what else there is of a step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 3])
def test_a_batch_in_parts_is_guarded_too(size: int) -> None:
    run = Run(load_config(IN_ORDER, {"train.micro_batch_size": size}, plugins={"data": data_with(float("nan"), at=7)}))
    with pytest.raises(NonFiniteError, match="in step 2 "):
        run.fit()
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


def test_the_closure_of_an_optimizer_is_guarded_too() -> None:
    config = {**IN_ORDER, "optimizer": {"use": "lbfgs"}}
    with pytest.raises(NonFiniteError, match="the loss is nan in step 2 "):
        train(config, plugins={"data": data_with(float("nan"), at=7)})


@pytest.mark.parametrize("num_layers", [1, 20], ids=["few", "many"])
def test_gradients_with_an_overflowing_sum_are_finite(num_layers: int) -> None:
    class Huge:
        @hookimpl(wrapper=True)
        def build_update(self, run: Run) -> Generator[None, Any, Any]:
            update = yield

            def enlarged() -> None:
                for parameter in run.model.parameters():
                    parameter.grad = torch.full_like(parameter, 3e38)
                update()

            return enlarged

    layers = [nn.Linear(4, 4) for _ in range(num_layers)]
    source = DataSource(TensorDataset(torch.ones(4, 4), torch.ones(4, 4)), in_features=4, out_features=4)
    plugins = {"data": source, "model": nn.Sequential(*layers), "callbacks.huge": Huge()}
    config = {**IN_ORDER, "optimizer": {"lr": 0.0}}
    assert train(config, plugins=plugins).outcome == "completed"


def test_gradients_that_float32_could_not_hold_are_finite_in_float64() -> None:
    class Huge:
        @hookimpl(wrapper=True)
        def build_backward(self, run: Run) -> Generator[None, Any, Any]:
            yield

            def huge(_: Tensor) -> None:
                for parameter in run.model.parameters():
                    parameter.grad = torch.full_like(parameter, 1e300)

            return huge

    config = {"train": {**IN_ORDER["train"], "dtype": "float64"}, "optimizer": {"lr": 0.0}}
    assert train(config, plugins={"data": data_with(0.5, at=0), "callbacks.huge": Huge()}).outcome == "completed"


def spoiling(change: Callable[[Tensor], Tensor]) -> Any:
    """Return a plugin that changes the gradients before they are checked."""

    class Spoils:
        @hookimpl(wrapper=True)
        def build_backward(self, run: Run) -> Generator[None, Any, Any]:
            backward = yield

            def spoiled(loss: Tensor) -> None:
                backward(loss)
                for parameter in run.model.parameters():
                    parameter.grad = change(cast(Tensor, parameter.grad))

            return spoiled

    return Spoils()


@pytest.mark.parametrize(
    "change",
    [
        lambda gradient: gradient.to_sparse(),
        lambda gradient: gradient.sum().expand(gradient.shape),
        lambda gradient: gradient.detach().requires_grad_() * 1.0,
    ],
    ids=["sparse", "of one value in memory", "with a graph of its own"],
)
def test_gradients_of_all_forms_are_checked(change: Callable[[Tensor], Tensor]) -> None:
    data = data_with(0.5, at=0)
    config = {**IN_ORDER, "optimizer": {"lr": 0.0}}
    assert train(config, plugins={"data": data, "callbacks.spoils": spoiling(change)}).outcome == "completed"
    bad = spoiling(lambda gradient: change(gradient * float("nan")))
    with pytest.raises(NonFiniteError, match="the gradient of 'weight' is not finite in step 1"):
        train(config, plugins={"data": data, "callbacks.spoils": bad})


def test_the_check_changes_no_gradient() -> None:
    values = torch.tensor([[-0.0, 1e-45, 3e38, -1e-40]])

    class Sees:
        @hookimpl(wrapper=True)
        def build_backward(self, run: Run) -> Generator[None, Any, Any]:
            yield

            def fixed(_: Tensor) -> None:
                run.model.weight.grad = values.clone()

            return fixed

        @hookimpl
        def on_step_end(self, run: Run) -> None:
            seen.append(cast(Tensor, run.model.weight.grad))

    seen: list[Tensor] = []
    source = DataSource(TensorDataset(torch.ones(4, 4), torch.ones(4, 1)), in_features=4, out_features=1)
    config = {"train": {"epochs": 1, "evaluate": []}, "optimizer": {"lr": 0.0}}
    train(config, plugins={"data": source, "callbacks.sees": Sees()})
    assert seen[0].view(torch.int32).tolist() == values.view(torch.int32).tolist()


def test_one_bad_gradient_among_many_is_found() -> None:
    class Spoils:
        @hookimpl(wrapper=True)
        def build_update(self, run: Run) -> Generator[None, Any, Any]:
            update = yield

            def spoiled() -> None:
                last = list(run.model.parameters())[-1]
                assert last.grad is not None
                last.grad[0] = float("-inf")
                update()

            return spoiled

    layers = [nn.Linear(1, 1) for _ in range(20)]
    plugins = {"data": data_with(0.5, at=0), "model": nn.Sequential(*layers), "callbacks.spoils": Spoils()}
    with pytest.raises(NonFiniteError, match=r"the gradient of '19\.bias' is not finite in step 1"):
        train(IN_ORDER, plugins=plugins)


def test_a_parameter_has_its_name_in_the_model_without_wrappers() -> None:
    class Around:
        @hookimpl(wrapper=True)
        def build_model(self) -> Generator[None, nn.Module, nn.Module]:
            return nn.Sequential((yield))

        @hookimpl(wrapper=True)
        def build_update(self, run: Run) -> Generator[None, Any, Any]:
            update = yield

            def spoiled() -> None:
                for parameter in run.model.parameters():
                    parameter.grad = torch.full_like(parameter, float("nan"))
                update()

            return spoiled

    plugins = {"data": data_with(0.5, at=0), "callbacks.around": Around()}
    with pytest.raises(NonFiniteError, match="the gradient of 'weight' is not finite"):
        train(IN_ORDER, plugins=plugins)


class Counting(Guard):
    """Counts the losses, and accepts all."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def accepts_loss(self, loss: Tensor, batch: Any = None) -> bool:
        self.losses.append(loss.item())
        return True


def test_the_check_of_a_plugin_takes_the_place_of_the_default_one() -> None:
    class Brings:
        @hookimpl
        def build_guard(self, run: RunView) -> Guard:
            self.guard = Counting()
            assert run.optimizer.param_groups, "it is built after the optimizer"
            return self.guard

    brings = Brings()
    plugins = {"data": data_with(float("nan"), at=6), "callbacks.brings": brings}
    run = Run(load_config(IN_ORDER, plugins=plugins))
    with pytest.raises(NonFiniteError, match="train/running_loss is nan in epoch 1"):
        run.fit()
    assert (run.step, run.finite_guard) == (3, brings.guard)
    assert [math.isfinite(loss) for loss in brings.guard.losses] == [True, False, False]


def test_what_is_no_guard_is_refused() -> None:
    class Brings:
        @hookimpl
        def build_guard(self) -> Any:
            return print

    with pytest.raises(
        ContractError, match=r"build_guard of callback 'Brings' .* returned a builtin_function_or_method"
    ):
        Run(load_config(IN_ORDER, plugins={"callbacks.brings": Brings()}))
