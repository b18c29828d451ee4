"""Compare reading Parquet in Hookline with an ``IterableDataset`` written by hand over the same library, in pairs.

Run it with ``python tests/benchmarks/parquet_time.py``. It writes a file of random numbers into a temporary folder.
Both read it with polars in blocks, scale the columns, shuffle the rows of eight blocks at a time and yield batches;
neither trains. The first loop by hand yields whole batches to a ``DataLoader`` with ``batch_size=None``, the second one
rows, of which the ``DataLoader`` makes batches. The turns alternate; each ratio is the median over the pairs.
``--clock`` counts the time on the clock instead of the seconds of processors: a thread that reads ahead takes less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

import hookline
from hookline import hookimpl

BLOCK, WINDOW = 65_536, 8
BOUND = 1.0
"""Ratio that reading may take, to the better of the loops by hand."""


class ByHand(IterableDataset[Any]):
    """What a careful author writes; ``batch_size`` None yields rows."""

    def __init__(self, path: Path, scale: tuple[Tensor, Tensor], batch_size: int | None) -> None:
        self.path, self.scale, self.batch_size = path, scale, batch_size

    def __iter__(self) -> Iterator[Any]:
        table = pl.scan_parquet(self.path)
        firsts = range(0, table.select(pl.len()).collect().item(), BLOCK)
        order = torch.randperm(len(firsts)).tolist()
        for begin in range(0, len(order), WINDOW):
            frames = [table.slice(firsts[number], BLOCK).collect() for number in order[begin : begin + WINDOW]]
            rows = torch.from_numpy(pl.concat(frames).to_numpy(order="c"))
            rows = (rows.sub_(self.scale[0]).div_(self.scale[1]))[torch.randperm(len(rows))]
            inputs, targets = rows[:, 1:], rows[:, :1]
            if self.batch_size is None:
                yield from zip(inputs, targets, strict=True)
            else:
                yield from zip(*(torch.split(part, self.batch_size) for part in (inputs, targets)), strict=True)


class Turns:
    """Takes steps that do nothing; takes the time of each epoch of the run, and of the loops by hand after it."""

    def __init__(self, loaders: Mapping[str, DataLoader[Any]], num_rows: int, clock: Callable[[], float]) -> None:
        self._loaders, self._num_rows, self._clock = loaders, num_rows, clock
        self.times: dict[str, list[float]] = {name: [] for name in ("hookline", *loaders)}

    @hookimpl
    def build_step(self) -> Callable[[Any], Tensor]:
        """Return a step that counts the rows."""
        loss = torch.zeros(())
        self.num_read = 0

        def step(batch: Any) -> Tensor:
            self.num_read += len(batch[1])
            return loss

        return step

    @hookimpl
    def on_epoch_start(self) -> None:
        """Start the clock."""
        self._start = self._clock()

    @hookimpl
    def on_epoch_end(self, run: hookline.RunView) -> None:
        """Take the time, and give the others their turns; the first epoch warms all up."""
        found = {"hookline": self._clock() - self._start}
        assert self.num_read == self._num_rows * run.epoch, "every row is read once"
        for name, loader in self._loaders.items():
            start = self._clock()
            assert sum(len(targets) for _, targets in loader) == self._num_rows
            found[name] = self._clock() - start
        if run.epoch > 1:
            for name, seconds in found.items():
                self.times[name].append(seconds)


def measure(path: Path, batch_size: int, pairs: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Return the seconds per epoch of each, pair by pair."""
    table = pl.scan_parquet(path)
    numbers = torch.tensor(table.select(pl.all().mean(), pl.all().std(ddof=0).name.suffix("s")).collect().row(0))
    scale = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
    loaders = {
        "by hand, batches": DataLoader(ByHand(path, scale, batch_size), batch_size=None),
        "by hand, rows": DataLoader(ByHand(path, scale, None), batch_size=batch_size),
    }
    data = {"use": "parquet", "path": str(path), "target": "x0", "standardize": True, "standardize_target": True}
    config = {
        "train": {"epochs": pairs + 1, "batch_size": batch_size, "evaluate": []},
        "data": {**data, "block_rows": BLOCK, "window": WINDOW},
    }
    turns = Turns(loaders, table.select(pl.len()).collect().item(), clock)
    hookline.Run(hookline.load_config(config, plugins={"callbacks.turns": turns})).fit()
    return turns.times


def main() -> int:
    """Measure, print, and write JSON if asked to; return 1 if a ratio is above its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--pairs", type=int, default=5, help="turns of each")
    parser.add_argument("--clock", action="store_true", help="count the time on the clock")
    parser.add_argument("-o", "--output", type=Path, help="write the figures to this file, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        rng = np.random.default_rng(0)
        columns = {f"x{n}": rng.standard_normal(arguments.rows, dtype=np.float32) for n in range(arguments.columns)}
        pl.DataFrame(columns).write_parquet(path, row_group_size=BLOCK)
        clock = time.perf_counter if arguments.clock else time.process_time
        times = measure(path, arguments.batch_size, arguments.pairs, clock)
    own, *others = times.items()
    print(
        f"{arguments.rows:,} rows of {arguments.columns} columns, batches of {arguments.batch_size}, {clock.__name__}"
    )
    figures = {}
    for name, seconds in times.items():
        ratio = statistics.median(mine / each for mine, each in zip(own[1], seconds, strict=True))
        rate = arguments.rows / statistics.median(seconds)
        print(f"{name:18}{statistics.median(seconds):8.3f} s an epoch{rate:14,.0f} rows/s   hookline / it {ratio:.3f}")
        figures[name] = {"seconds": statistics.median(seconds), "ratio": ratio}
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=2))
    worst = max(figures[name]["ratio"] for name, _ in others)
    print(f"{'ok' if worst <= BOUND else 'MISS'}: ratio {worst:.3f}, at most {BOUND}")
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())
