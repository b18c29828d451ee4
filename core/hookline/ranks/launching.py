"""The start of the ranks of a run on this machine, by the launcher of torch.distributed."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

STORE = "HOOKLINE_RANKS_STORE"
"""Environment variable with the file through which the ranks of one machine find each other: no port is open."""

_PEER_ERROR = 8


def launch(num_ranks: int, words: Sequence[str]) -> int:
    """Run ``hookline`` with these words in several processes, and return the exit code of the run.

    Signals are passed on. When a rank fails, the others are ended. The exit code is that of the rank that failed, and
    8 if it was killed.

    Args:
        num_ranks: Number of processes; the processors are shared out between them.
        words: The words of the command line.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the ranks say what happened
    with tempfile.TemporaryDirectory(prefix="hookline-ranks-") as folder:
        command = (*(["-P"] if sys.flags.safe_path else []), "-m", "hookline", *words)
        context = start_processes(
            name="hookline",
            entrypoint=sys.executable,
            args=dict.fromkeys(range(num_ranks), command),
            envs={rank: _environment(rank, num_ranks, Path(folder) / "store") for rank in range(num_ranks)},
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        with _passing_on(context):
            while (result := context.wait(timeout=1, period=0.05)) is None:
                pass
        codes = [failure.exitcode for failure in result.failures.values()]
    own = [code for code in codes if code > 0]
    return next((code for code in own if code != _PEER_ERROR), _PEER_ERROR if codes else 0)


def _environment(rank: int, num_ranks: int, store: Path) -> dict[str, str]:
    """Return the variables of a rank: those of torchrun, and the place of the store."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks}
    threads = max(len(os.sched_getaffinity(0)) // num_ranks, 1) if hasattr(os, "sched_getaffinity") else 1
    return {
        **{name: str(value) for name, value in places.items()},
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
        STORE: str(store),
    }


@contextmanager
def _passing_on(context: Any) -> Iterator[None]:
    """Pass the signals that end a run on to all ranks."""

    def handler(number: int, _: FrameType | None) -> None:
        for process in context.pids().values():
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
