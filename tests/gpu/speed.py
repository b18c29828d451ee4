"""Time for a step of three models on a GPU in bfloat16, in Hookline and in a loop written by hand, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import hookline
from hookline import DataSource
from hookline_plugins.models.gpt_layers import Transformer

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "L4": 121e12, "T4": 65e12}
"""Dense bfloat16 operations per second (float16 on T4) by a part of the device's name. Source: NVIDIA's data sheets."""
STEPS = 20
"""Steps of a turn."""


@dataclass(frozen=True)
class Job:
    """A model with its batches.

    Attributes:
        model: Makes the model.
        batch: Makes the inputs and targets of a number of examples.
        batch_size: Examples per step.
        tokens: Tokens of an example; 0 for a model without tokens.
    """

    model: Callable[[], nn.Module]
    batch: Callable[[int], tuple[Tensor, Tensor]]
    batch_size: int
    tokens: int = 0


def perceptron() -> nn.Module:
    """Return a perceptron of 4.2 million parameters."""
    return nn.Sequential(nn.Linear(1024, 2048), nn.ReLU(), nn.Linear(2048, 1024), nn.ReLU(), nn.Linear(1024, 10))


def convolutions() -> nn.Module:
    """Return a small convolutional network."""
    first = (nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    second = (nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(128 * 8 * 8, 10))


def gpt(layers: int, heads: int, width: int, context: int, vocabulary: int = 50304) -> nn.Module:
    """Return a GPT with learned positions and tied weights, as GPT-2 has them."""
    return Transformer(vocabulary, context, (layers, heads, width), 0.0, is_rotary=False, is_tied=True)


def _features(*shape: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    return lambda num: (torch.randn(num, *shape), torch.randint(10, (num,)))


def _tokens(length: int, vocabulary: int = 50304) -> Callable[[int], tuple[Tensor, Tensor]]:
    return lambda num: (torch.randint(vocabulary, (num, length)), torch.randint(vocabulary, (num, length)))


JOBS = {
    "MLP, 4.2 million parameters": Job(perceptron, _features(1024), 256),
    "small CNN": Job(convolutions, _features(3, 32, 32), 256),
    "GPT-2, 124 million parameters": Job(lambda: gpt(12, 12, 768, 1024), _tokens(1024), 8, tokens=1024),
}
SMALL_JOBS = {
    "MLP, 4.2 million parameters": Job(perceptron, _features(1024), 8),
    "small CNN": Job(convolutions, _features(3, 32, 32), 4),
    "small GPT": Job(lambda: gpt(2, 2, 32, 16, 100), _tokens(16, 100), 2, tokens=16),
}
"""The same in sizes for a CPU, to try the program."""


def wait(device: torch.device) -> None:
    """Wait until a device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def by_hand(job: Job, data: TensorDataset, device: torch.device) -> Iterator[None]:
    """Take a step each time, as one would write it by hand."""
    torch.manual_seed(0)
    model = job.model().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device.type == "cuda")
    inputs, targets = (tensor.to(device) for tensor in data.tensors)
    while True:
        for rows in torch.split(torch.randperm(len(inputs), device=device), job.batch_size):
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16):
                loss = nn.functional.cross_entropy(model(inputs[rows]), targets[rows])
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it so
            optimizer.step()
            yield


def with_hookline(job: Job, data: TensorDataset, device: torch.device) -> Iterator[Any]:
    """Take a step each time, with Hookline."""
    config: dict[str, Any] = {
        "train": {"epochs": 10**6, "batch_size": job.batch_size, "evaluate": [], "device": str(device)},
        "loss": "cross-entropy",
        "optimizer": {"use": "adamw", "lr": 1e-4, "fused": device.type == "cuda"},
        "callbacks": {"mixed-precision": {}},
    }
    source = DataSource(data, in_features=None, out_features=10)
    return hookline.Run(hookline.load_config(config, plugins={"data": source, "model": job.model})).steps()


def measure(job: Job, device: torch.device, seconds: float) -> dict[str, Any]:
    """Measure both in turns, as long as the time allows.

    Returns:
        Milliseconds per step (medians), and the median of the ratios of all turns with the least and the greatest;
        with tokens, tokens per second and the share of the peak that 6 operations per parameter and token make up
        (J. Kaplan et al., "Scaling Laws for Neural Language Models", section 2.1).
    """
    torch.manual_seed(0)
    data = TensorDataset(*job.batch(STEPS * job.batch_size))
    contenders = {"by hand": by_hand(job, data, device), "hookline": with_hookline(job, data, device)}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds
    while len(times["by hand"]) < 3 or time.perf_counter() < end:
        for name, steps in contenders.items():
            wait(device)
            start = time.perf_counter()
            for _ in range(STEPS):
                next(steps)
            wait(device)
            times[name].append((time.perf_counter() - start) / STEPS)
    hand, own = (values[1:] for values in times.values())  # the first turn warms up
    ratios = [one / other for one, other in zip(own, hand, strict=True)]
    found: dict[str, Any] = {
        "by hand, ms": statistics.median(hand) * 1e3,
        "hookline, ms": statistics.median(own) * 1e3,
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "greatest": max(ratios),
        "turns": len(ratios),
    }
    if job.tokens:
        rate = job.tokens * job.batch_size / statistics.median(own)
        num_parameters = sum(parameter.numel() for parameter in job.model().parameters())
        found |= {"tokens/s": rate, "parameters": num_parameters}
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        if peak := next((peak for part, peak in PEAKS.items() if part in name), None):
            found["share of the peak"] = 6 * num_parameters * rate / peak
    return found
