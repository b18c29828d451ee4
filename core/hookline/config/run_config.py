"""``RunConfig``: the complete config of a run, in which each value has its origin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from hookline.config.plugins.catalog import KINDS
from hookline.config.plugins.choice import PluginChoice, make_members
from hookline.config.plugins.options import is_plain, lasting
from hookline.config.toml_positions import KeyPath
from hookline.engine.errors import Location
from hookline.engine.plugin.member import Member
from hookline.engine.result import Shown
from hookline.engine.train_options import TrainOptions
from hookline.engine.words import printable

SINGLE_KINDS = tuple(kind for kind in KINDS if kind != "callback")
"""The kinds of which a run has one plugin, in the table with the name of the kind."""

OPTIONAL_KINDS = ("parallel",)
"""Those of which it need not have one."""

TABLES = ("train", "plugins", *SINGLE_KINDS, "callbacks")
OFF = "off"
"""The plugin name that switches a callback off: ``callbacks.best=off``."""
SHOWN = "how it is shown"
"""The layer that switches off callbacks which would show the run differently than the command requests."""

_MAX_SHOWN = 5


@dataclass(frozen=True)
class PluginRules:
    """Rules for the plugins that a run may use: the table ``[plugins]``."""

    require: Annotated[
        tuple[str, ...],
        Meta(description="distributions that must be installed, with versions, such as 'acme-plugins>=1.2,<2'"),
    ] = ()
    allow: (
        Annotated[
            tuple[str, ...],
            Meta(description="the only distributions whose plugins may be used, besides Hookline's own"),
        ]
        | Literal["all"]
    ) = "all"
    deny: Annotated[tuple[str, ...], Meta(description="distributions whose plugins may not be used")] = ()


@dataclass(frozen=True)
class Origin:
    """The source of a value.

    Attributes:
        layer: ``default``, ``file``, ``command line``, ``python``, or an option of a command, such as ``--fast``.
        location: Position in the text, if there is one.
        detail: For a default, its owner.
        folder: Folder that relative paths in the value start from.
        has_folders: Whether references put in paths that start from other folders.
        references: The keys that references in the value name, directly or through others, each with its origin.
        find: Finds the position of a part of the value's text, in a table within the value.
    """

    layer: str
    location: Location | None = None
    detail: str = ""
    folder: Path = field(default_factory=Path.cwd, compare=False)  # of now, which an import could change
    has_folders: bool = False
    references: tuple[tuple[str, Origin], ...] = ()
    find: Callable[[KeyPath, str], Location | None] | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        place = f"{self.layer} of {self.detail}" if self.detail else self.layer
        if self.layer == "file" and self.location:
            place = f"{self.location.source}:{self.location.line}"
        sources = [f"${{{printable(key)}}} from {origin}" for key, origin in self.references]
        return ", ".join([place, *sources[:_MAX_SHOWN], *["..."][len(sources) <= _MAX_SHOWN :]])

    def locate(self, part: str, inner: KeyPath = ()) -> Location | None:
        """Return the position of a part of the value's text, in a table within the value; or else that of the value."""
        return (self.find and self.find(inner, part)) or self.location


@dataclass(frozen=True)
class Setting:
    """A value with its key, its origin, and the setting that it overrides.

    Attributes:
        key: The full key, ``optimizer.lr``.
        value: The value.
        origin: Its source.
        overrode: The setting of an earlier layer for this key.
        key_location: Position of the key.
    """

    key: str
    value: Any
    origin: Origin
    overrode: Setting | None = None
    key_location: Location | None = None


@dataclass(frozen=True)
class RunConfig(Shown):
    """The complete config of a run: every option has a value of its type, and every value an origin.

    Attributes:
        train: Options of the loop.
        rules: Rules for its plugins.
        plugins: Data, model, loss, optimizer, perhaps parallel, then the callbacks in order.
        settings: Every setting by its full key, in the order of the tables.
        base: Makes an object whose hooks are called after those of the plugins.
    """

    train: TrainOptions
    rules: PluginRules
    plugins: tuple[PluginChoice, ...]
    settings: Mapping[str, Setting] = field(repr=False)
    base: Callable[[], object] = field(repr=False, compare=False)

    def make_members(self, rank: int = 0) -> list[Member]:
        """Make the plugins that take part in a run on a rank, in their order.

        Raises:
            ConfigError: When plugins refuse the values of their options; carries every refusal.
            PluginError: When a plugin cannot be created, or does not match the hook specification.
        """
        members = make_members(choice for choice in self.plugins if choice.is_on(rank))
        return [*members, Member("the defaults", "the defaults", self.base(), is_core=True)]

    def lasting(self, key: str) -> Any:
        """Return the value of a key as plain data with absolute paths, so that it can be read from any folder.

        A relative path starts at the folder of its config file, or at the current folder.
        """
        value = self.settings[key].value
        label, _, name = key.rpartition(".")
        converted = next((choice.options.get(name) for choice in self.plugins if choice.table == label), None)
        source = converted if has_path(converted) and is_plain(converted) else value
        return lasting(source) if is_plain(value) else value


def has_path(value: Any) -> bool:
    """Return whether a value of an option is a path, or contains one."""
    if isinstance(value, Mapping | list | tuple):
        return any(map(has_path, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, Path)
