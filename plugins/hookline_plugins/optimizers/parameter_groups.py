"""The option ``groups`` of optimizers: other options for some parameters, chosen by name.

A group is a table with ``parameters``, a list of ``fnmatch`` patterns, and any options of its optimizer. A parameter
belongs to the first group with a pattern that matches its name; one in no group has the options of the optimizer.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from hookline import ConfigError, Fault
from hookline.engine import did_you_mean, nearest

if TYPE_CHECKING:
    from torch import nn

    from hookline import RunView


Groups = Annotated[
    tuple[dict[str, Any], ...],
    msgspec.Meta(description="options for some parameters: tables with a list of name patterns, and options"),
]
"""The type of the option ``groups``."""
_PATTERNS = "parameters"
_SHOWN_NAMES = 10


def own_options(optimizer: Any) -> dict[str, Any]:
    """Return the options of an optimizer plugin, a dataclass, as arguments for torch: without ``groups``.

    ``fused=False`` is left out, because torch takes it to rule out ``foreach`` as well.
    """
    options = {field.name: getattr(optimizer, field.name) for field in fields(optimizer) if field.name != "groups"}
    return {name: value for name, value in options.items() if name != "fused" or value}


def check_groups(optimizer: Any) -> None:
    """Check the groups of an optimizer plugin, and convert their options to the types of the plugin's options.

    Raises:
        ValueError: If patterns are missing, options unknown, or values incompatible or of a wrong type; lists all.
    """
    hints = typing.get_type_hints(type(optimizer), include_extras=True)
    # fused is one choice for all weights.
    types = {_PATTERNS: tuple[str, ...], **{name: hints[name] for name in own_options(optimizer) if name != "fused"}}
    faults: list[str] = []
    groups = []
    for number, group in enumerate(optimizer.groups):
        found = list(_faults_of(group, types))
        if not found:
            typed = {name: msgspec.convert(value, types[name]) for name, value in group.items()}
            groups.append(typed)
            try:
                # The checks of the optimizer's options apply to those of a group too.
                replace(optimizer, groups=(), **_options_of(typed))
            except ValueError as error:
                found.append(str(error))
        faults += [f"groups[{number}]: {fault}" for fault in found]
    if faults:
        raise ValueError("; ".join(faults))
    optimizer.groups = tuple(groups)


def _faults_of(group: Mapping[str, Any], types: Mapping[str, Any]) -> Iterator[str]:
    if not group.get(_PATTERNS):
        yield f"{_PATTERNS!r} is missing: a list of parameter names, or patterns such as '*.bias'"
    for name, value in group.items():
        if name not in types:
            yield f"unknown option {name!r}, {did_you_mean(name, types)}"
            continue
        try:
            msgspec.convert(value, types[name])
        except msgspec.ValidationError as error:
            yield f"{name} is {value!r}: {error}"


def _options_of(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != _PATTERNS}


def parameter_groups(optimizer: Any, run: RunView, model: nn.Module) -> list[dict[str, Any]]:
    """Return the parameters of a model as groups for an optimizer of torch: those of the option, then the rest.

    Raises:
        ConfigError: If a pattern matches no parameter, or a group is left without any; carries every fault.
    """
    rest = named_parameters(run, model)
    known = [name for name, _ in rest]
    faults: list[Fault] = []
    groups: list[dict[str, Any]] = []
    for number, group in enumerate(optimizer.groups):
        patterns = group[_PATTERNS]
        unknown = [pattern for pattern in patterns if not any(is_match(name, [pattern]) for name in known)]
        message = f"groups[{number}]: {{!r}} matches no parameter"
        faults += [Fault(message.format(pattern), hint=name_hint(pattern, known)) for pattern in unknown]
        taken = [parameter for name, parameter in rest if is_match(name, patterns)]
        rest = [(name, parameter) for name, parameter in rest if not is_match(name, patterns)]
        if not taken and not unknown:
            faults.append(Fault(f"groups[{number}]: all of its parameters are in earlier groups"))
        groups.append({"params": taken, **_options_of(group)})
    if faults:
        raise ConfigError("the parameter groups of the optimizer do not fit the model", faults=faults)
    return [*groups, {"params": [parameter for _, parameter in rest]}] if rest else groups


def named_parameters(run: RunView, model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters with their names in the model as its plugin built it, without wrappers."""
    names = {id(parameter): name for name, parameter in run.unwrapped_model.named_parameters()}
    return [(names.get(id(parameter), name), parameter) for name, parameter in model.named_parameters()]


def is_match(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a name matches one of the ``fnmatch`` patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def name_hint(pattern: str, names: Sequence[str]) -> str:
    """Return a hint for a pattern that matches none of the names: the nearest name, or some of them.

    >>> name_hint("0.wieght", ["0.weight", "0.bias"])
    "did you mean '0.weight'?"
    """
    if nearest(pattern, names) or len(names) <= _SHOWN_NAMES:
        return did_you_mean(pattern, names)
    return f"the model has {len(names)} parameters: {', '.join(map(repr, names[:_SHOWN_NAMES]))}, ..."
