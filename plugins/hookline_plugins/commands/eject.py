"""Command ``eject``: a run as a plain PyTorch script."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hookline.cli import Command, noting_missing_files, output_options, plugin_options, run_argument, runs_option
from hookline.runs import find_run, read_record

if TYPE_CHECKING:
    from hookline import Catalog
    from hookline.cli import Output


@click.command(cls=Command)
@run_argument
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), metavar="FILE", help="File to write.")
@click.option("--force", is_flag=True, help="Overwrite the files if they exist.")
@runs_option
@output_options
@plugin_options
def eject(output: Output, catalog: Catalog, *, run: str, target: Path | None, force: bool, parent: Path) -> None:
    """Write RUN as a plain PyTorch script.

    The script needs torch and safetensors, but not Hookline. It trains as the run did, with the data in a file beside
    it. Without -o, both are named after the run and written to the current folder. RUN is a number, a name, a path,
    `last` or `best`. A run with a part that cannot be written as a script is refused.
    """
    path = find_run(run, parent)

    from hookline_plugins.commands.ejecting.writing import eject as ejected

    with noting_missing_files(read_record(path)):
        made = ejected(path, catalog)
    script = target or Path(f"{path.name}.py")
    made.write(script, force=force)
    arrays = script.with_suffix(".safetensors")
    num_lines = made.text.count("\n")
    if output.json:
        values = {"path": str(script), "data": str(arrays), "lines": num_lines, "left_out": list(made.left_out)}
        output.document(values)
    output.prose(f"wrote {script}: {num_lines} lines")
    output.prose(f"wrote {arrays}: {len(made.job.arrays)} arrays")
    if made.left_out:
        output.prose(f"left out, because they change no number: {', '.join(made.left_out)}")
    output.prose(f"next: hookline verify {script} {run}")
