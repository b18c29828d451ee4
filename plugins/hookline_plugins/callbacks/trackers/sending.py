"""The process that sends the points of a run to a tracker, and its program: ``python -m`` with this module.

A line of standard input is a job, a line of standard output its result. The package of a tracker is imported there: it
can neither change the generators, handlers or streams of a run, nor slow its steps, nor block it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

import msgspec

from hookline_plugins.callbacks.trackers.points import Job, Store

_MODULES = {
    "tensorboard": "tensorboard_events",
    "mlflow": "mlflow_store",
    "wandb": "wandb_sessions",
    "trackio": "trackio_project",
}

_MAX_ERROR = 500


class Result(msgspec.Struct):
    """The result of a job.

    Attributes:
        sent: Number of points of the run that the tracker has.
        error: Why the job failed; empty if it did not.
    """

    sent: int = 0
    error: str = ""


def send(job: Job) -> int:
    """Bring a tracker up to date, and return the number of points that it has; it gets each once."""
    module = importlib.import_module(f"hookline_plugins.callbacks.trackers.{_MODULES[job.tracker]}")
    store: Store = module.open_store(job.sent, job.options)
    try:
        first = max(job.first, store.count())
        points = job.points[first - job.first :]
        if points:
            store.send(points, first)
    except BaseException:
        store.close(None, "")
        raise
    store.close(job.outcome, job.weights)
    return first + len(points)


def in_one_line(error: Exception) -> str:
    """Return the type and the first line of an error: those of databases show whole statements."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:_MAX_ERROR]}"


def _main() -> None:
    # What a package prints must not be taken for a result.
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lock: Any = None
    for line in sys.stdin.buffer:
        try:
            job = msgspec.convert(json.loads(line), Job)
            lock = lock or _held(job.lock)
            result = Result(send(job))
        except Exception as error:  # noqa: BLE001 - whatever a package raises is reported
            result = Result(error=in_one_line(error))
        results.write(msgspec.json.encode(result) + b"\n")
        results.flush()


def _held(path: str) -> Any:
    """Return a lock that is held: the process of an attempt that was killed ends its job first."""
    if not path:
        return None
    from filelock import FileLock

    lock = FileLock(path)
    lock.acquire()
    return lock


if __name__ == "__main__":
    _main()
