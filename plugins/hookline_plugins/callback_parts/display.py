"""Standard output for plugins that show a run: switched off, with a warning, when it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hookline.runs import Redaction

if TYPE_CHECKING:
    from hookline import RunView


class Display:
    """Standard output. What only shows a run never ends it: after a failure nothing more is written.

    Args:
        name: Name of the plugin that writes.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_on = True
        self._redaction: Redaction | None = None

    def redaction(self, run: RunView) -> Redaction:
        """Return what removes the secrets of a run from its texts."""
        self._redaction = self._redaction or Redaction.of(run.config)
        return self._redaction

    def lines(self, run: RunView, *lines: str) -> None:
        """Write lines without the secrets of the run's config."""

        def write() -> None:
            for line in lines:
                print(self.redaction(run).known(line), flush=True)  # noqa: T201 - it is standard output

        self.attempt(run, write)

    def attempt(self, run: RunView, show: Callable[[], None]) -> None:
        """Call ``show``, which writes to standard output, unless that has failed before."""
        if not self._is_on:
            return
        try:
            show()
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self._is_on = False
            run.warn(f"{self._name} is off from here on: standard output cannot be written: {error}")
