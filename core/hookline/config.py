"""TOML and overrides -> one complete, frozen ``RunConfig`` in which each value knows its origin.

Values come in layers: defaults, then the file (or a mapping), then overrides. A later layer wins, key by key. A layer
that names another plugin for a table drops the options that earlier layers gave to the plugin before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from msgspec import Meta

from hookline import toml_text
from hookline.catalog import KINDS, AmbiguousNameError, Catalog
from hookline.errors import ConfigError, Fault, HooklineError, Location, PluginError, did_you_mean
from hookline.options import Option, options_of, plain
from hookline.plugin import Plugin, load_plugin

SINGLE_KINDS = tuple(kind for kind in KINDS if kind != "callback")
"""The kinds of which a run has exactly one plugin; each has a table of its own name."""

TABLES = ("train", *SINGLE_KINDS, "callbacks")
OFF = "off"
"""What switches a callback off: ``callbacks.best=off``."""

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class TrainOptions:
    """The loop's own options: the table ``[train]``.

    The defaults of ``epochs`` and ``batch_size`` are those of the linear regression in Zhang et al., *Dive into Deep
    Learning*, section 3.5.
    """

    epochs: Annotated[int, Meta(ge=0, description="how often the training data are gone through")] = 3
    batch_size: (
        Annotated[int, Meta(ge=1, description="examples in a step; 'all' puts all into one")] | Literal["all"]
    ) = 10
    shuffle: Annotated[bool, Meta(description="whether each epoch has an order of its own")] = True
    seed: Annotated[int, Meta(ge=0, description="where all random numbers of the run come from")] = 0
    dtype: Annotated[
        Literal["float32", "float64"], Meta(description="type of the weights and of all floating-point data")
    ] = "float32"
    evaluate: Annotated[
        tuple[Split, ...],
        Meta(description="splits to evaluate after each epoch; those that the data lack are left out"),
    ] = ("train", "validation")
    eval_batch_size: Annotated[
        int, Meta(ge=1, description="examples in a batch of an evaluation; bounds the memory that it takes")
    ] = 1024


@dataclass(frozen=True)
class Origin:
    """Where a value comes from.

    Attributes:
        layer: ``default``, ``file``, ``command line`` or ``python``.
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
class Setting:
    """A value with its key, its origin, and what it overrode.

    Attributes:
        key: The full key, ``optimizer.lr``.
        value: The value.
        origin: Where it comes from.
        overrode: The setting that an earlier layer had for this key.
        key_location: Where the key stands.
    """

    key: str
    value: Any
    origin: Origin
    overrode: Setting | None = None
    key_location: Location | None = None


@dataclass(frozen=True)
class PluginChoice:
    """A plugin that the run names, with all its options.

    Attributes:
        label: Its table: ``model``, ``callbacks.best``.
        plugin: The plugin.
        options: The value of each option, of the option's type.
        location: Where the choice was made, to point at.
    """

    label: str
    plugin: Plugin
    options: Mapping[str, Any]
    location: Location | None = None


@dataclass(frozen=True)
class RunConfig:
    """A complete run: every option has a value of its type, and every value an origin.

    Attributes:
        train: The loop's own options.
        plugins: Data, model, loss, optimizer, then the callbacks in their order.
        settings: Every value by its full key, with its origin, in the order of the tables.
    """

    train: TrainOptions
    plugins: tuple[PluginChoice, ...]
    settings: Mapping[str, Setting] = field(repr=False)


@dataclass
class _Table:
    """One table while layers are put together: the settings so far, by key within the table."""

    label: str
    settings: dict[str, Setting] = field(default_factory=dict)
    origin: Origin = field(default_factory=lambda: Origin("default"))
    header: Location | None = None


Source = Mapping[str, Any] | str | os.PathLike[str] | None


def load_config(
    source: Source = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    plugins: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    catalog: Catalog | None = None,
) -> RunConfig:
    """Return the complete config of a run.

    The plugins that it names are imported, to know their options; no others.

    Args:
        source: A TOML file's path, a mapping of the same form, or None for the defaults alone.
        overrides: Values by dotted key, ``{"train.epochs": 5}``, or ``key=value`` words as on the command line.
        plugins: Objects instead of names, by table: ``{"model": net, "callbacks.mine": callback}``.
        defaults: More defaults, beneath the source and over hookline's own.
        catalog: The plugins that may be named; default: those installed.

    Raises:
        ConfigError: With every fault of the config.
        PluginError: When the config is right but a plugin that it names is not.

    Example:
        >>> config = load_config({"optimizer": {"lr": 0.1}}, ["train.epochs=5"])
        >>> config.train.epochs, str(config.settings["optimizer.lr"].origin)
        (5, 'python')
    """
    catalog = catalog or Catalog.installed()
    build = _Assembly(catalog)
    build.add(_walk_mapping(catalog.default("run"), Origin("default")))
    build.add(_walk_mapping(defaults or {}, Origin("default", detail="this command")))
    build.add(_read_source(source))
    build.add(_read_overrides(overrides, build.faults))
    build.add_objects(plugins or {})
    return build.finish()


# ---- layers: (key path, value, origin, place of the key) -------------------------------------------------------------

_Item = tuple[tuple[str, ...], Any, Origin, Location | None]


def _read_source(source: Source) -> list[_Item]:
    if source is None:
        return []
    if isinstance(source, Mapping):
        return _walk_mapping(source, Origin("python"))
    path = Path(source)
    document = toml_text.read_file(path)
    return list(_walk_document(document, path.parent))


def _walk_mapping(values: Mapping[str, Any], origin: Origin) -> list[_Item]:
    return [(path, value, origin, None) for path, value in _leaves(values, ())]


def _walk_document(document: toml_text.Document, folder: Path) -> Iterator[_Item]:
    for path, value in _leaves(document.values, ()):
        place = document.places.get(path)
        location = place.value if place else None
        yield path, value, Origin("file", location, folder=folder), place.key if place else None


def _leaves(values: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give every value that is an option's, and every table that is empty; tables within options stay whole."""
    for name, value in values.items():
        here = (*path, str(name))
        depth = 3 if here[0] == "callbacks" else 2
        if isinstance(value, Mapping) and len(here) < depth:
            yield here, {}
            yield from _leaves(value, here)
        else:
            yield here, plain(value)


def _read_overrides(overrides: Mapping[str, Any] | Sequence[str], faults: list[Fault]) -> list[_Item]:
    if isinstance(overrides, Mapping):
        items = [(tuple(key.split(".")), value) for key, value in overrides.items()]
        return [(path, value, Origin("python"), None) for path, value in items]
    return [item for word in overrides if (item := _read_override(word, faults))]


def _read_override(word: str, faults: list[Fault]) -> _Item | None:
    key, equals, text = word.partition("=")
    whole = Location("command line", text=word, width=len(word))
    if not equals or not all(key.split(".")):
        hint = "write KEY=VALUE, for example train.epochs=5"
        faults.append(Fault(f"{word!r} is not an override", whole, hint))
        return None
    location = Location("command line", column=len(key) + 2, text=word, width=max(len(text), 1))
    try:
        value = toml_text.parse_value(text)
    except ValueError as error:
        faults.append(Fault(f"the value of {key!r} cannot be read: {error}", location, "quote text: key='\"...\"'"))
        return None
    return tuple(key.split(".")), value, Origin("command line", location), replace(whole, width=len(key))


# ---- putting the layers together -------------------------------------------------------------------------------------


class _Assembly:
    """The tables of a config while layers are added, and the faults found on the way."""

    def __init__(self, catalog: Catalog) -> None:
        self.faults: list[Fault] = []
        self._catalog = catalog
        self._plugin_errors: list[PluginError] = []
        self._tables = {name: _Table(name) for name in ("train", *SINGLE_KINDS)}
        self._settings: dict[str, Setting] = {}

    def add(self, items: Iterable[_Item]) -> None:
        """Put one layer over the tables."""
        placed = [(split, item) for item in items if (split := self._split(item))]
        for (label, _), item in placed:
            self._tables.setdefault(label, _Table(label, origin=item[2], header=item[3]))
        # The plugin's name first: a new one drops the options of the one before.
        for (label, key), item in sorted(placed, key=lambda pair: pair[0][1] != "use"):
            self._set(label, key, item)

    def add_objects(self, plugins: Mapping[str, Any]) -> None:
        """Put objects in the place of named plugins."""
        for label, target in plugins.items():
            if label not in SINGLE_KINDS and not label.startswith("callbacks."):
                known = (*SINGLE_KINDS, "callbacks.NAME")
                self.faults.append(Fault(f"{label!r} is no table that takes a plugin", hint=did_you_mean(label, known)))
                continue
            self._tables.setdefault(label, _Table(label))
            self._set(label, "use", ((label, "use"), target, Origin("python"), None))

    def finish(self) -> RunConfig:
        """Check every table, and return the whole.

        Raises:
            ConfigError: With every fault found since the beginning.
            PluginError: When plugins are the only fault.
        """
        train = self._finish_train(self._tables.pop("train"))
        choices = [choice for table in self._tables.values() if (choice := self._finish_plugin(table))]
        if self.faults:
            self.faults += [_as_fault(error) for error in self._plugin_errors]
            count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
            raise ConfigError(f"the configuration has {count}", faults=self.faults)
        if self._plugin_errors:
            raise _combined(self._plugin_errors)
        return RunConfig(train, tuple(choices), MappingProxyType(self._settings))

    def _split(self, item: _Item) -> tuple[str, str] | None:
        """Return table and key of an item; None, with a fault, if there can be no such table."""
        path, value, _, _ = item
        if path[0] not in TABLES:
            self._fault(f"there is no table {path[0]!r}", item, did_you_mean(path[0], TABLES))
        elif path[0] == "callbacks":
            return self._split_callback(item)
        elif len(path) > 1:
            return path[0], ".".join(path[1:])
        elif path[0] in SINGLE_KINDS and isinstance(value, str) and value:
            return path[0], "use"
        elif value == {}:
            return path[0], ""
        else:
            expected = "a table" if path[0] == "train" else "a plugin's name or a table"
            self._fault(f"{path[0]!r} is {value!r}, but must be {expected}", item, f"write [{path[0]}] above its keys")
        return None

    def _split_callback(self, item: _Item) -> tuple[str, str] | None:
        path, value, _, _ = item
        if len(path) == 1:
            if value != {}:
                self._fault(f"'callbacks' is {value!r}, but must be a table of tables", item, "write [callbacks.NAME]")
            return None
        label = f"callbacks.{path[1]}"
        if len(path) > 2:
            return label, ".".join(path[2:])
        if isinstance(value, str) and value:
            return label, "use"
        if value == {}:
            return label, ""
        self._fault(f"{label!r} is {value!r}, but must be a table, a plugin's name or {OFF!r}", item)
        return None

    def _set(self, label: str, key: str, item: _Item) -> None:
        _, value, origin, key_location = item
        table = self._tables[label]
        if key == "":
            table.origin, table.header = origin, key_location or table.header
            return
        before = table.settings.get(key)
        if key == "use" and label != "train" and (before.value if before else _own_name(label)) != value:
            table.settings.clear()
        name, dot, rest = key.partition(".")
        if dot:
            # A key within an option that is a table changes that table.
            before = table.settings.get(name)
            value = _merged(before.value if before else {}, rest.split("."), value)
        table.settings[name] = Setting(f"{label}.{name}", value, origin, before, key_location)

    def _finish_train(self, table: _Table) -> TrainOptions:
        values = self._convert(table, options_of(TrainOptions), "the loop")
        return TrainOptions(**values) if not self.faults else TrainOptions()

    def _finish_plugin(self, table: _Table) -> PluginChoice | None:
        use = table.settings.pop("use", None) or self._implied_use(table)
        if use is None or use.value == OFF:
            return None
        plugin = self._find(table, use)
        if plugin is None:
            return None
        self._settings[use.key] = replace(use, value=plugin.name)
        location = use.origin.location or table.header
        return PluginChoice(table.label, plugin, self._plugin_options(table, plugin, location), location)

    def _plugin_options(self, table: _Table, plugin: Plugin, location: Location | None) -> dict[str, Any]:
        try:
            options = plugin.options
        except PluginError as error:
            self._plugin_errors.append(error)
            return {}
        return self._convert(table, options, str(plugin), location)

    def _implied_use(self, table: _Table) -> Setting | None:
        name = _own_name(table.label)
        if name is None:
            self.faults.append(Fault(f"no plugin is named for {table.label!r}", table.header, "give it a key 'use'"))
            return None
        origin = replace(table.origin, location=table.header)
        return Setting(f"{table.label}.use", name, origin, key_location=table.header)

    def _find(self, table: _Table, use: Setting) -> Plugin | None:
        kind = table.label if table.label in SINGLE_KINDS else "callback"
        if not isinstance(use.value, str):
            if use.origin.layer == "python" and not isinstance(use.value, int | float | list):
                return Plugin(kind, type(use.value).__name__, use.value)
            self._fault_at(f"'{use.key}' is {use.value!r}, but must be a plugin's name", use.origin.location)
            return None
        try:
            return load_plugin(self._catalog.find(kind, use.value))
        except LookupError as error:
            location = use.origin.location or use.key_location
            self._fault_at(f"no {kind} plugin named {use.value!r} is installed", location, str(error))
        except AmbiguousNameError as error:
            fault = Fault(error.message, use.origin.location, error.hint)
            self._plugin_errors.append(PluginError("a plugin's name is ambiguous", plugin=error.plugin, faults=[fault]))
        except PluginError as error:
            self._plugin_errors.append(error)
        return None

    def _convert(
        self, table: _Table, options: Sequence[Option], owner: str, location: Location | None = None
    ) -> dict[str, Any]:
        """Return the value of each option, of its type; unknown, wrong and missing ones become faults."""
        known = {option.name: option for option in options}
        for name, setting in table.settings.items():
            if name not in known:
                hint = did_you_mean(name, known) if known else f"{owner} has no options"
                self._fault_at(f"unknown key {setting.key!r}: {owner} has no such option", setting.key_location, hint)
        values: dict[str, Any] = {}
        for option in options:
            key = f"{table.label}.{option.name}"
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

    def _fault(self, message: str, item: _Item, hint: str | None = None) -> None:
        self._fault_at(message, item[3] or item[2].location, hint)

    def _fault_at(self, message: str, location: Location | None, hint: str | None = None) -> None:
        self.faults.append(Fault(message, location, hint))


def _own_name(label: str) -> str | None:
    """Return the plugin that a callback's table means by its own name."""
    return label.removeprefix("callbacks.") if label.startswith("callbacks.") else None


def _merged(table: Any, path: Sequence[str], value: Any) -> Any:
    """Return ``table`` with ``value`` at ``path``, copied along the way."""
    if not path:
        return value
    inner = table if isinstance(table, Mapping) else {}
    return {**inner, path[0]: _merged(inner.get(path[0], {}), path[1:], value)}


def _as_fault(error: HooklineError) -> Fault:
    return error.faults[0] if error.faults else Fault(error.message, hint=error.hint)


def _combined(errors: Sequence[PluginError]) -> PluginError:
    if len(errors) == 1:
        return errors[0]
    first = errors[0]
    return PluginError(
        f"{len(errors)} plugins cannot be used",
        plugin=first.plugin,
        distribution=first.distribution,
        version=first.version,
        faults=[_as_fault(error) for error in errors],
    )
