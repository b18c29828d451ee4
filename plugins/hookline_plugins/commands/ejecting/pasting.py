"""Plain classes and functions of a plugin as source code: pasted from a file, or imported from a distribution."""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hookline import ConfigError

_OWN = ("hookline", "hookline_plugins")
_FUTURE = "__future__"


class Pasted(NamedTuple):
    """Source code of a class or function with all that it needs.

    Attributes:
        imports: Import statements.
        definitions: Its definition, after those of the same file that it uses.
    """

    imports: tuple[str, ...]
    definitions: str


def pasted(target: Any) -> Pasted:
    """Return the definition of a class or function of a file, without the mark of a plugin and Hookline's types.

    Raises:
        ConfigError: When it has no source, or uses Hookline otherwise.
    """
    file, name = inspect.getsourcefile(target), target.__qualname__
    text = Path(file).read_text(encoding="utf-8") if file else ""
    source = _Source(text)
    if name not in source.definitions:
        raise ConfigError(f"{name!r} is not defined at the top of a file")
    needed = source.needed(name)
    imports = {one: source.imports[one] for one in needed if one in source.imports}
    if own := sorted(one for one, line in imports.items() if _module_of(line).partition(".")[0] in _OWN):
        raise ConfigError(f"its code uses {', '.join(own)} of Hookline")
    nodes = sorted({source.definitions[one] for one in needed if one in source.definitions}, key=lambda n: n.lineno)
    lines = [source.future] if source.future else []
    return Pasted((*lines, *dict.fromkeys(imports.values())), "\n\n\n".join(map(source.text_of, nodes)))


def imported(target: Any) -> str:
    """Return the statement that imports a class or function of an installed module.

    Raises:
        ConfigError: When its module imports Hookline.
    """
    module, name = target.__module__, target.__qualname__
    parts = module.split(".")
    for loaded in [".".join(parts[: number + 1]) for number in range(len(parts))]:
        file = getattr(sys.modules[loaded], "__file__", None)
        nodes = list(ast.walk(ast.parse(Path(file).read_bytes()))) if file and file.endswith(".py") else []
        if any(one.partition(".")[0] in _OWN for node in nodes for one in _modules_of(node)):
            raise ConfigError(f"its module {loaded} imports hookline", hint="give the plugin a method `script`")
    return f"from {module} import {name}"


def attributes_of(target: Any, parameter: str) -> list[str]:
    """Return the attributes of a parameter that a class or function uses, sorted.

    Raises:
        ConfigError: When it uses the parameter in another way.
    """
    code = inspect.getsource(target)
    tree = ast.parse(inspect.cleandoc(f"\n{code}"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is(node.value, parameter)}
    bases = [node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    if any(_is(node, parameter) and node not in bases for node in ast.walk(tree)):
        raise ConfigError(f"it passes {parameter!r} on")
    return sorted(used)


def _is(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


class _Source:
    """The top level of a file.

    Attributes:
        imports: The import statement of each imported name.
        definitions: The statement that defines each other name.
        future: The import that changes the meaning of annotations, if there is one.
    """

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self.imports: dict[str, str] = {}
        self.definitions: dict[str, Any] = {}
        self.future = ""
        for node in _statements(ast.parse(text).body):
            if isinstance(node, ast.ImportFrom) and node.module == _FUTURE:
                self.future = ast.unparse(node)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                self.imports |= _imports_of(node)
            else:
                self.definitions |= dict.fromkeys(_names_of(node), node)

    def needed(self, name: str) -> list[str]:
        """Return a name and all names of the top level that its definition uses, directly or not."""
        found, queue = [name], [name]
        while queue:
            node = self.definitions.get(queue.pop())
            used = [] if node is None else _used(node, self._cuts(node))
            new = [
                one for one in dict.fromkeys(used) if one not in found and one in {**self.imports, **self.definitions}
            ]
            found += new
            queue += new
        return found

    def text_of(self, node: Any) -> str:
        """Return the source of a statement without the mark of a plugin and Hookline's types."""
        lines = list(self._lines)
        for part in sorted(self._cuts(node), key=lambda one: (one.lineno, one.col_offset), reverse=True):
            if part in getattr(node, "decorator_list", ()):
                lines[part.lineno - 1 : part.end_lineno] = [""] * (part.end_lineno - part.lineno + 1)
            else:
                line = lines[part.lineno - 1].encode()
                head = line[: part.col_offset].decode().rstrip().removesuffix(":")
                lines[part.lineno - 1] = head + line[part.end_col_offset :].decode()
        first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
        return "\n".join(lines[first - 1 : node.end_lineno]).strip("\n")

    def _cuts(self, node: Any) -> list[Any]:
        """Return the decorators and the annotations of parameters in a statement that name Hookline."""
        marks = [one for one in getattr(node, "decorator_list", ()) if self._is_own(one)]
        annotations = [one.annotation for one in ast.walk(node) if isinstance(one, ast.arg) and one.annotation]
        return [*marks, *(one for one in annotations if self._is_own(one))]

    def _is_own(self, node: ast.AST) -> bool:
        names = [one.id for one in ast.walk(node) if isinstance(one, ast.Name)]
        return any(_module_of(self.imports.get(name, "import x")).partition(".")[0] in _OWN for name in names)


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a file, and those for type checkers alone."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from node.body
        else:
            yield node


def _imports_of(node: ast.Import | ast.ImportFrom) -> Mapping[str, str]:
    found = {}
    for one in node.names:
        name = one.asname or one.name.partition(".")[0]
        alone = ast.Import([one]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [one], node.level)
        found[name] = ast.unparse(alone)
    return found


def _modules_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [one.name for one in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def _module_of(line: str) -> str:
    return _modules_of(ast.parse(line).body[0])[0]


def _names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return [node.name]
    return [one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)]


def _used(node: ast.AST, cuts: Sequence[Any]) -> list[str]:
    """Return the names that a statement uses, without its parts that are cut."""
    gone = {id(part) for cut in cuts for part in ast.walk(cut)}
    names = [one.id for one in ast.walk(node) if isinstance(one, ast.Name) and id(one) not in gone]
    inner = [one for child in ast.walk(node) for one in _modules_of(child)]
    if own := [one for one in inner if one.partition(".")[0] in _OWN]:
        raise ConfigError(f"its code imports {own[0]}")
    return [name for name in names if not hasattr(builtins, name)]


def roots_of(lines: Sequence[str]) -> list[str]:
    """Return the packages that import statements name, without those of Python itself."""
    modules = [
        one.partition(".")[0] for line in lines for node in ast.walk(ast.parse(line)) for one in _modules_of(node)
    ]
    return sorted({one for one in modules if one not in sys.stdlib_module_names})
