"""The commands. Each parses its words, calls the public door and prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from hookline.cli.arguments import (
    added_callbacks,
    callbacks_of_train,
    choosing,
    choosing_words,
    load_words,
    printing,
    unwanted_callbacks,
    words_argument,
)
from hookline.cli.completion import script, split_words
from hookline.cli.fitting import Observing, fit, observing
from hookline.cli.lazy_group import LazyCommand, LazyGroup
from hookline.cli.output import Output
from hookline.cli.printing.plan import next_steps, plan_events, plan_lines, step_lines
from hookline.engine.config.loading import load_config
from hookline.engine.config.run_config import OFF, SHOWN, RunConfig
from hookline.engine.errors import ConfigError
from hookline.engine.hookspecs import API_VERSION
from hookline.engine.plugin.catalog import KINDS, Catalog
from hookline.engine.words import did_you_mean
from hookline.runs.folder import folder_of
from hookline.runs.lock import make_lock, read_lock
from hookline.shortcuts.light_optimizer import light_optimizer
from hookline.trials.switches import trial_values


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(package_name="hookline", message="%(prog)s %(version)s")
def hookline() -> None:
    """Train PyTorch models from plugins: data, model, loss, optimizer and callbacks.

    Without a config `hookline train` fits a linear regression to data that it makes itself. Each part can be
    exchanged for another plugin, by a config in TOML or in the command: optimizer=adam optimizer.lr=0.01.
    """


hookline.lazy = {
    "plugins": LazyCommand("commands.plugins", "plugins", "List the installed plugins, or check them."),
    "show": LazyCommand(
        "commands.plugins", "show", "Show a plugin: what it is, its options, and the lines to paste into a config."
    ),
    "lock": LazyCommand(
        "commands.plugins", "lock", "Write down which code the plugins of a run are, for `hookline train --locked`."
    ),
    "lr-find": LazyCommand(
        "commands.trials", "lr_find", "Find a learning rate: raise it step by step, and see how the loss takes it."
    ),
    "profile": LazyCommand(
        "commands.trials",
        "profile",
        "Tell where the time of a run goes: the parts of the loop, and the operations of torch.",
    ),
    "resume": LazyCommand(
        "commands.runs",
        "resume",
        "Go on with RUN from its newest good checkpoint, in its folder, as if it had never been interrupted.",
    ),
    "runs": LazyCommand("commands.runs", "runs", "List the runs; or show, compare, draw or remove some."),
    "prove-resume": LazyCommand(
        "commands.proof",
        "prove_resume",
        "Prove that a run, with its plugins, resumes exactly: train it, kill and resume it, and compare every bit.",
    ),
    "eval": LazyCommand("commands.trained", "eval_", "Tell how good the model of RUN is on its data."),
    "predict": LazyCommand(
        "commands.trained", "predict", "Tell what the model of RUN predicts for the rows of the file INPUT, as CSV."
    ),
    "export": LazyCommand(
        "commands.trained",
        "export",
        "Write the model of RUN to a file for other programs, and compare what comes out of both.",
    ),
}


@hookline.command()
@words_argument
@click.option("--locked", type=click.Path(), help="Refuse plugins whose code is not what this lock says.")
@click.option("--overfit", type=click.IntRange(min=1), metavar="N", help="Learn the first N examples by heart.")
@click.option("--fast", "is_fast", is_flag=True, help="Put a few batches through every part of the run.")
@printing
@choosing
@observing
def train(
    output: Output,
    catalog: Catalog,
    words: Sequence[str],
    locked: str | None,
    overfit: int | None,
    is_fast: bool,
    observing: Observing,
) -> None:
    """Train a model.

    CONFIG is a TOML file; KEY=VALUE overrides it, with VALUE written as in TOML or as a bare word.
    """
    locks = read_lock(locked) if locked else None
    is_trial = is_fast or overfit is not None
    added = added_callbacks(output, catalog, is_kept=not is_trial)
    config = load_words(words, catalog, added, locks)
    switches = trial_values(config, catalog, overfit, is_fast=is_fast)
    unwanted = unwanted_callbacks(output, catalog, is_kept=not is_trial)
    if hidden := {label: OFF for label in unwanted if _is_from_file(config, label)}:
        switches[SHOWN] = hidden
    if switches:
        config = load_words(words, catalog, added, locks, switches)
    if output.json:
        output.event("plan", **plan_events(config))
    for line in plan_lines(config):
        output.prose(line)
    if not locked:
        _tell_drift(output, words, config)
    output.prose()

    from hookline.engine.loop.run import Run

    with light_optimizer():
        run = Run(config, observers=observing.observers)
        fit(output, run, observing)
    for line in next_steps([*choosing_words(), *words], config, is_trial=is_trial, is_kept=folder_of(run) is not None):
        output.prose(line)


def _is_from_file(config: RunConfig, label: str) -> bool:
    """Whether a run has a callback because a config file says so."""
    use = config.settings.get(f"{label}.use")
    return use is not None and use.origin.layer == "file"


def _tell_drift(output: Output, words: Sequence[str], config: RunConfig) -> None:
    """Warn when there is a lock beside the config, and the plugins are no longer what it says."""
    from hookline.cli.commands.plugins import lock_path

    path = lock_path(split_words(words)[0])
    if not path.exists():
        return
    named = {choice.table: choice.plugin.entry for choice in config.plugins if choice.plugin.entry}
    for text in read_lock(path).drift(make_lock(named)):
        output.note(f"warning: {text} ({path})")


@hookline.command()
@words_argument
@printing
@choosing
def check(output: Output, catalog: Catalog, words: Sequence[str]) -> None:
    """Check a run without training: config, plugins, data, model, and one step on one batch. Writes nothing."""
    config = load_words(words, catalog)
    for line in plan_lines(config):
        output.prose(line)

    from hookline.cli.printing.findings import model_values, print_model
    from hookline.engine.loop.run import Run
    from hookline.trials.model_summary import OutputShapes, summarize

    with light_optimizer():
        run = Run(config)
        with OutputShapes(run.model) as shapes:
            loss = next(run.try_steps()).loss.item()
    model = summarize(run.model, shapes)
    if output.json:
        sizes = {"steps_per_epoch": run.steps_per_epoch, **model_values(model)}
        output.document({"ok": True, "plan": plan_events(config), **sizes, "first_loss": loss})
    print_model(output, model)
    output.prose(f"\n{model.num_parameters} parameters, {run.steps_per_epoch} steps in an epoch, first loss {loss:.6g}")
    output.prose("all checked: this run can be trained")


@hookline.command()
@click.argument("key")
@words_argument
@printing
@choosing
def explain(output: Output, catalog: Catalog, key: str, words: Sequence[str]) -> None:
    """Explain a value of a run: what it is, where it comes from, and what it overrode.

    KEY is a full key such as optimizer.lr, or a table such as optimizer.
    """
    from hookline.cli.printing.plan import explanation_lines, setting_values

    config = load_words(words, catalog, callbacks_of_train(catalog))
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
@printing
def init(output: Output, datafile: Path | None, target: Path, force: bool) -> None:
    """Write a commented config; with DATAFILE, a CSV or Parquet file, one that fits it."""
    from hookline.runs.config_text import commented_toml

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
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name")
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="The folder to make; else hookline-NAME.")
@printing
def new(output: Output, kind: str, name: str, folder: Path | None) -> None:
    """Make a distribution with one plugin of KIND, called NAME: code, tests and settings, ready to install."""
    import shlex
    from importlib.metadata import version as version_of

    from hookline.cli.scaffold.folder import folder_faults, write_folder
    from hookline.cli.scaffold.scaffold import Scaffold

    scaffold = Scaffold(kind, name)
    target = folder or Path(scaffold.distribution)
    try:
        if faults := [*scaffold.faults(Catalog.installed()), *folder_faults(target)]:
            raise ConfigError("no plugin was made", faults=faults)
        files = scaffold.files(version_of("hookline"))
        write_folder(target, files)
    except OSError as error:
        hint = "choose another folder with --dir"
        raise ConfigError(f"{target} cannot be written: {error.strerror}", hint=hint) from error
    steps = {
        f"pip install -e {shlex.quote(f'{target}[test]')}": "install it with what its tests need",
        f"hookline train {scaffold.use}": "train with it",
        f"python -m pytest {shlex.quote(str(target))}": "run its tests",
    }
    if output.json:
        values = {"kind": kind, "name": name, "distribution": scaffold.distribution, "module": scaffold.module}
        output.document({"path": str(target), **values, "files": sorted(files), "next": list(steps)})
    output.prose(f"wrote {target}: {len(files)} files; next")
    for line in step_lines(steps):
        output.prose(line)


@hookline.command()
@printing
@choosing
def schema(output: Output, catalog: Catalog) -> None:
    """Print a JSON Schema of a config, for editors, with all installed plugins."""
    from hookline.cli.schema import config_schema

    document, errors = config_schema(catalog)
    for error in errors:
        output.note(f"note: left out: {error.message}")
    output.document(document)


@hookline.command()
@printing
def version(output: Output) -> None:
    """Print the versions of Hookline and of what it runs on."""
    import platform
    from importlib.metadata import version as version_of

    libraries = {name: version_of(name) for name in ("torch", "pluggy")}
    versions = {
        "hookline": version_of("hookline"),
        "hooks": API_VERSION,
        **libraries,
        "python": platform.python_version(),
    }
    if output.json:
        output.document(versions)
    elif output.quiet:
        output.line(versions["hookline"])
    else:
        output.line(" ".join(f"{name} {number}" for name, number in versions.items()))


@hookline.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@printing
def completion(output: Output, shell: str) -> None:
    """Print the script that makes a shell complete this command.

    For bash, in ~/.bashrc: eval "$(hookline completion bash)"
    """
    output.line(script(hookline, shell))
