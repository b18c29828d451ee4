"""The command line: parse, call the public door, print, and map errors to exit codes."""

from __future__ import annotations

import sys
import traceback


def main() -> None:
    """Run the command ``hookline`` and leave the program with its exit code."""
    import click

    from hookline.cli.arguments import CarriedError
    from hookline.cli.commands.main import hookline
    from hookline.cli.output import Output
    from hookline.cli.signals import INTERRUPTED
    from hookline.engine.errors import HooklineError
    from hookline.engine.plugin.catalog import Catalog

    for stream in (sys.stdout, sys.stderr):
        # Names from data can hold characters that a terminal's encoding has not.
        if stream is not None:
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # the program's own streams can
    output = Output()
    try:
        code = hookline.main(prog_name="hookline", standalone_mode=False, obj=output)
    except click.ClickException as usage:
        usage.show()
        code = usage.exit_code
    except (click.Abort, KeyboardInterrupt):
        output.note("interrupted")
        code = INTERRUPTED
    except SystemExit:
        raise  # how click ends when a shell asks it for completions
    except BaseException as caught:  # noqa: BLE001 - whatever it is, a user gets one message and an exit code
        error = caught.error if isinstance(caught, CarriedError) else caught
        output.error(error)
        if not isinstance(error, HooklineError):
            # Metadata that are damaged hurt others, too: torch reads all entry points when it is imported.
            for problem in Catalog.installed().problems:
                output.note(f"  ({problem})")
        code = error.exit_code if isinstance(error, HooklineError) else 1
        if output.traceback:
            output.note("".join(traceback.format_exception(error)).rstrip())
    sys.exit(code)
