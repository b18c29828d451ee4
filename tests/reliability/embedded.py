"""A thousand runs in one process leak no descriptor, no thread and no memory."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from typing import Any

from hookline import Run, load_config
from reliability import job


def _open_things() -> tuple[int, int, int]:
    """Return the number of open descriptors and of threads, and the memory in use in bytes."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count(), resident


def many_runs(folder: Path, num_runs: int, num_before: int = 400) -> dict[str, Any]:
    """Take a few steps of many runs, each with a folder and checkpoints, half of them saved in the background.

    The memory of the first runs is not compared: the system's allocator takes several hundred runs to settle.
    """

    def one(number: int) -> None:
        parent = job.fresh(folder / "runs")
        values = job.config(parent, 1, every_steps=2, in_background=bool(number % 2))
        values["train"]["max_steps"] = 4
        Run(load_config(values)).fit()

    for number in range(num_before):
        one(number)
    gc.collect()
    before = _open_things()
    for number in range(num_runs):
        one(number)
    gc.collect()
    after = _open_things()
    lost = [] if before[:2] == after[:2] else [f"descriptors and threads were {before[:2]}, and are {after[:2]}"]
    grown = (after[2] - before[2]) / before[2]
    if grown > 0.01:
        lost.append(f"memory grew by {grown:.1%}")
    return {
        "points": num_runs,
        "descriptors": after[0],
        "threads": after[1],
        "memory_growth": round(grown, 4),
        "lost": lost,
    }
