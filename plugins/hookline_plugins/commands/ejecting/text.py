"""Source code of Python: literals and calls, as a formatter would write them."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

WIDTH = 88
"""Length of a line, the default of ruff and black."""


def literal(value: Any) -> str:
    """Return a plain value as source code.

    >>> literal({"betas": (0.9, 0.999), "name": "a"})
    '{"betas": (0.9, 0.999), "name": "a"}'
    >>> literal([float("inf"), None, (1,)])
    '[float("inf"), None, (1,)]'
    """
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(key)}: {literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(literal, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


def call(head: str, *arguments: str, indent: int = 4, **named: Any) -> str:
    """Return a call, on one line if it fits.

    Args:
        head: All before the parenthesis.
        *arguments: Positional arguments, as source code.
        indent: Columns by which the line will be indented in the script.
        **named: Further arguments, plain values.

    >>> call("optimizer = torch.optim.SGD", "model.parameters()", lr=0.03)
    'optimizer = torch.optim.SGD(model.parameters(), lr=0.03)'
    >>> print(call("layers = nn.Sequential", *["nn.Linear(1000, 1000)"] * 4))
    layers = nn.Sequential(
        nn.Linear(1000, 1000),
        nn.Linear(1000, 1000),
        nn.Linear(1000, 1000),
        nn.Linear(1000, 1000),
    )
    """
    parts = [*arguments, *(f"{name}={literal(value)}" for name, value in named.items())]
    return bracketed(f"{head}(", parts, ")", indent=indent)


def bracketed(head: str, parts: Sequence[str], tail: str, *, indent: int = 4) -> str:
    """Return source code between brackets, on one line if it fits: ``head`` ends with the first, ``tail`` begins so."""
    line = f"{head}{', '.join(parts)}{tail}"
    if len(line) + indent <= WIDTH:
        return line
    return "\n".join([head, *(f"    {part}," for part in parts), tail])


def changed(function: Callable[..., Any], options: Mapping[str, Any], *kept: str) -> dict[str, Any]:
    """Return those options of a class or function that differ from its defaults, and those to keep."""
    defaults = {name: one.default for name, one in inspect.signature(function).parameters.items()}
    return {name: value for name, value in options.items() if name in kept or value != defaults.get(name)}
