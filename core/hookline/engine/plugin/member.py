"""Plugins of a run: the choices of its config, and the instances made from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hookline.engine.errors import ConfigError, Fault, Location, PluginError
from hookline.engine.plugin.hook_checks import MARK
from hookline.engine.plugin.options import copied
from hookline.engine.plugin.plugin import Plugin, as_faults, combined

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
    plugin: Plugin
    instance: object
    is_tolerated: bool = False
    is_core: bool = False


def is_wrapper(method: Callable[..., Any]) -> bool:
    """Whether a hook's method is a wrapper; pluggy's old form, ``hookwrapper=True``, is refused by the checks."""
    return bool(getattr(method, MARK, {}).get("wrapper"))


def make_members(choices: Sequence[PluginChoice]) -> list[Member]:
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
            # A copy: a plugin may change its options, which must not affect other runs.
            instance = choice.plugin.make(copied(choice.options))
            members.append(Member(choice.table, choice.plugin, instance, choice.on_error == "warn"))
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
