"""One process of a proof: trains or resumes a run as ordered, and reports how it went.

It records the state of the plugins, counts the moments at which it could be killed, and at one of them kills itself
with SIGKILL, so that nothing is closed or flushed. Reports go to a file, one JSON object per line.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import msgspec

from hookline.trials.proof.witness import Order, Report, Witness

if TYPE_CHECKING:
    from hookline.config.plugins.catalog import Catalog
    from hookline.config.run_config import RunConfig
    from hookline.engine.loop.run import Run
    from hookline.engine.ranks import Ranks


def carry_out(
    order: Order,
    catalog_of: Callable[[Order], Catalog],
    config_of: Callable[[Order, Catalog], RunConfig],
    joined: Callable[[RunConfig], AbstractContextManager[Ranks | None]],
) -> None:
    """Carry out an order.

    Args:
        order: The order.
        catalog_of: Returns the plugins that the run may use.
        config_of: Returns the config of the run.
        joined: Returns a context in which this process is one of the ranks that train the run.
    """
    descriptor = os.open(order.reports, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def write(report: Report) -> None:
        os.write(descriptor, msgspec.json.encode(report) + b"\n")

    try:
        catalog = catalog_of(order)
        config = config_of(order, catalog)
        if order.role == "look":
            write(Report("ended", num_steps=_built(order, catalog, config, Witness(order, write), None).num_steps))
            return
        with joined(config) as ranks:
            _train(order, catalog, config, write, ranks)
    except Exception as error:
        from hookline.engine.errors import HooklineError, error_text

        is_own = isinstance(error, HooklineError)
        text = str(error) if is_own else error_text(error)
        notes = [f"  ({note})" for note in getattr(error, "__notes__", ())]
        write(Report("failed", what="\n".join([text, *notes]), kind=type(error).__name__ if is_own else ""))
        raise


def _built(order: Order, catalog: Catalog, config: RunConfig, witness: Witness, ranks: Ranks | None) -> Run:
    from hookline.engine.loop.run import Run
    from hookline.runs.resuming import resume

    if order.role == "resume":
        witness.run = resume(order.run, order.overrides, catalog=catalog, observers=[witness], ranks=ranks)
    else:
        witness.run = Run(config, observers=[witness], ranks=ranks)
    return witness.run


def _train(
    order: Order, catalog: Catalog, config: RunConfig, write: Callable[[Report], None], ranks: Ranks | None
) -> None:
    from hookline.runs.folder import folder_of
    from hookline.shortcuts.light_optimizer import light_optimizer

    witness = Witness(order, write)
    with nullcontext() if ranks else light_optimizer():
        run = _built(order, catalog, config, witness, ranks)
        start = time.perf_counter()
        run.fit()
    if not run.ranks.is_zero:
        return
    seconds = time.perf_counter() - start
    saved = folder_of(run)
    folder = str(saved.path) if saved else ""
    moments = {kind: dict(counts) for kind, counts in witness.moments.items()}
    write(Report("ended", run.step, len(run.history), folder=folder, seconds=seconds, moments=moments))
