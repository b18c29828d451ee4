"""The commands on the pages of the docs print what the pages show."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

import pytest

from pages import PAGES, assert_shows, blocks, distributions, missing, replay
from support import FIXTURES, ROOT, Environment, make_environment

REPLAYED = [page for page in PAGES if any(block.commands() for block in blocks(page))]


@pytest.mark.parametrize("page", REPLAYED, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_print_what_it_shows(page: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    if names := missing(page):
        pytest.skip(f"not installed: {', '.join(names)}")
    folders = (tmp_path_factory.mktemp("page") for _ in itertools.count())
    environment, needed = Environment(Path(sys.executable)), distributions(page)
    if needed or "$ pip install " in page.read_text():
        sources = [FIXTURES / name for name in needed]
        environment = make_environment(tmp_path_factory.mktemp("environment"), *sources)
    replay(page, environment, folders)


def test_a_command_with_its_prompt_stands_in_a_block_that_is_replayed() -> None:
    others = [block for page in PAGES for block in blocks(page) if block.language != "console"]
    assert [str(block) for block in others if re.search(r"^\$ ", block.text, re.MULTILINE)] == []


def test_a_block_that_is_not_replayed_says_why() -> None:
    comments = [comment for page in PAGES for block in blocks(page) for comment in block.comments]
    known = ("replay: ", "replay with: ", "replay if installed: ", "not replayed: ")
    exact = ("replay in a new folder", "replay without figures")
    assert [comment for comment in comments if not comment.startswith(known) and comment not in exact] == []


@pytest.mark.parametrize(
    ("shown", "got"),
    [
        ("loss 0.317907\n", "loss  0.3179\n"),
        ("b 4.20027 4.2 2.66e-4", "b 4.20029 4.2 2.67e-4"),
        ("done in 3.12 s", "done in 0.01 s"),
        ("  1/3  0.5  0.25", "  1/3  0.5  0.01"),
        ("first\n...\nlast", "first\n1.5\n2\nlast"),
        ("first\n...\nlast", "first\nlast"),
        ("in .../net.py:3", "in /tmp/a/net.py:3"),
    ],
)
def test_what_varies_from_run_to_run_is_no_difference(shown: str, got: str) -> None:
    assert_shows(shown, got, "here")


@pytest.mark.parametrize(
    ("shown", "got"),
    [
        ("loss 0.317907", "loss 0.3279"),
        ("loss 0.317907", "loss 0.317907 more"),
        ("first\n...\nlast", "first\n1.5\n2"),
        ("300 steps", "301 steps"),
        ("loss = 0.25", "loss = 0.5"),
        ("", "warning"),
        pytest.param("a ... " * 20 + "b", "a " * 500, id="many gaps, which are tried once each"),
    ],
)
def test_another_word_or_figure_is_a_difference(shown: str, got: str) -> None:
    with pytest.raises(AssertionError):
        assert_shows(shown, got, "here")
