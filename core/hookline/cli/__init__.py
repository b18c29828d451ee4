"""The command line: parse arguments, call the library, print results, map errors to exit codes.

The door for distributions that add commands. Every name is loaded on first use.
"""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

from hookline.engine.door import lazy

if TYPE_CHECKING:
    from hookline.cli.arguments import (
        GroupWithDefault,
        choosing_words,
        load_words,
        noting_missing_files,
        output_options,
        plugin_options,
        run_argument,
        runs_option,
        words_argument,
    )
    from hookline.cli.command import Command
    from hookline.cli.fitting import fit_until_signal, light_training
    from hookline.cli.output import Output

_HOME = {
    "arguments": (
        "GroupWithDefault",
        "choosing_words",
        "load_words",
        "noting_missing_files",
        "output_options",
        "plugin_options",
        "run_argument",
        "runs_option",
        "words_argument",
    ),
    "command": ("Command",),
    "fitting": (
        "fit_until_signal",
        "light_training",
    ),
    "output": ("Output",),
}

__all__ = [
    "Command",
    "GroupWithDefault",
    "Output",
    "choosing_words",
    "fit_until_signal",
    "light_training",
    "load_words",
    "noting_missing_files",
    "output_options",
    "plugin_options",
    "run_argument",
    "runs_option",
    "words_argument",
]

if not TYPE_CHECKING:
    # A type checker that saw it would accept any name.
    __getattr__ = lazy(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)


def main() -> None:
    """Run the command ``hookline`` and exit with its exit code."""
    import os

    import click

    from hookline.cli.arguments import CarriedError
    from hookline.cli.commands.main import hookline
    from hookline.cli.output import Output
    from hookline.cli.ranks import check_not_refused, is_said_elsewhere, leave, rank_of_command
    from hookline.cli.streams import discard_unwritten, open_streams
    from hookline.ranks.agreed import INTERRUPTED

    open_streams()
    check_not_refused()
    own_stdout, rank = sys.stdout, rank_of_command()
    nowhere = open(os.devnull, "w") if rank else own_stdout  # noqa: PTH123, SIM115 - rank 0 prints for all, until the end
    sys.stdout = nowhere
    output = Output(rank=rank, is_silent=rank > 0)
    try:
        _check_working_folder()
        code = hookline.main(prog_name="hookline", standalone_mode=False, obj=output)
    except click.ClickException as usage:
        code = usage.exit_code
        if not is_said_elsewhere(output, code):
            usage.show()
    except (click.Abort, KeyboardInterrupt):
        output.note("interrupted")
        code = INTERRUPTED
    except SystemExit:
        raise  # click exits this way after it has printed shell completions
    except BaseException as caught:  # noqa: BLE001 - every error becomes one message and an exit code
        sys.stdout = own_stdout
        code = _report(output, caught.error if isinstance(caught, CarriedError) else caught)
    if rank:
        sys.stdout = own_stdout
        nowhere.close()
    discard_unwritten()
    leave(code)


def _report(output: Output, error: BaseException) -> int:
    """Print an error, unless another rank does, and return its exit code."""
    from hookline.cli.ranks import is_said_elsewhere
    from hookline.config.plugins.catalog import Catalog
    from hookline.engine.errors import HooklineError

    code = error.exit_code if isinstance(error, HooklineError) else 1
    output.is_silent = is_said_elsewhere(output, code)
    output.error(error)
    if not isinstance(error, HooklineError):
        # Damaged metadata can also break torch, which reads all entry points on import.
        for problem in Catalog.installed().problems:
            output.note(f"  ({problem})")
    if output.traceback:
        output.note("".join(traceback.format_exception(error)).rstrip())
    return code


def _check_working_folder() -> None:
    import os

    from hookline.engine.errors import ConfigError

    try:
        os.getcwd()  # noqa: PTH109 - pathlib would import more
    except FileNotFoundError as error:
        raise ConfigError("the current folder was removed", hint="change to a folder that exists: cd") from error
