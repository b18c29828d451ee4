"""The commands that go on with runs, and look at them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from hookline.cli.arguments import ListByDefault, added_callbacks, choosing, local_files, printing, unwanted_callbacks
from hookline.cli.completion import complete_run
from hookline.cli.fitting import Observing, fit, observing
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
from hookline.engine.errors import ConfigError, Fault, HooklineError, PluginError
from hookline.engine.plugin.catalog import Catalog
from hookline.engine.words import did_you_mean, printable
from hookline.runs.changes import differences
from hookline.runs.curves import Curve, metric_names, read_curves
from hookline.runs.listing import RunRow, checkpoint_rows, list_runs, row_of
from hookline.runs.record import RunRecord, read_record
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
    is_eager=True,  # so that the names of runs can be completed
    help="Where the run folders are.",
)
run_argument = click.argument("run", shell_complete=complete_run)
"""A run: its number, its name, its path, ``last`` or ``best``."""


# ---- going on --------------------------------------------------------------------------------------------------------


@click.command()
@run_argument
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@runs_option
@click.option("--allow-changed-data", is_flag=True, help="Go on with other data than the run began with.")
@printing
@choosing
@observing
def resume(
    output: Output,
    catalog: Catalog,
    run: str,
    overrides: Sequence[str],
    parent: Path,
    allow_changed_data: bool,
    observing: Observing,
) -> None:
    """Go on with RUN from its newest good checkpoint, in its folder, as if it had never been interrupted.

    RUN is a number, a name, a path, `last` or `best`. KEY=VALUE overrides its config; then it is another run from
    here on.
    """
    path = find_run(run, parent)
    record = read_record(path)
    if record.status in ("completed", "stopped") and not overrides:
        if output.json:
            output.event("finished", path=str(path.resolve()), status=record.status, step=record.step)
        output.prose(f"{path.name} is {record.status}, after {record.step} steps: nothing is left to do")
        output.prose(f"  = to train it for longer: hookline resume {run} train.epochs={2 * max(record.num_epochs, 1)}")
        return

    from hookline.runs.resuming import resume as resumed

    shown = _shown_callbacks(output, catalog)
    with light_optimizer():
        with _telling_files(record):
            going_on = resumed(
                path,
                overrides,
                catalog=catalog,
                allow_changed_data=allow_changed_data,
                observers=observing.observers,
                shown=shown,
            )
        if output.json:
            output.event("resume", path=str(path.resolve()), epoch=going_on.epoch, step=going_on.step)
        output.prose(f"going on with {path} from step {going_on.step}\n")
        fit(output, going_on, observing)


def _shown_callbacks(output: Output, catalog: Catalog) -> dict[str, bool]:
    """Return the callbacks that show a run, and whether this command wants them."""
    wanted = added_callbacks(output, catalog, is_kept=False)["callbacks"]
    unwanted = unwanted_callbacks(output, catalog, is_kept=True)
    return {f"callbacks.{name}": True for name in wanted} | dict.fromkeys(unwanted, False)


@contextlib.contextmanager
def _telling_files(record: RunRecord) -> Iterator[None]:
    """Tell which files of plugins the run had, if it cannot go on without them.

    What a record says is never imported: whoever trusts the file names it.
    """
    try:
        yield
    except (ConfigError, PluginError) as error:
        had = dict.fromkeys(file for attempt in record.attempts for file in _plugin_files(attempt.command))
        for file in had:
            if Path(file).name not in {Path(given).name for given in local_files()}:
                error.add_note(f"the run was begun with --plugin {file}, and this command was not given it")
        raise


def _plugin_files(command: Sequence[str]) -> Iterator[str]:
    for word, following in zip(command, [*command[1:], ""], strict=True):
        if word == "--plugin" and following:
            yield following
        elif word.startswith("--plugin="):
            yield word.removeprefix("--plugin=")


# ---- looking at runs -------------------------------------------------------------------------------------------------


@click.group(cls=ListByDefault)
def runs() -> None:
    """List the runs; or show, compare, draw or remove some. Without a command of the group, `list` is meant.

    RUN is a number, a name, a path, `last` or `best`.
    """


@runs.command("list")
@runs_option
@click.option("--all", "has_all", is_flag=True, help=f"List all runs, and not only the newest {_NEWEST}.")
@printing
def list_(output: Output, parent: Path, has_all: bool) -> None:
    """List the runs, the newest last: how they ended, their best value, what changed from one to the next."""
    rows, num_left_out = list_runs(parent, None if has_all else _NEWEST)
    if output.json:
        output.document([row_values(row) for row in rows])
        return
    if not rows:
        output.prose(f"there is no run in {parent}; hookline train makes one")
        return
    catalog = Catalog.installed()
    # What a command adds to show and to keep a run says nothing about its numbers.
    added = [name for part in ("terminal", "json", "keep") for name in catalog.default(part)["callbacks"]]
    print_runs(output, rows, num_left_out, [f"callbacks.{name}" for name in added])


@runs.command()
@run_argument
@runs_option
@printing
def show(output: Output, run: str, parent: Path) -> None:
    """Show all that is known of RUN: status, times, numbers, attempts, checkpoints, plugins, versions, warnings."""
    row = row_of(find_run(run, parent))
    checkpoints = checkpoint_rows(row.path)
    if output.json:
        output.document(run_values(row, checkpoints))
        return
    print_run(output, row, _known(row), checkpoints)


@runs.command()
@click.argument("first", shell_complete=complete_run)
@click.argument("second", shell_complete=complete_run)
@runs_option
@printing
def diff(output: Output, first: str, second: str, parent: Path) -> None:
    """Tell in what the runs FIRST and SECOND differ: settings, versions, plugins, code, data, final numbers."""
    paths = [find_run(name, parent) for name in (first, second)]
    changes = list(differences(*map(read_record, paths)))
    if output.json:
        values = [{"part": c.part, "key": c.key, "first": c.before, "second": c.after} for c in changes]
        output.document({"first": str(paths[0]), "second": str(paths[1]), "differences": values})
    elif changes:
        print_differences(output, (paths[0].name, paths[1].name), changes)
    else:
        output.prose(f"{paths[0].name} and {paths[1].name} do not differ in anything that is known")


@runs.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN...", shell_complete=complete_run)
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="The metric to draw, else the losses.")
@click.option("--log", "is_log", is_flag=True, help="Draw the logarithm.")
@runs_option
@printing
def plot(output: Output, names: Sequence[str], metrics: Sequence[str], is_log: bool, parent: Path) -> None:
    """Draw metrics of one RUN or several over their steps.

    The losses of one run are drawn together. With several runs each metric has a drawing of its own.
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
    """Return the curves of some runs; a run that has none of the metrics is a fault."""
    found: list[tuple[str, Curve]] = []
    faults: list[Fault] = []
    for path in paths:
        known = metric_names(path)
        wanted = metrics or [name for name in known if name.endswith("loss")] or known[:1]
        curves = read_curves(path, wanted)
        missing = [name for name in metrics if name not in {curve.metric for curve in curves}]
        faults += [Fault(f"{path.name} has no numbers of {name!r}", hint=did_you_mean(name, known)) for name in missing]
        if not (curves or missing):
            faults.append(Fault(f"{path.name} has no numbers yet"))
        found += [(path.name, curve) for curve in curves]
    if faults:
        raise ConfigError("not all that is to be drawn is there", faults=faults)
    if len(found) > MAX_CURVES:
        raise ConfigError(f"{len(found)} curves cannot be told apart", hint=f"draw at most {MAX_CURVES}")
    return found


def _metrics_of(curves: Sequence[tuple[str, Curve]]) -> list[str]:
    return list(dict.fromkeys(curve.metric for _, curve in curves))


@runs.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN...", shell_complete=complete_run)
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Remove also what no run put there, or a run whose record is broken.")
@runs_option
@printing
def rm(output: Output, names: Sequence[str], is_sure: bool, force: bool, parent: Path) -> None:
    """Remove the folders of runs, checkpoints and all. Nothing is removed unless all of them can be."""
    paths = _removable(names, parent, force=force)
    if not is_sure:
        _ask(paths)
    for path in paths:
        remove_run(path, force=force)
        output.prose(f"removed {path}")
    if output.json:
        output.document({"removed": [str(path) for path in paths]})


def _removable(names: Sequence[str], parent: Path, *, force: bool) -> list[Path]:
    """Return the folders that are to be removed; whatever speaks against it is told at once."""
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
        # The class of the first gives the exit code.
        raise type(errors[0])("nothing was removed", faults=faults)
    return list(paths)


def _ask(paths: Sequence[Path]) -> None:
    """Ask whether folders are to be removed.

    Raises:
        ConfigError: When there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise ConfigError("nobody can be asked whether to remove runs", hint="remove them without being asked: --yes")
    for path in paths:
        click.echo(printable(str(path)), err=True)
    click.confirm(
        "remove for good?" if len(paths) == 1 else f"remove these {len(paths)} for good?", abort=True, err=True
    )


@runs.command()
@run_argument
@runs_option
@printing
def path(output: Output, run: str, parent: Path) -> None:
    """Print the path of the folder of RUN, for: cd "$(hookline runs path last)"."""
    found = find_run(run, parent).resolve()
    if output.json:
        output.document({"path": str(found)})
    else:
        output.line(str(found))


def _known(row: RunRow) -> RunRecord:
    """Return the record of a run.

    Raises:
        ConfigError: When it cannot be read.
    """
    return row.record or read_record(row.path)
