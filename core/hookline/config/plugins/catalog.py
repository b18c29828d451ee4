"""Catalog of the installed plugins: kind, name, entry point, distribution and version.

It is read from the metadata of the installed distributions. No plugin is imported, so a broken one does not affect
commands that do not name it, and a thousand of them cost tens of milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from typing import Any

from hookline.config.plugins.metadata import (
    declared_entry_points,
    find_distributions,
    name_and_version,
    normalized_name,
    place_of,
)
from hookline.engine.errors import Fault, PluginError
from hookline.engine.words import did_you_mean

KINDS = ("data", "model", "loss", "optimizer", "parallel", "callback")
"""The kinds of plugin, in the order in which a run builds them."""

COMMAND = "command"
"""The kind of entry that adds a command to the command line; it is no part of a run."""

EXPORT = "export"
"""The kind of entry that adds a format to ``hookline export``; it is no part of a run either."""

INDEX = "index"
"""The kind of entry that names a file which lists plugins; see ``hookline.config.plugins.index``."""

OWN_DISTRIBUTION = "hookline"
_ORDER = (*KINDS, COMMAND, EXPORT, INDEX)
_GROUP_OF_KIND = {f"hookline.{kind}": kind for kind in _ORDER}
_DEFAULTS_GROUP = "hookline.defaults"


@dataclass(frozen=True)
class Entry:
    """An installed plugin, as declared in the metadata of its distribution.

    Attributes:
        kind: One of ``KINDS``, ``"command"``, ``"export"`` or ``"index"``.
        name: The entry point's name, which is the plugin's name.
        value: The object reference, ``module:attribute``.
        distribution: Name of the distribution that declares it.
        version: Version of that distribution; empty if its metadata do not give one.
        blocked_by: The rule that forbids its use, such as ``plugins.deny``; empty if none does.
        import_s: Seconds that the import of its file took; 0 for an installed plugin, which is not imported yet.
    """

    kind: str
    name: str
    value: str
    distribution: str
    version: str
    blocked_by: str = ""
    import_s: float = field(default=0.0, compare=False, repr=False)

    @property
    def qualified_name(self) -> str:
        """The name with its distribution, ``acme-plugins/mlp``, which is never ambiguous."""
        return f"{self.distribution}/{self.name}"

    @property
    def is_installed(self) -> bool:
        """Whether it comes from an installed distribution, not from a file."""
        return True

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} ({self.source})"

    @property
    def source(self) -> str:
        """Its distribution with the version, ``acme-plugins 1.2.0``, or its file."""
        return f"{self.distribution} {self.version}".rstrip()

    def error(self, message: str, *, hint: str | None = None, faults: Sequence[Fault] = ()) -> PluginError:
        """Return an error that names this plugin and its distribution."""
        return PluginError(
            message,
            plugin=f"{self.kind} {self.name!r}",
            distribution=self.distribution,
            version=self.version,
            hint=hint,
            faults=faults,
        )

    def load(self) -> Any:
        """Import the plugin's module and return the object that the entry point names."""
        if not EntryPoint.pattern.match(self.value):
            raise ValueError(f"{self.value!r} is not an object reference of the form 'module:attribute'")
        return EntryPoint(self.name, self.value, f"hookline.{self.kind}").load()


class Catalog:
    """The installed plugins, found by kind and name.

    Attributes:
        entries: Every plugin, sorted by kind, name and distribution.
        commands: Every command, likewise.
        problems: One sentence for each distribution whose entry points cannot be read.

    Example:
        >>> Catalog.installed().find("optimizer", "sgd").qualified_name
        'hookline/sgd'
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        *,
        defaults: Iterable[EntryPoint] = (),
        problems: Sequence[str] = (),
    ) -> None:
        self._all = tuple(sorted(entries, key=lambda e: (_ORDER.index(e.kind), e.name, e.distribution)))
        self.entries = tuple(entry for entry in self._all if entry.kind in KINDS)
        self.commands = tuple(entry for entry in self._all if entry.kind == COMMAND)
        self.problems = tuple(problems)
        self._defaults = {entry_point.name: entry_point for entry_point in defaults}
        self._offers = Counter((entry.kind, entry.name) for entry in self._all if not entry.blocked_by)

    @classmethod
    def installed(cls) -> Catalog:
        """Return the catalog of the plugins installed on ``sys.path``."""
        entries: list[Entry] = []
        defaults: list[EntryPoint] = []
        problems: list[str] = []
        seen: set[str] = set()
        for distribution in find_distributions():
            try:
                text = distribution.read_text("entry_points.txt") or ""
                if "hookline." not in text:
                    continue
                name, version = name_and_version(distribution)
                declared = list(declared_entry_points(text))
            except Exception as error:  # noqa: BLE001 - damaged metadata must not hide other distributions
                what = f"{type(error).__name__}: {error}"
                problems.append(
                    f"the metadata at {place_of(distribution)} are damaged, so its plugins are ignored: {what}"
                )
                continue
            # Python imports the first copy on sys.path; later ones do not count.
            if (normalized := normalized_name(name)) in seen:
                continue
            seen.add(normalized)
            for group, plugin, value in declared:
                if kind := _GROUP_OF_KIND.get(group):
                    entries.append(Entry(kind, plugin, value, name, version))
                elif group == _DEFAULTS_GROUP and normalized == OWN_DISTRIBUTION:
                    defaults.append(EntryPoint(plugin, value, group))
        return cls(entries, defaults=defaults, problems=problems)

    def with_entries(self, entries: Iterable[Entry]) -> Catalog:
        """Return a catalog with additional plugins, such as those of a file."""
        more = tuple(entries)
        return self._changed((*self._all, *more)) if more else self

    def restricted(self, *, allow: Collection[str] | None = None, deny: Collection[str] = (), by: str) -> Catalog:
        """Return a catalog in which the plugins of some distributions may not be used.

        Args:
            allow: The only distributions whose plugins may be used, in addition to Hookline's own and those of files;
                None for all.
            deny: Distributions whose plugins may not be used.
            by: Name of the rule for messages: ``{}`` in it becomes ``allow`` or ``deny``.
        """
        if allow is None and not deny:
            return self
        allowed = None if allow is None else {*map(normalized_name, allow), OWN_DISTRIBUTION}
        denied = set(map(normalized_name, deny))

        def checked(entry: Entry) -> Entry:
            name = normalized_name(entry.distribution)
            if name in denied:
                return replace(entry, blocked_by=by.format("deny"))
            if allowed is not None and name not in allowed and entry.is_installed:
                return replace(entry, blocked_by=by.format("allow"))
            return entry

        return self._changed(map(checked, self._all))

    def _changed(self, entries: Iterable[Entry]) -> Catalog:
        return Catalog(entries, defaults=self._defaults.values(), problems=self.problems)

    def of_kind(self, kind: str) -> tuple[Entry, ...]:
        """Return the plugins of a kind, the commands, the export formats or the indexes, sorted by name."""
        return tuple(entry for entry in self._all if entry.kind == kind)

    def names(self, kind: str) -> list[str]:
        """Return the names by which a config can name the plugins of a kind; ambiguous ones are qualified."""
        return [self.callable_name(entry) for entry in self.of_kind(kind) if not entry.blocked_by]

    def callable_name(self, entry: Entry) -> str:
        """Return the name by which a config can name a plugin: the qualified name if the plain one is ambiguous."""
        return entry.qualified_name if self.is_ambiguous(entry) else entry.name

    def is_ambiguous(self, entry: Entry) -> bool:
        """Whether other plugins that may be used have the same kind and name as this one."""
        return not entry.blocked_by and self._offers[entry.kind, entry.name] > 1

    def find(self, kind: str, name: str) -> Entry:
        """Find a plugin by its kind and its plain or qualified name.

        Raises:
            LookupError: When there is none; the text is a hint.
            PluginError: When several distributions offer the plain name, or the plugin may not be used.
        """
        meant = [entry for entry in self.of_kind(kind) if name in (entry.name, entry.qualified_name)]
        found = [entry for entry in meant if not entry.blocked_by]
        if not meant:
            raise LookupError("\n  = ".join((did_you_mean(name, self.names(kind)), *self.problems)))
        if not found:
            entry = meant[0]
            change = "add it to" if entry.blocked_by.endswith("allow") else "remove it from"
            hint = f"if you trust {entry.distribution}, {change} {entry.blocked_by}"
            raise entry.error(f"{entry} may not be used: {entry.blocked_by} forbids {entry.distribution}", hint=hint)
        if len(found) > 1:
            offers = " and ".join(entry.source for entry in found)
            raise PluginError(
                f"{kind} {name!r} is offered by {offers}",
                plugin=f"{kind} {name!r}",
                hint="use the full name: " + " or ".join(repr(e.qualified_name) for e in found),
            )
        return found[0]

    def moved(self, key: str) -> str | None:
        """Return a hint for a key that Hookline has renamed; None for any other."""
        new_keys = self.default("moved") if "moved" in self._defaults else {}
        return f"it is now {new_keys[key]!r}" if key in new_keys else None

    def closed(self, entries: Iterable[Entry], run: EntryPoint) -> Catalog:
        """Return a catalog of these plugins alone, with the same defaults except for the tables of a run."""
        defaults = {**self._defaults, "run": run}
        return Catalog(entries, defaults=defaults.values())

    def default(self, part: str) -> Any:
        """Return a default that Hookline's own distribution declares.

        The parts are ``commands`` and ``exports`` (summaries of Hookline's own commands and export formats among the
        plugins, by name), ``run``, ``terminal``, ``json``, ``keep`` and ``ranks`` (tables of a config), ``starter`` (a
        function that suggests a config for a data file, with its reasons), ``given-arrays`` (a function that makes a
        data source of arrays), ``hooks`` (a class with hooks), ``parent`` (a function that returns the folder of the
        runs), ``proof``, ``fast`` and ``overfit`` (functions that return the overrides of a proof or a trial),
        ``tables`` (names of tables of a config file that a command reads, and no run), and ``moved`` (new names of
        renamed keys). Other distributions cannot declare defaults, so installing one does not change a run.
        """
        return self._defaults[part].load()

    def watching_tables(self) -> list[str]:
        """Return the tables of the default callbacks that show or save a run, which do not affect its results."""
        return [
            f"callbacks.{name}" for part in ("terminal", "json", "keep") for name in self.default(part)["callbacks"]
        ]
