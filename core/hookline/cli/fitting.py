"""Training a run to its end: signals, observers, and hints on how to resume."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hookline.cli.arguments import choosing_words
from hookline.cli.ranks import check_same_data, job
from hookline.cli.signals import ending_by_signals, exit_code
from hookline.engine.errors import PeerError
from hookline.runs.folder import folder_of, give_command
from hookline.runs.redaction import Redaction
from hookline.shortcuts.light_optimizer import light_optimizer

if TYPE_CHECKING:
    from hookline.cli.output import Output
    from hookline.engine.loop.run import Run
    from hookline.engine.plugin.observer import Observer
    from hookline.engine.view import ConfigView
    from hookline.trials.ledger import Ledger

_Command = TypeVar("_Command", bound=Callable[..., None])


@dataclass
class Observers:
    """Observers of a run that the options ``--trace-hooks`` and ``--ledger`` add.

    Attributes:
        trace: Prints each hook call.
        ledger: Measures the cost of each hook.
    """

    trace: Observer | None
    ledger: Ledger | None

    @property
    def active(self) -> list[Observer]:
        """The observers that were requested."""
        return [observer for observer in (self.trace, self.ledger) if observer]

    def print_costs(self, output: Output, config: ConfigView) -> None:
        """Print the ledger if it was requested."""
        from hookline.cli.printing.costs import print_ledger

        if self.ledger:
            print_ledger(output, self.ledger, config)


def observing(command: _Command) -> _Command:
    """Add the options that observe a run; the command receives ``observers``."""

    @click.option("--ledger", "has_ledger", is_flag=True, help="Print the cost of each hook of each plugin at the end.")
    @click.option("--trace-hooks", is_flag=True, help="Print each hook call to standard error.")
    @functools.wraps(command)
    def wrapped(output: Output, *others: Any, has_ledger: bool, trace_hooks: bool, **arguments: Any) -> None:
        from hookline.trials.hook_trace import HookTrace
        from hookline.trials.ledger import Ledger

        trace = HookTrace(output.hook_call) if trace_hooks else None
        command(output, *others, observers=Observers(trace, Ledger() if has_ledger else None), **arguments)

    return wrapped  # type: ignore[return-value] # click calls it with the options added above


shortcuts_option = click.option(
    "--no-shortcuts",
    "shortcuts",
    flag_value=False,
    default=True,
    help="Call torch without Hookline's shortcuts: slower, with the same numbers.",
)
"""The option of commands that train."""


@contextmanager
def light_training() -> Iterator[None]:
    """Train without importing torch's compiler, unless something else needs it: it takes as long as torch itself."""
    with light_optimizer():
        yield


def fit_until_signal(run: Run) -> None:
    """Train a run to its end; a signal ends it after its step, saves it, and ends the command with its exit code."""
    _give_command(run)
    with ending_by_signals(run):
        run.fit()
    if code := exit_code(run):
        click.get_current_context().exit(code)


def _give_command(run: Run) -> None:
    name = Path(sys.argv[0]).name
    give_command(run, ["hookline" if name == "__main__.py" else name, *sys.argv[1:]], job())


def fit(output: Output, run: Run, observers: Observers) -> None:
    """Train a run to its end. An interrupted run exits with the exit code of its signal."""
    output.redaction = Redaction.of(run.config)
    _give_command(run)
    check_same_data(run)
    while output.warnings:
        run.warn(output.warnings.pop(0))
    try:
        with ending_by_signals(run):
            run.fit()
    except Exception as error:
        if isinstance(error, PeerError):
            _print_resume_hint(output, run)  # another rank may print the error
        elif folder := folder_of(run):
            # As a note, so that the error itself is printed first.
            error.add_note(_resume_hint(folder.path))
        raise
    except BaseException:
        _print_resume_hint(output, run)
        raise
    finally:
        if output.quiet and not output.json:
            for message in run.warnings:
                output.note(f"warning: {message}")
        observers.print_costs(output, run.config)
    if folder := folder_of(run):
        output.prose(f"saved in {_relative(folder.path)}")
    if code := exit_code(run):
        _print_resume_hint(output, run)
        click.get_current_context().exit(code)


def _print_resume_hint(output: Output, run: Run) -> None:
    folder = folder_of(run)
    if folder and not output.quiet:
        output.note(_resume_hint(folder.path))


def _resume_hint(path: Path) -> str:
    words = ["hookline", "resume", str(_relative(path)), *choosing_words()]
    return f"resume with: {shlex.join(words)}"


def _relative(path: Path) -> Path:
    """Return a path relative to the current folder if it is inside it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
