"""``RunConfig``: the complete configuration of a run, each value with its origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from hookline.engine.config.layers import Origin
from hookline.engine.errors import Location
from hookline.engine.plugin.catalog import KINDS
from hookline.engine.plugin.member import PluginChoice
from hookline.engine.plugin.options import is_plain, lasting
from hookline.engine.train_options import TrainOptions

SINGLE_KINDS = tuple(kind for kind in KINDS if kind != "callback")
"""The kinds of which a run has exactly one plugin; each has a table of its own name."""

TABLES = ("train", "plugins", *SINGLE_KINDS, "callbacks")
OFF = "off"
"""What switches a callback off: ``callbacks.best=off``."""
SHOWN = "how it is shown"
"""The layer that switches a callback off which would show the run in another way than is asked for."""


@dataclass(frozen=True)
class PluginRules:
    """Which plugins a run may use: the table ``[plugins]``."""

    require: Annotated[
        tuple[str, ...],
        Meta(description="distributions that must be installed, with versions, such as 'acme-plugins>=1.2,<2'"),
    ] = ()
    allow: (
        Annotated[
            tuple[str, ...], Meta(description="the only distributions whose plugins may be used, beside Hookline's own")
        ]
        | Literal["all"]
    ) = "all"
    deny: Annotated[tuple[str, ...], Meta(description="distributions whose plugins may not be used")] = ()


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
class RunConfig:
    """A complete run: every option has a value of its type, and every value an origin.

    Attributes:
        train: The loop's own options.
        rules: Which plugins it may use.
        plugins: Data, model, loss, optimizer, then the callbacks in their order.
        settings: Every value by its full key, with its origin, in the order of the tables.
    """

    train: TrainOptions
    rules: PluginRules
    plugins: tuple[PluginChoice, ...]
    settings: Mapping[str, Setting] = field(repr=False)

    def lasting(self, key: str) -> Any:
        """Return the value of a key such that it means the same wherever it is read: its paths are absolute.

        A relative path starts at the folder of the file that has it, or at the folder at work: the option knows.
        """
        value = self.settings[key].value
        label, _, name = key.rpartition(".")
        taken = next((choice.options.get(name) for choice in self.plugins if choice.table == label), None)
        return lasting(taken if _has_path(taken) and is_plain(taken) else value) if is_plain(value) else value


def _has_path(value: Any) -> bool:
    if isinstance(value, Mapping | list | tuple):
        return any(map(_has_path, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, Path)
