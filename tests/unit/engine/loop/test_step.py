"""The default training step, and the evaluation mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from hookline import Catalog, DataSource, Run, load_config
from hookline.engine.loop.evaluation import evaluation_mode
from line import INPUTS, TARGETS, linear

MakeCatalog = Callable[..., Catalog]


def default_step(catalog: Catalog, model: nn.Module, optimizer: Any) -> Callable[[Any], Tensor]:
    plugins = {
        "data": DataSource(TensorDataset(INPUTS, TARGETS)),
        "model": model,
        "loss": nn.MSELoss(),
        "optimizer": optimizer,
    }
    return Run(load_config(plugins=plugins, catalog=catalog))._loop.parts.step


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# ---- the step --------------------------------------------------------------------------------------------------------


def test_the_default_step_is_the_step_that_one_writes_by_hand_bit_for_bit(
    catalog_with: MakeCatalog,
) -> None:
    model, by_hand = linear(), linear()
    step = default_step(catalog_with(), model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        expected = functional.mse_loss(by_hand(INPUTS), TARGETS)
        expected.backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated
        optimizer.step()
        assert torch.equal(step((INPUTS, TARGETS)), expected.detach())
        assert torch.equal(flat(model), flat(by_hand))


def test_the_loss_of_a_step_is_a_scalar_from_before_the_update_without_a_graph(
    catalog_with: MakeCatalog,
) -> None:
    model = linear()
    step = default_step(catalog_with(), model, torch.optim.SGD(model.parameters(), lr=0.1))
    before = functional.mse_loss(model(INPUTS), TARGETS).item()
    loss = step([INPUTS, TARGETS])
    assert (loss.dim(), loss.requires_grad, loss.item()) == (0, False, before)


def test_an_optimizer_that_needs_a_closure_gets_one(catalog_with: MakeCatalog) -> None:
    model = linear()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=50, line_search_fn="strong_wolfe")
    step = default_step(catalog_with(), model, optimizer)
    before = functional.mse_loss(model(INPUTS), TARGETS).item()
    loss = step((INPUTS, TARGETS))
    assert (loss.dim(), loss.requires_grad, loss.item()) == (0, False, before)
    assert torch.allclose(flat(model), torch.tensor([1.0, -2.0, 3.0, 0.5]), atol=1e-3)
    assert step((INPUTS, TARGETS)).item() < 1e-6


def test_an_optimizer_that_can_do_without_a_closure_gets_none(catalog_with: MakeCatalog) -> None:
    class Watched(torch.optim.SGD):
        closures: list[Any]

        def step(self, closure: Any = None) -> Any:
            self.closures.append(closure)
            return super().step(closure)

    model = linear()
    optimizer = Watched(model.parameters(), lr=0.1)
    optimizer.closures = []
    default_step(catalog_with(), model, optimizer)((INPUTS, TARGETS))
    assert optimizer.closures == [None]


def test_gradients_of_one_step_do_not_add_to_those_of_the_next(catalog_with: MakeCatalog) -> None:
    model = linear()
    step = default_step(catalog_with(), model, torch.optim.SGD(model.parameters(), lr=0.0))
    step((INPUTS, TARGETS))
    first = model.weight.grad
    assert first is not None
    first = first.clone()
    step((INPUTS, TARGETS))
    second = model.weight.grad
    assert second is not None
    assert torch.equal(first, second)


# ---- evaluation mode -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_every_part_of_a_model_is_in_eval_mode_and_restored_afterwards(fails: bool) -> None:
    inner = nn.Sequential(nn.Dropout(), nn.Dropout())
    model = nn.Sequential(nn.Dropout(), inner, nn.Dropout())
    inner[0].eval()
    model[2].eval()
    before = [module.training for module in model.modules()]
    assert before == [True, True, True, False, True, False]

    def work() -> None:
        with evaluation_mode(model):
            assert not any(module.training for module in model.modules())
            if fails:
                raise LookupError

    if fails:
        with pytest.raises(LookupError):
            work()
    else:
        work()
    assert [module.training for module in model.modules()] == before
