"""Compare the samplers of ``hookline sweep`` by the best loss after as many trials, on the digits of scikit-learn.

    pip install scikit-learn 'hookline[sweep]'
    python tests/benchmarks/sweep_samplers.py [--trials N] [--seeds N] [--jobs N]

The job: ``mlp`` trained for 5 epochs on 60 % of the 1,797 images of 8 x 8 pixels, and validated on 20 %. Five options
are searched, each over a range that a careful person might write without knowing the data. ``prune`` is TPE that ends
trials at the median of the earlier ones. Prints, for each sampler, the median and the range over the seeds of the
smallest validation loss after a number of trials, and the steps that all trials took.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_CONFIG = """
[train]
epochs = 5
[data]
use = "arrays"
path = "digits.npz"
split = [0.6, 0.2, 0.2]
[model]
use = "mlp"
[loss]
use = "cross-entropy"
[optimizer]
use = "adamw"
[sweep]
minimize = ["validation/loss"]
[sweep.space]
optimizer.lr = "log(1e-5, 1)"
optimizer.weight_decay = "log(1e-6, 1)"
train.batch_size = "log(8, 256)"
model.hidden = [[16], [64], [256], [64, 64], [256, 256], [64, 64, 64]]
model.dropout = "uniform(0, 0.8)"
"""
_SAMPLERS = {
    "random": ["--sampler", "random"],
    "tpe": ["--sampler", "tpe"],
    "tpe, pruned": ["--sampler", "tpe", "--prune"],
}


def main() -> None:
    """Run the sweeps, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    chosen = parser.parse_args()
    points = sorted({chosen.trials // 4, chosen.trials // 2, chosen.trials})
    print("| sampler |" + "".join(f" best after {point} |" for point in points) + " steps |")
    print("|---" * (len(points) + 2) + "|")
    with tempfile.TemporaryDirectory() as scratch:
        _write_data(Path(scratch))
        for name, options in _SAMPLERS.items():
            sweeps = [
                _sweep(Path(scratch), [*options, "--seed", str(seed), "--jobs", str(chosen.jobs)], chosen.trials)
                for seed in range(chosen.seeds)
            ]
            cells = [_cell([_best(trials[:point]) for trials, _ in sweeps]) for point in points]
            steps = statistics.median(steps for _, steps in sweeps)
            print(f"| {name} | " + " | ".join(cells) + f" | {steps:,.0f} |", flush=True)


def _write_data(folder: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs = (digits.data / 16).astype(np.float32)
    np.savez(folder / "digits.npz", inputs=inputs, targets=digits.target.astype(np.int64))
    (folder / "run.toml").write_text(_CONFIG)


def _sweep(folder: Path, options: Sequence[str], num_trials: int) -> tuple[list[Any], int]:
    """Return the trials of a sweep, and the number of steps that they took."""
    with tempfile.TemporaryDirectory(dir=folder) as parent:
        target = str(Path(parent, "sweep"))
        program = [sys.executable, "-m", "hookline", "sweep"]
        words = [*program, "run.toml", "--trials", str(num_trials), "--folder", target, "--quiet", *options]
        subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        shown = subprocess.run([*program, "show", target, "--json"], check=True, capture_output=True, text=True)
        records = [json.loads(path.read_text()) for path in Path(target).glob("*-trial-*/run.json")]
        trials: list[Any] = json.loads(shown.stdout)["trials"]
        return trials, sum(record["step"] for record in records)


def _best(trials: Sequence[Any]) -> float:
    return min((trial["values"]["validation/loss"] for trial in trials if trial["state"] == "complete"), default=np.inf)


def _cell(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})"


if __name__ == "__main__":
    main()
