"""Plugins of a file that is not installed: ``@plugin`` names what the file offers, and a program names the file.

Only the program that makes a run can name a file, such as the command line with ``--plugin``; a config cannot. So a
config never makes anything run that its reader did not install or name.
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
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from hookline.engine.errors import ConfigError, PluginError, describe_error
from hookline.engine.plugin.catalog import KINDS, Entry
from hookline.engine.words import did_you_mean

_MARK = "__hookline_plugins__"
_Target = TypeVar("_Target", bound=Callable[..., Any])


@dataclass(frozen=True)
class LocalEntry(Entry):
    """A plugin of a file; its ``distribution`` is the file's path as it was given, and it has no version.

    Attributes:
        target: The class or function, which was imported with the file.
    """

    target: Any = field(default=None, compare=False, repr=False)

    @property
    def is_installed(self) -> bool:
        """Always False: it is a file's."""
        return False

    def load(self) -> Any:
        """Return the object."""
        return self.target


def plugin(kind: str, name: str) -> Callable[[_Target], _Target]:
    """Name a class or function as a plugin of the file in which it stands.

    What can be a plugin: a class with methods marked ``@hookimpl``, or a plain class or function that builds the
    component of its kind. The mark does nothing by itself; a run can use the plugin when its file is named, with
    ``hookline train --plugin FILE`` or ``entries_of_file``.

    Args:
        kind: ``data``, ``model``, ``loss``, ``optimizer`` or ``callback``.
        name: The name by which a config calls it: letters, digits, and ``- _ .`` after the first.

    Raises:
        ValueError: When there is no such kind, or the name has other characters.

    Example:
        >>> @plugin("loss", "cubic")
        ... def cubic(prediction, target):
        ...     return (prediction - target).abs().pow(3).mean()
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of plugin; {did_you_mean(kind, KINDS)}")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, flags=re.ASCII):
        raise ValueError(f"{name!r} is no plugin's name: letters, digits, and - _ . after the first")

    def mark(target: _Target) -> _Target:
        setattr(target, _MARK, (*vars(target).get(_MARK, ()), (kind, name)))
        return target

    return mark


def entries_of_file(path: str | os.PathLike[str]) -> tuple[LocalEntry, ...]:
    """Import a Python file, and return the plugins that it offers.

    The folder of the file is not searched for modules.

    Raises:
        ConfigError: When there is no such file.
        PluginError: When its import fails, or it offers no plugin, or two of one kind and name.

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
            raise PluginError(f"{shown} offers two plugins {kind} {name!r}", distribution=shown, hint="rename one")
    return entries


def _import(path: Path, shown: str) -> ModuleType:
    # A name of its own for each path, which no import statement can mean; data classes look their module up by it.
    digest = hashlib.blake2b(os.fsencode(path.resolve()), digest_size=4).hexdigest()
    name = f"<hookline plugin {path.stem} {digest}>"
    spec = importlib.util.spec_from_file_location(name, path.resolve(), loader=None)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{shown!r} is no Python file", hint="its name must end in .py")
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
        return f"{error.name}.py lies beside it, but a plugin file stands alone: install both as a package"
    return None


def _marked(module: ModuleType, shown: str, import_s: float) -> Iterator[LocalEntry]:
    own = {
        id(target): target
        for target in vars(module).values()
        if (inspect.isclass(target) or inspect.isfunction(target)) and target.__module__ == module.__name__
    }
    for target in own.values():
        # From the object's own dictionary: a subclass of a plugin is not that plugin.
        for kind, name in vars(target).get(_MARK, ()):
            yield LocalEntry(kind, name, f"{shown}:{target.__qualname__}", shown, "", import_s=import_s, target=target)
