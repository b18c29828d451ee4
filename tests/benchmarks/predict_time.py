"""Rows for which ``hookline predict`` writes predictions in a second of a processor.

Run it with ``python tests/benchmarks/predict_time.py``. It trains a perceptron on a table of ten columns of numbers,
and on one with two columns of categories beside them, and predicts for new rows, from and to each kind of file. The
figure is the median of several turns; the first, which warms up, does not count.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

import hookline
from hookline.trained import load_trained, write_predictions

BOUND = 200_000
"""Rows in a second from CSV to CSV, with columns of numbers alone."""


def frame(num_rows: int) -> pl.DataFrame:
    """Return a table."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {f"x{n}": rng.normal(size=num_rows) for n in range(10)}
    columns |= {"color": rng.choice(["red", "green", "blue"], num_rows)}
    columns |= {"place": rng.choice([f"place {n}" for n in range(30)], num_rows), "y": rng.normal(size=num_rows)}
    return pl.DataFrame(columns)


def train(folder: Path, categories: list[str]) -> Path:
    """Return the folder of a run."""
    data: dict[str, Any] = {"use": "csv", "path": str(folder / "train.csv"), "target": "y", "one_hot": categories}
    data |= {"features": [f"x{n}" for n in range(10)] + categories, "standardize": True, "standardize_target": True}
    config = {"train": {"epochs": 1, "batch_size": 100}, "data": data, "model": "mlp"}
    runs = folder / f"runs-{len(categories)}"
    hookline.train({**config, "callbacks": {"run-folder": {"parent": str(runs)}}})
    return next(runs.glob("*/run.json")).parent


def main() -> int:
    """Measure and print; return 1 if a figure is below its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rates: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder, table = Path(name), frame(arguments.rows)
        table[:5000].write_csv(folder / "train.csv")
        for categories in ([], ["color", "place"]):
            trained = load_trained(train(folder, categories))
            new = table.select(pl.col("^x.*$"), *categories)
            new.write_csv(folder / "new.csv")
            new.write_parquet(folder / "new.parquet")
            for source in ("new.csv", "new.parquet"):
                for target in ("out.csv", "out.parquet"):
                    times = []
                    for _ in range(arguments.turns + 1):
                        start = time.process_time()
                        write_predictions(trained, folder / source, folder / target, force=True)
                        times.append(time.process_time() - start)
                    rates.append(arguments.rows / statistics.median(times[1:]))
                    what = f"10 numbers{f' and {len(categories)} categories' if categories else ''}"
                    print(f"{what:30}{source:14}-> {target:14}{rates[-1]:12,.0f} rows in a second of a processor")
    print(f"{'ok' if rates[0] >= BOUND else 'MISS'}: {rates[0]:,.0f}, at least {BOUND:,}")
    return int(rates[0] < BOUND)


if __name__ == "__main__":
    sys.exit(main())
