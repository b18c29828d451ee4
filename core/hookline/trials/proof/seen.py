"""State of a run as a witness recorded it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hookline.trials.proof.kills import Place

if TYPE_CHECKING:
    pass


class Seen(msgspec.Struct):
    """What was seen of the plugins of a run at one place.

    Attributes:
        step: Number of steps taken.
        epochs: Number of epochs ended.
        held: What each holds, by table: a text for each place in it.
        draws: Which hooks have drawn from generators that belong to no run.
    """

    step: int
    epochs: int
    held: dict[str, dict[str, str]] = {}
    draws: list[str] = []

    @property
    def place(self) -> Place:
        """Where in the run it was."""
        return self.step, self.epochs


def _read_seen(folder: Path) -> dict[str, Seen]:
    return {path.stem: msgspec.json.decode(path.read_bytes(), type=Seen) for path in sorted(folder.glob("*.json"))}


def seen_name(process: str, place: Place, *, is_resumed: bool = False) -> str:
    """Return the name of the file in which stands what was seen of the plugins of a process at one place."""
    return f"{process}-{'resumed' if is_resumed else 'saved'}-{place[0]}-{place[1]}.json"
