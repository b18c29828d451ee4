"""Train on Parquet files that are larger than the memory that a process may use, and resume in the middle of an epoch.

Run it with ``python tests/benchmarks/larger_than_memory.py``. It writes files of 20 random columns into a temporary
folder, a gigabyte of them, and trains on them in processes of their own:

- on all files under a limit of the memory of the process (``ulimit -d``): what torch and polars take when they have
  read one file, and 300 MB more, in which the rows of the files would not fit. It leaves out mapped files, of which
  the kernel keeps as much in memory as it likes;
- on a quarter of them and on all without a limit, for the peaks of the resident memory, which should differ little;
- up to a random step, then resumed under the limit up to the end: the weights must be the same bits as those of the
  first process.

Linux alone, because it reads ``/proc``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NUM_COLUMNS, FILE_ROWS = 20, 2**20
HEADROOM_MB = 300
MOST_GROWTH = 0.1
"""The most that the peaks of a quarter of the rows and of all may differ by, as a share of the other rows."""


def memory_of(name: str) -> float:
    """Return a figure of this process from ``/proc/self/status``, in MB (10**6 bytes)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"the kernel tells no {name}")


def write_files(folder: Path, num_files: int) -> None:
    """Write files of numbers, each in row groups of the size of a block."""
    import numpy as np
    import polars as pl

    generator = np.random.default_rng(0)
    for number in range(num_files):
        columns = {f"x{n}": generator.standard_normal(FILE_ROWS, dtype=np.float32) for n in range(NUM_COLUMNS)}
        columns["y"] = sum(columns.values()) + generator.standard_normal(FILE_ROWS, dtype=np.float32)
        pl.DataFrame(columns).write_parquet(folder / f"part-{number:03}.parquet", row_group_size=2**16)


def config_of(path: str, batch_size: int) -> dict[str, Any]:
    """Return the config of a run."""
    return {
        "train": {"epochs": 1, "batch_size": batch_size, "evaluate": [], "seed": 5},
        "data": {"use": "parquet", "path": path, "target": "y", "standardize": True, "standardize_target": True},
        "model": {"use": "mlp", "hidden": [32]},
    }


def child(request: dict[str, Any]) -> None:
    """Train as it is requested, and print what was measured."""
    import torch

    import hookline

    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    if "first" in request:  # everything that is mapped once is mapped
        hookline.train(config_of(request["first"], request["batch_size"]))
        figures["data_mb"] = memory_of("VmData")
        if request["headroom_mb"]:
            limit = int((figures["data_mb"] + request["headroom_mb"]) * 1e6)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
            figures["limit_mb"] = limit / 1e6
    start = time.perf_counter()
    run = hookline.Run(hookline.load_config(config_of(request["path"], request["batch_size"])))
    figures["built_s"] = time.perf_counter() - start
    if "resume" in request:
        run.load_state_dict(torch.load(request["resume"], weights_only=True))
    start = time.perf_counter()
    for step in run.steps():
        if step.step == request.get("save_at"):
            torch.save(run.state_dict(), request["save"])
    figures |= {"seconds": time.perf_counter() - start, "steps": run.step, "peak_mb": memory_of("VmHWM")}
    digest = hashlib.sha256()
    for parameter in run.model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    print(json.dumps({**figures, "weights": digest.hexdigest()}))


def measured(**request: Any) -> dict[str, Any]:
    """Return what a process measured."""
    command = [sys.executable, __file__, "--child", json.dumps(request)]
    done: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return done


def main() -> int:
    """Measure, print, and write JSON if asked to; return 1 if it falls short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=12, help=f"number of files of {FILE_ROWS:,} rows; a multiple of 4")
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("-o", "--output", type=Path, help="write the figures to this file, as JSON")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder, state = Path(name) / "rows", Path(name) / "state.pt"
        folder.mkdir()
        write_files(folder, arguments.files)
        parts = sorted(folder.glob("*.parquet"))
        file_mb = sum(part.stat().st_size for part in parts) / 1e6
        quarter = Path(name) / "quarter"
        quarter.mkdir()
        for part in parts[: len(parts) // 4]:
            (quarter / part.name).hardlink_to(part)
        (Path(name) / "first").mkdir()
        (Path(name) / "first" / parts[0].name).hardlink_to(parts[0])
        os.environ["XDG_CACHE_HOME"] = str(Path(name) / "cache")  # the files are measured for the first time
        same = {"batch_size": arguments.batch_size}
        limited = {**same, "first": str(Path(name) / "first"), "headroom_mb": HEADROOM_MB}
        save_at = random.randrange(2, FILE_ROWS * len(parts) // arguments.batch_size)
        whole = measured(path=str(folder), save_at=save_at, save=str(state), **limited)
        resumed = measured(path=str(folder), resume=str(state), **limited)
        peaks = [measured(path=str(path), **same)["peak_mb"] for path in (quarter, folder)]
    rows_mb = FILE_ROWS * len(parts) * (NUM_COLUMNS + 1) * 4 / 1e6
    is_same = resumed["weights"] == whole["weights"]
    epoch, survey = f"{whole['seconds']:.0f} s", f"{whole['built_s']:.1f} s, at the resume {resumed['built_s']:.1f} s"
    lines = [
        f"{FILE_ROWS * len(parts):,} rows of {NUM_COLUMNS} features: {file_mb:,.0f} MB, {rows_mb:,.0f} MB as float32",
        f"memory of the process: {whole['data_mb']:,.0f} MB after a small run, limited to {whole['limit_mb']:,.0f} MB",
        f"an epoch of {whole['steps']:,} steps within the limit: {epoch}, and the pass before it: {survey}",
        f"resumed at step {save_at:,}: the weights are {'the same' if is_same else 'OTHERS'}",
        f"peak of the resident memory: {peaks[0]:,.0f} MB for a quarter of the rows, {peaks[1]:,.0f} MB for all",
    ]
    print(*lines, sep="\n")
    if arguments.output:
        figures = {"whole": whole, "resumed": resumed, "save_at": save_at, "peaks_mb": peaks, "rows_mb": rows_mb}
        arguments.output.write_text(json.dumps(figures, indent=2))
    return int(not is_same or peaks[1] - peaks[0] > MOST_GROWTH * 0.75 * rows_mb)


if __name__ == "__main__":
    sys.exit(main())
