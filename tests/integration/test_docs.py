"""The code blocks of the README and of the docs do what they say."""

from __future__ import annotations

import os
import re
import shlex
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

import hookline as door
from support import ROOT, Environment, make_environment, run

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PRINTS = re.compile(r"\n\nIt prints:\n\n```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)
"""What follows a block that prints."""
MARK = re.compile(r"# (part of |end of |)file: (\S+)\n")
"""The first line of a block that is a file, or that stands in one, or that is to be put at its end."""
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
TUTORIAL = ROOT / "docs" / "tutorials" / "first-plugin.md"
COMING_FROM = ROOT / "docs" / "explanation" / "coming-from.md"


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    printed: str | None = None

    @property
    def file(self) -> str | None:
        """The name of the file that the block belongs to, if its first line says so."""
        found = MARK.match(self.text)
        return found[2] if found else None

    def place(self, folder: Path) -> None:
        """Write the file or its end, or compare the part of it."""
        found = MARK.match(self.text)
        assert found is not None
        path, text = folder / found[2], self.text[found.end() :]
        if found[1] == "part of ":
            assert text in path.read_text(), f"{self} is not what the file says"
        else:
            path.write_text((path.read_text() if found[1] == "end of " else "") + text)

    def commands(self) -> list[tuple[str, str]]:
        """Return the commands with the output that is shown for each."""
        return re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", self.text, re.MULTILINE)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = ((m, PRINTS.match(text, m.end())) for m in FENCE.finditer(text))
    return [Block(page, text.count("\n", 0, m.start()) + 1, m[1], m[2], shown and shown[1]) for m, shown in found]


BLOCKS = [block for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python" and not b.file], ids=str)
def test_a_python_block_runs_and_prints_what_the_page_shows(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # In this process: a hundred starts of torch would take minutes. A dataclass looks its module up by name.
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    exec(compile(block.text, str(block), "exec"), vars(module))
    if block.printed is not None:
        assert_shows(block.printed, capsys.readouterr().out, str(block))


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python" and b.file], ids=str)
def test_a_python_file_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "toml" and not b.file], ids=str)
def test_a_config_block_is_a_config(block: Block, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(block.text)
    assert door.load_config(tmp_path / "run.toml").plugins


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#\s]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs").rglob("README.md")), ids=lambda page: str(page.relative_to(ROOT))
)
def test_a_list_of_pages_has_their_titles(page: Path) -> None:
    listed = re.findall(r"^- \[([^]]+)\]\((?!https?://)([^)#\s]+)\)", page.read_text(), re.MULTILINE)
    assert listed
    for title, target in listed:
        assert (page.parent / target).read_text().startswith(f"# {title}\n"), target


def test_the_first_plugin_goes_from_an_empty_folder_to_an_installed_one(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("first-plugin")
    environment = make_environment(tmp_path_factory.mktemp("environment"))
    for block in blocks(TUTORIAL):
        if block.file:
            block.place(folder)
        for command, shown in block.commands() if block.language == "console" else []:
            assert_shows(shown, output_of(command, folder, environment), f"{block}: {command}")


def test_the_job_of_other_frameworks_runs_as_the_page_for_their_users_says(tmp_path: Path) -> None:
    # Theirs are files without a command: they are not installed here.
    page = blocks(COMING_FROM)
    for block in page:
        if block.file:
            block.place(tmp_path)
    commands = [(block, *command) for block in page if block.language == "console" for command in block.commands()]
    assert len({block for block, *_ in commands}) == 5, "each framework has its job in Hookline"
    for block, command, shown in commands:
        assert_shows(shown, output_of(command, tmp_path, Environment(Path(sys.executable))), f"{block}: {command}")


def output_of(command: str, folder: Path, environment: Environment) -> str:
    """Return what a command prints that stands on a page; an error it must tell with its exit code, too."""
    if command.startswith("pip install -e "):
        # The environment has no pip of its own, and no network for what the extra names.
        environment.install("-e", folder / shlex.split(command)[-1].partition("[")[0])
        return ""
    path = f"{environment.python.parent}{os.pathsep}{os.environ['PATH']}"
    done = run(["bash", "-c", command], cwd=folder, PATH=path)
    assert (done.returncode != 0) == done.stderr.startswith("error: "), done.stdout + done.stderr
    return done.stdout + done.stderr


def assert_shows(shown: str, got: str, where: str) -> None:
    """The same words; the same numbers, but for what another processor changes in their last digits."""
    shown, got = without_times(shown), without_times(got)
    assert NUMBER.sub("#", shown).split() == NUMBER.sub("#", got).split(), f"{where}\n{got}"
    expected = [float(number) for number in NUMBER.findall(shown)]
    assert [float(number) for number in NUMBER.findall(got)] == pytest.approx(expected, rel=0.05), where


def test_the_readme_shows_the_real_output(tmp_path: Path) -> None:
    done = run([str(Path(sys.executable).parent / "hookline"), "train"], cwd=tmp_path)
    shown = next(block.text for block in blocks(ROOT / "README.md") if block.text.startswith("plan\n"))
    assert_shows(shown, done.stdout.partition("\n\ntry next")[0], "README.md")


def without_times(text: str) -> str:
    return re.sub(r"\d+\.\d\d$|in \d+\.\d\d ?s$", "TIME", text, flags=re.MULTILINE)


def test_an_environment_is_one_of_its_own(extended: Environment) -> None:
    program = "import hookline, sys; print(hookline.__file__)"
    done = run([str(extended.python), "-c", program])
    assert str(extended.python.parents[1]) in done.stdout
