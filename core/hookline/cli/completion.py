"""What a shell offers when TAB is pressed, from metadata and from the plugins that the words name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click
from click.shell_completion import CompletionItem, get_completion_class

from hookline.catalog import Catalog
from hookline.config import SINGLE_KINDS, load_config
from hookline.errors import HooklineError


def script(command: click.Command, shell: str) -> str:
    """Return the script that makes ``shell`` ask ``command`` for completions."""
    completion_class = get_completion_class(shell)
    assert completion_class is not None, "the shells offered are those that click knows"
    return completion_class(command, {}, "hookline", "_HOOKLINE_COMPLETE").source()


def complete_words(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer ``key=`` for the keys of the run so far, plugin names after ``kind=``, and files."""
    key, equals, _ = incomplete.partition("=")
    if equals:
        kind = key.removesuffix(".use")
        names = Catalog.installed().names(kind) if kind in SINGLE_KINDS else []
        return _starting(incomplete, (f"{key}={name}" for name in names))
    keys = [f"{key}=" for key in (*SINGLE_KINDS, *_keys(context.params.get("words") or ()))]
    files = [CompletionItem(incomplete, type="file")] if not context.params.get("words") else []
    return [*_starting(incomplete, keys), *files]


def complete_name(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of the plugins of the kind that was given."""
    return _starting(incomplete, Catalog.installed().names(context.params.get("kind") or ""))


def _keys(words: Sequence[str]) -> Iterable[str]:
    path = words[0] if words and "=" not in words[0] else None
    try:
        return load_config(path, words[1:] if path else words).settings
    except HooklineError:
        return load_config().settings


def _starting(incomplete: str, values: Iterable[str]) -> list[CompletionItem]:
    return [CompletionItem(value) for value in values if value.startswith(incomplete)]
