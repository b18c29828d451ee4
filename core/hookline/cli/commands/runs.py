"""Commands that resume, list, show, compare, plot and remove runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from hookline.cli.arguments import (
    GroupWithDefault,
    added_callbacks,
    noting_missing_files,
    output_options,
    plugin_options,
    run_argument,
    runs_option,
    unwanted_callbacks,
    watched_imports,
)
from hookline.cli.command import Command
from hookline.cli.commands.notes import note, tag
from hookline.cli.commands.watching import watch
from hookline.cli.completion import complete_run
from hookline.cli.fitting import Observers, fit, observing, shortcuts_option
from hookline.cli.output import Output
from hookline.cli.printing.runs import (
    MAX_CURVES,
    curve_values,
    print_curves,
    print_differences,
    print_run,
    print_runs,
    row_values,
    run_values,
)
from hookline.cli.ranks import joined, launch_ranks, nproc_option, world_size
from hookline.cli.streams import outlasted_output
from hookline.config.loading import load_config
from hookline.config.plugins.catalog import Catalog
from hookline.engine.errors import ConfigError, Fault, HooklineError
from hookline.engine.words import did_you_mean, printable
from hookline.runs.changes import differences
from hookline.runs.curves import MAX_POINTS, Curve, metric_lines, metric_names, read_curves
from hookline.runs.folder import CONFIG, saved_config
from hookline.runs.listing import RunRow, checkpoint_rows, list_runs, row_of
from hookline.runs.overview.columns import check_columns, sorted_rows
from hookline.runs.overview.figure import FIGURE_POINTS, FIGURE_SUFFIXES, draw, grouped, save_figure, smoothed
from hookline.runs.overview.search import find_run
from hookline.runs.record import RunRecord, read_record
from hookline.runs.redaction import Redaction
from hookline.runs.removal import check_removable, remove_run
from hookline.shortcuts.light_optimizer import light_optimizer
from hookline.trained.target_file import check_target, written_whole

_NEWEST = 20
_INCHES = click.FloatRange(1, 50)


# ---- resuming --------------------------------------------------------------------------------------------------------


@click.command(cls=Command)
@run_argument
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@runs_option
@click.option("--allow-changed-data", is_flag=True, help="Resume even if the training data changed.")
@nproc_option
@shortcuts_option
@output_options
@plugin_options
@observing
@outlasted_output()
def resume(  # noqa: PLR0913, PLR0917 - a parameter for each option
    output: Output,
    catalog: Catalog,
    run: str,
    overrides: Sequence[str],
    parent: Path,
    allow_changed_data: bool,
    nproc: int,
    shortcuts: bool,
    observers: Observers,
) -> None:
    """Resume RUN from its newest valid checkpoint.

    The run continues in its folder as if it had never been interrupted. RUN is a number, a name, a path, `last` or
    `best`. KEY=VALUE overrides its config, and makes it a different run from here on.
    """
    path = find_run(run, parent)
    if _is_finished(output, run, path, overrides):
        return
    config = None
    if max(nproc, world_size()) > 1:
        with _loading(output, path, overrides, catalog):
            config = load_config(saved_config(path), overrides, defaults=catalog.default("ranks"), catalog=catalog)
    launch_ranks(nproc)
    with joined(output, config) as ranks:
        resume_and_fit(
            output,
            catalog,
            path,
            overrides,
            allow_changed_data=allow_changed_data,
            shortcuts=shortcuts,
            ranks=ranks,
            observers=observers,
        )


def _is_finished(output: Output, run: str, path: Path, overrides: Sequence[str]) -> bool:
    """Return whether there is nothing left to do for a run, after a line that says so."""
    record = read_record(path)
    if record.status not in ("completed", "stopped") or overrides:
        return False
    if output.json:
        output.event("finished", path=str(path.resolve()), status=record.status, step=record.step)
    output.prose(f"{path.name} is {record.status} after {record.step} steps: nothing left to do")
    output.prose(f"  = to train longer: hookline resume {run} train.epochs={2 * max(record.num_epochs, 1)}")
    return True


def resume_and_fit(
    output: Output, catalog: Catalog, path: Path, overrides: Sequence[str] = (), *, observers: Observers, **options: Any
) -> None:
    """Resume a run, and train it to its end; the options are those of ``hookline.resume``."""
    from hookline.runs.resuming import resume as resume_run

    if _is_finished(output, str(path), path, overrides):
        return
    is_light = options["shortcuts"] and not options["ranks"]
    with light_optimizer() if is_light else contextlib.nullcontext():
        shown = _shown_callbacks(output, catalog)
        with _loading(output, path, overrides, catalog):
            resumed = resume_run(path, overrides, catalog=catalog, observers=observers.active, shown=shown, **options)
        if output.json:
            output.event("resume", path=str(path.resolve()), epoch=resumed.epoch, step=resumed.step)
        output.prose(f"resuming {path} from step {resumed.step}\n")
        fit(output, resumed, observers)


@contextlib.contextmanager
def _loading(output: Output, path: Path, overrides: Sequence[str], catalog: Catalog) -> Iterator[None]:
    """Load the config of a run: imports are watched, and its errors hold no secret."""
    record = read_record(path)
    with noting_missing_files(record), _kept_secret(output, path, overrides, catalog), watched_imports() as watch:
        watch.before(f"the plugins of {path.name}")
        yield


@contextlib.contextmanager
def _kept_secret(output: Output, path: Path, overrides: Sequence[str], catalog: Catalog) -> Iterator[None]:
    """After an error, find the secrets of a config that is loaded elsewhere, so that none is printed."""
    try:
        yield
    except Exception:
        with contextlib.suppress(HooklineError):
            output.redaction = Redaction.of(load_config(path / CONFIG, overrides, catalog=catalog))
        raise


def _shown_callbacks(output: Output, catalog: Catalog) -> dict[str, bool]:
    """Return the callbacks that show a run, each with whether this command uses it."""
    wanted = added_callbacks(output, catalog, is_saved=False)["callbacks"]
    unwanted = unwanted_callbacks(output, catalog, is_saved=True)
    return {f"callbacks.{name}": True for name in wanted} | dict.fromkeys(unwanted, False)


# ---- looking at runs -------------------------------------------------------------------------------------------------


@click.group(cls=GroupWithDefault)
def runs() -> None:
    """List, watch, show, tag, compare, plot or remove runs.

    Without a subcommand, runs `hookline runs list`. RUN is a number, a name, a path, `last` or `best`.
    """


runs.add_command(tag)
runs.add_command(note)
runs.add_command(watch)


@runs.command("list")
@runs_option
@click.option("--all", "has_all", is_flag=True, help=f"List all runs, not only the newest {_NEWEST}.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="List only runs with this tag; repeatable.")
@click.option("--search", "text", default="", metavar="TEXT", help="List only runs with TEXT in name, tags or note.")
@click.option("--show", "shown", multiple=True, metavar="KEY", help="Show this setting or metric; repeatable.")
@click.option("--sort", "sort", metavar="KEY", help="Sort by a column, a setting or a metric.")
@click.option("--reverse", "is_reversed", is_flag=True, help="Reverse the order.")
@output_options
def list_(
    output: Output,
    parent: Path,
    has_all: bool,
    tags: Sequence[str],
    text: str,
    shown: Sequence[str],
    sort: str | None,
    is_reversed: bool,
) -> None:
    """List the runs, newest last.

    Shows how each run ended, its best value, and the changes from the run before. KEY is a setting such as
    `optimizer.lr`, a metric such as `train/loss`, or `run`, `name`, `status`, `best`, `epochs`, `steps`, `time` or
    `started`.
    """
    is_sorted = sort is not None or is_reversed
    rows, num_left_out = list_runs(parent, None if has_all or is_sorted else _NEWEST, tags=tags, text=text)
    check_columns(rows, [*shown, *([sort] if sort else [])])
    if is_sorted:
        rows = sorted_rows(rows, sort or "run", is_descending=is_reversed)
        num_left_out = 0 if has_all else max(len(rows) - _NEWEST, 0)
        rows = rows[: len(rows) - num_left_out]
    if output.json:
        output.document([row_values(row, shown) for row in rows])
        return
    if not rows:
        is_chosen = bool(tags or text)
        output.prose(
            f"no such runs in {parent}" if is_chosen else f"no runs in {parent}; start one with: hookline train"
        )
        return
    print_runs(output, rows, Catalog.installed().watching_tables(), shown)
    if num_left_out:
        others = "run" if num_left_out == 1 else "runs"
        output.prose(f"\nand {num_left_out} {'other' if is_sorted else 'older'} {others}: hookline runs --all")


@runs.command()
@run_argument
@runs_option
@output_options
def show(output: Output, run: str, parent: Path) -> None:
    """Show the details of a run.

    Shows the status, times, metrics, attempts, checkpoints, plugins, versions and warnings of RUN.
    """
    row = row_of(find_run(run, parent))
    checkpoints = checkpoint_rows(row.path)
    if output.json:
        output.document(run_values(row, checkpoints))
        return
    print_run(output, row, _record_of(row), checkpoints)


@runs.command()
@click.argument("first", shell_complete=complete_run)
@click.argument("second", shell_complete=complete_run)
@runs_option
@output_options
def diff(output: Output, first: str, second: str, parent: Path) -> None:
    """Show the differences between two runs.

    Compares the settings, versions, plugins, code, data and final metrics of the runs FIRST and SECOND.
    """
    paths = [find_run(name, parent) for name in (first, second)]
    changes = list(differences(*map(read_record, paths)))
    if output.json:
        values = [{"part": c.part, "key": c.key, "first": c.before, "second": c.after} for c in changes]
        output.document({"first": str(paths[0]), "second": str(paths[1]), "differences": values})
    elif changes:
        print_differences(output, (paths[0].name, paths[1].name), changes)
    else:
        output.prose(f"no known differences between {paths[0].name} and {paths[1].name}")


@runs.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN...", shell_complete=complete_run)
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME", help="Plot this metric instead of the losses; repeatable."
)
@click.option("--log", "is_log", is_flag=True, help="Use a logarithmic scale.")
@click.option(
    "--smooth",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    metavar="WEIGHT",
    help="Plot a moving average, from 0, none, to below 1.",
)
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a picture: PDF, SVG or PNG.",
)
@click.option("--width", type=_INCHES, default=5.0, show_default=True, metavar="INCHES", help="Width of FILE.")
@click.option("--height", type=_INCHES, metavar="INCHES", help="Height of FILE; default: 0.62 of the width.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@runs_option
@output_options
def plot(  # noqa: PLR0913, PLR0917 - a parameter for each option
    output: Output,
    names: Sequence[str],
    metrics: Sequence[str],
    is_log: bool,
    smooth: float,
    target: Path | None,
    width: float,
    height: float | None,
    force: bool,
    parent: Path,
) -> None:
    """Plot metrics of runs over their steps.

    The losses of a single run share one plot. With several runs, each metric has its own plot. The plot is drawn in the
    terminal, or written to FILE, ready for a paper.
    """
    paths = list(dict.fromkeys(find_run(name, parent) for name in names))
    if target:
        _check_picture(target, force=force)
    found = _curves(paths, metrics, FIGURE_POINTS if target else MAX_POINTS)
    if target:
        figure = draw(grouped(found), x_label="step", log=is_log, smooth=smooth, width=width, height=height)
        with written_whole(target, force=force) as new:
            save_figure(figure, new)
        output.prose(f"wrote {target}")
    elif smooth:
        found = [(run, replace(curve, points=smoothed(curve.points, smooth))) for run, curve in found]
    if output.json:
        output.document(curve_values(found))
    elif not target:
        for number, (title, group) in enumerate(grouped(found).items()):
            if number:
                output.line()
            print_curves(output, title, group, is_log=is_log)


def _check_picture(target: Path, *, force: bool) -> None:
    if target.suffix.lower() not in FIGURE_SUFFIXES:
        formats = ", ".join(FIGURE_SUFFIXES)
        raise ConfigError(f"{target} has no suffix of a picture", hint=f"name a file with {formats}: -o loss.pdf")
    check_target(target, force=force)


def _curves(paths: Sequence[Path], metrics: Sequence[str], max_points: int) -> list[tuple[str, Curve]]:
    """Return the curves of runs; a run without one of the metrics is a fault."""
    found: list[tuple[str, Curve]] = []
    faults: list[Fault] = []
    for path in paths:
        known = metric_names(path)
        wanted = metrics or [name for name in known if name.endswith("loss")] or known[:1]
        _check_count(len(found) + len(wanted))
        curves = read_curves(path, wanted, max_points)
        missing = [name for name in metrics if name not in {curve.metric for curve in curves}]
        faults += [Fault(f"{path.name} has no values of {name!r}", hint=did_you_mean(name, known)) for name in missing]
        if not (curves or missing):
            faults.append(Fault(f"{path.name} has no metrics yet"))
        found += [(path.name, curve) for curve in curves]
    if faults:
        raise ConfigError("cannot plot these runs", faults=faults)
    return found


def _check_count(num_curves: int) -> None:
    if num_curves > MAX_CURVES:
        hint = f"plot at most {MAX_CURVES}: --metric NAME"
        raise ConfigError(f"too many curves to tell apart: {num_curves}", hint=hint)


@runs.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN...", shell_complete=complete_run)
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask for confirmation.")
@click.option("--force", is_flag=True, help="Also remove foreign files, or a run with a broken record.")
@runs_option
@output_options
def rm(output: Output, names: Sequence[str], is_sure: bool, force: bool, parent: Path) -> None:
    """Remove run folders.

    Removes everything in them, checkpoints included. If one of the runs cannot be removed, none is.
    """
    paths = _removable(names, parent, force=force)
    if not is_sure:
        _confirm(paths)
    for path in paths:
        remove_run(path, force=force)
        output.prose(f"removed {path}")
    if output.json:
        output.document({"removed": [str(path) for path in paths]})


def _removable(names: Sequence[str], parent: Path, *, force: bool) -> list[Path]:
    """Return the folders to remove; all faults are raised at once."""
    paths: dict[Path, None] = {}
    errors: list[HooklineError] = []
    for name in names:
        try:
            path = find_run(name, parent)
            check_removable(path, force=force)
            paths[path.resolve()] = None
        except HooklineError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        faults = [Fault(error.message, hint=error.hint) for error in errors]
        # The class of the first error determines the exit code.
        raise type(errors[0])("nothing was removed", faults=faults)
    return list(paths)


def _confirm(paths: Sequence[Path]) -> None:
    """Ask for confirmation to remove folders.

    Raises:
        ConfigError: When standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        message = "cannot ask for confirmation: standard input is not a terminal"
        raise ConfigError(message, hint="use --yes to remove without confirmation")
    for path in paths:
        click.echo(printable(str(path)), err=True)
    what = "it" if len(paths) == 1 else f"these {len(paths)} runs"
    click.confirm(f"remove {what} permanently?", abort=True, err=True)


@runs.command()
@run_argument
@click.argument("options", nargs=-1, metavar="[OPTION=VALUE]...")
@click.option("--to", "target", required=True, metavar="CALLBACK", help="Callback of a tracker.")
@runs_option
@output_options
@plugin_options
def export(output: Output, catalog: Catalog, run: str, options: Sequence[str], target: str, parent: Path) -> None:
    """Send RUN to a tracker.

    Sends its settings, metrics and outcome by the callback that would have sent them during the run, whose options are
    OPTION=VALUE. What the tracker has is not sent again.
    """
    path = find_run(run, parent)
    row = row_of(path)
    if row.status == "running":
        raise ConfigError(f"{path.name} is still running", hint="export it when it has ended")
    with watched_imports():
        words = [f"callbacks.export.{word}" for word in options]
        config = load_config({"callbacks": {"export": {"use": target}}}, words, catalog=catalog)
    choice = next(choice for choice in config.plugins if choice.table == "callbacks.export")
    exporter: Any = choice.plugin.make(choice.options)
    if not hasattr(exporter, "export_run"):
        hint = "name the callback of a tracker; for the list: hookline plugins callback"
        raise ConfigError(f"{choice.plugin} does not export runs", hint=hint)
    outcome = "killed" if row.status == "lost" else row.status
    with contextlib.redirect_stdout(sys.stderr):  # packages of trackers print
        num_points = exporter.export_run(path, _record_of(row), metric_lines(path), outcome)
    if output.json:
        output.document({"run": str(path.resolve()), "to": target, "points": num_points})
    output.prose(f"sent {path.name} to {target}: {num_points} points")


@runs.command()
@run_argument
@runs_option
@output_options
def path(output: Output, run: str, parent: Path) -> None:
    """Print the path of a run folder.

    For example:

        cd "$(hookline runs path last)"
    """
    found = find_run(run, parent).resolve()
    if output.json:
        output.document({"path": str(found)})
    else:
        output.line(str(found))


def _record_of(row: RunRow) -> RunRecord:
    """Return the record of a run.

    Raises:
        ConfigError: When it cannot be read.
    """
    return row.record or read_record(row.path)
