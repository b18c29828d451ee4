"""JSON Schema of a config with the installed plugins: it agrees with ``load_config``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from jsonschema import Draft7Validator
from msgspec import Meta

from hookline import Catalog, ConfigError, hookimpl, load_config
from hookline.cli.schema import config_schema
from hookline.config import Entry

MakeCatalog = Callable[..., Catalog]


@dataclass
class Needy:
    """Callback with a required option."""

    room: Annotated[str, Meta(description="where it talks")]
    sizes: list[Annotated[int, Meta(ge=1)]] = field(default_factory=lambda: [1])

    @hookimpl
    def on_run_end(self) -> None: ...


NEEDY = Entry("callback", "needy", f"{__name__}:Needy", "acme", "1.2")
TWIN = Entry("model", "mlp", "hookline_plugins.models.mlp:MLP", "acme", "1.2")
BROKEN = Entry("model", "broken", "no_such_module:Net", "acme", "1.2")

ACCEPTED: list[dict[str, Any]] = [
    {},
    {"train": {}},
    {"train": {"epochs": 0, "batch_size": "all", "evaluate": ["test"], "shuffle": False}},
    {"optimizer": "adamw"},
    {"optimizer": {"lr": 0.1}},
    {"optimizer": {"use": "sgd", "lr": 1, "nesterov": True}},
    {"optimizer": {"use": "adam", "betas": [0.9, 0.99]}},
    {"model": {"use": "mlp", "hidden": [8, 8], "activation": "gelu"}},
    {"data": {"use": "csv", "path": "a.csv", "target": ["a", "b"]}},
    {"parallel": "off"},
    {"parallel": "ddp"},
    {"parallel": {"use": "ddp", "bucket_cap_mb": 5}},
    {"callbacks": {}},
    {"callbacks": {"early-stopping": {}}},
    {"callbacks": {"early-stopping": {"patience": 2}, "json-lines": "off"}},
    {"callbacks": {"best": {"use": "early-stopping", "patience": 2}}},
    {"callbacks": {"best": "early-stopping", "other": "off"}},
    {"callbacks": {"early-stopping": {"use": "needy", "room": "lab"}}},
    {"callbacks": {"needy": {"room": "lab", "sizes": [1, 2]}}},
    {"train": {"epochs": "${train.seed}", "evaluate_every": {"long": "${train.batch_size}"}}},
    {"callbacks": {"needy": {"room": "lab-${train.seed}", "sizes": ["${train.epochs}", 2]}}},
    {"extends": []},
    {"sweep": {"trials": 3}},
]
SAID_BY_A_BASE: list[dict[str, Any]] = [
    {"extends": "base.toml", "model": {"hidden": [3]}, "optimizer": {"betas": [0.5, 0.5]}},
    {"extends": ["base.toml"], "data": {"use": "csv", "path": "a.csv"}, "callbacks": {"best": {"patience": 2}}},
    {"extends": "base.toml", "callbacks": {"needy": {}}, "parallel": {"bucket_cap_mb": 5}},
]
REFUSED: list[dict[str, Any]] = [
    {"parallel": {"bucket_cap_mb": 5}},
    {"parallel": {"use": "ddp", "bucket_cap_mb": 0}},
    {"parallel": "dpp"},
    {"modle": {}},
    {"train": {"epoch": 3}},
    {"train": {"epochs": "3"}},
    {"train": {"epochs": True}},
    {"train": {"batch_size": "most"}},
    {"train": 5},
    {"optimizer": "adma"},
    {"optimizer": 5},
    {"optimizer": {"use": "adma"}},
    {"optimizer": {"lr": -1}},
    {"optimizer": {"betas": [0.9, 0.99]}},
    {"optimizer": {"use": "adam", "momentum": 0.9}},
    {"optimizer": {"use": "adam", "betas": [0.9]}},
    {"model": {"use": "mlp", "hidden": [0]}},
    {"model": {"use": "mlp", "activation": "rellu"}},
    {"data": {"use": "csv", "path": "a.csv"}},
    {"callbacks": {"best": {}}},
    {"callbacks": {"best": "worst"}},
    {"callbacks": {"early-stopping": {"patience": 0}}},
    {"callbacks": {"early-stopping": {"use": "needy", "patience": 2}}},
    {"callbacks": {"needy": {}}},
    {"callbacks": {"needy": {"room": "lab", "sizes": [0]}}},
    {"callbacks": {"needy": {"room": "lab", "extra": 1}}},
    {"callbacks": ["needy"]},
    {"extends": 5},
    {"extends": [5]},
    {"train": {"epochs": "$train.seed"}},
    {"extends": [], "train": {"epochs": -1}},
    {"extends": [], "model": {"use": "mlp", "hiden": [3]}},
    {"extends": [], "callbacks": {"best": {"use": "early-stopping", "patience": 0}}},
]


def schema_of(catalog: Catalog) -> dict[str, Any]:
    schema, errors = config_schema(catalog)
    assert errors == []
    return schema


def test_the_schema_is_valid_draft_07_and_plain_json(catalog_with: MakeCatalog) -> None:
    schema = schema_of(catalog_with(NEEDY))
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    Draft7Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize("document", ACCEPTED, ids=str)
def test_the_schema_accepts_a_valid_config(document: dict[str, Any], catalog_with: MakeCatalog) -> None:
    catalog = catalog_with(NEEDY)
    load_config(document, catalog=catalog)
    assert [error.message for error in Draft7Validator(schema_of(catalog)).iter_errors(document)] == []


@pytest.mark.parametrize("document", REFUSED, ids=str)
def test_the_schema_rejects_an_invalid_config(document: dict[str, Any], catalog_with: MakeCatalog) -> None:
    catalog = catalog_with(NEEDY)
    with pytest.raises(ConfigError):
        load_config(document, catalog=catalog)
    assert not Draft7Validator(schema_of(catalog)).is_valid(document)


@pytest.mark.parametrize("document", SAID_BY_A_BASE, ids=str)
def test_the_schema_accepts_what_a_base_may_complete(document: dict[str, Any], catalog_with: MakeCatalog) -> None:
    assert [error.message for error in Draft7Validator(schema_of(catalog_with(NEEDY))).iter_errors(document)] == []


def test_the_default_plugins_options_need_no_use(catalog_with: MakeCatalog) -> None:
    schema = schema_of(catalog_with())
    table = schema["else"]["properties"]["model"]["anyOf"][1]
    assert table["properties"]["use"]["default"] == "linear"
    assert table["properties"]["use"]["enum"] == ["linear", "mlp"]


def test_options_have_their_description_and_default(catalog_with: MakeCatalog) -> None:
    epochs = schema_of(catalog_with())["properties"]["train"]["properties"]["epochs"]
    assert epochs == {
        "description": "number of passes over the training data",
        "default": 3,
        "anyOf": [{"type": "integer", "minimum": 0}, {"$ref": "#/definitions/reference"}],
    }


def test_a_plugin_that_cannot_be_imported_is_left_out_and_returned_as_an_error(catalog_with: MakeCatalog) -> None:
    schema, errors = config_schema(catalog_with(BROKEN))
    assert [error.plugin for error in errors] == ["model 'broken'"]
    assert not Draft7Validator(schema).is_valid({"model": "broken"})
    assert Draft7Validator(schema).is_valid({"model": "mlp"})


def test_ambiguous_plugins_are_offered_by_their_qualified_names(catalog_with: MakeCatalog) -> None:
    validator = Draft7Validator(schema_of(catalog_with(TWIN)))
    assert validator.is_valid({"model": {"use": "acme/mlp", "hidden": [3]}})
    assert validator.is_valid({"model": "hookline/mlp"})
    assert not validator.is_valid({"model": "mlp"})


def test_the_schema_of_a_file_has_no_option_that_no_file_may_set(catalog_with: MakeCatalog) -> None:
    notify = Entry("callback", "notify", "hookline_plugins.callbacks.notify:Notify", "hookline", "0.1.0")
    validator = Draft7Validator(schema_of(catalog_with(notify)))
    assert validator.is_valid({"callbacks": {"notify": {"on": ["failed"]}}})
    assert not validator.is_valid({"callbacks": {"notify": {"command": ["true"]}}})
