"""One process of a proof: trains or resumes a run as ordered, and reports how it went.

It records the state of the plugins, counts the moments at which it could be killed, and at one of them kills itself
with SIGKILL, so that nothing is closed or flushed. Reports go to a file, one JSON object per line.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from hookline.trials.proof.witness import Order, Report, Witness

if TYPE_CHECKING:
    from hookline.config.plugins.catalog import Catalog
    from hookline.config.run_config import RunConfig


def carry_out(catalog_of: Callable[[Order], Catalog], config_of: Callable[[Order, Catalog], RunConfig]) -> None:
    """Carry out the order on standard input.

    Args:
        catalog_of: Returns the plugins that the run may use.
        config_of: Returns the config of the run.
    """
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    descriptor = os.open(order.reports, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def write(report: Report) -> None:
        os.write(descriptor, msgspec.json.encode(report) + b"\n")

    try:
        catalog = catalog_of(order)
        _train(order, catalog, config_of, write)
    except Exception as error:
        from hookline.engine.errors import HooklineError, error_text

        is_own = isinstance(error, HooklineError)
        text = str(error) if is_own else error_text(error)
        notes = [f"  ({note})" for note in getattr(error, "__notes__", ())]
        write(Report("failed", what="\n".join([text, *notes]), kind=type(error).__name__ if is_own else ""))
        raise


def _train(
    order: Order, catalog: Catalog, config_of: Callable[[Order, Catalog], RunConfig], write: Callable[[Report], None]
) -> None:
    from hookline.engine.loop.run import Run
    from hookline.runs.folder import folder_of
    from hookline.runs.resuming import resume
    from hookline.shortcuts.light_optimizer import light_optimizer

    witness = Witness(order, write)
    with light_optimizer():
        if order.role == "resume":
            run = resume(order.run, order.overrides, catalog=catalog, observers=[witness])
        else:
            run = Run(config_of(order, catalog), observers=[witness])
        witness.run = run
        if order.role == "look":
            write(Report("ended", num_steps=run.num_steps))
            return
        start = time.perf_counter()
        run.fit()
    seconds = time.perf_counter() - start
    saved = folder_of(run)
    folder = str(saved.path) if saved else ""
    moments = {kind: dict(counts) for kind, counts in witness.moments.items()}
    write(Report("ended", run.step, len(run.history), folder=folder, seconds=seconds, moments=moments))
