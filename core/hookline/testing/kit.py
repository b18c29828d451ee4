"""The machinery of the kit: a check, the plugin that is checked, and what a check finds."""

from __future__ import annotations

import contextlib
import io
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn

from hookline.engine.config.loading import load_config
from hookline.engine.config.run_config import RunConfig
from hookline.engine.data import DataSource
from hookline.engine.errors import HooklineError
from hookline.engine.loop.rng import preserved_rng
from hookline.engine.loop.run import Run
from hookline.engine.plugin.hook_checks import MARK
from hookline.engine.plugin.options import copied
from hookline.engine.plugin.plugin import Plugin
from hookline.testing import parts


class Skipped(Exception):  # noqa: N818 - no error: it says why a check has nothing to look at
    """Ends a check that has nothing to look at; its text is the reason."""


def skip(reason: str) -> NoReturn:
    """End a check that has nothing to look at."""
    raise Skipped(reason)


class Broken(AssertionError):  # noqa: N818 - it says what became of a rule
    """Ends a check whose rule is broken.

    Attributes:
        seen: What was seen instead of what the rule says.
        advice: What to do.
    """

    def __init__(self, seen: str, advice: str) -> None:
        super().__init__(seen)
        self.seen = seen
        self.advice = advice


@dataclass(frozen=True)
class Check:
    """One rule of the contract, and the function that tries it.

    Attributes:
        name: The function's name.
        rule: The rule in one sentence: the function's docstring.
        function: Raises ``Broken`` or ``Skipped``; what it returns is told in the report.
    """

    name: str
    rule: str
    function: Callable[[Subject], str | None]


def check(function: Callable[[Subject], str | None]) -> Check:
    """Return the check that a function makes; the first line of its docstring is the rule."""
    return Check(function.__name__, (function.__doc__ or "").strip().splitlines()[0], function)


# ---- the plugin that is checked -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A plugin that is checked, with all that is needed to build real runs with it.

    Attributes:
        plugin: The plugin.
        options: Its options, plain values as in a config.
        given_data: The data that its author wants the runs to use, if any.
        folder: The folder that relative paths start at, and in which its module is found.
    """

    plugin: Plugin
    options: Mapping[str, Any]
    given_data: DataSource | None
    folder: Path

    def __str__(self) -> str:
        return f"{self.plugin.kind} {self.plugin.name!r}"

    @property
    def table(self) -> str:
        """Its table in a config."""
        return "callbacks.subject" if self.plugin.kind == "callback" else self.plugin.kind

    @cached_property
    def refusals(self) -> tuple[str, ...]:
        """Why no run can be built with it, one text for each data that were tried; empty if one can."""
        return self._trial[1]

    @property
    def data(self) -> DataSource:
        """The data of its runs: those given, or the first of the kit's own that a run accepts."""
        found = self._trial[0]
        if found is None:
            skip("no run can be built with it: see can_be_made")
        return found

    def config(
        self,
        data: DataSource | None = None,
        *,
        copies: int = 1,
        beside: Mapping[str, Any] | None = None,
        **train: Any,
    ) -> RunConfig:
        """Return the config of a small run with the plugin.

        Args:
            data: The data; None for ``self.data``.
            copies: How often a callback is in it.
            beside: More plugins, or others than the kit's own, by table.
            **train: Keys of the table ``train``.
        """
        # An object given in the place of the plugin is not to be replaced by its name again.
        tables = [table for table in (self.table, "callbacks.second")[:copies] if table not in (beside or {})]
        objects = self._parts(data)
        if self.plugin.kind == "data":
            # Data of any form: the run neither evaluates nor steps, so it reads nothing by itself.
            train = {"evaluate": (), **train}
        values: dict[str, Any] = {f"train.{name}": value for name, value in train.items()}
        if self.plugin.entry:
            values |= dict.fromkeys(tables, self.plugin.entry.name)
        else:
            objects |= dict.fromkeys(tables, self.plugin.target)
        values |= {f"{table}.{name}": value for table in tables for name, value in self.options.items()}
        catalog = parts.closed_catalog(*([self.plugin.entry] if self.plugin.entry else []))
        defaults = {"train": {"epochs": 2, "batch_size": 8}}
        return load_config(None, values, plugins={**objects, **(beside or {})}, defaults=defaults, catalog=catalog)

    def run(
        self,
        data: DataSource | None = None,
        *,
        copies: int = 1,
        beside: Mapping[str, Any] | None = None,
        **train: Any,
    ) -> Run:
        """Return a small run with the plugin, built but not begun; the arguments are those of ``config``."""
        return Run(self.config(data, copies=copies, beside=beside, **train))

    def typed_options(self) -> Mapping[str, Any]:
        """Return the value of each option, of its type."""
        config = self.config()
        return next(choice.options for choice in config.plugins if choice.table == self.table)

    def make(self) -> Any:
        """Return an instance of the plugin, made with its options as a run makes it."""
        return self.plugin.make(copied(self.typed_options()))

    def wrapped_hooks(self) -> list[str]:
        """Return the build hooks that it implements or wraps, beside that of its kind."""
        own = f"build_{self.plugin.kind}"
        members = [name for name in dir(self.plugin.target) if name.startswith("build_") and name != own]
        return [name for name in members if hasattr(getattr(self.plugin.target, name), MARK)]

    def _parts(self, data: DataSource | None) -> dict[str, Any]:
        source = data or self.data
        others: dict[str, Any] = {"loss": parts.fitting_loss, "optimizer": parts.gradient_descent}
        if self.plugin.kind == "data":
            others |= {"model": parts.unused_model, "callbacks.step": parts.NoStep()}
        else:
            others |= {"data": lambda: source, "model": parts.net}
        return {kind: part for kind, part in others.items() if kind != self.plugin.kind}

    @cached_property
    def _trial(self) -> tuple[DataSource | None, tuple[str, ...]]:
        """Return the first data that a run accepts with the plugin, or None and why each was refused."""
        refusals = []
        for name, source in self._sources():
            try:
                self.run(source)
            except Exception as error:  # noqa: BLE001 - whatever the plugin raises is told
                refusals.append(f"{name}{brief_error(error)}")
            else:
                return source, ()
        return None, tuple(refusals)

    def _sources(self) -> Iterator[tuple[str, DataSource]]:
        """Give the data to be tried, each with the words that say which they are."""
        if self.plugin.kind == "data":
            yield "", parts.regression()  # stands where the data of the other kinds stand, and is not used
        elif self.given_data:
            yield "with the data given: ", self.given_data
        else:
            for name, make in parts.SOURCES.items():
                yield f"with {name}: ", make()


# ---- what a check finds ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """What became of one check.

    Attributes:
        check: The check.
        verdict: What became of it.
        text: The reason it was skipped or was expected to fail; what was wrong; or what it tells.
        cause: What was raised, if it failed.
    """

    check: Check
    verdict: Literal["passed", "skipped", "failed", "expected"]
    text: str
    cause: BaseException | None = None


def run_check(check: Check, subject: Subject, expected_failures: Mapping[str, str]) -> Finding:
    """Run a check in an empty folder, without output and without a trace in torch's random numbers."""
    finding = _finding(check, subject)
    reason = expected_failures.get(check.name)
    if reason is None:
        return finding
    if finding.verdict == "failed":
        return Finding(check, "expected", reason, finding.cause)
    if finding.verdict == "passed":
        seen = f"it passed, but was expected to fail: {reason}"
        return Finding(check, "failed", _explained(check, seen, "take it out of expected_failures"))
    return finding


def _finding(check: Check, subject: Subject) -> Finding:
    try:
        with new_folder(), silence(), preserved_rng():
            return Finding(check, "passed", check.function(subject) or "")
    except Skipped as reason:
        return Finding(check, "skipped", str(reason))
    except Broken as broken:
        return Finding(check, "failed", _explained(check, broken.seen, broken.advice), broken)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plugin raises is told as its failure
        advice = "mend what raises it; this error's cause has the traceback"
        return Finding(check, "failed", _explained(check, f"it raised {brief_error(error)}", advice), error)


def _explained(check: Check, seen: str, advice: str) -> str:
    return f"{check.name}\n  rule: {check.rule}\n  seen: {seen}\n  do:   {advice}"


def brief_error(error: BaseException) -> str:
    """Return class, first line and place of an error; of one that tells faults, the faults."""
    if isinstance(error, HooklineError):
        return "; ".join([f"{type(error).__name__}: {error.message}", *(fault.message for fault in error.faults)])
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    first_line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first_line}{where}"


@contextlib.contextmanager
def new_folder() -> Iterator[Path]:
    """Work in a new folder, which is removed afterwards with all that was written there."""
    with tempfile.TemporaryDirectory(prefix="hookline-") as name, contextlib.chdir(name):
        yield Path(name)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep what is written on standard output and standard error from being seen."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
