"""The parts of a script: the snippet of each plugin of a run, and every reason why there can be none."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hookline import ConfigError, Fault
from hookline.trained import Snippet
from hookline_plugins.commands.ejecting.pasting import attributes_of, imported, pasted
from hookline_plugins.commands.ejecting.text import call

if TYPE_CHECKING:
    from hookline import RunView

_IN_DATA = ("build_data", "build_predictor")
"""Hooks whose effect is in the arrays that are written beside the script."""
_VARIABLES = {"model": "model", "loss": "loss_function", "optimizer": "optimizer"}


@dataclass
class Parts:
    """The parts of a script.

    Attributes:
        snippets: Those that are not empty, by table.
        left_out: Tables of plugins that only watch.
        faults: The reasons why the run cannot be a script.
    """

    snippets: dict[str, Snippet] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def parts_of(run: RunView) -> Parts:
    """Return the parts of the plugins of a run, in the order of its config."""
    parts, config = Parts(), run.config
    choices: Mapping[str, Any] = {choice.table: choice for choice in config.plugins}
    for member in run.members:
        try:
            snippet = _snippet_of(run, member, choices[member.table])
        except ConfigError as error:
            parts.faults.append(Fault(f"{member.table}: {member.plugin}: {error.message}", hint=error.hint))
            parts.faults += error.faults
            continue
        if snippet != Snippet():
            parts.snippets[member.table] = snippet
        elif member.table != "data" and hasattr(member.instance, "script"):  # without one, its effect is in the data
            parts.left_out.append(member.table)
    parts.faults += [*_conflicts(parts.snippets), *_unmeasured(run, parts.snippets)]
    return parts


def _snippet_of(run: RunView, member: Any, choice: Any) -> Snippet:
    script = getattr(member.instance, "script", None)
    if callable(script):
        snippet = script(run)
        if not isinstance(snippet, Snippet):
            raise ConfigError(f"its script returned a {type(snippet).__name__}, but must return a Snippet")
        return snippet
    target = member.plugin.target
    if member.instance is not target and not (inspect.isclass(target) and isinstance(member.instance, target)):
        return _plain(run, choice)
    if set(member.plugin.hooks) <= set(_IN_DATA):
        return Snippet()
    hint = "leave the plugin out of the run, or give it a method script(run) -> hookline.trained.Snippet"
    raise ConfigError("it has no script", hint=hint)


def _plain(run: RunView, choice: Any) -> Snippet:
    """Return the part of a plain class or function."""
    plugin, kind = choice.plugin, choice.plugin.kind
    if kind == "data":
        return Snippet()
    target, entry = plugin.target, plugin.entry
    if entry is None or not (inspect.isclass(target) or inspect.isfunction(target)):
        raise ConfigError(
            "it is an object given from Python", hint="put a class or a function into a file, see --plugin"
        )
    imports: tuple[str, ...]
    if entry.is_installed:
        imports, definitions = (imported(target),), ""
    else:
        imports, definitions = pasted(target)
    name, variable = target.__qualname__, _VARIABLES[kind]
    parameters = inspect.signature(target).parameters
    if kind == "loss" and not inspect.isclass(target) and "target" in parameters:
        return Snippet(imports, definitions, setup=f"{variable} = {name}")
    given: dict[str, str] = {}
    lines: list[str] = []
    for one in ("data", "run", "model", "params"):
        if one in parameters:
            given[one], more = _given(run, target, one, f"{kind}_facts")
            imports, lines = (*imports, *(["from types import SimpleNamespace"] if more else [])), lines + more
    arguments = [f"{one}={value}" if one != next(iter(parameters)) else value for one, value in given.items()]
    lines.append(call(f"{variable} = {name}", *arguments, **choice.options))
    return Snippet(imports, definitions, setup="\n".join(lines))


def _given(run: RunView, target: Any, name: str, facts: str) -> tuple[str, list[str]]:
    """Return the source of a supplied argument, and the statements before it."""
    if name == "model":
        return "model", []
    if name == "params":
        return "model.parameters()", []
    if name == "run":
        raise ConfigError("it takes the run")
    values: dict[str, Any] = {one: getattr(run.data, one, None) for one in attributes_of(target, "data")}
    if other := [one for one, value in values.items() if not isinstance(value, int | str | tuple | None)]:
        raise ConfigError(f"it takes data.{other[0]}, which is not a plain value")
    return facts, [call(f"{facts} = SimpleNamespace", **values)]


def _unmeasured(run: RunView, snippets: Mapping[str, Snippet]) -> Iterator[Fault]:
    """Yield the plugins that follow a metric which the script does not measure."""
    names = {"loss", *(name for one in snippets.values() for name in one.metrics)}
    for table, one in snippets.items():
        is_of_script = one.monitors == "train/running_loss" or one.monitors.partition("/")[2] in names
        if one.monitors and not (is_of_script and one.monitors in run.metric_names):
            yield Fault(f"{table} follows {one.monitors!r}, which the script does not measure")


def _conflicts(snippets: Mapping[str, Snippet]) -> Iterator[Fault]:
    """Yield the plugins that define the same name, or replace the same part."""
    for what in ("forward", "evaluated"):
        tables = [table for table, one in snippets.items() if getattr(one, what)]
        if len(tables) > 1:
            yield Fault(f"{' and '.join(tables)} both set `{what}` of the script")
    owners: dict[str, str] = {}
    for table, one in snippets.items():
        for name in one.defines:
            if owners.setdefault(name, table) != table:
                yield Fault(f"{owners[name]} and {table} both define {name!r} in the script")
