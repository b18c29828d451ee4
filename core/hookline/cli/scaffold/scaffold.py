"""Generator of a new distribution with one plugin.

The files are made from the templates next to this module: those in ``templates/any-kind`` and those in the folder of
the kind. ``MODULE`` in a path is replaced by the name of the import package, and ``string.Template`` replaces ``$name``
and the like in a text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from string import Template

from hookline.config.plugins.catalog import OWN_DISTRIBUTION, Catalog
from hookline.config.plugins.metadata import normalized_name
from hookline.engine.errors import Fault

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_VALUES = ("true", "false", "inf", "nan", "off")
"""Words that ``model=WORD`` does not read as a plugin name: TOML values, and the word that disables a callback."""


@dataclass(frozen=True)
class Scaffold:
    """New distribution with one plugin.

    Attributes:
        kind: One of ``KINDS``.
        name: Name of the plugin.

    Example:
        >>> new = Scaffold("model", "deep-net")
        >>> new.distribution, new.module, new.class_name, new.use
        ('hookline-deep-net', 'hookline_deep_net', 'DeepNetModel', 'model=deep-net')
    """

    kind: str
    name: str

    @property
    def distribution(self) -> str:
        """Name of the distribution and of its folder."""
        return f"{OWN_DISTRIBUTION}-{self.name}"

    @property
    def module(self) -> str:
        """Name of the import package."""
        return self.distribution.replace("-", "_")

    @property
    def class_name(self) -> str:
        """Name of the plugin class; its suffix, the kind, distinguishes it from the classes that it uses."""
        words = self.name.removesuffix(f"-{self.kind}").split("-")
        return "".join(map(str.capitalize, (*words, self.kind)))

    @property
    def use(self) -> str:
        """Override with which a run uses the plugin."""
        return f"callbacks.{self.name}={self.name}" if self.kind == "callback" else f"{self.kind}={self.name}"

    def faults(self, catalog: Catalog) -> list[Fault]:
        """Return the reasons why it cannot be created, given the installed plugins."""
        if not _NAME.fullmatch(self.name):
            message = f"{self.name!r} is not a valid plugin name: expected lowercase letters, digits and single hyphens"
            return [Fault(f"{message}, starting with a letter", hint=self._suggestion())]
        if self.name in _VALUES:
            message = f"{self.name!r} is not a valid plugin name: '{self.use}' would be read as a value"
            return [Fault(message, hint=f"for example '{self.name}-{self.kind}'")]
        return [*self._faults_of_distribution(catalog), *self._faults_of_name(catalog)]

    def files(self, version: str) -> dict[str, str]:
        """Return the text of each file by its path in the folder, with ``/`` as separator.

        Args:
            version: Version of Hookline that the plugin is written for.
        """
        words = {name: getattr(self, name) for name in ("distribution", "module", "class_name", "use")}
        words |= {**asdict(self), "requires": compatible_versions(version)}
        templates = files("hookline.cli.scaffold") / "templates"
        return {
            path.replace("MODULE", self.module): Template(text).substitute(words)
            for folder in ("any-kind", self.kind)
            for path, text in _texts(templates / folder)
        }

    def _suggestion(self) -> str | None:
        plain = unicodedata.normalize("NFKD", self.name).encode("ascii", "ignore").decode()
        parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", plain).lower()
        suggested = re.sub(r"[^a-z0-9]+", "-", parted).strip("-")
        if suggested[:1].isdigit():
            suggested = f"{self.kind}-{suggested}"
        return f"for example {suggested!r}" if suggested else None

    def _faults_of_distribution(self, catalog: Catalog) -> Iterator[Fault]:
        """Yield a fault if an installed distribution has the same name or the same import package."""
        taken = {
            entry.distribution: entry
            for entry in catalog.entries
            if normalized_name(entry.distribution) == self.distribution
            or re.split(r"[.:]", entry.value)[0] == self.module
        }
        for entry in taken.values():
            message = f"{entry.source} is installed and already uses the distribution name {self.distribution!r}"
            hint = "choose another name, add the plugin to that distribution, or uninstall it"
            yield Fault(f"{message} or the package {self.module!r}", hint=hint)

    def _faults_of_name(self, catalog: Catalog) -> Iterator[Fault]:
        """Yield a fault if an installed distribution has a plugin of this name."""
        for entry in catalog.of_kind(self.kind):
            if entry.name == self.name and normalized_name(entry.distribution) != self.distribution:
                message = f"{entry} is installed, so {self.name!r} would be ambiguous"
                names = f"{entry.qualified_name!r} or '{self.distribution}/{self.name}'"
                yield Fault(f"{message}: configs would have to name {names}", hint="choose another name")


def compatible_versions(version: str) -> str:
    """Return the versions of Hookline compatible with a plugin written for ``version``, as a requirement specifier.

    Before 1.0 a minor release may break plugins, later only a major one: https://semver.org, items 4 and 8.

    >>> compatible_versions("0.1.3")
    '>=0.1,<0.2'
    >>> compatible_versions("1.4.0")
    '>=1.4,<2'
    >>> compatible_versions("0.2.0.dev1+local")
    '>=0.2.0.dev1,<0.3'
    """
    public = version.partition("+")[0]
    major, minor, *_ = map(int, re.findall(r"\d+", public))
    # >=0.2 would exclude its own pre-releases.
    first = f"{major}.{minor}" if re.fullmatch(r"[\d.]+", public) else public
    return f">={first},<{f'0.{minor + 1}' if major == 0 else major + 1}"


def _texts(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each template in a folder."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        path = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _texts(entry, f"{path}/")
        else:
            yield path.removesuffix(".tmpl"), entry.read_text(encoding="utf-8")
