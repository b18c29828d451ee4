"""The option ``groups`` of optimizers: parameters, chosen by their names, that have options of their own.

A group is a table with ``parameters``, a list of patterns of ``fnmatch``, and any options of its optimizer. A parameter
belongs to the first group with a pattern that its name matches; what is in no group has the optimizer's own options.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import msgspec

from hookline import ConfigError, Fault
from hookline.engine import did_you_mean, nearest

if TYPE_CHECKING:
    from torch import nn

    from hookline import RunView


_PATTERNS = "parameters"
_SHOWN_NAMES = 10


def own_options(optimizer: Any) -> dict[str, Any]:
    """Return the options of an optimizer's plugin, a dataclass, as torch takes them: without ``groups``.

    To torch ``fused=False`` says more than nothing: it rules out the loop over all weights at once as well.
    """
    options = {field.name: getattr(optimizer, field.name) for field in fields(optimizer) if field.name != "groups"}
    return {name: value for name, value in options.items() if name != "fused" or value}


def check_groups(optimizer: Any) -> None:
    """Check the groups of an optimizer's plugin, and give their options the types that the plugin's own have.

    Raises:
        ValueError: With everything that is wrong: no patterns, unknown options, values of wrong types or that do not go
            together.
    """
    hints = typing.get_type_hints(type(optimizer), include_extras=True)
    # How the weights are updated is one choice for all of them.
    types = {_PATTERNS: tuple[str, ...], **{name: hints[name] for name in own_options(optimizer) if name != "fused"}}
    faults: list[str] = []
    groups = []
    for number, group in enumerate(optimizer.groups):
        found = list(_faults_of(group, types))
        if not found:
            typed = {name: msgspec.convert(value, types[name]) for name, value in group.items()}
            groups.append(typed)
            try:
                # What an optimizer asks of its options together it asks of those of a group, too.
                replace(optimizer, groups=(), **_options_of(typed))
            except ValueError as error:
                found.append(str(error))
        faults += [f"groups[{number}]: {fault}" for fault in found]
    if faults:
        raise ValueError("; ".join(faults))
    optimizer.groups = tuple(groups)


def _faults_of(group: Mapping[str, Any], types: Mapping[str, Any]) -> Iterator[str]:
    if not group.get(_PATTERNS):
        yield f"{_PATTERNS!r} is missing: a list of names of parameters, or of patterns such as '*.bias'"
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
    """Return the parameters of a model as an optimizer of torch takes them: the groups, then what is in none.

    Raises:
        ConfigError: With every pattern that is the name of no parameter, and every group that is left without any.
    """
    rest = _named_parameters(run, model)
    known = [name for name, _ in rest]
    faults: list[Fault] = []
    groups: list[dict[str, Any]] = []
    for number, group in enumerate(optimizer.groups):
        patterns = group[_PATTERNS]
        unknown = [pattern for pattern in patterns if not any(is_match(name, [pattern]) for name in known)]
        message = f"groups[{number}]: {{!r}} is the name of none"
        faults += [Fault(message.format(pattern), hint=name_hint(pattern, known)) for pattern in unknown]
        taken = [parameter for name, parameter in rest if is_match(name, patterns)]
        rest = [(name, parameter) for name, parameter in rest if not is_match(name, patterns)]
        if not taken and not unknown:
            faults.append(Fault(f"groups[{number}]: groups before it have all of its parameters"))
        groups.append({"params": taken, **_options_of(group)})
    if faults:
        raise ConfigError("the groups of the optimizer name parameters that they cannot have", faults=faults)
    return [*groups, {"params": [parameter for _, parameter in rest]}] if rest else groups


def _named_parameters(run: RunView, model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters with their names in the model as its plugin built it, whatever is put around it."""
    names = {id(parameter): name for name, parameter in run.unwrapped_model.named_parameters()}
    return [(names.get(id(parameter), name), parameter) for name, parameter in model.named_parameters()]


def is_match(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is that of some pattern of ``fnmatch``."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def name_hint(pattern: str, names: Sequence[str]) -> str:
    """Return a hint for a pattern that matches none of the names: the nearest, or some of them.

    >>> name_hint("0.wieght", ["0.weight", "0.bias"])
    "did you mean '0.weight'?"
    """
    if nearest(pattern, names) or len(names) <= _SHOWN_NAMES:
        return did_you_mean(pattern, names)
    return f"it has {len(names)} names: {', '.join(map(repr, names[:_SHOWN_NAMES]))}, ..."
