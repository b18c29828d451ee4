"""Command ``sweep``: search for the best values of options, with a run for each trial."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hookline import ConfigError, RunBusyError
from hookline.cli import (
    Command,
    GroupWithDefault,
    choosing_words,
    output_options,
    plugin_options,
    words_argument,
)
from hookline.trained import check_target, written_whole
from hookline_plugins.optional import check_package

if TYPE_CHECKING:
    from hookline import Catalog
    from hookline.cli import Output
    from hookline_plugins.commands.sweeping.definition import Sweep
    from hookline_plugins.commands.sweeping.study import Study, TrialRow

_PARENT = Path("sweeps")
_LOCK = ".sweep-lock"


@click.group(cls=GroupWithDefault, default_command="run")
def sweep() -> None:
    """Search for the best values of options, with a run for each trial.

    Without a subcommand, runs `hookline sweep run`, whose options `hookline sweep run --help` lists.
    """


@sweep.command(cls=Command)
@words_argument
@click.option("--trials", type=click.IntRange(1), metavar="N", help="Number of trials; default: all of a grid.")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Number of trials at the same time; default: 1.")
@click.option(
    "--sampler",
    type=click.Choice(["tpe", "random", "grid"]),
    help="How to choose values; default: grid if all can be listed and --trials is missing, otherwise tpe.",
)
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Seed of the choice of values; default: 0.")
@click.option("--minimize", multiple=True, metavar="METRIC", help="Objective; default: the loss. Repeatable.")
@click.option("--maximize", multiple=True, metavar="METRIC", help="Objective; repeatable.")
@click.option("--prune", is_flag=True, help="End trials that are worse than the median of the earlier ones.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of the sweep and its runs; default: sweeps/ and the name of CONFIG.",
)
@click.option("--resume", "resumed", type=click.Path(path_type=Path), metavar="FOLDER", help="Go on with a sweep.")
@output_options
@plugin_options
def run(
    output: Output,
    catalog: Catalog,
    *,
    words: Sequence[str],
    folder: Path | None,
    resumed: Path | None,
    **given: Any,
) -> None:
    """Start a sweep, or go on with it.

    CONFIG is a TOML file. KEY=VALUE overrides a value of it, and searches KEY if VALUE is log(LOW, HIGH),
    uniform(LOW, HIGH), range(STOP), choice(A, B) or A,B. The same command, given again, goes on with the sweep.
    """
    from hookline_plugins.commands.sweeping.definition import define
    from hookline_plugins.commands.sweeping.study import Study

    chosen = {name: value for name, value in given.items() if value is not None and value is not False and value != ()}
    if resumed is not None:
        if words or folder:
            raise ConfigError("--resume takes the space of the sweep that it names", hint="omit the other words")
        folder = resumed.absolute()
        study = Study.open(folder)
        words, chosen = _words_of(study), study.settings | chosen
        os.chdir(study.definition.folder)
    found = define(words, chosen, catalog)
    check_package("optuna", "a sweep needs", "sweep")
    folder = folder or _PARENT / Path(found.definition.config or "sweep").stem
    with _held(folder) as descriptor:
        _carry_out(output, Study.begin(folder, found), found, descriptor)


@sweep.command(cls=Command)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "-o", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write the config of the best trial."
)
@click.option("--trial", type=click.IntRange(0), metavar="N", help="Write the config of this trial instead.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@output_options
def show(output: Output, *, folder: Path, target: Path | None, trial: int | None, force: bool) -> None:
    """Show the trials of the sweep in FOLDER, and its best.

    The config that -o writes is complete: `hookline train FILE` repeats the trial.
    """
    from hookline_plugins.commands.sweeping.results import best_line, cells, config_of, header, values_of
    from hookline_plugins.commands.sweeping.study import Study

    study = Study.open(folder)
    rows, best = study.rows(), study.best()
    if trial is not None and target is None:
        raise ConfigError("--trial chooses the config that -o writes", hint="add -o FILE")
    if output.json:
        output.document(
            {"trials": [values_of(study, row) for row in rows], "best": [values_of(study, row) for row in best]}
        )
    else:
        output.table(header(study), [cells(study, row) for row in rows])
        output.prose()
        output.line(best_line(study, best))
    if target:
        check_target(target, force=force)
        chosen = best if trial is None else [row for row in rows if row.number == trial]
        if len(chosen) != 1:
            what = f"{len(chosen)} trials are the best" if trial is None else f"there is no trial {trial}"
            raise ConfigError(what, hint=f"choose one of {len(rows)} with --trial N")
        with written_whole(target, force=force) as new:
            new.write_text(config_of(study, chosen[0]), encoding="utf-8")
        output.prose(f"wrote {target}: the config of trial {chosen[0].number}")


def _words_of(study: Study) -> list[str]:
    """Return the words that define a sweep that goes on."""
    if any("<not written>" in word for word in study.definition.overrides):
        raise ConfigError("a secret in the command of this sweep was not written", hint="give the same command again")
    return study.definition.words


def _carry_out(output: Output, study: Study, found: Sweep, descriptor: int) -> None:
    """Run the trials, and print each; exit with the exit code of a signal that ends it."""
    from hookline_plugins.commands.sweeping.results import best_line, cells, header, line, values_of
    from hookline_plugins.commands.sweeping.running import Trials

    folder, count = study.folder, found.num_trials

    def told(row: TrialRow) -> None:
        if output.json:
            output.event("trial", **values_of(study, row))
        output.prose(line(study, cells(study, row)))

    ended = sum(row.state != "running" for row in study.rows())
    output.prose(
        f"{count} trials in {folder}, chosen by {found.definition.sampler}{f'; {ended} are done' * (ended > 0)}\n"
    )
    output.prose(line(study, header(study)))
    trials = Trials(study, found, tuple(choosing_words()), told, descriptor)
    trials.run()
    best = study.best()
    if trials.signal:
        rows = study.rows()
        done = sum(row.state != "running" for row in rows)
        words = shlex.join(["hookline", "sweep", "--resume", str(folder), *choosing_words()])
        output.note(
            f"interrupted: {done} of {count} trials are done, {len(rows) - done} unfinished; go on with: {words}"
        )
        click.get_current_context().exit(128 + trials.signal)
    if output.json:
        output.event("sweep", folder=str(folder.resolve()), best=[values_of(study, row) for row in best])
    output.prose()
    if not output.json:
        output.line(best_line(study, best))
    output.prose(f"next: hookline sweep show {folder} -o best.toml")


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[int]:
    """Hold the folder of a sweep, which is made if it is missing: one program at a time works on it.

    Yields the descriptor that holds it, which no other process may keep open.
    """
    from filelock import lock_descriptor

    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be the folder of a sweep: {error.strerror}") from error
    try:
        is_free = True
        with contextlib.suppress(OSError):  # a file system without locks
            is_free = lock_descriptor(descriptor, blocking=False)
        if not is_free:
            raise RunBusyError(f"another program works on the sweep in {folder}", hint="wait for it, or end it first")
        yield descriptor
    finally:
        os.close(descriptor)
