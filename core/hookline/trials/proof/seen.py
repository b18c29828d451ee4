"""Records of the contents of plugins, and the names of their files."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hookline.trials.proof.kills import Place

OUTSIDE = "Python's and NumPy's generators"
"""The table of contents that belong to no plugin."""


class Seen(msgspec.Struct):
    """Contents of the plugins of a run at one place.

    Attributes:
        step: Number of steps taken.
        epochs: Number of epochs ended.
        held: Contents of each, by table: a text for each place in it.
        draws: The hooks that have drawn from generators that belong to no run.
    """

    step: int
    epochs: int
    held: dict[str, dict[str, str]] = {}
    draws: list[str] = []

    @property
    def place(self) -> Place:
        """The place in the run."""
        return self.step, self.epochs


def read_seen(folder: Path) -> dict[str, Seen]:
    """Return the records in a folder, by the stem of their file."""
    return {path.stem: msgspec.json.decode(path.read_bytes(), type=Seen) for path in sorted(folder.glob("*.json"))}


def seen_name(process: str, place: Place, *, is_resumed: bool = False) -> str:
    """Return the name of the file with the contents of the plugins of a process at one place."""
    return f"{process}-{'resumed' if is_resumed else 'saved'}-{place[0]}-{place[1]}.json"
