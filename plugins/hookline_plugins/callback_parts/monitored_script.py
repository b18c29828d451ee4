"""Source code that reads a metric which an epoch may not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hookline_plugins.commands.ejecting.text import literal

if TYPE_CHECKING:
    from hookline import RunView


def read_monitored(run: RunView, monitor: str, lines: Sequence[str]) -> str:
    """Return statements for each epoch that measures a metric."""
    if monitor == "train/running_loss" or run.config.train.evaluate_every_epochs == 1:
        return "\n".join(lines)
    return "\n".join([f"if {literal(monitor)} in measured:", *(f"    {line}" for line in lines)])
