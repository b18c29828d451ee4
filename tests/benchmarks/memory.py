"""Resident memory over an epoch of a data set that stays in its file, measured in a process of its own.

Run it with ``python tests/benchmarks/memory.py``. It writes a file of ten million rows into a temporary folder, trains
one epoch on it and evaluates, and shows how much memory the process has after its steps, beyond torch that has taken a
step by hand. The peak is more: it has the pages of the file that are mapped while a batch is read, which the kernel may
take back at any time. Linux alone, because it reads ``/proc``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import hookline

NUM_FEATURES = 4
LIMIT_MB = 200
"""The most that a run may have beyond torch. The order of an epoch takes 8 bytes for each row: 80 of them."""

_ROWS_AT_ONCE = 2**20


def resident_mb() -> float:
    """Return the resident memory of this process in MB (10**6 bytes)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("the kernel tells no VmRSS")


def write_arrays(folder: Path, num_rows: int) -> None:
    """Write inputs and targets, float32, a piece at a time."""
    import numpy as np

    generator = np.random.default_rng(0)
    weights = np.linspace(-1, 1, NUM_FEATURES, dtype=np.float32)
    header: Any = {"descr": "<f4", "fortran_order": False}
    with (folder / "inputs.npy").open("wb") as inputs, (folder / "targets.npy").open("wb") as targets:
        np.lib.format.write_array_header_1_0(inputs, {**header, "shape": (num_rows, NUM_FEATURES)})
        np.lib.format.write_array_header_1_0(targets, {**header, "shape": (num_rows,)})
        for first in range(0, num_rows, _ROWS_AT_ONCE):
            size = min(_ROWS_AT_ONCE, num_rows - first)
            rows = generator.standard_normal((size, NUM_FEATURES), dtype=np.float32)
            rows.tofile(inputs)
            (rows @ weights).tofile(targets)


class Meter:
    """Measures every so many steps."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.samples: list[float] = []

    @hookline.hookimpl
    def on_step_end(self, run: hookline.Run) -> None:
        """Measure."""
        if run.step % self.every == 0:
            self.samples.append(resident_mb())


def child(folder: Path, batch_size: int) -> None:
    """Train, and print what was measured."""
    import torch

    # A step by hand, because torch imports more of itself when it makes its first optimizer.
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.zeros(1, 2)).sum().backward()
    optimizer.step()
    figures: dict[str, Any] = {"torch_mb": resident_mb()}
    num_rows = json.loads((folder / "rows.json").read_text())
    meter = Meter(max(num_rows // batch_size // 100, 1))
    config = {
        "train": {"epochs": 1, "batch_size": batch_size, "eval_batch_size": batch_size},
        "data": {"use": "arrays", "path": str(folder), "memory_map": True},
    }
    run = hookline.Run(hookline.load_config(config, plugins={"callbacks.meter": meter}))
    figures["built_mb"] = resident_mb()
    start = time.perf_counter()
    result = run.fit()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    figures |= {
        "seconds": time.perf_counter() - start,
        "steps": result.steps,
        "loss": result.metrics["train/loss"],
        "samples_mb": meter.samples,
        "peak_mb": int(peak.split()[1]) * 1024 / 1e6,
    }
    print(json.dumps(figures))


def main() -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("-o", "--output", type=Path, help="write the figures to this file, as JSON")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.batch_size)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_arrays(folder, arguments.rows)
        (folder / "rows.json").write_text(json.dumps(arguments.rows))
        command = [sys.executable, __file__, "--child", name, "--batch-size", str(arguments.batch_size)]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        file_mb = sum(path.stat().st_size for path in folder.glob("*.npy")) / 1e6
    samples = figures["samples_mb"]
    # Behind the first tenth, in which buffers are made.
    settled = samples[len(samples) // 10 :]
    figures |= {
        "rows": arguments.rows,
        "file_mb": file_mb,
        "beyond_torch_mb": max(samples) - figures["torch_mb"],
        "growth_mb": settled[-1] - settled[0],
        "spread_mb": max(settled) - min(settled),
    }
    print(f"{arguments.rows:,} rows of {NUM_FEATURES} features in {file_mb:.0f} MB, {figures['steps']:,} steps")
    for label, key in (
        ("torch alone", "torch_mb"),
        ("the run, built", "built_mb"),
        ("the most in the epoch, beyond torch", "beyond_torch_mb"),
        ("from the first to the last of the epoch", "growth_mb"),
        ("between the least and the most", "spread_mb"),
        ("the peak of the process, with what is mapped", "peak_mb"),
    ):
        print(f"{label:48}{figures[key]:10.1f} MB")
    print(f"{'epoch and evaluation':48}{figures['seconds']:10.1f} s")
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=2))
    if figures["beyond_torch_mb"] > LIMIT_MB:
        sys.exit(f"more than {LIMIT_MB} MB beyond torch")


if __name__ == "__main__":
    main()
