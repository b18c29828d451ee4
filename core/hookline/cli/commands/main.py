"""The command ``hookline``: its short commands, and the table of those that are imported on first use."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import click

from hookline.cli.arguments import (
    added_callbacks,
    callbacks_of_train,
    choosing_words,
    load_words,
    output_options,
    plugin_options,
    unwanted_callbacks,
    without_callbacks,
    words_argument,
)
from hookline.cli.completion import script, split_words
from hookline.cli.fitting import Observers, fit, observing, shortcuts_option
from hookline.cli.lazy_group import LazyCommand, LazyGroup
from hookline.cli.output import Output
from hookline.cli.printing.plan import next_steps, plan_events, plan_lines, step_lines
from hookline.cli.ranks import earlier_attempt, joined, launch_ranks, leave_to_zero, nproc_option, parallel_of_command
from hookline.cli.streams import outlasted_output
from hookline.config.loading import load_config
from hookline.config.plugins.catalog import KINDS, Catalog
from hookline.config.references import escaped
from hookline.config.run_config import RunConfig
from hookline.engine.errors import ConfigError
from hookline.engine.hookspecs import API_VERSION
from hookline.engine.words import did_you_mean
from hookline.runs.folder import folder_of
from hookline.runs.lock import make_lock, read_lock
from hookline.shortcuts.light_optimizer import light_optimizer
from hookline.trials.switches import trial_values


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.option(
    "--allow", is_eager=True, multiple=True, metavar="DIST", help="Use only plugins of this distribution; repeatable."
)
@click.option(
    "--deny", is_eager=True, multiple=True, metavar="DIST", help="Use no plugins of this distribution; repeatable."
)
@click.version_option(package_name="hookline", message="%(prog)s %(version)s")
@click.pass_context
def hookline(context: click.Context, allow: Sequence[str], deny: Sequence[str]) -> None:  # noqa: ARG001 - see _catalog
    """Train PyTorch models from plugins: data, model, loss, optimizer and callbacks.

    Without a config, `hookline train` fits a linear regression to synthetic data. Choose other plugins and options in a
    TOML config or on the command line:

        hookline train optimizer=adam optimizer.lr=0.01
    """
    leave_to_zero(context.invoked_subcommand)


hookline.lazy = {
    "plugins": LazyCommand("commands.plugins", "plugins", "List or check the installed plugins."),
    "show": LazyCommand("commands.plugins", "show", "Show a plugin and its options."),
    "lock": LazyCommand("commands.plugins", "lock", "Record the code of a run's plugins in a lock file."),
    "lr-find": LazyCommand("commands.trials", "lr_find", "Find a learning rate for a run."),
    "profile": LazyCommand("commands.trials", "profile", "Measure where a run spends its time."),
    "resume": LazyCommand("commands.runs", "resume", "Resume RUN from its newest valid checkpoint."),
    "runs": LazyCommand("commands.runs", "runs", "List, watch, show, tag, compare, plot or remove runs."),
    "prove-resume": LazyCommand("commands.proof", "prove_resume", "Prove that a run resumes exactly."),
    "eval": LazyCommand("commands.evaluating", "eval_", "Evaluate the model of RUN, or compare several runs."),
    "predict": LazyCommand("commands.trained", "predict", "Predict the rows of INPUT, or a split of the data of RUN."),
    "importance": LazyCommand(
        "commands.importance", "importance", "Measure how much each feature matters to the model of RUN."
    ),
    "export": LazyCommand("commands.export", "export", "Export the model of RUN for other programs."),
}


@hookline.command()
@words_argument
@click.option("--name", metavar="NAME", help="Name of the run folder, after its number.")
@click.option("--locked", type=click.Path(), metavar="LOCK", help="Reject plugins whose code differs from this lock.")
@click.option("--overfit", type=click.IntRange(min=1), metavar="N", help="Overfit the first N examples.")
@click.option("--fast", "is_fast", is_flag=True, help="Run a few batches through every part of the run.")
@nproc_option
@shortcuts_option
@output_options
@plugin_options
@observing
@outlasted_output()
def train(  # noqa: PLR0913 - a parameter for each option
    output: Output,
    catalog: Catalog,
    *,
    words: Sequence[str],
    name: str | None,
    locked: str | None,
    overfit: int | None,
    is_fast: bool,
    nproc: int,
    shortcuts: bool,
    observers: Observers,
) -> None:
    """Train a model.

    CONFIG is a TOML file. KEY=VALUE overrides a value of it; VALUE is written as in TOML or as a bare word.
    """
    locks = read_lock(locked) if locked else None
    is_trial = is_fast or overfit is not None
    added = added_callbacks(output, catalog, is_saved=not is_trial) | parallel_of_command(catalog, nproc)
    if is_trial and name is not None:
        raise ConfigError(
            "--name cannot be combined with --fast or --overfit", hint="a trial is not saved: omit --name"
        )
    named = {} if name is None else {"--name": catalog.default("named")(name)}
    config = load_words(words, catalog, added, locks, named)
    if is_trial:
        # The values of a trial depend on those of the config, so it is loaded again with them.
        switches = trial_values(config, catalog, overfit, is_fast=is_fast)
        config = load_words(words, catalog, added, locks, switches)
    config = without_callbacks(config, unwanted_callbacks(output, catalog, is_saved=not is_trial))
    launch_ranks(nproc)
    if output.json:
        output.event("plan", **plan_events(config))
    for line in plan_lines(config):
        output.prose(line)
    if not locked:
        _warn_of_drift(output, words, config)
    output.prose()

    from hookline.engine.loop.run import Run

    with joined(output, config) as ranks, light_optimizer() if shortcuts and not ranks else nullcontext():
        if ranks and (path := earlier_attempt(ranks, catalog.default("parent")(config))):
            from hookline.cli.commands.runs import resume_and_fit

            resume_and_fit(output, catalog, path, observers=observers, shortcuts=shortcuts, ranks=ranks)
            return
        run = Run(config, observers=observers.active, shortcuts=shortcuts, ranks=ranks)
        fit(output, run, observers)
    is_saved = folder_of(run) is not None
    for line in next_steps([*choosing_words(), *words], config, run.history, is_trial=is_trial, is_saved=is_saved):
        output.prose(line)


def _warn_of_drift(output: Output, words: Sequence[str], config: RunConfig) -> None:
    """Warn of plugins whose code differs from the lock next to the config, if there is one."""
    from hookline.cli.commands.plugins import lock_path

    path = lock_path(split_words(words)[0])
    if not path.exists():
        return
    named = {choice.table: choice.plugin.entry for choice in config.plugins if choice.plugin.entry}
    for text in read_lock(path).drift(make_lock(named)):
        output.note(f"warning: {text} ({path})")


@hookline.command()
@words_argument
@output_options
@plugin_options
def check(output: Output, catalog: Catalog, words: Sequence[str]) -> None:
    """Check a run without training it.

    Checks the config, the plugins, the data and the model, and takes one step on one batch. Writes nothing.
    """
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
    steps = "an unknown number of" if run.steps_per_epoch is None else run.steps_per_epoch  # None: a stream
    output.prose(f"\n{model.num_parameters} parameters, {steps} steps per epoch, first loss {loss:.6g}")
    output.prose("all checks passed: this run can be trained")


@hookline.command()
@click.argument("key")
@words_argument
@output_options
@plugin_options
def explain(output: Output, catalog: Catalog, key: str, words: Sequence[str]) -> None:
    """Show the value of KEY in a run, and its origin.

    KEY is a full key such as optimizer.lr, or a table such as optimizer.
    """
    from hookline.cli.printing.plan import explanation_lines, setting_values

    config = load_words(words, catalog, callbacks_of_train(catalog))
    settings = [s for name, s in config.settings.items() if name == key or name.startswith(f"{key}.")]
    if not settings:
        raise ConfigError(f"this run has no key {key!r}", hint=did_you_mean(key, config.settings))
    if output.json:
        output.document([setting_values(setting, output.redaction) for setting in settings])
        return
    for setting in settings:
        for line in explanation_lines(setting, config, is_quiet=output.quiet):
            output.line(line)


@hookline.command()
@click.argument("datafile", required=False, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    default="run.toml",
    show_default=True,
    metavar="FILE",
    help="File to write.",
)
@click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
@click.option("--target", "column", metavar="COLUMN", help="Column of DATAFILE to predict.")
@click.option("--task", type=click.Choice(["regression", "classification"]), help="How to treat the target.")
@output_options
def init(
    output: Output, datafile: Path | None, target: Path, force: bool, column: str | None, task: str | None
) -> None:
    """Write a commented config.

    With DATAFILE, a CSV or Parquet file or a text, the config fits that file: its choices and reasons are shown.
    """
    from hookline.cli.text_file import write_text_file
    from hookline.runs.config_text import commented_toml

    if target.exists() and not force:
        raise ConfigError(f"{target} already exists", hint="choose another name with -o, or overwrite it with --force")
    catalog = Catalog.installed()
    if datafile is None and (column or task):
        raise ConfigError("--target and --task are for a DATAFILE", hint="hookline init DATAFILE --target COLUMN")
    starter = catalog.default("starter")(datafile, target.parent, column, task) if datafile else None
    config = load_config(escaped(starter.tables) if starter else {}, catalog=catalog)
    head = f"# Train with: hookline train {target}\n# A line that begins with # shows a default.\n"
    write_text_file(target, f"{head}\n{commented_toml(config)}", force=force)
    remarks, warnings = (starter.remarks, starter.warnings) if starter else ([], [])
    if output.json:
        output.document({"path": str(target), **({"remarks": remarks, "warnings": warnings} if starter else {})})
    for text in remarks:
        output.prose(text)
    for text in warnings:
        output.note(f"warning: {text}")
    output.prose(f"wrote {target}; next: hookline check {target}, then hookline train {target}")


@hookline.command()
@click.argument("kind", type=click.Choice(KINDS), metavar="KIND")
@click.argument("name")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to create.  [default: hookline-NAME]",
)
@output_options
def new(output: Output, kind: str, name: str, folder: Path | None) -> None:
    """Create a distribution with one plugin.

    The plugin is of KIND (data, model, loss, optimizer, parallel or callback) and called NAME. The distribution has
    code, tests and settings, and is ready to install.
    """
    import shlex
    from importlib.metadata import version as version_of

    from hookline.cli.scaffold.folder import folder_faults, write_folder
    from hookline.cli.scaffold.scaffold import Scaffold

    scaffold = Scaffold(kind, name)
    target = folder or Path(scaffold.distribution)
    try:
        if faults := [*scaffold.faults(Catalog.installed()), *folder_faults(target)]:
            raise ConfigError("no plugin was created", faults=faults)
        files = scaffold.files(version_of("hookline"))
        write_folder(target, files)
    except OSError as error:
        hint = "choose another folder with --dir"
        raise ConfigError(f"{target} cannot be written: {error.strerror}", hint=hint) from error
    steps = {
        f"pip install -e {shlex.quote(f'{target}[test]')}": "install it with its test dependencies",
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
@output_options
@plugin_options
def schema(output: Output, catalog: Catalog) -> None:
    """Print a JSON Schema of a config, for editors."""
    from hookline.cli.schema import config_schema

    document, errors = config_schema(catalog)
    for error in errors:
        output.note(f"note: omitted: {error.message}")
    output.document(document)


@hookline.command()
@output_options
def version(output: Output) -> None:
    """Print the versions of Hookline and its dependencies."""
    import platform
    from importlib.metadata import distributions
    from importlib.metadata import version as version_of

    found = {(str(one.locate_file("")), one.version) for one in distributions(name="hookline")}
    if len({number for _, number in found}) > 1:
        listed = ", ".join(f"{number} in {place}" for place, number in sorted(found))
        output.note(f"several versions of the distribution hookline are installed: {listed}", "warning: ")
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
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL")
@output_options
def completion(output: Output, shell: str) -> None:
    """Print the completion script for a shell.

    SHELL is bash, zsh or fish. For bash, add this line to ~/.bashrc:

        eval "$(hookline completion bash)"
    """
    output.line(script(hookline, shell))
