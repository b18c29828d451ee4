"""Tests of the catalog of installed plugins, found from metadata by kind and plain or qualified name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hookline import Catalog, PluginError
from hookline.config import KINDS, Entry

ACME = Entry("model", "mlp", "acme_plugins:MLP", "acme-plugins", "1.2")
ZETA = Entry("model", "mlp", "zeta:MLP", "zeta", "0.1")
LINEAR = Entry("model", "linear", "acme_plugins:Linear", "acme-plugins", "1.2")
ADAM = Entry("optimizer", "adam", "acme_plugins:Adam", "acme-plugins", "1.2")


def write_distribution(folder: Path, name: str, entry_points: str, *, version: str = "1.0", metadata: str = "") -> Path:
    """Write a distribution's metadata without code."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text(metadata or f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    info.joinpath("entry_points.txt").write_text(entry_points)
    return info


def found(catalog: Catalog, *distributions: str) -> list[str]:
    return [str(entry) for entry in catalog.entries if entry.distribution in distributions]


# ---- entries ---------------------------------------------------------------------------------------------------------


def test_an_entry_is_shown_with_kind_name_distribution_and_version() -> None:
    assert str(ACME) == "model 'mlp' (acme-plugins 1.2)"
    assert str(Entry("model", "mlp", "a:b", "acme", "")) == "model 'mlp' (acme)"
    assert ACME.qualified_name == "acme-plugins/mlp"


def test_an_entry_loads_the_object_that_it_names() -> None:
    assert Entry("model", "path", "pathlib:Path", "acme", "1").load() is Path
    assert Entry("model", "joiner", "pathlib:Path.joinpath", "acme", "1").load() is Path.joinpath


# ---- finding by name -------------------------------------------------------------------------------------------------


def test_entries_are_sorted_by_kind_name_and_distribution() -> None:
    catalog = Catalog([ADAM, ZETA, LINEAR, ACME])
    assert catalog.entries == (LINEAR, ACME, ZETA, ADAM)
    assert KINDS == ("data", "model", "loss", "optimizer", "parallel", "callback")


def test_a_plugin_is_found_by_its_kind_and_its_name() -> None:
    catalog = Catalog([ACME, LINEAR, ADAM])
    assert catalog.find("model", "linear") is LINEAR
    assert catalog.find("optimizer", "adam") is ADAM
    assert catalog.of_kind("model") == (LINEAR, ACME)
    assert catalog.of_kind("loss") == ()


def test_a_name_belongs_to_its_own_kind_only() -> None:
    other = Entry("callback", "mlp", "acme_plugins:C", "acme-plugins", "1.2")
    assert Catalog([ACME, other]).find("callback", "mlp") is other
    with pytest.raises(LookupError, match="known: 'linear', 'mlp'"):
        Catalog([ACME, LINEAR, ADAM]).find("model", "zzzzzz")


def test_an_unknown_name_is_an_error_with_the_nearest_one() -> None:
    with pytest.raises(LookupError, match=r"did you mean 'linear'\?"):
        Catalog([ACME, LINEAR]).find("model", "lineal")
    with pytest.raises(LookupError, match="none are known here"):
        Catalog([ACME]).find("data", "csv")


def test_ambiguous_model_name_is_an_error_naming_both_distributions() -> None:
    with pytest.raises(PluginError) as caught:
        Catalog([ZETA, ACME]).find("model", "mlp")
    assert str(caught.value) == (
        "model 'mlp' is offered by acme-plugins 1.2 and zeta 0.1\n"
        "  = use the full name: 'acme-plugins/mlp' or 'zeta/mlp'"
    )
    assert caught.value.plugin == "model 'mlp'"


def test_a_qualified_name_is_never_ambiguous() -> None:
    catalog = Catalog([ZETA, ACME])
    assert catalog.find("model", "zeta/mlp") is ZETA
    assert catalog.find("model", "acme-plugins/mlp") is ACME
    with pytest.raises(LookupError, match=r"did you mean 'zeta/mlp'\?"):
        catalog.find("model", "zeto/mlp")


def test_a_qualified_name_may_be_used_even_if_the_plain_one_is_unambiguous() -> None:
    assert Catalog([ACME]).find("model", "acme-plugins/mlp") is ACME


def test_names_are_those_a_config_can_use_so_ambiguous_ones_are_qualified() -> None:
    assert Catalog([ZETA, ACME, LINEAR]).names("model") == ["linear", "acme-plugins/mlp", "zeta/mlp"]


# ---- installed distributions -----------------------------------------------------------------------------------------


def test_hookline_itself_is_installed_with_its_plugins_and_defaults() -> None:
    catalog = Catalog.installed()
    assert {"synthetic-linear", "linear", "mse", "sgd", "progress"} <= {entry.name for entry in catalog.entries}
    assert catalog.default("run")["model"] == {"use": "linear"}
    assert catalog.default("terminal") == {"callbacks": {"progress": {}}}


def test_installed_plugins_are_found_without_importing_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "acme_boom.py").write_text("raise SystemExit('imported')")
    write_distribution(tmp_path, "acme-boom", "[hookline.model]\nboom = acme_boom:Boom\n", version="2.5")
    monkeypatch.syspath_prepend(tmp_path)
    assert found(Catalog.installed(), "acme-boom") == ["model 'boom' (acme-boom 2.5)"]
    assert "acme_boom" not in sys.modules


def test_groups_of_other_kinds_and_of_other_programs_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "[console_scripts]\nacme = a:b\n[hookline.gadget]\nx = a:b\n[hookline.loss]\ny = a:b\n[pytest11]\nz = a:b\n"
    write_distribution(tmp_path, "acme-odd", text)
    monkeypatch.syspath_prepend(tmp_path)
    assert found(Catalog.installed(), "acme-odd") == ["loss 'y' (acme-odd 1.0)"]


def test_only_hooklines_own_distribution_declares_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Catalog.installed().default("run")
    write_distribution(tmp_path, "acme-defaults", "[hookline.defaults]\nrun = pathlib:Path\nmore = pathlib:Path\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert Catalog.installed().default("run") == before
    with pytest.raises(KeyError):
        Catalog.installed().default("more")


def test_of_two_copies_of_a_distribution_the_first_on_the_path_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_distribution(tmp_path / "old", "Acme.Twice", "[hookline.model]\nx = a:b\nold = a:b\n", version="1.0")
    write_distribution(tmp_path / "new", "acme-twice", "[hookline.model]\nx = a:b\n", version="2.0")
    monkeypatch.syspath_prepend(tmp_path / "old")
    monkeypatch.syspath_prepend(tmp_path / "new")
    assert found(Catalog.installed(), "Acme.Twice", "acme-twice") == ["model 'x' (acme-twice 2.0)"]


@pytest.mark.parametrize(
    ("entry_points", "metadata", "problem"),
    [
        ("[hookline.model]\nno equals sign\n", "", "are damaged"),
        ("[hookline.model]\nx = a:b\n", "Metadata-Version: 2.1\nVersion: 1.0\n", "the field Name is missing"),
    ],
)
def test_damaged_metadata_is_a_problem_with_its_path_and_affects_no_other_distribution(
    entry_points: str, metadata: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = write_distribution(tmp_path, "acme-bad", entry_points, metadata=metadata)
    write_distribution(tmp_path, "acme-good", "[hookline.model]\nx = a:b\n")
    monkeypatch.syspath_prepend(tmp_path)
    catalog = Catalog.installed()
    (text,) = catalog.problems
    assert text.startswith(f"the metadata at {info} are damaged, so its plugins are ignored: ")
    assert problem in text
    assert found(catalog, "acme-bad", "acme-good") == ["model 'x' (acme-good 1.0)"]


def test_a_distribution_without_a_version_is_listed_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_distribution(tmp_path, "acme-new", "[hookline.model]\nx = a:b\n", metadata="Metadata-Version: 2.1\nName: n\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert found(Catalog.installed(), "n") == ["model 'x' (n)"]


# ---- rules -----------------------------------------------------------------------------------------------------------


def test_distributions_are_denied_by_any_spelling_and_the_error_names_the_rule() -> None:
    catalog = Catalog([ACME, ZETA, ADAM]).restricted(deny=["ACME_plugins"], by="plugins.{}")
    assert [entry.blocked_by for entry in catalog.entries] == ["plugins.deny", "", "plugins.deny"]
    with pytest.raises(PluginError) as caught:
        catalog.find("optimizer", "adam")
    assert str(caught.value) == (
        "optimizer 'adam' (acme-plugins 1.2) may not be used: plugins.deny forbids acme-plugins\n"
        "  = if you trust acme-plugins, remove it from plugins.deny"
    )
    assert (caught.value.plugin, caught.value.distribution, caught.value.version) == (
        "optimizer 'adam'",
        "acme-plugins",
        "1.2",
    )


def test_only_allowed_plugins_and_hooklines_own_may_be_used() -> None:
    own = Entry("loss", "mse", "hookline_plugins.losses.regression:MSE", "hookline", "0.1.0")
    catalog = Catalog([ACME, ZETA, own]).restricted(allow=["zeta"], by="--{}")
    assert catalog.find("model", "mlp").distribution == "zeta"
    assert catalog.find("loss", "mse") == own
    with pytest.raises(PluginError, match="--allow forbids acme-plugins") as caught:
        catalog.find("model", "acme-plugins/mlp")
    assert caught.value.hint == "if you trust acme-plugins, add it to --allow"
    nothing_allowed = Catalog([ZETA]).restricted(allow=[], by="plugins.{}")
    assert nothing_allowed.entries[0].blocked_by == "plugins.allow"


def test_denying_one_of_two_that_offer_a_name_leaves_the_other() -> None:
    catalog = Catalog([ACME, ZETA]).restricted(deny=["zeta"], by="plugins.{}")
    assert catalog.find("model", "mlp") == ACME
    assert catalog.names("model") == ["mlp"]


def test_two_rules_apply_together() -> None:
    catalog = Catalog([ACME, ZETA]).restricted(allow=["acme-plugins"], by="--{}")
    catalog = catalog.restricted(allow=["zeta"], by="plugins.{}")
    assert [entry.blocked_by for entry in catalog.entries] == ["plugins.allow", "--allow"]


def test_adding_entries_does_not_change_the_first_catalog() -> None:
    first = Catalog([ACME])
    assert first.with_entries([ADAM]).entries == (ACME, ADAM)
    assert first.entries == (ACME,)


def test_an_entry_makes_errors_that_name_it() -> None:
    error = ACME.error("it is broken", hint="mend it")
    assert (error.message, error.hint) == ("it is broken", "mend it")
    assert (error.plugin, error.distribution, error.version) == ("model 'mlp'", "acme-plugins", "1.2")
