"""Runs on an accelerator: on a GPU if there is one, otherwise on the CPU, where only their program is checked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from hookline import DataSource, NonFiniteError, Run, TrainingError, load_config

DEVICE = torch.device(os.environ.get("HOOKLINE_TEST_DEVICE", "cuda" if torch.cuda.is_available() else "cpu"))
on_gpu = pytest.mark.skipif(DEVICE.type != "cuda", reason="there is no GPU here")
STRIDE = 50
"""Steps after which a run on an accelerator looks whether a number was not finite."""


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    """Let torch use deterministic kernels alone, where it has them."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


class Rows(Dataset[Any]):
    """The examples of a dataset, one by one."""

    def __init__(self, data: TensorDataset) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Any:
        return self._data[index]


def tensors(num: int = 96, width: int = 16) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(num, width, generator=generator)
    return TensorDataset(inputs, inputs[:, :1].sin() + 0.1 * torch.randn(num, 1, generator=generator))


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1))


def run_of(data: Any = None, model: Any = net, **tables: Any) -> Run:
    train = {"epochs": 2, "batch_size": 8, "device": str(DEVICE), **tables.pop("train", {})}
    dataset = tensors() if data is None else data
    source = DataSource(dataset, dataset, in_features=16, out_features=1)
    config = {"optimizer": {"use": "adamw", "lr": 0.01}, **tables, "train": train}
    return Run(load_config(config, plugins={"data": source, "model": model}))


def bits(run: Run) -> list[Tensor]:
    return [weight.detach().cpu().clone() for weight in run.unwrapped_model.state_dict().values()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_ends_with_the_bits_of_a_loop_written_out(optimizer: str) -> None:
    def plain() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))

    run = run_of(model=plain, optimizer={"use": optimizer, "lr": 0.01})
    model = plain().to(DEVICE)
    model.load_state_dict(run.model.state_dict())
    classes: dict[str, Any] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    by_hand = classes[optimizer](model.parameters(), lr=0.01)
    inputs, targets = tensors().tensors
    run.fit()
    for epoch in (1, 2):
        for rows in torch.split(run.batch_order(epoch), 8):
            by_hand.zero_grad()
            nn.functional.mse_loss(model(inputs[rows].to(DEVICE)), targets[rows].to(DEVICE)).backward()  # type: ignore[no-untyped-call] # torch leaves it so
            by_hand.step()
    assert same(bits(run), [weight.cpu() for weight in model.state_dict().values()])


@pytest.mark.parametrize("callbacks", [{}, {"mixed-precision": {}}, {"averaging": {}}], ids=str)
@pytest.mark.parametrize("step", [1, 7, 13, 23] if DEVICE.type == "cuda" else [13])
def test_a_resumed_run_ends_with_the_same_bits(step: int, callbacks: dict[str, Any]) -> None:
    whole = run_of(callbacks=callbacks)
    whole.fit()
    interrupted = run_of(callbacks=callbacks)
    for taken in interrupted.steps():
        if taken.step == step:
            state = interrupted.state_dict()
            break
    resumed = run_of(callbacks=callbacks)
    resumed.load_state_dict(state)
    resumed.fit()
    assert same(bits(whole), bits(resumed))
    assert whole.history == resumed.history


def test_a_number_that_is_not_finite_ends_the_run_within_a_stride() -> None:
    data = tensors(num=8 * 2 * STRIDE)
    data.tensors[1][13] = torch.nan
    run = run_of(data, train={"shuffle": False, "epochs": 1, "evaluate": []}, optimizer={"use": "adamw", "fused": True})
    with pytest.raises(NonFiniteError, match="step 2"):
        run.fit()
    assert run.step <= STRIDE
    assert all(weight.isfinite().all() for weight in bits(run))  # fused updates are held back on the device


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_learns(dtype: str) -> None:
    run = run_of(callbacks={"mixed-precision": {"dtype": dtype}}, train={"epochs": 20})
    run.fit()
    assert run.history[-1]["validation/loss"] < 0.5 * run.history[0]["validation/loss"]


def test_workers_and_pinned_memory_give_the_same_batches() -> None:
    runs = [run_of(Rows(tensors()), train={"num_workers": num, "epochs": 1}) for num in (0, 2)]
    for run in runs:
        run.fit()
    assert same(*map(bits, runs))


@on_gpu
def test_a_compiled_model_learns() -> None:
    run = run_of(callbacks={"compile": {}}, train={"epochs": 20})
    run.fit()
    assert run.history[-1]["validation/loss"] < 0.5 * run.history[0]["validation/loss"]


@on_gpu
def test_steps_do_not_wait_for_the_device() -> None:
    run = run_of(tensors(num=8 * 45), train={"epochs": 1, "evaluate": []}, callbacks={"try-first-batch": "off"})
    steps = run.steps()
    next(steps)  # the first one checks its result
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(40):
            next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_gpu
def test_a_lack_of_memory_is_explained_and_halved_away() -> None:
    class Greedy(nn.Module):
        """Needs a third of the memory for each example."""

        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(16, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            if self.training:
                memory = torch.cuda.get_device_properties(DEVICE).total_memory
                torch.empty(len(inputs) * memory // 3, dtype=torch.uint8, device=DEVICE)
            return self.line(inputs)  # type: ignore[no-any-return] # modules are

    tables: dict[str, Any] = {"model": Greedy, "train": {"epochs": 1, "evaluate": []}}
    with pytest.raises(TrainingError, match="out of memory in step 1"):
        run_of(**tables, callbacks={"try-first-batch": "off"}).fit()
    run = run_of(**tables, callbacks={"try-first-batch": "off", "halve-micro-batches": {}})
    run.fit()
    assert run.micro_batch_size == 2
