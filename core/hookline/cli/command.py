"""Click command whose help lists the options shared by many commands in sections of their own."""

from __future__ import annotations

import click

_SECTIONS = {
    **dict.fromkeys(("--plugin", "--allow", "--deny"), "Plugin options"),
    **dict.fromkeys(("--quiet", "--json", "--traceback", "--help"), "Global options"),
}
"""Sections of the shared options."""


class Command(click.Command):
    """Click command with sections of options in its help."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options first, then the shared ones."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], "Plugin options": [], "Global options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record:
                sections[_SECTIONS.get(parameter.opts[-1], "Options")].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
