"""Plugins in a file that is not installed: ``@plugin`` marks them, and a program names the file.

Only the program that creates a run can name a file, such as the command line with ``--plugin``; a config cannot. So a
config never runs code that its user did not install or name.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeVar

from hookline.config.plugins.catalog import EXPORT, KINDS, Entry
from hookline.config.plugins.foreign_errors import describe_error
from hookline.engine.errors import ConfigError, PluginError
from hookline.engine.words import did_you_mean

_MARK = "__hookline_plugins__"
_Target = TypeVar("_Target", bound=Callable[..., Any])


@dataclass(frozen=True)
class LocalEntry(Entry):
    """A plugin in a file; its ``distribution`` is the path of the file as given, and it has no version.

    Attributes:
        target: The imported class or function.
    """

    target: Any = field(default=None, compare=False, repr=False)

    @property
    def is_installed(self) -> bool:
        """Always False."""
        return False

    def load(self) -> Any:
        """Return the imported class or function."""
        return self.target


def plugin(kind: str, name: str) -> Callable[[_Target], _Target]:
    """Mark a class or function as a plugin of its file.

    A plugin is a class with methods marked ``@hookimpl``, or a plain class or function that builds the component of its
    kind; an export format is a class as ``hookline.trained.ExportFormat``. The mark itself has no effect; a run can use
    the plugin if its file is named, with ``hookline train --plugin FILE`` or ``entries_of_file``.

    Args:
        kind: ``data``, ``model``, ``loss``, ``optimizer``, ``parallel``, ``callback`` or ``export``.
        name: The plugin's name in a config: a letter or digit, then letters, digits and ``- _ .``.

    Raises:
        ValueError: When there is no such kind, or the name has other characters.

    Example:
        >>> @plugin("loss", "cubic")
        ... def cubic(prediction, target):
        ...     return (prediction - target).abs().pow(3).mean()
    """
    if kind not in (*KINDS, EXPORT):
        raise ValueError(f"{kind!r} is not a kind of plugin; {did_you_mean(kind, (*KINDS, EXPORT))}")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, flags=re.ASCII):
        raise ValueError(f"{name!r} is not a valid plugin name: use letters and digits, and - _ . after the first")

    def mark(target: _Target) -> _Target:
        setattr(target, _MARK, (*vars(target).get(_MARK, ()), (kind, name)))
        return target

    return mark


def entries_of_file(path: str | os.PathLike[str]) -> tuple[LocalEntry, ...]:
    """Import a Python file and return its plugins.

    The file cannot import modules from its own folder.

    Raises:
        ConfigError: When there is no such file.
        PluginError: When its import fails, or it offers no plugin, or two with the same kind and name.

    Example:
        >>> entries_of_file("no_such.py")
        Traceback (most recent call last):
        hookline.engine.errors.ConfigError: there is no plugin file 'no_such.py'
          = give the path of a Python file, such as ./net.py
    """
    shown = os.fspath(path)
    if not Path(path).is_file():
        hint = "give the path of a Python file, such as ./net.py"
        raise ConfigError(f"there is no plugin file {shown!r}", hint=hint)
    start = time.perf_counter()
    module = _import(Path(path), shown)
    entries = tuple(_marked(module, shown, time.perf_counter() - start))
    if not entries:
        hint = 'mark a class or function in it: @hookline.plugin("model", "net")'
        raise PluginError(f"{shown} offers no plugin", distribution=shown, hint=hint)
    offered = [(entry.kind, entry.name) for entry in entries]
    for kind, name in offered:
        if offered.count((kind, name)) > 1:
            raise PluginError(f"{shown} offers {kind} {name!r} twice", distribution=shown, hint="rename one of them")
    return entries


class _FreshLoader(SourceFileLoader):
    """Compiles the file each time: Python takes kept bytecode for a file edited within a second to the same size."""

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - required signature
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def _import(path: Path, shown: str) -> ModuleType:
    # A name that is unique for each path and that no import statement can use; dataclasses look up their module by it.
    digest = hashlib.blake2b(os.fsencode(path.resolve()), digest_size=4).hexdigest()
    name = f"<hookline plugin {path.stem} {digest}>"
    spec = importlib.util.spec_from_file_location(name, path.resolve(), loader=None)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{shown!r} is not a Python file", hint="its name must end in .py")
    if isinstance(spec.loader, SourceFileLoader):
        spec.loader = _FreshLoader(name, spec.loader.path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        message = f"{shown} cannot be imported: {describe_error(error)}"
        raise PluginError(message, distribution=shown, hint=_import_hint(error, path)) from error
    return module


def _import_hint(error: BaseException, path: Path) -> str | None:
    if isinstance(error, ModuleNotFoundError) and path.with_name(f"{error.name}.py").exists():
        return f"a plugin file cannot import {error.name}.py from its own folder: install both as a package"
    return None


def _marked(module: ModuleType, shown: str, import_s: float) -> Iterator[LocalEntry]:
    own = {
        id(target): target
        for target in vars(module).values()
        if (inspect.isclass(target) or inspect.isfunction(target)) and target.__module__ == module.__name__
    }
    for target in own.values():
        # From the object's own dictionary, because a subclass of a plugin is not a plugin itself.
        for kind, name in vars(target).get(_MARK, ()):
            yield LocalEntry(kind, name, f"{shown}:{target.__qualname__}", shown, "", import_s=import_s, target=target)
