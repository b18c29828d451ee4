"""What people say about a run: its tags and its note, in the file ``notes.json``.

The program that trains writes the record and never this file, so it can be changed while the run is at work.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec.structs import replace

from hookline.config.files import read_file, reason
from hookline.engine.errors import ConfigError, Fault
from hookline.engine.words import encodable
from hookline.runs.disk.durable_files import replace_file
from hookline.runs.disk.formats import NOT_JSON
from hookline.runs.disk.occupancy import FileLock
from hookline.runs.record import read_record

NOTES, NOTES_LOCK = "notes.json", ".notes-lock"
_MAX_TAG, _MAX_TAGS, _MAX_NOTE = 50, 50, 10_000
_MAX_BYTES = 2**20
"""More than the longest note takes, with each character escaped."""


class Notes(msgspec.Struct, kw_only=True, frozen=True):
    """The tags and the note of a run.

    Attributes:
        tags: Its tags, in alphabetical order.
        note: Its note; empty without one.
        format: Version of the format.
    """

    tags: Annotated[list[Annotated[str, msgspec.Meta(max_length=_MAX_TAG)]], msgspec.Meta(max_length=_MAX_TAGS)] = []
    note: Annotated[str, msgspec.Meta(max_length=_MAX_NOTE)] = ""
    format: Literal[1] = 1

    def has(self, tags: Iterable[str], text: str, name: str) -> bool:
        """Return whether it has all these tags, and the text in them, in the note or in the name of the run."""
        said = "\n".join((name, *self.tags, self.note)).casefold()
        return set(tags) <= set(self.tags) and text.casefold() in said


def read_notes(path: Path) -> Notes:
    """Return the tags and the note of a run folder; none if nobody gave it any.

    Raises:
        ConfigError: When they cannot be read.
    """
    try:
        return msgspec.json.decode(read_file(path / NOTES, _MAX_BYTES), type=Notes)
    except FileNotFoundError:
        return Notes()
    except OSError as error:
        raise ConfigError(f"{path / NOTES} cannot be read: {reason(error)}") from error
    except NOT_JSON as error:
        hint = "remove it, and tag the run again"
        raise ConfigError(f"{path / NOTES} cannot be read: {error}", hint=hint) from error


def change_tags(path: str | os.PathLike[str], add: Iterable[str] = (), remove: Iterable[str] = ()) -> Notes:
    """Add and remove tags of a run folder, and return what it has then.

    Raises:
        ConfigError: When a tag is not valid, there are too many, or the file cannot be read or written.
    """
    path, added = Path(path), [encodable(tag) for tag in add]
    if faults := [fault for tag in added for fault in _faults(tag)]:
        raise ConfigError("these are not valid tags", faults=faults)

    def changed(notes: Notes) -> Notes:
        tags = sorted({*notes.tags, *added} - set(remove))
        if len(tags) > _MAX_TAGS:
            raise ConfigError(f"{path.name} would have {len(tags)} tags, the most are {_MAX_TAGS}")
        return replace(notes, tags=tags)

    return _change(path, changed)


def change_note(path: Path, text: str) -> Notes:
    """Replace the note of a run, and return what it has then; an empty text removes it.

    Raises:
        ConfigError: When it is too long, or the file cannot be read or written.
    """
    text = encodable(text)
    if len(text) > _MAX_NOTE:
        hint = "write it to a file in the folder artifacts/ of the run"
        raise ConfigError(f"the note has {len(text):,} characters, the most are {_MAX_NOTE:,}", hint=hint)
    return _change(path, lambda notes: replace(notes, note=text))


def _faults(tag: str) -> Iterable[Fault]:
    if not tag or len(tag) > _MAX_TAG:
        yield Fault(f"{tag[:_MAX_TAG]!r} has {len(tag)} characters", hint=f"use 1 to {_MAX_TAG}")
    if not tag.isprintable() or "," in tag or tag != "".join(tag.split()):
        yield Fault(f"{tag[:_MAX_TAG]!r} has a space, a comma or a character that cannot be printed")


def _change(path: Path, change: Callable[[Notes], Notes]) -> Notes:
    """Change the file while no other program does."""
    read_record(path)  # makes no file in anything but a run folder
    try:
        with contextlib.closing(FileLock(path / NOTES_LOCK)) as lock:
            lock.take(wait=True)
            notes = change(read_notes(path))
            replace_file(path / NOTES, msgspec.json.format(msgspec.json.encode(notes)) + b"\n")
    except OSError as error:
        raise ConfigError(f"{path / NOTES} cannot be written: {reason(error)}") from error
    return notes
