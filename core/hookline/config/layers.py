"""Layers of a config: the values of a file, a mapping or command-line words, by key path, with their origins."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hookline.config import toml_text
from hookline.config.family import EXTENDS, Family
from hookline.config.plugins.options import plain, shown
from hookline.config.run_config import Origin
from hookline.config.toml_positions import MAX_DEPTH, MAX_LINE, KeyPath
from hookline.config.toml_text import Document
from hookline.engine.errors import Fault, Location

Source = Mapping[str, Any] | str | os.PathLike[str] | None


@dataclass(frozen=True)
class Item:
    """A value in one layer.

    Attributes:
        path: The parts of its key; ``("callbacks", "best", "monitor")``.
        value: The value; ``{}`` for a table's header.
        origin: Its source.
        key_location: Position of the key.
    """

    path: KeyPath
    value: Any
    origin: Origin
    key_location: Location | None = None

    @property
    def location(self) -> Location | None:
        """Position to show in errors: that of the key, or else that of the value."""
        return self.key_location or self.origin.location


def read_source(source: Source) -> list[list[Item]]:
    """Read a file or a mapping, and the files that it extends, as layers.

    Raises:
        ConfigError: When a file cannot be read, is not TOML, or has a value that no option takes; with every fault.
    """
    if source is None:
        return []
    family = Family()
    if not isinstance(source, Mapping):
        family.read(Path(source))
        return [_walk_document(path, document) for path, document in family.members]
    family.read_bases(source, "the mapping")
    own = {name: value for name, value in source.items() if name != EXTENDS}
    return [*(_walk_document(path, document) for path, document in family.members), walk_mapping(own, Origin("python"))]


def _walk_document(path: Path, document: Document) -> list[Item]:
    """Return a TOML file as a layer."""
    items = []
    folder = path.parent.absolute()
    values = {name: value for name, value in document.values.items() if name != EXTENDS}
    for key, value in _leaves(values, ()):
        place = document.places.get(key)
        find = partial(document.find, key)
        origin = Origin("file", place.value if place else None, folder=folder, find=find)
        items.append(Item(key, value, origin, place.key if place else None))
    return items


def read_table(source: str | os.PathLike[str], name: str) -> list[Item]:
    """Return the settings of a table of a config file that a command reads, such as ``[sweep]``; none without it.

    Tables within it are walked down to their values. Something else than a table is one item with an empty path. Values
    of a file win over those of the files that it extends.

    Raises:
        ConfigError: When a file cannot be read, or is not TOML.
    """
    family = Family()
    family.read(Path(source))
    found: dict[KeyPath, Item] = {}
    for path, document in family.members:
        for key, value in _walked(document.values.get(name, {}), (name,)):
            place = document.places[key]
            found[key] = Item(key[1:], value, Origin("file", place.value, folder=path.parent.absolute()), place.key)
    return list(found.values())


def _walked(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if not isinstance(value, Mapping):
        yield path, value
        return
    for name, item in value.items():
        yield from _walked(item, (*path, str(name)))


def walk_mapping(values: Mapping[str, Any], origin: Origin) -> list[Item]:
    """Return a mapping of tables as a layer."""
    return [Item(path, value, origin) for path, value in _leaves(values, ())]


def walk_keys(values: Mapping[str, Any], origin: Origin) -> list[Item]:
    """Return values by dotted key as a layer."""
    return [Item(path, leaf, origin) for key, value in values.items() for path, leaf in _leaves_at(key, value)]


def _leaves_at(key: str, value: Any) -> Iterator[tuple[KeyPath, Any]]:
    *table, name = key.split(".")
    return _leaves({name: value}, tuple(table))


def _leaves(values: Mapping[str, Any], path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Yield the value of every option, and every table as ``{}``; tables within options stay whole."""
    for name, value in values.items():
        here = (*path, str(name))
        depth = 3 if here[0] == "callbacks" else 2
        if isinstance(value, Mapping) and len(here) < depth:
            yield here, {}
            yield from _leaves(value, here)
        else:
            yield here, plain(value)


def read_overrides(overrides: Mapping[str, Any] | Sequence[str], faults: list[Fault]) -> list[Item]:
    """Read values by dotted key, or ``key=value`` words, as a layer; append a fault for each invalid word."""
    if isinstance(overrides, str):
        raise TypeError("overrides must be a mapping or a sequence of words, not a string")
    if isinstance(overrides, Mapping):
        return walk_keys(overrides, Origin("python"))
    return [item for word in overrides for item in _read_override(word, faults)]


def _read_override(word: str, faults: list[Fault]) -> Iterator[Item]:
    key, equals, text = word.partition("=")
    line = word if len(word) <= MAX_LINE else None
    key_location = Location("command line", text=line, width=len(key) if equals else len(word))
    location = Location("command line", column=len(key) + 2, text=line, width=max(len(text), 1))
    if not equals or not all(key.split(".")) or not key.isprintable():
        hint = "write KEY=VALUE, for example train.epochs=5"
        faults.append(Fault(f"{shown(word)} is not an override", key_location, hint))
        return
    if key.count(".") >= MAX_DEPTH:
        faults.append(Fault(f"this key has more than {MAX_DEPTH} parts", key_location))
        return
    try:
        value = toml_text.parse_value(text)
    except ValueError as error:
        faults.append(Fault(f"cannot read the value of {shown(key)}: {error}", location, "quote text: key='\"...\"'"))
        return
    origin = Origin("command line", location, find=partial(_part_of, location))
    for path, leaf in _leaves_at(key, value):
        yield Item(path, leaf, origin, key_location)


def _part_of(location: Location, _path: KeyPath, part: str) -> Location:
    """Return the position of a part of the value of an override."""
    text, column = location.text or "", location.column or 1
    found = text.find(part, column - 1)
    return replace(location, column=found + 1, width=len(part)) if found >= 0 else location
