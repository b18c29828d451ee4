"""``check_plugin`` and ``conformance``: all checks of a kind on one plugin."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hookline.config.plugins.catalog import KINDS, Catalog, Entry
from hookline.config.plugins.options import plain
from hookline.config.plugins.plugin import Plugin, load_plugin
from hookline.engine.data import DataSource
from hookline.engine.read_only import ReadOnly
from hookline.engine.words import did_you_mean
from hookline.testing import (
    checks_callback,
    checks_data,
    checks_every_kind,
    checks_loss,
    checks_model,
    checks_optimizer,
    checks_parallel,
    checks_resume,
)
from hookline.testing.kit import Check, Finding, ModelFactory, Subject, run_check
from hookline.testing.report import Report, publish

if TYPE_CHECKING:
    import pytest


def _checks_in(module: ModuleType) -> tuple[Check, ...]:
    return tuple(value for value in vars(module).values() if isinstance(value, Check))


_MODULES: tuple[tuple[ModuleType, ...], ...] = (
    (checks_data,),
    (checks_model,),
    (checks_loss,),
    (checks_optimizer,),
    (checks_parallel,),
    (checks_callback, checks_resume),
)
_CHECKS_OF = {
    kind: tuple(found for module in (checks_every_kind, *modules) for found in _checks_in(module))
    for kind, modules in zip(KINDS, _MODULES, strict=True)
}

CHECKS: Mapping[str, tuple[str, ...]] = ReadOnly(
    {kind: tuple(check.name for check in checks) for kind, checks in _CHECKS_OF.items()}
)
"""The names of the checks of each kind, in the order in which they run."""

RULES: Mapping[str, str] = ReadOnly({check.name: check.rule for each in _CHECKS_OF.values() for check in each})
"""The rule of each check, as a sentence."""


def check_plugin(
    kind: str,
    factory: Any,
    /,
    *,
    data: DataSource | None = None,
    model: ModelFactory | None = None,
    expected_failures: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    **more_options: Any,
) -> Report:
    """Run every check of a kind on a plugin, print a summary, and return the report.

    Args:
        kind: One of ``hookline.config.KINDS``.
        factory: The plugin: a class, a function, the name of an installed plugin, or its ``Entry``.
        data: Data for the runs of the checks. The default is the first that a run accepts of a regression, two classes
            as 0 and 1, and three class indices. Not for the kind ``data``.
        model: A function ``(data) -> model`` for the runs of the checks, for a loss that takes other predictions than
            ``[B, O]``. Not for the kinds ``data`` and ``model``.
        expected_failures: Checks that should fail, each with the reason. One that passes counts as failed. The plugin
            can declare them itself, in its attribute ``__hookline_expected_failures__``.
        options: Options named like another argument of this function.
        **more_options: The plugin's options: plain values as in a config.

    Raises:
        AssertionError: When checks fail; lists each with its rule, the finding, and what to do.
        ValueError: When the kind or a check in ``expected_failures`` is unknown.
        LookupError: When no plugin of that name is installed.
        TypeError: When the factory is an instance, or an option is given twice.
    """
    report, cause = report_of(
        kind, factory, data=data, model=model, expected_failures=expected_failures, options=options, **more_options
    )
    publish(report)
    sys.stdout.write(f"{report}\n")
    if report.failed:
        raise AssertionError("\n\n".join([report.headline(), *report.failed.values()])) from cause
    return report


def report_of(
    kind: str,
    factory: Any,
    /,
    *,
    data: DataSource | None = None,
    model: ModelFactory | None = None,
    expected_failures: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    **more_options: Any,
) -> tuple[Report, BaseException | None]:
    """Run every check of a kind on a plugin; return the report, and the cause of the first failure."""
    subject = _subject(kind, factory, data, model, options or {}, more_options)
    expected = _expected(expected_failures or {}, subject)
    findings = [run_check(check, subject, expected) for check in _CHECKS_OF[kind]]
    cause = next((finding.cause for finding in findings if finding.verdict == "failed"), None)
    return _report(subject, findings), cause


def conformance(
    kind: str,
    factory: Any,
    /,
    *,
    data: DataSource | None = None,
    model: ModelFactory | None = None,
    expected_failures: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    **more_options: Any,
) -> pytest.MarkDecorator:
    """Return a decorator that parametrizes a pytest test: ``check`` is each check of a kind in turn.

    The arguments are those of ``check_plugin``. The test calls ``check()``.
    """
    import pytest

    subject = _subject(kind, factory, data, model, options or {}, more_options)
    expected = _expected(expected_failures or {}, subject)
    bound = [BoundCheck(check, subject, expected) for check in _CHECKS_OF[kind]]
    return pytest.mark.parametrize("check", bound, ids=[each.check.name for each in bound])


@dataclass(frozen=True)
class BoundCheck:
    """A check bound to a plugin, called by one pytest test.

    Attributes:
        check: The check.
        subject: The plugin.
        expected_failures: Checks that should fail, each with the reason.
    """

    check: Check
    subject: Subject
    expected_failures: Mapping[str, str]

    def __call__(self) -> None:
        """Run the check.

        Raises:
            AssertionError: When it fails.
        """
        __tracebackhide__ = True
        import pytest

        finding = run_check(self.check, self.subject, self.expected_failures)
        publish(_report(self.subject, [finding]))
        if finding.verdict == "skipped":
            pytest.skip(finding.text)
        if finding.verdict == "expected":
            pytest.xfail(finding.text)
        if finding.verdict == "failed":
            raise AssertionError(f"{self.subject}: {finding.text}") from finding.cause


def _subject(
    kind: str,
    factory: Any,
    data: DataSource | None,
    model: ModelFactory | None,
    options: Mapping[str, Any],
    more_options: Mapping[str, Any],
) -> Subject:
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r} of plugin; {did_you_mean(kind, KINDS)}")
    if data is not None and kind == "data":
        raise ValueError("data= is not for a data plugin, which brings its own data")
    if model is not None and kind in ("data", "model"):
        raise ValueError(f"model= is not for a {kind} plugin")
    if twice := sorted(options.keys() & more_options.keys()):
        raise TypeError(f"options given twice, as keywords and in options=: {', '.join(twice)}")
    plugin = _plugin(kind, factory)
    return Subject(plugin, _with_absolute_paths(plugin, {**options, **more_options}), data, Path.cwd(), model)


def _plugin(kind: str, factory: Any) -> Plugin:
    if isinstance(factory, str):
        factory = Catalog.installed().find(kind, factory)
    if isinstance(factory, Entry):
        return load_plugin(factory)
    if not (inspect.isclass(factory) or inspect.isroutine(factory)):
        got = f"got an instance of {type(factory).__name__}"
        raise TypeError(f"{got}, expected a class, a function or a name: each check makes its own instances")
    return Plugin(kind, factory.__name__, factory)


def _with_absolute_paths(plugin: Plugin, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with relative paths made absolute, because checks work in other folders."""
    known = {option.name: option for option in plugin.options}
    absolute = dict(options)
    for name, value in options.items():
        if name in known and isinstance(value, str | Path):
            try:
                converted = known[name].convert(plain(value), Path.cwd())
            except ValueError:
                continue  # the run explains the error better
            absolute[name] = plain(converted)
    return absolute


def _expected(given: Mapping[str, str], subject: Subject) -> Mapping[str, str]:
    """Return the checks that should fail: those that the plugin declares, and those given."""
    kind = subject.plugin.kind
    expected = {**getattr(subject.plugin.target, "__hookline_expected_failures__", {}), **given}
    for name in expected:
        if name not in CHECKS[kind]:
            hint = did_you_mean(name, CHECKS[kind])
            raise ValueError(f"expected_failures names {name!r}, but the kind {kind!r} has no such check; {hint}")
    return expected


def data_of(entry: Entry, options: Mapping[str, Any]) -> DataSource:
    """Return the data of a data plugin, to check other plugins with.

    Raises:
        PluginError: When no run can be built with it.
    """
    subject = _subject("data", entry, None, None, options, {})
    if subject.refusals:
        raise entry.error(f"the data of {entry} cannot be used: {subject.refusals[0]}")
    return subject.run().data


def _report(subject: Subject, findings: list[Finding]) -> Report:
    def texts(verdict: str) -> Mapping[str, str]:
        return ReadOnly({f.check.name: f.text for f in findings if f.verdict == verdict and f.text})

    ran = tuple(finding.check.name for finding in findings if finding.verdict != "skipped")
    return Report(str(subject), ran, texts("skipped"), texts("failed"), texts("expected"), texts("passed"))
