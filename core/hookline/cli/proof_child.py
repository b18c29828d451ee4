"""One process of a proof that a run resumes exactly: ``python -m hookline.cli.proof_child``.

``hookline prove-resume`` starts it and tells it on standard input what to do; no other command knows of it. It trains
or resumes a run as ``train`` and ``resume`` do. On the way it writes down what the plugins hold, counts the moments at
which it could be killed, and at one of them kills itself: with SIGKILL, so that nothing is closed, flushed or told.
What it has to say it writes, one JSON object a line, to the file of reports.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hookline.trials.proof.witness import Order, Report, Witness

if TYPE_CHECKING:
    from hookline.engine.config.run_config import RunConfig
    from hookline.engine.plugin.catalog import Catalog


PUT_OVER = "prove-resume"
"""The origin of the values that a proof puts over a config."""


def main() -> None:
    """Do what is ordered, and say how it went."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    descriptor = os.open(order.reports, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def told(report: Report) -> None:
        os.write(descriptor, msgspec.json.encode(report) + b"\n")

    try:
        _obey(order, told)
    except Exception as error:  # whatever it is, the one who asked has to tell it
        from hookline.engine.errors import HooklineError

        is_own = isinstance(error, HooklineError)
        text = str(error) if is_own else f"{type(error).__name__}: {error}"
        notes = [f"  ({note})" for note in getattr(error, "__notes__", ())]
        told(Report("failed", what="\n".join([text, *notes]), kind=type(error).__name__ if is_own else ""))
        raise


def _obey(order: Order, told: Callable[[Report], None]) -> None:
    from hookline.cli.arguments import chosen_catalog
    from hookline.engine.loop.run import Run
    from hookline.runs.folder import folder_of
    from hookline.runs.resuming import resume
    from hookline.shortcuts.light_optimizer import light_optimizer

    catalog = chosen_catalog(order.files, order.allow, order.deny)
    witness = Witness(order, told)
    with light_optimizer():
        if order.role == "resume":
            run = resume(order.run, order.overrides, catalog=catalog, observers=[witness])
        else:
            run = Run(proof_config(order, catalog), observers=[witness])
        witness.run = run
        if order.role == "look":
            told(Report("ended", num_steps=run.num_steps))
            return
        start = time.perf_counter()
        run.fit()
    kept = folder_of(run)
    folder = str(kept.path) if kept else ""
    moments = {kind: dict(counts) for kind, counts in witness.moments.items()}
    seconds = time.perf_counter() - start
    told(Report("ended", run.step, len(run.history), folder=folder, seconds=seconds, moments=moments))


def proof_config(order: Order, catalog: Catalog) -> RunConfig:
    """Return the config of the runs of a proof: that which ``train`` would have, with what the proof puts over it."""
    from hookline.cli.arguments import added_callbacks, load_words
    from hookline.cli.output import Output

    added = added_callbacks(Output(quiet=True), catalog, is_kept=True)
    kept = catalog.default("proof")(Path(order.parent), order.every_steps)
    return load_words(order.words, catalog, added, switches={PUT_OVER: {**kept, "train.max_time_s": 0.0}})


if __name__ == "__main__":
    main()
