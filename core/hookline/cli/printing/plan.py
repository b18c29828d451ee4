"""Printing of a config: the plan of a run, the origin of a value, and suggested commands."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hookline.config.plugins.choice import PluginChoice
from hookline.config.plugins.options import Option, options_of, plain
from hookline.config.run_config import RunConfig, Setting
from hookline.engine.train_options import TrainOptions
from hookline.runs.config_text import to_toml
from hookline.runs.identity import plugins_of
from hookline.runs.redaction import REDACTED, Redaction

_ALWAYS_SHOWN = ("train.epochs", "train.batch_size", "train.seed")


def plan_lines(config: RunConfig) -> Iterator[str]:
    """Yield the plan of a run: its plugins with their origin, and the options that are not defaults."""
    redaction = Redaction.of(config)
    width = max(len(label) for label in ("train", *(choice.table for choice in config.plugins)))
    yield "plan"
    shown = [s for key, s in config.settings.items() if key in _ALWAYS_SHOWN or _is_set("train", key, s)]
    yield f"  {'train'.ljust(width)}  " + ", ".join(_setting(s, "train", redaction) for s in shown)
    for choice in config.plugins:
        use = config.settings[f"{choice.table}.use"]
        options = [s for key, s in config.settings.items() if s is not use and _is_set(choice.table, key, s)]
        details = "".join(f"\n  {' ' * width}    {_setting(s, choice.table, redaction)}" for s in options)
        yield f"  {choice.table.ljust(width)}  {_plugin(choice)}, {use.origin}{details}"


def plan_events(config: RunConfig) -> dict[str, Any]:
    """Return the plan of a run as plain values: plugins by table, settings by key."""
    redaction = Redaction.of(config)
    settings = {key: setting_values(s, redaction) for key, s in config.settings.items()}
    return {**plugins_of(config), "settings": settings}


def setting_values(setting: Setting, redaction: Redaction) -> dict[str, Any]:
    """Return a setting as plain values without secrets."""
    overrode = setting_values(setting.overrode, redaction) if setting.overrode else None
    value = redaction.setting(setting.key, plain(setting.value))
    return {"key": setting.key, "value": value, "origin": str(setting.origin), "overrode": overrode}


def explanation_lines(setting: Setting, config: RunConfig, *, is_quiet: bool) -> Iterator[str]:
    """Yield a value, its origin, the values that it overrode, and its meaning."""
    redaction = Redaction.of(config)
    if is_quiet:
        yield _value(setting, redaction)
        return
    yield f"{setting.key} = {_value(setting, redaction)}"
    yield f"  from {setting.origin}"
    earlier = setting.overrode
    while earlier:
        yield f"  overrode {_value(earlier, redaction)} from {earlier.origin}"
        earlier = earlier.overrode
    option, owner = _option(setting.key, config)
    if option and setting.origin.layer != "default" and not option.is_required:
        yield f"  the default of {owner} is {to_toml(option.default)}"
    if option and option.description:
        yield f"  {option.description}: {option.expected}"


def next_steps(
    words: Sequence[str], config: RunConfig, history: Sequence[Mapping[str, float]], *, is_trial: bool, is_saved: bool
) -> Iterator[str]:
    """Yield the commands to try after a run, saved or not, or after a trial of it."""
    others = [word for word in words if not word.startswith("train.epochs=")]
    command = shlex.join(["hookline", "train", *others])
    yield "\ntry next"
    steps = {f"{command} train.epochs={2 * max(config.train.epochs, 1)}": "train longer"}
    if history and _is_at_rest(history[-1]):
        steps = {}
    if is_trial:
        steps = {shlex.join(["hookline", "train", *words]): "train in full"}
    if is_saved:
        steps["hookline runs"] = "list the saved runs"
    steps["hookline plugins"] = "list the available plugins"
    if not words:
        steps["hookline init DATA.csv"] = "write a config for your own table"
    yield from step_lines(steps)


def _is_at_rest(metrics: Mapping[str, float]) -> bool:
    """Whether the last epoch changed nothing, as after a start at the least-squares solution."""
    during, after = (metrics.get(f"train/{name}", math.nan) for name in ("running_loss", "loss"))
    return math.isclose(during, after, rel_tol=1e-6)


def step_lines(steps: Mapping[str, str]) -> Iterator[str]:
    """Yield commands to type, each with its purpose."""
    width = min(max(map(len, steps)), 60)
    for command, purpose in steps.items():
        yield f"  {command.ljust(width)}  # {purpose}"


def _is_set(label: str, key: str, setting: Setting) -> bool:
    return key.rpartition(".")[0] == label and setting.origin.layer != "default"


def _value(setting: Setting, redaction: Redaction) -> str:
    shown = redaction.setting(setting.key, plain(setting.value))
    return REDACTED if shown == REDACTED else to_toml(shown)


def _setting(setting: Setting, label: str, redaction: Redaction) -> str:
    text = f"{setting.key.removeprefix(f'{label}.')} = {_value(setting, redaction)}"
    return text if setting.origin.layer == "default" else f"{text} ({setting.origin})"


def _plugin(choice: PluginChoice) -> str:
    entry = choice.plugin.entry
    return f"{entry.name} ({entry.source})" if entry else choice.plugin.name


def _option(key: str, config: RunConfig) -> tuple[Option | None, str]:
    label, _, name = key.rpartition(".")
    known: dict[str, tuple[tuple[Option, ...], str]] = {"train": (options_of(TrainOptions), "the loop")}
    known |= {choice.table: (choice.plugin.options, str(choice.plugin)) for choice in config.plugins}
    options, owner = known.get(label, ((), ""))  # a callback that is off has no options
    return next((option for option in options if option.name == name), None), owner
