"""Saved runs: run folders, records, checkpoints, and resuming. Each name is imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookline.engine.door import lazy

if TYPE_CHECKING:
    from hookline.runs.config_text import complete_toml
    from hookline.runs.disk.checkpoint import Checkpoint, Manifest, read_checkpoint
    from hookline.runs.disk.durable_files import AppendedFile
    from hookline.runs.disk.together import Save
    from hookline.runs.folder import (
        RunFolder,
        begin_save,
        command_of,
        folder_of,
        give_command,
        give_folder,
        give_weights,
        has_saved_weights,
        job_of,
    )
    from hookline.runs.identity import commit_of, identity_of
    from hookline.runs.lock import Lock, make_lock, read_lock
    from hookline.runs.record import Attempt, BestValue, RunRecord
    from hookline.runs.redaction import Redaction, redacted_word
    from hookline.runs.search import find_run
    from hookline.runs.state_check import StateCheck

_HOME = {
    "config_text": ("complete_toml",),
    "disk.checkpoint": (
        "Checkpoint",
        "Manifest",
        "read_checkpoint",
    ),
    "disk.durable_files": ("AppendedFile",),
    "disk.together": ("Save",),
    "folder": (
        "RunFolder",
        "begin_save",
        "command_of",
        "folder_of",
        "give_command",
        "give_folder",
        "give_weights",
        "has_saved_weights",
        "job_of",
    ),
    "identity": ("commit_of", "identity_of"),
    "lock": (
        "Lock",
        "make_lock",
        "read_lock",
    ),
    "record": (
        "Attempt",
        "BestValue",
        "RunRecord",
    ),
    "redaction": ("Redaction", "redacted_word"),
    "search": ("find_run",),
    "state_check": ("StateCheck",),
}

__all__ = [
    "AppendedFile",
    "Attempt",
    "BestValue",
    "Checkpoint",
    "Lock",
    "Manifest",
    "Redaction",
    "RunFolder",
    "RunRecord",
    "Save",
    "StateCheck",
    "begin_save",
    "command_of",
    "commit_of",
    "complete_toml",
    "find_run",
    "folder_of",
    "give_command",
    "give_folder",
    "give_weights",
    "has_saved_weights",
    "identity_of",
    "job_of",
    "make_lock",
    "read_checkpoint",
    "read_lock",
    "redacted_word",
]

if not TYPE_CHECKING:
    # A type checker that saw it would accept any name.
    __getattr__ = lazy(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
