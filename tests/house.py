"""Measure the house: lines of the engine, members of ``Run``, entries of rooms, arrows, circles, functions.

Run it from anywhere, with nothing installed: ``python tests/house.py``. It prints each figure beside its bound, and
exits with 1 when one is missed.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"hookline": ROOT / "core" / "hookline", "hookline_plugins": ROOT / "plugins" / "hookline_plugins"}

ENGINE_BOUND = 3273
"""Lines of code that the engine may have; lower it whenever it has fewer."""

EIGHT = ("hookspecs", "host", "hook_call", "loop", "position", "building", "step", "run")
"""The modules to read first."""

MAY_IMPORT = {
    "cli": ("trials", "trained", "testing", "ranks", "runs", "config", "engine", "shortcuts", "sections"),
    "trials": ("trained", "runs", "config", "engine", "shortcuts"),
    "trained": ("runs", "config", "engine", "sections"),
    "testing": ("ranks", "config", "engine", "sections"),
    "ranks": ("runs", "engine"),
    "runs": ("config", "engine"),
    "config": ("engine",),
    "engine": ("shortcuts", "sections"),
    "shortcuts": (),
    "sections": (),
}
"""The rooms of the core, and the rooms that each may import; annotations count."""

MAY_IMPORT_IN_ENGINE = {"loop": ("plugin", "reading"), "plugin": (), "reading": ()}
"""The rooms of the engine; its own modules are the ground floor of all."""


class Figure(NamedTuple):
    """One figure, its bound, and its goal where that is lower."""

    name: str
    value: float
    bound: float
    unit: str = ""
    goal: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether the figure is within its bound."""
        return self.value <= self.bound

    def __str__(self) -> str:
        mark = "ok  " if self.is_met else "MISS"
        goal = f", goal {self.goal:,.5g}" if self.goal is not None else ""
        return f"{mark}  {self.name:58} {self.value:>7,.5g}  at most {self.bound:,.5g}{self.unit}{goal}"


def modules() -> dict[str, Path]:
    """Return every module by its full name; a package has the name of its folder."""
    found: dict[str, Path] = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


def lines_of_code(path: Path) -> int:
    """Return the number of lines that hold code: no docstrings, comments, blank lines."""
    source = path.read_text(encoding="utf-8")
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {n for t in tokens if t.type not in silent for n in range(t.start[0], t.end[0] + 1)}
    texts = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )
    return len(code - {n for node in texts for n in range(node.lineno, (node.end_lineno or node.lineno) + 1)})


def imports(tree: ast.AST, known: Mapping[str, Path]) -> Iterator[str]:
    """Give each module of the house that a module imports: at its top, within functions, for annotations alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in known or node.module in known:
                    yield full if full in known else node.module


def arrows() -> dict[str, set[str]]:
    """Return the modules that each module imports. Doors (``__init__``) have no arrows: they only show the way."""
    known = modules()
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in known.items()}
    doors = {name for name, path in known.items() if path.name == "__init__.py"}
    return {name: set() if name in doors else set(imports(trees[name], known)) - {name} for name in known}


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected parts with several modules (Tarjan 1972, doi:10.1137/0201010)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            part = [stack.pop()]
            while part[-1] != node:
                part.append(stack.pop())
            found.extend([sorted(part)] * (len(part) > 1))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def forbidden(graph: Mapping[str, set[str]]) -> list[str]:
    """Return each arrow from a room into one that it may not import."""
    found = []
    for source, targets in graph.items():
        for target in targets:
            here, there = source.split(".")[1:], target.split(".")[1:]
            if not (here and there and source.startswith("hookline.") and target.startswith("hookline.")):
                continue
            if here[0] != there[0]:
                is_fine = here[0] == "__main__" or there[0] in MAY_IMPORT[here[0]]
            elif here[0] == "engine" and len(there) > 1 and there[1] in MAY_IMPORT_IN_ENGINE:
                is_fine = here[1] == there[1] or there[1] in MAY_IMPORT_IN_ENGINE.get(here[1], ())
            else:
                is_fine = True
            found.extend([f"{source} -> {target}"] * (not is_fine))
    return sorted(found)


def functions() -> Iterator[tuple[int, str]]:
    """Give the length in lines of each function, docstring and comments included, and its place."""
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node, clean=False)
                yield (
                    (node.end_lineno or node.lineno) - node.lineno + 1 - (text.count("\n") + 1 if text else 0),
                    (f"{name}.{node.name}"),
                )


def members(path: Path, name: str) -> set[str]:
    """Return the members of a class: what its body names, and the attributes that its methods set on ``self``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    body = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
    found = {node.name for node in body.body if isinstance(node, ast.FunctionDef)}
    found |= {n.target.id for n in body.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    found |= {
        node.attr
        for node in ast.walk(body)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    return {name for name in found if not name.startswith("__")}


def entries(folder: Path) -> list[str]:
    """Return what a person sees who opens a room: its modules and rooms. A door and a marker for tools are none."""
    names = (path.name for path in folder.iterdir() if path.name not in ("__pycache__", "__init__.py", "py.typed"))
    return sorted(names)


def rooms() -> Iterator[Path]:
    """Give each folder with modules in it."""
    for folder in PACKAGES.values():
        yield from sorted({path.parent for path in folder.rglob("*.py")})


def figures() -> Iterator[Figure]:
    """Give every figure with its bound."""
    known, engine = modules(), PACKAGES["hookline"] / "engine"
    in_engine = {name: lines_of_code(path) for name, path in known.items() if engine in path.parents}
    yield Figure("engine: lines of code", sum(in_engine.values()), ENGINE_BOUND)
    eight = [in_engine.get(name, 0) for name in in_engine if name.rpartition(".")[2] in EIGHT]
    yield Figure(f"engine: lines of code of {', '.join(EIGHT)}", sum(eight), 1000)
    yield Figure("members of Run", len(members(engine / "loop" / "run.py", "Run")), 45)
    yield Figure("members of RunView", len(members(engine / "view.py", "RunView")), 36, goal=35)
    for room in rooms():
        most = 12 if room == PACKAGES["hookline"] else 16
        yield Figure(f"entries in {room.relative_to(ROOT)}", len(entries(room)), most)
    lengths = sorted(length for length, _ in functions())
    yield Figure("95th percentile of the length of functions", lengths[int(0.95 * len(lengths))], 25, " lines")
    yield Figure("longest function", lengths[-1], 60, " lines")
    graph = arrows()
    yield Figure("arrows that no room may have", len(forbidden(graph)), 0)
    yield Figure("circles of modules, annotations included", len(circles(graph)), 0)


def main() -> int:
    """Print the figures, and what to mend; return the exit code."""
    measured = list(figures())
    print(*measured, sep="\n")
    graph = arrows()
    print(*(f"forbidden: {arrow}" for arrow in forbidden(graph)), sep="\n")
    print(*(f"circle: {' '.join(circle)}" for circle in circles(graph)), sep="\n")
    return 0 if all(figure.is_met for figure in measured) else 1


if __name__ == "__main__":
    sys.exit(main())
