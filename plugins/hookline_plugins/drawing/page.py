"""A report as one HTML file: it needs no network, opens from disk, and runs nothing but its own script.

Everything about a run is JSON in a data block, which the script turns into text nodes. The content security policy
names the hash of each style and script of the page, so a browser refuses any other, wherever it comes from.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from importlib.resources import files
from string import Template

from hookline.sections import Section, sections_to_json

_STYLES, _SCRIPTS = ("uPlot.min.css", "hookline.css"), ("uPlot.iife.min.js", "draw.js")

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="Hookline">
<link rel="icon" href="data:,">
<title>$title</title>
$styles
</head>
<body>
<header><h1>$title</h1><p class="hl-subtitle">$subtitle</p></header>
<nav aria-label="Parts of the report"></nav>
<main><noscript>This report is drawn by its script, which your browser does not run.</noscript></main>
<footer>$footer</footer>
<script type="application/json" id="hookline-sections">$sections</script>
$scripts
</body>
</html>
""")


def report_page(title: str, subtitle: str, sections: Sequence[Section], footer: str = "") -> str:
    """Return the HTML file with sections.

    Args:
        title: Its heading, as text.
        subtitle: A line below it, as text.
        sections: The sections.
        footer: A line at its end, as text.
    """
    styles, scripts = [_static(name) for name in _STYLES], [_static(name) for name in _SCRIPTS]
    policy = f"default-src 'none'; img-src data:; style-src {_hashes(styles)}; script-src {_hashes(scripts)}"
    return _PAGE.substitute(
        policy=f"{policy}; base-uri 'none'; form-action 'none'",
        title=html.escape(title),
        subtitle=html.escape(subtitle),
        footer=html.escape(footer),
        styles="\n".join(f"<style>{text}</style>" for text in styles),
        scripts="\n".join(f"<script>{text}</script>" for text in scripts),
        sections=json_in_page(sections),
    )


def json_in_page(sections: Sequence[Section]) -> str:
    r"""Return sections as JSON for a data block of a page: it contains no ``<``, so nothing ends it early.

    >>> from hookline.sections import Text
    >>> "</script>" in json_in_page([Text(title="x", paragraphs=["</script>"])])
    False
    """
    return sections_to_json(sections).decode().replace("<", "\\u003c")


def _static(name: str) -> str:
    return (files("hookline_plugins.drawing") / "static" / name).read_text(encoding="utf-8")


def _hashes(texts: Sequence[str]) -> str:
    sums = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{each}'" for each in sums)
