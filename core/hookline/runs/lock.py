"""The lock file: the code of a run's plugins, each distribution with its version and a hash of each file.

The hashes are taken from the files on the disk before anything is imported, so a changed file is noticed whatever the
metadata say.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Literal

import msgspec

from hookline.config.files import read_file, reason
from hookline.config.plugins.catalog import OWN_DISTRIBUTION, Entry
from hookline.engine.errors import ConfigError, Fault
from hookline.engine.hookspecs import API_VERSION
from hookline.runs.disk.formats import NOT_JSON

_MAX_FILES_SHOWN = 5
_MAX_LOCK_BYTES = 2**26
"""Enough for a quarter of a million files."""


class LockedPlugin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plugin that a run uses.

    Attributes:
        kind: One of ``KINDS``.
        name: Its name.
        distribution: Name of the distribution or path of the file that provides it.
    """

    kind: str
    name: str
    distribution: str


class LockedDistribution(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The version and files of a distribution at the time of locking.

    Attributes:
        version: Its version; empty for a file.
        files: SHA-256 (FIPS 180-4) of each file by its path, in hexadecimal digits.
    """

    version: str
    files: dict[str, str]

    @property
    def sha256(self) -> str:
        """SHA-256 over all files: of the sorted lines ``HASH  PATH``, as ``sha256sum`` writes them."""
        lines = sorted(f"{digest}  {path}\n" for path, digest in self.files.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The plugins of a run and the distributions that provide them.

    Attributes:
        hookline: Version of Hookline.
        hook_api: Version of the hooks.
        plugins: The plugins by table, such as ``callbacks.stop``.
        distributions: The distributions by name.
        format: Version of the format.
    """

    hookline: str
    hook_api: str
    plugins: dict[str, LockedPlugin]
    distributions: dict[str, LockedDistribution]
    format: Literal[1] = 1

    def to_json(self) -> str:
        """Return the lock as JSON text, for ``read_lock``."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode() + "\n"

    def drift(self, now: Lock) -> list[str]:
        """Return the differences of the code in a later lock, one sentence each."""
        return [text for name, found in now.distributions.items() for text in self._drift_of(name, found)]

    def drift_of_file(self, path: str) -> list[str]:
        """Return the differences of a plugin file from the lock, without importing it."""
        return list(self._drift_of(path, LockedDistribution("", {path: _sha256(Path(path))})))

    def drift_of(self, entry: Entry) -> list[str]:
        """Return the differences of a plugin's distribution from the lock."""
        return list(self._drift_of(entry.distribution, _locked(entry)))

    def check(self, entry: Entry) -> None:
        """Check that a plugin is what was locked; for ``load_config(vet=lock.check)``.

        Raises:
            PluginError: When it is not; carries every difference.
        """
        if drift := self.drift_of(entry):
            hint = "if that is as it should be, make the lock again: hookline lock"
            raise entry.error(f"{entry} is not what was locked", hint=hint, faults=[Fault(text) for text in drift])

    def _drift_of(self, name: str, found: LockedDistribution) -> Iterator[str]:
        locked = self.distributions.get(name)
        if locked is None:
            yield f"{name} is not in the lock"
            return
        if locked.version != found.version:
            yield f"{name} {locked.version} is locked, but {found.version} is installed"
        changes = [
            (path, "is new" if path not in locked.files else "is missing" if path not in found.files else "was changed")
            for path in sorted(locked.files.keys() | found.files.keys())
            if locked.files.get(path) != found.files.get(path)
        ]
        of = "" if name in found.files else f" of {name}"
        for path, change in changes[:_MAX_FILES_SHOWN]:
            yield f"{path}{of} {change}"
        if len(changes) > _MAX_FILES_SHOWN:
            yield f"{len(changes) - _MAX_FILES_SHOWN} more files{of} differ"


def make_lock(entries: Mapping[str, Entry]) -> Lock:
    """Return the lock of plugins, given by table. Their files are read, but not imported.

    Raises:
        PluginError: When a distribution does not list its files, or a file cannot be read.
    """
    by_distribution = {entry.distribution: entry for entry in entries.values()}
    return Lock(
        hookline=version(OWN_DISTRIBUTION),
        hook_api=API_VERSION,
        plugins={label: LockedPlugin(e.kind, e.name, e.distribution) for label, e in entries.items()},
        distributions={name: _locked(entry) for name, entry in sorted(by_distribution.items())},
    )


def read_lock(path: str | os.PathLike[str]) -> Lock:
    """Read a lock file.

    Raises:
        ConfigError: When the file cannot be read, or is not a valid lock.
    """
    shown, hint = os.fspath(path), "make it with: hookline lock"
    try:
        # A lock may be a link, like any file that a person names.
        data = read_file(Path(os.path.realpath(path)), _MAX_LOCK_BYTES)
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise ConfigError(f"the lock {shown!r} cannot be read: {why}", hint=hint) from error
    try:
        return msgspec.json.decode(data, type=Lock)
    except NOT_JSON as error:
        raise ConfigError(f"{shown!r} is not a valid lock: {error}", hint=hint) from error


def _locked(entry: Entry) -> LockedDistribution:
    try:
        files = {name: _sha256(path) for name, path in sorted(_files(entry))}
    except OSError as error:
        raise entry.error(f"{entry} cannot be locked: {error.filename}: {error.strerror}") from error
    return LockedDistribution(entry.version, files)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files(entry: Entry) -> Iterator[tuple[str, Path]]:
    """Yield the files with the code of a plugin: name and path."""
    if not entry.is_installed:
        yield entry.distribution, Path(entry.distribution)
        return
    try:
        found = distribution(entry.distribution)
    except PackageNotFoundError as error:
        raise entry.error(f"{entry} cannot be locked: {entry.distribution} is not installed") from error
    if _is_editable(found):
        yield from _source_files(found)
        return
    if found.files is None:
        hint = f"install {entry.distribution} again"
        raise entry.error(f"{entry} cannot be locked: its distribution has no RECORD of its files", hint=hint)
    root = Path(str(found.locate_file("")))
    # Scripts differ from one installation to the next, and so do most metadata.
    recorded = {Path(file) for file in found.files if file.parts[0] != ".."}
    wanted = {file for file in recorded if not file.parts[0].endswith(".dist-info") or file.name == "entry_points.txt"}
    # A file that was added next to the others can be imported like them.
    folders = {file.parent for file in wanted if file.suffix != ".pth" and not file.parent.name.endswith(".dist-info")}
    beside = {path.relative_to(root) for folder in folders - {Path()} for path in (root / folder).glob("*")}
    for file in sorted(wanted | beside):
        if file.suffix != ".pyc" and (root / file).is_file():
            yield file.as_posix(), root / file


def _is_editable(found: Distribution) -> bool:
    # https://packaging.python.org/en/latest/specifications/direct-url/
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable"))


def _source_files(found: Distribution) -> Iterator[tuple[str, Path]]:
    """Yield the source files of the packages that a distribution's entry points name."""
    for name in sorted({point.value.partition(":")[0].partition(".")[0] for point in found.entry_points}):
        spec = importlib.util.find_spec(name)
        for folder in map(Path, (spec and spec.submodule_search_locations) or ()):
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.suffix != ".pyc":
                    yield f"{name}/{path.relative_to(folder).as_posix()}", path
        if spec and not spec.submodule_search_locations and spec.origin:
            yield Path(spec.origin).name, Path(spec.origin)
