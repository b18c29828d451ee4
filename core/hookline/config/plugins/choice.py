"""``PluginChoice``: a plugin that a config names, with its options; and the objects made of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hookline.config.plugins.options import copied
from hookline.config.plugins.plugin import Plugin, as_faults, combined
from hookline.engine.errors import ConfigError, Fault, Location, PluginError
from hookline.engine.plugin.member import Member

OnError = Literal["fail", "warn"]


@dataclass(frozen=True)
class PluginChoice:
    """A plugin that a config names, with all its options.

    Attributes:
        table: Its table: ``model``, ``callbacks.best``.
        plugin: The plugin.
        options: The converted value of each option.
        location: Position of the choice, to show in errors.
        on_error: Effect of an error in a callback: ``fail`` ends the run, ``warn`` disables the callback.
    """

    table: str
    plugin: Plugin
    options: Mapping[str, Any]
    location: Location | None = None
    on_error: OnError = "fail"

    def make(self) -> Member:
        """Make the plugin for one run.

        Raises:
            ValueError: When the plugin refuses its options.
            PluginError: When it cannot be created, or does not match the hook specification.
        """
        # A copy: a plugin may change its options, which must not affect other runs.
        instance = self.plugin.make(copied(self.options))
        return Member(self.table, self.plugin, instance, self.on_error == "warn")

    def is_on(self, rank: int) -> bool:
        """Whether it takes part in a run on a rank; a plugin with ``ranks = "zero"`` is on rank 0 alone."""
        return rank == 0 or getattr(self.plugin.target, "ranks", "all") != "zero"


def make_members(choices: Iterable[PluginChoice]) -> list[Member]:
    """Make the plugins that a config chooses.

    Raises:
        ConfigError: When plugins refuse the values of their options; carries every refusal.
        PluginError: When a plugin cannot be created, or does not match the hook specification.
    """
    members: list[Member] = []
    refusals: list[Fault] = []
    broken: list[PluginError] = []
    for choice in choices:
        try:
            members.append(choice.make())
        except ValueError as error:
            refusals.append(Fault(f"{choice.plugin}: {error}", choice.location))
        except PluginError as error:
            broken.append(error)
    if refusals:
        refusals += [fault for error in broken for fault in as_faults(error)]
        raise ConfigError("plugins refused their options", faults=refusals)
    if broken:
        raise combined(broken)
    return members
