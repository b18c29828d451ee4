"""``Member``: a plugin that takes part in a run; and what the engine needs of a plugin and of a config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from hookline.engine.errors import PluginError
from hookline.engine.plugin.hook_names import MARK
from hookline.engine.view import ConfigView


class Plugin(Protocol):
    """A plugin, as far as the engine knows it; its text is its kind and name, with its distribution."""

    @property
    def name(self) -> str:
        """Its name in the config."""

    def error(self, message: str, *, hint: str | None = None) -> PluginError:
        """Return an error that names this plugin and its distribution."""


@dataclass(frozen=True, eq=False)
class Member:
    """A plugin that takes part in a run.

    Attributes:
        table: Its table in the config: ``model``, ``callbacks.best``.
        plugin: The plugin.
        instance: The object with the hooks.
        is_tolerated: Whether the run continues after an error in one of its events.
        is_core: Whether it is the core itself, whose calls are not observed.
    """

    table: str
    plugin: Any
    instance: object
    is_tolerated: bool = False
    is_core: bool = False


@runtime_checkable
class Config(ConfigView, Protocol):
    """A complete config, whose plugins were found, and their options checked."""

    def make_members(self, rank: int) -> Sequence[Member]:
        """Make the plugins that take part in a run on a rank, in the order of the config.

        Raises:
            ConfigError: When plugins refuse the values of their options; carries every refusal.
            PluginError: When a plugin cannot be created, or does not match the hook specification.
        """


def is_wrapper(method: Callable[..., Any]) -> bool:
    """Whether a hook's method is a wrapper; pluggy's old form, ``hookwrapper=True``, is refused by the checks."""
    return bool(getattr(method, MARK, {}).get("wrapper"))
