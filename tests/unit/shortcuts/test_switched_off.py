"""The room ``shortcuts`` switched off: torch is called in its own way, and every number is the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hookline import Run, load_config

CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "momentum": {"optimizer": {"use": "sgd", "momentum": 0.9, "nesterov": True}},
    "adam": {"model": "mlp", "optimizer": "adam"},
    "adamw in float64": {"train": {"dtype": "float64"}, "model": "mlp", "optimizer": "adamw"},
    "micro-batches": {"train": {"micro_batch_size": 3}, "model": "mlp"},
    "clipping": {"callbacks": {"clip-gradients": {"max_norm": 0.1}}},
    "schedule": {"callbacks": {"lr-schedule": {"interval": "step"}}},
    "dropout": {"model": {"use": "mlp", "dropout": 0.25}, "optimizer": "rmsprop"},
    "closure": {"train": {"batch_size": "all"}, "optimizer": "lbfgs"},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_without_shortcuts_ends_with_the_same_bits(name: str) -> None:
    runs = [
        Run(load_config(CONFIGS[name], {"data.num_examples": 50}), shortcuts=shortcuts) for shortcuts in (True, False)
    ]
    with_them, without = (run.fit() for run in runs)
    assert with_them.history == without.history
    for ours, theirs in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_without_shortcuts_torch_is_called_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    class Noting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            called.append("step")
            return super().step(closure)

        def zero_grad(self, set_to_none: bool = True) -> None:
            called.append("zero_grad")
            super().zero_grad(set_to_none)

    backward: Any = torch.Tensor.backward

    def noted(*arguments: Any, **options: Any) -> None:
        called.append("backward")
        backward(*arguments, **options)

    monkeypatch.setattr(torch.Tensor, "backward", noted)
    model = torch.nn.Linear(2, 1)
    plugins = {"model": model, "optimizer": Noting(model.parameters(), lr=0.1)}
    Run(load_config({"train": {"max_steps": 1}}, plugins=plugins), shortcuts=False).fit()
    assert called == ["zero_grad", "backward", "step"]
