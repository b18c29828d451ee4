"""Options and arguments shared by commands: output, plugins, and the words that define a run."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from hookline.cli.command import Command
from hookline.cli.completion import complete_run, complete_words, split_words
from hookline.cli.import_watch import ImportWatch
from hookline.cli.output import Output
from hookline.config.layers import read_overrides
from hookline.config.loading import load_config
from hookline.config.plugins.catalog import Catalog, Entry
from hookline.config.plugins.plugin import combined
from hookline.config.plugins.plugin_file import LocalEntry, entries_of_file
from hookline.config.run_config import OFF, SHOWN, Origin, RunConfig, Setting
from hookline.engine.errors import ConfigError, Fault, PluginError, text_of
from hookline.engine.read_only import ReadOnly
from hookline.runs.lock import Lock, read_lock
from hookline.runs.record import RunRecord
from hookline.runs.redaction import Redaction


class CarriedError(Exception):
    """Wrapper that carries an error past click, which would interpret it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(text_of(error))
        self.error = error


_Command = TypeVar("_Command", bound=Callable[..., None])

words_argument = click.argument("words", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...", shell_complete=complete_words)
"""Words that define a run: a config file and overrides."""

runs_option = click.option(
    "--runs",
    "parent",
    type=click.Path(path_type=Path),
    default="runs",
    show_default=True,
    is_eager=True,  # completion of run names needs it
    metavar="DIR",
    help="Folder that contains the run folders.",
)
run_argument = click.argument("run", shell_complete=complete_run)
"""A run: its number, name or path, ``last`` or ``best``."""


class GroupWithDefault(click.Group):
    """Click group with a command that is called when the first word names none.

    Args:
        default_command: Its name; the other arguments are those of ``click.Group``.
    """

    command_class = Command

    def __init__(self, *arguments: Any, default_command: str = "list", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._default_command = default_command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert the default command unless the first word names a command."""
        if not args or args[0] not in (*self.commands, *self.get_help_option_names(ctx)):
            args = [self._default_command, *args]
        return super().parse_args(ctx, args)


def output_options(command: _Command) -> _Command:
    """Add the options of every command; the command receives an ``Output`` as its first argument."""

    @click.option("--quiet", is_flag=True, help="Print only results, without headings and hints.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON to standard output.")
    @click.option("--traceback", is_flag=True, help="Show the traceback of an error.")
    @click.pass_obj
    @functools.wraps(command)
    def wrapped(output: Output, /, *, quiet: bool, as_json: bool, traceback: bool, **arguments: Any) -> None:
        output.quiet, output.json, output.traceback = quiet, as_json, traceback
        try:
            command(output, **arguments)
        except EOFError as error:
            # click would treat it as the end of its own input.
            raise CarriedError(error) from error
        finally:
            for text in output.warnings:
                output.note(f"warning: {text}")

    return wrapped  # type: ignore[return-value] # click calls it with the options added above


def plugin_options(command: _Command) -> _Command:
    """Add the options that select plugins; the command receives a ``Catalog`` after its ``Output``."""

    @click.option(
        "--plugin",
        "files",
        multiple=True,
        type=click.Path(),
        metavar="FILE",
        help="Also use the plugins of this Python file; repeatable.",
    )
    @click.option("--allow", multiple=True, metavar="DIST", help="Use only plugins of this distribution; repeatable.")
    @click.option("--deny", multiple=True, metavar="DIST", help="Use no plugins of this distribution; repeatable.")
    @functools.wraps(command)
    def wrapped(
        output: Output, /, *, files: Sequence[str], allow: Sequence[str], deny: Sequence[str], **arguments: Any
    ) -> None:
        locked = arguments.get("locked")
        allow, deny = (*_before_command("allow"), *allow), (*_before_command("deny"), *deny)
        if allow or deny or locked:
            # Rules also hold for the device extensions that torch would import; who wants them sets it to 1.
            os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
        command(output, chosen_catalog(files, allow, deny, read_lock(locked) if locked else None), **arguments)

    return wrapped  # type: ignore[return-value] # click calls it with the options added above


def _before_command(rule: str) -> Sequence[str]:
    """Return the distributions of a rule given as in ``hookline --deny DIST COMMAND``."""
    names: Sequence[str] = click.get_current_context().find_root().params.get(rule) or ()
    return names


def chosen_catalog(
    files: Sequence[str], allow: Sequence[str], deny: Sequence[str], lock: Lock | None = None
) -> Catalog:
    """Return the plugins that may be used; the arguments are the values of the options of the same names."""
    catalog = Catalog.installed().with_entries(_local_entries(files, deny, lock))
    return catalog.restricted(allow=allow or None, deny=deny, by="--{}")


def _local_entries(files: Sequence[str], deny: Sequence[str], lock: Lock | None) -> list[LocalEntry]:
    """Return the plugins of files; all faults are raised at once."""
    entries: list[LocalEntry] = []
    errors: list[PluginError] = []
    with watched_imports() as watch:
        for file in {Path(file).resolve(): file for file in files}.values():
            try:
                _check_file(file, deny, lock)
                watch.before(file)
                entries += entries_of_file(file)
            except PluginError as error:
                errors.append(error)
    if errors:
        raise combined(errors)
    return entries


def _check_file(file: str, deny: Sequence[str], lock: Lock | None) -> None:
    """Reject a plugin file that is denied or differs from the lock, before it is imported."""
    if file in deny:
        raise PluginError(f"{file} may not be used: --deny forbids it", distribution=file)
    if lock and Path(file).is_file() and (drift := lock.drift_of_file(file)):
        hint = "if the change is intended, write a new lock: hookline lock"
        raise PluginError(f"{file} differs from the lock", distribution=file, hint=hint, faults=[*map(Fault, drift)])


def added_callbacks(output: Output, catalog: Catalog, *, is_saved: bool) -> dict[str, Any]:
    """Return the callbacks that a command adds to show a run and, with ``is_saved``, to save it."""
    parts = [catalog.default(part)["callbacks"] for part in _wanted_parts(output, is_saved=is_saved)]
    return {"callbacks": {name: table for part in parts for name, table in part.items()}}


def unwanted_callbacks(output: Output, catalog: Catalog, *, is_saved: bool) -> list[str]:
    """Return the tables of callbacks that would show a run differently or, without ``is_saved``, save it."""
    parts = {"terminal", "json", "keep"} - {*_wanted_parts(output, is_saved=is_saved)}
    return [f"callbacks.{name}" for part in sorted(parts) for name in catalog.default(part)["callbacks"]]


def without_callbacks(config: RunConfig, tables: Sequence[str]) -> RunConfig:
    """Return a config in which the callbacks ``tables`` are off, where the config file names them."""
    origins = {table: config.settings[f"{table}.use"].origin for table in tables if f"{table}.use" in config.settings}
    hidden = {table for table, origin in origins.items() if origin.layer == "file"}
    settings: dict[str, Setting] = {}
    for key, setting in config.settings.items():
        table, _, name = key.rpartition(".")
        if table not in hidden:
            settings[key] = setting
        elif name == "use":
            settings[key] = Setting(key, OFF, Origin(SHOWN), overrode=setting)
    plugins = tuple(choice for choice in config.plugins if choice.table not in hidden)
    return replace(config, plugins=plugins, settings=ReadOnly(settings))


def _wanted_parts(output: Output, *, is_saved: bool) -> list[str]:
    shown = [] if output.quiet and not output.json else ["json" if output.json else "terminal"]
    return [*shown, *(["keep"] if is_saved else [])]


def callbacks_of_train(catalog: Catalog) -> dict[str, Any]:
    """Return the callbacks that ``train`` adds to a run by default."""
    return added_callbacks(Output(), catalog, is_saved=True)


def local_files() -> Sequence[str]:
    """Return the plugin files given to the current command."""
    files: Sequence[str] = click.get_current_context().params["files"]
    return files


@contextlib.contextmanager
def noting_missing_files(record: RunRecord) -> Iterator[None]:
    """Add a note to an error for each plugin file that the run had and this command lacks."""
    try:
        yield
    except (ConfigError, PluginError) as error:
        note_missing_files(error, record)
        raise


def note_missing_files(error: Exception, record: RunRecord) -> None:
    """Add a note to an error of config or plugins for each plugin file that the run had and this command lacks.

    Files named in a record are never imported: the user must name those to trust.
    """
    if not isinstance(error, (ConfigError, PluginError)):
        return
    had = dict.fromkeys(file for attempt in record.attempts for file in _plugin_files(attempt.command))
    for file in had:
        if Path(file).name not in {Path(given).name for given in local_files()}:
            error.add_note(f"the run was started with --plugin {file}, and this command was not")


def _plugin_files(command: Sequence[str]) -> Iterator[str]:
    for word, following in zip(command, [*command[1:], ""], strict=True):
        if word == "--plugin" and following:
            yield following
        elif word.startswith("--plugin="):
            yield word.removeprefix("--plugin=")


def choosing_words() -> list[str]:
    """Return the options of the current command that select plugins, as they would be typed."""
    given = click.get_current_context().params
    flags = {
        "--plugin": given["files"],
        "--allow": (*_before_command("allow"), *given["allow"]),
        "--deny": (*_before_command("deny"), *given["deny"]),
    }
    return [word for flag, values in flags.items() for value in values for word in (flag, value)]


def load_words(
    words: Sequence[str],
    catalog: Catalog,
    defaults: Mapping[str, Any] | None = None,
    lock: Lock | None = None,
    switches: Mapping[str, Mapping[str, Any]] | None = None,
) -> RunConfig:
    """Load the config that the words of a command define; the other arguments are those of ``load_config``."""
    path, overrides = split_words(words)
    # Plugins may print on import; standard output is for results.
    with (
        contextlib.redirect_stdout(sys.stderr),
        _meaning_a_config(path),
        watched_imports(lock.check if lock else None) as watch,
    ):
        config = load_config(path, overrides, defaults=defaults, switches=switches, catalog=catalog, vet=watch)
    if context := click.get_current_context(silent=True):
        context.obj.redaction = Redaction.of(config)
    return config


@contextlib.contextmanager
def watched_imports(vet: Callable[[Entry], None] | None = None) -> Iterator[ImportWatch]:
    """Watch imports, and add what they change for the whole process to the warnings of the current command."""
    watch = ImportWatch(vet)
    try:
        yield watch
    finally:
        watch.before("")
        if context := click.get_current_context(silent=True):
            context.obj.warnings += watch.changes


@contextlib.contextmanager
def _meaning_a_config(path: str | None) -> Iterator[None]:
    """Give an error a hint if the file named as a config seems to be another one, such as a table."""
    try:
        yield
    except ConfigError as error:
        suffix = Path(path or "").suffix
        if path and suffix not in ("", ".toml") and "is not a valid config" in error.message:
            use = "use its plugins: --plugin" if suffix == ".py" else "write one for a data file: hookline init"
            error.hint = f"a config is a TOML file; to {use} {shlex.quote(path)}"
        raise


def option_values(words: Sequence[str]) -> dict[str, Any]:
    """Parse ``option=value`` words into the options of one plugin.

    Raises:
        ConfigError: With every word that cannot be parsed.
    """
    faults: list[Fault] = []
    items = read_overrides(words, faults)
    if faults:
        raise ConfigError("the options cannot be read", faults=faults)
    return {item.path[0]: item.value for item in items}


def find(catalog: Catalog, kind: str, name: str) -> Entry:
    """Find a plugin by kind and name.

    Raises:
        ConfigError: When there is no such plugin.
        PluginError: When the name is ambiguous or the plugin may not be used.
    """
    try:
        return catalog.find(kind, name)
    except LookupError as error:
        from hookline.config.plugins.index import read_index

        hint = "\n  = ".join((str(error), *read_index(catalog).hints(kind, name)))
        raise ConfigError(f"no {kind} plugin named {name!r} is installed", hint=hint) from None


def entry_values(entry: Entry, catalog: Catalog) -> dict[str, str]:
    """Return a plugin as plain values."""
    return {
        "kind": entry.kind,
        "name": catalog.callable_name(entry),
        "distribution": entry.distribution,
        "version": entry.version,
        "origin": entry.value,
    }
