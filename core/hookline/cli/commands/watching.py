"""Command that watches runs at work."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from hookline.cli.arguments import output_options, runs_option
from hookline.cli.command import Command
from hookline.cli.completion import complete_run
from hookline.cli.output import Output
from hookline.cli.printing.watching import RedrawnTable, watched_line, watched_values
from hookline.runs.listing import list_runs
from hookline.runs.overview.at_work import WatchedRun
from hookline.runs.overview.search import find_run

_LOOK_S = 1.0
"""Time between two looks at a run."""


@click.command(cls=Command)
@click.argument("names", nargs=-1, metavar="[RUN]...", shell_complete=complete_run)
@runs_option
@output_options
def watch(output: Output, names: Sequence[str], parent: Path) -> None:
    """Watch runs at work: epoch, step, loss, speed and time left.

    Without a RUN, watches all runs at work. Ends when none of them is at work any more, or with Ctrl-C. In a terminal,
    a table is redrawn once a second; elsewhere, each change is a line.
    """
    paths = dict.fromkeys(find_run(name, parent).resolve() for name in names)
    if not names:
        paths = dict.fromkeys(row.path for row in list_runs(parent)[0] if row.status == "running")
    if not paths:
        output.prose(f"no run is at work in {parent}")
        return
    watched = [WatchedRun(path) for path in paths]
    table = RedrawnTable() if sys.stdout.isatty() and not output.json else None
    while True:
        changed = [run for run in watched if run.look()]
        if table and changed:
            table.draw(output, watched)
        elif not table:
            for run in changed:
                _print(output, run)
        if all(run.status != "running" for run in watched):
            return
        time.sleep(_LOOK_S)


def _print(output: Output, run: WatchedRun) -> None:
    if output.json:
        output.event("at_work" if run.status == "running" else "ended", **watched_values(run))
    else:
        output.line(watched_line(run))
