"""Load a complete, frozen ``RunConfig``, in which each value has its origin, from TOML and overrides.

Values come in layers: defaults, then the files that the config extends, then itself (a file or a mapping), then
overrides. A later layer wins, key by key. A layer that names another plugin for a table discards the options that
earlier layers gave to the previous plugin. References are replaced when all layers are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hookline.config.family import EXTENDS
from hookline.config.layers import Item, Source, read_overrides, read_source, walk_keys, walk_mapping
from hookline.config.plugins.catalog import OWN_DISTRIBUTION, Catalog, Entry
from hookline.config.plugins.choice import OnError, PluginChoice
from hookline.config.plugins.options import Option, options_of, shown
from hookline.config.plugins.plugin import Plugin, as_faults, combined, is_called, load_plugin
from hookline.config.plugins.requirements import unmet
from hookline.config.references import NO_VALUE, References
from hookline.config.run_config import (
    OFF,
    OPTIONAL_KINDS,
    SINGLE_KINDS,
    TABLES,
    Origin,
    PluginRules,
    RunConfig,
    Setting,
    has_path,
)
from hookline.config.toml_positions import MAX_DEPTH, MAX_FAULTS, KeyPath
from hookline.engine.errors import ConfigError, Fault, Location, PluginError
from hookline.engine.read_only import ReadOnly
from hookline.engine.train_options import TrainOptions
from hookline.engine.words import did_you_mean, shortened

if TYPE_CHECKING:
    from hookline.config.plugins.index import Index

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
        use: The setting that names its plugin; None after a fault.
        plugin: The plugin; None before it is found, if it is off, and after a fault.
        options: The options that it can have.
        owner: Their owner, in words.
        faults: The faults found with its plugin, to be reported with those of its options.
    """

    name: str
    settings: dict[str, Setting] = field(default_factory=dict)
    origin: Origin = field(default_factory=lambda: Origin("default"))
    header: Location | None = None
    use: Setting | None = None
    plugin: Plugin | None = None
    options: Sequence[Option] = ()
    owner: str = ""
    faults: list[Fault] = field(default_factory=list)

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


def load_choice(
    kind: str,
    name: str,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    catalog: Catalog | None = None,
    vet: Callable[[Entry], None] | None = None,
) -> PluginChoice:
    """Return a plugin that is no part of a run, such as an export format, with its options.

    Args:
        kind: Its kind, with which the keys of its options begin.
        name: Its name.
        overrides: The options by dotted key, ``{"export.bare": True}``, or ``key=value`` words.
        catalog: The plugins that may be named; default: those installed.
        vet: As for ``load_config``.

    Raises:
        ConfigError: With every fault of the options, or when there is no such plugin.
        PluginError: When it may not be used, is ambiguous, or cannot be imported.
    """
    return _Assembly(catalog or Catalog.installed()).finish_alone(kind, name, overrides, vet or (lambda _: None))


class _Assembly:
    """The tables of a config while layers are added, and the faults found so far."""

    def __init__(self, catalog: Catalog) -> None:
        self.faults: list[Fault] = []
        self._catalog = catalog
        self._plugin_errors: list[PluginError] = []
        self._tables = {name: _Table(name) for name in ("train", "plugins", *SINGLE_KINDS)}
        self._settings: dict[str, Setting] = {}
        self._unknown: dict[str, int] = {}  # numbers of their faults, which get a hint at the end
        self._secrets: set[str] = set()
        self._secret_lines: set[str | None] = set()
        self._references = References(self.faults)

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
        of_commands = self._catalog.default("tables")
        for layer in read_source(source):
            self._add(item for item in layer if item.path[0] not in of_commands)
        self._add(item for label, target in plugins.items() if (item := self._object(label, target)))
        for option, values in switches.items():
            self._add(walk_keys(values, Origin(option)))
        self._add(read_overrides(overrides, self.faults))
        for table in self._tables.values():
            self._refer_to(table)
        self._learn(self._tables["train"], options_of(TrainOptions), "the loop")

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
            if path[0] == EXTENDS:
                self._fault(f"only a config file or a mapping can have {EXTENDS!r}", item.location)
            elif path[0] not in self._unknown:
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
        train = self._tables.pop("train")
        tables = self._chosen_by_name()
        for table in tables:
            self._find_plugin(table, vet)
        self._replace_all_references()
        options = self._convert(train)
        choices = [choice for table in tables if (choice := self._finish_plugin(table))]
        self._raise_faults(choices)
        if self._plugin_errors:
            raise combined(self._plugin_errors)
        base = self._catalog.default("hooks")
        return RunConfig(TrainOptions(**options), rules, tuple(choices), ReadOnly(self._settings), base)

    def finish_alone(
        self, kind: str, name: str, overrides: Mapping[str, Any] | Sequence[str], vet: Callable[[Entry], None]
    ) -> PluginChoice:
        """Return the plugin with a name and its options, all of whose keys begin with its kind.

        Raises:
            ConfigError: With every fault found.
            PluginError: When the plugin is the only fault.
        """
        table = _Table(kind)
        table.settings["use"] = Setting(f"{kind}.use", name, Origin("python"))
        for item in read_overrides(overrides, self.faults):
            if item.path[0] != kind or len(item.path) < 2:
                self._fault(f"unknown key {shown(item.path[0])}", item.location, f"its options are {kind}.NAME=VALUE")
            self._set(table, item.path[1:], item)
        self._refer_to(table)
        self._find_plugin(table, vet)
        self._replace_all_references()
        choice = self._finish_plugin(table)
        self._raise_faults([choice] if choice else [])
        if choice is None:
            raise combined(self._plugin_errors)
        return choice

    def named(self) -> Named:
        """Return the plugin of each table, and the catalog restricted by the rules.

        Raises:
            ConfigError: With every fault found.
        """
        self._finish_rules(self._tables.pop("plugins"))
        del self._tables["train"]
        uses = {table.name: (table, use) for table in self._chosen_by_name() if (use := self._use(table))}
        found = {label: self._entry(table, use) for label, (table, use) in uses.items() if use.value != OFF}
        self._raise_faults()
        entries = {label: entry for label, entry in found.items() if entry}
        return Named(self._catalog, entries, tuple(self._plugin_errors))

    def _chosen_by_name(self) -> list[_Table]:
        """Return the tables of plugins, without an optional one that no layer mentions; their names are complete."""
        tables = [table for name, table in self._tables.items() if table.settings or name not in OPTIONAL_KINDS]
        self._references.replace(table.settings["use"].key for table in tables if "use" in table.settings)
        return tables

    def _refer_to(self, table: _Table) -> None:
        """Make the settings of a table known to references."""
        self._references.settings |= {setting.key: setting for setting in table.settings.values()}

    def _replace_all_references(self) -> None:
        self._references.has_options = True
        self._references.replace([*self._references.settings])

    def _learn(self, table: _Table, options: Sequence[Option], owner: str) -> None:
        """Set the options that a table can have, and make their defaults known to references."""
        table.options, table.owner = options, owner
        keys = {f"{table.name}.{option.name}": option for option in options}
        self._secrets |= {key for key, option in keys.items() if option.is_secret}
        self._references.settings |= {
            key: Setting(key, option.default, Origin("default", detail=owner))
            for key, option in keys.items()
            if key not in self._references.settings
        }

    def _raise_faults(self, choices: Iterable[PluginChoice] = ()) -> None:
        known = {name: f"{choice.table}.{name}" for choice in choices for name in choice.options}
        known |= {name: f"train.{name}" for name in TrainOptions.__dataclass_fields__}
        for name, number in self._unknown.items():
            tables = (*TABLES, EXTENDS, *self._catalog.default("tables"))
            meant = f"did you mean {known[name]!r}?" if name in known else did_you_mean(name, tables)
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
        self._learn(table, options_of(PluginRules), "[plugins]")
        self._references.replace(setting.key for setting in table.settings.values())
        values = self._convert(table)
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

    def _find_plugin(self, table: _Table, vet: Callable[[Entry], None]) -> None:
        """Find the plugin of a table, and make its options known to references."""
        num_before = len(self.faults)
        use = table.use = self._use(table)
        if use and use.value == OFF and table.kind not in ("callback", *OPTIONAL_KINDS):
            self._fault(f"{table.name!r} cannot be {OFF!r}: every run needs one", use.origin.location)
        elif use and use.value != OFF:
            try:
                table.plugin = self._find(table, use, vet)
            except PluginError as error:
                self._plugin_errors.append(error)
        if table.plugin:
            self._learn(table, table.plugin.options, str(table.plugin))
            if table.kind == "callback":
                on_error = Setting(f"{table.name}.on_error", "fail", Origin("default", detail="the loop"))
                self._references.settings.setdefault(on_error.key, on_error)
        elif not use or use.value != OFF:
            self._references.unclear.add(table.name)
        if use and table.plugin and not isinstance(use.value, str):
            use = table.use = replace(use, value=table.plugin.name)
        if use:
            self._references.settings[use.key] = use
        table.faults = self.faults[num_before:]
        del self.faults[num_before:]

    def _finish_plugin(self, table: _Table) -> PluginChoice | None:
        use, plugin = table.use, table.plugin
        self.faults += table.faults
        if use and (plugin or use.value == OFF):
            self._settings[use.key] = use
        if not use or not plugin:
            return None
        location = use.origin.location or table.header
        on_error = self._finish_on_error(table, plugin) if plugin.kind == "callback" else "fail"
        return PluginChoice(table.name, plugin, ReadOnly(self._convert(table, location)), location, on_error)

    def _finish_on_error(self, table: _Table, plugin: Plugin) -> OnError:
        key = f"{table.name}.on_error"
        table.settings.pop("on_error", None)
        self._settings[key] = setting = self._references.settings[key]
        if setting.value in ("fail", NO_VALUE):
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
            setting = self._references.settings[setting.key]
            return None if setting.value is NO_VALUE else setting
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

    @cached_property
    def _index(self) -> Index:
        from hookline.config.plugins.index import read_index  # most runs never ask

        return read_index(self._catalog)

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
            hint = "\n  = ".join((str(error), *self._index.hints(kind, name)))
            self._fault(f"no {kind} plugin named {shown(name)} is installed", location, hint)
        except PluginError as error:
            error.faults = (Fault("named here", location),) if location else ()
            self._plugin_errors.append(error)
        return None

    def _convert(self, table: _Table, location: Location | None = None) -> dict[str, Any]:
        """Return the converted value of each option; unknown, invalid and missing ones become faults."""
        owner, known = table.owner, {option.name: option for option in table.options}
        for name, setting in table.settings.items():
            if name not in known:
                hint = did_you_mean(name, known) if known else f"{owner} has no options"
                hint = self._catalog.moved(setting.key) or hint
                if name == EXTENDS:
                    hint = f"write {EXTENDS!r} above the first table"
                message = f"unknown key {shown(setting.key)}: {owner} has no such option"
                self._fault(message, setting.key_location, hint)
        values: dict[str, Any] = {}
        for name, option in known.items():
            setting = self._references.settings[f"{table.name}.{name}"]
            if name not in table.settings and option.is_required:
                hint = _expected(option, table.name, owner)
                self._fault(f"{setting.key!r} is missing: {owner} requires it", location or table.header, hint)
                continue
            self._settings[setting.key] = setting
            if option.is_secret:
                origins = [setting.origin, *(origin for _, origin in setting.origin.references)]
                self._secret_lines |= {origin.location.text for origin in origins if origin.location}
            if option.is_from_user:
                self._check_giver(setting)
            if setting.value is NO_VALUE:
                continue
            try:
                values[name] = _converted(setting, option) if name in table.settings else option.default
            except ValueError as error:
                self._refuse(setting, str(error))
        return values

    def _refuse(self, setting: Setting, problem: str) -> None:
        """Add the fault of a value that an option does not take, with the places of what references put into it."""
        references = setting.origin.references
        if any(key in self._secrets for key, _ in references):
            problem = f"{problem.partition(', got ')[0]}, got a secret that is not"
        places = [f"${{{shortened(key)}}} is from {origin.location or origin}" for key, origin in references]
        self._fault(f"{setting.key!r}: {problem}", setting.origin.location, "; ".join(places[:MAX_DEPTH]) or None)

    def _check_giver(self, setting: Setting | None) -> None:
        """Check that no file sets an option, nor a part of it."""
        while setting:
            if "file" in (setting.origin.layer, *(origin.layer for _, origin in setting.origin.references)):
                message = f"{setting.key!r} cannot be set in a file, which somebody else may have written"
                hint = f"set it where the run is started: {setting.key}=VALUE on the command line, or from Python"
                self._fault(message, setting.key_location or setting.origin.location, hint)
            setting = setting.overrode

    def _fault(self, message: str, location: Location | None = None, hint: str | None = None) -> None:
        self.faults.append(Fault(message, location, hint))


def _expected(option: Option, table: str, owner: str) -> str:
    """Return what to give for a missing option, or what the function that has it as a parameter seems to be."""
    if table == "loss" and owner.endswith("(given from Python)"):
        return "a function that is itself the loss has the parameters prediction and target"
    return f"it takes {option.expected}: {option.description}".rstrip(": ")


def _converted(setting: Setting, option: Option) -> Any:
    """Return the value of a setting as that of an option; raise ``ValueError`` if the option does not take it."""
    value = option.convert(setting.value, setting.origin.folder)
    if setting.origin.has_folders and has_path(value):
        raise ValueError("its relative paths start in different folders: write them in full")
    return value


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
