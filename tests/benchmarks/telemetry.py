"""Time for a step with logging, ``telemetry`` and a tracker, as ratios to the same run without, in one process.

Run it with ``python tests/benchmarks/telemetry.py`` on a machine that does nothing else. The runs take turns of a few
steps, and each turn is compared with the turn of the run without logging beside it; medians are what to quote. On a
busy machine the time of the CPU varies less than that of the clock, and the job with next to no model shows what is
added to each step.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hookline import DataSource, Run, RunView, hookimpl, load_config


class LogLoss:
    """Logs the loss in every step."""

    @hookimpl
    def on_step_end(self, run: RunView, loss: Tensor) -> None:
        """Log the loss."""
        run.log("other", loss)


class Block(nn.Module):
    """A block of a decoder: causal attention and two layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations after the block."""
        y, mask = self.before(x), nn.Transformer.generate_square_subsequent_mask(x.shape[1], x.device)
        x = x + self.attention(y, y, y, attn_mask=mask, is_causal=True, need_weights=False)[0]
        return x + self.layers(self.between(x))  # type: ignore[no-any-return] # torch leaves the call of a module untyped


class GPT(nn.Sequential):
    """A language model with 10.7 million parameters over 256 bytes; one target, the byte after the text."""

    def __init__(self) -> None:
        super().__init__(nn.Embedding(256, 384), *(Block(384, 6) for _ in range(6)), nn.LayerNorm(384))
        self.head = nn.Linear(384, 256)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``[B, 256]``."""
        for layer in list(self)[:-1]:
            x = layer(x)
        return self.head(x[:, -1])  # type: ignore[no-any-return] # torch leaves the call of a module untyped


def mlp_with_embeddings() -> nn.Module:
    """Return an MLP over eight embedded columns of 100 values each."""
    wide = (nn.Embedding(100, 16), nn.Flatten(), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    return nn.Sequential(*wide, nn.Linear(256, 10))


def cnn() -> nn.Module:
    """Return a small CNN for images of 28 by 28."""
    features = (nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(800, 10))


def small() -> nn.Module:
    """Return a model that takes less time than the loop."""
    return nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 4))


JOBS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor], int, int, int]] = {
    "two small layers, 10 examples": (small, lambda n: torch.rand(n, 2), 10, 4, 50),
    "MLP with embeddings, 256 examples": (mlp_with_embeddings, lambda n: torch.randint(100, (n, 8)), 256, 10, 50),
    "small CNN, 64 images": (cnn, lambda n: torch.rand(n, 1, 28, 28), 64, 10, 50),
    "GPT of 10 million, 8 texts of 64 bytes": (GPT, lambda n: torch.randint(256, (n, 64)), 8, 256, 5),
}
"""A model, its inputs, and the numbers of examples in a batch, of classes and of steps in a turn, by name.

A turn is one interval of ``train.log_every_steps`` with its end.
"""


class Data:
    """Random data of a job in memory.

    Args:
        dataset: The training data.
    """

    def __init__(self, dataset: TensorDataset) -> None:
        self._dataset = dataset

    @hookimpl
    def build_data(self) -> DataSource:
        """Return the data."""
        return DataSource(self._dataset)


def steps_of(job: str, device: str, **callbacks: Any) -> Any:
    """Return the steps of a run without end."""
    build, inputs, size, num_classes, num_steps = JOBS[job]
    torch.manual_seed(0)
    dataset = TensorDataset(inputs(64 * size), torch.randint(num_classes, (64 * size,)))
    train = {"batch_size": size, "epochs": 10**6, "evaluate": [], "device": device, "log_every_steps": num_steps}
    tables = {"train": train, "loss": {"use": "cross-entropy"}, "optimizer": {"use": "adamw"}}
    plugins = {"data": Data(dataset), "model": build()}
    objects = {f"callbacks.{name}": each for name, each in callbacks.items() if not isinstance(each, dict)}
    named = {name: each for name, each in callbacks.items() if isinstance(each, dict)}
    return Run(load_config({**tables, "callbacks": named}, plugins=plugins | objects)).steps()


def time_turn(steps: Any, num_steps: int, device: str) -> tuple[float, float]:
    """Return the microseconds of a step by the clock, and those of the CPU."""
    start, start_cpu = time.perf_counter(), time.process_time()
    for _ in range(num_steps):
        next(steps)
    if device == "cuda":
        torch.cuda.synchronize()
    return 1e6 * (time.perf_counter() - start) / num_steps, 1e6 * (time.process_time() - start_cpu) / num_steps


def compared(values: tuple[float, ...], bases: tuple[float, ...]) -> str:
    """Return the median of some times, and of what they add to others, turn by turn: the difference and the ratio."""
    pairs = list(zip(values, bases, strict=True))
    added, ratio = statistics.median(a - b for a, b in pairs), statistics.median(a / b for a, b in pairs)
    return f"{statistics.median(values):12.1f}{added:8.1f}{ratio:8.3f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.turns} turns")
    for job, (*_, num_steps) in JOBS.items():
        contenders = {
            "off": steps_of(job, arguments.device),
            "off again": steps_of(job, arguments.device),
            "run.log in every step": steps_of(job, arguments.device, log=LogLoss()),
            "telemetry": steps_of(job, arguments.device, telemetry={}),
        }
        if importlib.util.find_spec("tensorboard"):
            tracker = {"at": tempfile.mkdtemp(), "when": "live"}
            contenders["telemetry and tensorboard"] = steps_of(job, arguments.device, telemetry={}, tensorboard=tracker)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for turn in range(arguments.turns + 1):
            # The first of a turn changes, because what runs before may warm up what runs after.
            order = list(contenders)[turn % len(contenders) :] + list(contenders)[: turn % len(contenders)]
            for name in order:
                taken = time_turn(contenders[name], num_steps, arguments.device)
                if turn:
                    times[name].append(taken)
        print(f"\n{job}\n{'':28}" + 2 * f"{'us':>12}{'added':>8}{'ratio':>8}" + "   (clock, CPU)")
        for name, values in times.items():
            columns = zip(zip(*values, strict=True), zip(*times["off"], strict=True), strict=True)
            print(f"{name:28}" + "".join(compared(*each) for each in columns))
            contenders[name].close()


if __name__ == "__main__":
    main()
