"""The pages of the docs: their code blocks, and their commands run again, as a reader would.

A block that begins with ``# file: NAME`` is a file. Comments in the source of a page say how its commands are run:

- ``<!-- replay: COMMAND -->`` runs a command that the page does not show, such as one that makes files for the next;
  ``$FIXTURES`` is the folder of the data sets;
- ``<!-- replay in a new folder -->`` leaves the files of the commands above behind;
- ``<!-- replay with: DISTRIBUTION... -->`` installs distributions of ``tests/fixtures``, for the whole page;
- ``<!-- replay if installed: PACKAGE... -->`` skips the page where an optional package is missing;
- ``<!-- replay without figures -->`` before a block compares its words and no figures, because they are times;
- ``<!-- not replayed: REASON -->`` before a block leaves it out.

In an output that is shown, ``...`` stands for any text; times, dates, hashes and versions of other software are not
compared.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from support import FIXTURES, ROOT, Environment, run, warm_program

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOLERANCE = 0.01
"""Relative error of a figure that another processor may cause: a run of some hundred steps amplifies its rounding."""

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PRINTS = re.compile(r"\n\nIt prints:\n\n```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)
"""The output of a block that prints."""
_FILE = re.compile(r"# (part of |end of |)file: (\S+)\n")
"""The first line of a block that is a file, or that stands in one, or that is to be put at its end."""
_COMMENT = re.compile(r"^<!-- (replay|not replayed)\b(.*?)\s*-->$", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?")
_VARYING = re.compile(
    r"(?<=  )\d+\.\d\d$|in \d+\.\d\d ?s$|\d+\.\d+ m?s\b|\b\d+ ms\b"  # seconds
    r"|\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?: UTC|Z)?"  # dates
    r"|(?<!\.)\b(?=[0-9]*[a-f])[0-9a-f]{16,64}\b"  # hashes
    r"|with \d+ files"  # of Hookline itself
    r"|\b(?:torch|pluggy|python|numpy)\"?:? \"?\d[\w.+]*",  # versions
    re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        page: Its page.
        line: Its line in the page.
        language: Its language.
        text: Its lines.
        printed: The output that the page shows below it, if any.
        comments: The comments about replaying that stand between it and the block before.
    """

    page: Path
    line: int
    language: str
    text: str
    printed: str | None = None
    comments: tuple[str, ...] = ()

    @property
    def file(self) -> str | None:
        """The name of the file that the block belongs to, if its first line says so."""
        found = _FILE.match(self.text)
        return found[2] if found else None

    def place(self, folder: Path) -> None:
        """Write the file or its end, or compare the part of it."""
        found = _FILE.match(self.text)
        assert found is not None
        path, text = folder / found[2], self.text[found.end() :]
        if found[1] == "part of ":
            assert text in path.read_text(), f"{self} is not what the file says"
        elif found[1] == "end of ":
            path.write_text(path.read_text() + text)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.text)  # with its first line, as a reader copies it

    def commands(self) -> list[tuple[str, str]]:
        """Return the commands with the output that is shown for each."""
        if self.language != "console":
            return []
        return re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", self.text, re.MULTILINE)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page."""
    return list(_blocks(page))


def _blocks(page: Path) -> Iterator[Block]:
    text, end = page.read_text(), 0
    for fence in _FENCE.finditer(text):
        comments = tuple(f"{one[1]}{one[2]}" for one in _COMMENT.finditer(text, end, fence.start()))
        end = fence.end()
        shown = _PRINTS.match(text, end)
        yield Block(page, text.count("\n", 0, fence.start()) + 1, fence[1], fence[2], shown and shown[1], comments)


def distributions(page: Path) -> list[str]:
    """Return the distributions that the commands of a page need."""
    return [name for block in blocks(page) for name in _arguments(block, "replay with: ").split()]


def missing(page: Path) -> list[str]:
    """Return the optional packages that the commands of a page need, and that are not installed."""
    needed = [name for block in blocks(page) for name in _arguments(block, "replay if installed: ").split()]
    return [name for name in needed if find_spec(name) is None]


def _arguments(block: Block, beginning: str) -> str:
    return " ".join(each.removeprefix(beginning) for each in block.comments if each.startswith(beginning))


def replay(page: Path, environment: Environment, folders: Iterator[Path]) -> None:
    """Run the commands of a page in their order, and compare what they print with what the page shows."""
    folder = next(folders)
    for block in blocks(page):
        for comment in block.comments:
            if comment == "replay in a new folder":
                folder = next(folders)
            elif comment.startswith("replay: "):
                output_of(comment.removeprefix("replay: "), folder, environment)
        if any(comment.startswith("not replayed: ") for comment in block.comments):
            continue
        if block.file:
            block.place(folder)
        for command, shown in block.commands():
            got = output_of(command, folder, environment)
            has_figures = "replay without figures" not in block.comments
            assert_shows(shown, got, f"{block}: {command}", has_figures=has_figures)


def output_of(command: str, folder: Path, environment: Environment) -> str:
    """Return what a command prints."""
    if command.startswith("pip install "):
        # The environment has no pip of its own, and no network for what the extra names.
        words = shlex.split(command)[2:]
        environment.install(*words[:-1], folder / words[-1].partition("[")[0])
        return ""
    path = f"{environment.python.parent}{os.pathsep}{os.environ['PATH']}"
    if environment.python == Path(sys.executable):
        path = f"{warm_program().parent}{os.pathsep}{path}"
    # Unbuffered, so that results and errors come in their order.
    done = run(
        ["bash", "-c", f"exec 2>&1\n{command}"], cwd=folder, PATH=path, PYTHONUNBUFFERED="1", FIXTURES=str(FIXTURES)
    )
    return done.stdout


def assert_shows(shown: str, got: str, where: str, *, has_figures: bool = True) -> None:
    """Check that an output has the same words, and the same figures within the tolerance."""
    shown, got = (_VARYING.sub("VARYING", text) for text in (shown, got))
    figures = _figures(shown, got)
    assert figures is not None, f"{where}\n{_difference(shown, got)}"
    expected = [float(number) for word in shown.split() for number in _NUMBER.findall(word)]
    if has_figures:
        assert figures == pytest.approx(expected, rel=TOLERANCE), where


def _figures(shown: str, got: str) -> list[float] | None:
    """Return the figures of ``got`` if it has the words of ``shown``; else None."""
    # One part after the other, each at the first place where it fits: a pattern for all of it could try for minutes.
    first, *others = re.split(r"(?:\\s\+)?\.\*(?:\\s\+)?", r"\s+".join(_form(word) for word in shown.split()))
    found = re.compile(rf"\s*{first}" if others else rf"\s*{first}\s*\Z").match(got)
    figures = list(found.groups()) if found else []
    for number, part in enumerate(others, start=1):
        end = r"\s*\Z" if number == len(others) else ""
        found = found and re.compile(part + end).search(got, found.end())
        figures += found.groups() if found else []
    return [float(figure) for figure in figures] if found else None


def _form(word: str) -> str:
    """Return a pattern for a word: numbers are groups, and ``...`` is any text."""
    parts = [re.escape(part).replace(r"\.\.\.", ".*") for part in _NUMBER.split(word)]
    return rf"({_NUMBER.pattern})".join(parts)


def _difference(shown: str, got: str) -> str:
    """Return both texts from the first line that differs."""
    lines = [[" ".join(_NUMBER.sub("#", line).split()) for line in text.splitlines()] for text in (shown, got)]
    same = next((n for n, (one, other) in enumerate(zip(*lines, strict=False)) if one != other), min(map(len, lines)))
    expected, printed = ("\n".join(text.splitlines()[same:]) for text in (shown, got))
    return f"the page shows, from the first difference:\n{expected}\n\nand the command prints:\n{printed}"
