"""The command line: parse arguments, call the library, print results, map errors to exit codes."""

from __future__ import annotations

import sys
import traceback


def main() -> None:
    """Run the command ``hookline`` and exit with its exit code."""
    import os

    import click

    from hookline.cli.arguments import CarriedError
    from hookline.cli.commands.main import hookline
    from hookline.cli.output import Output
    from hookline.cli.ranks import is_zero
    from hookline.cli.signals import INTERRUPTED
    from hookline.cli.streams import discard_unwritten, open_streams
    from hookline.engine.errors import HooklineError
    from hookline.engine.plugin.catalog import Catalog

    open_streams()
    if not is_zero():
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - rank 0 prints for all, until the end
    output = Output(rank=0 if is_zero() else int(os.environ["RANK"]))
    try:
        _check_working_folder()
        code = hookline.main(prog_name="hookline", standalone_mode=False, obj=output)
    except click.ClickException as usage:
        usage.show()
        code = usage.exit_code
    except (click.Abort, KeyboardInterrupt):
        output.note("interrupted")
        code = INTERRUPTED
    except SystemExit:
        raise  # click exits this way after it has printed shell completions
    except BaseException as caught:  # noqa: BLE001 - every error becomes one message and an exit code
        error = caught.error if isinstance(caught, CarriedError) else caught
        output.error(error)
        if not isinstance(error, HooklineError):
            # Damaged metadata can also break torch, which reads all entry points on import.
            for problem in Catalog.installed().problems:
                output.note(f"  ({problem})")
        code = error.exit_code if isinstance(error, HooklineError) else 1
        if output.traceback:
            output.note("".join(traceback.format_exception(error)).rstrip())
    discard_unwritten()
    sys.exit(code)


def _check_working_folder() -> None:
    import os

    from hookline.engine.errors import ConfigError

    try:
        os.getcwd()  # noqa: PTH109 - pathlib would import more
    except FileNotFoundError as error:
        raise ConfigError("the current folder was removed", hint="change to a folder that exists: cd") from error
