"""The error tree, and how a fault is told.

::

    HooklineError            1   anything that a user of Hookline can cause and mend
    +-- ConfigError          2   the configuration or the command line is wrong; carries every fault
    +-- PluginError          3   a plugin is missing, ambiguous, broken, or does not keep to the hooks
    +-- DataError            4   the data cannot be read or used; carries every fault found
    +-- ContractError        4   a component broke its promise: a shape, a dtype, a kind of object
    +-- CheckpointError      5   a checkpoint cannot be saved, or read, or is that of another run
    +-- NonFiniteError       6   a number that steers the training is NaN or infinite
    +-- RunBusyError         7   another program works in the run's folder
    +-- TrainingError        1   memory does not suffice, a plugin tried to end the program, a run is used out of turn

The number is the exit code of the command line. An error raised inside a plugin keeps its own type and traceback;
it gains a note that names plugin, hook and distribution.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hookline.engine.words import printable

_NOBODYS = ("<", str(Path(__file__).parents[1]), str(Path(importlib.__file__).parent))
"""How the files begin that are not to blame: those that import, and Hookline's own."""


def describe_error(error: BaseException) -> str:
    """Return type, text and place of an error that somebody else's code raised.

    >>> try:
    ...     {}["gpu"]
    ... except KeyError as error:
    ...     print(describe_error(error).partition(" (")[0])
    KeyError: 'gpu'
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_NOBODYS)]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):
        where = f" ({error.filename}:{error.lineno})"
    return f"{type(error).__name__}: {error}{where}"


@dataclass(frozen=True)
class Location:
    """A place in something a person wrote.

    Attributes:
        source: What holds the text: a file's path, ``command line``, or another name to show.
        line: Line number, from 1; None where lines mean nothing.
        column: Column number in characters, from 1.
        text: The line itself, to be shown.
        width: Number of characters to underline.
    """

    source: str
    line: int | None = None
    column: int | None = None
    text: str | None = None
    width: int = 1

    def __str__(self) -> str:
        # A column alone says nothing to a reader; the caret shows it.
        numbers = [] if self.line is None else [str(n) for n in (self.line, self.column) if n is not None]
        return ":".join([printable(self.source), *numbers])

    def excerpt(self) -> str:
        """Return the line with a caret under the place; empty when there is no text to show."""
        if self.text is None:
            return ""
        column = self.column or 1
        # Escapes are longer than what they stand for, so the caret is placed under the escaped text.
        before = printable(self.text[: column - 1])
        marked = printable(self.text[column - 1 : column - 1 + self.width])
        after = printable(self.text[column - 1 + self.width :])
        number = "" if self.line is None else str(self.line)
        gutter = " " * len(number)
        caret = " " * len(before) + "^" * max(len(marked), 1)
        return f"{number} | {before}{marked}{after}\n{gutter} | {caret}"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in an input: what, where, and what to do.

    Attributes:
        message: What is wrong, with what was got and what was expected.
        location: Where it stands.
        hint: What to do.
    """

    message: str
    location: Location | None = None
    hint: str | None = None

    def __str__(self) -> str:
        lines = [self.message]
        if self.location:
            lines.append(f"  --> {self.location}")
            lines += [f"  {line}" for line in self.location.excerpt().splitlines()]
        if self.hint:
            lines.append(f"  = {self.hint}")
        return "\n".join(lines)


class HooklineError(Exception):
    """Anything that a user of Hookline can cause and mend.

    Attributes:
        message: What is wrong, in one sentence.
        hint: What to do about it.
        faults: Each single fault, when an input has several.
        exit_code: What the command line exits with.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.faults = tuple(faults)

    def __str__(self) -> str:
        parts = [self.message, *map(str, self.faults)]
        text = "\n\n".join(parts)
        return f"{text}\n  = {self.hint}" if self.hint else text


class ConfigError(HooklineError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class PluginError(HooklineError):
    """A plugin is missing, ambiguous, broken, or does not keep to the hooks.

    Attributes:
        plugin: The plugin's kind and name, such as ``model 'mlp'``.
        distribution: Name of the distribution that provides it, if any.
        version: That distribution's version.
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        plugin: str | None = None,
        distribution: str | None = None,
        version: str | None = None,
        hint: str | None = None,
        faults: Sequence[Fault] = (),
    ) -> None:
        super().__init__(message, hint=hint, faults=faults)
        self.plugin = plugin
        self.distribution = distribution
        self.version = version


class DataError(HooklineError):
    """The data cannot be read or used."""

    exit_code = 4


class ContractError(HooklineError):
    """A component broke its promise: a shape, a dtype, a kind of object."""

    exit_code = 4


class CheckpointError(HooklineError):
    """A checkpoint cannot be saved, cannot be read, is damaged, or is that of another run."""

    exit_code = 5


class RunBusyError(HooklineError):
    """Another program works in the run's folder."""

    exit_code = 7


class NonFiniteError(HooklineError):
    """A number that steers the training is NaN or infinite.

    Attributes:
        epoch: Epoch in which it was found, from 1; None outside the loop.
        step: Step in which it was found, from 1; None outside a step.
        indices: Indices of the training examples of that step's batch; empty where they are not known.
    """

    exit_code = 6

    def __init__(
        self,
        message: str,
        *,
        epoch: int | None = None,
        step: int | None = None,
        indices: Sequence[int] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.epoch = epoch
        self.step = step
        self.indices = tuple(indices)


class TrainingError(HooklineError):
    """Memory does not suffice, a plugin tried to end the program, or a run is used out of turn.

    Attributes:
        epoch: Epoch in which it happened, from 1; None outside the loop.
        step: Number of steps taken before it.
        plugin: The plugin at fault, if one is.
        hook: The hook in which it happened.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        epoch: int | None = None,
        step: int | None = None,
        plugin: str | None = None,
        hook: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.epoch = epoch
        self.step = step
        self.plugin = plugin
        self.hook = hook
