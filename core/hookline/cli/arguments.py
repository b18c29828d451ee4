"""What commands share: options that each of them has, the plugins that may be used, and the words of a run."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from hookline.cli.completion import complete_words, split_words
from hookline.cli.output import Output
from hookline.engine.config.layers import read_overrides
from hookline.engine.config.loading import load_config
from hookline.engine.config.run_config import RunConfig
from hookline.engine.errors import ConfigError, Fault, PluginError
from hookline.engine.plugin.catalog import Catalog, Entry
from hookline.engine.plugin.plugin import combined
from hookline.engine.plugin.plugin_file import LocalEntry, entries_of_file
from hookline.runs.lock import Lock, read_lock


class CarriedError(Exception):
    """Carries an error of a command past click, which has a meaning of its own for it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


_Command = TypeVar("_Command", bound=Callable[..., None])

words_argument = click.argument("words", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...", shell_complete=complete_words)
"""The words that make a run: a config file, and what overrides it."""


class ListByDefault(click.Group):
    """A group in which words that name no command of it are those of the command ``list``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the words apart."""
        if not args or args[0] not in (*self.commands, *self.get_help_option_names(ctx)):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def printing(command: _Command) -> _Command:
    """Add the options that every command has; the command gets an ``Output`` first."""

    @click.option("--quiet", is_flag=True, help="Print only what was asked for, without heads and advice.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
    @click.option("--traceback", is_flag=True, help="Show where in the code an error was raised.")
    @click.pass_obj
    @functools.wraps(command)
    def wrapped(output: Output, /, *, quiet: bool, as_json: bool, traceback: bool, **arguments: Any) -> None:
        output.quiet, output.json, output.traceback = quiet, as_json, traceback
        try:
            command(output, **arguments)
        except EOFError as error:
            # click would take it for the end of its own input.
            raise CarriedError(error) from error

    return wrapped  # type: ignore[return-value] # click calls it with the options added above


def choosing(command: _Command) -> _Command:
    """Add the options that say which plugins may be used; the command gets a ``Catalog`` after its ``Output``."""

    @click.option("--plugin", "files", multiple=True, type=click.Path(), help="Use the plugins of a Python file, too.")
    @click.option("--allow", multiple=True, metavar="DIST", help="Use plugins of this distribution alone; repeatable.")
    @click.option("--deny", multiple=True, metavar="DIST", help="Use no plugin of this distribution; repeatable.")
    @functools.wraps(command)
    def wrapped(
        output: Output, /, *, files: Sequence[str], allow: Sequence[str], deny: Sequence[str], **arguments: Any
    ) -> None:
        locked = arguments.get("locked")
        command(output, chosen_catalog(files, allow, deny, read_lock(locked) if locked else None), **arguments)

    return wrapped  # type: ignore[return-value] # click calls it with the options added above


def chosen_catalog(
    files: Sequence[str], allow: Sequence[str], deny: Sequence[str], lock: Lock | None = None
) -> Catalog:
    """Return the plugins that may be used; the arguments are what the options of the same names were given."""
    catalog = Catalog.installed().with_entries(_local_entries(files, deny, lock))
    return catalog.restricted(allow=allow or None, deny=deny, by="--{}")


def _local_entries(files: Sequence[str], deny: Sequence[str], lock: Lock | None) -> list[LocalEntry]:
    """Return the plugins of files; every fault is told at once."""
    entries: list[LocalEntry] = []
    errors: list[PluginError] = []
    for file in {Path(file).resolve(): file for file in files}.values():
        try:
            _vet(file, deny, lock)
            entries += entries_of_file(file)
        except PluginError as error:
            errors.append(error)
    if errors:
        raise combined(errors)
    return entries


def _vet(file: str, deny: Sequence[str], lock: Lock | None) -> None:
    """Refuse a plugin file, before its import, that is denied or not what was locked."""
    if file in deny:
        raise PluginError(f"{file} may not be used: --deny forbids it", distribution=file)
    if lock and Path(file).is_file() and (drift := lock.drift_of_file(file)):
        hint = "if that is as it should be, make the lock again: hookline lock"
        raise PluginError(f"{file} is not what was locked", distribution=file, hint=hint, faults=[*map(Fault, drift)])


def added_callbacks(output: Output, catalog: Catalog, *, is_kept: bool) -> dict[str, Any]:
    """Return the callbacks that a command adds to a run: to show it, and to keep it if ``is_kept``."""
    parts = [catalog.default(part)["callbacks"] for part in _wanted_parts(output, is_kept=is_kept)]
    return {"callbacks": {name: table for part in parts for name, table in part.items()}}


def unwanted_callbacks(output: Output, catalog: Catalog, *, is_kept: bool) -> list[str]:
    """Return the tables of those that would show a run in another way, or keep it unless ``is_kept``."""
    parts = {"terminal", "json", "keep"} - {*_wanted_parts(output, is_kept=is_kept)}
    return [f"callbacks.{name}" for part in sorted(parts) for name in catalog.default(part)["callbacks"]]


def _wanted_parts(output: Output, *, is_kept: bool) -> list[str]:
    shown = [] if output.quiet and not output.json else ["json" if output.json else "terminal"]
    return [*shown, *(["keep"] if is_kept else [])]


def callbacks_of_train(catalog: Catalog) -> dict[str, Any]:
    """Return the callbacks that ``train`` adds to a run when it is asked for nothing else."""
    return added_callbacks(Output(), catalog, is_kept=True)


def local_files() -> Sequence[str]:
    """Return the plugin files that the command at work was given."""
    files: Sequence[str] = click.get_current_context().params["files"]
    return files


def choosing_words() -> list[str]:
    """Return the options of the command at work that say which plugins may be used, as they would be typed."""
    given = click.get_current_context().params
    flags = {"--plugin": given["files"], "--allow": given["allow"], "--deny": given["deny"]}
    return [word for flag, values in flags.items() for value in values for word in (flag, value)]


def load_words(
    words: Sequence[str],
    catalog: Catalog,
    defaults: Mapping[str, Any] | None = None,
    lock: Lock | None = None,
    switches: Mapping[str, Mapping[str, Any]] | None = None,
) -> RunConfig:
    """Return the config that the words of a command mean; the other arguments are those of ``load_config``.

    What a plugin prints when it is imported is no result.
    """
    path, overrides = split_words(words)
    with contextlib.redirect_stdout(sys.stderr):
        return load_config(
            path, overrides, defaults=defaults, switches=switches, catalog=catalog, vet=lock.check if lock else None
        )


def option_values(words: Sequence[str]) -> dict[str, Any]:
    """Return the values of one plugin's options, from ``option=value`` words.

    Raises:
        ConfigError: With every word that is not of that form.
    """
    faults: list[Fault] = []
    items = read_overrides(words, faults)
    if faults:
        raise ConfigError("the options cannot be read", faults=faults)
    return {item.path[0]: item.value for item in items}


def find(catalog: Catalog, kind: str, name: str) -> Entry:
    """Return the plugin of a kind that a name means.

    Raises:
        ConfigError: When there is none.
        PluginError: When there are two, or it may not be used.
    """
    try:
        return catalog.find(kind, name)
    except LookupError as error:
        raise ConfigError(f"no {kind} plugin named {name!r} is installed", hint=str(error)) from None


def entry_values(entry: Entry, catalog: Catalog) -> dict[str, str]:
    """Return a plugin as plain values."""
    return {
        "kind": entry.kind,
        "name": catalog.callable_name(entry),
        "distribution": entry.distribution,
        "version": entry.version,
        "origin": entry.value,
    }
