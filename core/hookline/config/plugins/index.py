"""The index: known plugins of distributions that need not be installed, read from files of installed ones.

A distribution names its file in the entry-point group ``hookline.index``: ``acme_index:index.toml`` is the file
``index.toml`` in the package ``acme_index``, which is not imported. The index suggests text: nothing that it names is
fetched, imported or run.
"""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import tomli

from hookline.config.files import read_file
from hookline.config.plugins.catalog import INDEX, OWN_DISTRIBUTION, Catalog
from hookline.config.plugins.metadata import normalized_name
from hookline.config.plugins.requirements import unmet
from hookline.engine.errors import text_of
from hookline.engine.words import printable

_MAX_BYTES = 2**20
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
# A name, extras, a range of versions (PEP 508), and nothing else: no address, no marker. The import of packaging, which
# could check it, takes longer than all else.
_Requirement = Annotated[
    str,
    msgspec.Meta(
        max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._, -]+\])?([<>=!~][A-Za-z0-9.<>=!~*+, ]+)?$"
    ),
]


class KnownPlugin(msgspec.Struct, frozen=True, order=True):
    """A plugin that an index lists.

    Attributes:
        kind: Its kind, or ``command`` or ``export``.
        name: The name by which a config or a command line names it.
        distribution: The distribution to install for it, as pip takes it: with extras in brackets, or a range of
            versions, if the plugin needs them.
        summary: One sentence.
        homepage: Address of its documentation; empty if it has none.
        listed_by: The distribution whose index lists it; not part of the file.
    """

    kind: _Text
    name: _Text
    distribution: _Requirement
    summary: _Text
    homepage: Annotated[str, msgspec.Meta(max_length=200, pattern="^(https://.*)?$")] = ""
    listed_by: str = ""

    @property
    def line(self) -> str:
        """Its texts, to search in."""
        return f"{self.kind} {self.name} {self.distribution} {self.summary}"

    @property
    def is_installed(self) -> bool:
        """Whether its distribution is installed, with its extras and in the right version."""
        try:
            return unmet(self.distribution) is None
        except ValueError:  # no versions of this form
            return False

    @property
    def how_to_install(self) -> str:
        """The command that installs it."""
        # Installed and yet without the plugin: another release may have it.
        upgrade = "--upgrade " if self.is_installed else ""
        return f"pip install {upgrade}{shlex.quote(self.distribution)}"


class Index:
    """What the indexes of the installed distributions list.

    Attributes:
        plugins: The plugins, sorted.
        problems: One sentence for each index that cannot be read.
    """

    def __init__(self, plugins: Sequence[KnownPlugin], problems: Sequence[str]) -> None:
        self.plugins, self.problems = plugins, problems
        self._found: dict[tuple[str, str], list[KnownPlugin]] = {}
        for plugin in plugins:
            self._found.setdefault((plugin.kind, normalized_name(plugin.name)), []).append(plugin)

    def hints(self, kind: str, name: str) -> list[str]:
        """Return a hint for each distribution that is known to offer a plugin that is not installed."""
        return [
            f"{name!r} is in the distribution {plugin.distribution}: {plugin.how_to_install}"
            + (f" (says the index of {plugin.listed_by})" if plugin.listed_by else "")
            for plugin in self._found.get((kind, normalized_name(name.rpartition("/")[2])), ())
        ]


def read_index(catalog: Catalog) -> Index:
    """Read the indexes of the distributions of a catalog, without importing any; a faulty one is a problem."""
    plugins: list[KnownPlugin] = []
    problems: list[str] = []
    for entry in catalog.of_kind(INDEX):
        if entry.blocked_by:
            continue
        try:
            plugins += _plugins_of(entry.value, "" if entry.distribution == OWN_DISTRIBUTION else entry.source)
        except Exception as error:  # noqa: BLE001 - a faulty index must not hide the others, nor the error of a config
            problems.append(printable(f"the index of {entry.source} cannot be read: {text_of(error)}"))
    return Index(sorted(plugins), problems)


def _plugins_of(value: str, listed_by: str) -> list[KnownPlugin]:
    document = tomli.loads(read_file(_path_of(value), _MAX_BYTES).decode())
    plugins = msgspec.convert(document.get("plugin", []), list[KnownPlugin])
    own = {"listed_by": listed_by}  # whatever the file says
    # Texts of others: no line of an error or of a list may be forged with them.
    return [
        msgspec.structs.replace(
            plugin, **{name: printable(text) for name, text in msgspec.structs.asdict(plugin).items()} | own
        )
        for plugin in plugins
    ]


def _path_of(value: str) -> Path:
    """Return the path of a file ``package:file`` or ``package.folder:file``."""
    package, _, file = value.partition(":")
    top, *folders = package.split(".")
    spec = importlib.util.find_spec(top)  # of a name without a dot: nothing is imported
    for place in (spec and spec.submodule_search_locations) or ():
        path = Path(place, *folders, file)
        if path.is_file():
            return path.resolve()  # some installers make links
    raise FileNotFoundError(f"there is no file {value!r}")
