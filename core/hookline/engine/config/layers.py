"""A file, a mapping, words of a command -> one layer of a config: values by key path, each with its origin."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hookline.engine.config import toml_text
from hookline.engine.config.toml_positions import MAX_DEPTH, MAX_LINE, KeyPath
from hookline.engine.errors import Fault, Location
from hookline.engine.plugin.options import plain, shown

Source = Mapping[str, Any] | str | os.PathLike[str] | None


@dataclass(frozen=True)
class Origin:
    """Where a value comes from.

    Attributes:
        layer: ``default``, ``file``, ``command line``, ``python``, or an option of a command, such as ``--fast``.
        location: The place in the text, if there is one.
        detail: For a default, what has it as its default.
        folder: What relative paths in the value start at.
    """

    layer: str
    location: Location | None = None
    detail: str = ""
    folder: Path = Path()

    def __str__(self) -> str:
        if self.layer == "file" and self.location:
            return f"{self.location.source}:{self.location.line}"
        return f"{self.layer} of {self.detail}" if self.detail else self.layer


@dataclass(frozen=True)
class Item:
    """A value as one layer gives it.

    Attributes:
        path: The parts of its key; ``("callbacks", "best", "monitor")``.
        value: The value; ``{}`` for a table's header.
        origin: Where it comes from.
        key_location: Where the key stands.
    """

    path: KeyPath
    value: Any
    origin: Origin
    key_location: Location | None = None


def read_source(source: Source) -> list[Item]:
    """Return the layer that a file or a mapping is.

    Raises:
        ConfigError: When the file cannot be read, or is no TOML that options can hold.
    """
    if source is None:
        return []
    if isinstance(source, Mapping):
        return walk_mapping(source, Origin("python"))
    path = Path(source)
    document = toml_text.read_file(path)
    return list(_walk_document(document, path.parent))


def walk_mapping(values: Mapping[str, Any], origin: Origin) -> list[Item]:
    """Return the layer that a mapping of tables is."""
    return [Item(path, value, origin) for path, value in _leaves(values, ())]


def walk_keys(values: Mapping[str, Any], origin: Origin) -> list[Item]:
    """Return the layer that values by dotted key are."""
    pairs = [(key.split("."), value) for key, value in values.items()]
    return [Item(path, v, origin) for key, value in pairs for path, v in _leaves_at(key, value)]


def _walk_document(document: toml_text.Document, folder: Path) -> Iterator[Item]:
    for path, value in _leaves(document.values, ()):
        place = document.places.get(path)
        location = place.value if place else None
        yield Item(path, value, Origin("file", location, folder=folder), place.key if place else None)


def _leaves(values: Mapping[str, Any], path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Give every value that is an option's, and every table that is empty; tables within options stay whole."""
    for name, value in values.items():
        here = (*path, str(name))
        depth = 3 if here[0] == "callbacks" else 2
        if isinstance(value, Mapping) and len(here) < depth:
            yield here, {}
            yield from _leaves(value, here)
        else:
            yield here, plain(value)


def read_overrides(overrides: Mapping[str, Any] | Sequence[str], faults: list[Fault]) -> list[Item]:
    """Return the layer of values by dotted key, or of ``key=value`` words; faulty words go to ``faults``."""
    if isinstance(overrides, str):
        raise TypeError("overrides are a mapping or a sequence of words, not one text")
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
        faults.append(Fault(f"a key of more than {MAX_DEPTH} parts names nothing", key_location))
        return
    try:
        value = toml_text.parse_value(text)
    except ValueError as error:
        message = f"the value of {shown(key)} cannot be read: {error}"
        faults.append(Fault(message, location, "quote text: key='\"...\"'"))
        return
    for path, leaf in _leaves_at(key.split("."), value):
        yield Item(path, leaf, Origin("command line", location), key_location)


def _leaves_at(key: Sequence[str], value: Any) -> Iterator[tuple[KeyPath, Any]]:
    return _leaves({key[-1]: value}, tuple(key[:-1]))
