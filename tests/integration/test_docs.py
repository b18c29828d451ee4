"""The code blocks of the README and of the docs do what they say."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

import hookline as door
from pages import PAGES, Block, assert_shows, blocks
from support import ROOT, Environment, run, warm_program

COMING_FROM = ROOT / "docs" / "explanation" / "coming-from.md"
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


def test_the_job_of_each_other_framework_is_replayed() -> None:
    # Theirs are files without a command: they are not installed here.
    assert len([block for block in blocks(COMING_FROM) if block.commands()]) == 5


def test_the_readme_shows_the_real_output(tmp_path: Path) -> None:
    done = run([str(warm_program()), "train"], cwd=tmp_path)
    shown = next(block.text for block in blocks(ROOT / "README.md") if block.text.startswith("plan\n"))
    assert_shows(shown, done.stdout.partition("\n\ntry next")[0], "README.md")


def test_an_environment_is_one_of_its_own(extended: Environment) -> None:
    program = "import hookline, sys; print(hookline.__file__)"
    done = run([str(extended.python), "-c", program])
    assert str(extended.python.parents[1]) in done.stdout
