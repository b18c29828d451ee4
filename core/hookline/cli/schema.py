"""JSON Schema of a config with the installed plugins, for completion and checking in editors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

from hookline.config.plugins.catalog import Catalog
from hookline.config.plugins.choice import OnError
from hookline.config.plugins.options import Option, options_of
from hookline.config.plugins.plugin import load_plugin
from hookline.config.run_config import OFF, SINGLE_KINDS, PluginRules
from hookline.engine.errors import PluginError
from hookline.engine.train_options import TrainOptions


def config_schema(catalog: Catalog) -> tuple[dict[str, Any], list[PluginError]]:
    """Return a JSON Schema (draft-07) of a config that may name any installed plugin.

    All installed plugins are imported. A plugin that fails to import is omitted from the schema.

    Returns:
        The schema, and an error for each omitted plugin.
    """
    errors: list[PluginError] = []
    plugins = {kind: _plugin_options(catalog, kind, errors) for kind in (*SINGLE_KINDS, "callback")}
    default = catalog.default("run")
    properties: dict[str, Any] = {
        "train": _table(options_of(TrainOptions)),
        "plugins": _table(options_of(PluginRules)),
    }
    for kind in SINGLE_KINDS:
        properties[kind] = (
            _plugin_table(plugins[kind], default[kind]["use"]) if kind in default else _optional_table(plugins[kind])
        )
    properties["callbacks"] = _callbacks(plugins["callback"])
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Hookline run",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
    return schema, errors


def _plugin_options(catalog: Catalog, kind: str, errors: list[PluginError]) -> dict[str, tuple[Option, ...]]:
    found: dict[str, tuple[Option, ...]] = {}
    for name in catalog.names(kind):
        try:
            found[name] = load_plugin(catalog.find(kind, name)).options
        except PluginError as error:
            errors.append(error)
    return found


def _table(options: Iterable[Option], **extra: Any) -> dict[str, Any]:
    options = tuple(options)
    table: dict[str, Any] = {
        "type": "object",
        "properties": {**extra, **{option.name: option.schema() for option in options if not option.is_from_user}},
        "additionalProperties": False,
    }
    if required := [option.name for option in options if option.is_required]:
        table["required"] = required
    return table


def _plugin_table(plugins: dict[str, tuple[Option, ...]], default: str, **more: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a table whose key ``use`` selects its other keys; a bare plugin name is also valid."""
    use = {"enum": sorted(plugins), "default": default, "description": "name of the plugin"}
    keys = {"use": use, **more}
    branches = [_branch(name, options, keys, is_default=name == default) for name, options in plugins.items()]
    table = {"type": "object", "properties": keys, **({"allOf": branches} if branches else {})}
    bare = sorted(name for name, options in plugins.items() if not any(option.is_required for option in options))
    return {"anyOf": [{"enum": bare}, table]}


def _optional_table(plugins: dict[str, tuple[Option, ...]], **more: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a table that names its plugin, or is off."""
    table = _plugin_table(plugins, "", **more)
    table["anyOf"][1]["required"] = ["use"]
    return {"anyOf": [*table["anyOf"], {"const": OFF}]}


def _branch(name: str, options: tuple[Option, ...], keys: dict[str, Any], *, is_default: bool) -> dict[str, Any]:
    condition: dict[str, Any] = {"properties": {"use": {"const": name}}}
    if not is_default:
        condition["required"] = ["use"]
    return {"if": condition, "then": _table(options, **keys)}


def _callbacks(plugins: dict[str, tuple[Option, ...]]) -> dict[str, Any]:
    """Return the schema of ``[callbacks]``: each table is named after its plugin, unless ``use`` names another."""
    on_error = {"enum": list(get_args(OnError)), "default": "fail", "description": "what to do when it raises an error"}
    named = {name: _plugin_table(plugins, name, on_error=on_error) for name in plugins}
    for table in named.values():
        table["anyOf"].append({"const": OFF})
    other = _optional_table(plugins, on_error=on_error)
    return {"type": "object", "properties": named, "additionalProperties": other}
