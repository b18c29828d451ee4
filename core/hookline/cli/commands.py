"""The commands. Each parses its words, calls the public door and prints."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from hookline.catalog import KINDS, Catalog, Entry
from hookline.cli.completion import complete_name, complete_words, script, split_words
from hookline.cli.output import Output
from hookline.cli.plan import next_steps, plan_events, plan_lines
from hookline.config import RunConfig, load_config
from hookline.errors import ConfigError, did_you_mean


class CarriedError(Exception):
    """Carries an error of a command past click, which has a meaning of its own for it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


_Command = TypeVar("_Command", bound=Callable[..., None])


def _printing(command: _Command) -> _Command:
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


_words = click.argument("words", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...", shell_complete=complete_words)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(package_name="hookline", message="%(prog)s %(version)s")
def hookline() -> None:
    """Train PyTorch models from plugins: data, model, loss, optimizer and callbacks.

    Without a config `hookline train` fits a linear regression to data that it makes itself. Each part can be
    exchanged for another plugin, by a config in TOML or in the command: optimizer=adam optimizer.lr=0.01.
    """


@hookline.command()
@_words
@_printing
def train(output: Output, words: Sequence[str]) -> None:
    """Train a model.

    CONFIG is a TOML file; KEY=VALUE overrides it, with VALUE written as in TOML or as a bare word.
    """
    catalog = Catalog.installed()
    shown: dict[str, Any] = (
        {} if output.quiet and not output.json else catalog.default("json" if output.json else "terminal")
    )
    config = _load(words, catalog, shown)
    if output.json:
        output.event("plan", **plan_events(config))
    for line in plan_lines(config):
        output.prose(line)
    output.prose()

    from hookline.run import Run

    Run(config).fit()
    for line in next_steps(words, config):
        output.prose(line)


@hookline.command()
@_words
@_printing
def check(output: Output, words: Sequence[str]) -> None:
    """Check a run without training: config, plugins, data, and one step on one batch. Writes nothing."""
    config = _load(words, Catalog.installed())
    for line in plan_lines(config):
        output.prose(line)

    from hookline.run import Run

    run = Run(config)
    num_parameters = sum(parameter.numel() for parameter in run.model.parameters())
    loss = run.try_step()
    if output.json:
        sizes = {"steps_per_epoch": run.steps_per_epoch, "num_parameters": num_parameters}
        output.document({"ok": True, "plan": plan_events(config), **sizes, "first_loss": loss})
    output.prose(f"\n{num_parameters} parameters, {run.steps_per_epoch} steps in an epoch, first loss {loss:.6g}")
    output.prose("all checked: this run can be trained")


@hookline.command()
@click.argument("kind", required=False, type=click.Choice(KINDS))
@_printing
def plugins(output: Output, kind: str | None) -> None:
    """List the installed plugins, of one KIND or all, without importing any."""
    catalog = Catalog.installed()
    entries = catalog.of_kind(kind) if kind else catalog.entries
    for problem in catalog.problems:
        output.note(f"note: {problem}")
    if output.json:
        output.document([_entry_values(entry, catalog) for entry in entries])
        return
    rows = [[e.kind, _callable_name(e, catalog), e.distribution, e.version, e.value] for e in entries]
    output.table(["kind", "name", "distribution", "version", "object"], rows)
    output.prose("\nhookline show KIND NAME tells the options of one")


@hookline.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name", shell_complete=complete_name)
@_printing
def show(output: Output, kind: str, name: str) -> None:
    """Show a plugin: what it is, its options, and the lines to paste into a config."""
    from hookline.config_text import option_lines, to_toml
    from hookline.loader import load_plugin

    catalog = Catalog.installed()
    try:
        entry = catalog.find(kind, name)
    except LookupError as error:
        raise ConfigError(f"no {kind} plugin named {name!r} is installed", hint=str(error)) from None
    plugin = load_plugin(entry)
    label = f"callbacks.{entry.name}" if kind == "callback" else kind
    lines = option_lines(label, _callable_name(entry, catalog), plugin.options)
    about = inspect.getdoc(plugin.target) or ""
    if output.json:
        options = [
            {"name": o.name, "required": o.is_required, "expected": o.expected, "schema": o.schema()}
            for o in plugin.options
        ]
        output.document({**_entry_values(entry, catalog), "about": about, "options": options, "toml": "\n".join(lines)})
        return
    output.prose(f"{entry}: {entry.value}\n\n{about}\n")
    if plugin.options and not output.quiet:
        rows = [
            [o.name, "required" if o.is_required else to_toml(o.default), o.expected, o.description]
            for o in plugin.options
        ]
        output.table(["option", "default", "takes", "meaning"], rows)
        output.line("\nin a config:\n")
    for line in lines:
        output.line(line)


@hookline.command()
@click.argument("key")
@_words
@_printing
def explain(output: Output, key: str, words: Sequence[str]) -> None:
    """Explain a value of a run: what it is, where it comes from, and what it overrode.

    KEY is a full key such as optimizer.lr, or a table such as optimizer.
    """
    from hookline.cli.plan import explanation_lines, setting_values

    catalog = Catalog.installed()
    config = _load(words, catalog, catalog.default("terminal"))
    settings = [s for name, s in config.settings.items() if name == key or name.startswith(f"{key}.")]
    if not settings:
        raise ConfigError(f"this run has no key {key!r}", hint=did_you_mean(key, config.settings))
    if output.json:
        output.document([setting_values(setting) for setting in settings])
        return
    for setting in settings:
        for line in explanation_lines(setting, config, is_brief=output.quiet):
            output.line(line)


@hookline.command()
@click.argument("datafile", required=False, type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), default="run.toml", show_default=True)
@click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
@_printing
def init(output: Output, datafile: Path | None, target: Path, force: bool) -> None:
    """Write a commented config; with DATAFILE, a CSV or Parquet file, one that fits it."""
    from hookline.config_text import commented_toml

    if target.exists() and not force:
        raise ConfigError(f"{target} exists already", hint="choose another name with -o, or overwrite it with --force")
    catalog = Catalog.installed()
    tables = catalog.default("starter")(datafile, target.parent) if datafile else {}
    config = load_config(tables, catalog=catalog)
    head = f"# Train with: hookline train {target}\n# A line that begins with # shows a default.\n"
    text = f"{head}\n{commented_toml(config)}"
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        hint = "choose another name with -o"
        raise ConfigError(f"{target} cannot be written: {error.strerror}", hint=hint) from error
    if output.json:
        output.document({"path": str(target)})
    output.prose(f"wrote {target}; next: hookline check {target}, then hookline train {target}")


@hookline.command()
@_printing
def schema(output: Output) -> None:
    """Print a JSON Schema of a config, for editors, with all installed plugins."""
    from hookline.schema import config_schema

    document, errors = config_schema(Catalog.installed())
    for error in errors:
        output.note(f"note: left out: {error.message}")
    output.document(document)


@hookline.command()
@_printing
def version(output: Output) -> None:
    """Print the versions of Hookline and of what it runs on."""
    import platform
    from importlib.metadata import version as version_of

    versions = {name: version_of(name) for name in ("hookline", "torch", "pluggy")} | {
        "python": platform.python_version()
    }
    if output.json:
        output.document(versions)
    elif output.quiet:
        output.line(versions["hookline"])
    else:
        output.line(" ".join(f"{name} {number}" for name, number in versions.items()))


@hookline.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@_printing
def completion(output: Output, shell: str) -> None:
    """Print the script that makes a shell complete this command.

    For bash, in ~/.bashrc: eval "$(hookline completion bash)"
    """
    output.line(script(hookline, shell))


def _load(words: Sequence[str], catalog: Catalog, defaults: dict[str, Any] | None = None) -> RunConfig:
    """Return the config that the words of a command mean."""
    path, overrides = split_words(words)
    return load_config(path, overrides, defaults=defaults, catalog=catalog)


def _callable_name(entry: Entry, catalog: Catalog) -> str:
    """Return the name by which a config can call a plugin: the qualified one where the plain is ambiguous."""
    return entry.name if entry.name in catalog.names(entry.kind) else entry.qualified_name


def _entry_values(entry: Entry, catalog: Catalog) -> dict[str, str]:
    return {
        "kind": entry.kind,
        "name": _callable_name(entry, catalog),
        "distribution": entry.distribution,
        "version": entry.version,
        "object": entry.value,
    }
