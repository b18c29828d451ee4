"""Write a config as TOML for people: settings, and further options as comments with their meaning."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from hookline.config.plugins.choice import PluginChoice
from hookline.config.plugins.options import Option, is_plain, options_of, plain
from hookline.config.references import escaped
from hookline.config.run_config import OFF, SHOWN, PluginRules, RunConfig
from hookline.config.toml_text import parse_value
from hookline.engine.train_options import TrainOptions
from hookline.engine.view import ConfigView
from hookline.engine.words import printable
from hookline.runs.redaction import REDACTED, Redaction, keys_from_user

_KEY_WIDTH = 28


def to_toml(value: Any) -> str:
    """Return a plain value as TOML text on one line.

    >>> to_toml({"a": [1, 2.0], "b": "x"})
    '{a = [1, 2.0], b = "x"}'
    """
    value = plain(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # TOML has all of JSON's escapes, but also requires one for DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(name)} = {to_toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    return str(value)


def commented_toml(config: RunConfig) -> str:
    """Return ``config`` as TOML: values that were set as settings, defaults as comments."""
    parts = [_section("train", None, options_of(TrainOptions), config)]
    parts += [_section(choice.table, choice, choice.plugin.options, config) for choice in config.plugins]
    parts.append(_section("plugins", None, options_of(PluginRules), config))
    return "\n".join(parts)


def complete_toml(config: ConfigView) -> str:
    """Return ``config`` as TOML that does not depend on later defaults: every value, with its origin.

    Values with secrets and options that no file may set are left out, and so are values that a config cannot hold:
    None, objects passed from Python, numbers that are not finite, text with hidden characters. So is a callback that
    was switched off only to show the run differently.
    """
    tables: dict[str, list[str]] = {}
    redaction, from_user = Redaction.of(config), keys_from_user(config)
    for key, setting in config.settings.items():
        label, _, name = key.rpartition(".")
        if name == "use" and setting.origin.layer == SHOWN and setting.value == OFF:
            continue
        value = config.lasting(key)
        shown = redaction.setting(key, value) if is_plain(value) else None
        # A value without its secrets is not the value, so it must not be read back.
        is_setting = key not in from_user and shown is not None and shown == value and _is_readable(to_toml(value))
        text = "none" if shown is None else REDACTED if shown == REDACTED else to_toml(escaped(shown))
        line = f"{_key(name)} = {text}" if is_setting else f"# {_key(name)} = {printable(text)}"
        tables.setdefault(label, []).append(f"{line.ljust(_KEY_WIDTH)}  # {printable(str(setting.origin))}")
    return "\n".join("\n".join([_header(label), *lines, ""]) for label, lines in tables.items())


def option_lines(label: str, name: str, options: Iterable[Option]) -> list[str]:
    """Return the lines that add a plugin to a config: required options to fill in, the others as comments."""
    settings = [_line(option, option.default, is_comment=True) for option in options if not option.is_from_user]
    return [_header(label), f"use = {to_toml(name)}", *settings]


def _is_readable(text: str) -> bool:
    try:
        parse_value(text)
    except ValueError:
        return False
    return True


def _section(label: str, choice: PluginChoice | None, options: Iterable[Option], config: RunConfig) -> str:
    lines = [_header(label)]
    if choice:
        lines.append(f"use = {to_toml(config.settings[f'{label}.use'].value)}")
    if choice and choice.on_error != "fail":
        lines.append(f"on_error = {to_toml(choice.on_error)}")
    for option in options:
        if option.is_from_user:
            continue
        setting = config.settings[f"{label}.{option.name}"]
        lines.append(_line(option, setting.value, is_comment=setting.origin.layer == "default"))
    return "\n".join(lines) + "\n"


def _line(option: Option, value: Any, *, is_comment: bool) -> str:
    # A value that TOML cannot hold (no value yet, None, an object passed from Python) is left to the reader.
    text, is_comment = (to_toml(escaped(value)), is_comment) if is_plain(value) else ("...", True)
    setting = f"{'# ' if is_comment else ''}{_key(option.name)} = {text}"
    meaning = f"{option.description} ({option.expected})" if option.description else option.expected
    return f"{setting.ljust(_KEY_WIDTH)}  # {meaning}"


def _header(label: str) -> str:
    table, dot, name = label.partition(".")
    return f"[{table}{dot}{_key(name) if dot else ''}]"


def _key(name: str) -> str:
    is_bare = name and all(c.isascii() and (c.isalnum() or c in "-_") for c in name)
    return name if is_bare else to_toml(name)
