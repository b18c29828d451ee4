"""Plugins of a run: the choice that a config makes, and the instance made from it."""

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
    """A plugin that the run names, with all its options.

    Attributes:
        table: Its table: ``model``, ``callbacks.best``.
        plugin: The plugin.
        options: The value of each option, of the option's type.
        location: Where the choice was made, to point at.
        on_error: What an error of a callback does: ``fail`` ends the run, ``warn`` switches the callback off.
    """

    table: str
    plugin: Plugin
    options: Mapping[str, Any]
    location: Location | None = None
    on_error: OnError = "fail"


@dataclass(frozen=True, eq=False)
class Member:
    """A plugin at work in a run.

    Attributes:
        table: Its table in the config: ``model``, ``callbacks.best``.
        plugin: What was imported, and from where.
        instance: The object with the hooks.
        is_tolerated: Whether an error in one of its events leaves the run alive.
        is_core: Whether it is the core itself, whose calls nobody observers.
    """

    table: str
    plugin: Plugin
    instance: object
    is_tolerated: bool = False
    is_core: bool = False


def is_wrapper(method: Callable[..., Any]) -> bool:
    """Whether a hook's method goes around the others; the older form, ``hookwrapper=True``, is refused when made."""
    return bool(getattr(method, MARK)["wrapper"])


def make_members(choices: Sequence[PluginChoice]) -> list[Member]:
    """Make every plugin of the choices of a config.

    Raises:
        ConfigError: When plugins refuse the values of their options; carries every refusal.
        PluginError: When a plugin cannot be made, or does not match the hook specification.
    """
    members: list[Member] = []
    refusals: list[Fault] = []
    broken: list[PluginError] = []
    for choice in choices:
        try:
            # A copy, so that what a plugin does to its options stays in this run.
            instance = choice.plugin.make(copied(choice.options))
            members.append(Member(choice.table, choice.plugin, instance, choice.on_error == "warn"))
        except ValueError as error:
            refusals.append(Fault(f"{choice.plugin}: {error}", choice.location))
        except PluginError as error:
            broken.append(error)
    if refusals:
        refusals += [fault for error in broken for fault in as_faults(error)]
        raise ConfigError("the plugins refuse some options", faults=refusals)
    if broken:
        raise combined(broken)
    return members
