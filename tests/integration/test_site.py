"""The site of the documentation: it builds without a warning, has every public name, and needs no network."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import hookline as door
from hookline.engine.plugin.hook_names import HOOKS
from support import ROOT

for needed in ("sphinx", "myst_parser", "furo"):
    pytest.importorskip(needed, reason="the extra docs is not installed")

DOCS = ROOT / "docs"
DOORS = [importlib.import_module(name) for name in ("hookline", *(f"hookline.{room}" for room in door._ROOMS))]
BUILD = re.search(
    r"^\.venv/bin/sphinx-build -M html docs build (.*)$", (DOCS / "contributing.md").read_text(), re.MULTILINE
)


def build(docs: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build a site as the page for contributors says, but elsewhere."""
    assert BUILD is not None
    words = [sys.executable, "-m", "sphinx", "-M", "html", str(docs), str(out), *shlex.split(BUILD[1])]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(DOCS, out)
    assert done.returncode == 0, done.stderr
    return out / "html"


def names_of(site: Path) -> set[str]:
    """Return the names that the site describes, each with its signature."""
    _, _, _, _, packed = (site / "objects.inv").read_bytes().split(b"\n", 4)
    return {line.split(" ")[0] for line in zlib.decompress(packed).decode().splitlines() if " py:" in line}


def test_the_site_describes_every_public_name_with_its_members_and_every_hook(site: Path) -> None:
    names = names_of(site)
    public = {f"{package.__name__}.{name}": getattr(package, name) for package in DOORS for name in package.__all__}
    members = {
        f"{name}.{member}"
        for name, thing in public.items()
        if inspect.isclass(thing)
        for member, value in vars(thing).items()
        if not member.startswith("_") and (inspect.isroutine(value) or isinstance(value, property))
    }
    hooks = {f"hookline.engine.hookspecs.{hook}" for hook in HOOKS}
    assert public.keys() | members | hooks <= names


def test_every_page_is_in_the_site_and_every_folder_of_pages_opens(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        built = site / page.relative_to(DOCS).with_suffix(".html")
        assert built.exists()
        if page.name == "README.md":
            assert built.with_name("index.html").read_bytes() == built.read_bytes()


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loading = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"'](?:https?:)?//", re.IGNORECASE)
    assert not [page.name for page in site.rglob("*.html") if loading.search(page.read_text())]
    styles = re.compile(r"@import|url\([\"']?(?:https?:)?//")
    assert not [style.name for style in site.rglob("*.css") if styles.search(style.read_text())]


def test_the_search_knows_names_and_words(site: Path) -> None:
    index = (site / "searchindex.js").read_text()
    assert all(word in index for word in ('"build_order"', '"load_config"', '"checkpoint"', '"lightn"'))


def small(folder: Path, readme: str) -> subprocess.CompletedProcess[str]:
    """Build a site of two pages with the configuration of the real one."""
    docs = folder / "docs"
    docs.mkdir()
    shutil.copy(DOCS / "conf.py", docs)
    shutil.copytree(DOCS / "_static", docs / "_static")
    (docs / "README.md").write_text(f"# Pages\n\n{readme}\n")
    (docs / "other.md").write_text("# Other\n\nA page.\n")
    return build(docs, folder / "out")


LISTED = "- [Other](other.md)\n\n"


def test_a_site_without_a_fault_builds(tmp_path: Path) -> None:
    done = small(tmp_path, LISTED + "[here](other.md#other)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("readme", "fault"),
    [
        ("No page is listed.", "other.md"),
        (LISTED + "[here](missing.md)", "missing.md"),
        (LISTED + "[here](other.md#missing)", "'missing'"),
        (LISTED + "[here](#missing)", "'missing'"),
        (LISTED + "```{eval-rst}\n.. autofunction:: hookline.trian\n```", "trian"),
    ],
)
def test_a_fault_of_a_page_fails_the_build_and_is_named(readme: str, fault: str, tmp_path: Path) -> None:
    done = small(tmp_path, readme)
    assert done.returncode != 0
    assert fault in done.stderr
