"""Commands that give runs tags and notes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from hookline.cli.arguments import output_options, run_argument, runs_option
from hookline.cli.command import Command
from hookline.cli.output import Output
from hookline.engine.errors import ConfigError
from hookline.runs.overview.notes import change_note, change_tags, read_notes
from hookline.runs.overview.search import find_run


@click.command(cls=Command)
@run_argument
@click.argument("tags", nargs=-1, metavar="[TAG]...")
@click.option("--remove", "is_removal", is_flag=True, help="Remove these tags instead.")
@runs_option
@output_options
def tag(output: Output, run: str, tags: Sequence[str], is_removal: bool, parent: Path) -> None:
    """Give RUN tags, or show its tags.

    List the runs of a tag with `hookline runs --tag TAG`. A run can be tagged while it is in progress.
    """
    path = find_run(run, parent)
    if is_removal and not tags:
        raise ConfigError("no tag to remove", hint=f"hookline runs tag {path.name} TAG --remove")
    if tags:
        notes = change_tags(path, remove=tags) if is_removal else change_tags(path, add=tags)
    else:
        notes = read_notes(path)
    if output.json:
        output.document({"path": str(path.resolve()), "tags": notes.tags})
    elif notes.tags:
        output.line("\n".join(notes.tags))
    else:
        output.prose(f"{path.name} has no tags")


@click.command(cls=Command)
@run_argument
@click.argument("text", required=False)
@click.option("--edit", "is_edited", is_flag=True, help="Write the note in your editor, $EDITOR.")
@runs_option
@output_options
def note(output: Output, run: str, text: str | None, is_edited: bool, parent: Path) -> None:
    """Write a note about RUN, or show it.

    Replaces the note by TEXT; an empty TEXT removes it. Search for notes with `hookline runs --search TEXT`.
    """
    path = find_run(run, parent)
    notes = read_notes(path)
    if is_edited:
        text = _edited(notes.note if text is None else text)
    if text is not None:
        notes = change_note(path, text.rstrip("\n"))
    if output.json:
        output.document({"path": str(path.resolve()), "note": notes.note})
    elif notes.note:
        output.line(notes.note)
    else:
        output.prose(f"{path.name} has no note")


def _edited(text: str) -> str | None:
    """Return a text as it was saved in the editor; None if it was not saved."""
    try:
        return click.edit(text)
    except click.ClickException as error:
        raise ConfigError(error.message, hint="set $EDITOR to your editor, or give the text in the command") from error
