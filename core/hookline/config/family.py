"""A config file and the files that it extends, each read once, a file after those that it extends.

Files are found by path alone, and read as the config itself is: nothing is fetched, and nothing waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hookline.config import toml_text
from hookline.config.plugins.options import plain, shown
from hookline.config.toml_positions import MAX_FAULTS, MAX_ITEMS, invalid
from hookline.config.toml_text import MAX_BYTES, Document
from hookline.engine.errors import ConfigError, Fault, Location
from hookline.engine.words import printable, shortened

EXTENDS = "extends"
"""The key of a config that names the files that it extends."""
MAX_FILES = 32
"""Files that a config may extend, directly or through others."""


class Family:
    """The files of a config, as they are read.

    Attributes:
        members: Path and content of each file, in the order of the layers.
    """

    def __init__(self) -> None:
        self.members: list[tuple[Path, Document]] = []
        self._faults: list[Fault] = []
        self._open: dict[str, Path] = {}  # the files whose bases are being read
        self._seen: set[str] = set()
        self._num_items = self._num_characters = 0
        self._is_full = False

    def read(self, path: Path) -> None:
        """Read a config file and the files that it extends.

        Raises:
            ConfigError: With every fault of every file.
        """
        self._take(path, toml_text.read_file(path))
        self._raise_faults(str(path))

    def read_bases(self, values: Mapping[str, Any], source: str) -> None:
        """Read the files that a mapping extends; raise as ``read`` does, with ``source`` as the name of the mapping."""
        self._read_bases(plain(values.get(EXTENDS, [])), Path(), lambda _: None)
        self._raise_faults(source)

    def _raise_faults(self, source: str) -> None:
        if self._faults:
            raise invalid(source, *self._faults[:MAX_FAULTS])

    def _take(self, path: Path, document: Document, location: Location | None = None) -> None:
        """Add a file, named at ``location``, after those that it extends."""
        real = _real_path(path)
        self._seen.add(real)
        self._num_items += document.scan.num_items
        self._num_characters += len(document.scan.text)
        self._open[real] = path
        self._check_size(location)
        if EXTENDS in document.values:
            place = document.places[EXTENDS,].value
            self._read_bases(
                document.values[EXTENDS], path.parent, lambda name: document.find((EXTENDS,), (), name) or place
            )
        del self._open[real]
        self.members.append((path, document))

    def _read_bases(self, names: Any, folder: Path, locate: Callable[[str], Location | None]) -> None:
        listed = [names] if isinstance(names, str) else names
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            message = f"{EXTENDS!r}: expected a path or a list of paths, got {shown(names)}"
            self._faults.append(Fault(message, locate(""), f'write {EXTENDS} = "base.toml" above the first table'))
            return
        for name in listed:
            if not self._is_full:
                self._read_base(folder / name, name, locate(name))

    def _read_base(self, path: Path, name: str, location: Location | None) -> None:
        real = _real_path(path)
        if _real_path(short := Path(os.path.normpath(path))) == real:  # a link before ".." can lead elsewhere
            path = short
        if real in self._open:
            circle = [*self._open.values()][[*self._open].index(real) :]
            files = " -> ".join(printable(str(one)) for one in [*circle, path])
            self._faults.append(Fault(f"these files extend each other in a circle: {files}", location))
        elif real not in self._seen:
            self._seen.add(real)
            try:
                document = toml_text.read_file(path)
            except ConfigError as error:
                self._faults += [Fault(error.message, location, error.hint or _advice(name)), *error.faults]
            else:
                self._take(path, document, location)
            self._check_size(location)

    def _check_size(self, location: Location | None) -> None:
        limits = {
            f"{MAX_FILES} files": len(self._seen) - 1 > MAX_FILES,
            f"{MAX_ITEMS:,} keys and values": self._num_items > MAX_ITEMS,
            f"{MAX_BYTES:,} characters": self._num_characters > MAX_BYTES,
        }
        for limit, is_exceeded in limits.items():
            if is_exceeded and not self._is_full:
                self._is_full = True
                self._faults.append(
                    Fault(f"with the files that it extends, this config has more than {limit}", location)
                )


def _real_path(path: Path) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # reading it gives the reason
        return str(path)


def _advice(name: str) -> str | None:
    if name.startswith("~"):
        return "'~' stands for no folder here: write the path in full"
    if "://" in name:
        return f"a config extends files of this machine, and fetches nothing: {shortened(name)} is read as a path"
    return None
