"""The machinery of the kit: a check, the plugin under test, and the finding of a check."""

from __future__ import annotations

import contextlib
import io
import tempfile
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn

from torch import nn

from hookline.config.loading import load_config
from hookline.config.plugins.options import copied
from hookline.config.plugins.plugin import Plugin
from hookline.config.run_config import RunConfig
from hookline.engine.data import DataSource
from hookline.engine.errors import HooklineError, error_text, text_of
from hookline.engine.loop.run import Run
from hookline.engine.plugin.hook_names import MARK
from hookline.engine.rng import preserved_rng
from hookline.testing import parts

ModelFactory = Callable[[DataSource], nn.Module]
"""Makes a model from the data."""


class Skipped(Exception):  # noqa: N818 - not an error
    """Ends a check that does not apply; its text is the reason."""


def skip(reason: str) -> NoReturn:
    """End a check that does not apply."""
    raise Skipped(reason)


class Broken(AssertionError):  # noqa: N818 - it describes a rule
    """Ends a check whose rule is broken.

    Attributes:
        seen: The observation that breaks the rule.
        advice: The remedy.
    """

    def __init__(self, seen: str, advice: str) -> None:
        super().__init__(seen)
        self.seen = seen
        self.advice = advice


@dataclass(frozen=True)
class Check:
    """One rule of the contract, and the function that tests it.

    Attributes:
        name: The function's name.
        rule: The rule in one sentence: the function's docstring.
        function: Raises ``Broken`` or ``Skipped``, and may return a note for the report.
    """

    name: str
    rule: str
    function: Callable[[Subject], str | None]


def check(function: Callable[[Subject], str | None]) -> Check:
    """Make a check of a function; the first line of its docstring is the rule."""
    return Check(function.__name__, (function.__doc__ or "").strip().splitlines()[0], function)


# ---- the plugin under test ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A plugin under test, with everything needed to build real runs with it.

    Attributes:
        plugin: The plugin.
        options: Its options, plain values as in a config.
        given_data: The data for the runs, if its author gave any.
        folder: The folder of its module; relative paths start there.
        given_model: Makes the model for the runs, if its author gave one.
    """

    plugin: Plugin
    options: Mapping[str, Any]
    given_data: DataSource | None
    folder: Path
    given_model: ModelFactory | None = None

    def __str__(self) -> str:
        return f"{self.plugin.kind} {self.plugin.name!r}"

    @property
    def table(self) -> str:
        """Its table in a config."""
        return "callbacks.subject" if self.plugin.kind == "callback" else self.plugin.kind

    @cached_property
    def refusals(self) -> tuple[str, ...]:
        """The reasons that no run can be built with it, one per data source tried; empty if a run can."""
        return self._trial[1]

    @property
    def data(self) -> DataSource:
        """The data of its runs: the given data, or the first of the kit's own that a run accepts."""
        found = self._trial[0]
        if found is None:
            skip("a run cannot be built with it: see can_be_made")
        return found

    def config(
        self,
        data: DataSource | None = None,
        *,
        copies: int = 1,
        plugins: Mapping[str, Any] | None = None,
        **train: Any,
    ) -> RunConfig:
        """Return the config of a small run with the plugin.

        Args:
            data: The data; None for ``self.data``.
            copies: Number of times that a callback is in it.
            plugins: Further plugins, or replacements of the kit's own, by table.
            **train: Keys of the table ``train``.
        """
        # Leave out a table whose plugin is replaced by an object.
        tables = [table for table in (self.table, "callbacks.second")[:copies] if table not in (plugins or {})]
        objects = self._parts(data)
        if self.plugin.kind == "data":
            # The run neither evaluates nor steps, so it accepts data of any form.
            train = {"evaluate": (), **train}
        values: dict[str, Any] = {f"train.{name}": value for name, value in train.items()}
        if self.plugin.entry:
            values |= dict.fromkeys(tables, self.plugin.entry.name)
        else:
            objects |= dict.fromkeys(tables, self.plugin.target)
        values |= {f"{table}.{name}": value for table in tables for name, value in self.options.items()}
        catalog = parts.closed_catalog(*([self.plugin.entry] if self.plugin.entry else []))
        defaults = {"train": {"epochs": 2, "batch_size": 8}, "callbacks": parts.usual_callbacks()}
        return load_config(None, values, plugins={**objects, **(plugins or {})}, defaults=defaults, catalog=catalog)

    def run(
        self,
        data: DataSource | None = None,
        *,
        copies: int = 1,
        plugins: Mapping[str, Any] | None = None,
        **train: Any,
    ) -> Run:
        """Return a small run with the plugin, built but not started; the arguments are those of ``config``."""
        return Run(self.config(data, copies=copies, plugins=plugins, **train))

    def typed_options(self) -> Mapping[str, Any]:
        """Return the value of each option, converted to its type."""
        config = self.config()
        return next(choice.options for choice in config.plugins if choice.table == self.table)

    def make(self) -> Any:
        """Return an instance of the plugin with its options, made as in a run."""
        return self.plugin.make(copied(self.typed_options()))

    def wrapped_hooks(self) -> list[str]:
        """Return the build hooks that it implements or wraps, except that of its kind."""
        own = f"build_{self.plugin.kind}"
        members = [name for name in dir(self.plugin.target) if name.startswith("build_") and name != own]
        return [name for name in members if hasattr(getattr(self.plugin.target, name), MARK)]

    def _parts(self, data: DataSource | None) -> dict[str, Any]:
        source = data or self.data
        others: dict[str, Any] = {"loss": parts.fitting_loss, "optimizer": parts.gradient_descent}
        if self.plugin.kind == "data":
            others |= {"model": parts.unused_model, "callbacks.step": parts.NoStep()}
        else:
            others |= {"data": lambda: source, "model": self.given_model or parts.net}
        return {kind: part for kind, part in others.items() if kind != self.plugin.kind}

    @cached_property
    def _trial(self) -> tuple[DataSource | None, tuple[str, ...]]:
        """Return the first data that a run with the plugin accepts, or None and the reason against each."""
        refusals = []
        for name, source in self._sources():
            try:
                self.run(source)
            except Exception as error:  # noqa: BLE001 - any error of the plugin is reported
                refusals.append(f"{name}{whole_error(error)}")
            else:
                return source, ()
        return None, tuple(refusals)

    def _sources(self) -> Iterator[tuple[str, DataSource]]:
        """Yield the data to try, each with a description."""
        if self.plugin.kind == "data":
            yield "", parts.regression()  # a placeholder; the plugin replaces it
        elif self.given_data:
            yield "with the given data: ", self.given_data
        else:
            for name, make in parts.SOURCES.items():
                yield f"with {name}: ", make()


# ---- findings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: The check.
        verdict: The verdict.
        text: The reason for skipping or for an expected failure, the failure, or the note of a passed check.
        cause: The error behind a failure.
    """

    check: Check
    verdict: Literal["passed", "skipped", "failed", "expected"]
    text: str
    cause: BaseException | None = None


def run_check(check: Check, subject: Subject, expected_failures: Mapping[str, str]) -> Finding:
    """Run a check in an empty folder, without output; restore torch's random generator afterwards."""
    finding = _finding(check, subject)
    reason = expected_failures.get(check.name)
    if reason is None:
        return finding
    if finding.verdict == "failed":
        return Finding(check, "expected", reason, finding.cause)
    if finding.verdict == "passed":
        seen = f"it passed, but was expected to fail: {reason}"
        return Finding(check, "failed", _explained(check, seen, "remove it from expected_failures"))
    return finding


def _finding(check: Check, subject: Subject) -> Finding:
    try:
        with new_folder(), silence(), preserved_rng():
            return Finding(check, "passed", check.function(subject) or "")
    except Skipped as reason:
        return Finding(check, "skipped", str(reason))
    except Broken as broken:
        return Finding(check, "failed", _explained(check, broken.seen, broken.advice), broken)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - any error of a plugin is its failure
        advice = "fix the error; its traceback is the cause of this one"
        return Finding(check, "failed", _explained(check, f"it raised {whole_error(error)}", advice), error)


def _explained(check: Check, seen: str, advice: str) -> str:
    # Further lines of an error stand below its first one.
    return f"{check.name}\n  rule: {check.rule}\n  seen: {textwrap.indent(seen, ' ' * 8).strip()}\n  do:   {advice}"


def whole_error(error: BaseException) -> str:
    """Return the class and text of an error, its notes and its cause; for a foreign one also its place."""
    frames = traceback.extract_tb(error.__traceback__)
    is_own = isinstance(error, HooklineError) or not frames
    where = "" if is_own else f" ({frames[-1].filename}:{frames[-1].lineno})"
    lines = [f"{error_text(error)}{where}", *(f"({note})" for note in getattr(error, "__notes__", ()))]
    # An error that quotes its cause may quote the first line alone.
    if error.__cause__ and text_of(error.__cause__) not in lines[0]:
        lines.append(f"caused by {whole_error(error.__cause__)}")
    return "\n".join(lines)


@contextlib.contextmanager
def new_folder() -> Iterator[Path]:
    """Work in a new folder, and remove it afterwards with all its files."""
    with tempfile.TemporaryDirectory(prefix="hookline-") as name, contextlib.chdir(name):
        yield Path(name)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Discard standard output and standard error."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
