"""Command that exports trained models, in the formats that plugins add."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hookline.cli.arguments import (
    noting_missing_files,
    output_options,
    plugin_options,
    run_argument,
    runs_option,
    watched_imports,
)
from hookline.cli.command import Command
from hookline.cli.commands.trained import checkpoint_option, overrides_argument
from hookline.cli.completion import complete_format
from hookline.cli.lazy_group import added_entries, catalog_of
from hookline.cli.output import Output
from hookline.cli.printing.evaluated import origin_of, print_warnings, values_of
from hookline.cli.signals import ended_at_once
from hookline.config.plugins.catalog import EXPORT, Catalog
from hookline.runs.overview.search import find_run
from hookline.runs.record import read_record

if TYPE_CHECKING:
    from hookline.trained.comparing import Comparison
    from hookline.trained.exporting import Exported


class _ExportCommand(Command):
    """Command whose help lists the formats, without importing any."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the formats above the options."""
        with formatter.section("Formats"):
            formatter.write_dl([(name, one.summary) for name, one in added_entries(catalog_of(ctx), EXPORT).items()])
        super().format_options(ctx, formatter)


@click.command(cls=_ExportCommand)
@run_argument
@overrides_argument
@click.option("--to", required=True, metavar="FORMAT", shell_complete=complete_format, help="Export in this format.")
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path), metavar="PATH", help="File or folder to write."
)
@click.option("--force", is_flag=True, help="Overwrite it if it exists.")
@checkpoint_option
@runs_option
@output_options
@plugin_options
@ended_at_once()
def export(  # noqa: PLR0913 - a parameter for each option
    output: Output,
    catalog: Catalog,
    *,
    run: str,
    overrides: Sequence[str],
    to: str,
    target: Path | None,
    force: bool,
    checkpoint: str | None,
    parent: Path,
) -> None:
    """Export the model of RUN for other programs.

    Compares the outputs of the exported model with those of the original, if it can be loaded. Without -o, the file or
    folder is named after the run and written to the current folder. RUN is a number, a name, a path, `last` or `best`.
    KEY=VALUE overrides its config; export.KEY=VALUE sets an option of the format, see `hookline show export FORMAT`.
    """
    path = find_run(run, parent)
    mine = [word for word in overrides if word.startswith(f"{EXPORT}.")]
    others = [word for word in overrides if word not in mine]

    from hookline.trained.exporting import export_model, load_format

    # Plugins may print on import; standard output is for results.
    with contextlib.redirect_stdout(sys.stderr), watched_imports() as watch:
        form = load_format(to, mine, catalog=catalog, vet=watch)

    from hookline.trained.loading import load_trained

    with noting_missing_files(read_record(path)):
        trained = load_trained(path, others, checkpoint=checkpoint, catalog=catalog)
    print_warnings(output, trained)
    made = export_model(trained, form, target, force=force)
    if output.json:
        values = {"path": str(made.path), "format": to, "published": made.published, **_compared(made)}
        output.document({**values_of(trained), **values, "warnings": trained.warnings})
    output.prose(origin_of(trained))
    output.prose(f"wrote {made.path}")
    _print_comparison(output, made.comparison)
    if made.published:
        output.prose(made.published)


def _compared(made: Exported) -> dict[str, Any]:
    if not (found := made.comparison):
        return {"examples": 0}
    return {
        "inputs": "raw" if found.takes_raw else "prepared",
        "examples": found.num_examples,
        "largest_difference": found.largest_difference,
        "rtol": found.rtol,
        "atol": found.atol,
    }


def _print_comparison(output: Output, found: Comparison | None) -> None:
    if found is None:
        output.prose("its outputs were not compared with the model's")
        return
    output.prose(f"it takes {'the values of the data file' if found.takes_raw else 'inputs prepared as in training'}")
    spread = " * spread" if found.takes_raw else ""
    allowed = "0" if found.rtol == 0 else f"{found.atol:g}{spread} + {found.rtol:g} * output"
    output.prose(
        f"compared on {found.inputs}: largest output difference {found.largest_difference:.3g}, allowed {allowed}"
    )
