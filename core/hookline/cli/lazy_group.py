"""Click group that imports the module of a command on first use, so that no command pays for the others.

Commands that installed distributions add, in the entry-point group ``hookline.command``, are found by their metadata.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from hookline.cli.command import Command
from hookline.config.plugins.catalog import COMMAND, EXPORT, OWN_DISTRIBUTION, Catalog
from hookline.config.plugins.plugin import load_plugin
from hookline.engine.errors import HooklineError
from hookline.engine.words import did_you_mean

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
        return sorted({*self._own_names(ctx), *self._added(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; import it if necessary.

        Raises:
            PluginError: When it is a command of a plugin that cannot be imported, is ambiguous, or may not be used.
        """
        if cmd_name in self.lazy and cmd_name not in self.commands:
            found = self.lazy[cmd_name]
            module = importlib.import_module(f"hookline.cli.{found.module}")
            self.add_command(getattr(module, found.attribute), cmd_name)
        return super().get_command(ctx, cmd_name) or _load(catalog_of(ctx), cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the words name; the error of an unknown one has the nearest name."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            from hookline.config.plugins.index import read_index

            hint = did_you_mean(args[0], self.list_commands(ctx))
            found = read_index(catalog_of(ctx)).hints(COMMAND, args[0])
            ctx.fail("\n".join((f"No such command {args[0]!r}. {hint[:1].upper()}{hint[1:]}", *found)))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Invoke the command; an error raised in one of a plugin gains a note that names its distribution."""
        try:
            return super().invoke(ctx)
        except (HooklineError, click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            name = ctx.invoked_subcommand or ""
            if name not in self._own_names(ctx):
                error.add_note(f"raised in {catalog_of(ctx).find(COMMAND, name)}")
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names and summaries of all commands without importing any."""
        width = formatter.width - 6 - max(map(len, self.list_commands(ctx)))
        own, added = self._own_names(ctx), self._added(ctx)
        ours = {name: summary for name, (summary, is_ours) in added.items() if is_ours}
        sections = {
            "Commands": sorted({*own, *ours}),
            "Commands of plugins": sorted(added.keys() - ours.keys()),
        }
        for title, names in sections.items():
            if names:
                with formatter.section(title):
                    formatter.write_dl([(name, self._listed(name, added).get_short_help_str(width)) for name in names])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the completions of a word without importing any command."""
        from click.shell_completion import CompletionItem

        added = self._added(ctx)
        names = sorted(name for name in {*self._own_names(ctx), *added} if name.startswith(incomplete))
        items = [CompletionItem(name, help=self._listed(name, added).get_short_help_str()) for name in names]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]

    def _own_names(self, ctx: click.Context) -> set[str]:
        return {*super().list_commands(ctx), *self.lazy}

    def _added(self, ctx: click.Context) -> dict[str, Added]:
        """Return the commands of plugins that may be used and do not have the name of one of the core."""
        own = self._own_names(ctx)
        return {name: one for name, one in added_entries(catalog_of(ctx), COMMAND).items() if name not in own}

    def _listed(self, name: str, added: Mapping[str, Added]) -> click.Command:
        if name in self.commands:
            return self.commands[name]
        return click.Command(name, help=self.lazy[name].summary if name in self.lazy else added[name].summary)


class Added(NamedTuple):
    """A command or an export format of a plugin, which is not imported.

    Attributes:
        summary: Its summary, or the distribution that adds it.
        is_ours: Whether that is Hookline.
    """

    summary: str
    is_ours: bool


def added_entries(catalog: Catalog, kind: str) -> dict[str, Added]:
    """Return the commands or the export formats that may be used, by the names that call them."""
    entries = [entry for entry in catalog.of_kind(kind) if not entry.blocked_by]
    summaries = catalog.default(f"{kind}s") if any(e.distribution == OWN_DISTRIBUTION for e in entries) else {}
    nouns = {COMMAND: "command", EXPORT: "format"}
    return {
        catalog.callable_name(entry): Added(summaries[entry.name], True)
        if entry.distribution == OWN_DISTRIBUTION
        else Added(f"A {nouns[kind]} of {entry.source}.", False)
        for entry in entries
    }


def catalog_of(ctx: click.Context) -> Catalog:
    """Return the installed plugins, under the rules given before the command."""
    rules = ctx.find_root().params
    return Catalog.installed().restricted(allow=rules.get("allow") or None, deny=rules.get("deny", ()), by="--{}")


def _load(catalog: Catalog, name: str) -> click.Command | None:
    try:
        entry = catalog.find(COMMAND, name)
    except LookupError:
        return None
    # A plugin may print on import; standard output is for results.
    with contextlib.redirect_stdout(sys.stderr):
        target = load_plugin(entry).target
    if not isinstance(target, click.Command):
        hint = "decorate the function with click.command(), or correct the entry point"
        raise entry.error(f"{entry} is no click command, but of type {type(target).__name__}", hint=hint)
    return target
