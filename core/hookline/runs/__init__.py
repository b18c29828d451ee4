"""Saved runs: run folders, records, checkpoints, and resuming. Each name is imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookline.engine.door import lazy

if TYPE_CHECKING:
    from hookline.runs.changes import Change, differences
    from hookline.runs.config_text import complete_toml, to_toml
    from hookline.runs.curves import Curve, metric_names, read_curves
    from hookline.runs.disk.checkpoint import Checkpoint, Manifest, read_checkpoint
    from hookline.runs.disk.durable_files import AppendedFile
    from hookline.runs.disk.encoding import state_from_safetensors, state_to_safetensors
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
        read_of_folder,
    )
    from hookline.runs.identity import commit_of, identity_of
    from hookline.runs.listing import CheckpointRow, RunRow, checkpoint_rows, list_runs, row_of
    from hookline.runs.lock import Lock, make_lock, read_lock
    from hookline.runs.names import run_names
    from hookline.runs.overview.figure import plot
    from hookline.runs.overview.following import FollowedCurves
    from hookline.runs.overview.frame import frame
    from hookline.runs.overview.glance import Glance, glance_at
    from hookline.runs.overview.growing import GrowingFile
    from hookline.runs.overview.notes import change_tags
    from hookline.runs.overview.search import find_run
    from hookline.runs.record import Attempt, BestValue, RunRecord, read_record
    from hookline.runs.redaction import Redaction, redacted_word
    from hookline.runs.state_check import StateCheck

_HOME = {
    "changes": (
        "Change",
        "differences",
    ),
    "config_text": (
        "complete_toml",
        "to_toml",
    ),
    "curves": (
        "Curve",
        "metric_names",
        "read_curves",
    ),
    "disk.checkpoint": (
        "Checkpoint",
        "Manifest",
        "read_checkpoint",
    ),
    "disk.durable_files": ("AppendedFile",),
    "disk.encoding": ("state_from_safetensors", "state_to_safetensors"),
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
        "read_of_folder",
    ),
    "identity": (
        "commit_of",
        "identity_of",
    ),
    "listing": (
        "CheckpointRow",
        "RunRow",
        "checkpoint_rows",
        "list_runs",
        "row_of",
    ),
    "lock": (
        "Lock",
        "make_lock",
        "read_lock",
    ),
    "names": ("run_names",),
    "overview.figure": ("plot",),
    "overview.following": ("FollowedCurves",),
    "overview.frame": ("frame",),
    "overview.glance": (
        "Glance",
        "glance_at",
    ),
    "overview.growing": ("GrowingFile",),
    "overview.notes": ("change_tags",),
    "overview.search": ("find_run",),
    "record": (
        "Attempt",
        "BestValue",
        "RunRecord",
        "read_record",
    ),
    "redaction": (
        "Redaction",
        "redacted_word",
    ),
    "state_check": ("StateCheck",),
}

__all__ = [
    "AppendedFile",
    "Attempt",
    "BestValue",
    "Change",
    "Checkpoint",
    "CheckpointRow",
    "Curve",
    "FollowedCurves",
    "Glance",
    "GrowingFile",
    "Lock",
    "Manifest",
    "Redaction",
    "RunFolder",
    "RunRecord",
    "RunRow",
    "Save",
    "StateCheck",
    "begin_save",
    "change_tags",
    "checkpoint_rows",
    "command_of",
    "commit_of",
    "complete_toml",
    "differences",
    "find_run",
    "folder_of",
    "frame",
    "give_command",
    "give_folder",
    "give_weights",
    "glance_at",
    "has_saved_weights",
    "identity_of",
    "job_of",
    "list_runs",
    "make_lock",
    "metric_names",
    "plot",
    "read_checkpoint",
    "read_curves",
    "read_lock",
    "read_of_folder",
    "read_record",
    "redacted_word",
    "row_of",
    "run_names",
    "state_from_safetensors",
    "state_to_safetensors",
    "to_toml",
]

if not TYPE_CHECKING:
    # A type checker that saw it would accept any name.
    __getattr__ = lazy(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
