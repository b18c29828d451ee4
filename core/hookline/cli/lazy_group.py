"""Click group that imports the module of a command on first use, so that no command pays for the others."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

import click

from hookline.cli.command import Command

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class LazyCommand(NamedTuple):
    """Location and summary of a command that is not imported yet.

    Attributes:
        module: Name of its module within ``hookline.cli``.
        attribute: Name of the command in that module.
        summary: First sentence of its help.
    """

    module: str
    attribute: str
    summary: str


class LazyGroup(click.Group):
    """Click group with commands that are imported on first use.

    Attributes:
        lazy: Commands to import on first use, by name.
    """

    command_class = Command
    lazy: dict[str, LazyCommand] = {}  # noqa: RUF012 - click creates the group; its owner then sets the commands

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; import it if necessary."""
        if cmd_name in self.lazy and cmd_name not in self.commands:
            found = self.lazy[cmd_name]
            module = importlib.import_module(f"hookline.cli.{found.module}")
            self.add_command(getattr(module, found.attribute), cmd_name)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names and summaries of all commands without importing any."""
        names = self.list_commands(ctx)
        width = formatter.width - 6 - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._listed(name).get_short_help_str(width)) for name in names])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the completions of a word without importing any command."""
        from click.shell_completion import CompletionItem

        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        items = [CompletionItem(name, help=self._listed(name).get_short_help_str()) for name in names]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]

    def _listed(self, name: str) -> click.Command:
        if name in self.commands:
            return self.commands[name]
        return click.Command(name, help=self.lazy[name].summary)
