"""Taking all steps of a run: with signals that end it, and with words about where it is kept and how to go on."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hookline.cli.arguments import choosing_words
from hookline.cli.signals import ending_by_signals, exit_code
from hookline.runs.folder import folder_of

if TYPE_CHECKING:
    from hookline.cli.output import Output
    from hookline.engine.config.run_config import RunConfig
    from hookline.engine.loop.run import Run
    from hookline.engine.plugin.observer import Observer
    from hookline.trials.ledger import Ledger

_Command = TypeVar("_Command", bound=Callable[..., None])


@dataclass
class Observing:
    """Who looks on at a run, and what is told of it at its end.

    Attributes:
        trace: Who tells each call of a hook.
        ledger: Who adds up what hooks cost.
    """

    trace: Observer | None
    ledger: Ledger | None

    @property
    def observers(self) -> list[Observer]:
        """All who look on."""
        return [observer for observer in (self.trace, self.ledger) if observer]

    def tell(self, output: Output, config: RunConfig) -> None:
        """Tell what the hooks of a run cost, if that was asked for."""
        from hookline.cli.printing.costs import print_ledger

        if self.ledger:
            print_ledger(output, self.ledger, config)


def observing(command: _Command) -> _Command:
    """Add the options that let somebody look on at a run; the command gets a ``Observing``."""

    @click.option("--ledger", "has_ledger", is_flag=True, help="Tell at the end what each hook of each plugin cost.")
    @click.option("--trace-hooks", is_flag=True, help="Tell each call of a hook on standard error.")
    @functools.wraps(command)
    def wrapped(output: Output, *others: Any, has_ledger: bool, trace_hooks: bool, **arguments: Any) -> None:
        from hookline.trials.hook_trace import HookTrace
        from hookline.trials.ledger import Ledger

        trace = HookTrace(output.hook_call) if trace_hooks else None
        command(output, *others, observing=Observing(trace, Ledger() if has_ledger else None), **arguments)

    return wrapped  # type: ignore[return-value] # click calls it with the options added above


def fit(output: Output, run: Run, observing: Observing) -> None:
    """Take all steps of a run. One that is interrupted ends the command, with the exit code of the signal."""
    try:
        with ending_by_signals(run):
            run.fit()
    except Exception as error:
        # Told behind the error, which is what a person has to read first.
        if folder := folder_of(run):
            error.add_note(_way_on(folder.path))
        raise
    except BaseException:
        _tell_folder(output, run)
        raise
    finally:
        if output.quiet and not output.json:
            for message in run.warnings:
                output.note(f"warning: {message}")
        observing.tell(output, run.config)
    if folder := folder_of(run):
        output.prose(f"kept in {_shown(folder.path)}")
    if code := exit_code(run):
        _tell_folder(output, run)
        click.get_current_context().exit(code)


def _tell_folder(output: Output, run: Run) -> None:
    """Say how a run that did not come to its end goes on."""
    folder = folder_of(run)
    if folder and not output.quiet:
        output.note(_way_on(folder.path))


def _way_on(path: Path) -> str:
    words = ["hookline", "resume", str(_shown(path)), *choosing_words()]
    return f"go on with: {shlex.join(words)}"


def _shown(path: Path) -> Path:
    """Return a path as a person would write it: relative, if it is below the folder at work."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
