"""References in values: ``${table.key}`` stands for the value of another key, ``$${`` for the characters ``${``."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from hookline.config.plugins.options import REQUIRED, plain, shown
from hookline.config.run_config import Origin, Setting
from hookline.config.toml_positions import MAX_DEPTH, MAX_FAULTS, KeyPath
from hookline.engine.errors import Fault
from hookline.engine.words import nearest, shortened

MAX_REFERENCES = 100
"""Keys that a value may refer to, directly or through others."""
MAX_SIZE = 1 << 18
"""Characters and values that references may put into a config, together."""
NO_VALUE = REQUIRED
"""Value of a setting that has none: it is required, or its references have faults."""

_MARK = re.compile(r"\$\$\{|\$\{(?P<name>[^{}]*+)(?P<end>\}?)")
_MAX_CANDIDATES = 1000
_WRITTEN = ("file", "command line", "python")
"""The layers that people write. The values that commands set, such as the path of a file, have no references."""


def escaped(value: Any) -> Any:
    """Return a plain value as a config has to contain it, so that no text in it is read as a reference.

    >>> escaped(["a", "${b}"])
    ['a', '$${b}']
    """
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, Mapping):
        return {name: escaped(item) for name, item in value.items()}
    return [escaped(item) for item in value] if isinstance(value, list | tuple) else value


class References:
    """The references of a config, to be replaced by values.

    Attributes:
        settings: Every setting that a reference can name, by its full key.
        has_options: Whether ``settings`` has the defaults of all options.
        unclear: Tables whose keys are not known, because of other faults: references to them are no further faults.

    Args:
        faults: The list that gets a fault for each reference that cannot be replaced.
    """

    def __init__(self, faults: list[Fault]) -> None:
        self.settings: dict[str, Setting] = {}
        self.has_options = False
        self.unclear: set[str] = set()
        self._faults = faults
        self._tables: set[str] = set()
        self._done: set[str] = set()
        self._room = MAX_SIZE

    def replace(self, wanted: Iterable[str]) -> None:
        """Replace the references of the wanted settings, and of those that they refer to, by values."""
        graph: dict[str, list[str]] = {}
        waiting = [key for key in wanted if _has_marks(self.settings[key])]
        if waiting:
            self._tables = {table for key in self.settings for table in (key.partition(".")[0], key.rpartition(".")[0])}
        for key in waiting:
            if key not in graph and key not in self._done and _has_marks(self.settings[key]):
                graph[key] = self._targets(self.settings[key])
                waiting += graph[key]
        if graph:
            self._replace_in_order(graph)
            self._done |= graph.keys()

    def find(self, name: str) -> tuple[Setting, Any] | None:
        """Return the setting that a name means, or whose value contains what it means, and the value that is meant."""
        parts = name.split(".")
        for size in range(min(len(parts), MAX_DEPTH), 1, -1):
            if setting := self.settings.get(".".join(parts[:size])):
                value = setting.value
                for part in parts[size:] if value is not NO_VALUE else ():
                    value = value.get(part, self) if isinstance(value, Mapping) else self
                if value is not self:
                    return setting, value
        return None

    def fault(
        self, setting: Setting, message: str, mark: str = "", inner: KeyPath = (), hint: str | None = None
    ) -> None:
        """Add a fault at a mark in a setting."""
        self._faults.append(Fault(message, setting.origin.locate(mark, inner), hint))

    def objection(self, value: Any, level: int, count: int) -> str | None:
        """Return the reason why a value cannot be put in ``count`` times, ``level`` levels deep; None if it can."""
        try:
            self._room -= _size(value, level) * count
        except ValueError as error:
            return str(error)
        return f"puts in too much: more than {MAX_SIZE:,} characters and values in all" if self._room < 0 else None

    def _targets(self, setting: Setting) -> list[str]:
        """Return the keys that a setting refers to; none, with a fault for each that it cannot refer to."""
        marks: dict[str, tuple[re.Match[str], KeyPath]] = {}
        for text, inner in _texts(setting.value):
            marks |= {match.group(): (match, inner) for match in _MARK.finditer(text) if match["name"] is not None}
        targets: list[str | None] = [None]
        if len(marks) > MAX_REFERENCES:
            self.fault(setting, f"{setting.key!r} has more than {MAX_REFERENCES} references")
        else:
            targets = [self._target(setting, *mark) for mark in marks.values()]
        if None in targets:
            self.settings[setting.key] = replace(setting, value=NO_VALUE)
            return []
        return [target for target in targets if target]

    def _target(self, setting: Setting, match: re.Match[str], inner: KeyPath) -> str | None:
        name, mark = match["name"], match.group()
        found = self.find(name)
        if found and match["end"] and not isinstance(found[1], Mapping):
            return found[0].key
        if not match["end"] or not name:
            message, hint = "is not a reference", "write ${table.key}; for the characters themselves, $${"
        elif found or name in self._tables:
            message, hint = "is a table, and a reference takes one value", f"write ${{{shortened(name)}.KEY}}"
        elif any(name.startswith(f"{table}.") for table in self.unclear):
            return None
        else:
            candidates = islice(self.settings, _MAX_CANDIDATES if len(self._faults) < MAX_FAULTS else 0)
            near = nearest(name, candidates)
            message = "refers to a key that this config does not have"
            hint = (
                f"did you mean ${{{shortened(near)}}}?" if near else "hookline explain TABLE lists the keys of a table"
            )
            if not self.has_options:
                message, hint = "refers to a key that nothing sets", "plugins are named before their defaults are known"
        self.fault(setting, f"{setting.key!r}: {shortened(mark)} {message}", mark, inner, hint)
        return None

    def _replace_in_order(self, graph: Mapping[str, list[str]]) -> None:
        from graphlib import CycleError, TopologicalSorter

        order = TopologicalSorter(graph)
        with contextlib.suppress(CycleError):  # what is in no circle, and behind none, can still be replaced
            order.prepare()
        left = {**graph}
        while ready := order.get_ready():
            for key in ready:
                if left.pop(key, None) is not None and self.settings[key].value is not NO_VALUE:
                    self.settings[key] = _Filling(self, self.settings[key]).result()
            order.done(*ready)
        self._report_circles({key: next(one for one in targets if one in left) for key, targets in left.items()})
        self.settings |= {key: replace(self.settings[key], value=NO_VALUE) for key in left}

    def _report_circles(self, following: Mapping[str, str]) -> None:
        """Add a fault for each circle, given for each key one that it refers to."""
        seen: set[str] = set()
        for start in following:
            path, key = [start], following[start]
            walked = {start}
            while key not in seen and key not in walked:
                path.append(key)
                walked.add(key)
                key = following[key]
            if start not in seen and key in walked:
                circle = path[path.index(key) :]
                names = [*circle[:MAX_DEPTH], *(["..."] if len(circle) > MAX_DEPTH else []), key]
                message = f"these references form a circle: {' -> '.join(map(shortened, names))}"
                self.fault(self.settings[key], message, f"${{{following[key]}}}", hint="give one of them a value")
            seen |= walked


class _Filling:
    """A setting while its references are replaced."""

    def __init__(self, references: References, setting: Setting) -> None:
        self._references, self._setting = references, setting
        self._sources: dict[str, Origin] = {}
        self._folders: dict[Path, None] = {}
        self._is_faulty = False

    def result(self) -> Setting:
        """Return the setting with values in place of references; without a value if that is not possible."""
        setting = self._setting
        value = self._filled(setting.value, ())
        if len(self._sources) > MAX_REFERENCES:
            self._is_faulty = True
            self._references.fault(setting, f"{setting.key!r} depends on more than {MAX_REFERENCES} other keys")
        folder, *others = self._folders
        sources = tuple(self._sources.items())
        origin = replace(setting.origin, folder=folder, has_folders=bool(others), references=sources)
        return replace(setting, value=NO_VALUE if self._is_faulty else value, origin=origin)

    def _filled(self, value: Any, inner: KeyPath, level: int = 0) -> Any:
        if isinstance(value, Mapping):
            return {name: self._filled(item, (*inner, name), level + 1) for name, item in value.items()}
        if isinstance(value, list):
            return [self._filled(item, inner, level + 1) for item in value]
        if not isinstance(value, str):
            return value
        first = _MARK.match(value)
        start = self._references.find(first["name"]) if first and first["name"] else None
        # A relative path starts where its beginning is written.
        self._folders[(start[0] if start else self._setting).origin.folder] = None
        if first and first["name"] and first.end() == len(value):
            return self._value(value, inner, level, 1)
        counts = Counter(match.group() for match in _MARK.finditer(value))
        texts = {mark: self._text(mark, inner, level, count) for mark, count in counts.items()}
        return "" if self._is_faulty else _MARK.sub(lambda match: texts[match.group()], value)

    def _text(self, mark: str, inner: KeyPath, level: int, count: int) -> str:
        if mark == "$${":
            return "${"
        value = self._value(mark, inner, level, count)
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str | int | float):
            return str(value)
        if value is not NO_VALUE:
            what = "a list" if isinstance(value, list) else shown(value)
            self._refuse(mark, inner, f"is {what}, and only text, a number, true or false fits into a text")
        return ""

    def _value(self, mark: str, inner: KeyPath, level: int, count: int) -> Any:
        """Return the value that a mark stands for, ``count`` times."""
        found = self._references.find(mark[2:-1])
        assert found, "a setting with an unknown reference is not filled"
        setting, value = found
        if value is NO_VALUE:
            self._is_faulty = True
            return value
        self._sources |= {setting.key: replace(setting.origin, references=())} | dict(setting.origin.references)
        value = plain(value)
        if problem := self._references.objection(value, level, count):
            if not self._is_faulty:
                self._refuse(mark, inner, problem)
            return NO_VALUE
        return value

    def _refuse(self, mark: str, inner: KeyPath, problem: str) -> None:
        self._is_faulty = True
        self._references.fault(self._setting, f"{self._setting.key!r}: {shortened(mark)} {problem}", mark, inner)


def _has_marks(setting: Setting) -> bool:
    return setting.origin.layer in _WRITTEN and any("${" in text for text, _ in _texts(setting.value))


def _texts(value: Any, inner: KeyPath = ()) -> Iterator[tuple[str, KeyPath]]:
    """Yield each text in a value, with the keys of the tables within the value that it is in."""
    if isinstance(value, str):
        yield value, inner
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(item, (*inner, name))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, inner)


def _size(value: Any, level: int) -> int:
    """Return the number of characters and values in a value that is within ``level`` lists and tables.

    Raises:
        ValueError: When it is nested too deep.
    """
    if isinstance(value, str):
        return 1 + len(value)
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    if level >= MAX_DEPTH and items:
        raise ValueError(f"makes a value that is nested more than {MAX_DEPTH} levels deep")
    return 1 + sum(_size(item, level + 1) for item in items)
