"""Commands that list, check, show and lock plugins."""

from __future__ import annotations

import functools
import inspect
import os
import shlex
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from hookline.cli.arguments import (
    GroupWithDefault,
    callbacks_of_train,
    entry_values,
    find,
    load_words,
    local_files,
    option_values,
    output_options,
    plugin_options,
    words_argument,
)
from hookline.cli.command import Command
from hookline.cli.completion import complete_kind_and_words, complete_name, split_words
from hookline.cli.output import Output
from hookline.config.loading import named_entries
from hookline.config.plugins.catalog import COMMAND, EXPORT, KINDS, Catalog, Entry
from hookline.config.plugins.plugin import combined
from hookline.engine.errors import ConfigError, Fault, PluginError
from hookline.engine.words import did_you_mean
from hookline.runs.lock import make_lock, read_lock

if TYPE_CHECKING:
    from hookline.config.plugins.plugin import Plugin
    from hookline.testing.inspection import Inspection


@click.group(cls=GroupWithDefault)
def plugins() -> None:
    """List or check the installed plugins.

    Without a subcommand, runs `hookline plugins list`.
    """


@plugins.command("list")
@click.argument("words", nargs=-1, metavar="[KIND] [CONFIG] [KEY=VALUE]...", shell_complete=complete_kind_and_words)
@click.option("--order", is_flag=True, help="List the plugins called for each hook, in order.")
@output_options
@plugin_options
def list_plugins(output: Output, catalog: Catalog, words: Sequence[str], order: bool) -> None:
    """List the installed plugins, without importing any.

    KIND is data, model, loss, optimizer, parallel or callback; or command or export: the commands and the export
    formats, which are listed on their own. The column "state" refers to the run that `hookline
    train` would train with CONFIG and KEY=VALUE.
    """
    kinds = (*KINDS, COMMAND, EXPORT)
    kind, words = (words[0], words[1:]) if words and words[0] in kinds else (None, words)
    path, overrides = split_words(words)
    if path and not Path(path).exists():
        hint = did_you_mean(path, kinds)
        raise ConfigError(f"{path!r} is neither a kind of plugin nor a config file", hint=hint)
    if order and kind:
        raise ConfigError("--order lists the plugins of all kinds", hint=f"omit {kind!r}")
    if order:
        _print_order(output, catalog, words)
        return
    named = named_entries(path, overrides, defaults=callbacks_of_train(catalog), catalog=catalog)
    catalog = named.catalog
    entries = catalog.of_kind(kind) if kind else catalog.entries
    for text in (*catalog.problems, *(error.message for error in named.errors)):
        output.note(f"note: {text}")
    active = {(entry.kind, entry.qualified_name) for entry in named.entries.values()}
    states = [_state(entry, catalog, active) for entry in entries]
    if output.json:
        output.document([{**entry_values(e, catalog), "state": s} for e, s in zip(entries, states, strict=True)])
        return
    rows = [
        [e.kind, catalog.callable_name(e), e.distribution, e.version, e.value, ", ".join(state)]
        for e, state in zip(entries, states, strict=True)
    ]
    output.table(["kind", "name", "distribution", "version", "origin", "state"], rows)
    output.prose("\nfor the options of a plugin: hookline show KIND NAME")


def _state(entry: Entry, catalog: Catalog, active: Collection[tuple[str, str]]) -> list[str]:
    return [
        *(["active"] if (entry.kind, entry.qualified_name) in active else []),
        *([f"blocked by {entry.blocked_by}"] if entry.blocked_by else []),
        *(["conflict"] if catalog.is_ambiguous(entry) else []),
    ]


def _print_order(output: Output, catalog: Catalog, words: Sequence[str]) -> None:
    from hookline.config.plugins.choice import make_members
    from hookline.engine.plugin.hook_names import HOOKS
    from hookline.engine.plugin.host import Host

    host = Host(make_members(load_words(words, catalog, callbacks_of_train(catalog)).plugins))
    calls = {hook: [(m.table, m.plugin, is_wrapper) for m, is_wrapper in host.order(hook)] for hook in HOOKS}
    if output.json:
        output.document(
            {
                hook: [{"table": label, "plugin": str(plugin), "is_wrapper": wraps} for label, plugin, wraps in called]
                for hook, called in calls.items()
            }
        )
        return
    width = max(len(member.table) for member in host.members)
    for hook, called in calls.items():
        lines = [f"{label.ljust(width)}  {plugin}{', wrapper' if wraps else ''}" for label, plugin, wraps in called]
        if hook == "build_step" and all(wraps for *_, wraps in called):
            lines.append(f"{'the loop'.ljust(width)}  its own step")
        output.line("\n".join([hook, *(f"  {line}" for line in lines or ["-"])]))


@plugins.command("check")
@click.argument("kind", required=False, type=click.Choice(KINDS), metavar="[KIND]")
@click.argument("name", required=False, shell_complete=complete_name)
@click.argument("values", nargs=-1, metavar="[OPTION=VALUE]... [data=NAME]")
@click.option("--all", "is_all", is_flag=True, help="Check every installed plugin.")
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="Time limit for each plugin.",
)
@output_options
@plugin_options
def check_plugins(
    output: Output,
    catalog: Catalog,
    kind: str | None,
    name: str | None,
    values: Sequence[str],
    is_all: bool,
    timeout_s: float,
) -> None:
    """Check plugins, each in a separate process.

    Checks the import, the hooks, the options and the contract of the kind. Give KIND (data, model, loss, optimizer,
    parallel or callback) and NAME, with the options that the plugin requires, or --all. data=NAME checks it with the
    data of this data plugin, and data.KEY=VALUE sets an option of it.
    """
    from hookline.testing.inspection import inspect_plugin

    if is_all == bool(kind and name):
        raise ConfigError("no plugin to check", hint="give a KIND and a NAME, or --all")
    entries = [find(catalog, kind, name)] if kind and name else [e for e in catalog.entries if not e.blocked_by]
    data = [word for word in values if word.startswith(("data=", "data."))]
    options = option_values([word for word in values if word not in data])
    inspect = functools.partial(inspect_plugin, files=local_files(), options=options, data=data, timeout_s=timeout_s)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(entries, pool.map(inspect, entries), strict=True))
    if output.json:
        output.document([{**entry_values(e, catalog), **msgspec.to_builtins(i)} for e, i in found.items()])
    else:
        rows = [_inspection_row(entry, catalog, inspection) for entry, inspection in found.items()]
        output.table(["kind", "name", "from", "import s", "hooks", "options", "checks", "result"], rows)
        for entry, inspection in found.items():
            for note in inspection.notes:
                output.prose(f"{entry.kind} {entry.name}: {note}")
    faults = [Fault(f"{entry}: {text}") for entry, inspection in found.items() for text in inspection.failures]
    if faults:
        num_failed = sum(bool(inspection.failures) for inspection in found.values())
        raise PluginError(f"{num_failed} of {len(found)} plugins failed", faults=faults)


def _inspection_row(entry: Entry, catalog: Catalog, inspection: Inspection) -> list[str]:
    seconds = "" if inspection.import_s is None else f"{inspection.import_s:.3f}"
    counts = [len(inspection.hooks), len(inspection.options), inspection.num_checks]
    result = "failed" if inspection.failures else "passed" if inspection.num_checks else "imported"
    return [entry.kind, catalog.callable_name(entry), entry.source, seconds, *map(str, counts), result]


@plugins.command("index")
@click.argument("text", required=False, metavar="[NAME]")
@output_options
@plugin_options
def list_index(output: Output, catalog: Catalog, text: str | None) -> None:
    """List known plugins, with the distribution to install for each.

    With NAME, only those with this text in their name, kind, distribution or summary. Nothing is fetched: Hookline
    brings the list, and so may other distributions.
    """
    from hookline.config.plugins.index import read_index

    index = read_index(catalog)
    for problem in index.problems:
        output.note(f"note: {problem}")
    found = [plugin for plugin in index.plugins if (text or "").casefold() in plugin.line.casefold()]
    if text and not found:
        names = {plugin.name for plugin in index.plugins}
        raise ConfigError(f"no index lists {text!r}", hint=did_you_mean(text, names))
    states = ["installed" if plugin.is_installed else "" for plugin in found]
    if output.json:
        output.document(
            [{**msgspec.to_builtins(p), "installed": bool(state)} for p, state in zip(found, states, strict=True)]
        )
        return
    rows = [
        [p.kind, p.name, p.distribution, state, p.summary, p.homepage, p.listed_by]
        for p, state in zip(found, states, strict=True)
    ]
    head = ["kind", "name", "distribution", "state", "summary", "homepage", "listed by"]
    # Most plugins of most indexes have neither of the last two.
    kept = [number for number in range(len(head)) if number < 5 or any(row[number] for row in rows)]
    output.table([head[number] for number in kept], [[row[number] for number in kept] for row in rows])
    if len(found) == 1 and not found[0].is_installed:
        output.prose(f"\nto install it: {found[0].how_to_install}")


@click.command(cls=Command)
@click.argument("kind", type=click.Choice((*KINDS, EXPORT)), metavar="KIND")
@click.argument("name", shell_complete=complete_name)
@output_options
@plugin_options
def show(output: Output, catalog: Catalog, kind: str, name: str) -> None:
    """Show a plugin and its options.

    KIND is data, model, loss, optimizer, parallel, callback or export. Also prints the lines to paste into a config,
    or the command of an export format.
    """
    from hookline.config.plugins.plugin import load_plugin
    from hookline.runs.config_text import to_toml

    entry = find(catalog, kind, name)
    plugin = load_plugin(entry)
    lines = _usage_lines(catalog.callable_name(entry), plugin)
    about = inspect.getdoc(plugin.target) or ""
    if output.json:
        options = [
            {"name": o.name, "required": o.is_required, "expected": o.expected, "schema": o.schema()}
            for o in plugin.options
        ]
        output.document({**entry_values(entry, catalog), "about": about, "options": options, "toml": "\n".join(lines)})
        return
    output.prose(f"{entry}: {entry.value}\n\n{about}\n")
    if plugin.options and not output.quiet:
        rows = [
            [
                o.name,
                "required" if o.is_required else to_toml(o.default),
                o.expected,
                f"{o.description}{' (not in a file)' if o.is_from_user else ''}",
            ]
            for o in plugin.options
        ]
        output.table(["option", "default", "takes", "meaning"], rows)
        output.line(f"\n{'on the command line' if kind == EXPORT else 'in a config'}:\n")
    for line in lines:
        output.line(line)


def _usage_lines(name: str, plugin: Plugin) -> list[str]:
    from hookline.runs.config_text import option_lines, to_toml

    if plugin.kind == EXPORT:
        words = [f"{EXPORT}.{o.name}={'...' if o.is_required else to_toml(o.default)}" for o in plugin.options]
        return [shlex.join(["hookline", "export", "last", "--to", name, *words])]
    label = f"callbacks.{plugin.name}" if plugin.kind == "callback" else plugin.kind
    return option_lines(label, name, plugin.options)


@click.command(cls=Command)
@words_argument
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), metavar="FILE", help="File to write.")
@output_options
@plugin_options
def lock(output: Output, catalog: Catalog, words: Sequence[str], target: Path | None) -> None:
    """Record the code of a run's plugins in a lock file.

    `hookline train --locked` rejects plugins that differ from it. No installed plugin is imported. The default file is
    CONFIG with the suffix .lock, or hookline.lock without a CONFIG.
    """
    from hookline.cli.text_file import write_text_file

    path, overrides = split_words(words)
    named = named_entries(path, overrides, defaults=callbacks_of_train(catalog), catalog=catalog)
    if named.errors:
        raise combined(named.errors)
    target = target or lock_path(path)
    now = make_lock(named.entries)
    drift = read_lock(target).drift(now) if target.exists() else []
    write_text_file(target, now.to_json(), force=True)
    if output.json:
        output.document({"path": str(target), "changes": drift})
    for text in drift:
        output.prose(f"changed: {text}")
    output.prose(f"wrote {target}: {_counted(now.distributions)}")


def lock_path(config: str | None) -> Path:
    """Return the default path of a run's lock: next to its config."""
    return Path(config).with_suffix(".lock") if config else Path("hookline.lock")


def _counted(distributions: dict[str, Any]) -> str:
    num_files = sum(len(locked.files) for locked in distributions.values())
    return f"{', '.join(distributions)} with {num_files} files"
