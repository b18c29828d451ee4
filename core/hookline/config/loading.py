"""Load a complete, frozen ``RunConfig``, in which each value has its origin, from TOML and overrides.

Values come in layers: defaults, then the file (or a mapping), then overrides. A later layer wins, key by key. A layer
that names another plugin for a table discards the options that earlier layers gave to the previous plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hookline.config.layers import Item, Source, read_overrides, read_source, walk_keys, walk_mapping
from hookline.config.plugins.catalog import OWN_DISTRIBUTION, Catalog, Entry
from hookline.config.plugins.choice import OnError, PluginChoice
from hookline.config.plugins.options import Option, options_of, shown
from hookline.config.plugins.plugin import Plugin, as_faults, combined, is_called, load_plugin
from hookline.config.plugins.requirements import unmet
from hookline.config.run_config import (
    OFF,
    OPTIONAL_KINDS,
    SINGLE_KINDS,
    TABLES,
    Origin,
    PluginRules,
    RunConfig,
    Setting,
)
from hookline.config.toml_positions import MAX_FAULTS, KeyPath
from hookline.engine.errors import ConfigError, Fault, Location, PluginError
from hookline.engine.read_only import ReadOnly
from hookline.engine.train_options import TrainOptions
from hookline.engine.words import did_you_mean

_PLAIN = (bool, int, float, list, tuple, Mapping, type(None))


@dataclass(frozen=True)
class Named:
    """Plugins named by a config, none of them imported.

    Attributes:
        catalog: The installed plugins, restricted by the config's rules.
        entries: The named plugins, by table.
        errors: The errors of the tables whose plugin is ambiguous or may not be used.
    """

    catalog: Catalog
    entries: Mapping[str, Entry]
    errors: tuple[PluginError, ...]


@dataclass
class _Table:
    """A table while the layers are combined.

    Attributes:
        name: Its name, ``model`` or ``callbacks.best``.
        settings: The settings so far, by key within the table.
        origin: The layer that mentions it last.
        header: Position of that mention.
    """

    name: str
    settings: dict[str, Setting] = field(default_factory=dict)
    origin: Origin = field(default_factory=lambda: Origin("default"))
    header: Location | None = None

    @property
    def kind(self) -> str:
        """The kind of its plugin."""
        return "callback" if self.name.startswith("callbacks.") else self.name

    @property
    def implied_use(self) -> str | None:
        """The plugin that a callback's table names if it has no key ``use``."""
        return self.name.removeprefix("callbacks.") if self.kind == "callback" else None


def load_config(
    source: Source = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    plugins: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    switches: Mapping[str, Mapping[str, Any]] | None = None,
    catalog: Catalog | None = None,
    vet: Callable[[Entry], None] | None = None,
) -> RunConfig:
    """Return the complete config of a run.

    Only the plugins that the config names are imported, to read their options.

    Args:
        source: Path of a TOML file, a mapping of the same form, or None for the defaults alone.
        overrides: Values by dotted key, ``{"train.epochs": 5}``, or ``key=value`` words as on the command line.
        plugins: Objects to use instead of named plugins, by table: ``{"model": net, "callbacks.mine": callback}``.
        defaults: Additional defaults, applied on top of Hookline's own and below the source.
        switches: Values that options of a command set, applied between source and overrides: values by dotted key, by
            option, ``{"--fast": {"train.epochs": 2}}``.
        catalog: The plugins that may be named; default: those installed.
        vet: Called with each plugin before it is imported; raises ``PluginError`` to refuse it.

    Raises:
        ConfigError: With every fault of the config.
        PluginError: When the config is valid but a plugin that it names is not, or ``vet`` refuses one.

    Example:
        >>> config = load_config({"optimizer": {"lr": 0.1}}, ["train.epochs=5"])
        >>> config.train.epochs, str(config.settings["optimizer.lr"].origin)
        (5, 'python')
    """
    assembly = _Assembly(catalog or Catalog.installed())
    assembly.add_layers(source, overrides, plugins or {}, defaults or {}, switches or {})
    return assembly.finish(vet or (lambda _: None))


def as_config(
    config: RunConfig | Source = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    plugins: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Return a ``RunConfig`` as it is, and load anything else.

    Raises:
        TypeError: When a ``RunConfig`` comes with overrides or plugins.
        HooklineError: As ``load_config`` does.
    """
    if not isinstance(config, RunConfig):
        return load_config(config, overrides, plugins=plugins)
    if overrides or plugins:
        raise TypeError("a RunConfig is complete: pass overrides and plugins to load_config")
    return config


def named_entries(
    source: Source = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    defaults: Mapping[str, Any] | None = None,
    catalog: Catalog | None = None,
) -> Named:
    """Return the plugins that a config names, without importing any.

    Raises:
        ConfigError: With every fault that can be found without the plugins' options.
        PluginError: When a requirement of the config is not met.
    """
    assembly = _Assembly(catalog or Catalog.installed())
    assembly.add_layers(source, overrides, {}, defaults or {}, {})
    return assembly.named()


class _Assembly:
    """The tables of a config while layers are added, and the faults found so far."""

    def __init__(self, catalog: Catalog) -> None:
        self.faults: list[Fault] = []
        self._catalog = catalog
        self._plugin_errors: list[PluginError] = []
        self._tables = {name: _Table(name) for name in ("train", "plugins", *SINGLE_KINDS)}
        self._settings: dict[str, Setting] = {}
        self._unknown: dict[str, int] = {}  # numbers of their faults, which get a hint at the end
        self._secret_lines: set[str | None] = set()

    def add_layers(
        self,
        source: Source,
        overrides: Mapping[str, Any] | Sequence[str],
        plugins: Mapping[str, Any],
        defaults: Mapping[str, Any],
        switches: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Apply all layers, each on top of the previous one."""
        self._add(walk_mapping(self._catalog.default("run"), Origin("default")))
        self._add(walk_mapping(defaults, Origin("default", detail="this command")))
        self._add(read_source(source))
        self._add(item for label, target in plugins.items() if (item := self._object(label, target)))
        for option, values in switches.items():
            self._add(walk_keys(values, Origin(option)))
        self._add(read_overrides(overrides, self.faults))

    def _add(self, items: Iterable[Item]) -> None:
        """Apply one layer."""
        placed = [(split, item) for item in items if (split := self._split(item))]
        for (label, _), item in placed:
            self._tables.setdefault(label, _Table(label, origin=item.origin, header=item.key_location))
        # The plugin's name first: a new one discards the options of the previous one.
        for (label, key), item in sorted(placed, key=lambda pair: pair[0][1] != ("use",)):
            self._set(self._tables[label], key, item)

    def _object(self, label: str, target: Any) -> Item | None:
        """Return the item that makes ``target`` the plugin of a table."""
        if label in SINGLE_KINDS or label.startswith("callbacks."):
            return Item((*label.split(".", 1), "use"), target, Origin("python"))
        hint = did_you_mean(label, (*SINGLE_KINDS, "callbacks.NAME"))
        self._fault(f"{label!r} is not a plugin table", hint=hint)
        return None

    def _split(self, item: Item) -> tuple[str, KeyPath] | None:
        """Return table and key of an item, () for a header; None, with a fault, if it has no valid table."""
        path, value = item.path, item.value
        size = 2 if path[0] == "callbacks" else 1  # parts of a table's name
        label = ".".join(path[:size])
        takes_plugin = path[0] not in ("train", "plugins")
        if path[0] not in TABLES:
            if path[0] in self._catalog.default("tables"):
                return None
            if path[0] not in self._unknown:
                self._unknown[path[0]] = len(self.faults)
                self._fault(f"unknown table {shown(path[0])}", item.location)
        elif len(path) > size:
            return label, path[size:]
        elif len(path) < size:
            if value != {}:
                message = f"{label!r}: expected a table of tables, got {shown(value)}"
                self._fault(message, item.location, "write [callbacks.NAME]")
        elif takes_plugin and isinstance(value, str) and value:
            return label, ("use",)
        elif value == {}:
            return label, ()
        else:
            expected = "a table"
            if takes_plugin:
                expected = f"a plugin name, {OFF!r} or a table" if size > 1 else "a plugin name or a table"
            advice = f"write [{label}] above its keys" if item.origin.layer == "file" else None
            self._fault(f"{label!r}: expected {expected}, got {shown(value)}", item.location, advice)
        return None

    def _set(self, table: _Table, key: KeyPath, item: Item) -> None:
        value, origin, key_location = item.value, item.origin, item.key_location
        if not key:
            table.origin, table.header = origin, key_location or table.header
            return
        name, *rest = key
        before = table.settings.get(name)
        former = before.value if before else table.implied_use
        # Two names can be the same; objects are never compared.
        if name == "use" and not (isinstance(value, str) and isinstance(former, str) and value == former):
            table.settings = _surviving(table, before, value)
        # A key within an option that is a table changes that table.
        value = _merged(before.value if before else {}, rest, value)
        table.settings[name] = Setting(f"{table.name}.{name}", value, origin, before, key_location)

    def finish(self, vet: Callable[[Entry], None]) -> RunConfig:
        """Check every table, and return the complete config.

        Raises:
            ConfigError: With every fault found.
            PluginError: When plugins are the only fault.
        """
        rules = self._finish_rules(self._tables.pop("plugins"))
        train = self._convert(self._tables.pop("train"), options_of(TrainOptions), "the loop")
        choices = [choice for table in self._chosen() if (choice := self._finish_plugin(table, vet))]
        self._raise_faults(choices)
        if self._plugin_errors:
            raise combined(self._plugin_errors)
        base = self._catalog.default("hooks")
        return RunConfig(TrainOptions(**train), rules, tuple(choices), ReadOnly(self._settings), base)

    def named(self) -> Named:
        """Return the plugin of each table, and the catalog restricted by the rules.

        Raises:
            ConfigError: With every fault found.
        """
        self._finish_rules(self._tables.pop("plugins"))
        del self._tables["train"]
        uses = {table.name: (table, use) for table in self._chosen() if (use := self._use(table))}
        found = {label: self._entry(table, use) for label, (table, use) in uses.items() if use.value != OFF}
        self._raise_faults()
        entries = {label: entry for label, entry in found.items() if entry}
        return Named(self._catalog, entries, tuple(self._plugin_errors))

    def _chosen(self) -> Iterable[_Table]:
        """Return the tables of plugins, without an optional one that no layer mentions."""
        return [table for name, table in self._tables.items() if table.settings or name not in OPTIONAL_KINDS]

    def _raise_faults(self, choices: Iterable[PluginChoice] = ()) -> None:
        known = {name: f"{choice.table}.{name}" for choice in choices for name in choice.options}
        known |= {name: f"train.{name}" for name in TrainOptions.__dataclass_fields__}
        for name, number in self._unknown.items():
            meant = (
                f"did you mean {known[name]!r}?"
                if name in known
                else did_you_mean(name, (*TABLES, *self._catalog.default("tables")))
            )
            self.faults[number] = replace(self.faults[number], hint=meant)
        if self.faults:
            self.faults += [fault for error in self._plugin_errors for fault in as_faults(error)]
            count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults):,} faults"
            more = [Fault(f"and {len(self.faults) - MAX_FAULTS:,} more")] if len(self.faults) > MAX_FAULTS else []
            faults = [
                replace(fault, location=replace(fault.location, text=None))
                if fault.location and fault.location.text in self._secret_lines
                else fault
                for fault in self.faults[:MAX_FAULTS]
            ]
            raise ConfigError(f"the configuration has {count}", faults=[*faults, *more])

    def _finish_rules(self, table: _Table) -> PluginRules:
        """Apply the rules to the catalog. If they are invalid or not met, nothing else is checked or imported."""
        num_before = len(self.faults)
        values = self._convert(table, options_of(PluginRules), "[plugins]")
        location = table.settings["require"].origin.location if "require" in table.settings else None
        missing: list[Fault] = []
        for requirement in values.get("require", ()):
            try:
                if found := unmet(requirement):
                    hint = f"pip install {requirement!r}"
                    missing.append(Fault(f"plugins.require has {requirement!r}, but {found}", location, hint))
            except ValueError as error:
                self._fault(f"'plugins.require': {error}", location)
        if len(self.faults) > num_before:
            self._raise_faults()
        if missing:
            raise PluginError("requirements of the config are not met", faults=missing)
        rules = PluginRules(**values)
        allow = None if rules.allow == "all" else rules.allow
        self._catalog = self._catalog.restricted(allow=allow, deny=rules.deny, by="plugins.{}")
        return rules

    def _finish_plugin(self, table: _Table, vet: Callable[[Entry], None]) -> PluginChoice | None:
        use = self._use(table)
        if use is None:
            return None
        if use.value == OFF:
            if table.kind not in ("callback", *OPTIONAL_KINDS):
                self._fault(f"{table.name!r} cannot be {OFF!r}: every run needs one", use.origin.location)
            self._settings[use.key] = use
            return None
        try:
            plugin = self._find(table, use, vet)
            if plugin is None:
                return None
            self._settings[use.key] = use if isinstance(use.value, str) else replace(use, value=plugin.name)
            location = use.origin.location or table.header
            on_error = self._finish_on_error(table, plugin) if plugin.kind == "callback" else "fail"
            options = self._convert(table, plugin.options, str(plugin), location)
        except PluginError as error:
            self._plugin_errors.append(error)
            return None
        return PluginChoice(table.name, plugin, ReadOnly(options), location, on_error)

    def _finish_on_error(self, table: _Table, plugin: Plugin) -> OnError:
        key = f"{table.name}.on_error"
        setting = table.settings.pop("on_error", None) or Setting(key, "fail", Origin("default", detail="the loop"))
        self._settings[key] = setting
        if setting.value == "fail":
            return "fail"
        if setting.value != "warn":
            message = f"{key!r}: expected one of 'fail', 'warn', got {shown(setting.value)}"
            self._fault(message, setting.origin.location)
        elif build_hooks := [hook for hook in plugin.hooks if hook.startswith("build_")]:
            message = f"{key!r} is 'warn', but {plugin} does not only observe: it implements {build_hooks[0]!r}"
            self._fault(message, setting.origin.location, "remove the key, or set it to 'fail'")
        return "warn"

    def _use(self, table: _Table) -> Setting | None:
        """Take the plugin's name out of a table; for a callback without one, return its table's name."""
        if setting := table.settings.pop("use", None):
            return setting
        if table.implied_use is None:
            self._fault(f"no plugin is named for {table.name!r}", table.header, "add a key 'use'")
            return None
        origin = replace(table.origin, location=table.header)
        return Setting(f"{table.name}.use", table.implied_use, origin, key_location=table.header)

    def _find(self, table: _Table, use: Setting, vet: Callable[[Entry], None]) -> Plugin | None:
        """Return the plugin that ``use`` names or is; None, with a fault, if it is neither."""
        if isinstance(use.value, str):
            entry = self._entry(table, use)
            if entry is None:
                return None
            vet(entry)
            return load_plugin(entry)
        if use.origin.layer == "python" and not isinstance(use.value, _PLAIN):
            return Plugin(table.kind, getattr(use.value, "__name__", type(use.value).__name__), use.value)
        self._fault(f"{use.key!r}: expected a plugin name, got {shown(use.value)}", use.origin.location)
        return None

    def _entry(self, table: _Table, use: Setting) -> Entry | None:
        """Return the installed plugin with the name in ``use``; None, with a fault, if there is none."""
        kind, name = table.kind, str(use.value)
        location = use.origin.location or use.key_location
        own_name = f"{OWN_DISTRIBUTION}/{name}"
        if use.origin.layer == "default" and any(own_name == e.qualified_name for e in self._catalog.of_kind(kind)):
            name = own_name  # a default means the same plugin, whatever else is installed under this name
        try:
            return self._catalog.find(kind, name)
        except LookupError as error:
            self._fault(f"no {kind} plugin named {shown(name)} is installed", location, str(error))
        except PluginError as error:
            error.faults = (Fault("named here", location),) if location else ()
            self._plugin_errors.append(error)
        return None

    def _convert(
        self, table: _Table, options: Sequence[Option], owner: str, location: Location | None = None
    ) -> dict[str, Any]:
        """Return the converted value of each option; unknown, invalid and missing ones become faults."""
        known = {option.name: option for option in options}
        for name, setting in table.settings.items():
            if name not in known:
                hint = did_you_mean(name, known) if known else f"{owner} has no options"
                hint = self._catalog.moved(setting.key) or hint
                message = f"unknown key {shown(setting.key)}: {owner} has no such option"
                self._fault(message, setting.key_location, hint)
        values: dict[str, Any] = {}
        for name, option in known.items():
            key = f"{table.name}.{name}"
            given = table.settings.get(name)
            if given is None and option.is_required:
                hint = f"it takes {option.expected}: {option.description}".rstrip(": ")
                self._fault(f"{key!r} is missing: {owner} requires it", location or table.header, hint)
                continue
            self._settings[key] = given or Setting(key, option.default, Origin("default", detail=owner))
            try:
                values[name] = option.convert(given.value, given.origin.folder) if given else option.default
            except ValueError as error:
                self._fault(f"{key!r}: {error}", self._settings[key].origin.location)
            if option.is_secret and (line := self._settings[key].origin.location):
                self._secret_lines.add(line.text)
        return values

    def _fault(self, message: str, location: Location | None = None, hint: str | None = None) -> None:
        self.faults.append(Fault(message, location, hint))


def _surviving(table: _Table, before: Setting | None, plugin: Any) -> dict[str, Setting]:
    """Return the settings that a table keeps when its plugin changes: those meant for an object given from Python."""
    if isinstance(plugin, str) or (before and before.origin.layer != "default"):
        return {}
    has_options = is_called(table.kind, plugin)
    return {
        name: setting
        for name, setting in table.settings.items()
        if setting.origin.layer != "default" and (has_options or name == "on_error")
    }


def _merged(table: Any, path: Sequence[str], value: Any) -> Any:
    """Return a copy of ``table`` with ``value`` at ``path``."""
    if not path:
        return value
    inner = table if isinstance(table, Mapping) else {}
    return {**inner, path[0]: _merged(inner.get(path[0], {}), path[1:], value)}
