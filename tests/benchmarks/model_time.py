"""Time for a step of three ordinary models in Hookline and in a loop written by hand, in pairs.

Run it with ``python tests/benchmarks/model_time.py``. The models are a GPT of 10 million parameters, a small
convolutional network, and a perceptron with embeddings that takes two inputs. Each is a plugin like that of any user.

Both begin with the same weights, and take the same batches in the same order; the weights that they end with must be
the same bits. After each epoch of the run, the loop by hand has its turn with as many steps, within the same process: a
machine that changes its speed changes it for both. The ratio is that of each pair, as a median over the pairs.

On a busy machine ``--cpu`` helps: it counts the seconds of processors instead of those on the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import hookline
from hookline import DataSource, hookimpl

Clock = Callable[[], float]


class Pairs(Dataset[Any]):
    """Inputs of any form, and targets, in memory.

    Args:
        inputs: A tensor, or a tuple of tensors.
        targets: A tensor.
    """

    draws = False

    def __init__(self, inputs: Any, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.targets)

    def gather(self, rows: Tensor) -> Any:
        """Return a batch."""
        inputs = tuple(part[rows] for part in self.inputs) if isinstance(self.inputs, tuple) else self.inputs[rows]
        return inputs, self.targets[rows]


class Block(nn.Module):
    """A block of a GPT: attention and a perceptron, each after a normalization and beside the residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, values: Tensor) -> Tensor:
        query, key, value = self.attend(self.norms[0](values)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        values = values + self.project(attended.transpose(1, 2).flatten(2))
        return values + cast(Tensor, self.think(self.norms[1](values)))


class GPT(nn.Module):
    """A GPT: from tokens [B, T] to the logits of the next ones [B, V, T]; 10.8 million parameters."""

    def __init__(self, vocabulary: int = 256, width: int = 384, layers: int = 6, heads: int = 6, length: int = 64):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False))

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.blocks(self.tokens(tokens) + self.places(places))).transpose(1, 2)  # type: ignore[no-any-return] # modules are


class CNN(nn.Sequential):
    """A small convolutional network: from images [B, 1, 28, 28] to the logits of ten classes [B, 10]."""

    def __init__(self) -> None:
        first = (nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        second = (nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        super().__init__(*first, *second, nn.Flatten(), nn.Linear(32 * 7 * 7, 10))


class Embeddings(nn.Module):
    """A perceptron over numbers [B, 8] and the embeddings of three categories [B, 3]; the output is [B, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(1000, 16) for _ in range(3)])
        self.layers = nn.Sequential(
            nn.Linear(8 + 3 * 16, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1)
        )

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        numbers, categories = inputs
        embedded = [table(column) for table, column in zip(self.tables, categories.unbind(1), strict=True)]
        return self.layers(torch.cat([numbers, *embedded], dim=1))  # type: ignore[no-any-return] # modules are


def next_tokens() -> Pairs:
    """Tokens in which each is, but for noise, the sum of the two before it."""
    tokens = torch.randint(256, (256, 65))
    for place in range(2, 65):
        is_noise = torch.rand(256) < 0.1
        tokens[:, place] = tokens[:, place].where(is_noise, (tokens[:, place - 1] + tokens[:, place - 2]) % 256)
    return Pairs(tokens[:, :-1], tokens[:, 1:])


def images() -> Pairs:
    """Images with a bright row, whose number is the class, and noise."""
    targets = torch.randint(10, (2000,))
    pictures = 0.5 * torch.randn(2000, 1, 28, 28)
    pictures[torch.arange(2000), 0, 2 * targets] += 1
    return Pairs(pictures, targets)


def table() -> Pairs:
    """Rows of numbers and categories, with a target that depends on both."""
    numbers, categories = torch.randn(20_000, 8), torch.randint(1000, (20_000, 3))
    effects = torch.randn(3, 1000)
    target = numbers.sum(1) + sum(effects[column][categories[:, column]] for column in range(3))
    return Pairs((numbers, categories), target[:, None])


@dataclass(frozen=True)
class Job:
    """A model with its data.

    Attributes:
        model: Makes the model.
        data: Makes the training data.
        loss: Makes the loss.
        loss_name: Its name in a config.
        batch_size: Examples per step.
        steps: Steps per turn.
    """

    model: Callable[[], nn.Module]
    data: Callable[[], Pairs]
    loss: Callable[[], nn.Module]
    loss_name: str
    batch_size: int
    steps: int


JOBS = {
    "GPT, 10.8 million parameters": Job(GPT, next_tokens, nn.CrossEntropyLoss, "cross-entropy", 12, 2),
    "small CNN": Job(CNN, images, nn.CrossEntropyLoss, "cross-entropy", 64, 30),
    "MLP with embeddings, two inputs": Job(Embeddings, table, nn.MSELoss, "mse", 128, 150),
}


class Turns:
    """Takes the time of each epoch of a run, and of a turn of the loop by hand after it."""

    def __init__(self, job: Job, clock: Clock) -> None:
        self._job, self._clock = job, clock
        self.times: dict[str, list[float]] = {"by hand": [], "hookline": []}

    @hookimpl
    def on_run_start(self, run: hookline.RunView) -> None:
        """Give the loop by hand the same weights."""
        self.model = self._job.model()
        self.model.load_state_dict(run.model.state_dict())
        self._steps = self._by_hand(run)

    def _by_hand(self, run: hookline.RunView) -> Iterator[None]:
        """Take the same steps."""
        model, loss_function, dataset = self.model, self._job.loss(), run.data.train
        assert isinstance(dataset, Pairs)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for epoch in range(1, run.config.train.epochs + 1):
            for rows in torch.split(run.batch_order(epoch), self._job.batch_size):
                inputs, target = dataset.gather(rows)
                optimizer.zero_grad()
                loss = loss_function(model(inputs), target)
                loss.backward()
                optimizer.step()
            yield

    @hookimpl
    def on_epoch_start(self) -> None:
        """Start the clock."""
        self._start = self._clock()

    @hookimpl
    def on_epoch_end(self, run: hookline.RunView) -> None:
        """Take the time, and give the loop by hand its turn."""
        middle = self._clock()
        next(self._steps)
        end = self._clock()
        if run.epoch > 1:  # the first epoch warms both up
            self.times["hookline"].append((middle - self._start) / self._job.steps)
            self.times["by hand"].append((end - middle) / self._job.steps)


def measure(job: Job, pairs: int, clock: Clock) -> dict[str, list[float]]:
    """Return the seconds per step of both, pair by pair."""
    torch.manual_seed(0)
    dataset = job.data()
    dataset = Pairs(*dataset.gather(torch.arange(job.steps * job.batch_size) % len(dataset)))
    turns = Turns(job, clock)
    config = {
        "train": {"epochs": pairs + 1, "batch_size": job.batch_size, "evaluate": []},
        "loss": job.loss_name,
        "optimizer": {"use": "adamw", "lr": 1e-3},
    }
    data = DataSource(dataset, out_features=10)
    plugins = {"data": data, "model": job.model, "callbacks.turns": turns}
    run = hookline.Run(hookline.load_config(config, plugins=plugins))
    run.fit()
    for name, weight in turns.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], weight), f"{name} differs"
    return turns.times


def main() -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15, help="turns of each")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--cpu", action="store_true", help="count seconds of processors, for a busy machine")
    parser.add_argument("--jobs", nargs="*", choices=JOBS, default=list(JOBS), help="which of the models")
    parser.add_argument("-o", "--output", type=Path, help="write the figures to this file, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu else time.perf_counter
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.pairs} pairs, {clock.__name__}")
    print(f"\n{'':34}{'by hand, ms':>12}{'hookline, ms':>14}{'ratio':>8}{'of least':>10}   least to greatest")
    figures = {}
    for name in arguments.jobs:
        times = measure(JOBS[name], arguments.pairs, clock)
        hand, own = times["by hand"], times["hookline"]
        ratios = [one / other for one, other in zip(own, hand, strict=True)]
        ratio, least = statistics.median(ratios), min(own) / min(hand)
        seconds = [statistics.median(values) for values in (hand, own)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"{name:34}{seconds[0] * 1e3:12.3f}{seconds[1] * 1e3:14.3f}{ratio:8.3f}{least:10.3f}   {spread}")
        figures[name] = {"by hand": seconds[0], "hookline": seconds[1], "ratio": ratio, "of least": least}
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
