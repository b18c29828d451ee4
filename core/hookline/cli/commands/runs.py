"""Commands that resume, list, show, compare, plot and remove runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from hookline.cli.arguments import (
    ListByDefault,
    added_callbacks,
    noting_missing_files,
    output_options,
    plugin_options,
    unwanted_callbacks,
    watched_imports,
)
from hookline.cli.command import Command
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
from hookline.runs.curves import Curve, metric_names, read_curves
from hookline.runs.folder import CONFIG, saved_config
from hookline.runs.listing import RunRow, checkpoint_rows, list_runs, row_of
from hookline.runs.record import RunRecord, read_record
from hookline.runs.redaction import Redaction
from hookline.runs.removal import check_removable, remove_run
from hookline.runs.search import find_run
from hookline.shortcuts.light_optimizer import light_optimizer

_NEWEST = 20

runs_option = click.option(
    "--runs",
    "parent",
    type=click.Path(path_type=Path),
    default="runs",
    show_default=True,
    is_eager=True,  # completion of run names needs it
    metavar="DIR",
    help="Folder that contains the run folders.",
)
run_argument = click.argument("run", shell_complete=complete_run)
"""A run: its number, name or path, ``last`` or ``best``."""


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


@click.group(cls=ListByDefault)
def runs() -> None:
    """List, show, compare, plot or remove runs.

    Without a subcommand, runs `hookline runs list`. RUN is a number, a name, a path, `last` or `best`.
    """


@runs.command("list")
@runs_option
@click.option("--all", "has_all", is_flag=True, help=f"List all runs, not only the newest {_NEWEST}.")
@output_options
def list_(output: Output, parent: Path, has_all: bool) -> None:
    """List the runs, newest last.

    Shows how each run ended, its best value, and the changes from the run before.
    """
    rows, num_left_out = list_runs(parent, None if has_all else _NEWEST)
    if output.json:
        output.document([row_values(row) for row in rows])
        return
    if not rows:
        output.prose(f"no runs in {parent}; start one with: hookline train")
        return
    catalog = Catalog.installed()
    # Callbacks that show or save a run do not affect its results.
    added = [name for part in ("terminal", "json", "keep") for name in catalog.default(part)["callbacks"]]
    print_runs(output, rows, num_left_out, [f"callbacks.{name}" for name in added])


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
@runs_option
@output_options
def plot(output: Output, names: Sequence[str], metrics: Sequence[str], is_log: bool, parent: Path) -> None:
    """Plot metrics of runs over their steps.

    The losses of a single run share one plot. With several runs, each metric has its own plot.
    """
    paths = list(dict.fromkeys(find_run(name, parent) for name in names))
    found = _curves(paths, metrics)
    if output.json:
        output.document(curve_values(found))
        return
    groups = {metric: [pair for pair in found if pair[1].metric == metric] for metric in _metrics_of(found)}
    if len(paths) == 1 and len(found) > 1:
        groups = {paths[0].name: found}
    for number, (title, group) in enumerate(groups.items()):
        if number:
            output.line()
        print_curves(output, title, group, is_log=is_log)


def _curves(paths: Sequence[Path], metrics: Sequence[str]) -> list[tuple[str, Curve]]:
    """Return the curves of runs; a run without one of the metrics is a fault."""
    found: list[tuple[str, Curve]] = []
    faults: list[Fault] = []
    for path in paths:
        known = metric_names(path)
        wanted = metrics or [name for name in known if name.endswith("loss")] or known[:1]
        _check_count(len(found) + len(wanted))
        curves = read_curves(path, wanted)
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


def _metrics_of(curves: Sequence[tuple[str, Curve]]) -> list[str]:
    return list(dict.fromkeys(curve.metric for _, curve in curves))


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
