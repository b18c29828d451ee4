"""Build a site from these pages: ``sphinx-build -M html docs build -W``.

The pages are plain Markdown, to be read in the repository as well. So the navigation comes from the lists of links in
each ``README.md``, and a page that no list has is a warning, which ends the build.
"""

import inspect
import re
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

project = "Hookline"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"

myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
napoleon_use_rtype = False
smartquotes_action = "D"  # dashes: quotes are code that a reader may copy
toc_object_entries = False  # each has a heading

html_theme = "furo"
html_title = "Hookline"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}

LISTED = re.compile(r"^(?:-|\d+\.) \[[^]]+\]\((?!https?:)([^)#\s]+)\.md\)", re.MULTILINE)
"""An item of a list that begins with a link to a page."""


def add_navigation(app: Sphinx, docname: str, content: list[str]) -> None:
    """Make the pages that a ``README.md`` lists its children in the navigation, in that order."""
    if Path(docname).name == "README":
        content[0] += "\n".join(["\n\n```{toctree}", ":hidden:\n", *LISTED.findall(content[0]), "```\n"])


def keep_first_line(app: Sphinx, kind: str, name: str, it: Any, options: Any, lines: list[str]) -> None:
    """Let Napoleon find no type in the first line of a property: it takes all text before a colon for one."""
    if kind in ("property", "attribute") and lines:
        lines.insert(0, "")


def drop_text_of_type(app: Sphinx, kind: str, name: str, it: Any, options: Any, lines: list[str]) -> None:
    """Show no text for a value that has none: Python gives it that of its type."""
    if kind == "data" and inspect.getdoc(it) == inspect.getdoc(type(it)):
        lines.clear()


def show_types(app: Sphinx, kind: str, name: str, it: Any, options: Any, lines: list[str]) -> None:
    """Show the type of an attribute beside its name: Napoleon puts it into a list beneath the description."""
    at = 0
    for number, line in enumerate(lines):
        if line.startswith(".. attribute::"):
            at = number
        elif line.startswith("   :type:"):
            lines.insert(at + 1, lines.pop(number))


def shorten(
    app: Sphinx, kind: str, name: str, it: Any, options: Any, arguments: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """Show a protocol without arguments, which its class does not take, and options without their descriptions."""
    if getattr(it, "_is_protocol", False):
        return "", None
    if arguments and "Annotated[" in arguments:
        signature = inspect.signature(it)
        bare = [argument.replace(annotation=argument.empty) for argument in signature.parameters.values()]
        return str(signature.replace(parameters=bare, return_annotation=signature.empty)), None
    return (arguments.replace("<factory>", "..."), returned) if arguments else None  # Sphinx reads only the latter


def add_indexes(app: Sphinx, error: Exception | None) -> None:
    """Let a folder of the site show its ``README.html``, as a folder of the repository shows its ``README.md``."""
    if not error and app.builder.format == "html":
        for page in app.outdir.rglob("README.html"):
            shutil.copyfile(page, page.with_name("index.html"))


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("source-read", add_navigation)
    app.connect("autodoc-process-docstring", drop_text_of_type, priority=300)
    app.connect("autodoc-process-docstring", keep_first_line, priority=400)  # before Napoleon
    app.connect("autodoc-process-docstring", show_types, priority=600)  # after it
    app.connect("autodoc-process-signature", shorten)
    app.connect("build-finished", add_indexes)
