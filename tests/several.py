"""Several ranks for a test: forks of this process in a process group of their own."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # strategies and optimizers import it: here once for all forks

from hookline.ranks import ProcessGroup
from hookline.ranks.agreed import LOOPBACK
from hookline.ranks.messages import from_bytes, to_bytes
from support import HANG_S


def in_ranks(num_ranks: int, task: Callable[[ProcessGroup], Any], *, timeout_s: float = 60.0) -> list[Any]:
    """Call a function in each of several processes that are the ranks of a process group; return the results.

    A result consists of tensors and plain values. For an error it is ``{"error": TYPE, "text": TEXT}``.
    """
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            multiprocessing.get_context("fork").Process(
                target=_work, args=(Path(folder), rank, num_ranks, task, timeout_s)
            )
            for rank in range(num_ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(HANG_S)
            assert process.exitcode is not None, "a rank hangs"
        files = [Path(folder, str(rank)) for rank in range(num_ranks)]
        return [from_bytes(path.read_bytes()) if path.exists() else None for path in files]


def _work(folder: Path, rank: int, num_ranks: int, task: Callable[[ProcessGroup], Any], timeout_s: float) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK
    torch.set_num_threads(1)
    ranks = ProcessGroup.by_file(folder / "store", rank, num_ranks, timeout_s)
    try:
        result = task(ranks)
    except Exception as raised:  # noqa: BLE001 - it is the result
        error = ranks.fail(raised)
        result = {"error": type(error).__name__, "text": str(error), "trace": traceback.format_exc()}
    (folder / str(rank)).write_bytes(to_bytes(result))
    os._exit(0)  # another rank may be gone, so that no farewell is possible
