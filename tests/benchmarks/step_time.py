"""Time for a step of the default job, and of start-up, as ratios measured in one run.

Run it with ``python tests/benchmarks/step_time.py`` on a machine that does nothing else. The contenders take turns, so
that a machine that changes its speed changes it for all of them; medians are what to quote.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hookline

EPOCHS, BATCH_SIZE = 3, 10
PROGRAM = str(Path(sys.executable).parent / "hookline")


def examples() -> TensorDataset:
    """Return the data of the default job."""
    dataset = hookline.Run(hookline.load_config()).data.train
    assert isinstance(dataset, TensorDataset)
    return dataset


def time_loop(batches: Callable[[], Any], dataset: TensorDataset | None = None) -> float:
    """Return the seconds that a step of the hand-written loop takes over ``batches``.

    With a ``dataset`` the loop ends each epoch with the loss over all of it, as the tutorial's does.
    """
    model, loss_function = nn.Linear(2, 1), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    num_steps, start = 0, time.perf_counter()
    for _ in range(EPOCHS):
        for features, target in batches():
            optimizer.zero_grad()
            loss = loss_function(model(features), target)
            loss.backward()
            optimizer.step()
            num_steps += 1
        if dataset is not None:
            with torch.no_grad():
                features, target = dataset.tensors
                loss_function(model(features), target).item()
    return (time.perf_counter() - start) / num_steps


def time_hookline(evaluate: list[str]) -> float:
    """Return the seconds that a step of a run takes, epochs' ends included."""
    run = hookline.Run(
        hookline.load_config({"train": {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "evaluate": evaluate}})
    )
    start = time.perf_counter()
    steps = run.fit().steps
    return (time.perf_counter() - start) / steps


class Turns:
    """In one run with fused steps: takes the time of its epochs, and lets another contender have its turn after some.

    The code is compiled in the first epoch, which does not count. A run of its own for each turn would compile again.
    """

    allows_fused_steps = True

    def __init__(self, other: Callable[[], float]) -> None:
        self._other = other
        self._seconds: list[float] = []
        self.times: dict[str, list[float]] = {"other": [], "fused": []}
        self.compile_s = 0.0

    @hookline.hookimpl
    def on_epoch_start(self) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    @hookline.hookimpl
    def on_epoch_end(self, run: hookline.Run) -> None:
        """Take the time; give the others a turn when it is theirs."""
        seconds = time.perf_counter() - self._start
        if run.epoch == 1:
            self.compile_s = seconds
            self._other()
            return
        self._seconds.append(seconds)
        if len(self._seconds) == EPOCHS:
            self.times["fused"].append(sum(self._seconds) / EPOCHS / (run.steps_per_epoch or 1))
            self.times["other"].append(self._other())
            self._seconds.clear()


def measure_fused(other: tuple[str, Callable[[], float]], fuse_steps: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of a step of another contender and of a run with fused steps, in turns."""
    name, contender = other
    turns = Turns(contender)
    train = {"epochs": 1 + EPOCHS * rounds, "batch_size": BATCH_SIZE}
    config = {"train": train, "callbacks": {"fuse-steps": {"size": fuse_steps}}}
    hookline.Run(hookline.load_config(config, plugins={"callbacks.turns": turns})).fit()
    print(f"\nthe first epoch with fuse_steps = {fuse_steps}, which compiles: {turns.compile_s:.1f} s")
    return {name: turns.times["other"], f"hookline, default job, fuse_steps = {fuse_steps}": turns.times["fused"]}


def time_process(command: list[str], code: int = 0, **environment: str) -> float:
    """Return the seconds that a program takes from start to end."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=False, env=os.environ | environment)
    assert done.returncode == code, done.stderr
    return time.perf_counter() - start


def gathered(dataset: TensorDataset) -> Iterator[tuple[torch.Tensor, ...]]:
    """Give shuffled batches of tensors in memory, without a framework."""
    order = torch.randperm(len(dataset))
    return zip(*(torch.split(tensor[order], BATCH_SIZE) for tensor in dataset.tensors), strict=True)


def measure(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each contender in each round; they take turns, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            seconds = contender()
            if number:
                times[name].append(seconds)
    return times


def show(title: str, times: dict[str, list[float]], unit: tuple[str, float]) -> dict[str, Any]:
    """Print the medians, and those of the ratios to the first contender round by round; return both."""
    name, factor = unit
    first = next(iter(times.values()))
    print(f"\n{title}\n{'':44}{name:>12}{'ratio':>8}")
    figures = {}
    for contender, values in times.items():
        seconds = statistics.median(values)
        ratio = statistics.median(value / base for value, base in zip(values, first, strict=True))
        print(f"{contender:44}{seconds * factor:12.1f}{ratio:8.3f}")
        figures[contender] = {"seconds": seconds, "ratio": ratio}
    return figures


def main() -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--fuse-steps", type=int, default=50, help="steps in a block of the run with fused steps")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    dataset = examples()
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.rounds} rounds")
    steps = measure(
        {
            "tutorial's loop over a DataLoader": lambda: time_loop(lambda: loader, dataset),
            "hookline, default job": lambda: time_hookline(["train", "validation"]),
            "bare loop over tensors in memory": lambda: time_loop(lambda: gathered(dataset), dataset),
            "hookline, no evaluation": lambda: time_hookline([]),
            "bare loop, no evaluation": lambda: time_loop(lambda: gathered(dataset)),
        },
        arguments.rounds,
    )
    fused = measure_fused(
        ("tutorial's loop over a DataLoader", lambda: time_loop(lambda: loader, dataset)),
        arguments.fuse_steps,
        arguments.rounds,
    )
    starts = measure(
        {
            "python -c 'import torch'": lambda: time_process([sys.executable, "-c", "import torch"]),
            "hookline --help": lambda: time_process([PROGRAM, "--help"]),
            "hookline plugins": lambda: time_process([PROGRAM, "plugins"]),
            "hookline train model=<TAB>": lambda: time_process(
                [PROGRAM], _HOOKLINE_COMPLETE="bash_complete", COMP_WORDS="hookline train model=", COMP_CWORD="2"
            ),
            "hookline check, faulty config": lambda: time_process([PROGRAM, "check", "train.epoch=1"], code=2),
        },
        arguments.rounds,
    )
    figures = {
        "step": show("time per step", steps, ("us", 1e6)),
        "fused": show("time per step, in blocks", fused, ("us", 1e6)),
        "start-up": show("start-up", starts, ("ms", 1e3)),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
