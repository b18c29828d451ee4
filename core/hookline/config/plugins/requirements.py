"""Requirements between distributions, checked before anything is imported."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution, version
from typing import TYPE_CHECKING

from hookline.config.plugins.catalog import OWN_DISTRIBUTION, Entry
from hookline.config.plugins.metadata import normalized_name

if TYPE_CHECKING:
    from packaging.requirements import Requirement


def unmet(requirement: str) -> str | None:
    """Return why a requirement such as ``acme-plugins>=1.2,<2`` is not met; None if it is.

    Raises:
        ValueError: When the text is not a valid requirement (PEP 508), or gives a URL.
    """
    wanted = _parsed(requirement)
    if wanted.url:
        raise ValueError(f"{requirement!r} gives a URL; give a name and a range of versions")
    if wanted.marker and not wanted.marker.evaluate():
        return None
    return _unmet(wanted, set())


def _unmet(wanted: Requirement, asked: set[str]) -> str | None:
    """Return why a requirement or one of its extras is not met; ``asked`` are those that are being looked at."""
    try:
        found = distribution(wanted.name)
    except PackageNotFoundError:
        return f"{wanted.name} is not installed"
    if "Version" not in found.metadata:
        return f"{wanted.name} is installed without a version"
    installed = found.metadata["Version"]
    if not wanted.specifier.contains(installed, prereleases=True):
        return f"{wanted.name} {installed} is installed"
    asked.add(str(wanted))  # extras can ask for each other
    needed = [each for extra in sorted(wanted.extras) for each in _of_extra(found.requires or (), extra)]
    return next((reason for each in needed if str(each) not in asked and (reason := _unmet(each, asked))), None)


def _of_extra(requires: Iterable[str], extra: str) -> Iterable[Requirement]:
    """Yield the requirements that an extra adds, without their markers."""
    for needed in map(_parsed, requires):
        marker, needed.marker = needed.marker, None
        if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            yield needed


def check_fits(entry: Entry) -> None:
    """Check that the distribution of a plugin supports the running version of Hookline, by its ``Requires-Dist``.

    Raises:
        PluginError: When it does not, or its requirements cannot be read.
    """
    if not entry.is_installed or normalized_name(entry.distribution) == OWN_DISTRIBUTION:
        return
    running = version(OWN_DISTRIBUTION)
    try:
        requires = distribution(entry.distribution).requires or ()
        unfit = [str(wanted) for wanted in _of_hookline(requires) if not wanted.specifier.contains(running, True)]
    except PackageNotFoundError:
        return  # an entry created by a program
    except Exception as error:
        raise entry.error(f"cannot read the requirements of {entry}: {error}") from error
    if unfit:
        hint = f"install a release of {entry.distribution} for Hookline {running}, or the Hookline that it requires"
        raise entry.error(f"{entry} requires {', '.join(unfit)}, but Hookline {running} is installed", hint=hint)


def _of_hookline(requires: Iterable[str]) -> Iterable[Requirement]:
    for wanted in map(_parsed, requires):
        if normalized_name(wanted.name) == OWN_DISTRIBUTION and (not wanted.marker or wanted.marker.evaluate()):
            yield wanted


def _parsed(requirement: str) -> Requirement:
    # The import takes tens of milliseconds, and most runs do not need it.
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(requirement)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{requirement!r} is not a requirement like 'acme-plugins>=1.2,<2': {reason}") from None
