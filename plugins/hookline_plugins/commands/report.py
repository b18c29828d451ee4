"""Command ``report``: a run, or several, as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hookline import ConfigError, HooklineError
from hookline.cli import Command, Output, noting_missing_files, output_options, plugin_options, runs_option
from hookline.engine import error_text
from hookline.runs import find_run, read_record
from hookline.sections import Bars, Section, Text, bounded, sections_to_json
from hookline.trained import check_target, written_whole

if TYPE_CHECKING:
    from hookline import Catalog
    from hookline.runs import RunRecord

_IMPORTANCE = "Importance of the features"


@click.command(cls=Command)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "-o", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write this file; default: RUN.html."
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option(
    "--no-evaluation", is_flag=True, help="Leave out what needs the model and the data, so that torch is not loaded."
)
@click.option("--importance", "has_importance", is_flag=True, help="Also measure how much each feature matters, once.")
@click.option("--open", "is_opened", is_flag=True, help="Open the report in the browser.")
@runs_option
@output_options
@plugin_options
def report(  # noqa: PLR0913 - a parameter for each option
    output: Output,
    catalog: Catalog,
    *,
    runs: Sequence[str],
    target: Path | None,
    force: bool,
    no_evaluation: bool,
    has_importance: bool,
    is_opened: bool,
    parent: Path,
) -> None:
    """Make a report of a run, or of several, as one HTML file.

    The file needs no network. RUN is a number, a name, a path, `last` or `best`; several are compared. The first report
    of a finished run evaluates its model and keeps the results in the run folder, so that the next one is made at once.
    """
    from hookline_plugins.commands.sweeping.sections import sections_of_sweep
    from hookline_plugins.drawing.of_run import sections_of_run
    from hookline_plugins.drawing.of_runs import sections_of_runs
    from hookline_plugins.drawing.page import report_page

    paths = list(dict.fromkeys(find_run(run, parent) for run in runs))
    if has_importance and (no_evaluation or len(paths) > 1):
        raise ConfigError(
            "--importance is for the evaluation of one run", hint="omit --no-evaluation, and name one run"
        )
    target = target or Path(f"{paths[0].name}.html" if len(paths) == 1 else "report.html")
    if not output.json:
        check_target(target, force=force)
    if has_importance and (no_evaluation or len(paths) > 1):
        raise ConfigError(
            "--importance is for the evaluation of one run", hint="omit --no-evaluation, and name one run"
        )
    if len(paths) > 1:
        sections = [*sections_of_runs(paths), *sections_of_sweep(paths)]
    else:
        sections = sections_of_run(paths[0])
        if not no_evaluation:
            sections += _of_plugins(output, catalog, paths[0], has_importance=has_importance)
    if output.json:
        output.verbatim(sections_to_json(sections).decode() + "\n")
        return
    title = paths[0].name if len(paths) == 1 else f"{len(paths)} runs"
    subtitle = str(paths[0]) if len(paths) == 1 else ", ".join(path.name for path in paths)
    footer = f"Made by Hookline, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."
    with written_whole(target, force=force) as new:
        new.write_text(report_page(title, subtitle, sections, footer), encoding="utf-8")
    output.line(f"wrote {target}")
    if is_opened:
        click.launch(str(target.absolute()))


def _of_plugins(output: Output, catalog: Catalog, path: Path, *, has_importance: bool) -> list[Section]:
    """Return the sections of the plugins of a run: the kept ones, or new ones."""
    from hookline_plugins.drawing.kept import keep_sections, kept_sections

    record = read_record(path)
    kept = kept_sections(path, record)
    if kept is not None and (not has_importance or any(section.title == _IMPORTANCE for section in kept)):
        return kept
    if record.model is None:
        return [_left_out("the run has no final weights yet")]
    try:
        sections = _collected(output, catalog, path, record, has_importance=has_importance)
    except Exception as error:  # noqa: BLE001 - a run whose data or plugins are gone has a report, too
        why = str(error) if isinstance(error, HooklineError) else error_text(error)
        output.note(f"warning: the report lacks the evaluation: {why}")
        return [_left_out(why)]
    try:
        keep_sections(path, sections)
    except HooklineError as error:
        output.note(f"warning: the evaluation is not kept for the next report: {error.message}")
    return sections


def _collected(
    output: Output, catalog: Catalog, path: Path, record: RunRecord, *, has_importance: bool
) -> list[Section]:
    from hookline.trained import collect_sections

    if not (output.quiet or output.json):
        output.note("evaluating the model for the report, once")
    with noting_missing_files(record):
        sections = collect_sections(path, catalog=catalog)
        return [*sections, _importance_of(path, catalog)] if has_importance else sections


def _importance_of(path: Path, catalog: Catalog) -> Section:
    """Return how much each feature matters to the model of a run; of inputs without features, the reason."""
    from hookline.trained import measure_importance

    try:
        found = measure_importance(path, catalog=catalog)
    except HooklineError as error:
        return bounded(Text(title=_IMPORTANCE, topic="model", paragraphs=[f"Not measured: {error.message}"]))
    return bounded(
        Bars(
            title=_IMPORTANCE,
            topic="model",
            labels=[one.feature for one in found.features],
            values=[one.mean for one in found.features],
            value_label=f"change of {found.metric}",
            note="How much the values of one feature, permuted between the examples, change the metric: the mean of "
            "5 permutations.",
        )
    )


def _left_out(why: str) -> Section:
    return bounded(Text(title="No evaluation", topic="evaluation", paragraphs=[f"It is left out: {why}"]))
