"""The error tree with exit codes, and the text of an error.

::

    HooklineError            1   anything that a user of Hookline can cause and fix
    +-- ConfigError          2   the configuration or the command line is wrong; carries every fault
    +-- PluginError          3   a plugin is missing, ambiguous, broken, or does not match the hook specification
    +-- DataError            4   the data cannot be read or used; carries every fault found
    +-- ContractError        4   a component broke its contract: a shape, a dtype, a type of object
    +-- CheckpointError      5   a checkpoint cannot be saved or read, or belongs to a different run
    +-- NonFiniteError       6   a loss or a gradient is NaN or infinite
    +-- RunBusyError         7   another program uses the run folder
    +-- PeerError            8   another process of the run failed
    +-- TrainingError        1   out of memory, a plugin tried to end the program, or a run is used out of order

The number is the exit code of the command line. An error raised inside a plugin keeps its type and traceback, and gains
a note that names the plugin, the hook and the distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hookline.engine.words import printable


def text_of(error: BaseException) -> str:
    """Return the text of an error, with those of the members of a group, even if its ``__str__`` raises.

    >>> text_of(ExceptionGroup("two", [KeyError("a"), ValueError("b")]))
    "two (2 sub-exceptions): KeyError: 'a'; ValueError: b"
    """
    try:
        text = str(error)
    except Exception as failure:  # noqa: BLE001 - any error of foreign code
        return f"no text: its __str__ raises {type(failure).__name__}"
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return f"{text}: {'; '.join(map(error_text, members))}" if members else text


def error_text(error: BaseException) -> str:
    """Return the type and text of an error, as ``text_of`` does."""
    return f"{type(error).__name__}: {text_of(error)}"


@dataclass(frozen=True)
class Location:
    """A place in text that a person wrote.

    Attributes:
        source: Source of the text: the path of a file, ``command line``, or another name to show.
        line: Line number, from 1; None if the source has no lines.
        column: Column number in characters, from 1.
        text: The line itself.
        width: Number of characters to underline.
    """

    source: str
    line: int | None = None
    column: int | None = None
    text: str | None = None
    width: int = 1

    def __str__(self) -> str:
        # A column without a line is of no use to a reader; the caret shows it.
        numbers = [] if self.line is None else [str(n) for n in (self.line, self.column) if n is not None]
        return ":".join([printable(self.source), *numbers])

    def excerpt(self) -> str:
        """Return the line with a caret under the place; empty without text."""
        if self.text is None:
            return ""
        column = self.column or 1
        # Escaped text is longer, so the caret is placed by its length.
        before = printable(self.text[: column - 1])
        marked = printable(self.text[column - 1 : column - 1 + self.width])
        after = printable(self.text[column - 1 + self.width :])
        number = "" if self.line is None else str(self.line)
        caret = " " * len(before) + "^" * max(len(marked), 1)
        return f"{number} | {before}{marked}{after}\n{' ' * len(number)} | {caret}"


@dataclass(frozen=True)
class Fault:
    """A single fault of an input.

    Attributes:
        message: The fault, with the value found and the value expected.
        location: Its place.
        hint: The remedy.
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
    """Anything that a user of Hookline can cause and fix.

    Attributes:
        message: The problem, in one sentence.
        hint: The remedy.
        faults: The single faults, if an input has several.
        exit_code: Exit code of the command line.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.faults = tuple(faults)

    def __str__(self) -> str:
        text = "\n\n".join([self.message, *map(str, self.faults)])
        return f"{text}\n  = {self.hint}" if self.hint else text


class ConfigError(HooklineError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class PluginError(HooklineError):
    """A plugin is missing, ambiguous, broken, or does not match the hook specification.

    Attributes:
        plugin: The plugin's kind and name, such as ``model 'mlp'``.
        distribution: Name of the distribution that provides it, if any.
        version: Version of that distribution.
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
    """A component broke its contract: a shape, a dtype, a type of object."""

    exit_code = 4


class CheckpointError(HooklineError):
    """A checkpoint cannot be saved or read, is damaged, or belongs to a different run."""

    exit_code = 5


class RunBusyError(HooklineError):
    """Another program uses the run folder."""

    exit_code = 7


class PeerError(HooklineError):
    """Another process of a run of several ranks failed, ended, or does not answer."""

    exit_code = 8


class NonFiniteError(HooklineError):
    """A loss or a gradient is NaN or infinite.

    Attributes:
        epoch: Epoch in which it was found, from 1; None outside the loop.
        step: Step in which it was found, from 1; None outside a step.
        indices: Indices of the training examples in the batch of that step; empty if unknown.
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
    """Memory ran out, a plugin tried to end the program, or a run is used out of order.

    Attributes:
        epoch: Epoch in which it happened, from 1; None outside the loop.
        step: Number of steps taken before it.
        plugin: The plugin at fault, if any.
        hook: The hook in which it happened.
    """

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
