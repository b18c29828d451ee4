"""TOML and overrides -> one complete, frozen ``RunConfig`` in which each value knows its origin.

Values come in layers: defaults, then the file (or a mapping), then overrides. A later layer wins, key by key. A layer
that names another plugin for a table drops the options that earlier layers gave to the plugin before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from hookline.engine.config.layers import Item, Origin, Source, read_overrides, read_source, walk_keys, walk_mapping
from hookline.engine.config.run_config import OFF, SINGLE_KINDS, TABLES, PluginRules, RunConfig, Setting
from hookline.engine.config.toml_positions import MAX_FAULTS, KeyPath
from hookline.engine.errors import ConfigError, Fault, Location, PluginError
from hookline.engine.plugin.catalog import OWN_DISTRIBUTION, Catalog, Entry
from hookline.engine.plugin.member import OnError, PluginChoice
from hookline.engine.plugin.options import Option, options_of, shown
from hookline.engine.plugin.plugin import Plugin, as_faults, combined, is_called, load_plugin
from hookline.engine.plugin.requirements import unmet
from hookline.engine.train_options import TrainOptions
from hookline.engine.words import did_you_mean

_PLAIN = (bool, int, float, list, tuple, Mapping, type(None))


@dataclass(frozen=True)
class Named:
    """The plugins that a config names, none of them imported.

    Attributes:
        catalog: What is installed, as the rules of the config have it.
        entries: The plugins, by table.
        errors: Why others may not be used, or which plugin they are.
    """

    catalog: Catalog
    entries: Mapping[str, Entry]
    errors: tuple[PluginError, ...]


@dataclass
class _Table:
    """One table while layers are put together: the settings so far, by key within the table."""

    name: str
    settings: dict[str, Setting] = field(default_factory=dict)
    origin: Origin = field(default_factory=lambda: Origin("default"))
    header: Location | None = None


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

    The plugins that it names are imported, to know their options; no others.

    Args:
        source: A TOML file's path, a mapping of the same form, or None for the defaults alone.
        overrides: Values by dotted key, ``{"train.epochs": 5}``, or ``key=value`` words as on the command line.
        plugins: Objects instead of names, by table: ``{"model": net, "callbacks.mine": callback}``.
        defaults: More defaults, beneath the source and over hookline's own.
        switches: What options of a command stand for, between source and overrides: values by dotted key, by the
            option, ``{"--overfit": {"train.max_examples": 10}}``.
        catalog: The plugins that may be named; default: those installed.
        vet: Called with each plugin before it is imported; raises ``PluginError`` to refuse it.

    Raises:
        ConfigError: With every fault of the config.
        PluginError: When the config is right but a plugin that it names is not, or is refused by ``vet``.

    Example:
        >>> config = load_config({"optimizer": {"lr": 0.1}}, ["train.epochs=5"])
        >>> config.train.epochs, str(config.settings["optimizer.lr"].origin)
        (5, 'python')
    """
    build = _Assembly(catalog or Catalog.installed(), vet)
    build.add_layers(source, overrides, plugins or {}, defaults or {}, switches or {})
    return build.finish()


def named_entries(
    source: Source = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    defaults: Mapping[str, Any] | None = None,
    catalog: Catalog | None = None,
) -> Named:
    """Return the plugins that a config names, without importing any.

    Raises:
        ConfigError: With every fault that shows without knowing the plugins' options.
        PluginError: When what the config requires is not installed.
    """
    build = _Assembly(catalog or Catalog.installed())
    build.add_layers(source, overrides, {}, defaults or {}, {})
    return build.named()


# ---- putting the layers together -------------------------------------------------------------------------------------


class _Assembly:
    """The tables of a config while layers are added, and the faults found on the way."""

    def __init__(self, catalog: Catalog, vet: Callable[[Entry], None] | None = None) -> None:
        self.faults: list[Fault] = []
        self._catalog = catalog
        self._vet = vet
        self._plugin_errors: list[PluginError] = []
        self._tables = {name: _Table(name) for name in ("train", "plugins", *SINGLE_KINDS)}
        self._settings: dict[str, Setting] = {}
        self._unknown: set[str] = set()

    def add_layers(
        self,
        source: Source,
        overrides: Mapping[str, Any] | Sequence[str],
        plugins: Mapping[str, Any],
        defaults: Mapping[str, Any],
        switches: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Put all layers over the tables, each over the one before."""
        self._add(walk_mapping(self._catalog.default("run"), Origin("default")))
        self._add(walk_mapping(defaults, Origin("default", detail="this command")))
        self._add(read_source(source))
        self._add_objects(plugins)
        for option, values in switches.items():
            self._add(walk_keys(values, Origin(option)))
        self._add(read_overrides(overrides, self.faults))

    def _add(self, items: Iterable[Item]) -> None:
        """Put one layer over the tables."""
        placed = [(split, item) for item in items if (split := self._split(item))]
        for (label, _), item in placed:
            self._tables.setdefault(label, _Table(label, origin=item.origin, header=item.key_location))
        # The plugin's name first: a new one drops the options of the one before.
        for (label, key), item in sorted(placed, key=lambda pair: pair[0][1] != ("use",)):
            self._set(label, key, item)

    def _add_objects(self, plugins: Mapping[str, Any]) -> None:
        """Put objects in the place of named plugins."""
        for label, target in plugins.items():
            if label not in SINGLE_KINDS and not label.startswith("callbacks."):
                known = (*SINGLE_KINDS, "callbacks.NAME")
                self.faults.append(Fault(f"{label!r} is no table that takes a plugin", hint=did_you_mean(label, known)))
                continue
            self._tables.setdefault(label, _Table(label))
            self._set(label, ("use",), Item((label, "use"), target, Origin("python")))

    def finish(self) -> RunConfig:
        """Check every table, and return the whole.

        Raises:
            ConfigError: With every fault found since the beginning.
            PluginError: When plugins are the only fault.
        """
        rules = self._finish_rules(self._tables.pop("plugins"))
        train = self._finish_train(self._tables.pop("train"))
        choices = [choice for table in self._tables.values() if (choice := self._finish_plugin(table))]
        self._raise_faults()
        if self._plugin_errors:
            raise combined(self._plugin_errors)
        return RunConfig(train, rules, tuple(choices), MappingProxyType(self._settings))

    def named(self) -> Named:
        """Return the plugin of each table, with the catalog as the rules have it.

        Raises:
            ConfigError: With every fault found since the beginning.
        """
        self._finish_rules(self._tables.pop("plugins"))
        del self._tables["train"]
        uses = {label: table.settings.get("use") or self._implied_use(table) for label, table in self._tables.items()}
        found = {label: self._entry(label, use) for label, use in uses.items() if use and use.value != OFF}
        self._raise_faults()
        entries = {label: entry for label, entry in found.items() if entry}
        return Named(self._catalog, entries, tuple(self._plugin_errors))

    def _raise_faults(self) -> None:
        if self.faults:
            self.faults += [fault for error in self._plugin_errors for fault in as_faults(error)]
            count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults):,} faults"
            more = [Fault(f"and {len(self.faults) - MAX_FAULTS:,} more")] if len(self.faults) > MAX_FAULTS else []
            raise ConfigError(f"the configuration has {count}", faults=[*self.faults[:MAX_FAULTS], *more])

    def _split(self, item: Item) -> tuple[str, KeyPath] | None:
        """Return table and key of an item, () for a header; None, with a fault, if there is no such table."""
        path, value = item.path, item.value
        if path[0] not in TABLES:
            if path[0] not in self._unknown:
                self._unknown.add(path[0])
                is_option = path[0] in TrainOptions.__dataclass_fields__
                hint = f"did you mean 'train.{path[0]}'?" if is_option else did_you_mean(path[0], TABLES)
                self._fault(f"there is no table {shown(path[0])}", item, hint)
        elif path[0] == "callbacks":
            return self._split_callback(item)
        elif len(path) > 1:
            return path[0], path[1:]
        elif path[0] in SINGLE_KINDS and isinstance(value, str) and value:
            return path[0], ("use",)
        elif value == {}:
            return path[0], ()
        else:
            expected = "a plugin's name or a table" if path[0] in SINGLE_KINDS else "a table"
            self._fault(
                f"{path[0]!r} is {shown(value)}, but must be {expected}", item, f"write [{path[0]}] above its keys"
            )
        return None

    def _split_callback(self, item: Item) -> tuple[str, KeyPath] | None:
        path, value = item.path, item.value
        if len(path) == 1:
            if value != {}:
                self._fault(
                    f"'callbacks' is {shown(value)}, but must be a table of tables", item, "write [callbacks.NAME]"
                )
            return None
        label = f"callbacks.{path[1]}"
        if len(path) > 2:
            return label, path[2:]
        if isinstance(value, str) and value:
            return label, ("use",)
        if value == {}:
            return label, ()
        self._fault(f"{label!r} is {shown(value)}, but must be a table, a plugin's name or {OFF!r}", item)
        return None

    def _set(self, label: str, key: KeyPath, item: Item) -> None:
        value, origin, key_location = item.value, item.origin, item.key_location
        table = self._tables[label]
        if not key:
            table.origin, table.header = origin, key_location or table.header
            return
        name, *rest = key
        before = table.settings.get(name)
        former = before.value if before else _own_name(label)
        # Two names can be the same; objects are never compared.
        if name == "use" and not (isinstance(value, str) and isinstance(former, str) and value == former):
            table.settings = _kept(table, before, value)
        # A key within an option that is a table changes that table.
        value = _merged(before.value if before else {}, rest, value)
        table.settings[name] = Setting(f"{label}.{name}", value, origin, before, key_location)

    def _finish_rules(self, table: _Table) -> PluginRules:
        """Apply the rules to the catalog. Where they are wrong or not met nothing else is looked at, nor imported."""
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
                self._fault_at(f"'plugins.require': {error}", location)
        if len(self.faults) > num_before:
            self._raise_faults()
        if missing:
            raise PluginError("what the config requires is not installed", faults=missing)
        rules = PluginRules(**values)
        allow = None if rules.allow == "all" else rules.allow
        self._catalog = self._catalog.restricted(allow=allow, deny=rules.deny, by="plugins.{}")
        return rules

    def _finish_train(self, table: _Table) -> TrainOptions:
        values = self._convert(table, options_of(TrainOptions), "the loop")
        return TrainOptions(**values) if not self.faults else TrainOptions()

    def _finish_plugin(self, table: _Table) -> PluginChoice | None:
        use = table.settings.pop("use", None) or self._implied_use(table)
        if use is not None and use.value == OFF and table.name in SINGLE_KINDS:
            self._fault_at(f"{table.name!r} cannot be {OFF!r}: a run needs one", use.origin.location)
        if use is None:
            return None
        if use.value == OFF:
            self._settings[use.key] = use
            return None
        plugin = self._find(table, use)
        if plugin is None:
            return None
        self._settings[use.key] = use if isinstance(use.value, str) else replace(use, value=plugin.name)
        location = use.origin.location or table.header
        on_error = self._finish_on_error(table, plugin) if plugin.kind == "callback" else "fail"
        options = MappingProxyType(self._plugin_options(table, plugin, location))
        return PluginChoice(table.name, plugin, options, location, on_error)

    def _finish_on_error(self, table: _Table, plugin: Plugin) -> OnError:
        setting = table.settings.pop("on_error", None)
        key = f"{table.name}.on_error"
        self._settings[key] = setting or Setting(key, "fail", Origin("default", detail="the loop"))
        if setting is None or setting.value == "fail":
            return "fail"
        build_hooks = [hook for hook in plugin.hooks if hook.startswith("build_")]
        if setting.value != "warn":
            self._fault_at(
                f"{key!r} is {shown(setting.value)}, but must be one of 'fail', 'warn'", setting.origin.location
            )
        elif build_hooks:
            message = f"{key!r} is 'warn', which is for callbacks that only observe; {plugin} has {build_hooks[0]!r}"
            self._fault_at(message, setting.origin.location, "take the key away, or set it to 'fail'")
        return "warn"

    def _plugin_options(self, table: _Table, plugin: Plugin, location: Location | None) -> dict[str, Any]:
        try:
            options = plugin.options
        except PluginError as error:
            self._plugin_errors.append(error)
            return {}
        return self._convert(table, options, str(plugin), location)

    def _implied_use(self, table: _Table) -> Setting | None:
        name = _own_name(table.name)
        if name is None:
            self.faults.append(Fault(f"no plugin is named for {table.name!r}", table.header, "give it a key 'use'"))
            return None
        origin = replace(table.origin, location=table.header)
        return Setting(f"{table.name}.use", name, origin, key_location=table.header)

    def _find(self, table: _Table, use: Setting) -> Plugin | None:
        kind = _kind_of(table.name)
        if not isinstance(use.value, str):
            if use.origin.layer == "python" and not isinstance(use.value, _PLAIN):
                return Plugin(kind, getattr(use.value, "__name__", type(use.value).__name__), use.value)
            self._fault_at(f"{use.key!r} is {shown(use.value)}, but must be a plugin's name", use.origin.location)
            return None
        entry = self._entry(table.name, use)
        try:
            return self._load(entry) if entry else None
        except PluginError as error:
            self._plugin_errors.append(error)
            return None

    def _entry(self, label: str, use: Setting) -> Entry | None:
        """Return the plugin that a name means; None, with a fault, if there is none."""
        kind, name = _kind_of(label), str(use.value)
        location = use.origin.location or use.key_location
        own_name = f"{OWN_DISTRIBUTION}/{name}"
        if use.origin.layer == "default" and any(own_name == e.qualified_name for e in self._catalog.of_kind(kind)):
            name = own_name  # whatever else is installed under this name, a default stays what it is
        try:
            return self._catalog.find(kind, name)
        except LookupError as error:
            self._fault_at(f"no {kind} plugin named {shown(name)} is installed", location, str(error))
        except PluginError as error:
            error.faults = (Fault("named here", location),) if location else ()
            self._plugin_errors.append(error)
        return None

    def _load(self, entry: Entry) -> Plugin:
        if self._vet:
            self._vet(entry)
        return load_plugin(entry)

    def _convert(
        self, table: _Table, options: Sequence[Option], owner: str, location: Location | None = None
    ) -> dict[str, Any]:
        """Return the value of each option, of its type; unknown, wrong and missing ones become faults."""
        known = {option.name: option for option in options}
        for name, setting in table.settings.items():
            if name not in known:
                hint = did_you_mean(name, known) if known else f"{owner} has no options"
                hint = self._catalog.moved(setting.key) or hint
                self._fault_at(
                    f"unknown key {shown(setting.key)}: {owner} has no such option", setting.key_location, hint
                )
        values: dict[str, Any] = {}
        for option in options:
            key = f"{table.name}.{option.name}"
            given = table.settings.get(option.name)
            if given is None and option.is_required:
                hint = f"it takes {option.expected}: {option.description}".rstrip(": ")
                self._fault_at(f"{key!r} is missing: {owner} needs it", location or table.header, hint)
                continue
            setting = given or Setting(key, option.default, Origin("default", detail=owner))
            self._settings[key] = setting
            self._convert_one(option, setting, values)
        return values

    def _convert_one(self, option: Option, setting: Setting, values: dict[str, Any]) -> None:
        if setting.origin.layer == "default" and setting.value is option.default:
            values[option.name] = option.default
            return
        try:
            values[option.name] = option.convert(setting.value, setting.origin.folder)
        except ValueError as error:
            self._fault_at(f"{setting.key!r}: {error}", setting.origin.location)

    def _fault(self, message: str, item: Item, hint: str | None = None) -> None:
        self._fault_at(message, item.key_location or item.origin.location, hint)

    def _fault_at(self, message: str, location: Location | None, hint: str | None = None) -> None:
        self.faults.append(Fault(message, location, hint))


def _kept(table: _Table, before: Setting | None, plugin: Any) -> dict[str, Setting]:
    """Return the settings that stay when a table gets another plugin: those meant for an object given from Python."""
    if isinstance(plugin, str) or (before and before.origin.layer != "default"):
        return {}
    has_options = is_called(_kind_of(table.name), plugin)
    return {
        name: setting
        for name, setting in table.settings.items()
        if setting.origin.layer != "default" and (has_options or name == "on_error")
    }


def _kind_of(label: str) -> str:
    return label if label in SINGLE_KINDS else "callback"


def _own_name(label: str) -> str | None:
    """Return the plugin that a callback's table means by its own name."""
    return label.removeprefix("callbacks.") if label.startswith("callbacks.") else None


def _merged(table: Any, path: Sequence[str], value: Any) -> Any:
    """Return ``table`` with ``value`` at ``path``, copied along the way."""
    if not path:
        return value
    inner = table if isinstance(table, Mapping) else {}
    return {**inner, path[0]: _merged(inner.get(path[0], {}), path[1:], value)}
