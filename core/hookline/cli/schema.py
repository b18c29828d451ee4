"""JSON Schema of a config with the installed plugins, for completion and checking in editors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

from hookline.config.family import EXTENDS
from hookline.config.plugins.catalog import Catalog
from hookline.config.plugins.choice import OnError
from hookline.config.plugins.options import Option, options_of
from hookline.config.plugins.plugin import load_plugin
from hookline.config.run_config import OFF, SINGLE_KINDS, PluginRules
from hookline.engine.errors import PluginError
from hookline.engine.train_options import TrainOptions

_REFERENCE = {"$ref": "#/definitions/reference"}
_ON_ERROR = {"enum": list(get_args(OnError)), "default": "fail", "description": "what to do when it raises an error"}


@dataclass(frozen=True)
class _Choice:
    """A plugin that a table may name: its name, the name of the schema of its table, the keys that it requires."""

    name: str
    definition: str
    required: tuple[str, ...]


def config_schema(catalog: Catalog) -> tuple[dict[str, Any], list[PluginError]]:
    """Return a JSON Schema (draft-07) of a config that may name any installed plugin.

    All installed plugins are imported. A plugin that fails to import is omitted from the schema. A config that extends
    others is checked as far as it says itself which plugin a table names, because a file cannot be checked together
    with others.

    Returns:
        The schema, and an error for each omitted plugin.
    """
    errors: list[PluginError] = []
    definitions: dict[str, Any] = {
        "reference": {"type": "string", "pattern": r"\$\{[^{}]+\}", "description": "value of another key"}
    }
    choices = {kind: _choices(catalog, kind, definitions, errors) for kind in (*SINGLE_KINDS, "callback")}
    default = {kind: table["use"] for kind, table in catalog.default("run").items() if kind in SINGLE_KINDS}
    paths = [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Hookline run",
        "type": "object",
        "properties": {
            EXTENDS: {"anyOf": paths, "description": "config files that this one extends"},
            "train": _table(options_of(TrainOptions)),
            "plugins": _table(options_of(PluginRules)),
            **{table: {} for table in (*SINGLE_KINDS, "callbacks", *catalog.default("tables"))},
        },
        "additionalProperties": False,
        "if": {"required": [EXTENDS]},
        "then": {"properties": _plugin_tables(choices, default, is_whole=False)},
        "else": {"properties": _plugin_tables(choices, default, is_whole=True)},
        "definitions": definitions,
    }
    return schema, errors


def _choices(catalog: Catalog, kind: str, definitions: dict[str, Any], errors: list[PluginError]) -> list[_Choice]:
    """Return the plugins of a kind, and add the schemas of their tables to ``definitions``."""
    found: list[_Choice] = []
    for name in catalog.names(kind):
        try:
            options = load_plugin(catalog.find(kind, name)).options
        except PluginError as error:
            errors.append(error)
            continue
        choice = _Choice(name, f"{kind}-{len(found) + 1}", tuple(o.name for o in options if o.is_required))
        found.append(choice)
        definitions[choice.definition] = _table(options, use={}, **({"on_error": {}} if kind == "callback" else {}))
    return found


def _table(options: Iterable[Option], **extra: Any) -> dict[str, Any]:
    properties = {
        **extra,
        **{option.name: _or_reference(option.schema()) for option in options if not option.is_from_user},
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _or_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a value that may also be a reference, or contain some."""
    about: dict[str, Any] = {key: schema[key] for key in ("description", "default") if key in schema}
    rest = {key: value for key, value in schema.items() if key not in about}
    return {**about, "anyOf": [*map(_with_references, rest.get("anyOf", [rest])), _REFERENCE]}


def _with_references(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a list or a table that may contain references."""
    inner = {key: schema[key] for key in ("items", "additionalProperties") if schema.get(key)}
    return schema | {
        key: [*map(_or_reference, parts)] if isinstance(parts, list) else _or_reference(parts)
        for key, parts in inner.items()
    }


def _plugin_tables(choices: dict[str, list[_Choice]], default: dict[str, str], *, is_whole: bool) -> dict[str, Any]:
    """Return the schemas of all tables that name plugins; if the config is not whole, of what it says itself."""
    tables = {}
    for kind in SINGLE_KINDS:
        table = _plugin_table(choices[kind], default.get(kind, ""), is_whole=is_whole)
        tables[kind] = table if kind in default else _optional(table, is_whole=is_whole)
    named = {
        choice.name: _plugin_table(choices["callback"], choice.name, is_whole=is_whole, on_error=_ON_ERROR)
        for choice in choices["callback"]
    }
    for table in named.values():
        table["anyOf"].append({"const": OFF})
    other = _optional(_plugin_table(choices["callback"], "", is_whole=is_whole, on_error=_ON_ERROR), is_whole=is_whole)
    tables["callbacks"] = {"type": "object", "properties": named, "additionalProperties": other}
    return tables


def _plugin_table(choices: list[_Choice], default: str, *, is_whole: bool, **more: Any) -> dict[str, Any]:
    """Return the schema of a table whose key ``use`` selects its other keys; a bare plugin name is also valid."""
    names = sorted(choice.name for choice in choices)
    use = {"enum": names, "default": default, "description": "name of the plugin"}
    branches = [
        _branch(choice, is_default=is_whole and choice.name == default, is_whole=is_whole) for choice in choices
    ]
    table: dict[str, Any] = {"type": "object", "properties": {"use": use, **more}}
    table |= {"allOf": branches} if branches else {}
    bare = sorted(choice.name for choice in choices if not (is_whole and choice.required))
    return {"anyOf": [{"enum": bare}, table]}


def _optional(table: dict[str, Any], *, is_whole: bool) -> dict[str, Any]:
    """Return the schema of a table that has to name its plugin, or may be off."""
    if is_whole:
        table["anyOf"][1]["required"] = ["use"]
    return {"anyOf": [*table["anyOf"], {"const": OFF}]}


def _branch(choice: _Choice, *, is_default: bool, is_whole: bool) -> dict[str, Any]:
    condition: dict[str, Any] = {"properties": {"use": {"const": choice.name}}}
    if not is_default:
        condition["required"] = ["use"]
    table = {"$ref": f"#/definitions/{choice.definition}"}
    if not (is_whole and choice.required):
        return {"if": condition, "then": table}
    return {"if": condition, "then": {"allOf": [table, {"required": [*choice.required]}]}}
