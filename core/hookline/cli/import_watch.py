"""Changes of the whole process by the imports of plugins: noticed and named, and the current folder set back."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from hookline.testing.import_probe import FOLDER, state_of_process

if TYPE_CHECKING:
    from hookline.config.plugins.catalog import Entry


class ImportWatch:
    """Notices what the import of a plugin changes for the whole process.

    Args:
        vet: Called with each plugin before its import.

    Attributes:
        changes: A sentence for each change.
    """

    def __init__(self, vet: Callable[[Entry], None] | None = None) -> None:
        self.changes: list[str] = []
        self._vet = vet
        self._imported = ""
        self._before = state_of_process()

    def before(self, imported: str) -> None:
        """Look at the changes since the last import, and note the next one: a plugin or a file."""
        after = state_of_process()
        changed = [name for name, value in self._before.items() if after[name] != value]
        self.changes += [f"the import of {self._imported} changes {name} for the whole process" for name in changed]
        if FOLDER in changed:
            # A relative path means the folder in which the command was given.
            os.chdir(self._before[FOLDER])
            after[FOLDER] = self._before[FOLDER]
        self._imported, self._before = imported, after

    def __call__(self, entry: Entry) -> None:
        """Vet a plugin that is imported next."""
        self.before(str(entry))
        if self._vet:
            self._vet(entry)
