"""Shell completion of commands, plugins, config keys and runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from hookline.config.loading import load_config
from hookline.config.plugins.catalog import EXPORT, KINDS, Catalog
from hookline.config.run_config import SINGLE_KINDS
from hookline.engine.errors import HooklineError
from hookline.runs.names import run_names

_HARMLESS = re.compile(r"[\w.:/@%+=-]+")


def script(command: click.Command, shell: str) -> str:
    """Return the script that enables completion of ``command`` in ``shell``."""
    completion_class = get_completion_class(shell)
    assert completion_class is not None, "click supports every shell that the command accepts"
    return completion_class(command, {}, "hookline", "_HOOKLINE_COMPLETE").source()


def split_words(words: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """Split the words of a command into the config file, None without one, and the overrides."""
    is_config = bool(words) and ("=" not in words[0] or _is_file(words[0]))
    return (words[0], words[1:]) if is_config else (None, words)


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # not a valid file name
        return False


def complete_words(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete config keys, plugin names after ``kind=``, and files."""
    words = list(context.params.get("words") or ())
    # bash splits words at =, and completes only the part after it; click drops a trailing =.
    before = words[-2] if len(words) > 1 and words[-1] == "=" else words[-1] if words else ""
    if values := _values(before):
        return _starting(incomplete, values)
    key, equals, _ = incomplete.partition("=")
    if equals:
        return _starting(incomplete, (f"{key}={value}" for value in _values(key)))
    keys = [f"{key}=" for key in (*SINGLE_KINDS, *_keys(_joined(words)))]
    files = [] if words else [CompletionItem(incomplete, type="file")]
    return [*_starting(incomplete, keys), *files]


def complete_kind_and_words(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete plugin kinds as the first word, and everything that ``complete_words`` completes."""
    kinds = () if context.params.get("words") else KINDS
    return [*_starting(incomplete, kinds), *complete_words(context, parameter, incomplete)]


def _joined(words: Sequence[str]) -> list[str]:
    """Join the words ``key``, ``=`` and ``value`` into one."""
    joined: list[str] = []
    for word in words:
        if joined and (word == "=" or joined[-1].endswith("=")):
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def _values(key: str) -> list[str]:
    kind = key.removesuffix(".use")
    return Catalog.installed().names(kind) if kind in SINGLE_KINDS else []


def complete_name(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of the plugins of the given kind."""
    return _starting(incomplete, Catalog.installed().names(context.params.get("kind") or ""))


def complete_format(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of export formats."""
    return _starting(incomplete, Catalog.installed().names(EXPORT))


def complete_run(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of runs, also from their numbers, and paths."""
    if "/" in incomplete:
        return [CompletionItem(incomplete, type="dir")]
    given = context.params.get(parameter.name or "") or ()
    try:
        found = run_names(Path(context.params.get("parent") or "runs"))
    except HooklineError:
        return []
    names = [name for name in found if name not in given]
    if incomplete.isdigit():
        # Shells that filter completions by prefix ignore 0007 for 7; the others insert it.
        return _starting("", (name for name in names if name.startswith((incomplete, incomplete.zfill(4)))))
    return _starting(incomplete, ("last", "best", *names))


def _keys(words: Sequence[str]) -> Iterable[str]:
    path, overrides = split_words(words)
    try:
        return load_config(path, overrides).settings
    except HooklineError:
        return load_config().settings


def _starting(incomplete: str, values: Iterable[str]) -> list[CompletionItem]:
    """Return the values that begin with a text, without those that a shell or a terminal could interpret."""
    return [CompletionItem(value) for value in values if value.startswith(incomplete) and _HARMLESS.fullmatch(value)]
