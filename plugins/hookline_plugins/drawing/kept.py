"""The sections that need the model, kept in the run folder, so that a second report needs neither model nor torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from hookline.runs import RunFolder, RunRecord, read_of_folder
from hookline.sections import Section, bounded, sections_from_json, sections_to_json

KEPT = "artifacts/report.json"
_MAX_BYTES = 2**24
_FORMAT = 1


class _Kept(msgspec.Struct):
    """The file. The weights are those that the sections are about: others make it out of date."""

    weights: str
    sections: msgspec.Raw
    format: int = _FORMAT


def kept_sections(path: Path, record: RunRecord) -> list[Section] | None:
    """Return the sections kept in a run folder; None if there are none of its weights that can be read."""
    text = read_of_folder(path, KEPT, _MAX_BYTES)
    try:
        kept = msgspec.json.decode(text or b"", type=_Kept)
        if kept.format != _FORMAT or kept.weights != weights_of(record):
            return None
        return [bounded(section) for section in sections_from_json(bytes(kept.sections))]
    except (msgspec.DecodeError, UnicodeError, ValueError, TypeError, RecursionError):
        return None


def keep_sections(path: Path, sections: Sequence[Section]) -> None:
    """Keep sections in a run folder, unless they are too large.

    Raises:
        RunBusyError: When another program works in it.
        CheckpointError: When the file cannot be written.
    """
    with closing(RunFolder.open(path)) as folder:
        kept = _Kept(weights_of(folder.record), msgspec.Raw(sections_to_json(sections)))
        text = msgspec.json.encode(kept)
        if len(text) <= _MAX_BYTES:
            folder.write(KEPT, text)


def weights_of(record: RunRecord) -> str:
    """Return the checksum of the final weights of a run; empty without any."""
    return record.model.sha256 if record.model else ""
