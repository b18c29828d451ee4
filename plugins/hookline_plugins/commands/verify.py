"""Command ``verify``: compare a script with a run, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hookline import Fault, HooklineError
from hookline.cli import Command, noting_missing_files, output_options, plugin_options, run_argument, runs_option
from hookline.runs import find_run, read_record

if TYPE_CHECKING:
    from hookline import Catalog
    from hookline.cli import Output

_SHOWN = 5


@click.command(cls=Command)
@click.argument("script", type=click.Path(path_type=Path))
@run_argument
@runs_option
@output_options
@plugin_options
def verify(output: Output, catalog: Catalog, *, script: Path, run: str, parent: Path) -> None:
    """Compare SCRIPT with RUN, to the last bit.

    Runs SCRIPT in a process of its own, and compares the losses of each epoch and the final weights with those of RUN.
    If they differ, the first step that does is found by training RUN again. The result is saved with RUN. Run only
    scripts that you trust.
    """
    path = find_run(run, parent)

    from hookline_plugins.commands.ejecting.verifying import keep
    from hookline_plugins.commands.ejecting.verifying import verify as verified

    with noting_missing_files(read_record(path)):
        verdict = verified(script, path, catalog)
    keep(verdict, path)
    if output.json:
        output.document({**verdict.row(), "sha256": verdict.sha256, "differences": list(verdict.differences)})
    if verdict.not_measured:
        output.prose(f"not measured by the script: {', '.join(verdict.not_measured)}")
    if verdict.differences:
        faults = [Fault(text) for text in verdict.differences[:_SHOWN]]
        if (more := len(verdict.differences) - _SHOWN) > 0:
            faults.append(Fault(f"and {more} more"))
        raise HooklineError(f"{script} differs from the run {path.name}", faults=faults)
    output.prose(f"same bits: {verdict.epochs} epochs and {verdict.weights} weights")
