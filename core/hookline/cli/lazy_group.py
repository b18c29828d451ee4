"""A group of commands whose modules are imported when they are called, so that no command pays for the others."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class LazyCommand(NamedTuple):
    """Where a command is, and what is said of it where only its name is listed.

    Attributes:
        module: Name of its module within ``hookline.cli``.
        attribute: Its name in there.
        summary: The first sentence of its help.
    """

    module: str
    attribute: str
    summary: str


class LazyGroup(click.Group):
    """A group with some commands that are imported when they are called.

    Attributes:
        lazy: Those commands, by name.
    """

    lazy: dict[str, LazyCommand] = {}  # noqa: RUF012 - click makes the group, and whoever has it fills it in

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, imported if need be."""
        if cmd_name in self.lazy and cmd_name not in self.commands:
            found = self.lazy[cmd_name]
            module = importlib.import_module(f"hookline.cli.{found.module}")
            self.add_command(getattr(module, found.attribute), cmd_name)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write names and summaries, without an import."""
        names = self.list_commands(ctx)
        width = formatter.width - 6 - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._listed(name).get_short_help_str(width)) for name in names])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return what a shell may complete a word to, without an import."""
        from click.shell_completion import CompletionItem

        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        items = [CompletionItem(name, help=self._listed(name).get_short_help_str()) for name in names]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]

    def _listed(self, name: str) -> click.Command:
        if name in self.commands:
            return self.commands[name]
        return click.Command(name, help=self.lazy[name].summary)
