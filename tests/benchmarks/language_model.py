"""A small language model on a real text: the time of a step beside a loop written out, and the loss after some minutes.

Run it with ``python tests/benchmarks/language_model.py [MINUTES]``. The text is the reference of Python that every
installation has, ``pydoc_data/topics.py``. Both contenders train the same model on the same text, and take turns of a
few steps; the time is that of the processor, so that other programs on the machine matter little. The ratio is the
median of those of all turns.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import hookline
from hookline_plugins.commands.first_config import from_file
from hookline_plugins.models.gpt_layers import Transformer

CONTEXT, BATCH_SIZE, SIZES = 64, 12, (4, 4, 128)
STEPS_PER_TURN, TURNS = 3, 60


def hand_written(path: Path) -> Iterator[float]:
    """Train as one would by hand, on random windows of the same tokens; yield the loss of each step."""
    tokens = np.frombuffer(path.read_bytes()[: round(path.stat().st_size * 0.9)], np.uint8).astype(np.uint16)
    tokens.tofile(path.with_suffix(".bin"))
    model = Transformer(257, CONTEXT, SIZES, 0.0, is_rotary=True, is_tied=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    while True:
        mapped = np.memmap(path.with_suffix(".bin"), np.uint16, "r")
        starts = torch.randint(len(mapped) - CONTEXT, (BATCH_SIZE,)).tolist()
        inputs = torch.stack([torch.from_numpy(mapped[i : i + CONTEXT].astype(np.int64)) for i in starts])
        targets = torch.stack([torch.from_numpy(mapped[i + 1 : i + 1 + CONTEXT].astype(np.int64)) for i in starts])
        optimizer.zero_grad()
        logits = model(inputs).transpose(1, 2)
        loss = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves it so
        optimizer.step()
        yield loss.item()


def with_hookline(path: Path) -> Iterator[float]:
    """Train with Hookline; yield the loss of each step."""
    config: dict[str, Any] = {
        "train": {"epochs": 100, "batch_size": BATCH_SIZE, "evaluate": [], "non_finite": "fail"},
        "data": {"use": "corpus", "path": str(path), "split": [0.9, 0.1], "cache": str(path.parent / "cache")},
        "model": {"use": "gpt"},
        "loss": {"use": "cross-entropy"},
        "optimizer": {"use": "adamw", "lr": 1e-3, "betas": [0.9, 0.99], "weight_decay": 0.1},
    }
    for step in hookline.Run(hookline.load_config(config)).steps():
        yield step.loss.item()


def turn(steps: Iterator[float]) -> float:
    """Return the processor's seconds for a step, over some of them."""
    start = time.process_time()
    for _ in range(STEPS_PER_TURN):
        next(steps)
    return (time.process_time() - start) / STEPS_PER_TURN


def compare(path: Path) -> None:
    """Print the time of a step of both, and the ratio."""
    contenders = {"loop by hand": hand_written(path), "hookline": with_hookline(path)}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(TURNS + 1):
        for name in sorted(contenders, reverse=bool(number % 2)):
            seconds = turn(contenders[name])
            if number:  # the first turn prepares
                times[name].append(seconds)
    for name, taken in times.items():
        print(f"{name:14} {statistics.median(taken) * 1e3:8.2f} ms of processor time a step")
    ratios = [a / b for a, b in zip(times["hookline"], times["loop by hand"], strict=True)]
    print(f"{'ratio':14} {statistics.median(ratios):8.3f}  (median of {len(ratios)} turns of {STEPS_PER_TURN} steps)")


def train_first_config(path: Path, minutes: float) -> None:
    """Print the loss of the config that ``hookline init`` writes for the text, after some minutes."""
    tables = from_file(path, path.parent).tables
    tables["data"] |= {"path": str(path), "cache": str(path.parent / "cache")}
    result = hookline.train(tables, {"train.max_time_s": minutes * 60, "train.evaluate_every_steps": 0})
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in result.metrics.items())
    print(f"after {result.steps} steps in at most {minutes:g} minutes: {numbers}")


def main() -> None:
    """Measure."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "topics.txt")
        path.write_text("\n\n".join(topics.values()))
        compare(path)
        if len(sys.argv) > 1:
            train_first_config(path, float(sys.argv[1]))


if __name__ == "__main__":
    main()
